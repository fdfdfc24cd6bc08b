"""Tasks: what the lessons do not show of teachers, checkpoints, wrappers and bad input."""

import copy
import importlib
import pickle
import sys
import warnings

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
from fresh import program

from ofa_learn.data import Augment, Batches, digits, from_arrays, split
from ofa_learn.models import find_taps, make_model, save_model
from ofa_learn.tasks import METHODS, Labels, Teacher, all_methods, create_task, register
from ofa_learn.teachers import fit_teacher
from ofa_learn.training import NotFinite, distill, fit, predict
from ofa_learn.wrapping import unwrapped

DATA = split(digits(), train=100)
X, Y = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)


def make(method, student='micro_vit', **options):
    torch.manual_seed(0)
    return create_task(
        method, student, make_model('micro_resnet'), input_size=(1, 8, 8), num_classes=10, **options
    )


@pytest.mark.parametrize('method', sorted(all_methods()))
@pytest.mark.parametrize('student', ['micro_resnet', 'micro_vit', 'micro_mixer'])
def test_step_of_every_method(method, student):
    task = make(method, student, **(dict(num_samples=6) if method == 'crd' else {})).train()
    out = task(X, Y, index=torch.arange(6))
    out['loss'].backward()
    assert out['output'].shape == (6, 10) and out['loss'].isfinite()
    torch.testing.assert_close(out['loss'], sum(v for k, v in out.items() if k not in ('loss', 'output')))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.trainable_module.parameters())


def test_teacher_is_frozen_whatever_is_called():
    task = make('ofa')
    before = {k: v.clone() for k, v in task.teacher.state_dict().items()}
    task.train()
    task.teacher.model.train()
    task.requires_grad_(True)
    task.teacher.requires_grad_(True)
    opt = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], 1.0)
    for _ in range(2):
        task(X, Y)['loss'].backward()
        opt.step()
    for k, v in task.teacher.state_dict().items():
        assert torch.equal(v, before[k]), k
    assert not any(m.training for m in task.teacher.modules())


def test_known_answers_give_the_same_loss():
    task = make('ofa').eval()
    assert torch.equal(task(X, Y)['loss'], task(X, Y, teacher=task.answers(X))['loss'])


def test_checkpoint_holds_heads_and_refuses_another_method():
    task, other = make('ofa'), make('ofa')
    with torch.no_grad():
        [p.add_(1.0) for p in task.trainable_module.parameters()]
    state = task.get_checkpoint_state()
    other.load_checkpoint_state(state['state_dict'], state['task_state'])
    for a, b in zip(task.trainable_module.parameters(), other.trainable_module.parameters()):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="of the method 'ofa', this task is 'deep_supervision'"):
        make('deep_supervision').load_task_state(task.get_task_state())


def test_ema_exports_the_averaged_plain_student():
    task = make('ofa')
    task.setup_ema(decay=0.5)
    with torch.no_grad():
        [p.add_(1.0) for p in task.trainable_module.parameters()]
    task.update_ema()
    assert type(task.get_eval_model(ema=True)) is type(task.student)
    a, b = (next(m.parameters()) for m in (task.get_eval_model(ema=True), task.student))
    torch.testing.assert_close(b - a, torch.full_like(a, 0.5))
    assert not any('teacher' in k for k in task.get_trainable_module(ema=True).state_dict())


def test_compiled_and_distributed_export_the_plain_student(tmp_path):
    task = make('ofa').eval()
    plain = task(X, Y)['loss']
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1
    )
    try:
        task.compile(backend='eager')
        task.prepare_distributed()
        torch.testing.assert_close(task(X, Y)['loss'], plain)
        assert (
            type(task.student).__name__ == 'VisionTransformer'
            and unwrapped(task.trainable_module).student is task.student
        )
        assert task.get_task_state()['heads'].keys() == make('ofa').get_task_state()['heads'].keys()
    finally:
        torch.distributed.destroy_process_group()


