"""Hint methods: what lesson 60 does not show.

All pairs, slow formulas, mixed precision, resume, larger models, bad input.
"""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from ofa_learn.data import digits, split
from ofa_learn.hints import (
    _ABF,
    Aligner,
    _Margins,
    _paired_with,
    _resized,
    _stage_pairs,
    _tap_origins,
    _TapOrigin,
    fitnet_loss,
    hcl_loss,
    margin,
    margin_relu,
    ofd_loss,
)
from ofa_learn.models import find_taps, make_model
from ofa_learn.tasks import Teacher, create_task
from ofa_learn.training import distill

MICRO, HINTS = ('micro_resnet', 'micro_vit', 'micro_mixer'), ('fitnet', 'ofd', 'reviewkd')
DATA = split(digits(), train=100)
X, Y = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)
SHAPES = [(1, 1), (2, 2), (3, 5), (4, 4), (7, 7), (8, 6)]


def make(method, student='micro_vit', teacher='micro_resnet', **options):
    torch.manual_seed(0)
    teacher = make_model(teacher) if isinstance(teacher, str) else teacher
    return create_task(method, student, teacher, **(dict(input_size=(1, 8, 8), num_classes=10) | options))


def moved(model, seed=0):
    "Batch norms as training leaves them."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                for v, low, high in (
                    (m.weight, 0.5, 1.5),
                    (m.bias, -0.5, 0.5),
                    (m.running_mean, -0.1, 0.1),
                    (m.running_var, 0.5, 1.5),
                ):
                    v.copy_(torch.rand(v.shape, generator=g) * (high - low) + low)
    return model


def maps(h, w, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, h, w, generator=g, dtype=dtype), torch.randn(
        2, 3, h, w, generator=g, dtype=dtype
    )


# ---- slow formulas, a sample and a number at a time


def slow_fitnet(s, t):
    return float(
        np.mean([sum((a - b) ** 2 for a, b in zip(p.ravel(), q.ravel())) / p.size for p, q in zip(s, t)])
    )


def slow_ofd(s, t, m):
    total = 0.0
    for n, c, i, j in np.ndindex(*s.shape):
        target = max(t[n, c, i, j], m[c])
        if s[n, c, i, j] <= target <= 0:
            continue
        total += (target - s[n, c, i, j]) ** 2
    return total / len(s)


def slow_hcl(s, t):
    def pool(a, l):
        out = np.zeros((len(a), l, l))
        for k, i, j in np.ndindex(*out.shape):
            h, w = a.shape[1:]
            out[k, i, j] = a[
                k,
                math.floor(i * h / l) : math.ceil((i + 1) * h / l),
                math.floor(j * w / l) : math.ceil((j + 1) * w / l),
            ].mean()
        return out

    per_sample = []
    for p, q in zip(s, t):
        terms, weights = [np.mean((p - q) ** 2)], [1.0]
        for l in (4, 2, 1):
            if l < min(p.shape[1:]):
                terms.append(np.mean((pool(p, l) - pool(q, l)) ** 2))
                weights.append(weights[-1] / 2)
        per_sample.append(np.dot(weights, terms) / sum(weights))
    return float(np.mean(per_sample))


@pytest.mark.parametrize('h, w', SHAPES)
@pytest.mark.parametrize('seed', range(2))
def test_losses_equal_slow_formulas(h, w, seed):
    s, t = maps(h, w, seed)
    m = -torch.rand(3, dtype=torch.float64)
    a, b = s.numpy(), t.numpy()
    assert fitnet_loss(s, t).item() == pytest.approx(slow_fitnet(a, b), rel=1e-12)
    assert ofd_loss(s, t, m).item() == pytest.approx(slow_ofd(a, b, m.numpy()), rel=1e-12)
    assert hcl_loss(s, t).item() == pytest.approx(slow_hcl(a, b), rel=1e-12)


def test_equal_maps_cost_nothing():
    s, _ = maps(5, 5)
    assert fitnet_loss(s, s) == 0 and hcl_loss(s, s) == 0 and ofd_loss(s, s, -torch.rand(3)) == 0


