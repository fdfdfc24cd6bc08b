"""Properties of the losses, against slow formulas written apart from them."""

import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_learn.arguments import check_gamma, check_target, check_weight
from ofa_learn.losses import (
    _FORMS,
    _SOFT,
    REDUCTIONS,
    binomial,
    class_weights,
    dark_mass,
    decompose,
    kd_loss,
    ofa_loss,
    target_weight,
)

ROOT = Path(__file__).resolve().parent.parent
seeds, gammas, forms = st.integers(0, 10_000), st.floats(1, 4), st.sampled_from(_FORMS)
many, few = settings(max_examples=30, deadline=None), settings(max_examples=12, deadline=None)
same = torch.testing.assert_close
nan, inf = float('nan'), float('inf')


def problem(seed, b=6, k=5, scale=3.0, dtype=torch.float64):
    "Student logits, teacher logits, labels."
    g = torch.Generator().manual_seed(seed)

    def logits():
        return (torch.randn(b, k, generator=g, dtype=torch.float64) * scale).to(dtype)

    return logits(), logits(), torch.randint(k, (b,), generator=g)


def soft_labels(seed, b=6, k=5):
    return (
        torch.randn(b, k, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
        .mul(2)
        .softmax(-1)
    )


def grad(loss, z):
    z = z.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(z).sum(), z)[0]


def slow_weight(p, t, gamma, form):
    "One class's weight: as the target to the degree t, as another class for the rest."
    if form == 'paper':
        return t * (1 + p) ** gamma + (1 - t) * p
    return t * ((1 + p) ** gamma - 1) + (1 - t) * p**gamma


def slow(z_s, z_t, target, gamma, form, T=1.0):
    "Image by image and class by class, in NumPy's float64."

    def log_softmax(z):
        z = np.asarray(z, dtype=np.float64) / T
        z = z - z.max()
        return z - math.log(np.exp(z).sum())

    out = []
    for s, t, label in zip(z_s.tolist(), z_t.tolist(), target.tolist()):
        p, log_q, loss = np.exp(log_softmax(t)), log_softmax(s), 0.0
        for c in range(len(p)):
            degree = label[c] if isinstance(label, list) else float(c == label)
            loss -= slow_weight(p[c], degree, gamma, form) * log_q[c]
        out.append(loss)
    return torch.tensor(out, dtype=torch.float64)


def released_as_written(z_s, z_t, y, gamma):
    "The released code's formula, on all classes at once: w = (p + 1_y)^γ - 1_y."
    p, one = z_t.softmax(-1).numpy(), np.eye(z_t.shape[1])[y.numpy()]
    return torch.from_numpy(-(((p + one) ** gamma - one) * z_s.log_softmax(-1).numpy()).sum(-1))


# --- the formulas


@many
@given(seeds, gammas, forms, st.floats(0.5, 5), st.booleans())
def test_against_the_formula(seed, gamma, form, T, soft):
    z_s, z_t, y = problem(seed)
    target = soft_labels(seed) if soft else y
    same(
        ofa_loss(z_s, z_t, target, gamma=gamma, form=form, temperature=T, reduction='none'),
        slow(z_s, z_t, target, gamma, form, T),
    )


@few
@given(seeds, gammas)
def test_released_as_written(seed, gamma):
    z_s, z_t, y = problem(seed)
    same(
        ofa_loss(z_s, z_t, y, gamma=gamma, form='released', reduction='none'),
        released_as_written(z_s, z_t, y, gamma),
    )


@many
@given(seeds)
def test_gamma_one_is_kd(seed):
    z_s, z_t, y = problem(seed)

    def soft_ce(z):
        return -(z_t.softmax(-1) * z.log_softmax(-1)).sum(-1).mean()

    def released(z):
        return ofa_loss(z, z_t, y, form='released')

    same(ofa_loss(z_s, z_t, y), F.cross_entropy(z_s, y) + soft_ce(z_s))
    same(
        grad(lambda z: ofa_loss(z, z_t, y), z_s), grad(lambda z: F.cross_entropy(z, y) + kd_loss(z, z_t), z_s)
    )
    same(released(z_s), soft_ce(z_s))
    same(grad(released, z_s), grad(lambda z: kd_loss(z, z_t), z_s))
    same(ofa_loss(z_s, z_t, y), F.cross_entropy(z_s, y) + released(z_s))


@few
@given(seeds, st.floats(0.5, 8))
def test_kd(seed, T):
    z_s, z_t, _ = problem(seed)
    log_s, log_t = ((z / T).log_softmax(-1) for z in (z_s, z_t))
    same(
        kd_loss(z_s, z_t, temperature=T),
        T**2 * F.kl_div(log_s, log_t, reduction='batchmean', log_target=True),
    )
    same(
        grad(lambda z: kd_loss(z, z_t, temperature=T, reduction='sum'), z_s), T * (log_s.exp() - log_t.exp())
    )
    same(kd_loss(z_t, z_t, temperature=T), torch.zeros((), dtype=torch.float64))


