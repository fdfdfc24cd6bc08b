"""CC, RKD and CRD against formulas written out per pair, triplet and negative.

And their banks and draws, how they are resumed and wrapped, and what they refuse.
"""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from ofa_learn.data import Batches, digits, split
from ofa_learn.models import make_model
from ofa_learn.relations import (
    CRD,
    _check_spread,
    _MemoryBanks,
    _move_bank,
    _Negatives,
    cc_loss,
    crd_memory,
    nce_loss,
    rkd_angle_loss,
    rkd_distance_loss,
)
from ofa_learn.tasks import create_task
from ofa_learn.training import fit

DATA = split(digits(), train=200)
X, Y, INDEX = DATA.norm(DATA.train.images[:12]), DATA.train.labels[:12], torch.arange(12)
MICRO = ['micro_resnet', 'micro_vit', 'micro_mixer']
PAIR_LOSSES = [rkd_distance_loss, rkd_angle_loss]


def make(method, student='micro_vit', teacher='micro_resnet', **options):
    torch.manual_seed(0)
    return create_task(method, student, make_model(teacher), **dict(data=DATA) | options)


def clouds(b=6, ds=4, dt=9, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(b, ds, generator=g).double(), torch.randn(b, dt, generator=g).double() * 3 + 5


# formulas


def huber(u):
    return u * u / 2 if abs(u) <= 1 else abs(u) - 1 / 2


def slow_distance(s, t):
    n, sides = len(s), []
    for x in (s, t):
        d = {(a, b): np.sqrt(np.sum((x[a] - x[b]) ** 2)) for a in range(n) for b in range(n) if a != b}
        mean = np.mean(list(d.values()))
        sides.append({k: v / mean for k, v in d.items()})
    return sum(huber(sides[0][k] - sides[1][k]) for k in sides[0]) / n**2


def slow_angle(s, t):
    n, total = len(s), 0.0

    def cosine(x, a, b, c):
        u, v = x[b] - x[a], x[c] - x[a]
        return np.dot(u, v) / np.linalg.norm(u) / np.linalg.norm(v)

    for a in range(n):
        for b in range(n):
            for c in range(n):
                if a != b and a != c:
                    total += huber(cosine(s, a, b, c) - cosine(t, a, b, c))
    return total / n**3


def slow_cc(s, t):
    pairs = [
        sum(abs(s[b][j] - t[b][j]) * abs(s[b + 1][j] - t[b + 1][j]) for j in range(s.shape[1]))
        for b in range(len(s) - 1)
    ]
    return sum(pairs) / len(pairs)


def slow_nce(p, n, eps=1e-7):
    m = p.shape[1] - 1
    d1 = [math.log(row[0] / (row[0] + m * (1 / n) + eps)) for row in p]
    d0 = [math.log(m * (1 / n) / (q + m * (1 / n) + eps)) for row in p for q in row[1:]]
    return -(sum(d1) + sum(d0)) / len(p)


def close(a, b, tol=1e-11):
    a, b = (v.item() if torch.is_tensor(v) else float(v) for v in (a, b))
    assert abs(a - b) <= tol * max(1, abs(b)), (a, b)


@pytest.mark.parametrize('seed', range(3))
def test_losses_equal_slow_formulas(seed):
    s, t = clouds(seed=seed)
    close(rkd_distance_loss(s, t), slow_distance(s.numpy(), t.numpy()))
    close(rkd_angle_loss(s, t), slow_angle(s.numpy(), t.numpy()))
    e_s, e_t = clouds(7, 5, 5, seed)
    close(cc_loss(e_s, e_t), slow_cc(e_s.numpy(), e_t.numpy()))
    p = torch.rand(5, 13, generator=torch.Generator().manual_seed(seed)).double() / 30
    close(nce_loss(p.log(), 40), slow_nce(p.numpy(), 40))


def test_gradients():
    s, t = clouds(5, 3, 4)
    e, u = clouds(5, 3, 3)
    for loss in PAIR_LOSSES:
        assert torch.autograd.gradcheck(lambda a, loss=loss: loss(a, t), s.clone().requires_grad_())
    assert torch.autograd.gradcheck(cc_loss, (e.clone().requires_grad_(), u.clone().requires_grad_()))
    assert torch.autograd.gradcheck(lambda a: nce_loss(a, 20), torch.randn(3, 5).double().requires_grad_())


def test_teacher_gets_no_gradient_in_rkd_and_its_layer_does_in_cc():
    s, t = (v.requires_grad_() for v in clouds())
    (rkd_distance_loss(s, t) + rkd_angle_loss(s, t)).backward()
    assert s.grad.abs().sum() > 0 and t.grad is None
    s, t = (v.requires_grad_() for v in clouds(6, 4, 4))
    cc_loss(s, t).backward()
    assert t.grad.abs().sum() > 0


@pytest.mark.parametrize('loss', PAIR_LOSSES)
def test_rkd_invariances(loss):
    s, t = clouds()
    q = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double())[0]
    value = loss(s, t)
    for moved in (s @ q, s * 1e3, s * 1e-3, s + 100, s @ q * 7 - 3, torch.cat([s, torch.zeros(6, 2)], 1)):
        close(loss(moved, t), value, 1e-9)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    close(loss(s[order], t[order]), value, 1e-9)
    assert abs(loss(s * torch.tensor([1.0, 1, 1, 9]), t) - value) > 1e-4
    close(loss(s @ q * 5 + 1, s), 0)
    close(loss(s[:2], t[:2]), 0)
    if loss is rkd_distance_loss:
        assert abs(loss(s * 1e-9, t) - value) > 1e-4  # below the clamp


