"""What `help()` says of the entry points: parameters, what comes out, an example that runs."""

import ast
import doctest
import inspect
import re
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))
from docsite import items, sections

from ofa_learn.tasks import all_methods

# Beside the classes of the methods, which `all_methods` names.
ENTRY_POINTS = {
    'data': 'digits split load_data load_splits from_arrays from_npz from_folder',
    'models': 'make_model find_taps save_model load_model',
    'losses': 'ofa_loss kd_loss decompose class_weights dark_mass target_weight',
    'cka': 'cka compare',
    'live': 'LiveDistill',
    'branches': 'ExitBranches',
    'widgets': 'GammaExplorer LossAnatomy',
    'explorers': 'AccuracyCurves BranchExplorer CKAExplorer',
    'teacher_lab': 'TeacherLab',
    'demo': 'demo Plan',
    'look': 'look_at',
    'tasks': 'Teacher DistillationTask create_task register',
    'teachers': 'Ensemble',
    'logits': 'dkd_loss dist_loss',
    'more_logits': 'wttm_loss',
    'vkd': 'vkd_loss',
    'relations': 'cc_loss rkd_distance_loss rkd_angle_loss nce_loss',
    'rsd': 'correlations rsd_loss',
    'hcd': 'orthogonality_loss sub_cross_entropy mutual_kl',
    'scalekd': 'dfm_loss soft_ce_loss',
    'combined': 'Combined',
    'multilabel': 'multilabel_task',
    'hints': 'fitnet_loss ofd_loss hcl_loss',
    'records': 'results',
    'export': 'export_student export_onnx',
    'settings': 'learning_rates',
    'training': 'distill fit accuracy predict',
    'loaders': 'load_images',
    'evaluation': 'evaluate',
    'checkpoints': 'load_student',
    'pictures': 'distill_pictures',
    'pages': 'report',
    'recipes': 'recipe',
    'bench': 'bench',
    'cache': 'TeacherCache cached',
    'runs': 'teach run_recipe',
    'sweeps': 'Sweep sweep',
}
METHODS = [(cls.__module__.removeprefix('ofa_learn.'), cls.__name__) for cls in all_methods().values()]
NAMES = [(module, name) for module, names in ENTRY_POINTS.items() for name in names.split()] + METHODS


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


def may_raise(source: str) -> bool:
    "Whether a function's own body, or a class that is made, raises or calls a check."
    tree = ast.parse(textwrap.dedent(source)).body[0]
    made = ('__init__', '__post_init__')
    body = [s for s in tree.body if not isinstance(tree, ast.ClassDef) or getattr(s, 'name', '') in made]
    for node in (n for statement in body for n in ast.walk(statement)):
        if isinstance(node, ast.Raise):
            return True
        if isinstance(node, ast.Call):
            called = getattr(node.func, 'id', getattr(node.func, 'attr', ''))
            if called.lstrip('_').startswith('check_'):
                return True
    return False


@pytest.mark.parametrize('module, name', NAMES)
def test_what_it_raises_is_documented(module, name):
    "Where that can be told; every method has the checks of `DistillationTask`."
    thing = inspect.unwrap(found(module, name))
    if may_raise(inspect.getsource(thing)) or (module, name) in METHODS:
        raises = items(sections(thing.__doc__ or '')[1].get('Raises', ''))
        assert raises and all(raises.values())


@pytest.mark.parametrize(
    'source, raises',
    [
        ('def f(x):\n    return x', False),
        ('def f(x):\n    if x:\n        raise ValueError(x)', True),
        ('def f(x):\n    check_weight("x", x)', True),
        ('def f(x):\n    a._check_it(x)', True),
        ('class A:\n    def __post_init__(self):\n        check_gamma(self.x)', True),
        ('class A:\n    def later(self):\n        raise ValueError', False),
    ],
)
def test_what_raises_is_found(source, raises):
    assert may_raise(source) == raises


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
