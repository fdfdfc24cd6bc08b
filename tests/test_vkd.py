"VkD: the slow formula, a projection that stays orthogonal, teachers without a classifier, what is refused."

import copy

import numpy as np
import pytest
import torch

from ofa_learn.data import digits, split
from ofa_learn.losses import kd_loss
from ofa_learn.models import make_model
from ofa_learn.tasks import create_task
from ofa_learn.training import fit
from ofa_learn.vkd import vkd_loss

DATA = split(digits(), train=60)
X, Y = DATA.norm(DATA.train.images[:8]), DATA.train.labels[:8]
same = torch.testing.assert_close


def make(student='micro_vit', teacher='micro_resnet', **options):
    torch.manual_seed(0)
    teacher = make_model(teacher) if isinstance(teacher, str) else teacher
    return create_task('vkd', student, teacher, **(dict(data=DATA) | options))


def features(seed, b=6, d=5):
    return torch.randn(b, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def slow(s, t):
    "Image by image in NumPy's float64."
    total = []
    for a, b in zip(s.double().numpy(), t.double().numpy()):
        apart = np.abs(a - (b - b.mean()) / np.sqrt(b.var() + 1e-5))
        total.append(np.where(apart < 1, 0.5 * apart**2, apart - 0.5))
    return np.mean(total)


def test_by_hand_and_its_limits():
    s, t = features(0), features(1)
    assert vkd_loss(s, t).item() == pytest.approx(slow(s, t), rel=1e-9)
    normed = torch.nn.functional.layer_norm(t, (5,))
    assert vkd_loss(normed, t).item() == 0
    same(vkd_loss(s, 7 * t - 2), vkd_loss(s, t), atol=1e-4, rtol=1e-4)
    same(vkd_loss(s, torch.full_like(t, 3.0)), vkd_loss(s, torch.zeros_like(t)))  # nothing to say, no NaN
    assert torch.autograd.gradcheck(lambda z: vkd_loss(z, t), s.requires_grad_())


@pytest.mark.parametrize('opt', ['adamw', 'muon'])
@pytest.mark.parametrize('student, teacher', [('micro_vit', 'micro_resnet'), ('micro_resnet', 'micro_vit')])
def test_the_projection_is_orthogonal_before_and_after_training(student, teacher, opt):
    "Weight decay and Muon made PyTorch's default, by Householder reflections, a matrix of zeros."
    task = make(student, teacher)
    heads = task.trainable_module.heads

    def off():
        w = heads.matrix().detach()
        small = w.T @ w if w.shape[0] > w.shape[1] else w @ w.T
        return (small - torch.eye(len(small))).abs().max().item()

    before = heads.matrix().detach().clone()
    assert off() < 1e-5
    how = dict(lr=1e-2, opt=opt, weight_decay=0.05, eval_every=8, device='cpu', progress=False)
    first, *_, last = fit(task, DATA, 8, **how)
    assert off() < 1e-4 and (heads.matrix() - before).abs().max() > 1e-3
    assert last['losses']['vkd'] < first['losses']['vkd']
    again = copy.deepcopy(task)
    assert torch.equal(again.trainable_module.heads.matrix(), heads.matrix())
    assert torch.equal(heads.turn.weight, heads.matrix())


def test_the_parts_are_what_they_say():
    task = make(weight=2.0, kd_weight=0.5).eval()
    out = task(X, Y)
    found, projected = task.trainable_module(X, None)
    answers = task.answers(X)
    assert out['vkd'].item() == pytest.approx(2 * slow(projected.detach(), answers.pooled), rel=1e-5)
    same(projected, found.pooled @ task.trainable_module.heads.matrix().T)
    same(out['kd'], 0.5 * kd_loss(found.logits, answers.logits))
    assert make().status == 'adapted'


@pytest.mark.parametrize('teacher', ['micro_resnet', 'micro_vit', 'micro_mixer'])
def test_a_teacher_without_a_classifier(teacher):
    task = make(teacher=make_model(teacher, 0), kd_weight=0)
    assert task.needs == ('pooled',)
    assert set(task(X, Y)) == {'loss', 'output', 'ce', 'vkd'}
    with pytest.raises(ValueError, match='teacher'):
        make(teacher=make_model(teacher, 0))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_halves_and_autocast(dtype):
    s, t = features(0).to(dtype), 1e3 * features(1).to(dtype)
    out = vkd_loss(s, t)
    assert out.dtype == torch.float32 and out.isfinite()
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(vkd_loss(s, t), out)
        losses = make()(X, Y)
    assert losses['vkd'].dtype == torch.float32 and losses['loss'].isfinite()
    if dtype == torch.bfloat16:
        task = make().to(dtype)
        task(X.to(dtype), Y)['loss'].backward()
        assert task.trainable_module.heads.turn.parametrizations.weight.original.grad.isfinite().all()


@pytest.mark.parametrize(
    's, t', [((6, 5), (6, 4)), ((6, 5), (5, 5)), ((6,), (6,)), ((6, 1), (6, 1)), ((2, 6, 5), (2, 6, 5))]
)
def test_shapes_that_do_not_fit_are_named(s, t):
    with pytest.raises(ValueError, match=r'student, teacher: expected \(B, D\) each with D ≥ 2'):
        vkd_loss(torch.zeros(s), torch.zeros(t))


@pytest.mark.parametrize('option', ['weight', 'kd_weight'])
@pytest.mark.parametrize('value', [-1.0, float('nan'), '1', True])
def test_weights_are_refused_by_name(option, value):
    with pytest.raises((ValueError, TypeError), match=f'{option}: expected'):
        make(**{option: value})