def test_cc_is_zero_when_every_second_image_agrees_and_depends_on_the_order():
    s, t = clouds(6, 4, 4)
    close(cc_loss(s, s), 0)
    half = t.clone()
    half[::2] = s[::2]
    close(cc_loss(s, half), 0)
    order = torch.tensor([2, 0, 1, 4, 5, 3])
    assert abs(cc_loss(s[order], t[order]) - cc_loss(s, t)) > 1e-3


def test_images_without_a_direction_have_small_finite_gradients():
    s, t = clouds(6, 4, 9)
    s[1] = s[0]
    s[4] = s[0]  # dead images in an otherwise live batch
    s = s.float().requires_grad_()
    (rkd_distance_loss(s, t.float()) + rkd_angle_loss(s, t.float())).backward()
    assert s.grad.isfinite().all() and s.grad.abs().max() < 10


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype):
    s, t = (v.to(dtype).requires_grad_() for v in clouds(6, 5, 5))
    for loss in (*PAIR_LOSSES, cc_loss, lambda a, b: nce_loss(a, 50)):
        value = loss(s, t)
        assert (
            value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and value.isfinite()
        )
        (g,) = torch.autograd.grad(value, s)
        assert g.isfinite().all()


def test_nce_is_stable_where_exp_is_not():
    z = torch.tensor([[300.0, -300.0, 0.0], [-300.0, 300.0, 500.0]], requires_grad=True)
    value = nce_loss(z, 10)
    value.backward()
    assert value.isfinite() and z.grad.isfinite().all()
    for m in (3, 500):
        close(
            nce_loss(torch.full((4, 1 + m), -math.log(900)).double(), 900, eps=0.0),
            math.log(m + 1) + m * math.log(1 + 1 / m),
        )


# negatives


def test_negatives_never_of_the_anchors_class():
    labels = torch.tensor([5, 2, 2, 9, 5, 5, 2, 9, 0, 5])  # any integers
    draw, anchors = _Negatives(10, labels), torch.arange(10)
    assert draw.fewest == 6
    for _ in range(20):
        assert (labels[draw(anchors, 200)] != labels[anchors][:, None]).all()
    draw = _Negatives(10)
    assert draw.fewest == 9
    for _ in range(20):
        assert (draw(anchors, 200) != anchors[:, None]).all()