def test_soft_targets_train_in_both_forms():
    soft = torch.full((6, 10), 0.1)
    for form in ('paper', 'released'):
        assert make('ofa', form=form, label_smoothing=0.1)(X, soft)['loss'].isfinite()
    smoothed = make('labels', label_smoothing=0.1)
    torch.testing.assert_close(
        smoothed.eval()(X, Y)['loss'],
        nn.functional.cross_entropy(smoothed.student(X), Y, label_smoothing=0.1),
    )


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda: make('oaf'), 'did you mean .*ofa'),
        (lambda: make('ofa', student='micro_vitt'), 'did you mean micro_vit'),
        (lambda: make('ofa', gamma=0.5), 'gamma'),
        (lambda: make('ofa', gamma=[1.0, 1.0]), 'gamma'),
        (lambda: make('ofa', stages=(5,)), r'one or more of \(1, 2, 3, 4\)'),
        (lambda: make('ofa', positions='odd'), 'even'),
        (lambda: make('ofa', kind='graph'), "'maps' or 'tokens'"),
        (lambda: make('ofa', label_weight=1.0), 'holds the labels'),
        (
            lambda: make('ofa', student=timm.create_model('vit_tiny_patch16_224', in_chans=1, img_size=32)),
            'student: it does not take images',
        ),
        (lambda: make('ofa', student=nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), 'has no taps'),
        (
            lambda: create_task(
                'ofa', 'micro_vit', timm.create_model('micro_resnet', in_chans=3), input_size=(1, 8, 8)
            ),
            r'teacher: it does not take images of \(C, H, W\) = \(1, 8, 8\)',
        ),
        (lambda: make('ofa', label_smoothing=1.0), 'label_smoothing'),
        (lambda: make('kd', temperature=-1.0), 'temperature'),
        (lambda: create_task('ofa', 'micro_vit', 'micro_resnet', input_size=(1, 8, 8)), 'needs num_classes'),
        (lambda: Teacher('micro_resnet', 10, (1, 8, 8)), 'ofa-learn teach'),
        (lambda: Teacher('nowhere.safetensors'), 'no such file'),
        (lambda: create_task('ofa', 'micro_vit', make_model('micro_resnet')), 'input_size'),
        (
            lambda: create_task('ofa', 'micro_vit', make_model('micro_resnet', 7), input_size=(1, 8, 8)),
            '7 classes, the student 10',
        ),
        (lambda: find_taps(nn.Linear(2, 2), (1, 8, 8)), 'no taps'),
        (lambda: make('ofa')(X[:1], Y[:1]), 'at least two images'),
        (lambda: make('ofa')(X * float('nan'), Y), 'NaN'),
        (lambda: make('ofa')(X, Y + 10), 'classes 0 to 9'),
        (lambda: make('ofa')(X, Y[:3]), 'one for each of the 6 images'),
        (lambda: fit(make('labels'), DATA, epochs=0), 'epochs'),
        (
            lambda: fit(
                create_task('labels', 'micro_vit', input_size=(1, 8, 8), input_norm=((0.5,), (0.5,))), DATA, 1
            ),
            'were set up for',
        ),
        (
            lambda: fit(create_task('labels', 'micro_vit', input_size=(1, 16, 16)), DATA, 1),
            r'built for \(1, 16, 16\)',
        ),
        (lambda: split(digits(), train=10_000), 'train: expected'),
        (lambda: Batches(DATA.train, DATA.norm, batch_size=0), 'batch_size'),
        (lambda: from_arrays(torch.zeros(3, 8, 8).numpy(), [0, 1]), 'one class index for each of the 3'),
    ],
)
def test_bad_input(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call()


def test_teacher_with_another_norm_needs_the_inputs_norm():
    teacher = Teacher(make_model('micro_resnet'), norm=((0.5,), (0.5,)))
    with pytest.raises(ValueError, match='input_norm'):
        create_task('kd', 'micro_vit', teacher, input_size=(1, 8, 8))
    task = create_task('kd', 'micro_vit', teacher, data=DATA)
    raw = DATA.train.images[:5]
    torch.testing.assert_close(
        task.answers(DATA.norm(raw)).logits, teacher.model((raw / 255 - 0.5) / 0.5), rtol=1e-4, atol=1e-4
    )


def test_a_loss_that_is_not_finite_stops_by_name():
    task = make('kd')
    original = task.losses
    calls = iter(range(100))
    task.losses = lambda *a: {
        k: v * (float('nan') if k == 'kd' and next(calls) == 3 else 1.0) for k, v in original(*a).items()
    }
    with pytest.raises(NotFinite, match='kd, loss at epoch 2, step 2'):
        fit(task, DATA, 5, device='cpu', progress=False)


def test_same_seeds_same_student_and_methods_are_paired():
    how = dict(device='cpu', progress=False, augment=Augment(shift=1))

    def run(method, seed):
        return distill(method, 'micro_vit', make_model('micro_resnet'), DATA, 1, seed=seed, **how)

    a, b, c = run('kd', 0), run('kd', 0), run('kd', 1)
    assert torch.equal(predict(a.model, DATA.test, DATA.norm), predict(b.model, DATA.test, DATA.norm))
    assert not torch.equal(predict(a.model, DATA.test, DATA.norm), predict(c.model, DATA.test, DATA.norm))

    def start(method):
        torch.manual_seed(3)
        return next(create_task(method, 'micro_vit', copy.deepcopy(TEACHER), data=DATA).student.parameters())

    TEACHER = make_model('micro_resnet')
    assert torch.equal(start('ofa'), start('labels'))


@pytest.mark.parametrize('method', sorted(all_methods()))
def test_a_student_with_prefix_tokens_as_maps(method):
    "The layout rule overruled: a class token has no place on a map, and every method trains without it."
    more = dict(num_samples=6) if method == 'crd' else {}
    out = make(method, kind='maps', **more).train()(X, Y, index=torch.arange(6))
    out['loss'].backward()
    assert out['loss'].isfinite()


@pytest.mark.parametrize('stages, losses', [(4, {'exit_4'}), ((4, 1), {'exit_1', 'exit_4'})])
def test_one_stage_or_several_get_exits(stages, losses):
    for method in ('ofa', 'deep_supervision'):
        out = make(method, stages=stages)(X, Y)
        assert {k for k in out if k.startswith('exit')} == losses
    assert make('hcd', stages=stages).stages == tuple(int(p[-1]) for p in sorted(losses))


# --- the order of stages -------------------------------------------------------------------------


@pytest.mark.parametrize('container', [tuple, list, np.array, iter])
@pytest.mark.parametrize('kind', [tuple, np.array, torch.tensor])
def test_gamma_goes_to_the_stage_that_it_was_given_for(container, kind):
    "γ follows the order in which the stages were named, the last is that of the final logits."
    losses = {}
    for stages, gamma in (((4, 1), (3.0, 1.0, 2.0)), ((1, 4), (1.0, 3.0, 2.0))):
        task = make('ofa', 'micro_resnet', stages=container(stages), gamma=kind(gamma)).eval()
        losses[stages] = task(X, Y)
    for k, v in losses[1, 4].items():
        assert torch.equal(v, losses[4, 1][k]), k
    alone = make('ofa', 'micro_resnet', stages=(1, 4), gamma=3.0).eval()(X, Y)
    assert torch.equal(losses[4, 1]['exit_4'], alone['exit_4'])
    assert not torch.equal(losses[4, 1]['exit_1'], alone['exit_1'])


def test_a_set_of_stages_has_no_order_and_one_gamma_is_for_all():
    given = make('ofa', stages={4, 1}, gamma=(1.0, 3.0, 2.0)).gamma
    assert tuple(given) == (1.0, 3.0, 2.0)
    for gamma in (1.4, [1.4]):
        assert make('ofa', stages=(4, 1), gamma=gamma).gamma == gamma
    for gamma in ((1.0, 2.0), (1.0, 2.0, 3.0, 4.0)):
        with pytest.raises(ValueError, match='gamma: expected a number or 3 of them'):
            make('ofa', stages=(4, 1), gamma=gamma)


# --- one teacher, several image sizes ------------------------------------------------------------


def sized(method, teacher, size, **options):
    torch.manual_seed(0)
    return create_task(method, 'micro_vit', teacher, input_size=size, num_classes=10, **options)


@pytest.mark.parametrize('method', ['ofd', 'fitnet', 'scalekd', 'rsd'])
def test_a_teacher_is_tapped_at_the_size_of_each_task(method):
    torch.manual_seed(3)
    model = make_model('micro_resnet')
    teacher, small, large = Teacher(model), (1, 8, 8), (1, 16, 16)
    first = sized(method, teacher, small)
    after = sized(method, teacher, large)
    fresh = sized(method, Teacher(copy.deepcopy(model)), large)
    assert [(s.height, s.width) for s in after.teacher_taps.stages] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert [(s.height, s.width) for s in first.teacher_taps.stages] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    x = torch.randn(6, *large, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='rsd: a batch')
        torch.manual_seed(1)
        want = fresh(x, Y)
        torch.manual_seed(1)
        got = after(x, Y)
        first(X, Y)
    for k, v in want.items():
        assert torch.equal(v, got[k]), k
    with pytest.raises(ValueError, match=r'tapped at \(1, 8, 8\), \(1, 16, 16\)'):
        _ = teacher.taps


class Halfway(nn.Module):
    "Gives logits and intermediates, and has no `forward_head`."

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)

    def forward_intermediates(self, x, **how):
        raise AssertionError('nobody asked for features')

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))


