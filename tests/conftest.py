"""How the tests run: one thread per process, which tests share a process, a last line with the counts."""

import os
import subprocess
import sys

os.environ['OMP_NUM_THREADS'] = '1'  # two busy cores make two-thread PyTorch crawl
import pytest
from copies import ROOT, copy_tree

sys.path.insert(0, str(ROOT / 'tools'))

# Two processes (`make test`) finish together when what takes longest begins first.
LONGEST_FIRST = ('site', 'test_lab', 'test_walkthroughs', 'test_sweeps', 'test_training')
SITE = ('test_docs', 'test_site')
IN_A_BROWSER = {'browser', 'built', 'page', 'visit'}

# What `make quick` leaves out: files whose tests train, start processes or build something, and these tests.
SLOW = {
    *('test_bench', 'test_cka', 'test_cli', 'test_demo', 'test_explorers', 'test_live', 'test_package'),
    *('test_recorded', 'test_report', 'test_runs', 'test_sweeps', 'test_training', 'test_workers', *SITE),
}
SLOW_TESTS = {'test_runs', 'test_checks', 'test_the_types_fit', 'test_every_method_learns'}


def group(item) -> str:
    "The tests that run in one process, one after the other, and so build what they share once."
    name = item.path.stem
    if name in SITE:
        return 'site'
    return item.nodeid if name in ('test_notebooks', 'test_walkthroughs') else name


def pytest_itemcollected(item):
    "Before pytest-xdist reads the marks."
    item.add_marker(pytest.mark.xdist_group(group(item)))
    if IN_A_BROWSER & set(item.fixturenames):
        item.add_marker(pytest.mark.browser)
    if item.path.stem in SLOW or getattr(item, 'originalname', item.name) in SLOW_TESTS:
        item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(items):
    def turn(item) -> int:
        name = item.path.stem
        name = 'site' if name in SITE else name
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=turn)


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
    path = os.pathsep.join(filter(None, [str(tree), os.environ.get('PYTHONPATH')]))
    done = subprocess.run(
        [sys.executable, 'tools/docs.py', '--preview'],
        cwd=tree,
        env=os.environ | dict(PYTHONPATH=path),
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

    def count(*kinds: str) -> int:
        return sum(len(reporter.stats.get(kind, [])) for kind in kinds)

    line = f'{count("passed")} passed, {count("failed", "error")} failed'
    if count('skipped'):
        line += f', {count("skipped")} skipped'
    print(line)
