"""ScaleKD: formulas written apart, the teacher's frozen last stage, and every family as its teacher."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn as nn
from timm.optim import create_optimizer_v2

from ofa_learn.data import digits, split
from ofa_learn.last_stage import _LastStage, find_last_stage
from ofa_learn.models import count_params, find_taps, make_model
from ofa_learn.scalekd import (
    _VIEWS,
    CAP,
    Projectors,
    _default_heads,
    dfm_loss,
    soft_ce_loss,
)
from ofa_learn.tasks import Teacher, create_task
from ofa_learn.training import fit

SIZE, MICRO = (1, 8, 8), ['micro_resnet', 'micro_vit', 'micro_mixer']
X, Y = torch.randn(6, *SIZE, generator=torch.Generator().manual_seed(0)), torch.arange(6)


def make(student='micro_resnet', teacher='micro_vit', size=SIZE, **options):
    torch.manual_seed(0)
    if isinstance(teacher, str):
        teacher = make_model(teacher, 10, size)
    return create_task('scalekd', make_model(student, 10, size), teacher, input_size=size, **options)


def finite_gradients(task):
    return all(p.grad is not None and p.grad.isfinite().all() for p in task.trainable_module.parameters())


# --- the losses


def slow_dct(c):
    "2-D DCT-II of one channel, DC zeroed, inverse, by four nested sums over cosines."
    h, w = c.shape

    def basis(k, i, n):
        return math.sqrt((1 if k == 0 else 2) / n) * math.cos(math.pi * (2 * i + 1) * k / (2 * n))

    out = np.zeros((h, w))
    for u in range(h):
        for v in range(w):
            if u == v == 0:
                continue
            wave = np.array([[basis(u, i, h) * basis(v, j, w) for j in range(w)] for i in range(h)])
            out += (c * wave).sum() * wave
    return out


def slow_dfm(s, t, view):
    total = 0.0
    for b in range(s.shape[0]):
        a, c = s[b], t[b]
        if view == 'alternative':
            a, c = (np.stack([slow_dct(ch) for ch in f]) for f in (a, c))
        for i in range(a.shape[1]):
            for j in range(a.shape[2]):
                la, lc = math.sqrt(sum(v * v for v in a[:, i, j])), math.sqrt(sum(v * v for v in c[:, i, j]))
                total += sum((p / la - q / lc) ** 2 for p, q in zip(a[:, i, j], c[:, i, j]))
    return total / s.shape[0]


@pytest.mark.parametrize('view', _VIEWS)
@pytest.mark.parametrize('shape', [(2, 3, 4, 5), (3, 7, 1, 2), (1, 2, 7, 7)])
def test_dfm_equals_slow_formula_with_dct(view, shape):
    s, t = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3)).double() + 1
    want = slow_dfm(s.numpy(), t.numpy(), view)
    assert dfm_loss(s, t, view).item() == pytest.approx(want, rel=1e-9)
    assert dfm_loss(s.float(), t.float(), view).item() == pytest.approx(want, rel=1e-4)


def test_dct_without_dc_is_mean_subtraction():
    for shape in [(7, 7), (4, 9), (1, 5), (1, 1)]:
        c = np.random.default_rng(0).normal(3, 1, shape)
        np.testing.assert_allclose(slow_dct(c), c - c.mean(), atol=1e-12)


@pytest.mark.parametrize('view', _VIEWS)
def test_dfm_numerics(view):
    s, t = torch.randn(2, 2, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    for dtype, kept in [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ]:
        assert dfm_loss(s.to(dtype), t.to(dtype), view).dtype == kept
    assert dfm_loss(s.half() * 1e4, t.half(), view).isfinite()  # the square of 1e4 overflows in half
    z = torch.zeros(2, 4, 3, 3, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        loss = dfm_loss(z, t, view)
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()
    small = s.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: dfm_loss(a, t.double(), view), small)


def test_dfm_limits():
    s, t = torch.randn(2, 3, 4, 2, 5, generator=torch.Generator().manual_seed(2)).double()
    assert dfm_loss(t * 3, t).item() == pytest.approx(0, abs=1e-12) and dfm_loss(
        -t, t
    ).item() == pytest.approx(40)
    assert dfm_loss(s + 9, t, 'alternative').item() == pytest.approx(dfm_loss(s, t, 'alternative').item())
    assert dfm_loss(s[..., :1, :1], t[..., :1, :1], 'alternative').item() == 0


def test_soft_ce():
    s, t = np.random.default_rng(0).normal(size=(2, 4, 5))
    p, q = (np.exp(z / 2) / np.exp(z / 2).sum(1, keepdims=True) for z in (t, s))
    want = 4 * -(p * np.log(q)).sum(1).mean()
    assert soft_ce_loss(torch.tensor(s), torch.tensor(t), 2.0).item() == pytest.approx(want, rel=1e-12)
    assert soft_ce_loss(torch.tensor(s).bfloat16(), torch.tensor(t).bfloat16()).dtype == torch.float32


# --- the projector


def numpy_cap(cap, x, query=None):
    "One head, eval mode, equal grids, one number at a time where it matters."
    P = {k: v.detach().numpy() for k, v in cap.state_dict().items()}
    relu, linear = lambda a: np.maximum(a, 0), lambda a, n: a @ P[f'{n}.weight'].T + P[f'{n}.bias']
    out = []
    for n, image in enumerate(x):
        c, h, w = image.shape
        padded, conv = np.pad(image, ((0, 0), (1, 1), (1, 1))), np.zeros((c, h, w))
        for o in range(c):
            for i in range(h):
                for j in range(w):
                    conv[o, i, j] = (padded[:, i : i + 3, j : j + 3] * P['conv.0.weight'][o]).sum() + P[
                        'conv.0.bias'
                    ][o]
        bn = (conv - P['conv.1.running_mean'][:, None, None]) / np.sqrt(P['conv.1.running_var'] + 1e-5)[
            :, None, None
        ]
        tokens = (
            relu(bn * P['conv.1.weight'][:, None, None] + P['conv.1.bias'][:, None, None]).reshape(c, h * w).T
            + P['positions']
        )
        q = P['queries'] if query is None else query[n].reshape(query.shape[1], h * w).T
        q, k, v = linear(relu(linear(q, 'query_conv')), 'q'), linear(tokens, 'k'), linear(tokens, 'v')
        rows = []
        for a in q:
            e = np.exp([5 * (a * b).sum() / math.sqrt(len(a)) for b in k])
            y = linear(sum(p * b for p, b in zip(e / e.sum(), v)), 'out')
            y = (y - y.mean()) / np.sqrt(y.var() + 1e-5) * P['norm.weight'] + P['norm.bias']
            rows.append(y + linear(relu(linear(y, 'ffn.0')), 'ffn.2'))
        out.append(np.array(rows).T.reshape(-1, h, w))
    return np.stack(out)


@pytest.mark.parametrize('learned', [True, False])
def test_cap_by_hand(learned):
    torch.manual_seed(0)
    cap = CAP(3, 4, (2, 3), heads=1, learned_queries=learned).double().eval()
    with torch.no_grad():
        for b in cap.conv[1].buffers():
            if b.is_floating_point():
                b.uniform_(0.5, 1.5)
        for p in cap.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    x, query = torch.randn(2, 3, 2, 3).double(), None if learned else torch.randn(2, 4, 2, 3).double()
    want = numpy_cap(cap, x.numpy(), None if learned else query.numpy())
    np.testing.assert_allclose(cap(x, query).detach().numpy(), want, atol=1e-10)


def test_heads_are_separate_attentions():
    "Two heads equal two one-head attentions on halves of the channels, side by side."
    torch.manual_seed(0)
    cap, x = CAP(3, 4, (2, 2), heads=2).double().eval(), torch.randn(2, 3, 2, 2).double()
    tokens = cap.conv(x).flatten(2).mT + cap.positions
    q, k, v = cap.q(cap.query_conv(cap.queries).relu()).expand(2, -1, -1), cap.k(tokens), cap.v(tokens)
    halves = [
        (5 / math.sqrt(2) * q[..., i : i + 2] @ k[..., i : i + 2].mT).softmax(-1) @ v[..., i : i + 2]
        for i in (0, 2)
    ]
    y = cap.norm(cap.out(torch.cat(halves, -1)))
    torch.testing.assert_close(cap(x).flatten(2).mT, y + cap.ffn(y))


def test_constant_map_leaves_only_positions():
    cap = CAP(2, 4, (3, 3)).eval()
    with torch.no_grad():
        cap.conv[0].weight.zero_()
        cap.positions.zero_()
    y = cap(torch.randn(1, 2, 3, 3))
    torch.testing.assert_close(y, y[..., :1, :1].expand_as(y))  # no residual: the queries leave no trace


def test_default_heads():
    assert [_default_heads(w) for w in (4, 64, 96, 192, 384, 768, 1000)] == [1, 1, 1, 3, 6, 12, 10]


def test_published_sizes():
    student, teacher = (
        find_taps(make_model(n, 10, (3, 224, 224)), (3, 224, 224))
        for n in ('resnet18', 'swin_tiny_patch4_window7_224')
    )
    with torch.device('meta'):
        assert round(count_params(Projectors(student, teacher, None)) / 1e6, 1) == 24.4


# --- the teacher's last stage

FAMILIES = dict(
    micro_resnet=(SIZE, 'stages.3', 'adapted'),
    micro_vit=(SIZE, 'blocks.3', 'adapted'),
    micro_mixer=(SIZE, 'blocks.3', 'adapted'),
    swin_nano=((3, 64, 64), 'layers.3', 'paper'),
    resnet18=((3, 64, 64), 'layer4', 'adapted'),
    convnext_atto=((3, 64, 96), 'stages.3', 'adapted'),
    deit_tiny_patch16_224=((3, 64, 48), 'blocks.9 blocks.10 blocks.11', 'adapted'),
    vit_small_patch14_reg4_dinov2=((3, 56, 56), 'blocks.9 blocks.10 blocks.11', 'adapted'),
    eva02_tiny_patch14_224=((3, 56, 56), 'blocks.9 blocks.10 blocks.11', 'adapted'),
    xcit_nano_12_p16_224=((3, 64, 64), 'blocks.9 blocks.10 blocks.11', 'adapted'),
    mixer_s32_224=((3, 64, 64), 'blocks.6 blocks.7', 'adapted'),
)


@pytest.mark.parametrize('name', FAMILIES)
def test_families_build_and_step(name):
    size, names, status = FAMILIES[name]
    task = make('micro_resnet' if name != 'resnet18' else 'micro_vit', name, size).train()
    last = task.trainable_module.heads.last_stage
    assert (
        ' '.join(last.names) == names
        and task.status == status
        and bool(task.adapted) == (status == 'adapted')
    )
    x = torch.randn(3, *size)
    *_, before, after = task.teacher(x, ('maps',)).maps
    with torch.no_grad():
        torch.testing.assert_close(
            last(before), after[0] if isinstance(after, tuple) else after, rtol=1e-4, atol=1e-4
        )
    out = task(x, torch.arange(3))
    out['loss'].backward()
    assert out['loss'].isfinite() and finite_gradients(task)
    assert all(p.grad is None for p in task.teacher.parameters())


def test_last_stage_is_the_teachers_own_and_stays_out_of_the_heads():
    task = make('micro_mixer', 'micro_vit')
    heads = task.trainable_module.heads
    assert heads.last_stage.modules[0] is task.teacher.model.blocks[3]
    assert not {id(p) for p in task.teacher.parameters()} & {
        id(p) for p in task.trainable_module.parameters()
    }
    assert not any('last_stage' in k for k in task.get_task_state()['heads'])
    assert copy.deepcopy(task.trainable_module).heads.last_stage is heads.last_stage
    assert isinstance(heads.last_stage, _LastStage) and not any(
        m._forward_hooks for m in task.teacher.modules()
    )


@pytest.mark.parametrize('method', ['scalekd', 'scalekd+kd'])
def test_a_copy_of_the_task_has_a_teacher_of_its_own(method):
    "Its last stage is the copied teacher's: moved, changed or dropped with it."
    task = create_task(method, 'micro_mixer', make_model('micro_vit'), input_size=SIZE).eval()
    want, twin = task(X, Y)['loss'], copy.deepcopy(task)

    def heads(trainable):
        return trainable.heads if method == 'scalekd' else trainable.heads.heads['scalekd']

    assert heads(twin.trainable_module).last_stage.modules[0] is twin.teacher.model.blocks[3]
    assert heads(task.trainable_module).last_stage.modules[0] is task.teacher.model.blocks[3]
    assert torch.equal(twin(X, Y)['loss'], want)
    with torch.no_grad():
        [p.zero_() for p in task.teacher.parameters()]
    assert torch.equal(twin(X, Y)['loss'], want)
    twin = twin.double()
    assert twin(X.double(), Y)['loss'].dtype == torch.float64
    average = twin.setup_ema().module  # a copy of the heads alone
    assert heads(average).last_stage is heads(twin.trainable_module).last_stage


@pytest.mark.parametrize('method', ['scalekd', 'ofa+scalekd'])
def test_weight_decay_spares_positions_and_queries(method):
    task = create_task(method, 'micro_vit', make_model('micro_mixer'), input_size=SIZE)
    listed, named = task.trainable_module.no_weight_decay(), dict(task.trainable_module.named_parameters())
    own = {n for n in named if n.rsplit('.', 1)[-1] in ('positions', 'queries')}
    assert len(own) == 6 and own <= listed and {'student.cls_token', 'student.pos_embed'} <= listed
    decayed, kept = create_optimizer_v2(task.trainable_module, 'adamw', 1e-3, 0.05).param_groups[::-1]
    assert decayed['weight_decay'] == 0.05 and kept['weight_decay'] == 0
    assert {id(named[n]) for n in own} <= {id(p) for p in kept['params']}
    assert not {id(named[n]) for n in own} & {id(p) for p in decayed['params']}


def test_class_token_is_the_mean_of_the_projected_tokens():
    last = make('micro_mixer', 'micro_vit').trainable_module.heads.last_stage
    x = torch.randn(2, 64, 2, 2)
    torch.testing.assert_close(last(x), last((x, x.mean((2, 3))[:, None])))
    with torch.no_grad():
        assert (last(x) - last((x, torch.zeros(2, 1, 64)))).abs().max() > 1e-3


def test_teacher_that_cannot_be_cut_is_refused():
    class Cut(nn.Module):
        "A model whose tapped features are not those that its modules hand on."

        def __init__(self):
            super().__init__()
            self.inner = make_model('micro_resnet')
            self.num_classes = 10

        def forward_intermediates(self, x, indices=None, output_fmt='NCHW', **_):
            final, maps = self.inner.forward_intermediates(x, indices=indices)
            return final * 2, [m * 2 for m in maps]

        def forward_head(self, x, pre_logits=False):
            return self.inner.forward_head(x, pre_logits)

        def forward(self, x):
            return self.forward_head(self.forward_intermediates(x)[0])

    says = 'no part of Cut that leads from its stage 3 .*tried every chain of its .* Teachers that work: ViT'
    with pytest.raises(ValueError, match=says):
        make(teacher=Cut())


def test_a_piece_that_does_not_reproduce_is_refused():
    class Remembers(nn.Module):
        "A stage that adds what the stem left for it, once."

        def __init__(self, inner):
            super().__init__()
            self.inner, self.left = inner, 0.0

        def forward(self, x):
            y, self.left = self.inner(x) + self.left, 0.0
            return y

    teacher = make_model('micro_resnet')
    stage = teacher.stages[3] = Remembers(teacher.stages[3])
    teacher.stem.register_forward_hook(lambda m, args, out: setattr(stage, 'left', 1.0))
    with pytest.raises(
        ValueError, match='tried the chain stages.3, which does not give its stage-4 features'
    ):
        find_last_stage(Teacher(teacher), SIZE)


# --- the task


@pytest.mark.parametrize('teacher', MICRO)
@pytest.mark.parametrize('student', MICRO)
def test_step_of_every_pair(student, teacher):
    task = make(student, teacher).train()
    before = {k: v.clone() for k, v in task.teacher.state_dict().items()}
    task.teacher.model.train()  # someone forgot
    opt = torch.optim.SGD(task.trainable_module.parameters(), 0.1)
    for _ in range(2):
        out = task(X, Y)
        opt.zero_grad()
        out['loss'].backward()
        opt.step()
        assert out['loss'].isfinite() and finite_gradients(task)
    assert set(out) == {'loss', 'output', 'ce', 'kd'} | {f'{a}_{v}' for a in ('tpp', 'cap') for v in _VIEWS}
    torch.testing.assert_close(out['loss'], sum(v for k, v in out.items() if k not in ('loss', 'output')))
    for k, v in task.teacher.state_dict().items():
        assert torch.equal(v, before[k]), k
    assert all(p.grad is None for p in task.teacher.parameters()) and not any(
        m.training for m in task.teacher.modules()
    )


def test_known_answers_keep_the_frozen_stage_in_eval():
    task = make('micro_mixer', 'micro_resnet').eval()
    answers = task.answers(X)
    want = task(X, Y)['loss']
    task.teacher.model.train()
    assert (
        torch.equal(task(X, Y, teacher=answers)['loss'], want) and not task.teacher.model.stages[3].training
    )


def test_gradients_reach_the_student_through_the_frozen_stage():
    task = make('micro_vit', 'micro_mixer').train()
    out, block = task(X, Y), task.student.blocks
    (out['tpp_direct'] + out['tpp_alternative']).backward(retain_graph=True)
    assert block[2].mlp.fc1.weight.grad.abs().sum() > 0 and block[3].mlp.fc1.weight.grad is None
    heads = task.trainable_module.heads
    assert all(p.grad is None for p in heads.stage4.parameters())
    task.zero_grad()
    out['cap_direct'].backward()
    assert (
        heads.stage3['direct'].queries.grad.abs().sum() > 0
        and heads.stage3['alternative'].queries.grad is None
    )  # own proxies, not detached
    assert block[3].mlp.fc1.weight.grad.abs().sum() > 0


def test_parts_are_the_formulas():
    task = make(
        'micro_resnet',
        'micro_mixer',
        direct_weight=0.1,
        alternative_weight=0.3,
        label_weight=0.7,
        kd_weight=0.2,
        temperature=2.0,
    ).eval()
    out, answers = task(X, Y), task.answers(X)
    heads, t4 = task.trainable_module.heads, answers.maps[-1]
    f3, f4 = task.trainable_module(X, answers)[0].stages
    torch.testing.assert_close(out['ce'], 0.7 * nn.functional.cross_entropy(task.student(X), Y))
    torch.testing.assert_close(out['kd'], 0.2 * soft_ce_loss(task.student(X), answers.logits, 2.0))
    for view, w in zip(_VIEWS, (0.1, 0.3)):
        proxy = heads.last_stage(heads.stage3[view](f3))
        torch.testing.assert_close(out[f'tpp_{view}'], w * 49 / 4 * dfm_loss(proxy, t4, view))
        torch.testing.assert_close(
            out[f'cap_{view}'], w * 49 / 4 * dfm_loss(heads.stage4[view](f4, proxy), t4, view)
        )


@pytest.mark.parametrize('teacher', MICRO + ['swin_nano'])
def test_bf16_autocast_is_finite(teacher):
    size = (3, 64, 64) if teacher == 'swin_nano' else SIZE
    task = make('micro_vit', teacher, size).train()
    with torch.autocast('cpu', torch.bfloat16):
        out = task(torch.randn(4, *size), torch.arange(4))
    out['loss'].backward()
    assert out['loss'].dtype == torch.float32 and out['loss'].isfinite() and finite_gradients(task)


def test_fit_on_digits_lowers_the_loss():
    data = split(digits(), train=200)
    teacher = make_model('micro_mixer')
    torch.manual_seed(0)
    fit(
        create_task('labels', teacher, input_size=data.input_size),
        data,
        3,
        lr=2e-3,
        device='cpu',
        progress=False,
    )
    task = make('micro_resnet', teacher)
    history = fit(task, data, 5, lr=2e-3, device='cpu', progress=False)
    assert history[-1]['loss'] < 0.9 * history[0]['loss'], history


def test_combined_compiled_and_restored():
    task = make('micro_vit', 'micro_mixer').eval()
    want, other = task(X, Y)['loss'], make('micro_vit', 'micro_mixer').eval()
    with torch.no_grad():
        [p.add_(0.1) for p in other.trainable_module.parameters()]
    state = task.get_checkpoint_state()
    other.load_checkpoint_state(state['state_dict'], state['task_state'])
    torch.testing.assert_close(other(X, Y)['loss'], want)
    task.compile(backend='eager')
    torch.testing.assert_close(task(X, Y)['loss'], want)
    both = create_task('scalekd+labels', 'micro_resnet', make_model('micro_vit'), input_size=SIZE).train()
    out = both(X, Y)
    out['loss'].backward()
    assert 'scalekd_tpp_direct' in out and finite_gradients(both)


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda: make(heads=(3, 4)), "divides the teacher's width 64, got 3"),
        (lambda: make(heads=(4, 0)), "divides the teacher's width 64, got 0"),
        (lambda: make(heads=4), 'heads: expected two numbers'),
        (lambda: make(s=-1.0), 's: expected a finite number above 0'),
        (lambda: make(temperature=0.0), 'temperature: expected a finite number above 0'),
        (lambda: make(setting='ofa'), 'setting: expected one of own'),
        (lambda: make(positions=[3]), 'student: ScaleKD needs two stages or more, it has 1'),
        (lambda: make(teacher=nn.Sequential(nn.Flatten(), nn.Linear(64, 10))), 'gives logits only'),
        (
            lambda: make(teacher='hiera_tiny_224', student='resnet18', size=(3, 64, 64)),
            'no part of Hiera .* Teachers that work',
        ),
        (lambda: CAP(2, 4, (2, 2))(torch.zeros(2, 2, 2, 2), torch.zeros(2, 4, 2, 2)), 'query: expected none'),
        (lambda: CAP(2, 4, (2, 2), learned_queries=False)(torch.zeros(2, 2, 2, 2)), 'query: expected a map'),
        (lambda: dfm_loss(torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 1)), 'two maps of one shape'),
        (lambda: dfm_loss(torch.zeros(2, 3), torch.zeros(2, 3)), 'two maps of one shape'),
        (
            lambda: dfm_loss(torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2), 'side'),
            'view: expected one of direct, alternative',
        ),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(ValueError, match=says):
        call()