def test_a_teacher_is_tapped_only_where_features_are_needed():
    for method in ('kd', 'dkd', 'dist', 'ofa'):
        task = create_task(method, 'micro_vit', Halfway(), input_size=(1, 8, 8), num_classes=10)
        assert task(X, Y)['loss'].isfinite()
    with pytest.raises(ValueError, match='Halfway gives logits only.*would work: .*dist, dkd, kd'):
        create_task('rsd', 'micro_vit', Halfway(), input_size=(1, 8, 8), num_classes=10)
    teacher = Teacher(make_model('micro_resnet'))
    create_task('kd', 'micro_vit', teacher, input_size=(1, 8, 8))
    assert teacher.taps is None


# --- the student ---------------------------------------------------------------------------------


@pytest.mark.parametrize('method', sorted({*all_methods(), 'ofa+kd', 'labels+deep_supervision'}))
def test_a_student_that_cannot_learn_is_refused(method):
    more = dict(num_samples=6) if method == 'crd' else {}
    teacher = Teacher(make_model('micro_resnet'))
    with pytest.raises(ValueError, match=r'none of its 38 parameters can be trained.*requires_grad_\(True\)'):
        create_task(method, copy.deepcopy(teacher.model), teacher, input_size=(1, 8, 8), **more)
    student = copy.deepcopy(teacher.model).requires_grad_(True)
    create_task(method, student, teacher, input_size=(1, 8, 8), **more)