@pytest.mark.parametrize('labels', [None, torch.arange(23) % 4])
def test_negatives_are_uniform(labels):
    torch.manual_seed(3)
    draw, anchors, counts = _Negatives(23, labels), torch.arange(23), torch.zeros(23, 23)
    for _ in range(40):
        counts += F.one_hot(draw(anchors, 500), 23).sum(1)
    for i in range(23):
        others = torch.ones(23, dtype=torch.bool)
        others[i if labels is None else labels == labels[i]] = False
        expected = 40 * 500 / int(others.sum())
        chi2, dof = float(((counts[i] - expected) ** 2 / expected)[others].sum()), int(others.sum()) - 1
        assert counts[i][~others].sum() == 0 and chi2 < dof + 5 * math.sqrt(2 * dof), (i, chi2, dof)


def test_draws_differ_by_step_anchor_and_seed_and_repeat_in_eval():
    torch.manual_seed(0)
    draw, i = _Negatives(1000), torch.tensor([7, 8])
    a, b = draw(i, 50), draw(i, 50)
    assert not torch.equal(a, b) and not torch.equal(a[0], a[1])
    assert draw.generator[1] == 2
    draw.eval()
    assert torch.equal(draw(i, 50), draw(i, 50)) and draw.generator[1] == 2
    assert not torch.equal(_Negatives(1000)(i, 50), a)
    again = _Negatives(1000)
    again.generator.copy_(torch.stack([draw.generator[0], torch.tensor(0)]))
    assert torch.equal(again(i, 50), a)
    assert torch.equal(
        again(i.flip(0), 50).flip(0), b
    )  # an anchor's draws do not depend on its place in the batch


# banks


def slow_crd(v_s, v_t, bank_s, bank_t, rows, log_z=None, temperature=0.07):
    n, loss, zs = len(bank_s), 0.0, []
    for i, (v, bank) in enumerate(((v_s, bank_t), (v_t, bank_s))):
        e = np.array(
            [[np.exp(np.dot(v[b], bank[k]) / temperature) for k in row] for b, row in enumerate(rows)]
        )
        z = e.mean() * n if log_z is None else math.exp(log_z[i])
        loss, zs = loss + slow_nce(e / z, n), zs + [math.log(z)]
    return loss, zs


def test_two_steps_of_crd_by_hand():
    torch.manual_seed(0)
    banks = _MemoryBanks(4, 6, 30, torch.arange(30) % 3, 8).double()
    bank_s, bank_t, log_z = banks.student_bank.numpy().copy(), banks.teacher_bank.numpy().copy(), None
    np.testing.assert_allclose(np.linalg.norm(bank_s, axis=1), 1, rtol=1e-6)
    for _step in range(2):
        v_s, v_t = (F.normalize(torch.randn(5, 8).double(), dim=1) for _ in range(2))
        index = torch.tensor([3, 9, 0, 29, 11])
        rows = torch.cat([index[:, None], copy.deepcopy(banks.negatives)(index, 7)], 1).tolist()
        slow, log_z = slow_crd(v_s.numpy(), v_t.numpy(), bank_s, bank_t, rows, log_z)
        close(banks.contrast(v_s, v_t, index, 7), slow, 1e-9)
        # the first step's, in the second too
        np.testing.assert_allclose(banks.log_z.numpy(), log_z, rtol=1e-12)
        for bank, v in ((bank_s, v_s.numpy()), (bank_t, v_t.numpy())):
            for b, k in enumerate(index.tolist()):
                moved = 0.5 * bank[k] + 0.5 * v[b]
                bank[k] = moved / math.sqrt((moved**2).sum())
        np.testing.assert_allclose(banks.student_bank.numpy(), bank_s, rtol=1e-12)
        np.testing.assert_allclose(banks.teacher_bank.numpy(), bank_t, rtol=1e-12)


def test_gradient_of_crd_uses_the_rows_before_they_move():
    torch.manual_seed(0)
    banks = _MemoryBanks(4, 6, 12, None, 8).double()
    still, index = copy.deepcopy(banks).eval(), torch.arange(4)
    still.log_z.copy_(torch.tensor([1.0, 2]))
    banks.log_z.copy_(still.log_z)
    v_s, v_t = (F.normalize(torch.randn(4, 8).double(), dim=1).requires_grad_() for _ in range(2))
    moving = torch.autograd.grad(banks.contrast(v_s, v_t, index, 5), (v_s, v_t))
    assert torch.autograd.gradcheck(lambda a, b: still.contrast(a, b, index, 5), (v_s, v_t))
    for g, h in zip(moving, torch.autograd.grad(still.contrast(v_s, v_t, index, 5), (v_s, v_t))):
        torch.testing.assert_close(g, h)
    assert not torch.equal(banks.student_bank, still.student_bank)