@many
@given(seeds, st.integers(1, 5))
def test_eq7_is_eq6(seed, gamma):
    z_s, z_t, y = problem(seed)
    p, nll = z_t.softmax(-1).gather(1, y[:, None])[:, 0], F.cross_entropy(z_s, y, reduction='none')
    kd = nll - (z_t.softmax(-1) * z_s.log_softmax(-1)).sum(-1)  # Eq. 5
    eq7 = kd + (sum(math.comb(gamma, k) * p**k for k in range(1, gamma + 1)) - p) * nll
    same(eq7, ofa_loss(z_s, z_t, y, gamma=gamma, reduction='none'))
    if gamma == 2:
        same(kd + (p + p**2) * nll, ofa_loss(z_s, z_t, y, gamma=2, reduction='none'))  # Eq. 8


@many
@given(seeds, st.one_of(st.integers(1, 5), gammas), st.floats(0.5, 4), st.integers(1, 12))
def test_parts_add_up(seed, gamma, T, n):
    z_s, z_t, y = problem(seed)
    d = decompose(z_s, z_t, y, gamma=gamma, temperature=T, n=n)
    same(d.cross_entropy, F.cross_entropy(z_s / T, y, reduction='none'))
    same(d.cross_entropy + d.target + d.non_target, d.kd)
    same(d.kd + d.extra, d.ofa)
    same(d.terms.sum(0) + d.remainder - d.target, d.extra)
    same(d.ofa, ofa_loss(z_s, z_t, y, gamma=gamma, temperature=T, reduction='none'))
    assert (d.extra >= -1e-12).all()
    if gamma == int(gamma):
        assert len(d.terms) == int(gamma)
        assert d.remainder.abs().max() <= 1e-10 * d.ofa.max()
    else:
        assert len(d.terms) == n


@few
@given(seeds, gammas)
def test_series_converges(seed, gamma):
    z_s, z_t, y = problem(seed)
    assert (
        decompose(z_s, z_t, y, gamma=gamma, n=200).remainder.abs().max()
        < 2e-3 * decompose(z_s, z_t, y).cross_entropy.max()
    )


def test_binomial():
    assert all(binomial(g, g) == [math.comb(g, k) for k in range(1, g + 1)] for g in range(1, 9))


# --- masked classes: 0·log 0 is 0, and what is no logit is not hidden

WITH_TEACHER = {
    'ofa': lambda s, t, y: ofa_loss(s, t, y, gamma=1.4),
    'ofa released': lambda s, t, y: ofa_loss(s, t, y, gamma=2.0, form='released', temperature=2.0),
    'ofa stack': lambda s, t, y: ofa_loss(torch.stack([s, 2 * s]), t, y, gamma=[1.0, 1.4]),
    'kd': lambda s, t, y: kd_loss(s, t, temperature=3.0),
    'kd stack': lambda s, t, y: kd_loss(torch.stack([s, 2 * s]), t),
    'decompose': lambda s, t, y: torch.stack([p for p in decompose(s, t, y, gamma=1.4) if p.ndim == 1]),
    'terms': lambda s, t, y: decompose(s, t, y, gamma=1.4).terms,
}


@pytest.mark.parametrize('name', WITH_TEACHER)
def test_a_class_that_both_mask_is_as_if_it_were_not_there(name):
    loss, (s, t, _) = WITH_TEACHER[name], problem(0)
    y, kept = torch.tensor([0, 1, 3, 4, 0, 1]), [0, 1, 3, 4]
    few_s, few_t, few_y = s[:, kept], t[:, kept], torch.tensor([0, 1, 2, 3, 0, 1])
    s, t = (z.clone().index_fill(1, torch.tensor([2]), -inf) for z in (s, t))
    same(loss(s, t, y), loss(few_s, few_t, few_y))
    g = grad(lambda z: loss(z, t, y), s)
    same(g[:, kept], grad(lambda z: loss(z, few_t, few_y), few_s))
    assert not g[:, 2].any()


@pytest.mark.parametrize('name', WITH_TEACHER)
def test_a_teacher_that_masks_is_the_limit_of_one_that_gives_next_to_nothing(name):
    "For wrong classes and for the true one, which is masked in the third image."
    loss, (s, t, _), y = WITH_TEACHER[name], problem(0), torch.tensor([0, 1, 2, 3, 4, 0])
    never, hardly = (t.index_fill(1, torch.tensor([2]), v) for v in (-inf, -1e4))
    same(loss(s, never, y), loss(s, hardly, y))
    same(grad(lambda z: loss(z, never, y), s), grad(lambda z: loss(z, hardly, y), s))


