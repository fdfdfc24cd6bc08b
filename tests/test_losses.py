"""Properties of the losses, against slow formulas written apart from them."""
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_learn.losses import FORMS, class_weights, dark_mass, decompose, kd_loss, ofa_loss

seeds, gammas = st.integers(0, 10_000), st.floats(1, 4)
many = settings(max_examples=40, deadline=None)


def problem(seed, b=6, k=5, scale=3., dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    z = lambda: (torch.randn(b, k, generator=g, dtype=torch.float64)*scale).to(dtype)
    return z(), z(), torch.randint(k, (b,), generator=g)


def slow(z_s, z_t, y, gamma, form, T=1.):
    "methods.md §1.1 sample by sample, class by class."
    softmax = lambda z: np.exp(z/T - (z/T).max())/np.exp(z/T - (z/T).max()).sum()
    total = []
    for s, t, label in zip(z_s.numpy(), z_t.numpy(), y.tolist()):
        p, q, loss = softmax(t), softmax(s), 0.
        for c in range(len(p)):
            one = 1. if c == label else 0.
            w = (p[c] + one)**gamma if form == 'paper' and one else p[c] if form == 'paper' else (p[c] + one)**gamma - one
            loss -= w*math.log(q[c])
        total.append(loss)
    return torch.tensor(total, dtype=torch.float64)


@many
@given(seeds, gammas, st.sampled_from(FORMS), st.floats(.5, 5))
def test_against_the_formula(seed, gamma, form, T):
    z_s, z_t, y = problem(seed)
    torch.testing.assert_close(ofa_loss(z_s, z_t, y, gamma=gamma, form=form, temperature=T, reduction='none'), slow(z_s, z_t, y, gamma, form, T))


@many
@given(seeds)
def test_gamma_one_is_kd(seed):
    z_s, z_t, y = problem(seed)
    z_s.requires_grad_()
    ours = ofa_loss(z_s, z_t, y)
    soft = -(z_t.softmax(-1)*z_s.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(ours, F.cross_entropy(z_s, y) + soft)
    grad = lambda l: torch.autograd.grad(l, z_s)[0]
    torch.testing.assert_close(grad(ours), grad(F.cross_entropy(z_s, y) + kd_loss(z_s, z_t)))
    torch.testing.assert_close(ofa_loss(z_s, z_t, y), F.cross_entropy(z_s, y) + ofa_loss(z_s, z_t, y, form='released'))


@many
@given(seeds, st.integers(1, 5))
def test_eq7_is_eq6(seed, gamma):
    z_s, z_t, y = problem(seed)
    parts = decompose(z_s, z_t, y, gamma=gamma)
    p, nll = z_t.softmax(-1).gather(1, y[:, None])[:, 0], F.cross_entropy(z_s, y, reduction='none')
    eq7 = parts.kd + (sum(math.comb(gamma, k)*p**k for k in range(1, gamma + 1)) - p)*nll
    torch.testing.assert_close(eq7, ofa_loss(z_s, z_t, y, gamma=gamma, reduction='none'))
    torch.testing.assert_close(parts.kd + parts.terms.sum(0) - parts.target, parts.ofa)
    torch.testing.assert_close(parts.cross_entropy + parts.target + parts.non_target, parts.kd)
    if gamma == 2: torch.testing.assert_close(parts.extra, (p + p**2)*nll)       # Eq. 8


@many
@given(seeds, gammas)
def test_series_for_real_gamma(seed, gamma):
    z_s, z_t, y = problem(seed)
    parts = decompose(z_s, z_t, y, gamma=gamma, n=60)
    torch.testing.assert_close(parts.kd + parts.terms.sum(0) - parts.target + parts.remainder, parts.ofa)
    assert parts.remainder.abs().max() < 2e-2*parts.cross_entropy.max()


@many
@given(seeds, st.lists(gammas, min_size=3, max_size=3), st.sampled_from(FORMS), st.booleans())
def test_stack_equals_calls(seed, each, form, one):
    z_s, z_t, y = problem(seed)
    stack = torch.stack([z_s, z_s.flip(0), 2*z_s]).requires_grad_()
    gamma = each[0] if one else each
    losses = ofa_loss(stack, z_t, y, gamma=gamma, form=form)
    apart = torch.stack([ofa_loss(z, z_t, y, gamma=g, form=form) for z, g in zip(stack, [each[0]]*3 if one else each)])
    torch.testing.assert_close(losses, apart)
    torch.testing.assert_close(*(torch.autograd.grad(l.sum(), stack)[0] for l in (losses, apart)))


@many
@given(seeds, gammas, st.sampled_from(FORMS))
def test_order_changes_nothing(seed, gamma, form):
    z_s, z_t, y = problem(seed)
    g = torch.Generator().manual_seed(seed)
    classes, images = torch.randperm(5, generator=g), torch.randperm(6, generator=g)
    loss = ofa_loss(z_s, z_t, y, gamma=gamma, form=form)
    torch.testing.assert_close(ofa_loss(z_s[images], z_t[images], y[images], gamma=gamma, form=form), loss)
    torch.testing.assert_close(ofa_loss(z_s[:, classes], z_t[:, classes], classes.argsort()[y], gamma=gamma, form=form), loss)


@many
@given(seeds, gammas, st.sampled_from(FORMS), st.floats(0, 1))
def test_mixture(seed, gamma, form, lam):
    z_s, z_t, y = problem(seed)
    one_hot = F.one_hot(y, 5).double()
    for soft in ('mixture', 'hard'):
        torch.testing.assert_close(ofa_loss(z_s, z_t, one_hot, gamma=gamma, form=form, soft=soft), ofa_loss(z_s, z_t, y, gamma=gamma, form=form))
    other = y.roll(1)
    mixed = lam*one_hot + (1 - lam)*F.one_hot(other, 5).double()
    hard = lambda t: ofa_loss(z_s, z_t, t, gamma=gamma, form=form)
    torch.testing.assert_close(ofa_loss(z_s, z_t, mixed, gamma=gamma, form=form), lam*hard(y) + (1 - lam)*hard(other))
    assert (class_weights(z_t.softmax(-1), mixed, gamma, form) >= 0).all()


@pytest.mark.parametrize('dtype, tol', [(torch.float16, 2e-2), (torch.bfloat16, 2e-1), (torch.float32, 1e-5)])
@pytest.mark.parametrize('form', FORMS)
def test_low_precision(dtype, tol, form):
    z_s, z_t, y = problem(0)
    exact, low = z_s.clone().requires_grad_(), z_s.to(dtype).requires_grad_()
    loss = ofa_loss(low, z_t.to(dtype), y, gamma=2.5, form=form)
    assert loss.dtype == torch.float32
    loss.backward()
    ofa_loss(exact, z_t, y, gamma=2.5, form=form).backward()
    assert ((low.grad.double() - exact.grad).norm()/exact.grad.norm()) < tol
    big = ofa_loss((z_s*1e4).clamp(-1e4, 1e4).to(dtype), (z_t*1e4).clamp(-1e4, 1e4).to(dtype), y, gamma=2.5, form=form)
    assert big.isfinite() and big.dtype == torch.float32
    assert kd_loss(low, z_t.to(dtype), temperature=4.).dtype == torch.float32


def test_float64_and_gradcheck():
    z_s, z_t, y = problem(1)
    z_s.requires_grad_()
    for form in FORMS:
        assert torch.autograd.gradcheck(lambda z: ofa_loss(z, z_t, y, gamma=1.7, form=form, temperature=2.), z_s)
    assert torch.autograd.gradcheck(lambda z: kd_loss(z, z_t, temperature=3.), z_s)


def test_autocast_and_no_gradient_to_the_teacher():
    z_s, z_t, y = problem(2, dtype=torch.float32)
    z_t.requires_grad_()
    z_s.requires_grad_()
    with torch.autocast('cpu', torch.bfloat16): loss = ofa_loss(z_s, z_t, y, gamma=1.4) + kd_loss(z_s, z_t)
    assert loss.dtype == torch.float32
    loss.backward()
    assert z_t.grad is None and z_s.grad.isfinite().all()
    torch.testing.assert_close(loss, ofa_loss(z_s, z_t, y, gamma=1.4) + kd_loss(z_s, z_t))


def test_dark_mass_numbers():
    p = torch.cat([torch.tensor([.169]), torch.full((99,), .831/99)])[None]
    y = torch.zeros(1, dtype=torch.long)
    assert dark_mass(p, y, 1.5, 'released').item() == pytest.approx(.076, abs=5e-4)
    assert dark_mass(p, y, 1.5, 'paper').item() == pytest.approx(.831, abs=1e-5)


def bad(**changes):
    z_s, z_t, y = problem(0, dtype=torch.float32)
    call = dict(student_logits=z_s, teacher_logits=z_t, target=y) | changes
    return lambda: ofa_loss(**call)


Z, Y = torch.zeros(6, 5), torch.zeros(6, dtype=torch.long)
SOFT = torch.full((6, 5), .2)


@pytest.mark.parametrize('changes, error, says', [
    (dict(teacher_logits=Z[:, :4]), ValueError, '4 classes, but student_logits has 5'),
    (dict(teacher_logits=Z[:3]), ValueError, '3 images'),
    (dict(student_logits=Z[0]), ValueError, r'student_logits: expected \(B, K\)'),
    (dict(student_logits=Z.long()), TypeError, 'student_logits: expected a floating-point'),
    (dict(student_logits=[1., 2.]), TypeError, 'got list'),
    (dict(student_logits=Z[:, :1], teacher_logits=Z[:, :1]), ValueError, 'at least 2 classes'),
    (dict(student_logits=Z[:0], teacher_logits=Z[:0], target=Y[:0]), ValueError, 'empty batch'),
    (dict(target=Y + 5), ValueError, 'classes 0 to 4, got 5 to 5'),
    (dict(target=Y - 1), ValueError, 'got -1'),
    (dict(target=Y.float()), TypeError, 'int64'),
    (dict(target=Y.int()), TypeError, 'int64, got torch.int32'),
    (dict(target=Y[:4]), ValueError, 'expected 6 class indices, got 4'),
    (dict(target=SOFT[:, :4]), ValueError, r'\(6, 5\) probabilities'),
    (dict(target=SOFT*2), ValueError, 'sum to 1'),
    (dict(target=torch.tensor([[1.5, -.5, 0, 0, 0]]*6)), ValueError, 'at least 0'),
    (dict(target=SOFT*float('nan')), ValueError, 'NaN'),
    (dict(gamma=.99), ValueError, 'gamma: expected finite numbers of at least 1'),
    (dict(gamma=float('nan')), ValueError, 'gamma'),
    (dict(gamma=float('inf')), ValueError, 'gamma'),
    (dict(gamma='1'), TypeError, 'gamma'),
    (dict(gamma=[1., 2.]), ValueError, 'gamma: expected one number, got 2'),
    (dict(temperature=0), ValueError, 'temperature'),
    (dict(temperature=-1.), ValueError, 'temperature'),
    (dict(temperature='hot'), TypeError, 'temperature'),
    (dict(form='papper'), ValueError, "did you mean 'paper'"),
    (dict(reduction='avg'), ValueError, 'mean, sum, none'),
    (dict(soft='mixup'), ValueError, "did you mean 'mixture'"),
])
def test_bad_input(changes, error, says):
    with pytest.raises(error, match=says): bad(**changes)()
