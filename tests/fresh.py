"""Calls in a fresh process that need not wait for PyTorch: it is forked from one that has imported it.

So are the processes that such a call spawns itself.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings
from contextlib import suppress
from multiprocessing import reduction
from pathlib import Path
from types import SimpleNamespace

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
FORKS = CONTEXT.get_start_method() == 'forkserver'


class _Worker(CONTEXT.Process):
    "A fork of the server that is its parent's as a spawned process is: streams, environment, group."

    def __getstate__(self):
        streams = [reduction.DupFd(number) for number in (1, 2)]
        return vars(self) | dict(_place=(streams, dict(os.environ), os.getpgrp()))

    def run(self):
        streams, env, group = self._place
        for number, stream in enumerate(streams, 1):
            os.dup2(stream.detach(), number)
        os.environ.update(env)
        os.setpgid(0, group)
        super().run()


class _Workers(type(CONTEXT)):
    Process = _Worker


WORKERS = _Workers() if FORKS else CONTEXT


def _server() -> dict:
    "What another process needs in order to ask the server for forks."
    if not FORKS:
        return {}
    from multiprocessing import forkserver

    forkserver.ensure_running()
    known = vars(forkserver._forkserver)
    return {k: known[k] for k in ('_forkserver_address', '_forkserver_authkey') if k in known}


def _use(server: dict):
    "In a new process: what it spawns is forked by the server, too. Python would start another server."
    if not server:
        return
    from multiprocessing import forkserver

    any_context = multiprocessing.get_context

    def it_runs():
        "There is none to be started."

    def get_context(method=None):
        return WORKERS if method == 'spawn' else any_context(method)

    vars(forkserver._forkserver).update(server)
    forkserver._forkserver.ensure_running = it_runs
    multiprocessing.get_context = get_context


def _settle(folder, method, server):
    "In a new process: what makes it like one that begins from nothing, but for what is imported."
    multiprocessing.set_start_method(method, force=True)  # of its own processes, as in any other program
    _use(server)
    os.environ.update(QUIET)
    os.chdir(folder)
    import torch

    torch.set_num_threads(1)


def _call(function, args, folder, log, pipe, *settings):
    "In the new process: what `function` returns goes through the pipe, all that is printed into the log."
    with open(log, 'w') as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    _settle(folder, *settings)
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
        how = (str(folder), str(log), theirs, multiprocessing.get_start_method(), _server())
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


def as_main(path, *args):
    "A file as a program, for a fresh process."
    warnings.simplefilter('ignore')
    sys.argv = [str(path), *map(str, args)]
    runpy.run_path(str(path), run_name='__main__')


def _by_torchrun(path, args, processes):
    "What `torchrun --standalone` does, but for one thing: its processes are forks."
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    how = dict(rdzv_backend='c10d', rdzv_endpoint='localhost:0', start_method='fork')
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=processes, **how)
    elastic_launch(config, as_main)(path, *args)


def _printed(path, args, processes):
    with tempfile.TemporaryFile() as file:
        log = os.dup(1)
        os.dup2(file.fileno(), 1)
        if processes:
            _by_torchrun(path, args, processes)
        else:
            as_main(path, *args)
        sys.stdout.flush()
        os.dup2(log, 1)
        file.seek(0)
        return file.read().decode()


def program(path: Path, *args, processes: int = 0, timeout: float = 240) -> str:
    "What a Python program prints: in a fresh process, or with `processes` in a group as of torchrun."
    return call(_printed, path, args, processes, folder=path.parent, timeout=timeout)


# ------------------------------------------------------------------ processes that a test talks to


def _begin(function, args, streams, env, *settings):
    "In a new process of a `Started`: a group of its own, the streams as pipes."
    if hasattr(os, 'setpgid'):
        os.setpgid(0, 0)
    for number, stream in enumerate(streams):
        os.dup2(stream.fileno(), number)
    how = dict(closefd=False, encoding=env.get('PYTHONIOENCODING', 'utf-8'))
    sys.stdin = open(0, **how)  # noqa: SIM115
    sys.stdout = open(1, 'w', **how)  # noqa: SIM115
    sys.stderr = open(2, 'w', 1, errors='backslashreplace', **how)  # noqa: SIM115
    multiprocessing.process._parent_process = None  # its parent is a test, of which it knows nothing
    os.environ.update(env)
    _settle(*settings)
    function(*args)


class Started:
    """`function(*args)` in a fresh process, as with `subprocess.Popen`: signals, pipes of text, an exit code.

    Where no server is forked, as on Windows, there are no signals to be sent either.
    """

    def __init__(self, function, *args, folder: Path, **env):
        streams = [CONTEXT.Pipe(duplex=False) for _ in range(3)]
        inside = [streams[0][0], streams[1][1], streams[2][1]]
        outside = [streams[0][1], streams[1][0], streams[2][0]]
        how = (inside, env, str(folder), multiprocessing.get_start_method(), _server())
        self._process = CONTEXT.Process(target=_begin, args=(function, args, *how))
        self._process.start()
        for end in inside:
            end.close()
        files = [os.dup(end.fileno()) for end in outside]
        for end in outside:
            end.close()
        self.pid = self._process.pid
        self.stdin = open(files[0], 'w')  # noqa: SIM115
        as_they_are = dict(encoding='utf-8', newline='')  # a progress bar's carriage returns end no line
        self.stdout = open(files[1], **as_they_are)  # noqa: SIM115
        self.stderr = open(files[2], **as_they_are)  # noqa: SIM115

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.poll() is None:
            raise TimeoutError(f'process {self.pid} still runs after {timeout} s')
        return self.returncode

    def communicate(self, said='', timeout=None):
        "What it printed from now on and its errors, once it has ended."
        found = {}
        readers = []
        for name in ('stdout', 'stderr'):
            file = getattr(self, name)
            reader = threading.Thread(target=lambda n=name, f=file: found.update({n: f.read()}), daemon=True)
            reader.start()
            readers.append(reader)
        with suppress(BrokenPipeError):
            self.stdin.write(said)
            self.stdin.close()
        self.wait(timeout)
        for reader in readers:
            reader.join(30)
        return found.get('stdout', ''), found.get('stderr', '')


def command(*words):
    "`ofa-learn` with these words, for a fresh process."
    from ofa_learn.cli import main

    sys.exit(main([str(word) for word in words]))


def finished(function, *args, folder: Path, timeout: float = 300, **env):
    "A fresh process that has ended, as `subprocess.run` gives it: returncode, stdout, stderr."
    process = Started(function, *args, folder=folder, **env)
    said, errors = process.communicate(timeout=timeout)
    return subprocess.CompletedProcess(args, process.returncode, said, errors)


def warm_processes():
    "In the place of `multiprocessing` where a module starts a process that begins from nothing."
    return SimpleNamespace(get_context=lambda kind: WORKERS)