def test_momentum():
    bank = torch.tensor([[1.0, 0], [0, 1], [1, 0]])
    _move_bank(bank, torch.tensor([2, 1]), torch.tensor([[0.0, 1], [0, 1]]), momentum=0.75)
    length = math.hypot(0.75, 0.25)
    torch.testing.assert_close(bank, torch.tensor([[1, 0], [0, 1], [0.75 / length, 0.25 / length]]))


def test_memory_is_what_the_buffers_take():
    banks, said = _MemoryBanks(4, 6, 501, torch.arange(501) % 7), crd_memory(501, batch_size=10)
    assert said['banks'] == banks.student_bank.nbytes + banks.teacher_bank.nbytes
    assert said['tables'] == sum(getattr(banks.negatives, t).nbytes for t in ('order', 'start', 'size'))
    assert crd_memory(1_281_167)['banks'] == 2 * 1_281_167 * 128 * 4 == 1_311_915_008
    with pytest.raises(ValueError, match='num_samples'):
        crd_memory(1)


# tasks


@pytest.mark.parametrize('teacher', MICRO)
@pytest.mark.parametrize('student', MICRO)
@pytest.mark.parametrize('method', ['cc', 'rkd', 'crd'])
def test_one_step_of_every_pair(method, student, teacher):
    task = make(method, student, teacher).train()
    out = task(X, Y, index=INDEX)
    out['loss'].backward()
    torch.testing.assert_close(out['loss'], sum(v for k, v in out.items() if k not in ('loss', 'output')))
    missing = [n for n, p in task.trainable_module.named_parameters() if p.grad is None]
    assert not missing and all(p.grad.isfinite().all() for p in task.trainable_module.parameters())
    assert out['output'].shape == (12, 10) and all(v.isfinite().all() for v in out.values())


@pytest.mark.parametrize('method, losses', [('cc', ['cc']), ('rkd', ['distance', 'angle']), ('crd', ['crd'])])
def test_the_loss_falls(method, losses):
    epochs = 8 if method == 'crd' else 4  # CRD's loss rises while its banks fill
    history = fit(
        make(method),
        DATA,
        epochs,
        batch_size=25,
        device='cpu',
        progress=False,
        eval_every=epochs,
        warmup_epochs=1,
    )
    for name in losses:
        assert history[-1]['losses'][name] < 0.9 * history[0]['losses'][name], (
            name,
            [h['losses'] for h in history],
        )
    assert history[-1]['loss'] < history[0]['loss']


@pytest.mark.parametrize('method', ['cc', 'rkd', 'crd'])
def test_bf16_autocast(method):
    task = make(method)
    for _ in range(2):
        with torch.autocast('cpu', torch.bfloat16):
            out = task(X, Y, index=INDEX)
        out['loss'].backward()
    assert out['loss'].isfinite() and all(p.grad.isfinite().all() for p in task.trainable_module.parameters())
    assert all(b.isfinite().all() for b in task.trainable_module.buffers())


def test_weights_of_the_settings():
    a, b = make('crd').eval(), make('crd', setting='ofa_paper').eval()
    close(a(X, Y, index=INDEX)['crd'] / 0.8, b(X, Y, index=INDEX)['crd'], 1e-5)
    close(make('crd', weight=0.4).eval()(X, Y, index=INDEX)['crd'] * 2, a(X, Y, index=INDEX)['crd'], 1e-5)
    for method in ('cc', 'rkd'):
        own, ofa = (make(method, setting=s).eval()(X, Y)['loss'] for s in ('own', 'ofa_paper'))
        assert torch.equal(own, ofa)
    task = make('cc').eval()
    e = task.trainable_module(X, task.answers(X))[1]
    close(task(X, Y)['cc'], 0.02 * cc_loss(*e), 1e-6)
    task = make('rkd').eval()
    s, t = task.trainable_module(X, task.answers(X))[0].pooled, task.answers(X).pooled
    out = task(X, Y)
    close(out['distance'], 25 * rkd_distance_loss(s, t), 1e-6)
    close(out['angle'], 50 * rkd_angle_loss(s, t), 1e-6)