@pytest.mark.parametrize('name', WITH_TEACHER)
@pytest.mark.parametrize('who', ['student', 'teacher'])
@pytest.mark.parametrize('value', [nan, inf])
def test_what_is_no_logit_is_not_hidden(name, who, value):
    for at in range(5):
        s, t, y = problem(0)
        (s if who == 'student' else t)[0, at] = value
        assert not WITH_TEACHER[name](s, t, y).isfinite().all()


def test_a_student_that_masks_what_is_wanted_pays_without_end():
    s, t, y = problem(0)
    s[0, 2] = -inf
    assert kd_loss(s, t) == inf and ofa_loss(s, t, y, gamma=1.4) == inf
    assert kd_loss(s[1:], t[1:]).isfinite()


def test_compiled_and_fast_agree_on_masked_classes(compiled):
    s, t, y = problem(0, dtype=torch.float32)
    y, s, t = y.clamp(max=3), *(z.index_fill(1, torch.tensor([4]), -inf) for z in (s, t))

    def plain(z):
        return ofa_loss(z, t, y, gamma=1.4)

    def fast(z):
        return compiled(ofa_loss)(z, t, y, gamma=1.4)

    same(fast(s), plain(s))
    same(grad(fast, s), grad(plain, s))


# --- symmetries


@many
@given(
    seeds,
    st.lists(gammas, min_size=3, max_size=3),
    forms,
    st.sampled_from(['one', 'list', 'tensor', 'tuple, two equal']),
    st.booleans(),
)
def test_stack_equals_calls(seed, each, form, kind, soft):
    z_s, z_t, y = problem(seed)
    target = soft_labels(seed) if soft else y
    stack = torch.stack([z_s, z_s.flip(0), 2 * z_s])
    if kind == 'one':
        each = [each[0]] * 3
    if kind == 'tuple, two equal':
        each = (each[0], each[1], each[0])
    gamma = {'one': each[0], 'tensor': torch.tensor(each, dtype=torch.float64)}.get(kind, each)

    def together(s):
        return ofa_loss(s, z_t, target, gamma=gamma, form=form)

    def apart(s):
        return torch.stack([ofa_loss(z, z_t, target, gamma=g, form=form) for z, g in zip(s, each)])

    same(together(stack), apart(stack))
    same(grad(together, stack), grad(apart, stack))
    same(kd_loss(stack, z_t, temperature=2.0), torch.stack([kd_loss(z, z_t, temperature=2.0) for z in stack]))


@pytest.mark.parametrize(
    'loss',
    [
        lambda z, r: ofa_loss(z, *problem(0)[1:], gamma=1.3, reduction=r),
        lambda z, r: kd_loss(z, problem(0)[1], reduction=r),
    ],
)
def test_reductions(loss):
    z_s = problem(0)[0]
    for z in (z_s, torch.stack([z_s, 2 * z_s, -z_s])):
        none, mean, total = loss(z, 'none'), loss(z, 'mean'), loss(z, 'sum')
        assert none.shape == z.shape[:-1]
        same(none.mean(-1), mean), same(none.sum(-1), total)


@many
@given(seeds, gammas, forms, st.booleans())
def test_order_changes_nothing(seed, gamma, form, soft):
    z_s, z_t, y = problem(seed)
    g = torch.Generator().manual_seed(seed)
    classes, images = torch.randperm(5, generator=g), torch.randperm(6, generator=g)
    target = soft_labels(seed) if soft else y
    loss = ofa_loss(z_s, z_t, target, gamma=gamma, form=form)
    same(ofa_loss(z_s[images], z_t[images], target[images], gamma=gamma, form=form), loss)
    same(
        ofa_loss(
            z_s[:, classes],
            z_t[:, classes],
            target[:, classes] if soft else classes.argsort()[y],
            gamma=gamma,
            form=form,
        ),
        loss,
    )


@many
@given(seeds, gammas, forms, st.floats(0, 1))
def test_soft_labels(seed, gamma, form, lam):
    z_s, z_t, y = problem(seed)

    def loss(t, soft='mixture'):
        return ofa_loss(z_s, z_t, t, gamma=gamma, form=form, soft=soft)

    one_hot, other = F.one_hot(y, 5).double(), y.roll(1)
    for soft in _SOFT:
        same(loss(one_hot, soft), loss(y))
    mixed = lam * one_hot + (1 - lam) * F.one_hot(other, 5).double()
    same(loss(mixed), lam * loss(y) + (1 - lam) * loss(other))
    same(loss(mixed, 'hard'), loss(mixed.argmax(-1)))
    p = z_t.softmax(-1)
    for soft in _SOFT:
        w, mass = (f(p, mixed, gamma, form, soft) for f in (class_weights, dark_mass))
        assert (w >= 0).all() and (mass >= 0).all() and (mass <= 1 + 1e-9).all()
        same(dark_mass(p, one_hot, gamma, form, soft), dark_mass(p, y, gamma, form))


