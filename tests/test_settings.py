"""Every setting is looked at before anything trains; every optimizer on offer goes on to the bit."""

import copy
import inspect
import math

import pytest
import torch
import torch.nn as nn
from timm.optim import list_optimizers

from ofa_learn.checkpoints import load_checkpoint
from ofa_learn.data import digits, split
from ofa_learn.settings import (
    _NOT_OFFERED,
    _RANGES,
    SCHEDULES,
    _why_not,
    check_settings,
    learning_rates,
    make_optimizer,
    newton_schulz_in,
    optimizers,
)
from ofa_learn.tasks import create_task
from ofa_learn.training import fit
from ofa_learn.workers import pick_device

DATA = split(digits(), train=40, valid=10, test=10)
QUIET = dict(device='cpu', progress=False)


def small_task(seed=0):
    "A student with a convolution, a matrix and vectors, which is what optimizers tell apart."
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Dropout(0.1)]
    return create_task('labels', nn.Sequential(*layers, nn.Linear(36, 10)), data=DATA)


def end(task):
    return {k: v.clone() for k, v in task.trainable_module.state_dict().items()}


class Cut(Exception):
    pass


def resumed(folder, at=1.3, **how):
    "A run of two epochs that was cut in the second, and went on."

    def cut(done):
        if done > at:
            raise Cut

    with pytest.raises(Cut):
        fit(small_task(), DATA, 2, out=folder, save_seconds=0, on_step=cut, **how)
    assert load_checkpoint(folder / 'last.pt')['start'] > 0
    task = small_task()
    fit(task, DATA, 2, out=folder, resume=True, **how)
    return end(task)


@pytest.mark.parametrize('opt', [*optimizers(), 'lookahead_adamw', 'lookahead_sgd'])
def test_every_optimizer_on_offer_goes_on_to_the_bit(opt, tmp_path):
    how = dict(opt=opt, lr=1e-3, batch_size=10, warmup_epochs=1, eval_every=2, **QUIET)
    whole = small_task()
    before = end(whole)
    fit(whole, DATA, 2, **how)
    after, again = end(whole), resumed(tmp_path, **how)
    moved = [k for k, p in whole.trainable_module.named_parameters() if not torch.equal(before[k], after[k])]
    assert len(moved) == len(list(whole.trainable_module.parameters())), 'not all parameters are trained'
    assert all(torch.equal(after[k], again[k]) for k in after)


def one_update(net: nn.Module, opt: str) -> list[torch.Tensor]:
    "What one update adds to each matrix of a network, with gradients of noise."
    net, noise = copy.deepcopy(net), torch.Generator().manual_seed(0)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = make_optimizer(net, dict(opt=opt, lr=1.0, weight_decay=0.0, momentum=0.9))
    for p in net.parameters():
        p.grad = torch.randn(p.shape, generator=noise, dtype=torch.float64).to(p.dtype)
    optimizer.step()
    return [(p.detach() - b).double() for p, b in zip(net.parameters(), before)]


@pytest.mark.parametrize('opt', ['muon', 'nmuon', 'lookahead_muon'])
def test_muon_is_exact_on_a_processor(opt):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(24, 16, bias=False), nn.Conv2d(8, 16, 3, bias=False))
    with newton_schulz_in(torch.float64):
        exact = one_update(net, opt)
    near = [(a - b).norm() / b.norm() for a, b in zip(one_update(net, opt), exact)]
    assert max(near) < 1e-4
    with newton_schulz_in(torch.bfloat16):
        far = [(a - b).norm() / b.norm() for a, b in zip(one_update(net, opt), exact)]
    assert min(far) > 1e-3, 'timm no longer asks for bfloat16'


def test_what_is_not_offered_is_refused_with_its_reason():
    refused = [n for n in list_optimizers() if _why_not(n)]
    assert set(refused) | set(optimizers()) == set(list_optimizers()) and len(optimizers()) > 75
    assert all(any(_why_not(n) == why for n in refused) for why in _NOT_OFFERED.values())
    for opt in [*refused, 'lookahead_kron']:
        with pytest.raises(ValueError, match=f'opt: {opt} is not offered: '):
            fit(small_task(), DATA, 1, opt=opt, **QUIET)
    for opt in ('foo_adamw', 'AdamW', 'adamv', None):  # timm would take the first two for adamw
        with pytest.raises(ValueError, match='opt: timm has no'):
            fit(small_task(), DATA, 1, opt=opt, **QUIET)


WRONG = dict(
    epochs=[0, -1, 1.5, True, '3', None],
    batch_size=[0, 1, 2.5, True, None],
    lr=[0, -1e-3, math.nan, math.inf, '1e-3', None, True],
    weight_decay=[-0.1, math.nan, None],
    momentum=[-0.1, 1.0, 1.5],
    warmup_epochs=[-1, math.nan, None],
    warmup_lr=[-1e-5, math.inf],
    min_lr=[-1e-5, None],
    clip=[-1, 0, True, math.nan, math.inf],
    mixup=[-0.1, math.nan, True],
    cutmix=[-1.0],
    accumulate=[0, -1, 1.5, True],
    ema=[True, 1, 1.0, 1.5, -0.1, math.nan],
    seed=[-1, 1.0, None, True, 2**32],
    view_seed=[-1, 0.5, 2**32],
    eval_every=[0, 1.5, None],
    save_seconds=[-1, math.nan, None],
    precision=['fp8', None],
    opt=['', 3],
    sched=['plateau', 'cosin', None],
    decay_epochs=[None],
    device=['gpu', 'cuda:99', 3.5],
)