def test_a_student_that_was_made_a_teacher_since_is_refused():
    task = make('ofa')
    Teacher(task.student)
    with pytest.raises(ValueError, match='student: none of its'):
        task.train()(X, Y)
    task = create_task('ofa', 'micro_vit', make_model('micro_resnet'), data=DATA)
    fit(task, DATA, 1, device='cpu', progress=False)
    Teacher(task.student)
    with pytest.raises(ValueError, match='nothing in its student can be trained'):
        fit(task, DATA, 1, device='cpu', progress=False)


@pytest.mark.parametrize('method', ['kd', 'ofa', 'ofa+kd'])
@pytest.mark.parametrize('how', ['itself', 'wrapped', 'one weight', 'assigned'])
def test_student_and_teacher_share_nothing(method, how):
    student, teacher = make_model('micro_resnet'), make_model('micro_resnet')
    if how == 'itself':
        teacher = student
    elif how == 'wrapped':
        teacher = Teacher(student)
        student.requires_grad_(True)
    elif how == 'one weight':
        student.fc.weight = teacher.fc.weight
    else:
        student.load_state_dict(teacher.state_dict(), assign=True)
    before = [p.requires_grad for p in student.parameters()]
    with pytest.raises(ValueError, match=r'teacher: it shares weights with the student.*copy.deepcopy'):
        create_task(method, student, teacher, input_size=(1, 8, 8))
    assert [p.requires_grad for p in student.parameters()] == before  # and nothing was frozen on the way
    create_task('labels', student, teacher, input_size=(1, 8, 8))  # a teacher that no one asks


@pytest.mark.parametrize(
    'wrap',
    [nn.DataParallel, torch.optim.swa_utils.AveragedModel, lambda m: torch.compile(m, backend='eager')],
)
def test_students_in_wrappers_are_refused_and_teachers_are_taken_out(wrap):
    "Without its stages a teacher would change the exits: width 0 instead of its own."
    for method in ('ofa', 'kd'):
        with pytest.raises(ValueError, match='student: .* is a wrapper'):
            create_task(
                method, wrap(make_model('micro_vit')), make_model('micro_resnet'), input_size=(1, 8, 8)
            )
        teacher = make_model('micro_resnet')
        task = create_task(method, make_model('micro_vit'), wrap(teacher), input_size=(1, 8, 8))
        assert type(task.teacher.model) is type(teacher) and task.teacher_taps.width == 128


@pytest.mark.parametrize('method', sorted({*all_methods(), 'ofa+rsd', 'crd+kd'}))
def test_heads_follow_the_precision_of_the_student(method):
    more = dict(num_samples=6) if method == 'crd' else {}
    if method == 'crd+kd':
        more = dict(options_of=dict(crd=dict(num_samples=6)))
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='rsd: a batch')
        student, teacher = make_model('micro_vit').double(), make_model('micro_resnet').double()
        early = create_task(method, student, teacher, input_size=(1, 8, 8), **more)
        late = create_task(
            method, 'micro_vit', make_model('micro_resnet'), input_size=(1, 8, 8), **more
        ).double()
        for task in (early, late):
            out = task(X.double(), Y, index=torch.arange(6))
            out['loss'].backward()
            assert out['output'].dtype == torch.float64 and out['loss'].isfinite()