def test_a_student_equal_to_its_teacher():
    task = make('rkd', 'micro_resnet', 'micro_resnet').eval()
    task.student.load_state_dict(task.teacher.model.state_dict())
    out = task(X, Y)
    close(out['distance'], 0)
    close(out['angle'], 0)


@pytest.mark.parametrize(
    'options', [{}, dict(data=None, num_samples=200, input_size=(1, 8, 8), num_classes=10)]
)
def test_crd_resumes_to_the_bit(options):
    def steps(task, opt, batches):
        out = []
        for b in batches:
            loss = task(b.input, b.target, index=b.index)['loss']
            opt.zero_grad()
            loss.backward()
            opt.step()
            out.append(loss.item())
        return out

    batches = list(Batches(DATA.train, DATA.norm, 40).epoch(0))
    task = make('crd', **options)
    opt = torch.optim.SGD(task.trainable_module.parameters(), 0.1)
    steps(task, opt, batches[:2])
    saved = copy.deepcopy(task.get_checkpoint_state())
    rest = steps(task, opt, batches[2:])
    torch.manual_seed(99)  # another start and another generator
    other = create_task('crd', 'micro_vit', copy.deepcopy(task.teacher), **dict(data=DATA) | options)
    opt = torch.optim.SGD(other.trainable_module.parameters(), 0.1)
    other.load_checkpoint_state(saved['state_dict'], saved['task_state'])
    assert steps(other, opt, batches[2:]) == rest
    for (name, a), b in zip(
        task.trainable_module.state_dict().items(), other.trainable_module.state_dict().values()
    ):
        assert torch.equal(a, b), name
    assert other.trainable_module.heads.negatives.generator[1] == len(batches)


def test_eval_moves_nothing():
    task = make('crd').eval()
    before = {k: v.clone() for k, v in task.get_task_state()['heads'].items()}
    a, b = (task(X, Y, index=INDEX)['loss'] for _ in range(2))
    assert torch.equal(a, b)
    for k, v in task.get_task_state()['heads'].items():
        assert torch.equal(v, before[k]) or k == 'log_z' and v.isnan().all()


def test_negatives_are_capped_and_say_so():
    largest = int(DATA.train.labels.bincount().max())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert make('crd').negatives == 200 - largest and make('crd', negatives=30).negatives == 30
        assert make('crd', data=None, num_samples=200, input_size=(1, 8, 8)).negatives == 199
    with pytest.warns(UserWarning, match=f'500 were asked for and {200 - largest} are drawn'):
        make('crd', negatives=500)


def test_combined_with_other_methods():
    import ofa_learn.logits  # noqa: F401

    task = make('crd+rkd+kd')
    out = task(X, Y, index=INDEX)
    out['loss'].backward()
    assert {'crd_ce', 'crd_crd', 'rkd_distance', 'rkd_angle', 'kd_kd'} <= set(out) and out['loss'].isfinite()
    heads = task.trainable_module.heads.heads['crd']
    assert heads.negatives.generator[1] == 1 and heads.log_z.isfinite().all()
    assert 'heads.crd.student_bank' in task.get_task_state()['heads']
    with pytest.raises(ValueError, match='index'):
        task(X, Y)


def test_soft_targets_and_smoothing():
    assert make('crd', label_smoothing=0.1)(X, Y, index=INDEX)['loss'].isfinite()
    assert make('crd')(X, torch.full((12, 10), 0.1), index=INDEX)['loss'].isfinite()


@pytest.mark.parametrize('method', ['crd', 'kd+crd'])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_labels_are_compared_with_those_of_the_samples_also_where_they_are_smoothed(method, smoothing):
    task = make(method, label_smoothing=smoothing)
    assert task(X, Y, index=INDEX)['loss'].isfinite()
    with pytest.raises(ValueError, match='index: the labels of these samples are not the targets'):
        task(X, Y, index=INDEX.flip(0))
    mixed = 0.3 * F.one_hot(Y, 10).float() + 0.7 * F.one_hot(Y.flip(0), 10).float()
    assert task(X, mixed, index=INDEX)['loss'].isfinite()  # of two images each: nothing to compare