@few
@given(seeds, st.floats(0, 1), gammas)
def test_weights(seed, p, gamma):
    _, z_t, y = problem(seed)
    probs = z_t.softmax(-1)
    for form in _FORMS:
        assert target_weight(p, gamma, form) == pytest.approx(slow_weight(p, 1.0, gamma, form), abs=1e-12)
        w, at = class_weights(probs, y, gamma, form), probs.gather(1, y[:, None])
        same(w.gather(1, y[:, None]), target_weight(at, gamma, form))
        same(
            dark_mass(probs, y, gamma, form), (w.sum(-1, keepdim=True) - target_weight(at, gamma, form))[:, 0]
        )
    same(dark_mass(probs, y, gamma), 1 - probs.gather(1, y[:, None])[:, 0])


@pytest.mark.parametrize(
    'k, kind, left', [(10, 'even', 0.25), (100, 'even', 0.076), (1000, 'even', 0.024), (100, 'halving', 0.41)]
)
def test_dark_mass_numbers(k, kind, left):
    rest = torch.ones(k - 1).double() if kind == 'even' else 0.5 ** torch.arange(k - 1).double()
    p, y = (
        torch.cat([torch.tensor([0.169]).double(), 0.831 * rest / rest.sum()])[None],
        torch.zeros(1, dtype=torch.long),
    )
    digits = len(str(left)) - 2
    assert round(dark_mass(p, y, 1.5, 'released').item(), digits) == left
    for form, gamma in (('paper', 1.5), ('paper', 4.0), ('released', 1.0)):
        assert dark_mass(p, y, gamma, form).item() == pytest.approx(0.831, abs=1e-6)


@few
@given(seeds, gammas, forms)
def test_minimum_is_at_the_weights(seed, gamma, form):
    z_s, z_t, y = problem(seed)
    w = class_weights(z_t.softmax(-1), y, gamma, form)
    best = (w / w.sum(-1, keepdim=True)).log()

    def loss(z):
        return ofa_loss(z, z_t, y, gamma=gamma, form=form)

    assert grad(loss, best).abs().max() < 1e-10
    assert loss(best) <= min(loss(z_t), loss(z_s)) + 1e-12
    if form == 'released' and gamma > 1.1:
        assert grad(loss, z_t).abs().max() > 1e-6  # the teacher is not the optimum


# --- precision


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('size', [3.0, 1e4])
@pytest.mark.parametrize('form', _FORMS)
def test_low_precision(dtype, size, form):
    z_s, z_t, y = problem(0)
    if size > 10:
        z_s, z_t = z_s.sign() * size, z_t.sign() * size
    low_s, low_t = z_s.to(dtype), z_t.to(dtype)
    for loss in (
        lambda s, t: ofa_loss(s, t, y, gamma=2.5, form=form),
        lambda s, t: ofa_loss(torch.stack([s, 2 * s]), t, y, gamma=[1.3, 2.5], form=form),
        lambda s, t: kd_loss(s, t, temperature=2.0),
    ):
        low, exact = loss(low_s, low_t), loss(low_s.double(), low_t.double())
        assert low.dtype == torch.float32 and low.isfinite().all() and exact.dtype == torch.float64
        same(low.double(), exact, rtol=1e-5, atol=1e-6)  # the inputs are rounded, the arithmetic is float32's
        g = grad(partial(loss, t=low_t), low_s)
        g_exact = grad(partial(loss, t=low_t.double()), low_s.double())
        assert g.dtype == dtype and g.isfinite().all()
        eps = torch.finfo(dtype).eps
        same(g.double(), g_exact, rtol=4 * eps, atol=4 * max(eps * g_exact.abs().max().item(), 1e-7))


def test_agreement_at_a_large_gap_costs_nothing():
    far = torch.tensor([[0.0, 110.0, 300.0]])
    assert far.softmax(-1).log().isinf().any()  # what the plain formula gives
    assert kd_loss(far, far).item() == 0
    for form in _FORMS:
        assert ofa_loss(far, far, torch.tensor([2]), gamma=1.5, form=form).item() == 0
        loss = partial(ofa_loss, teacher_logits=far, target=torch.tensor([0]), gamma=1.5, form=form)
        assert grad(loss, far).isfinite().all()


