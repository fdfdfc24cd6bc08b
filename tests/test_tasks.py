"""Tasks: what the lessons do not show of teachers, checkpoints, wrappers and bad input."""

import copy

import pytest
import torch
import torch.nn as nn

from ofa_learn.data import Augment, Batches, digits, from_arrays, split
from ofa_learn.distill import Teacher, all_methods, create_task, unwrapped
from ofa_learn.models import find_taps, make_model
from ofa_learn.training import NotFinite, distill, fit, predict

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
    with pytest.raises(NotFinite, match='kd, loss at epoch 1, step 1'):
        fit(task, DATA, 5, device='cpu', progress=False)


def test_same_seeds_same_student_and_methods_are_paired():
    run = lambda method, seed: distill(
        method,
        'micro_vit',
        make_model('micro_resnet'),
        DATA,
        1,
        seed=seed,
        device='cpu',
        progress=False,
        augment=Augment(shift=1),
    )
    a, b, c = run('kd', 0), run('kd', 0), run('kd', 1)
    assert torch.equal(predict(a.student, DATA.test, DATA.norm), predict(b.student, DATA.test, DATA.norm))
    assert not torch.equal(predict(a.student, DATA.test, DATA.norm), predict(c.student, DATA.test, DATA.norm))

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


@pytest.mark.parametrize('stages, parts', [(4, {'exit_4'}), ((4, 1), {'exit_1', 'exit_4'})])
def test_one_stage_or_several_get_exits(stages, parts):
    for method in ('ofa', 'deep_supervision'):
        out = make(method, stages=stages)(X, Y)
        assert {k for k in out if k.startswith('exit')} == parts
    assert make('hcd', stages=stages).stages == tuple(int(p[-1]) for p in sorted(parts))