def test_distributed_and_compiled(tmp_path):
    task = make('crd').eval()
    plain = task(X, Y, index=INDEX)['loss']
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/rendezvous', rank=0, world_size=1
    )
    try:
        task.compile(backend='eager')
        task.prepare_distributed()
        wrapped = task.trainable_module
        older = getattr(wrapped, 'broadcast_buffers', None)
        assert getattr(wrapped, 'forward_sync_buffers', older) is False
        torch.testing.assert_close(task(X, Y, index=INDEX)['loss'], plain)
        task.train()(X, Y, index=INDEX)['loss'].backward()
        assert task.get_task_state()['heads']['negatives.generator'][1] == 1
    finally:
        torch.distributed.destroy_process_group()


def test_moving_average_and_copies():
    task = make('crd')
    task.setup_ema(decay=0.5)
    task(X, Y, index=INDEX)['loss'].backward()
    task.update_ema()
    assert type(task.get_eval_model(ema=True)) is type(task.student)
    twin = copy.deepcopy(task)
    assert torch.equal(twin(X, Y, index=INDEX)['loss'], task(X, Y, index=INDEX)['loss'])


@pytest.mark.parametrize(
    'student, teacher, size',
    [('resnet18', 'vit_tiny_patch16_224', (3, 64, 64)), ('swin_pico', 'convnext_atto', (3, 224, 224))],
)
def test_larger_models(student, teacher, size):
    x, y = torch.randn(3, *size, generator=torch.Generator().manual_seed(0)), torch.arange(3)
    teacher = make_model(teacher, 10, size)
    for method, options in (('cc', {}), ('rkd', {}), ('crd', dict(num_samples=9))):
        out = create_task(method, student, teacher, input_size=size, num_classes=10, **options)(x, y, index=y)
        assert out['loss'].isfinite()


def test_losses_compile_in_one_piece():
    s, t = (v.float() for v in clouds(6, 5, 5))
    for loss in (*PAIR_LOSSES, cc_loss, lambda a, b: nce_loss(a, 50)):
        compiled = torch.compile(loss, backend='eager', fullgraph=True)
        torch.testing.assert_close(compiled(s, t), loss(s, t))


def test_spread_in_half_precision():
    g = torch.Generator().manual_seed(0)
    for dtype, spread in ((torch.bfloat16, 0.03), (torch.float16, 0.005), (torch.float32, 1e-5)):
        _check_spread('student', (1 + spread * torch.rand(6, 8, generator=g)).to(dtype))
        with pytest.raises(ValueError, match='student'):
            _check_spread('student', torch.full((6, 8), 1.1).to(dtype))


# no wait for the device


def test_no_loss_reads_values_on_an_accelerator():
    banks = _MemoryBanks(4, 6, 30, torch.arange(30) % 3, 8)
    with FakeTensorMode(), torch.no_grad():  # such tensors have no values: reading one raises

        def fake(*shape, **kw):
            return torch.empty(*shape, device='cuda', **kw)

        s, t = fake(5, 8), fake(5, 8)
        with pytest.raises(DataDependentOutputException):
            _check_spread('student', s)
        for loss in (*PAIR_LOSSES, cc_loss):
            assert loss(s, t).device.type == 'cuda'
        assert nce_loss(s, 20).device.type == 'cuda'
        for m in banks.modules():
            for k, b in m._buffers.items():
                m._buffers[k] = fake(b.shape, dtype=b.dtype)
        assert banks.contrast(s, t, fake(5, dtype=torch.int64), 7).device.type == 'cuda'


def test_values_are_looked_at_once_elsewhere(monkeypatch):
    import ofa_learn.relations as module

    seen = []
    monkeypatch.setattr(module, '_can_look', lambda t: False)  # as on an accelerator
    monkeypatch.setattr(module, '_check_spread', lambda name, x: seen.append(name))
    task = make('rkd')
    for _ in range(3):
        task(X, Y)
    assert seen == ['student', 'teacher']
    task = make('crd')
    with pytest.raises(ValueError, match='index: expected numbers from 0 to 199'):
        task(X, Y, index=INDEX + 200)
    task(X, Y, index=INDEX)
    task(X, Y, index=INDEX.flip(0))  # other labels: not looked at any more


