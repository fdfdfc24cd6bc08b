"""Options and methods answer back: what is misspelt, out of range, or not what a method should give."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F

from ofa_learn.checks import unread
from ofa_learn.data import digits, split
from ofa_learn.demo import Plan
from ofa_learn.logits import DIST, DKD, KD
from ofa_learn.models import make_model
from ofa_learn.pictures import distill_pictures
from ofa_learn.recipes import recipe
from ofa_learn.rsd import RSD
from ofa_learn.runs import run_recipe
from ofa_learn.tasks import OFA, DeepSupervision, DistillationTask, Labels, create_task
from ofa_learn.training import distill, fit

DATA = split(digits(), train=40, valid=10, test=10)
ABOUT = dict(input_size=(1, 8, 8))
X, Y = torch.randn(4, 1, 8, 8), torch.arange(4)
QUIET = dict(device='cpu', progress=False)


def teacher():
    return make_model('micro_resnet')


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'cls, method, options, says',
    [
        (KD, 'kd', dict(T=4), "'kd' has no option 'T'; did you mean 'temperature'"),
        (KD, 'kd', dict(temprature=4), "did you mean 'temperature'"),
        (KD, 'kd', dict(batch=4), "did you mean 'batch_size', an option of fit and distill"),
        (KD, 'kd', dict(weight=1), "did you mean 'label_weight' or 'kd_weight'"),
        (OFA, 'ofa', dict(alpha=1), "'ofa' has no option 'alpha'; 'alpha' is an option of dkd"),
        (OFA, 'ofa', dict(lr=1e-3), "'lr' is an option of fit and distill"),
        (OFA, 'ofa', dict(tau=2.0), "did you mean 'temperature'"),
        (RSD, 'rsd', dict(gamma=2), "'gamma' is an option of dist, ofa and wttm"),
        (Labels, 'labels', dict(smoothing=0.1), "did you mean 'label_smoothing'"),
        (DeepSupervision, 'deep_supervision', dict(layers=(1,)), "did you mean 'stages'"),
    ],
)
def test_a_class_called_directly_answers_as_create_task_does(cls, method, options, says):
    with pytest.raises(TypeError, match=says) as direct:
        cls('micro_vit', teacher(), **ABOUT, **options)
    with pytest.raises(TypeError) as named:
        create_task(method, 'micro_vit', teacher(), **ABOUT, **options)
    assert str(direct.value) == str(named.value)


def test_a_class_of_ones_own_answers_by_its_own_name():
    class Mine(Labels):
        def __init__(self, student, teacher=None, *, strength=1.0, **options):
            super().__init__(student, teacher, **options)

    with pytest.raises(TypeError, match="'Mine' has no option 'strenght'; did you mean 'strength'"):
        Mine('micro_vit', strenght=2.0, **ABOUT)


# --- ranges --------------------------------------------------------------------------------------

BAD = [
    (DIST, dict(gamma=-1), 'gamma: expected a finite number of at least 0'),
    (DKD, dict(warmup=-1), 'warmup: expected'),
    (KD, dict(setting='mine'), 'setting: expected one of own, ofa_paper'),
    (OFA, dict(gamma=0.5), 'gamma: expected finite numbers of at least 1'),
    (OFA, dict(gamma=[1, 1, 1, 1, 0.5]), 'gamma: expected finite numbers of at least 1'),
    (OFA, dict(temperature=0), 'temperature: expected a finite number above 0'),
    (OFA, dict(soft='hrad'), "soft: .*did you mean 'hard'"),
    (RSD, dict(ratio=0), 'ratio: expected a finite number above 0'),
]


@pytest.mark.parametrize('cls, options, says', BAD)
def test_what_is_out_of_range_is_known_without_a_network(cls, options, says, monkeypatch):
    monkeypatch.setattr('ofa_learn.tasks.as_student', None)  # nothing is built or probed
    with pytest.raises((TypeError, ValueError), match=f'^{says}'):
        cls('micro_vit', None, **ABOUT, **options)


def no_teacher(*_, **__):
    raise AssertionError('a teacher was taught or pictures were read before the options were checked')


@pytest.mark.parametrize(
    'method, options, says',
    [
        ('ofa', dict(gamma=0.5), 'gamma: expected'),
        ('kd', dict(temperature=0), 'temperature: expected'),
        ('kd', dict(T=4), "'kd' has no option 'T'"),
        ('ofa+kd', dict(weights=(1, -1)), 'weights: expected 2'),
        ('kd', dict(ema=True), 'ema: expected'),
        ('kd', dict(ema=1.5), 'ema: expected'),
        ('kd', dict(sched='plateau'), 'sched: plateau is not offered'),
        ('kd', dict(precision='fp8'), 'precision: expected'),
        ('kd', dict(label_smoothing=1), 'label_smoothing: expected'),
    ],
)
def test_pictures_are_not_read_for_options_that_make_no_sense(method, options, says, tmp_path, monkeypatch):
    monkeypatch.setattr('ofa_learn.pictures.teaching_data', no_teacher)
    with pytest.raises((TypeError, ValueError), match=says):
        distill_pictures(teacher(), 'micro_vit', 'digits', tmp_path / 'o', method, 1, device='cpu', **options)
    with pytest.raises((TypeError, ValueError), match=says):
        distill(method, 'micro_vit', teacher(), DATA, 1, **QUIET, **options)
    assert not (tmp_path / 'o').exists()


@pytest.mark.parametrize(
    'changes, says',
    [
        (dict(gamma=0.5), 'gamma: expected'),
        (dict(temperature=0), 'temperature: expected'),
        (dict(exit_weight=-1), 'exit_weight: expected'),
        (dict(form='papr'), "form: .*did you mean 'paper'"),
        (dict(smoothing=1), 'label_smoothing: expected'),
        (dict(ema=True), 'ema: expected'),
        (dict(sched='plateau'), 'sched: plateau is not offered'),
        (dict(lr=0), 'lr: expected'),
        (dict(teacher_epochs=0), 'teacher_epochs: expected'),
        (dict(teacher_lr=-1), 'teacher_lr: expected'),
    ],
)
def test_a_recipe_is_checked_before_its_teacher_is_taught(changes, says, tmp_path, monkeypatch):
    monkeypatch.setattr('ofa_learn.runs.teach', no_teacher)
    with pytest.raises(ValueError, match=says):
        run_recipe(recipe('laptop/cnn-vit', **changes), tmp_path / 'o', **QUIET)
    assert not (tmp_path / 'o').exists()


@pytest.mark.parametrize(
    'options, says',
    [
        (dict(gamma=0.5), 'gamma: expected'),
        (dict(gamma=True), 'gamma: expected'),
        (dict(lr=0), 'lr: expected'),
        (dict(opt='adamm'), 'opt: timm has no'),
        (dict(batch_size=1), 'batch_size: expected'),
        (dict(seeds=True), 'seeds: expected'),
        (dict(view_seed=-1), 'view_seed: expected'),
    ],
)
def test_the_plan_of_a_demo_is_checked_when_it_is_built(options, says):
    with pytest.raises((TypeError, ValueError), match=f'^{says}'):
        Plan(**options)


# --- what a method of one's own gives ------------------------------------------------------------


def mine(losses, **more):
    "A method that somebody wrote."
    return type('Mine', (DistillationTask,), more | dict(losses=losses))


def each(self, student, heads, teacher, target):
    return dict(ce=F.cross_entropy(student.logits, target, reduction='none'))


@pytest.mark.parametrize(
    'losses, says',
    [
        (
            lambda *a: each(*a)['ce'].mean(),
            'Mine: `losses` should return a dict of losses by name.*got Tensor',
        ),
        (lambda *a: None, 'Mine: `losses` should return a dict of losses by name.*got NoneType'),
        (lambda *a: {}, 'Mine: `losses` returned no loss'),
        (each, r"Mine: loss 'ce' should be one number for the whole batch, got shape \(4,\); take its mean"),
        (lambda *a: dict(loss=each(*a)['ce'].mean()), "Mine: `losses` named a loss 'loss'"),
        (lambda *a: dict(ce=each(*a)['ce'].mean(), more=0.0), "Mine: loss 'more' should be a tensor"),
        (lambda *a: dict(ce=each(*a)['ce'].mean().detach()), 'Mine: no loss depends on anything'),
    ],
)
def test_what_losses_give_is_looked_at(losses, says):
    with pytest.raises((TypeError, ValueError), match=says):
        mine(losses)('micro_vit', teacher(), **ABOUT)(X, Y)


@pytest.mark.parametrize(
    'read, asked, says',
    [
        (lambda s, t: F.normalize(t.pooled), {}, "the teacher's pooled or maps"),
        (lambda s, t: t.maps[0], {}, "the teacher's pooled or maps"),
        (lambda s, t: s.logits - t.logits, dict(needs=()), r"the teacher's logits.*needs = \(\) does not"),
        (lambda s, t: s.pooled, {}, 'set taps_needed = True'),
        (lambda s, t: F.mse_loss(s.pooled, t.logits), {}, 'set taps_needed = True'),
        (lambda s, t: s.stages[0], {}, 'set taps_needed = True'),
        (lambda s, t: s.stages[0], dict(taps_needed=True, stages=()), r'stages = \(\) asks for none'),
    ],
)
def test_what_was_not_asked_for_cannot_be_read(read, asked, says):
    def losses(self, student, heads, teacher, target):
        return dict(part=read(student, teacher).mean())

    with pytest.raises(TypeError, match=f'Mine: it read something that it had not asked for: .*{says}'):
        mine(losses, **asked)('micro_vit', teacher(), **ABOUT)(X, Y)


def test_heads_from_features_that_are_not_there():
    def heads(self):
        return nn.Linear(self.student_taps.width, 3)

    with pytest.raises(TypeError, match="Mine: .*student's pooled features.*taps_needed = True"):
        mine(each, build_heads=heads)('micro_vit', teacher(), **ABOUT)


def test_another_error_stays_what_it_is():
    def losses(self, student, heads, teacher, target):
        return dict(part=student.logits.foo)

    task = mine(losses)('micro_vit', teacher(), **ABOUT)
    assert unread(task, task.answers(X), ValueError('something else')) is None
    with pytest.raises(AttributeError, match='foo'):
        task(X, Y)


@pytest.mark.parametrize(
    'gives, says',
    [
        (
            lambda z, y: dict(output=z),
            'Own: `forward` should return a dict with `loss` and `output`, got a',
        ),
        (lambda z, y: z, 'Own: `forward` should return a dict with `loss` and `output`, got Tensor'),
        (
            lambda z, y: dict(loss=F.cross_entropy(z, y, reduction='none'), output=z),
            "loss 'loss' should be one",
        ),
        (lambda z, y: dict(loss=z.mean().detach(), output=z), 'depends on nothing that is trained'),
    ],
)
def test_a_forward_of_ones_own_is_looked_at_before_the_first_update(gives, says):
    class Own(Labels):
        def forward(self, input, target, teacher=None, index=None):
            return gives(self.student(input), target)

    with pytest.raises((TypeError, ValueError), match=says):
        fit(Own('micro_vit', data=DATA), DATA, 1, **QUIET)


def test_a_joined_method_is_looked_at_too():
    from ofa_learn.tasks import METHODS, register

    try:
        register('mine_each')(mine(each))
        with pytest.raises(ValueError, match="mine_each: loss 'ce' should be one number"):
            create_task('kd+mine_each', 'micro_vit', teacher(), **ABOUT)(X, Y)
    finally:
        METHODS.pop('mine_each', None)
