"""Stops that nobody takes for a failure, and checkpoints that load as they were written or not at all."""

import os
import random
import signal
import threading
import time
import warnings

import pytest
import torch
from fresh import Started, finished

from ofa_learn.checkpoints import (
    _KIND,
    Stopped,
    load_checkpoint,
    newest,
    previous_of,
    save_checkpoint,
    stoppable,
)
from ofa_learn.data import digits, split
from ofa_learn.models import load_model, make_model, save_model
from ofa_learn.tasks import create_task
from ofa_learn.training import fit


def test_a_stop_is_no_failure():
    assert issubclass(Stopped, KeyboardInterrupt) and not issubclass(Stopped, Exception)


def test_contexts_within_one_another_share_one_request():
    def both():
        with stoppable() as outer:
            with stoppable() as inner:
                assert inner is outer
                signal.raise_signal(signal.SIGTERM)
            assert outer.asked, 'what came during the inner one is known to the outer one'

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        both()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with stoppable() as later:
        assert not later.asked


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_innermost_context_says_when(number):
    seen = []

    def run():
        with stoppable(at_once=True):
            with stoppable():
                signal.raise_signal(number)
                seen.append('saved')
            seen.append('not reached')

    with pytest.raises(Stopped):
        run()
    assert seen == ['saved']

    def prompt():
        with stoppable(), stoppable(at_once=True):
            signal.raise_signal(number)
            seen.append('not reached')

    with pytest.raises(Stopped):
        prompt()
    assert seen == ['saved']


def test_many_sigterms_are_one_and_a_second_ctrl_c_interrupts():
    with pytest.raises(KeyboardInterrupt) as raised, stoppable():
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
    assert raised.type is KeyboardInterrupt


def test_the_outermost_advice_is_the_message():
    told = pytest.raises(Stopped, match='^the same command goes on$')
    outer, inner = stoppable(advice='the same command goes on'), stoppable(advice='resume=True goes on')
    with told, outer, inner:
        raise Stopped('in the middle')


def test_an_error_stays_what_it_is():
    with pytest.raises(ValueError, match='wrong'), stoppable(advice='go on') as stop:
        stop.ask()
        raise ValueError('wrong')


def test_another_thread_has_a_request_of_its_own():
    ready, told, out = threading.Event(), threading.Event(), []

    def work():
        try:
            with stoppable() as stop:
                out.append(stop)
                ready.set()
                told.wait(10)
        except Stopped:
            out.append('stopped')

    thread = threading.Thread(target=work)
    with stoppable() as mine:
        thread.start()
        assert ready.wait(10) and out[0] is not mine
        out[0].ask()
        out[0].ask()  # by hand it may come twice
        told.set()
        thread.join(10)
        assert out[1:] == ['stopped'] and not mine.asked


def test_a_training_within_tells_who_is_around_it():
    data = split(digits(), train=100)

    def around():
        for _ in range(3):
            with stoppable():
                starts.append(1)
                fit(create_task('labels', 'micro_vit', data=data), data, 3, **options)

    starts = []
    options = dict(device='cpu', progress=False, on_step=lambda done: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        around()
    assert len(starts) == 1


def test_who_has_nothing_to_lose_does_not_begin_after_a_request():
    with pytest.raises(Stopped), stoppable() as stop:
        stop.ask()
        with stoppable(at_once=True):
            raise AssertionError('begun')


def state_of(step):
    torch.manual_seed(step)
    model = torch.nn.Sequential(torch.nn.Linear(20, 10), torch.nn.BatchNorm1d(10))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 20)).square().sum().backward()
    optimizer.step()
    weights, moments = model.state_dict(), optimizer.state_dict()
    return dict(step=step, weights=weights, optimizer=moments, rows=[dict(loss=0.5, name='γ')], at=None)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def flipped(data, rng):
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def zeroed(data, rng):
    at, n = rng.randrange(len(data)), rng.choice([1, 16, 64, 200, 512, 4096])
    return data[:at] + bytes(len(data[at : at + n])) + data[at + n :]


def overwritten(data, rng):
    at, n = rng.randrange(len(data)), rng.choice([1, 8, 512])
    return data[:at] + rng.randbytes(len(data[at : at + n])) + data[at + n :]


def cut(data, rng):
    return data[: rng.randrange(len(data))]


@pytest.mark.parametrize('change', [flipped, zeroed, overwritten, cut])
@pytest.mark.parametrize('format', [1, 2])
def test_a_damaged_checkpoint_never_loads_as_another_state(tmp_path, change, format):
    path, rng, refused = tmp_path / 'last.pt', random.Random(0), 0
    state = state_of(1)
    if format == 1:  # as they were written before there was a checksum
        torch.save(dict(kind=_KIND, version=1, state=state), path)
    else:
        save_checkpoint(state, path)
    data = path.read_bytes()
    assert same(load_checkpoint(path), state)
    for _ in range(300):
        damaged = change(data, rng)
        path.write_bytes(damaged)
        try:
            found = load_checkpoint(path)
        except ValueError as e:
            refused += 1
            assert 'last.pt: ' in str(e)
        else:
            assert same(found, state)
            assert format == 1 or damaged == data, 'no change at all goes unnoticed'
    assert refused > (290 if change is not zeroed and format == 2 else 100)