# bad input

RAW = dict(data=None, input_size=(1, 8, 8), num_classes=10)


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda: make('crd', **RAW), 'num_samples: crd keeps a bank'),
        (lambda: make('crd', num_samples=1, **RAW), 'num_samples: expected at least 2, got 1'),
        (lambda: make('crd', num_samples=20.0, **RAW), 'num_samples: expected an integer'),
        (lambda: make('crd', labels=[0] * 20, **RAW), 'all 20 samples are of one class'),
        (
            lambda: make('crd', labels=[0, 1] * 20, num_samples=50, **RAW),
            'labels: expected one for each of the 50 samples',
        ),
        (lambda: make('crd', labels=torch.rand(20), **RAW), 'labels: expected integers'),
        (lambda: make('crd', negatives=0), 'negatives: expected an integer from 1'),
        (lambda: make('crd', temperature=0), 'temperature: expected a finite number above 0'),
        (lambda: make('crd', bank_momentum=1.0), 'bank_momentum'),
        (lambda: make('crd', setting='tian'), 'setting: expected one of own, ofa_paper'),
        (lambda: make('rkd', setting='park'), 'setting'),
        (lambda: make('crd')(X, Y), "index: crd needs the samples' numbers"),
        (
            lambda: make('crd')(X, Y, index=INDEX + 200),
            r'index: expected numbers from 0 to 199 \(num_samples=200\), got 200 to 211',
        ),
        (lambda: make('crd')(X, Y, index=INDEX - 1), 'got -1 to 10'),
        (lambda: make('crd')(X, Y, index=INDEX[:5]), 'index: expected 12 int64 numbers'),
        (lambda: make('crd')(X, Y, index=INDEX.float()), 'torch.float32'),
        (lambda: make('crd')(X, Y, index=INDEX.tolist()), 'got list'),
        (lambda: make('crd')(X, Y, index=INDEX.flip(0)), 'are not the targets of the batch'),
        (lambda: make('crd')(X, Y, index=DATA.train.ids[:12] + 300), 'index'),
        (
            lambda: make('rkd')(X[:1].expand(12, -1, -1, -1), Y),
            'the pooled features of all 12 images are equal',
        ),
        (
            lambda: rkd_distance_loss(torch.zeros(4, 3), torch.randn(4, 3)),
            'student: the pooled features of all 4',
        ),
        (
            lambda: rkd_angle_loss(torch.randn(4, 3), torch.ones(4, 3) + 1e-7 * torch.randn(4, 3)),
            'teacher: the pooled features of all 4',
        ),
        (
            lambda: rkd_distance_loss(torch.randn(4, 3), torch.randn(5, 3)),
            'teacher: 5 images, but student has 4',
        ),
        (lambda: rkd_distance_loss(torch.randn(1, 3), torch.randn(1, 3)), 'at least two images'),
        (
            lambda: rkd_angle_loss(torch.randn(4, 3, 2), torch.randn(4, 3)),
            r'student: expected shape \(B, D\), got \(4, 3, 2\)',
        ),
        (lambda: cc_loss(torch.randn(4, 3), torch.randn(4, 5)), 'teacher: width 5, but student has 3'),
        (
            lambda: cc_loss(torch.ones(4, 3).long(), torch.randn(4, 3)),
            'student: expected a floating-point tensor, got torch.int64',
        ),
        (lambda: cc_loss(torch.ones(4, 3), [1, 2]), 'teacher: expected a floating-point tensor, got list'),
        (lambda: nce_loss(torch.randn(4), 10), 'log_scores'),
        (lambda: nce_loss(torch.randn(4, 1), 10), 'm ≥ 1'),
        (lambda: nce_loss(torch.randn(4, 3), 1), 'num_samples'),
    ],
)
def test_bad_input(call, says):
    with pytest.raises((ValueError, TypeError), match=says):
        call()


def test_registered():
    assert CRD.name == 'crd' and CRD.paper == 'Tian et al., 2020' and CRD.status == 'paper'
