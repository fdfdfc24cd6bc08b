"""What `help()` says of the entry points: parameters, what comes out, an example that runs."""

import doctest
import inspect
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))
from docsite import items, sections

# The other entry points still say less: methods, losses, fit and what follows them.
ENTRY_POINTS = {
    'data': 'digits split load_data load_splits',
    'models': 'make_model find_taps save_model load_model',
    'losses': 'ofa_loss kd_loss decompose class_weights dark_mass target_weight',
    'cka': 'cka compare',
    'live': 'LiveDistill',
    'branches': 'ExitBranches',
    'widgets': 'GammaExplorer LossAnatomy',
    'explorers': 'AccuracyCurves BranchExplorer CKAExplorer',
    'teacher_lab': 'TeacherLab',
    'demo': 'demo',
    'look': 'look_at',
    'tasks': 'Teacher DistillationTask create_task register Labels DeepSupervision OFA',
    'logits': 'KD dkd_loss DKD dist_loss DIST',
    'relations': 'cc_loss CC rkd_distance_loss rkd_angle_loss RKD nce_loss CRD',
    'rsd': 'correlations rsd_loss RSD',
    'hcd': 'orthogonality_loss sub_cross_entropy mutual_kl HCD',
    'scalekd': 'dfm_loss soft_ce_loss ScaleKD',
    'combined': 'Combined',
    'multilabel': 'multilabel_task',
    'hints': 'fitnet_loss FitNet ofd_loss OFD hcl_loss ReviewKD',
    'records': 'results',
    'export': 'export_student export_onnx',
    'settings': 'learning_rates',
    'training': 'distill fit accuracy predict',
    'loaders': 'load_images',
    'cache': 'TeacherCache cached',
    'runs': 'teach run_recipe',
    'sweeps': 'sweep',
}
NAMES = [(module, name) for module, names in ENTRY_POINTS.items() for name in names.split()]


def found(module: str, name: str):
    return getattr(import_module(f'ofa_learn.{module}'), name)


def parameters(thing) -> list[str]:
    "What a caller can give, but for `**options` that a docstring says where to read about."
    kinds = inspect.Parameter
    given = inspect.signature(thing).parameters.values()
    return [p.name for p in given if p.kind is not kinds.VAR_KEYWORD and p.name != 'self']


@pytest.mark.parametrize('module, name', NAMES)
def test_every_parameter_is_documented(module, name):
    thing = found(module, name)
    lead, more = sections(thing.__doc__ or '')
    assert re.match(r'[^\n]+[.:](\n|$)', lead), 'the first line is a sentence'
    documented = {n.strip() for names in items(more.get('Args', '')) for n in names.split(',')}
    assert set(parameters(thing)) <= documented, set(parameters(thing)) - documented
    if not inspect.isclass(thing):
        assert 'Returns' in more


@pytest.mark.parametrize('module, name', NAMES)
def test_the_example_runs(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    thing = found(module, name)
    example = sections(thing.__doc__ or '')[1].get('Example', '')
    assert '>>> ' in example, 'an example that runs'
    space = vars(import_module(f'ofa_learn.{module}')).copy()
    test = doctest.DocTestParser().get_doctest(example, space, name, None, 0)
    told = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not told, ''.join(told)