def test_the_checkpoint_before_a_damaged_one_is_taken_and_said(tmp_path):
    path = tmp_path / 'last.pt'
    for step in (1, 2):
        save_checkpoint(state_of(step), path)
    good = path.read_bytes()
    path.write_bytes(flipped(good, random.Random(1)))
    with pytest.warns(
        UserWarning, match='last.pt: not a readable checkpoint.*Going on from previous.last.pt'
    ):
        assert newest(path)['step'] == 1
    path.write_bytes(good)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert newest(path)['step'] == 2
    for p in (path, previous_of(path)):
        p.write_bytes(flipped(p.read_bytes(), random.Random(2)))
    with pytest.raises(ValueError, match='Remove the files to begin again'):
        newest(path)


def test_a_checksum_that_is_gone_is_missed(tmp_path):
    path = save_checkpoint(state_of(1), tmp_path / 'last.pt')
    data = path.read_bytes()
    path.write_bytes(data[:-73] + b'\0\0')  # a good archive, as torch writes it
    assert torch.load(path)['version'] == 2
    with pytest.raises(ValueError, match='its checksum is gone'):
        load_checkpoint(path)


def test_other_programs_read_it_too(tmp_path):
    path = save_checkpoint(state_of(1), tmp_path / 'last.pt')
    for mmap in (False, True):
        assert same(torch.load(path, weights_only=True, mmap=mmap)['state'], state_of(1))


def writes_on(path):
    for step in range(1, 10_000):
        save_checkpoint(dict(step=step, w=torch.full((50_000,), float(step))), path)
        print(step, flush=True)


@pytest.mark.skipif(os.name != 'posix', reason='kills')
def test_killed_while_writing(tmp_path):
    path, rng = tmp_path / 'last.pt', random.Random(0)
    for _ in range(3):
        writer = Started(writes_on, path, folder=tmp_path)
        writer.stdout.readline()
        time.sleep(rng.uniform(0, 0.3))
        writer.kill()
        said = [1, *map(int, writer.stdout.read().split())]
        writer.wait()  # its pipe closes a moment before its lock does
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            state = newest(path)
        assert state['step'] >= said[-1] and (state['w'] == state['step']).all()
    left = list(tmp_path.glob('.*.tmp'))
    for p in left:
        os.utime(p, (0, 0))
    save_checkpoint(dict(step=0), path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['last.pt', 'previous.last.pt']


def test_a_damaged_teacher_never_loads_as_another(tmp_path):
    torch.manual_seed(0)
    model = make_model('micro_vit', depth=1)
    about = dict(norm=((0.3,), (0.4,)), classes=list('0123456789'), depth=1)
    path, rng, refused = (
        save_model(model, tmp_path / 't.safetensors', (1, 8, 8), **about),
        random.Random(0),
        0,
    )
    data = path.read_bytes()
    again = save_model(model, tmp_path / 'u.safetensors', (1, 8, 8), **about)
    assert again.read_bytes() == data, 'the same model is the same file'
    head = 8 + int.from_bytes(data[:8], 'little')  # sizes, names and the description, where harm hides best
    _, told = load_model(path)
    for i in range(300):
        end = head if i % 2 else len(data)
        path.write_bytes(rng.choice([flipped, overwritten])(data[:end], rng) + data[end:])
        try:
            found, said = load_model(path)
        except ValueError:
            refused += 1
            continue
        assert same(dict(found.state_dict()), dict(model.state_dict()))
        assert {k: v for k, v in said.items() if k in told} == told
    assert refused > 280
    path.write_bytes(data)
    assert 'sha256' not in load_model(path)[1]


def writes_on_a_full_disk(path):
    import resource

    save_checkpoint(dict(step=1, w=torch.zeros(10)), path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    for n in (20_000, 200_000):
        try:
            save_checkpoint(dict(step=2, w=torch.zeros(n)), path)
        except OSError as e:
            print(n, type(e).__name__, newest(path)['step'])


@pytest.mark.skipif(os.name != 'posix', reason='sets a limit')
def test_a_full_disk_is_called_so_and_costs_nothing(tmp_path):
    done = finished(writes_on_a_full_disk, tmp_path / 'last.pt', folder=tmp_path)
    assert done.stdout == '200000 OSError 2\n', done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ['last.pt', 'previous.last.pt']