@pytest.mark.parametrize(
    'beta, gamma', [(0.0, 1.0), (0.7, 1.0), (-1.5, 0.3), (2.0, -1.0), (-0.2, 2.0), (3.0, 1.0)]
)
def test_margin_equals_the_integral(beta, gamma):
    x = np.linspace(beta - 12 * abs(gamma) - 12, 0, 2_000_001)
    density = np.exp(-(((x - beta) / gamma) ** 2) / 2)
    assert margin(torch.tensor([gamma]).double(), torch.tensor([beta]).double()).item() == pytest.approx(
        (x * density).sum() / density.sum(), rel=1e-4
    )


def test_margin_is_finite_and_not_positive_everywhere():
    weight = torch.tensor([0.0, 0, 0, 1e-20, 1, 1, 1e-3, 5e4])
    bias = torch.tensor([1.0, -1, 0, 3, 60, -60, 1e4, 1e-3])
    m = margin(weight, bias)
    assert m.isfinite().all() and (m <= 0).all() and m[1] == pytest.approx(-1) and m[5] == pytest.approx(-60)
    assert m[4] == pytest.approx(-1 / 60, rel=1e-2)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('loss', [fitnet_loss, hcl_loss, lambda s, t: ofd_loss(s, t, -torch.rand(3))])
def test_half_inputs_are_computed_in_float32(loss, dtype):
    s, t = (500 * x.to(dtype) for x in maps(8, 8, dtype=torch.float32))
    s.requires_grad_()
    out = loss(s, t)
    out.backward()
    assert out.dtype == torch.float32 and out.isfinite() and s.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    s, t = maps(5, 3)
    s.requires_grad_()
    m = torch.tensor([-0.3, -0.8, -1e-3], dtype=torch.float64)
    for loss in (fitnet_loss, hcl_loss, lambda a, b: ofd_loss(a, b, m)):
        assert torch.autograd.gradcheck(loss, (s, t))


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda s, t: fitnet_loss(s, t[:, :2]), 'shape of the student'),
        (lambda s, t: hcl_loss(s[0], t[0]), r'student: expected a float tensor \(B, C, H, W\)'),
        (lambda s, t: hcl_loss(s, t.long()), 'teacher: expected a float tensor'),
        (lambda s, t: fitnet_loss(s, t.numpy()), 'teacher: expected a tensor'),
        (lambda s, t: ofd_loss(s, t, torch.zeros(2)), 'one for each of the 3 channels'),
        (lambda s, t: margin(torch.ones(3), torch.ones(2)), 'one shape'),
    ],
)
def test_losses_refuse_bad_input(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call(*maps(4, 4))


# ---- pairs and aligners


def test_pairs_are_in_order_and_end_at_the_end():
    for n_s in range(1, 9):
        for n_t in range(1, 9):
            js = [_paired_with(i, n_s, n_t) for i in range(1, n_s + 1)]
            assert js == sorted(js) and js[0] >= 1 and js[-1] == n_t
            if n_s == n_t:
                assert js == list(range(1, n_s + 1))


def test_different_numbers_of_stages():
    student, teacher = make_model('micro_vit'), make_model('micro_vit', depth=2)
    pairs = _stage_pairs(find_taps(student, (1, 8, 8)), find_taps(teacher, (1, 8, 8)))
    assert [(s.number, t.number) for s, t in pairs] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    for method in HINTS:
        for a, b in ((student, teacher), (teacher, student)):
            assert make(method, copy.deepcopy(a).requires_grad_(True), b)(X, Y)['loss'].isfinite()


def test_same_shapes_give_the_original_hint():
    task = make('fitnet', 'micro_resnet', setting='ofa_paper').eval()
    assert not list(task.trainable_module.heads.parameters())
    f, t = task.trainable_module(X, task.answers(X))[0].stages, task.answers(X).maps
    out = task(X, Y)
    for i in range(4):
        torch.testing.assert_close(out[f'hint_{i + 1}'], F.mse_loss(f[i], t[i]))
    x = torch.randn(2, 4, 3, 3)
    assert _resized(x, (3, 3)) is x and Aligner(4, 4)(x, (3, 3)) is x


def test_abf_is_its_formula():
    abf, x, r = _ABF(4, 6, 5).eval(), torch.randn(2, 4, 4, 4), torch.randn(2, 6, 2, 2)
    out, fused = abf(x, r, (4, 4))
    z, up = abf.reduce(x), r.repeat_interleave(2, 2).repeat_interleave(2, 3)
    a = torch.einsum('oc,bchw->bohw', abf.attend[0].weight[:, :, 0, 0], torch.cat([z, up], 1)) + abf.attend[
        0
    ].bias.view(-1, 1, 1)
    a = 1 / (1 + (-a).exp())
    torch.testing.assert_close(fused, a[:, 0:1] * z + a[:, 1:2] * up)
    torch.testing.assert_close(out, abf.expand(fused))


# ---- tasks


@pytest.mark.parametrize('method', HINTS)
@pytest.mark.parametrize('teacher', MICRO)
@pytest.mark.parametrize('student', MICRO)
def test_a_step_of_every_pair(method, teacher, student):
    task = make(method, student, teacher).train()
    out = task(X, Y)
    out['loss'].backward()
    assert out['output'].shape == (6, 10) and out['loss'].isfinite()
    torch.testing.assert_close(out['loss'], sum(v for k, v in out.items() if k not in ('loss', 'output')))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.trainable_module.parameters())
    assert any(p.grad.abs().sum() > 0 for p in task.student.parameters())
    heads = [p for p in task.trainable_module.heads.parameters()]
    assert not heads or any(p.grad.abs().sum() > 0 for p in heads)
    assert all(p.grad is None for p in task.teacher.parameters())