@pytest.mark.parametrize('form', _FORMS)
def test_gradcheck(form):
    z_s, z_t, y = problem(1, b=3, k=4)
    z_s, stack = z_s.requires_grad_(), torch.stack([z_s, -z_s]).detach().requires_grad_()
    t = soft_labels(1, 3, 4)
    check = torch.autograd.gradcheck
    assert check(lambda z: ofa_loss(z, z_t, y, gamma=1.7, form=form, temperature=2.0), z_s)
    assert check(lambda z: ofa_loss(z, z_t, t, gamma=[1.0, 1.7], form=form, reduction='none'), stack)
    assert check(lambda z: kd_loss(z, z_t, temperature=3.0), z_s)
    assert ofa_loss(z_s, z_t.float(), y, form=form).dtype == torch.float64  # the student's dtype decides
    assert ofa_loss(z_s.float(), z_t, y, form=form).dtype == torch.float32


@pytest.mark.parametrize('gamma', [1.0, 1.4, [1.0, 1.4, 1.4]])
@pytest.mark.parametrize('form', _FORMS)
def test_memory_is_saved_and_no_bit_changes(form, gamma):
    """The loss keeps nothing for the way back but its input and the weights.

    It gives what the plain formula gives.
    """
    z_s, z_t, y = torch.randn(3, 33, 100, requires_grad=True), torch.randn(33, 100), torch.randint(100, (33,))
    w = torch.stack(
        [
            class_weights(z_t.softmax(-1), y, g, form)
            for g in (gamma if isinstance(gamma, list) else [gamma] * 3)
        ]
    )
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        loss = ofa_loss(z_s, z_t, y, gamma=gamma, form=form, reduction='none')
    assert sum(kept) <= z_s.numel() + (w.numel() if isinstance(gamma, list) else z_t.numel())
    plain = -(w * F.log_softmax(z_s, -1)).sum(-1)
    assert torch.equal(loss, plain)
    g = torch.rand_like(loss)
    ours, again, theirs = (torch.autograd.grad(l, z_s, g, retain_graph=True)[0] for l in (loss, loss, plain))
    assert torch.equal(ours, theirs) and torch.equal(ours, again)
    (exit,) = torch.autograd.grad(ofa_loss(z_s[1], z_t, y, gamma=1.4, form=form), z_s)
    assert exit[1].any() and not exit[0].any()


LAYOUTS = {
    'exits last': lambda b, e, k: torch.randn(b, k, e).permute(2, 0, 1),
    'exits in the middle': lambda b, e, k: torch.randn(b, e, k).transpose(0, 1),
    'classes first': lambda b, e, k: torch.randn(k, b, e).permute(2, 1, 0),
    'images last': lambda b, e, k: torch.randn(e, k, b).mT,
    'every second': lambda b, e, k: torch.randn(2 * e, 2 * b, 2 * k)[::2, 1::2, ::2],
    'a part of more classes': lambda b, e, k: torch.randn(e, b, k + 3)[..., 1:-2],
    'one answer for all images': lambda b, e, k: torch.randn(e, 1, k).expand(e, b, k),
    'one head for all exits': lambda b, e, k: torch.randn(1, b, k).expand(e, b, k),
    'one number': lambda b, e, k: torch.randn(1, 1, 1).expand(e, b, k),
}


@pytest.mark.parametrize('b, k', [(6, 5), (1, 5), (6, 2), (1, 2), (33, 40)])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_any_layout_gives_what_a_contiguous_copy_gives(layout, b, k):
    "Losses and gradients do not depend on how logits, teacher or labels lie in memory."
    y, plain = torch.randint(k, (b,)), lambda z: z.clone(memory_format=torch.contiguous_format)
    teacher, labels = LAYOUTS[layout](b, 1, k)[0] * 2, LAYOUTS[layout](b, 1, k)[0].softmax(-1)
    for stack in (LAYOUTS[layout](b, 3, k), LAYOUTS[layout](b, 1, k)[0]):
        for loss in (
            lambda z, t, p: ofa_loss(z, t, y, gamma=1.4, reduction='none'),
            lambda z, t, p: ofa_loss(z, t, p, gamma=1.4, form='released', temperature=2.0),
            lambda z, t, p: ofa_loss(z, t, y, gamma=[1.0, 1.4, 2.0] if z.ndim == 3 else 1.5),
            lambda z, t, p: kd_loss(z, t, temperature=2.0, reduction='none'),
        ):
            z, copy = stack.detach().requires_grad_(), plain(stack.detach()).requires_grad_()
            ours, want = loss(z, teacher, labels), loss(copy, plain(teacher), plain(labels))
            same(ours, want)
            for _ in range(2):  # memory that was never written differs from one time to the next
                g, h = (
                    torch.autograd.grad(l.sum(), x, retain_graph=True)[0]
                    for l, x in ((ours, z), (want, copy))
                )
                same(g, h)


