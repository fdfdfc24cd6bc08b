"""Labels as they are in life: unequal classes, hard answers, and targets that are none."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ofa_learn.cache import TeacherCache, cached
from ofa_learn.checkpoints import Stopped
from ofa_learn.cli_distill import named_options, not_taken, parse_options
from ofa_learn.data import Splits, _shuffled, digits, load_data, split
from ofa_learn.models import make_model
from ofa_learn.multilabel import MANY, WHY_NOT, average_precision, multilabel_task
from ofa_learn.parts import balanced_rows
from ofa_learn.tasks import DistillationTask, Teacher, all_methods, create_task
from ofa_learn.training import NotFinite, distill, fit

DATA = split(digits(), train=200)
QUIET = dict(device='cpu', progress=False)
ALL = sorted(all_methods())


def balanced_order(labels, n, seed, epoch):
    return balanced_rows(labels, n, seed, epoch, _shuffled)


def unequal(rare=2, of=20):
    "The digits with few images of 5 to 9 among the training images."
    labels = DATA.train.labels
    rows = [(labels == c).nonzero()[: rare if c > 4 else of, 0] for c in range(10)]
    return Splits(DATA.train.take(torch.cat(rows)), DATA.valid, DATA.test, DATA.norm)


@pytest.fixture(autouse=True)
def no_noise():
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='rsd: a batch')
        yield


@pytest.mark.parametrize('n', [5, 37, 110, 300])
@pytest.mark.parametrize('sizes', [[20] * 5 + [2] * 5, [1, 50], [7], [3, 3, 3], [1, 2, 4, 8, 16, 32]])
def test_every_class_comes_equally_often(n, sizes):
    "In each epoch and over all of them up to one, and each image of a class as often as its others."
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)) * 2  # 0, 2, 4: gaps
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    seen = torch.zeros(len(labels), dtype=torch.int64)
    for epoch in range(6):
        rows = balanced_order(labels, n, 3, epoch)
        assert len(rows) == n
        assert torch.equal(rows, balanced_order(labels, n, 3, epoch))
        seen += rows.bincount(minlength=len(labels))
        counts = labels[rows].bincount(minlength=2 * len(sizes))[::2]
        assert counts.max() - counts.min() <= 1
    for c in labels.unique():
        assert seen[labels == c].max() - seen[labels == c].min() <= 1
    total = torch.stack([seen[labels == c].sum() for c in labels.unique()])
    assert total.max() - total.min() <= 1


def test_orders_differ_by_seed_and_epoch():
    labels = torch.arange(100) % 10
    orders = [balanced_order(labels, 100, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(orders) for b in orders[:i])
    assert all(
        torch.equal(order.sort()[0], torch.arange(100)) for order in orders
    )  # equal already: once each


def test_images_without_a_label_keep_their_share():
    labels = torch.tensor([0] * 30 + [1] * 10 + [-1] * 60)
    counts = (labels[balanced_order(labels, 100, 0, 4)] + 1).bincount().tolist()
    assert counts == [60, 20, 20]
    nobody = torch.full((10,), -1)
    assert balanced_order(nobody, 10, 0, 0).sort()[0].tolist() == list(range(10))


@pytest.mark.parametrize('method', [*ALL, 'ofa+kd'])
def test_every_method_trains_on_a_balanced_order(method):
    data = unequal(rare=1, of=12)
    data = Splits(data.train, data.valid.take(torch.arange(20)), data.test, data.norm)
    task = create_task(method, 'micro_vit', make_model('micro_resnet'), data=data)
    (row,) = fit(task, data, 1, batch_size=13, balanced=True, **QUIET)
    assert all(torch.isfinite(torch.tensor(v)) for v in row['losses'].values())


def weights_of(task):
    return torch.cat([p.detach().flatten() for p in task.student.parameters()])


def test_a_balanced_run_is_resumed_to_the_bit(tmp_path):
    data = unequal()

    def train(**how):
        torch.manual_seed(0)
        task = create_task('kd', 'micro_vit', make_model('micro_resnet'), data=data)
        fit(task, data, 3, **dict(QUIET, batch_size=10, balanced=True) | how)
        return weights_of(task)

    def stop(done):
        if done > 1.4:
            raise KeyboardInterrupt

    whole = train()
    with pytest.raises((Stopped, KeyboardInterrupt)):
        train(out=tmp_path, on_step=stop, save_seconds=0.0001)
    assert torch.equal(whole, train(out=tmp_path, resume=True))
    with pytest.raises(ValueError, match='balanced: True → False'):
        train(out=tmp_path, resume=True, balanced=False)


def test_what_cannot_be_balanced_says_so():
    x, y = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    own = TensorDataset(x, y)
    task = create_task('labels', 'micro_vit', input_size=(1, 8, 8), num_classes=10)
    fit(task, (own, own), 1, balanced=True, **QUIET)
    with pytest.raises(ValueError, match='balanced: the train part is a DataLoader, which has an order'):
        fit(task, (DataLoader(own, 8), own), 1, balanced=True, **QUIET)
    with pytest.raises(ValueError, match='balanced: the labels of the train part are not known'):
        fit(task, ([(a, int(b)) for a, b in own], own), 1, balanced=True, **QUIET)
    with pytest.raises(TypeError, match="balanced: expected True or False, got 'yes'"):
        fit(task, (own, own), 1, balanced='yes', **QUIET)


# --- class weights --------------------------------------------------------------------------------

W = [0.5, 3.0, 1.0, 2.0, 0.25, 1.0, 4.0, 1.0, 0.1, 1.5]
X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 3, 4, 5, 6, 6])


def make(method, **options):
    torch.manual_seed(0)
    more = dict(num_samples=8) if method == 'crd' else {}
    return create_task(
        method, 'micro_vit', make_model('micro_resnet'), input_size=(1, 8, 8), **options | more
    ).double()


def losses_of(task, target=Y):
    task.eval()
    out = task(X.double(), target, index=torch.arange(8))
    return {k: v.item() for k, v in out.items() if k != 'output'}, out['output']


def by_hand(logits, target, weights):
    "Σ w_y (−log p_y) / Σ w_y, one image after the other."
    log_p = logits.detach().double().log_softmax(1)
    terms = [(weights[y] * -log_p[i, y].item(), weights[y]) for i, y in enumerate(target.tolist()) if y >= 0]
    return sum(a for a, _ in terms) / sum(w for _, w in terms)


LABEL_PARTS = dict(
    kd=0.1, lskd=0.1, deit=0.5, scalekd=0.5
)  # what weighs the cross-entropy, where it is not 1


@pytest.mark.parametrize('target', [Y, torch.where(Y == 6, -1, Y)], ids=['labels', 'some'])
@pytest.mark.parametrize('method', [m for m in ALL if m != 'ofa'])
def test_class_weights_are_those_of_the_labels_alone(method, target):
    plain, _ = losses_of(make(method), target)
    weighted, logits = losses_of(make(method, class_weights=W), target)
    weight = LABEL_PARTS.get(method, 1.0)
    assert plain['ce'] == pytest.approx(weight * by_hand(logits, target, [1.0] * 10))
    assert weighted['ce'] == pytest.approx(weight * by_hand(logits, target, W))
    labels = {'ce', 'loss', 'sub_ce', *(p for p in plain if method == 'deep_supervision')}
    for part in set(plain) - labels:
        assert weighted[part] == plain[part]
    for part in labels & set(plain):
        assert weighted[part] != plain[part]


@pytest.mark.parametrize('method', [*ALL, 'ofa+kd', 'labels+deep_supervision'])
def test_equal_weights_change_nothing_and_labels_may_be_sure_probabilities(method):
    same = [1.0] * 10
    assert losses_of(make(method, class_weights=same))[0] == pytest.approx(
        losses_of(make(method))[0], rel=1e-6
    )
    sure = torch.eye(10, dtype=torch.float64)[Y]
    a, b = (losses_of(make(method, class_weights=W), t)[0] for t in (Y, sure))
    assert a == pytest.approx(b, rel=1e-9)


@pytest.mark.parametrize('T', [1.0, 2.0])
def test_in_ofa_the_one_of_one_plus_p_is_weighted(T):
    "The paper's form is the released one plus its cross-entropy, where γ is 1."
    plain, z = losses_of(make('ofa', temperature=T, gamma=1.0))
    weighted, _ = losses_of(make('ofa', temperature=T, gamma=1.0, class_weights=W))
    more = by_hand(z / T, Y, W) - by_hand(z / T, Y, [1.0] * 10)
    assert weighted['final'] - plain['final'] == pytest.approx(more)
    released, z = losses_of(make('ofa', form='released', class_weights=W))
    assert released['ce'] == pytest.approx(by_hand(z, Y, W))
    assert released['exit_1'] == losses_of(make('ofa', form='released'))[0]['exit_1']


def test_balanced_weights_make_the_classes_weigh_the_same():
    data = unequal()
    task = create_task('labels', 'micro_vit', data=data, class_weights='balanced')
    counts = data.train.labels.bincount()
    torch.testing.assert_close(task.label_weights * counts, torch.full((10,), len(data.train) / 10))
    one = make('labels', class_weights=W)
    assert torch.equal(one.label_weights, torch.tensor(W).double())
    assert create_task('labels', 'micro_vit', data=data).label_weights is None


def test_weights_are_part_of_what_a_checkpoint_is_named_by(tmp_path):
    data = unequal()
    how = dict(epochs=1, out=tmp_path, **QUIET)
    fit(create_task('labels', 'micro_vit', data=data, class_weights='balanced'), data, **how)
    with pytest.raises(ValueError, match='class_weights: balanced → None'):
        fit(create_task('labels', 'micro_vit', data=data), data, resume=True, **how)


class Forgetful(DistillationTask):
    needs = ()

    def losses(self, student, heads, teacher, target):
        return dict(ce=torch.nn.functional.cross_entropy(student.logits, target))


BAD_WEIGHTS = [
    ('even', ValueError, "expected None, 'balanced' or 10 numbers above 0, got 'even'"),
    ([1.0] * 9, ValueError, 'or 10 numbers above 0, got 9 of them'),
    ([1.0] * 9 + [0.0], ValueError, 'class_weights: expected a finite number above 0, got 0.0'),
    ([1.0] * 9 + [float('nan')], ValueError, 'class_weights: expected a finite number above 0'),
    ([1.0] * 9 + ['2'], TypeError, "class_weights: expected a number, got '2'"),
    (torch.ones(2, 5), TypeError, 'class_weights: expected a number, got '),
    (2.0, TypeError, "expected None, 'balanced' or 10 numbers above 0, got 2.0"),
    (True, TypeError, 'got True'),
    (dict(a=1), TypeError, 'got '),
    (
        'balanced',
        ValueError,
        "'balanced' counts the classes of the training images; build the task with data=",
    ),
]


@pytest.mark.parametrize('weights, error, says', BAD_WEIGHTS)
@pytest.mark.parametrize('method', ['labels', 'ofa', 'kd+rsd'])
def test_class_weights_that_make_no_sense(method, weights, error, says):
    with pytest.raises(error, match=says):
        make(method, class_weights=weights)


def test_a_method_that_would_not_use_the_weights_says_so():
    task = Forgetful('micro_vit', input_size=(1, 8, 8), class_weights=W)
    with pytest.raises(
        ValueError, match='its losses must take the cross-entropy with the labels from self.l'
    ):
        task(X, Y)
    Forgetful('micro_vit', input_size=(1, 8, 8))(X, Y)


# --- hard answers ---------------------------------------------------------------------------------


def test_hard_distillation_by_hand():
    "Touvron et al., 2021, Eq. 3, one image after the other in float64."
    task = make('kd', hard=True)
    losses, z = losses_of(task)
    decided = task.teacher(X.double()).logits.argmax(1)
    assert not torch.equal(decided, Y)
    halves = [0.5 * by_hand(z, target, [1.0] * 10) for target in (Y, decided)]
    assert [losses['ce'], losses['kd']] == pytest.approx(halves, rel=1e-12)
    assert losses['loss'] == pytest.approx(sum(halves), rel=1e-12)
    own, _ = losses_of(make('kd', hard=True, label_weight=0.0, kd_weight=2.0))
    assert [own['ce'], own['kd']] == pytest.approx([0, 4 * halves[1]])
    some, _ = losses_of(make('kd', hard=True), torch.where(Y == 6, -1, Y))
    assert some['kd'] == losses['kd']
    assert losses_of(make('kd', hard=True, class_weights=W))[0]['kd'] == losses['kd']


def test_hard_distillation_from_kept_answers_and_without_labels(tmp_path):
    data = DATA
    train = data.train.take(torch.arange(40))
    data = Splits(replace(train, labels=torch.full((40,), -1)), data.valid, data.test, data.norm)
    teacher = Teacher(make_model('micro_resnet'))
    cache = TeacherCache(tmp_path, teacher, data).build(1, progress=False)

    def train_one(wrap):
        torch.manual_seed(0)
        task = wrap(create_task('kd', 'micro_vit', teacher, data=data, hard=True))
        (row,) = fit(task, data, 1, **QUIET)
        assert row['losses']['ce'] == 0 and row['losses']['kd'] > 0
        return weights_of(task)

    assert torch.equal(train_one(lambda t: t), train_one(lambda t: cached(t, cache)))


@pytest.mark.parametrize(
    'options, error, says',
    [
        (dict(hard=True, temperature=4.0), ValueError, 'temperature: .* is the same at every T'),
        (
            dict(hard=True, setting='ofa_paper'),
            ValueError,
            "weights of its own, ½ and ½; leave out 'ofa_paper'",
        ),
        (dict(hard='yes'), TypeError, "hard: expected True or False, got 'yes'"),
        (dict(hard=1), TypeError, 'hard: expected True or False, got 1'),
        (dict(hard=True, kd_weight=-1.0), ValueError, 'kd_weight: expected'),
    ],
)
def test_what_a_hard_answer_has_no_use_for(options, error, says):
    with pytest.raises(error, match=says):
        make('kd', **options)


def test_the_command_takes_labels_options_by_their_names():
    words = ['--hard', '--balanced', '--class_weights', 'balanced']
    assert not_taken(words) is None
    assert parse_options(named_options(words)) == dict(hard=True, balanced=True, class_weights='balanced')


# --- targets that are none ------------------------------------------------------------------------

NUMBERS = torch.arange(8) / 3
NO_TARGETS = [
    (NUMBERS, TypeError, 'int64, got torch.float32, one number for each image: that is regression'),
    (NUMBERS[:, None], TypeError, 'int64, got torch.float32, one number for each image: that is regression'),
    (Y.double(), TypeError, 'int64, got torch.float64, one number for each image: that is regression'),
    (torch.eye(10)[:8].long(), TypeError, 'expected floating-point probabilities, got torch.int64'),
    (torch.eye(10)[:8].bool(), TypeError, 'expected floating-point probabilities, got torch.bool'),
    (torch.eye(10)[:8] * 0.5, ValueError, 'the probabilities of each image must sum to 1, off by 0.5'),
    (torch.eye(10)[:8] * 2 - 0.1, ValueError, 'probabilities must be at least 0'),
    (torch.full((8, 9), 1 / 9), ValueError, r'got shape \(8, 9\)'),
    (torch.full((8, 1, 1), 1.0), ValueError, r'got shape \(8, 1, 1\)'),
    (Y + 4, ValueError, 'expected classes 0 to 9, got 4 to 10'),
    (Y - 2, ValueError, 'expected classes 0 to 9, got -2 to 4'),
    (Y.int(), TypeError, 'expected class indices of type int64, got torch.int32$'),
]


@pytest.mark.parametrize('method', [*ALL, 'ofa+kd', 'labels+deep_supervision'])
def test_every_method_refuses_the_same_targets_in_the_same_words(method):
    task = make(method)
    for target, error, says in NO_TARGETS:
        with pytest.raises(error, match=f'^target: .*{says}'):
            task(X.double(), target, index=torch.arange(8))


@pytest.mark.parametrize('shape', [(40,), (40, 1)])
def test_regression_is_refused_by_name_on_every_way_in(shape):
    x, y = torch.randn(40, 1, 8, 8), torch.rand(shape)
    numbers, fine = TensorDataset(x, y), TensorDataset(x, torch.arange(40) % 10)
    task = create_task('labels', 'micro_vit', input_size=(1, 8, 8), num_classes=10)
    for data in (
        (numbers, fine),
        (fine, numbers),
        (DataLoader(numbers, 8), fine),
        (fine, DataLoader(numbers, 8)),
    ):
        with pytest.raises(TypeError, match='regression, which no method here learns'):
            fit(task, data, 1, **QUIET)
    with pytest.raises(TypeError, match='regression, which no method here learns'):
        distill('labels', 'micro_vit', None, dict(train=numbers, valid=fine), 1, **QUIET)
    with pytest.raises(TypeError, match='to learn numbers is regression'):
        load_data((torch.zeros(40, 8, 8, dtype=torch.uint8).numpy(), y.numpy()))


# --- several classes in one image -----------------------------------------------------------------

MANY_HOW = dict(input_size=(1, 8, 8), num_classes=10)
SHOWN = (torch.rand(8, 10, generator=torch.Generator().manual_seed(1)) < 0.3).long()


def make_many(method, **options):
    torch.manual_seed(0)
    return multilabel_task(method, 'micro_vit', make_model('micro_resnet'), **MANY_HOW, **options).double()


def binary(logits, answers):
    "−[y log σ(z) + (1 − y) log(1 − σ(z))], one class of one image after the other."
    total = 0.0
    for z_row, y_row in zip(logits.detach().tolist(), answers.tolist()):
        for z, y in zip(z_row, y_row):
            p = 1 / (1 + math.exp(-z))
            total -= y * math.log(p) + (1 - y) * math.log(1 - p)
    return total / logits.numel()


@pytest.mark.parametrize('method', MANY)
def test_the_labels_part_of_several_classes_by_hand(method):
    losses, z = losses_of(make_many(method), SHOWN)
    weight = LABEL_PARTS.get(method, 1.0)
    assert losses['ce'] == pytest.approx(weight * binary(z, SHOWN), rel=1e-9)
    nothing, z = losses_of(make_many(method), torch.zeros(8, 10, dtype=torch.bool))
    assert nothing['ce'] == pytest.approx(weight * binary(z, torch.zeros(8, 10)), rel=1e-9)
    other = {k for k in losses if k not in ('ce', 'loss') and not k.startswith('exit')}
    assert all(losses[k] == nothing[k] for k in other)  # the teacher's losses do not look at labels


def test_the_teachers_part_of_several_classes_by_hand():
    task = make_many('kd', temperature=3.0, label_weight=1.0, kd_weight=1.0)
    losses, z = losses_of(task, SHOWN)
    t = task.teacher(X.double()).logits
    p = (t / 3).sigmoid()
    entropy = binary(t / 3, p)
    assert losses['kd'] == pytest.approx(9 * (binary(z / 3, p) - entropy), rel=1e-6)
    hard, z = losses_of(make_many('kd', hard=True), SHOWN)
    assert hard['kd'] == pytest.approx(0.5 * binary(z, (t > 0).long()), rel=1e-9)
    vkd, z = losses_of(make_many('vkd', kd_weight=2.0), SHOWN)
    assert vkd['kd'] == pytest.approx(2 * (binary(z, t.sigmoid()) - binary(t, t.sigmoid())), rel=1e-6)


def test_the_features_of_vkd_are_compared_as_for_one_class():
    torch.manual_seed(0)
    one = create_task('vkd', 'micro_vit', make_model('micro_resnet'), **MANY_HOW).double()
    many = make_many('vkd')
    many.load_state_dict(one.state_dict())
    assert losses_of(many, SHOWN)[0]['vkd'] == pytest.approx(losses_of(one, Y)[0]['vkd'], rel=1e-12)
    without_classes = multilabel_task(
        'vkd', 'micro_vit', make_model('micro_resnet', 0), kd_weight=0, **MANY_HOW
    )
    assert set(without_classes(X, SHOWN)) == {'ce', 'vkd', 'loss', 'output'}


class SaysNothing(torch.nn.Module):
    "A teacher whose answer to one question of one image is no number."

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        z = self.net(x).clone()
        z[0, 3] = torch.nan
        return z


@pytest.mark.parametrize('options', [dict(hard=True), {}])
def test_a_teacher_that_answers_nothing_is_no_no(options):
    "NaN > 0 is False: without a check it would have been learned as a no."
    torch.manual_seed(0)
    teacher = SaysNothing(make_model('micro_resnet'))
    task = multilabel_task('kd', 'micro_vit', teacher, **MANY_HOW, **options)
    data = TensorDataset(X, SHOWN)
    with pytest.raises(NotFinite, match='the loss is not finite: kd'):
        fit(task, (data, data), 1, batch_size=8, **QUIET)


@pytest.mark.parametrize('method', [m for m in ALL if m not in MANY] + ['kd+rsd'])
def test_methods_about_one_true_class_say_why_they_do_not_take_several(method):
    with pytest.raises(ValueError, match=f'^method: .*{method.replace("+", ".")}'):
        make_many(method)
    assert set(MANY) | set(WHY_NOT) == set(ALL)


NOT_SHOWN = [
    (SHOWN.float(), TypeError, r'got torch.float32; target.long\(\) makes them'),
    (Y, ValueError, r'got shape \(8,\)'),
    (SHOWN[:, :9], ValueError, r'got shape \(8, 9\)'),
    (SHOWN + 1, ValueError, 'got values from 1 to 2'),
    (SHOWN - 1, ValueError, 'got values from -1 to 0'),
    (SHOWN.tolist(), TypeError, 'got list'),
]


@pytest.mark.parametrize('target, error, says', NOT_SHOWN)
def test_targets_that_are_no_yes_and_no(target, error, says):
    for method in MANY:
        with pytest.raises(error, match=rf'^target: expected \(8, 10\) integers.*{says}'):
            make_many(method)(X.double(), target)


@pytest.mark.parametrize('option', [dict(label_smoothing=0.1), dict(class_weights=W)])
def test_options_about_one_true_class_are_refused_for_several(option):
    with pytest.raises(ValueError, match=f'^{next(iter(option))}: it is about one true class'):
        make_many('kd', **option)


def test_fit_measures_every_yes_and_no_and_resumes(tmp_path):
    data = TensorDataset(torch.randn(40, 1, 8, 8), (torch.rand(40, 10) < 0.1).int())
    history = fit(make_many('kd').float(), (data, data), 2, batch_size=10, out=tmp_path, **QUIET)
    task = make_many('kd').float()
    assert len(fit(task, (data, data), 2, batch_size=10, out=tmp_path, resume=True, **QUIET)) == 2
    logits = task.student.eval()(data.tensors[0])
    right = ((logits > 0) == (data.tensors[1] > 0)).all(1).float().mean().item() * 100
    assert history[-1]['valid_accuracy'] == pytest.approx(right)
    with pytest.raises(ValueError, match='labels of the train part are not known'):
        fit(make_many('labels').float(), (data, data), 1, balanced=True, **QUIET)


def test_average_precision_is_that_of_scikit_learn():
    from sklearn.metrics import average_precision_score

    z = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # with ties
    y = (torch.rand(60, 5, generator=torch.Generator().manual_seed(1)) < 0.2).long()
    theirs = [100 * average_precision_score(y[:, c], z[:, c]) for c in range(5)]
    assert average_precision(z, y).tolist() == pytest.approx(theirs)
    y[:, 0] = 0
    assert average_precision(z, y).isnan().tolist() == [True] + [False] * 4
