"""One thread a process (two busy cores make two-thread PyTorch crawl), and a plain last line with the counts."""

import os
import subprocess
import sys

os.environ['OMP_NUM_THREADS'] = '1'
import pytest
from copies import copy_tree


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def built(tmp_path_factory):
    "A copy of the project with the docs site's preview in _docs, and what it was rendered from in _proc."
    for name in ('myst_nb', 'pydata_sphinx_theme', 'latex2mathml'):
        pytest.importorskip(name)
    tree = tmp_path_factory.mktemp('built')
    copy_tree(tree)
    env = os.environ | dict(
        PYTHONPATH=os.pathsep.join([str(tree), *filter(None, [os.environ.get('PYTHONPATH')])])
    )
    done = subprocess.run(
        [sys.executable, 'tools/docs.py', '--preview'],
        cwd=tree,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return tree


def pytest_unconfigure(config):
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    if reporter is None or config.option.collectonly:
        return
    count = lambda *kinds: sum(len(reporter.stats.get(k, [])) for k in kinds)
    skipped = count('skipped')
    print(
        f"{count('passed')} passed, {count('failed', 'error')} failed"
        + (f', {skipped} skipped' if skipped else '')
    )