@pytest.mark.parametrize(
    'shape, view',
    [((4, 3), lambda z: z.T), ((4, 3), lambda z: z.T.expand(2, 3, 4)), ((4, 6), lambda z: z[:, ::2].T)],
)
def test_gradcheck_on_views(shape, view):
    z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    z_t, y = torch.randn(3, 4, dtype=torch.float64), torch.tensor([3, 0, 1])
    assert torch.autograd.gradcheck(lambda z: ofa_loss(view(z), z_t, y, gamma=1.7, reduction='none'), z)
    assert torch.autograd.gradgradcheck(lambda z: ofa_loss(view(z), z_t, y, gamma=1.7), z)


@pytest.mark.parametrize('form', _FORMS)
def test_second_derivatives(form):
    z_s, z_t, y = (
        torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True),
        torch.randn(4, 5, dtype=torch.float64),
        torch.tensor([0, 3, 4, 1]),
    )

    def loss(z):
        return ofa_loss(z, z_t, y, gamma=1.4, form=form, reduction='none')

    def total(z):
        return loss(z).sum()

    assert torch.autograd.gradgradcheck(loss, (z_s,))
    assert torch.allclose(torch.func.grad(total)(z_s.detach()), torch.autograd.grad(total(z_s), z_s)[0])


def test_autocast_and_no_gradient_to_the_teacher():
    z_s, z_t, y = problem(2, dtype=torch.float32)
    z_s, z_t = z_s.requires_grad_(), z_t.requires_grad_()

    def both():
        return ofa_loss(z_s, z_t, y, gamma=1.4) + kd_loss(z_s, z_t)

    with torch.autocast('cpu', torch.bfloat16):
        loss = both()
    assert loss.dtype == torch.float32
    assert torch.equal(loss, both())
    loss.backward()
    assert z_t.grad is None and z_s.grad.isfinite().all()
    assert not any(part.requires_grad for part in decompose(z_s.detach(), z_t, y, gamma=1.4))


# --- compilers and other devices: values are not read there


@pytest.fixture
def compiled():
    torch._dynamo.reset()
    yield lambda loss, backend='aot_eager': torch.compile(loss, fullgraph=True, backend=backend)
    torch._dynamo.reset()


def test_compiles_without_a_break(compiled):
    z_s, z_t, y = problem(3, dtype=torch.float32)
    stack, t = torch.stack([z_s, 2 * z_s]), soft_labels(3).float()
    calls = [(z_s, y, 1.4), (stack, y, [1.0, 1.4]), (stack, t, torch.tensor([1.2, 2.0]))]
    fast = compiled(ofa_loss)
    for z, target, gamma in calls:
        options = dict(gamma=gamma, form='released', temperature=2.0)

        def loss(f, target=target, options=options):
            return partial(f, teacher_logits=z_t, target=target, **options)

        same(grad(loss(fast), z), grad(loss(ofa_loss), z))
        same(loss(fast)(z), loss(ofa_loss)(z))
    same(compiled(kd_loss)(z_s, z_t, temperature=2.0), kd_loss(z_s, z_t, temperature=2.0))


def test_a_schedule_for_gamma_does_not_compile_again_and_again(compiled):
    from torch._dynamo.testing import CompileCounter

    z_s, z_t, y = problem(3, dtype=torch.float32)
    for schedule in ([1 + i / 10 for i in range(12)], [torch.full((6,), 1 + i / 10) for i in range(12)]):
        count = CompileCounter()
        fast = compiled(ofa_loss, count)
        for gamma in schedule:
            z = z_s if isinstance(gamma, float) else z_s.expand(6, -1, -1)
            same(fast(z, z_t, y, gamma=gamma), ofa_loss(z, z_t, y, gamma=gamma))
        assert count.frame_count <= 3


def test_off_the_cpu_no_value_is_read():
    from torch._subclasses.fake_tensor import FakeTensorMode  # reading a fake tensor's value raises

    with FakeTensorMode():

        def fake(*shape, **options):
            return torch.empty(*shape, device='cuda', **options)

        z_s, z_t, y = fake(3, 6, 5), fake(6, 5), fake(6, dtype=torch.long)
        for target in (y, fake(6, 5)):
            for gamma in (1.4, [1.0, 1.4, 2.0], fake(3)):
                assert ofa_loss(z_s, z_t, target, gamma=gamma).shape == (3,)
        assert kd_loss(z_s, z_t).shape == (3,)
        with pytest.raises(ValueError, match='a number or 3 of them'):
            ofa_loss(z_s, z_t, y, gamma=fake(2))  # shapes still are
        with pytest.raises(ValueError, match='expected 6 class indices'):
            ofa_loss(z_s, z_t, y[:4])


# --- bad input

