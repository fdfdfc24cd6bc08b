"""LSKD, WTTM, DeiT and `standardise`: slow formulas, limits, precision, company, and what is refused."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from ofa_learn.data import digits, split
from ofa_learn.logits import dkd_loss
from ofa_learn.losses import kd_loss, ofa_loss, standardised
from ofa_learn.models import make_model
from ofa_learn.more_logits import wttm_loss
from ofa_learn.multilabel import multilabel_task
from ofa_learn.tasks import Teacher, check_options, create_task
from ofa_learn.teachers import Answers
from ofa_learn.training import fit

DATA = split(digits(), train=60)
X, Y = DATA.norm(DATA.train.images[:8]), DATA.train.labels[:8]
same = torch.testing.assert_close
SMALL = dict(patch_size=4, embed_dim=64, depth=2, num_heads=4, mlp_ratio=2)


def logits(seed, b=6, k=5, scale=3.0):
    return torch.randn(b, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def gradient(loss, z):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(loss(z).sum(), z)[0]


def make(method, student='micro_vit', teacher='micro_resnet', **options):
    torch.manual_seed(0)
    teacher = make_model(teacher) if isinstance(teacher, str) else teacher
    return create_task(method, student, teacher, **(dict(input_size=(1, 8, 8), num_classes=10) | options))


def two_headed(**more):
    torch.manual_seed(0)
    return make_model('deit_tiny_distilled_patch16_224', 10, (1, 8, 8), **SMALL | more)


def slow_softmax(z):
    e = [math.exp(v - max(z)) for v in z]
    return [v / sum(e) for v in e]


def slow_unit(z):
    mean = sum(z) / len(z)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in z) / (len(z) - 1))
    return [(v - mean) / (1e-7 + deviation) for v in z]


def slow_lskd(s, t, T):
    "Image by image in Python's own floats."
    total = 0.0
    for a, b in zip(s.tolist(), t.tolist()):
        q, p = (slow_softmax([v / T for v in slow_unit(z)]) for z in (a, b))
        total += T * T * sum(u * math.log(u / v) for u, v in zip(p, q))
    return total / len(s)


def slow_wttm(s, t, g):
    total = 0.0
    for a, b in zip(s.tolist(), t.tolist()):
        q, power = slow_softmax(a), [u**g for u in slow_softmax(b)]
        w = sum(power)
        total += w * sum(u / w * math.log(u / w / v) for u, v in zip(power, q))
    return total / len(s)


def standardised_kd(student_logits, teacher_logits, **how):
    return kd_loss(standardised(student_logits), standardised(teacher_logits), **how)


# --- standardised logits


@pytest.mark.parametrize('T', [1.0, 2.0, 8.0])
def test_standardised_kd_by_hand(T):
    s, t = logits(0), logits(1)
    loss = kd_loss(standardised(s), standardised(t), temperature=T)
    assert loss.item() == pytest.approx(slow_lskd(s, t, T), rel=1e-9)


def test_size_and_shift_are_gone_and_the_order_stays():
    z = logits(0)
    same(standardised(5 * z + 3), standardised(z), atol=1e-6, rtol=1e-6)
    assert torch.equal(standardised(z).argsort(1), z.argsort(1))
    same(standardised(z).mean(1), torch.zeros(6, dtype=torch.float64))
    same(standardised(z).std(1), torch.ones(6, dtype=torch.float64), atol=1e-6, rtol=0)
    assert torch.autograd.gradcheck(standardised, z.requires_grad_())
    assert torch.autograd.gradgradcheck(standardised, z)


def test_the_limit_of_a_high_temperature_is_a_correlation():
    s, t = logits(0), logits(1)
    rho = torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s, t)])
    same(
        kd_loss(standardised(s), standardised(t), temperature=1e4), 0.8 * (1 - rho).mean(), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize('value', [0.0, 7.0, -1e4])
def test_equal_logits_give_zero_and_a_gradient_of_usual_size(value):
    "Divided by ε alone it would be ten million times as large; a mixer's classifier begins with zeros."
    z = torch.full((3, 5), value)
    assert standardised(z).abs().max() < 1e-2
    g = gradient(lambda z: kd_loss(standardised(z), standardised(logits(1, 3).float())), z)
    assert g.isfinite().all() and 1e-3 < g.abs().max() < 1
    first = make('lskd', 'micro_mixer', label_weight=0.0)
    first(X, Y)['loss'].backward()
    assert max(p.grad.abs().max() for p in first.student.parameters() if p.grad is not None) < 1e3


def test_a_masked_class_is_as_if_it_were_not_there():
    kept = [0, 1, 3, 4]
    s, t = (logits(seed).index_fill(1, torch.tensor([2]), -torch.inf) for seed in (0, 1))
    for loss in (standardised_kd, wttm_loss):
        same(loss(s, t), loss(s[:, kept], t[:, kept]))
        g = gradient(partial(loss, teacher_logits=t), s)
        assert g.isfinite().all() and not g[:, 2].any()
    for value in (float('nan'), float('inf')):
        s[0, 1] = value
        assert not kd_loss(standardised(s), standardised(t)).isfinite()
        assert not wttm_loss(s, t).isfinite()


@pytest.mark.parametrize('method', ['kd', 'dkd', 'ofa'])
def test_standardise_is_an_option_of_these(method):
    plain, option = make(method).eval(), make(method, standardise=True).eval()
    a, b = plain(X, Y), option(X, Y)
    names = set(a) - {'loss', 'output', 'ce'}
    assert all(a[k] != b[k] for k in names) and torch.equal(a['output'], b['output'])
    z_s, z_t = a['output'], option.answers(X).logits
    if method == 'kd':
        want = 0.9 * kd_loss(standardised(z_s), standardised(z_t), temperature=4.0)
    elif method == 'dkd':
        want = 0.05 * dkd_loss(standardised(z_s), standardised(z_t), Y)
    else:
        want = ofa_loss(z_s, standardised(z_t), Y, gamma=1.4)
    same(b['final' if method == 'ofa' else method], want)


def test_lskd_is_kd_with_the_option():
    own = dict(temperature=2.0, label_weight=0.1, kd_weight=9.0)
    a, b = make('lskd').eval()(X, Y), make('kd', standardise=True, **own).eval()(X, Y)
    assert all(torch.equal(a[k], b[k]) for k in ('ce', 'kd', 'loss'))


def test_the_surest_teacher_is_not_as_sure_when_standardised():
    for k in (3, 10, 100):
        z = torch.eye(k, dtype=torch.float64)[:1]
        for size in (1.0, 100.0):
            same(standardised(size * z).max().item(), (k - 1) / k**0.5, rtol=1e-5, atol=0)


TWO = [("lskd", {}), ("kd", dict(standardise=True)), ("ofa", dict(standardise=True)), ("dkd", {})]


@pytest.mark.parametrize("method, options", TWO)
def test_two_classes_are_not_standardised(method, options):
    "Two standardised logits are ±1/√2 for every image: no gradient, whatever the teacher says."
    z = logits(0, k=2)
    same(standardised(z).abs(), torch.full_like(z, 0.5**0.5))
    assert gradient(lambda z: kd_loss(standardised(z), standardised(logits(1, k=2))), z).abs().max() < 1e-6
    with pytest.raises(ValueError, match='at least 3 classes, got 2'):
        make(method, make_model('micro_vit', 2), make_model('micro_resnet', 2), num_classes=2, **options)
    make(method, make_model('micro_vit', 3), make_model('micro_resnet', 3), num_classes=3, **options)


# --- a flattened teacher


@pytest.mark.parametrize('g', [0.05, 0.2, 1.0, 1.7])
def test_wttm_by_hand(g):
    s, t = logits(0), logits(1)
    assert wttm_loss(s, t, gamma=g).item() == pytest.approx(slow_wttm(s, t, g), rel=1e-9)
    each = wttm_loss(s, t, gamma=g, reduction='none')
    same(each.mean(), wttm_loss(s, t, gamma=g))
    same(each.sum(), wttm_loss(s, t, gamma=g, reduction='sum'))
    same(wttm_loss(torch.stack([s, 2 * s]), t, gamma=g)[0], wttm_loss(s, t, gamma=g))


@pytest.mark.parametrize('g', [0.1, 0.5, 1.0])
def test_wttm_has_the_gradient_of_the_released_form_without_its_target_term(g):
    s, t = logits(0), logits(1)

    def released(z):
        return -(t.softmax(1) ** g * z.log_softmax(1)).sum(1)

    same(gradient(lambda z: wttm_loss(z, t, gamma=g, reduction='sum'), s), gradient(released, s))
    power = t.softmax(1) ** g
    same(gradient(released, s), power.sum(1, keepdim=True) * s.softmax(1) - power)


def test_the_limits_of_wttm():
    s, t = logits(0), logits(1)
    same(wttm_loss(s, t, gamma=1.0), kd_loss(s, t))
    same(wttm_loss(s, t, gamma=1e-9), 5 * kd_loss(s, torch.zeros_like(t)))  # uniform, K times
    same(wttm_loss(0.3 * t, t, gamma=0.3), torch.zeros((), dtype=torch.float64))  # the flat answer itself
    sure = torch.tensor([[1e4, 0.0, 0.0]])
    same(wttm_loss(torch.zeros(1, 3), sure), torch.tensor(math.log(3)))  # w = 1
    assert torch.autograd.gradcheck(lambda z: wttm_loss(z, t), s.requires_grad_())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halves_give_a_finite_float32_and_autocast_changes_nothing(dtype):
    s, t = (1e4 * logits(seed, scale=1.0).to(dtype) for seed in (0, 1))
    out = wttm_loss(s, t)
    assert out.dtype == torch.float32 and out.isfinite()
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(wttm_loss(s, t), out)
    task = make('lskd').to(dtype) if dtype == torch.bfloat16 else None
    assert task is None or task(X.to(dtype), Y)['kd'].dtype == torch.float32


# --- two heads


def test_deit_by_hand_on_a_student_with_two_heads():
    student = two_headed()
    task = make('deit', student).eval()
    assert task.trainable_module.heads is None and task.student_taps.heads == 2
    out = task(X, Y)
    tokens = student.forward_features(X)
    z_class, z_dist = student.head(tokens[:, 0]), student.head_dist(tokens[:, 1])
    says = task.answers(X).logits.argmax(1)
    same(out['ce'], 0.5 * F.cross_entropy(z_class, Y))
    same(out['kd'], 0.5 * F.cross_entropy(z_dist, says))
    same(out['output'], (z_class + z_dist) / 2)
    same(student(X), out['output'])  # what is exported answers with the mean
    out['loss'].backward()
    unused = [n for n, p in student.named_parameters() if p.grad is None]
    assert not unused
    soft = make('deit', student, hard=False, temperature=2.0).eval()
    same(soft(X, Y)['kd'], 0.5 * kd_loss(z_dist, task.answers(X).logits, temperature=2.0))


def test_deit_on_a_student_with_one_head():
    task = make('deit').eval()
    out = task(X, Y)
    second = task.trainable_module.heads.head_dist
    z = second(task.student.forward_head(task.student.forward_features(X), pre_logits=True))
    same(out['kd'], 0.5 * F.cross_entropy(z, task.answers(X).logits.argmax(1)))
    same(out['ce'], 0.5 * F.cross_entropy(task.student(X), Y))
    assert set(task.student.state_dict()) == set(make_model('micro_vit').state_dict())


def test_both_heads_of_levit_are_found():
    student = make_model('levit_128s', 10, (3, 224, 224))
    task = make('deit', student, make_model('micro_resnet', 10, (3, 224, 224)), input_size=(3, 224, 224))
    x = torch.randn(2, 3, 224, 224)
    was = student.head.bn.num_batches_tracked.item()
    task.train()(x, Y[:2])
    assert student.head.bn.num_batches_tracked == was + 1  # each head runs once a step
    assert task.trainable_module.heads is None


PAIRS = [
    ('efficientvim_m1', 64, {}, 1),  # one for each stage, weighed
    ('crossvit_9_240', 240, {}, 1),  # one for each branch
    ('repvit_m0_9', 64, dict(distillation=False), 1),
    ('repvit_m0_9', 64, dict(distillation=True), 2),
]


@pytest.mark.parametrize('name, size, more, heads', PAIRS)
def test_several_classifiers_are_a_pair_only_where_one_is_the_teachers(name, size, more, heads):
    size = (3, size, size)
    student = make_model(name, 10, size, **more)
    task = make('deit', student, make_model('micro_resnet', 10, size), input_size=size)
    assert task.student_taps.heads == heads and (task.trainable_module.heads is None) == (heads == 2)
    x = torch.randn(2, *size)
    out = task.train()(x, Y[:2])
    assert out['loss'].isfinite()
    features, _ = task.eval().trainable_module(x, None)
    assert len(features.heads) == (2 if heads == 2 else 0)
    same(features.logits, student(x), atol=1e-5, rtol=1e-5)
    if heads == 2:
        same(features.heads[0], student.head.head(features.pooled), atol=1e-5, rtol=1e-5)
        same(features.heads[1], student.head.head_dist(features.pooled), atol=1e-5, rtol=1e-5)


def test_a_pair_that_cannot_be_told_apart_is_refused():
    size = (3, 64, 64)
    student = make_model('efficientvim_m1_dist', 10, size)
    with pytest.raises(ValueError, match='deit cannot teach them apart; use kd'):
        make('deit', student, make_model('micro_resnet', 10, size), input_size=size)


def repvit():
    torch.manual_seed(0)
    return make_model('repvit_m0_9', 10, (1, 32, 32))


@pytest.mark.filterwarnings('ignore:rsd. a batch')
@pytest.mark.parametrize('method', ['labels', 'kd', 'deit', 'rsd'])
@pytest.mark.parametrize('build, size', [(two_headed, (1, 8, 8)), (repvit, (1, 32, 32))])
def test_the_switch_of_distilled_training_changes_nothing(method, build, size):
    x, y = torch.randn(4, *size), Y[:4]
    switched = build()
    switched.set_distilled_training(True)
    assert isinstance(switched.train()(x), tuple)
    switched.load_state_dict(build().state_dict())
    teacher = make_model('micro_resnet', 10, size)
    outs = []
    for student in (build(), switched):
        torch.manual_seed(1)
        outs.append(create_task(method, student, teacher, input_size=size, num_classes=10).train()(x, y))
    assert all(torch.equal(value, outs[1][k]) for k, value in outs[0].items())


class Auxiliary(torch.nn.Module):
    "Gives more than logits while it trains, as Inception does."

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    def forward(self, x):
        z = self.body(x)
        return (z, z) if self.training else z


def test_other_pairs_of_answers_are_refused_by_name():
    with pytest.raises(ValueError, match='student: expected logits .* while it trains, got tuple'):
        make('kd', Auxiliary()).train()(X, Y)


@pytest.mark.parametrize('teacher', ['micro_resnet', 'micro_vit', 'micro_mixer'])
def test_a_student_with_two_heads_learns(teacher):
    torch.manual_seed(0)
    task = create_task('deit', two_headed(), make_model(teacher), data=DATA)
    how = dict(lr=4e-3, eval_every=30, device='cpu', progress=False)
    first, *_, last = fit(task, DATA, 30, **how)
    assert last['losses']['ce'] < 0.5 * first['losses']['ce'] and last['losses']['kd'] < first['losses']['kd']


def test_images_without_a_label_are_heard_by_the_teachers_head():
    task, lacking = make('deit').eval(), torch.full_like(Y, -1)
    out = task(X, lacking)
    assert out['ce'] == 0 and torch.equal(out['kd'], task(X, Y)['kd'])


@pytest.mark.parametrize('method, options', [('deit', {}), ('kd', dict(hard=True))])
def test_a_decision_must_be_one(method, options):
    task = make(method, **options).eval()
    z_t = task.answers(X).logits
    whole = task(X, Y, Answers(z_t))
    own = task.trainable_module.heads
    z = task.student(X)
    if own is not None:
        z = own.head_dist(task.student.forward_head(task.student.forward_features(X), pre_logits=True))
    assert torch.equal(whole['kd'], 0.5 * F.cross_entropy(z, z_t.argmax(1)))
    masked = task(X, Y, Answers(z_t.index_fill(1, (z_t.sum(0).argmin())[None], -torch.inf)))
    assert masked['kd'].isfinite()
    for row in (torch.full((10,), -torch.inf), z_t[0].index_fill(0, torch.tensor([3]), torch.nan)):
        out = task(X, Y, Answers(torch.cat([row[None], z_t[1:]])))
        assert out['kd'].isnan() and out['ce'].isfinite()
    with pytest.raises(ValueError, match='teacher_logits: 20 classes, but student_logits has 10'):
        task(X, Y, Answers(torch.randn(8, 20)))
    one = make_model('micro_vit', 1), make_model('micro_resnet', 1)
    with pytest.raises(ValueError, match='expected at least 2 classes, got 1'):
        make(method, *one, num_classes=None, **options)(X, torch.zeros(8, dtype=torch.long))


# --- in company, and what is refused


def test_in_company_the_labels_count_once():
    out = make('lskd+wttm+deit')(X, Y)
    assert {k for k in out if k.endswith('_ce')} == {'lskd_ce'}
    assert {'lskd_kd', 'wttm_wttm', 'deit_kd'} <= set(out)
    joined = make('deit+rsd', two_headed())
    assert {'deit_ce', 'deit_kd', 'rsd_rsd'} <= set(joined(X.repeat(20, 1, 1, 1), Y.repeat(20)))


@pytest.mark.parametrize('method', ['kd+deit', 'labels+deit', 'ofa+deit', 'deit+ofa'])
def test_labels_go_to_one_head_or_it_is_refused(method):
    "Elsewhere they would be taught to the mean of both heads, and `deit_ce` be lost."
    with pytest.raises(ValueError, match='method: deit teaches the labels to one head'):
        make(method, two_headed())
    assert torch.isfinite(make(method)(X, Y)['loss'])  # one head of its own, which the labels teach anyway


def test_two_heads_are_taught_by_others_behind_deit():
    own = dict(ofa=dict(form='released'))
    joined = make('deit+kd+ofa', two_headed(), options_of=own).eval()
    out = joined(X, Y)
    assert {k for k in out if k.endswith('_ce')} == {'deit_ce'}
    same(out['deit_ce'], make('deit', two_headed()).eval()(X, Y)['ce'])


REFUSED = [
    ('kd', dict(hard=True, standardise=True), ValueError, 'standardise: hard=True'),
    ('kd', dict(hard=True, temperature=2.0), ValueError, 'temperature: .* hard=True has none'),
    ('kd', dict(hard=True, setting='ofa_paper'), ValueError, 'setting: hard=True has weights of its own'),
    ('kd', dict(hard='yes'), TypeError, 'hard: expected True or False'),
    ('kd', dict(standardise='yes'), TypeError, 'standardise: expected True or False'),
    ('dkd', dict(standardise=2), TypeError, 'standardise: expected True'),
    ('ofa', dict(standardise=None), TypeError, 'standardise: expected True'),
    ('dist', dict(standardise=True), TypeError, "no option 'standardise'"),
    ('lskd', dict(temperature=0), ValueError, 'temperature: expected'),
    ('lskd', dict(kd_weight=-1), ValueError, 'kd_weight: expected'),
    ('wttm', dict(gamma=0), ValueError, 'gamma: expected'),
    ('wttm', dict(weight=-1), ValueError, 'weight: expected'),
    ('deit', dict(hard='yes'), TypeError, 'hard: expected True or False'),
    ('deit', dict(hard=1), TypeError, 'hard: expected True or False'),
    ('deit', dict(temperature=2.0), ValueError, 'temperature: .* hard=True has none'),
    ('deit', dict(hard=False, temperature=0.0), ValueError, 'temperature: expected'),
    (
        'deit',
        dict(student=torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))),
        ValueError,
        'taps',
    ),
]


@pytest.mark.parametrize('method, options, error, says', REFUSED)
def test_what_is_refused(method, options, error, says):
    with pytest.raises(error, match=says):
        make(method, **options)


@pytest.mark.parametrize(
    'how, says',
    [
        (dict(gamma=-1), 'gamma: expected'),
        (dict(reduction='most'), 'reduction: expected'),
        (dict(teacher_logits=logits(1, k=4)), 'logits'),
    ],
)
def test_the_loss_refuses_by_name(how, says):
    with pytest.raises(ValueError, match=says):
        wttm_loss(**dict(student_logits=logits(0), teacher_logits=logits(1)) | how)


def test_one_class_is_no_choice():
    with pytest.raises(ValueError, match='classes'):
        wttm_loss(torch.zeros(3, 1), torch.zeros(3, 1))
    one = make_model('micro_vit', 1)
    with pytest.raises(ValueError, match='class'):
        make('wttm', one, make_model('micro_resnet', 1), num_classes=1)(X, torch.zeros(8, dtype=torch.long))


def test_several_labels_are_not_standardised():
    for method in ('lskd', 'wttm', 'deit'):
        with pytest.raises(ValueError, match=f'method: {method} does not take several labels'):
            multilabel_task(method, 'micro_vit', make_model('micro_resnet'), input_size=(1, 8, 8))
    with pytest.raises(ValueError, match='standardise: it measures classes by one another'):
        multilabel_task(
            'kd', 'micro_vit', Teacher(make_model('micro_resnet')), input_size=(1, 8, 8), standardise=True
        )


@pytest.mark.parametrize('method, options, error, says', REFUSED[:-1])
def test_options_are_refused_before_a_network_is_built(method, options, error, says):
    with pytest.raises(error, match=says):
        check_options(method, options)
    with pytest.raises(error, match=says):
        check_options(f'{method}+rsd', dict(options_of={method: options}))
