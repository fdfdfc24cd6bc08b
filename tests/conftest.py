"""One thread a process (two busy cores make two-thread PyTorch crawl), and a plain last line with the counts."""
import os

os.environ['OMP_NUM_THREADS'] = '1'
import pytest


@pytest.fixture(autouse=True)
def one_thread():
    import torch
    torch.set_num_threads(1)


def pytest_unconfigure(config):
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    if reporter is None or config.option.collectonly: return
    count = lambda *kinds: sum(len(reporter.stats.get(k, [])) for k in kinds)
    skipped = count('skipped')
    print(f"{count('passed')} passed, {count('failed', 'error')} failed" + (f', {skipped} skipped' if skipped else ''))