@pytest.mark.parametrize('method', HINTS)
def test_known_answers_and_stages_by_choice(method):
    task = make(method, stages=(2, 4)).eval()
    assert torch.equal(task(X, Y)['loss'], task(X, Y, teacher=task.answers(X))['loss'])
    assert [k for k in task(X, Y) if k.startswith('hint')] == ['hint_2', 'hint_4'] and len(
        task.trainable_module.heads.at
    ) == 2
    assert make(method, stages=3).stages == (3,)


@pytest.mark.parametrize('method', HINTS)
@pytest.mark.parametrize('student, teacher', [('micro_vit', 'micro_resnet'), ('micro_resnet', 'micro_mixer')])
def test_bf16_autocast_is_finite(method, student, teacher):
    task = make(method, student, teacher).train()
    with torch.autocast('cpu', torch.bfloat16):
        out = task(X, Y)
    out['loss'].backward()
    assert all(v.isfinite().all() for v in out.values())
    assert all(v.dtype == torch.float32 for k, v in out.items() if k.startswith('hint'))
    assert all(p.grad.isfinite().all() for p in task.trainable_module.parameters())


@pytest.mark.parametrize(
    'method, student, teacher, options',
    [
        ('fitnet', 'micro_vit', 'micro_resnet', {}),
        ('ofd', 'micro_mixer', 'micro_vit', {}),
        ('reviewkd', 'micro_resnet', 'micro_mixer', dict(warmup=0)),
    ],
)
def test_a_short_training_lowers_the_loss(method, student, teacher, options):
    torch.manual_seed(0)
    run = distill(
        method,
        student,
        make_model(teacher),
        DATA,
        4,
        **options,
        progress=False,
        warmup_epochs=0,
        device='cpu',
    )
    hints = [sum(v for k, v in row['losses'].items() if k.startswith('hint')) for row in run.history]
    assert run.history[-1]['loss'] < run.history[0]['loss'] and hints[-1] < hints[0]


def test_weights_and_settings():
    assert make('fitnet').weight == 100 and make('fitnet').stages == (2,)
    assert make('fitnet', setting='ofa_paper').weight == 1 and make('fitnet', setting='ofa_paper').stages == (
        1,
        2,
        3,
        4,
    )
    assert make('fitnet', stages='all').stages == (1, 2, 3, 4) and make(
        'fitnet', setting='ofa_paper', stages='middle'
    ).stages == (2,)
    assert make('ofd').weight == 1e-3 and make('ofd', weight=0.5).weight == 0.5
    assert (
        make(
            'ofd', 'micro_resnet', make_model('micro_resnet', 10, (1, 65, 65)), input_size=(1, 65, 65)
        ).weight
        == 1e-4
    )
    assert make('reviewkd').weight == 5 and make('reviewkd', setting='ofa_paper').weight == 1


