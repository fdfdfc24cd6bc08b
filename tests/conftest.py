"""How the tests run: one thread per process, which tests share a process, a last line with the counts."""

import compileall
import os
import subprocess
import sys
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'  # two busy cores make two-thread PyTorch crawl
import pytest
from copies import ROOT, copy_tree

# Here and in every process that a test starts, a package that is slow and does nothing for us is not there.
LIGHT = str(ROOT / 'tests' / 'light')
os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [LIGHT, os.environ.get('PYTHONPATH')]))
sys.path[:0] = [str(ROOT / 'tools'), LIGHT]

# Two processes (`make test`) finish together when what takes longest begins first and single notebooks,
# which take less than a minute each, come last.
LONGEST_FIRST = (
    *('site', 'test_lab', 'test_training', 'test_sweeps', 'test_walkthroughs', 'test_cli', 'test_methods'),
    *('test_bench', 'test_demo', 'test_explorers', 'test_package', 'test_style', 'test_cka'),
)
SITE = ('test_docs', 'test_site')
LABORATORY = ('test_help', 'test_live')  # its teacher is trained once in a process
TOGETHER = dict.fromkeys(SITE, 'site') | dict.fromkeys(LABORATORY, 'laboratory')
IN_A_BROWSER = {'browser', 'built', 'page', 'visit'}

# What `make quick` leaves out: files whose tests train, start processes or build something, and these tests.
SLOW = {
    *('test_after', 'test_bench', 'test_cka', 'test_cli', 'test_demo', 'test_explorers', 'test_given'),
    *('test_kept', 'test_live', 'test_package', 'test_recorded', 'test_report', 'test_runs', 'test_sweeps'),
    *('test_home', 'test_training', 'test_workers', *SITE),
}
SLOW_TESTS = {
    *('test_runs', 'test_checks', 'test_the_types_fit', 'test_every_method_learns'),
    # trainings
    *('test_the_same_student', 'test_a_balanced_run_is_resumed_to_the_bit'),
    *('test_every_method_trains_on_a_balanced_order', 'test_a_short_training_lowers_the_loss'),
    *('test_the_loss_falls', 'test_every_optimizer_on_offer_goes_on_to_the_bit', 'test_the_example_runs'),
    *('test_fit_on_digits_lowers_the_loss', 'test_a_command_takes_a_size_that_is_not_square'),
    *('test_the_command_end_to_end', 'test_a_finished_run_goes_on_for_more_epochs_and_measures_its_files'),
    'test_a_folder_larger_than_memory_is_read_while_training_with_the_same_numbers',
    'test_an_ensemble_teaches_by_every_way',
    'test_equal_weights_change_nothing_and_labels_may_be_sure_probabilities',
    # processes of their own
    *('test_killed_while_writing', 'test_a_full_disk_is_called_so_and_costs_nothing'),
    *('test_killed_while_building', 'test_a_notebook_that_fails_is_seen', 'test_models_are_in_timm'),
    *('test_a_built_in_name_is_taken_before_anyone_has_used_it', 'test_readme_is_current'),
    *('test_the_package_is_light_until_it_is_used', 'test_a_figure_gets_a_picture_and_cleaning_keeps_it'),
    *('test_changes_nothing', 'test_import_is_light', 'test_its_notebooks_run_without_torch_and_numpy'),
    *('test_widgets_open_where_there_is_no_torch', 'test_never_two_at_once'),
    # compilers
    *('test_onnx_answers_as_pytorch', 'test_the_student_is_exported_plain_and_the_heads_compile'),
    *('test_compiled_and_distributed_export_the_plain_student', 'test_combined_compiled_and_restored'),
    *('test_distributed_and_compiled', 'test_compiles_without_a_break', 'test_compiled'),
    *('test_compiled_and_fast_agree_on_masked_classes', 'test_second_derivatives'),
    'test_a_schedule_for_gamma_does_not_compile_again_and_again',
    *('test_the_table_has_what_the_files_get_right', 'test_the_command_measures_onnx_files'),
    # every method, or many models
    *('test_methods_command', 'test_a_teacher_carries_without_any_label', 'test_student', 'test_teacher'),
    *('test_larger_models', 'test_families_build_and_step', 'test_bf16_autocast_is_finite'),
    *('test_the_tapped_forward_is_the_plain_one_while_training', 'test_equal_to_the_teacher'),
    *('test_probing_leaves_the_model_as_it_was', 'test_every_method_on_every_pair'),
}


def pytest_configure(config):
    """The package's bytecode, written once, before the processes of a run begin.

    Hundreds of processes import the package. Where the environment asks for no bytecode, as in containers,
    each of them would compile it again.
    """
    if not hasattr(config, 'workerinput'):
        compileall.compile_dir(ROOT / 'ofa_learn', quiet=2)


def pytest_ignore_collect(collection_path, config):
    "Files of which `-m` leaves out every test need not be read."
    if 'not slow' in config.option.markexpr and collection_path.stem in SLOW:
        return True


def group(nodeid: str) -> str:
    "The tests that run in one process, one after the other, and so build what they share once."
    name = Path(nodeid.split('::')[0]).stem
    return nodeid if name in ('test_notebooks', 'test_walkthroughs') else TOGETHER.get(name, name)


@pytest.hookimpl(optionalhook=True)  # without pytest-xdist nobody asks
def pytest_xdist_make_scheduler(config, log):
    """Several processes take the tests by group.

    Marks named xdist_group ask for the same, but pytest-xdist 3.8 writes them where pytest 9.2 no longer
    looks, and says nothing: every fixture of a file was then made in each process.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return ByGroup(config, log)


RAN_IN = {}  # group: the processes that ran its tests


def pytest_runtest_logreport(report):
    if hasattr(report, 'node'):
        RAN_IN.setdefault(group(report.nodeid), set()).add(report.node.gateway.id)


def pytest_sessionfinish(session):
    torn = sorted(name for name, processes in RAN_IN.items() if len(processes) > 1)
    if torn:
        print(f'\nran in several processes, so what they share was made more than once: {torn}')
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_itemcollected(item):
    if IN_A_BROWSER & set(item.fixturenames):
        item.add_marker(pytest.mark.browser)
    if item.path.stem in SLOW or getattr(item, 'originalname', item.name) in SLOW_TESTS:
        item.add_marker(pytest.mark.slow)


def pytest_collection_modifyitems(items):
    def turn(item) -> int:
        name = TOGETHER.get(item.path.stem, item.path.stem)
        if name == 'test_notebooks':
            return len(LONGEST_FIRST) + 1
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