def test_two_classifiers_are_left_out_of_clipping():
    student = timm.create_model('deit_tiny_distilled_patch16_224', num_classes=10, img_size=32, in_chans=1)
    task = create_task('kd', student, make_model('micro_resnet', 10, (1, 32, 32)), input_size=(1, 32, 32))
    heads = {id(p) for h in (student.head, student.head_dist) for p in h.parameters()}
    every, most = task.get_clip_parameters(), task.get_clip_parameters(exclude_head=True)
    assert len(heads) == 4 and {id(p) for p in every} - {id(p) for p in most} == heads
    task = make('ofa')
    assert len(task.get_clip_parameters()) - len(task.get_clip_parameters(exclude_head=True)) == 2


# --- labels --------------------------------------------------------------------------------------


BAD_LABELS = [
    (Y + 5, ValueError, 'expected classes 0 to 9, got 5 to 10'),
    (Y - 100, ValueError, 'expected classes 0 to 9, got -100'),
    (torch.full((6, 10), 0.2), ValueError, 'must sum to 1, off by 1'),
    (torch.full((6, 10), float('nan')), ValueError, 'at least 0 and not NaN'),
    (torch.eye(10)[:6] * 2 - 0.1, ValueError, 'at least 0'),
    (torch.full((6, 9), 1 / 9), ValueError, r'\(6, 10\) probabilities, got shape \(6, 9\)'),
    (Y.int(), TypeError, 'int64, got torch.int32'),
    (Y.tolist(), TypeError, 'expected a tensor, got list'),
    (torch.tensor(3), ValueError, 'got shape'),
]


@pytest.mark.parametrize('method', sorted({*all_methods(), 'kd+rsd'}))
def test_labels_are_checked_for_every_method_and_batch(method):
    more = dict(num_samples=6) if method == 'crd' else {}
    task = make(method, **more)
    for _ in range(2):  # in the first batch, and in one after a good one
        for target, error, says in BAD_LABELS:
            with pytest.raises(error, match=says):
                task(X, target, index=torch.arange(6))
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='rsd: a batch')
            task(X, Y, index=torch.arange(6))


# --- registering ---------------------------------------------------------------------------------


@pytest.fixture
def methods():
    before = dict(METHODS)
    yield METHODS
    METHODS.clear()
    METHODS.update(before)


def plain_method(qualname, module=__name__):
    return type('Mine', (Labels,), dict(__qualname__=qualname, __module__=module))


@pytest.mark.parametrize('name', ['kd', 'scalekd', 'ofa', 'labels', 'deep_supervision'])
def test_a_built_in_name_is_taken(methods, name):
    mine = plain_method(all_methods()[name].__qualname__)
    with pytest.raises(ValueError, match=f"name: '{name}' is that of ofa_learn.*already"):
        register(name)(mine)
    assert methods[name].__module__.startswith('ofa_learn.') and mine.name == 'labels'


@pytest.mark.slow
def test_a_built_in_name_is_taken_before_anyone_has_used_it(tmp_path):
    code = """
from ofa_learn.tasks import METHODS, Labels, create_task, register
assert 'rsd' not in METHODS
try:
    register('rsd')(type('RSD', (Labels,), dict(__module__='elsewhere')))
except ValueError as e:
    print(e)
"""
    (tmp_path / 'takes.py').write_text(code)
    assert "'rsd' is that of ofa_learn.rsd.RSD already" in program(tmp_path / 'takes.py')


def test_a_name_of_your_own_is_put_again_and_not_taken_over(methods):
    first, again, other, far = (
        plain_method('Mine'),
        plain_method('Mine'),
        plain_method('Other'),
        plain_method('Mine', 'elsewhere'),
    )
    register('mine')(first)
    assert register('mine')(again) is methods['mine'] is again and again.name == 'mine'
    for cls in (other, far):
        with pytest.raises(ValueError, match='needs another'):
            register('mine')(cls)
    assert methods['mine'] is again
    importlib.reload(sys.modules['ofa_learn.rsd'])
    assert methods['rsd'] is sys.modules['ofa_learn.rsd'].RSD


@pytest.mark.parametrize('name', ['', 'a+b', 'a.b', 'a b', 7, None])
def test_names_that_no_one_could_ask_for(name):
    with pytest.raises(ValueError, match='name: expected letters'):
        register(name)
    with pytest.raises(TypeError, match='expected a class on DistillationTask'):
        register('fine')(nn.Linear)


# --- options -------------------------------------------------------------------------------------


def with_option(method, **options):
    return lambda: make(method, **options)


