"""Several processes: deaths that are found out, and a stop that all hear and nobody takes for a failure."""

import os
import signal
import time

import pytest
from fresh import Started, as_main, finished
from processes import gone, until

pytestmark = pytest.mark.skipif(os.name != 'posix', reason='sends signals')

PROGRAM = '''
import os, signal, sys, time
from pathlib import Path
from ofa_learn.checkpoints import Stopped, stoppable
from ofa_learn.workers import each

OUT = Path(sys.argv[1])

def careful(name):
    "Saves when it is asked to stop, after a moment."
    with stoppable() as stop:
        (OUT / f'{name}.begun').write_text(str(os.getpid()))
        while not stop:
            time.sleep(.05)
        time.sleep(1.5)
        (OUT / f'{name}.saved').touch()

def careless(name):
    (OUT / f'{name}.begun').write_text(str(os.getpid()))
    time.sleep(120)

def done(name):
    with stoppable():
        (OUT / f'{name}.begun').write_text(str(os.getpid()))
        time.sleep(3)
        (OUT / f'{name}.saved').touch()

if __name__ == '__main__':
    items, jobs = sys.argv[3].split(','), int(sys.argv[2])
    try:
        with stoppable(at_once=True, advice='the same command goes on'):
            for item, result, error in each(lambda_free, [(n,) for n in items], jobs):
                print('failed' if error else 'finished', item[0], flush=True)
    except KeyboardInterrupt as e:
        print(e, flush=True)
        sys.exit(130)
'''.replace('lambda_free', '{"careful": careful, "careless": careless, "done": done}[sys.argv[4]]')


def start(folder, jobs, names, what):
    (folder / 'program.py').write_text(PROGRAM)
    return Started(as_main, folder / 'program.py', folder, jobs, ','.join(names), what, folder=folder)


def begun(folder, n):
    "The numbers of the processes, once `n` calls have begun."
    until(lambda: len([p for p in folder.glob('*.begun') if p.read_text()]) >= n)
    return [int(p.read_text()) for p in sorted(folder.glob('*.begun'))]


WAYS = {
    'to the parent': lambda process, pids, n: os.kill(process.pid, n),
    'to the group': lambda process, pids, n: os.killpg(process.pid, n),
    'to a worker': lambda process, pids, n: os.kill(pids[0], n),
}


@pytest.mark.parametrize(
    'way, number',
    [
        ('to the parent', signal.SIGINT),
        ('to the parent', signal.SIGTERM),
        ('to the group', signal.SIGINT),
        ('to a worker', signal.SIGTERM),
    ],
)
def test_all_save_whoever_hears_of_it(tmp_path, way, number):
    process = start(tmp_path, 2, ['a', 'b', 'c'], 'careful')
    pids = begun(tmp_path, 2)
    WAYS[way](process, pids, number)
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, 'the same command goes on\n'), errors
    assert {p.stem for p in tmp_path.glob('*.saved')} == {'a', 'b'}, 'and c was not begun'
    assert 'Traceback' not in errors
    gone(pids)


@pytest.mark.parametrize('jobs', [0, 2])
def test_what_has_nothing_to_save_ends_at_once(tmp_path, jobs):
    process = start(tmp_path, jobs, ['a', 'b'], 'careless')
    pids = begun(tmp_path, max(jobs, 1))
    at = time.time()
    process.terminate()
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, 'the same command goes on\n'), errors
    assert time.time() - at < 20
    gone(pids)


@pytest.mark.parametrize('jobs', [0, 2])
def test_what_was_finished_meanwhile_is_kept_and_the_rest_is_not_begun(tmp_path, jobs):
    process = start(tmp_path, jobs, list('abcdef'), 'done')
    begun(tmp_path, max(jobs, 1))
    process.terminate()
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and said.endswith('the same command goes on\n') and 'failed' not in said
    both = {kind: {p.stem for p in tmp_path.glob(f'*.{kind}')} for kind in ('begun', 'saved')}
    assert both['begun'] == both['saved'] and len(both['saved']) <= 4


def test_a_second_ctrl_c_ends_all(tmp_path):
    process = start(tmp_path, 2, ['a', 'b'], 'careful')
    pids = begun(tmp_path, 2)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    gone(pids)


def test_no_worker_outlives_a_killed_parent(tmp_path):
    process = start(tmp_path, 2, ['a', 'b'], 'careful')
    pids = begun(tmp_path, 2)
    process.kill()
    process.communicate()
    gone(pids)
    assert not list(tmp_path.glob('*.saved'))


def test_a_program_without_a_main_guard_is_told_what_it_lacks(tmp_path):
    program = tmp_path / 'program.py'
    program.write_text(
        'from ofa_learn.workers import each\nprint(list(each(divmod, [(7, 2), (7, 0)], jobs=2)))\n'
    )
    done = finished(as_main, program, folder=tmp_path)
    assert done.returncode == 1 and not done.stdout
    assert "below the line `if __name__ == '__main__':`" in done.stderr.strip().splitlines()[-1]


GPUS = '''
import os, time
from pathlib import Path
import torch
from ofa_learn.workers import each, pick_device

def own(device, gpus, jobs):
    "Where a call takes place, in a process that has so many GPUs; it waits for the other processes."
    at, here = [0], Path(f'{device}-{gpus}-{jobs}')
    here.mkdir(exist_ok=True)
    (here / str(os.getpid())).touch()
    end = time.time() + 60
    while len(list(here.iterdir())) < jobs and time.time() < end:
        time.sleep(0.05)
    torch.cuda.is_available = lambda: gpus > 0
    torch.cuda.device_count = lambda: gpus
    torch.cuda.set_device = lambda i: at.__setitem__(0, i)
    torch.cuda.current_device = lambda: at[0]
    return str(pick_device(device))

if __name__ == '__main__':
    for device, gpus, jobs in [('any', 2, 3), ('cuda', 2, 2), ('cuda:1', 2, 2), ('any', 0, 2), ('any', 2, 0)]:
        calls = [(None if device == 'any' else device, gpus, jobs)] * 6
        print(*sorted({result or error for _, result, error in each(own, calls, jobs)}))
'''


def test_each_process_takes_a_gpu_of_its_own(tmp_path):
    "As far as there are that many; a GPU that is named is that one."
    (tmp_path / 'program.py').write_text(GPUS)
    done = finished(as_main, tmp_path / 'program.py', folder=tmp_path)
    assert done.stdout.split('\n')[:5] == ['cuda:0 cuda:1', 'cuda:0 cuda:1', 'cuda:1', 'cpu', 'cuda:0'], done