@pytest.mark.parametrize('name, value', [(n, v) for n, values in WRONG.items() for v in values])
def test_a_wrong_setting_is_named_before_anything_trains_or_is_written(name, value, tmp_path):
    task = small_task()
    before = end(task)
    with pytest.raises(ValueError, match=f'^{name}: '):
        fit(task, DATA, **dict(epochs=2, out=tmp_path / 'run') | QUIET | {name: value})
    assert all(torch.equal(v, before[k]) for k, v in end(task).items()) and not (tmp_path / 'run').exists()


@pytest.mark.parametrize('name', ['channels_last', 'compile', 'resume', 'save_epochs'])
def test_a_switch_is_on_or_off(name, tmp_path):
    with pytest.raises(TypeError, match=f"^{name}: expected True or False, got 'no'"):
        fit(small_task(), DATA, 1, out=tmp_path / 'run', **QUIET | {name: 'no'})
    assert not (tmp_path / 'run').exists()


def test_augment_is_an_augment():
    with pytest.raises(TypeError, match='^augment: expected an Augment, got dict'):
        fit(small_task(), DATA, 1, augment=dict(shift=1), **QUIET)


def test_ranges_and_defaults_are_those_of_fit():
    defaults = {n: p.default for n, p in inspect.signature(fit).parameters.items()}
    shown = inspect.signature(learning_rates).parameters.values()
    assert all(defaults[p.name] == p.default for p in shown if p.name != 'updates')
    check_settings({k: v for k, v in defaults.items() if k in _RANGES or k in ('opt', 'sched')})
    numbers = {k for k, v in defaults.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    assert numbers - {'decay_epochs'} <= set(_RANGES)


@pytest.mark.parametrize('sched', SCHEDULES)
def test_no_schedule_rises_after_its_warm_up_or_is_constant_without_saying_so(sched):
    falls = dict(multistep=[4, 8], step=4, wsd=4, rsqrt=4).get(sched, 30)
    rates = learning_rates(5, sched=sched, epochs=12, warmup_epochs=2, lr=1e-3, decay_epochs=falls)
    rest = rates if sched == 'none' else rates[10:]
    assert all(b <= a for a, b in zip(rest, rest[1:])) and max(rates) <= 1e-3
    assert (min(rest) < 0.9e-3) == (sched not in ('constant', 'none'))
    assert sched == 'none' or rates[0] == pytest.approx(1e-5)


@pytest.mark.parametrize('sched', SCHEDULES)
def test_a_small_rate_is_refused_where_it_would_rise(sched):
    with pytest.raises(ValueError, match='^min_lr: the rate would rise from lr=1e-06 to 1e-05'):
        fit(small_task(), DATA, 12, lr=1e-6, sched=sched, **QUIET)
    falls = [4, 8] if sched == 'multistep' else 4
    assert max(learning_rates(5, lr=1e-6, min_lr=0.0, sched=sched, epochs=12, decay_epochs=falls)) <= 1e-6


@pytest.mark.parametrize(
    'wrong, says',
    [
        (dict(sched='step', epochs=10), 'decay_epochs: the first step would come after 30 epochs'),
        (dict(sched='step', epochs=10, decay_epochs=10), 'decay_epochs: the first step would come after 10'),
        (dict(sched='multistep'), r'decay_epochs: multistep expects a list of epochs below 100.*got 30'),
        (dict(sched='multistep', decay_epochs=[]), 'decay_epochs: multistep'),
        (dict(sched='multistep', decay_epochs=[60, 30]), 'decay_epochs: multistep'),
        (dict(sched='multistep', decay_epochs=[0, 30]), 'decay_epochs: multistep'),
        (dict(sched='multistep', decay_epochs=[30, 100]), 'decay_epochs: multistep'),
        (dict(sched='cosine', decay_epochs=[30]), 'decay_epochs: expected a finite number'),
        (dict(sched='wsd', epochs=20), 'decay_epochs: wsd falls over its last 30 epochs, but 15 are left'),
        (dict(sched='rsqrt', warmup_epochs=0), 'warmup_epochs: rsqrt'),
        (dict(warmup_lr=1.0), 'warmup_lr: the warm-up would fall from 1 to lr=0.002'),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(wrong, says):
    with pytest.raises(ValueError, match='^' + says):
        learning_rates(10, **wrong)


def test_stairs_fall_at_the_beginning_of_an_epoch():
    for updates in (1, 3, 7, 10):
        rates = learning_rates(
            updates, sched='multistep', epochs=9, decay_epochs=[2, 5], warmup_epochs=0, lr=1.0
        )
        assert rates == pytest.approx([1.0] * 2 * updates + [0.1] * 3 * updates + [0.01] * 4 * updates)


def test_a_device_that_is_not_here():
    assert pick_device('cpu') == pick_device(torch.device('cpu')) == torch.device('cpu')
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match='^device: cuda was asked for, and this machine has 0'):
            pick_device('cuda')