def test_reviewkd_warms_up_and_ofd_weighs_deep_stages_most():
    task = make('reviewkd').eval()
    first = task(X, Y)['hint_1'].item()
    task.epoch = 19
    full = task(X, Y)['hint_1'].item()
    task.epoch = 50
    assert first * 20 == pytest.approx(full, rel=1e-5) and task(X, Y)['hint_1'].item() == full
    task = make('ofd', 'micro_resnet').eval()
    heads = task.trainable_module(X, task.answers(X))[1]
    out = task(X, Y)
    for i, h in enumerate(heads):
        assert out[f'hint_{i + 1}'].item() == pytest.approx(
            1e-3 * ofd_loss(*h).item() / 2 ** (3 - i), rel=1e-6
        )


@pytest.mark.parametrize('name', ['ofa+fitnet', 'kd+reviewkd', 'fitnet+ofd'])
def test_hints_combine(name):
    task = make(name).train()
    out = task(X, Y)
    out['loss'].backward()
    assert out['loss'].isfinite() and all(
        p.grad is not None and p.grad.isfinite().all() for p in task.trainable_module.parameters()
    )
    a, b = name.split('+')
    assert any(k.startswith(a) for k in out) and any(k.startswith(f'{b}_hint') for k in out)


def test_the_student_is_exported_plain_and_the_heads_compile():
    for method in HINTS:
        task = make(method).eval()
        plain = task(X, Y)['loss']
        task.compile(backend='eager')
        torch.testing.assert_close(task(X, Y)['loss'], plain)
        assert not any('hint' in k or 'heads' in k for k in task.student.state_dict())


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda: make('fitnet', setting='romero'), 'own, ofa_paper'),
        (lambda: make('ofd', setting='ofa_paper'), 'expected one of own'),
        (lambda: make('reviewkd', setting='x'), 'own, ofa_paper'),
        (lambda: make('fitnet', stages=9), r'one or more of \(1, 2, 3, 4\)'),
        (lambda: make('ofd', stages=(0,)), r'one or more of \(1, 2, 3, 4\)'),
        (lambda: make('reviewkd', stages=()), r'one or more of \(1, 2, 3, 4\)'),
        (lambda: make('fitnet', stages='first'), "'middle', 'all'"),
        (lambda: make('fitnet', weight=0), 'weight: expected a finite number above 0'),
        (lambda: make('ofd', weight=-1), 'weight: expected a finite number above 0'),
        (lambda: make('reviewkd', weight=float('nan')), 'weight: expected a finite number above 0'),
        (lambda: make('reviewkd', warmup=-1), 'warmup'),
        (lambda: create_task('fitnet', 'micro_vit', input_size=(1, 8, 8)), 'teacher: FitNet needs one'),
    ],
)
def test_bad_input(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call()


@pytest.mark.parametrize('method', HINTS)
def test_a_teacher_without_maps_names_what_would_work(method):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match='maps are needed; these methods would work: .*kd'):
        make(method, teacher=plain)
    with pytest.raises(ValueError, match='no taps'):
        make(method, student=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


# ---- OFD's margins


def test_margins_come_from_where_they_are_said_to():
    size, want = (
        (3, 64, 64),
        dict(
            resnet18=['batch norm'] * 4,
            mobilenetv2_050=['batch norm'] * 4,
            resnetv2_18=['activations'] * 4,
            convnext_atto=['activations'] * 4,
            seresnet18=['zero'] * 4,
            regnetx_002=['batch norm'] * 4,
        ),
    )
    for name, sources in want.items():
        found = _tap_origins(Teacher(moved(make_model(name, 10, size))), size)
        assert [o.source for o in found] == sources, name
        before = dict(
            mobilenetv2_050=[False] * 3 + [True], resnetv2_18=[False] * 4, convnext_atto=[False] * 4
        )
        assert [o.after_relu for o in found] == before.get(name, [True] * 4)


def test_margins_are_those_of_the_last_norm():
    size, model = (3, 64, 64), moved(make_model('resnet18', 10, (3, 64, 64)))
    for o, stage in zip(
        _tap_origins(Teacher(model), size), (model.layer1, model.layer2, model.layer3, model.layer4)
    ):
        torch.testing.assert_close(o.margins, margin(stage[-1].bn2.weight, stage[-1].bn2.bias))
    bottleneck = moved(make_model('mobilenetv2_050', 10, size))
    found = _tap_origins(Teacher(bottleneck), size)
    torch.testing.assert_close(
        found[0].margins, margin(bottleneck.blocks[1][-1].bn3.weight, bottleneck.blocks[1][-1].bn3.bias)
    )
    torch.testing.assert_close(found[3].margins, margin(bottleneck.bn2.weight, bottleneck.bn2.bias))


def test_tracing_leaves_the_teacher_as_it_was():
    teacher = Teacher(moved(make_model('micro_resnet')))
    before, state = teacher(X).logits, copy.deepcopy(teacher.state_dict())
    _tap_origins(teacher, (1, 8, 8))
    assert torch.equal(teacher(X).logits, before) and all(
        torch.equal(v, state[k]) for k, v in teacher.state_dict().items()
    )
    assert not any(m._forward_pre_hooks for m in teacher.modules())


def test_cut_values_are_put_back_at_their_expected_value():
    known = torch.tensor([-0.5, -1.0], dtype=torch.float64)
    t = torch.tensor([[0.0, 3], [2, 0]]).view(1, 2, 1, 2)
    filled, m = _Margins(2, _TapOrigin(True, known))(t)
    assert torch.equal(filled.flatten(), torch.tensor([-0.5, 3, 2, -1])) and torch.equal(m, known.float())
    same, _ = _Margins(2, _TapOrigin(False, known))(t)
    assert same is t
    before, m = torch.randn(4, 2, 3, 3), -torch.rand(2)  # had the tap been before the ReLU
    filled, _ = _Margins(2, _TapOrigin(True, m))(before.relu())
    target, paper = margin_relu(filled, m), margin_relu(before, m)
    sure = (before > 0) | (before <= m.view(-1, 1, 1))
    assert torch.equal(target[sure], paper[sure]) and ((target - paper).abs() <= -m.view(-1, 1, 1)).all()


def test_gathered_margins_freeze_and_resume():
    first = make('ofd', 'micro_resnet', 'micro_vit').train()
    gathered = first.trainable_module.heads.margins
    assert first.margin_sources == ('activations',) * 4 and gathered[0].seen == 0
    first.eval()(X, Y)
    assert gathered[0].seen == 0
    first.train()
    batches = [torch.randn(5, 1, 8, 8) for _ in range(12)]
    for b in batches[:4]:
        first(b, Y[:5])
    second = make('ofd', 'micro_resnet', 'micro_vit')
    second.teacher.load_state_dict(first.teacher.state_dict())
    second.load_checkpoint_state(
        copy.deepcopy(first.get_checkpoint_state()['state_dict']), copy.deepcopy(first.get_task_state())
    )
    second.train()
    for b in batches[4:]:
        first(b, Y[:5])
        second(b, Y[:5])
    seen = torch.cat([first.answers(b).maps[1][0] for b in batches[:10]])
    want = torch.stack([c[c < 0].mean() for c in seen.transpose(0, 1).flatten(1)])
    for task in (first, second):
        m = task.trainable_module.heads.margins[1]
        assert m.seen == m.batches == 10
        torch.testing.assert_close(m(seen)[1], want, rtol=1e-4, atol=1e-5)


def test_known_margins_are_saved():
    task = make('ofd', teacher=moved(make_model('micro_resnet'), 1))
    assert task.margin_sources == ('batch norm',) * 4
    other = make('ofd', teacher=moved(make_model('micro_resnet'), 2))
    a, b = (t.trainable_module.heads.margins[0] for t in (task, other))
    assert not torch.equal(a.total, b.total)
    other.load_task_state(task.get_task_state())
    assert torch.equal(a.total, b.total)


# ---- larger models, other sizes


@pytest.mark.parametrize(
    'student, teacher, size',
    [
        ('resnet18', 'swin_tiny_patch4_window7_224', (3, 64, 64)),
        ('deit_tiny_patch16_224', 'resnet18', (3, 64, 96)),
        ('swin_pico', 'convnext_atto', (3, 64, 64)),
    ],
)
def test_larger_models(student, teacher, size):
    student, teacher = make_model(student, 10, size), Teacher(make_model(teacher, 10, size))
    x, y = torch.randn(2, *size), torch.arange(2)
    for method in HINTS:
        task = create_task(method, student, teacher, input_size=size).train()
        out = task(x, y)
        out['loss'].backward()
        assert out['loss'].isfinite() and all(
            p.grad is not None and p.grad.isfinite().all() for p in task.trainable_module.parameters()
        )
