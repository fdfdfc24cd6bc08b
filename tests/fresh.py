"""Calls in a fresh process that need not wait for PyTorch: it is forked from one that has imported it."""

import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

IMPORTED = [
    *('IPython', 'ipywidgets', 'nbdev.test', 'plotly.graph_objects', 'sklearn.datasets', 'timm', 'torch'),
    'plotly.io._renderers',  # what plotly imports when it shows its first figure
]
QUIET = dict(OMP_NUM_THREADS='1', TQDM_DISABLE='1', MPLBACKEND='agg')


def _context():
    "Forks of a server where the system has them; elsewhere every process begins from nothing."
    if 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    found = multiprocessing.get_context('forkserver')
    found.set_forkserver_preload(IMPORTED)
    return found


CONTEXT = _context()


def _call(function, args, folder, log, pipe, method):
    "In the new process: what `function` returns goes through the pipe, all that is printed into the log."
    multiprocessing.set_start_method(method, force=True)  # of its own processes, as in any other program
    with open(log, 'w') as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    os.environ.update(QUIET)
    os.chdir(folder)
    import torch

    torch.set_num_threads(1)
    try:
        pipe.send([function(*args)])
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None


def call(function, *args, folder: Path, timeout: float = 900):
    "`function(*args)` in a fresh process whose working folder is `folder`; what it printed where it fails."
    ours, theirs = CONTEXT.Pipe(duplex=False)
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / 'said'
        how = (str(folder), str(log), theirs, multiprocessing.get_start_method())
        process = CONTEXT.Process(target=_call, args=(function, args, *how))
        process.start()
        theirs.close()
        late = not ours.poll(timeout)
        with suppress(EOFError):  # it ended without an answer
            found = [] if late else ours.recv()
        if late:
            process.kill()
        process.join(30)
        said = log.read_text(errors='replace') if log.exists() else ''
    assert not late, f'took more than {timeout} s\n{said[-4000:]}'
    assert found and process.exitcode == 0, said[-5000:]
    return found[0]


def _as_main(path, args):
    warnings.simplefilter('ignore')
    sys.argv = [str(path), *map(str, args)]
    runpy.run_path(str(path), run_name='__main__')


def _by_torchrun(path, args, processes):
    "What `torchrun --standalone` does, but for one thing: its processes are forks."
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    how = dict(rdzv_backend='c10d', rdzv_endpoint='localhost:0', start_method='fork')
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=processes, **how)
    elastic_launch(config, _as_main)(path, args)


def _printed(path, args, processes):
    with tempfile.TemporaryFile() as file:
        log = os.dup(1)
        os.dup2(file.fileno(), 1)
        if processes:
            _by_torchrun(path, args, processes)
        else:
            _as_main(path, args)
        sys.stdout.flush()
        os.dup2(log, 1)
        file.seek(0)
        return file.read().decode()


def program(path: Path, *args, processes: int = 0, timeout: float = 240) -> str:
    "What a Python program prints: in a fresh process, or with `processes` in a group as of torchrun."
    return call(_printed, path, args, processes, folder=path.parent, timeout=timeout)