@pytest.mark.parametrize(
    'call, error, says',
    [
        (
            with_option('ofa', temprature=2.0),
            TypeError,
            "'ofa' has no option 'temprature'; did you mean 'temperature'",
        ),
        (
            with_option('kd', gamma=2.0),
            TypeError,
            "'kd' has no option 'gamma'; 'gamma' is an option of dist, ofa and wttm",
        ),
        (with_option('ofa', lr=1e-3), TypeError, "no option 'lr'; 'lr' is an option of fit and distill"),
        (with_option('kd', weight=2.0), TypeError, "did you mean 'label_weight' or 'kd_weight'. 'weight' is"),
        (with_option('ofa', epoch=3), TypeError, "did you mean 'epochs', an option of fit and distill"),
        (with_option('ofa', options=dict(gamma=2.0)), TypeError, 'given directly, such as gamma=1.4'),
        (with_option('ofa', zzz=2.0), TypeError, 'expected one of gamma, form, temperature'),
        (with_option('ofa', weights=2), TypeError, 'an option of joined methods, such as ofa.kd'),
        (
            with_option('crd', data=DATA, momentum=0.5),
            TypeError,
            "did you mean 'bank_momentum'. 'momentum' is an option of fit and distill",
        ),
        (
            with_option('ofa+kd', gamma=2.0),
            TypeError,
            r"no option 'gamma' for all; give it in options_of={'ofa'",
        ),
        (with_option('ofa+kd', lr=2.0), TypeError, "'ofa.kd' has no option 'lr'; 'lr' is an option of fit"),
        (with_option('ofa+kd', weigths=(1, 1)), TypeError, "did you mean 'weights'"),
        (with_option('ofa+kd', options_of=dict(ofa=dict(gama=2.0))), TypeError, "did you mean 'gamma'"),
        (
            with_option('ofa+kd', options_of=dict(kd=dict(label_smoothing=0.1))),
            ValueError,
            'give it beside options_of',
        ),
        (
            with_option('ofa+kd', options_of=dict(kd=dict(input_size=(1, 8, 8)))),
            ValueError,
            'input_size of kd is an option of all',
        ),
        (
            with_option('ofa+kd', options_of=dict(kd=dict(teacher=None))),
            ValueError,
            'teacher of kd is an option of all',
        ),
        (with_option('ofa+kd', options_of=dict(rsd={})), ValueError, 'expected the options of ofa, kd'),
        (with_option('ofa+kd', options_of=dict(ofa=1.4)), TypeError, 'expected a dict of dicts'),
        (with_option('ofa+kd', options_of=[1]), TypeError, 'expected a dict of dicts'),
        (with_option('ofa+kd', weights=2.0), TypeError, 'expected 2 finite numbers'),
        (with_option('ofa+kd', weights=dict(ofa=1, kd=2)), TypeError, 'expected 2 finite numbers'),
        (with_option('ofa+kd', weights=(1, float('nan'))), ValueError, r'got \[1, nan\]'),
        (with_option('ofa+kd', weights=(1, -1)), ValueError, r'got \[1, -1\]'),
        (with_option('ofa+kd', weights=(1, float('inf'))), ValueError, r'got \[1, inf\]'),
        (
            with_option('ofa', exit_weight=-1.0),
            ValueError,
            'exit_weight: expected a finite number of at least 0',
        ),
        (with_option('ofa', exit_weight=(1, 2, 1, 1)), TypeError, 'exit_weight: expected a number'),
        (with_option('ofa', kd_weight=float('nan')), ValueError, 'kd_weight'),
        (with_option('ofa', form='released', label_weight=-1), ValueError, 'label_weight'),
        (with_option('deep_supervision', exit_weight=float('inf')), ValueError, 'exit_weight'),
        (with_option('deep_supervision', teacher_width=-1), ValueError, 'teacher_width'),
        (with_option('ofa', stages='4'), TypeError, 'stages: expected'),
        (with_option('ofa', stages=(1, 1)), ValueError, r'one or more of \(1, 2, 3, 4\), each once'),
        (with_option('hcd', stages=9), ValueError, 'got 9'),
        (with_option('kd', positions=3), TypeError, "positions: expected 'even', 'released' or a list"),
        (
            with_option('kd', positions=iter([3])),
            TypeError,
            "positions: expected 'even', 'released' or a list",
        ),
        (with_option('ofa', positions=(3, 3)), ValueError, r'from 0 to 3, each once, got \[3, 3\]'),
        (with_option('ofa', positions=(-1, 3)), ValueError, r'each once, got \[-1, 3\]'),
        (with_option('ofa', positions=()), ValueError, r'positions: .*got \[\]'),
        (with_option('kd', setting={}), ValueError, 'setting: expected one of own, ofa_paper, got {}'),
        (
            with_option('kd', positions='odd'),
            ValueError,
            "positions: expected one of even, released, got 'odd'",
        ),
        (with_option('kd', kind='graph'), ValueError, "kind: expected 'maps' or 'tokens'"),
        (with_option('kd', label_smoothing='a bit'), TypeError, 'label_smoothing: expected a number'),
        (with_option('kd', input_norm=(0.5, 0.5)), TypeError, 'input_norm: expected'),
        (with_option('kd', input_norm=((0.5,), (0.0,))), ValueError, 'input_norm: .*deviations above 0'),
        (with_option('kd', input_norm=((0.5,) * 3, (0.5,) * 3)), ValueError, 'input_norm: .*1 of each'),
        (
            lambda: create_task('ofa+kd', 'micro_vit', make_model('micro_resnet')),
            ValueError,
            'input_size: give',
        ),
        (lambda: create_task('kd', 'micro_vit', None, data=3), TypeError, 'data: expected a data set'),
        (
            lambda: create_task('labels', 'micro_vit', input_size=(8, 8)),
            ValueError,
            r'\(C, H, W\).*got \(8, 8\)',
        ),
        (
            lambda: create_task('labels', 'micro_vit', input_size=(1, 8, 8), num_classes=0),
            ValueError,
            'num_classes',
        ),
        (lambda: Teacher(make_model('micro_resnet'), pretrained=True), ValueError, 'goes with the name'),
        (lambda: Teacher(make_model('micro_resnet'), norm=(0.5, 0.5)), TypeError, 'norm: expected'),
        (
            lambda: create_task(
                'kd',
                'micro_vit',
                Teacher(make_model('micro_resnet'), norm=((0.5,) * 3, (0.5,) * 3)),
                data=DATA,
            ),
            ValueError,
            "the teacher's norm: .*1 of each",
        ),
    ],
)
def test_options_that_would_be_ignored_or_fail_later(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_an_error_inside_a_method_stays_what_it_is(methods):
    @register('broken')
    class Broken(Labels):
        def __init__(self, student, teacher=None, **options):
            self.own = options.pop('own', 1)
            super().__init__(student, teacher, **options)

        def build_heads(self):
            raise TypeError('something of its own')

    with pytest.raises(TypeError, match='^something of its own$'):
        make('broken', own=2)
    Broken.build_heads = lambda self: nn.Linear(2, 2, size=3)
    with pytest.raises(TypeError, match="__init__.. got an unexpected keyword argument 'size'"):
        make('broken')


def test_needs_are_some_of_what_a_teacher_gives():
    for needs in ('logits', ('logit',), ('logits', 'pool')):
        with pytest.raises(ValueError, match='needs: expected a tuple of logits, pooled, maps'):
            type('Odd', (Labels,), dict(needs=needs))(
                'micro_vit', make_model('micro_resnet'), input_size=(1, 8, 8)
            )


# --- several methods at once ---------------------------------------------------------------------


class Counting(Labels):
    "Carries a number from step to step, reads whether it trains, has a buffer and its own labels."

    needs = ('logits',)

    def __init__(self, student, teacher=None, **options):
        super().__init__(student, teacher, **options)
        self.register_buffer('centre', torch.zeros(2))
        self.steps, self.seen = 0, None

    def targets(self, target):
        return super().targets(target.flip(0))

    def losses(self, student, heads, teacher, target):
        self.steps, self.seen = self.steps + 1, (self.training, self.epoch, self.index, target)
        return dict(mine=nn.functional.cross_entropy(student.logits, target))

    def get_task_state(self, module=None, ema=False):
        return super().get_task_state(module, ema) | dict(steps=self.steps)

    def load_task_state(self, state, strict=True, module=None, ema=False):
        super().load_task_state(state, strict, module, ema)
        self.steps = state['steps']


def test_what_the_whole_passes_on_to_each_method(methods):
    register('counting')(Counting)
    task = make('ofa+counting', label_smoothing=0.1)
    part = task.members['counting']
    task.epoch = 3
    task.train()(X, Y, index=torch.arange(6))
    training, epoch, index, target = part.seen
    assert training and epoch == 3 and torch.equal(index, torch.arange(6))
    torch.testing.assert_close(target, torch.eye(10)[Y.flip(0)] * 0.9 + 0.01)
    task.eval()(X, Y)
    assert part.seen[0] is False
    task.double()
    assert part.centre.dtype == torch.float64 and part.dtype == torch.float64
    again = make('ofa+counting', label_smoothing=0.1)
    again.load_task_state(task.get_task_state())
    assert (
        task.get_task_state()['members'] == dict(counting=dict(steps=2))
        and again.members['counting'].steps == 2
    )
    assert 'members' not in make('ofa+kd').get_task_state()
    old = {k: v for k, v in task.get_task_state().items() if k != 'members'}
    again.load_task_state(old)  # a checkpoint of before
    copied = copy.deepcopy(task)
    assert copied.members['counting'].teacher is copied.teacher is not task.teacher
    assert next(iter(copied.tasks)) is next(iter(copied.members.values()))
    names = [n for n, _ in task.named_parameters()]
    assert not any(n.startswith('tasks') for n in names) and len(names) == len(
        set(map(id, task.parameters()))
    )


@pytest.mark.parametrize('method', ['counting', 'labels+counting'])
def test_a_resumed_run_has_what_its_method_carries(methods, method, tmp_path):
    register('counting')(Counting)

    def run(**how):
        torch.manual_seed(0)
        task = create_task(method, 'micro_vit', make_model('micro_resnet'), data=DATA)
        fit(task, DATA, 2, out=tmp_path, device='cpu', progress=False, **how)
        return (task.members['counting'] if '+' in method else task).steps

    assert run() == run(resume=True) == 4  # two batches an epoch; the second run only reads the checkpoint


def test_a_method_that_replaces_the_whole_cannot_be_joined(methods):
    @register('two_views')
    class TwoViews(Labels):
        def answers(self, input):
            return super().answers(input.flip(-1))

    assert make('two_views')(X, Y)['loss'].isfinite()
    with pytest.raises(ValueError, match='two_views has its own answers, so it cannot be joined'):
        make('ofa+two_views')


def test_a_file_is_read_once_for_all_methods(tmp_path, monkeypatch):
    import ofa_learn.weights as module

    file, reads = save_model(make_model('micro_resnet'), tmp_path / 'teacher.safetensors', (1, 8, 8)), []
    load = module.load_model

    def counted(path):
        reads.append(path)
        return load(path)

    monkeypatch.setattr(module, 'load_model', counted)
    for given in (str(file), file):
        task = create_task('ofa+rsd+kd', 'micro_vit', given, input_size=(1, 8, 8))
        assert len(reads) == 1 and all(p.teacher is task.teacher for p in task.members.values())
        reads.clear()
        assert task.double()(X.double(), Y)['loss'].isfinite()
    create_task('labels+deep_supervision', 'micro_vit', 'nowhere.safetensors', input_size=(1, 8, 8))
    with pytest.raises(ValueError, match='OFA needs one'):
        create_task('ofa+kd', 'micro_vit', input_size=(1, 8, 8))


@pytest.mark.parametrize('method, own', [('crd', True), ('ofa+crd', True), ('ofa+kd', False)])
def test_memory_banks_stay_with_their_process(method, own, tmp_path):
    crd = dict(num_samples=6)
    more = crd if method == 'crd' else dict(options_of=dict(crd=crd)) if own else {}
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/meet', rank=0, world_size=1)
    try:
        for given in ({}, dict(broadcast_buffers=True)):
            wrapped = make(method, **more).prepare_distributed(**given).trainable_module
            synced = getattr(wrapped, 'forward_sync_buffers', None)
            synced = wrapped.broadcast_buffers if synced is None else synced
            assert synced is not (own and not given)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize('method', ['ofa', 'scalekd', 'ofa+crd'])
def test_tasks_are_copied_and_pickled_whole(method):
    more = dict(options_of=dict(crd=dict(num_samples=6))) if 'crd' in method else {}
    task, index = make(method, **more).eval(), torch.arange(6)
    want = task(X, Y, index=index)['loss']
    copied = copy.deepcopy(task)
    assert torch.equal(copied(X, Y, index=index)['loss'], want)
    assert torch.equal(pickle.loads(pickle.dumps(task))(X, Y, index=index)['loss'], want)
    assert copied.teacher is not task.teacher and not any(
        p.requires_grad for p in copied.teacher.parameters()
    )


def test_two_tasks_share_one_teacher():
    teacher = Teacher(make_model('micro_resnet'))
    tasks = [create_task(m, 'micro_vit', teacher, input_size=(1, 8, 8)) for m in ('ofa', 'rsd', 'kd+fitnet')]
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='rsd: a batch')
        for task in tasks:
            task.train()(X, Y)['loss'].backward()
            assert task.teacher is teacher and not teacher.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())


def test_what_renormalises_for_a_teacher_is_where_the_teacher_is():
    "Also beside a task: a cache asks its teacher on a GPU with images that are there."
    teacher = Teacher(make_model('micro_resnet'), norm=((0.5,), (0.2,)), input_size=(1, 8, 8)).to('meta')
    found = fit_teacher(teacher, DATA.input_size, DATA.norm, 10, ('logits',))
    assert {b.device.type for b in found.buffers()} == {'meta'}