Z, Y = torch.zeros(6, 5), torch.zeros(6, dtype=torch.long)
STACK, EVEN = torch.zeros(3, 6, 5), torch.full((6, 5), 0.2)


@pytest.mark.parametrize(
    'changes, error, says',
    [
        (dict(teacher_logits=Z[:, :4]), ValueError, '4 classes, but student_logits has 5'),
        (dict(teacher_logits=Z[:3]), ValueError, '3 images, but student_logits has 6'),
        (dict(teacher_logits=STACK), ValueError, r'teacher_logits: expected \(B, K\), got shape \(3, 6, 5\)'),
        (dict(student_logits=STACK[:, :2]), ValueError, '6 images, but student_logits has 2'),
        (
            dict(student_logits=Z[0]),
            ValueError,
            r'student_logits: expected \(B, K\) or \(E, B, K\), got shape \(5,\)',
        ),
        (dict(student_logits=STACK[None]), ValueError, r'student_logits: expected \(B, K\) or'),
        (
            dict(student_logits=Z.long()),
            TypeError,
            'student_logits: expected a floating-point tensor, got torch.int64',
        ),
        (dict(student_logits=[1.0, 2.0]), TypeError, 'student_logits: .* got list'),
        (dict(teacher_logits=Z.numpy()), TypeError, 'teacher_logits: .* got ndarray'),
        (dict(student_logits=Z[:, :1], teacher_logits=Z[:, :1]), ValueError, 'at least 2 classes, got 1'),
        (dict(student_logits=Z[:0], teacher_logits=Z[:0], target=Y[:0]), ValueError, 'an empty batch'),
        (dict(student_logits=STACK[:0]), ValueError, 'an empty batch'),
        (dict(target=Y + 5), ValueError, 'target: expected classes 0 to 4, got 5 to 5'),
        (dict(target=Y - 1), ValueError, 'got -1 to -1'),
        (dict(target=Y.float()), TypeError, 'target: .* int64, got torch.float32'),
        (dict(target=Y.bool()), TypeError, 'target: .* int64, got torch.bool'),
        (dict(target=Y.int()), TypeError, 'target: .* int64, got torch.int32'),
        (dict(target=[0] * 6), TypeError, 'target: expected a tensor, got list'),
        (dict(target=Y[:4]), ValueError, 'target: expected 6 class indices, got 4'),
        (
            dict(target=Y[:, None]),
            ValueError,
            r'target: expected \(6,\) class indices or \(6, 5\) probabilities, got shape \(6, 1\)',
        ),
        (dict(target=Y[0]), ValueError, r'got shape \(\)'),
        (dict(target=EVEN[:, :4]), ValueError, r'\(6, 5\) probabilities'),
        (dict(target=F.one_hot(Y, 5)), TypeError, 'floating-point probabilities, got torch.int64'),
        (dict(target=EVEN * 2), ValueError, 'must sum to 1, off by 1'),
        (dict(target=EVEN * 1.002), ValueError, 'must sum to 1, off by 0.002'),
        (dict(target=torch.tensor([[1.5, -0.5, 0, 0, 0]] * 6)), ValueError, 'at least 0'),
        (dict(target=EVEN * nan), ValueError, 'NaN'),
        (dict(target=EVEN * inf), ValueError, 'must sum to 1, off by inf'),
        (dict(gamma=0.99), ValueError, r'gamma: expected finite numbers of at least 1, got \[0.99\]'),
        (dict(gamma=torch.tensor([0.5])), ValueError, 'gamma: expected finite numbers of at least 1'),
        (dict(gamma=nan), ValueError, 'gamma: expected finite'),
        (dict(gamma=inf), ValueError, 'gamma: expected finite'),
        (dict(gamma='1'), TypeError, "gamma: expected a number, got '1'"),
        (dict(gamma=None), TypeError, 'gamma'),
        (dict(gamma=True), TypeError, 'gamma'),
        (dict(gamma=torch.tensor([True])), TypeError, 'gamma'),
        (dict(gamma=torch.ones(1, 1)), TypeError, 'gamma'),
        (dict(gamma=[1.0, 2.0]), ValueError, 'gamma: expected a number, got 2 of them'),
        (dict(gamma=[]), ValueError, 'got 0 of them'),
        (
            dict(gamma=[1.0, 2.0], student_logits=STACK),
            ValueError,
            'gamma: expected a number or 3 of them, one per exit, got 2',
        ),
        (dict(gamma=torch.ones(4), student_logits=STACK), ValueError, 'got 4 of them'),
        (dict(gamma=[1.0, 0.5, 1.0], student_logits=STACK), ValueError, 'at least 1'),
        (dict(temperature=0), ValueError, 'temperature: expected a finite number above 0, got 0'),
        (dict(temperature=-1.0), ValueError, 'temperature'),
        (dict(temperature=nan), ValueError, 'temperature'),
        (dict(temperature=inf), ValueError, 'temperature'),
        (dict(temperature='hot'), TypeError, "temperature: expected a number, got 'hot'"),
        (dict(form='papper'), ValueError, "form: .* did you mean 'paper'"),
        (dict(form='relased'), ValueError, "did you mean 'released'"),
        (dict(form=None), ValueError, 'form: expected one of paper, released'),
        (dict(reduction='avg'), ValueError, 'reduction: expected one of mean, sum, none'),
        (dict(reduction='summ'), ValueError, "did you mean 'sum'"),
        (dict(soft='mixup'), ValueError, "soft: .* did you mean 'mixture'"),
    ],
)
def test_bad_input(changes, error, says):
    with pytest.raises(error, match=says):
        ofa_loss(**(dict(student_logits=Z, teacher_logits=Z, target=Y) | changes))


@pytest.mark.parametrize(
    'call, error, says',
    [
        (
            lambda: check_weight('alpha', -0.5),
            ValueError,
            'alpha: expected a finite number of at least 0, got -0.5',
        ),
        (
            lambda: check_weight('beta', nan),
            ValueError,
            'beta: expected a finite number of at least 0, got nan',
        ),
        (lambda: check_weight('beta', inf), ValueError, 'beta: .* got inf'),
        (
            lambda: check_weight('weight', 0, zero=False),
            ValueError,
            'weight: expected a finite number above 0, got 0',
        ),
        (lambda: check_weight('weight', True), TypeError, 'weight: expected a number, got True'),
        (lambda: check_weight('weight', '1'), TypeError, "weight: expected a number, got '1'"),
        (lambda: check_weight('weight', None), TypeError, 'weight: expected a number, got None'),
        (lambda: kd_loss(Z, Z[:, :4]), ValueError, '4 classes'),
        (lambda: kd_loss(Z, Z, temperature=0), ValueError, 'temperature'),
        (lambda: kd_loss(Z, Z, reduction='men'), ValueError, "did you mean 'mean'"),
        (lambda: target_weight(0.5, 2.0, 'papr'), ValueError, "did you mean 'paper'"),
        (lambda: class_weights(EVEN[None], Y, 2.0), ValueError, r'teacher_probs: expected \(B, K\)'),
        (lambda: class_weights(EVEN, Y + 5, 2.0), ValueError, 'expected classes 0 to 4'),
        (lambda: class_weights(EVEN[:0], Y[:0], 2.0), ValueError, 'target: .* an empty batch'),
        (
            lambda: class_weights(EVEN.tolist(), Y, 2.0),
            TypeError,
            'teacher_probs: expected a floating-point tensor',
        ),
        (lambda: dark_mass(EVEN, Y, 0.5), ValueError, 'gamma'),
        (lambda: dark_mass(EVEN, EVEN, 2.0, soft='har'), ValueError, "did you mean 'hard'"),
        (lambda: decompose(STACK, Z, Y), ValueError, r'student_logits \(B, K\)'),
        (lambda: decompose(Z, Z, EVEN), ValueError, 'class indices'),
        (lambda: decompose(Z, Z, Y, gamma=[1.0, 2.0]), ValueError, 'gamma: expected a number'),
        (lambda: decompose(Z, Z, Y, gamma=1.5, n=0), ValueError, 'n: expected an integer from 1'),
    ],
)
def test_bad_input_elsewhere(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_good_input():
    for weight in (0, 0.0, 2, np.float32(0.5), 1e-300):
        assert check_weight('weight', weight) is weight
    for gamma in (
        1,
        1.0,
        np.float32(1),
        np.float64(1),
        torch.tensor(1.0),
        torch.tensor([1]),
        [1],
        (1.0,),
        np.ones(1),
    ):
        assert check_gamma(gamma) == [1.0]
    for gamma in ([1, 2.0], (1.0, 2.0), range(1, 3), torch.tensor([1.0, 2.0]), np.array([1.0, 2.0])):
        assert check_gamma(gamma, 2) == [1.0, 2.0]
    smooth = torch.full((2, 1000), 0.1 / 1000, dtype=torch.float64).scatter(
        1, torch.tensor([[1], [2]]), 0.9 + 0.1 / 1000
    )
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        check_target(smooth.to(dtype), (2, 1000))
    for reduction in REDUCTIONS:
        ofa_loss(Z, Z, Y, reduction=reduction)


def test_import_is_light():
    heavy = ['timm', 'torchvision', 'plotly', 'sklearn', 'IPython', 'jupyter', 'jupyterlab']
    heavy += ['ipywidgets', 'fastcore', 'pandas']
    code = f'import sys, ofa_learn.losses; print([m for m in {heavy} if m in sys.modules])'
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[]'
