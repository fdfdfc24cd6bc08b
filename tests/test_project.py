"""The committed tree is consistent: notebooks, modules, README, configuration.

All of it is looked at in a copy.
"""

import ast
import hashlib
import json
import posixpath
import re
import subprocess
import sys
from configparser import ConfigParser
from graphlib import TopologicalSorter

import pytest
import yaml
from copies import copy_tree
from test_style import WHERE

# {folder: {module: what it may import of the package}}, in reading order; * is all that has a lower number.
ROOMS = {
    'course': {
        'data': 'atomic parts reading',
        'models': 'atomic classifiers',
        'cka': 'atomic data models reading watching',
        'branches': 'models',
        'losses': 'arguments',
        'teachers': 'atomic data given models checks weights',
        'tasks': 'arguments models branches classifiers losses checks teachers wrapping',
        'look': 'data figures teachers',
        'training': (
            'arguments atomic checkpoints checks data given identity look models settings tasks teachers '
            'workers wrapping'
        ),
        'demo': '*',
    },
    'methods': {
        'logits': 'arguments tasks losses',
        'more_logits': 'arguments logits losses tasks',
        'hints': 'arguments models losses tasks',
        'vkd': 'arguments losses tasks',
        'relations': 'arguments data losses tasks wrapping',
        'rsd': 'arguments branches losses tasks',
        'hcd': 'arguments branches losses tasks',
        'scalekd': 'arguments last_stage models losses tasks',
        'combined': 'arguments models checks tasks wrapping',
        'multilabel': 'hints logits losses relations rsd tasks vkd',
    },
    'running': {
        'identity': '',
        'settings': 'arguments data',
        'checkpoints': 'atomic identity models settings wrapping',
        'workers': 'atomic checkpoints wrapping',
        'loaders': 'atomic data parts reading',
        'recipes': '',
        'runs': (
            'arguments atomic checkpoints data identity loaders look models reading recipes settings tasks '
            'training workers'
        ),
        'records': 'atomic figures plain',
        'cache': 'arguments atomic checkpoints data identity tasks teachers',
        'sweeps': (
            'arguments atomic cache checkpoints data identity tasks models records runs settings training '
            'workers'
        ),
        'recorded': 'atomic records sweeps',
        'export': 'atomic models',
        'evaluation': 'figures training',
        'pictures': (
            'arguments atomic checkpoints data evaluation export figures look models pages runs settings '
            'tasks teachers training workers'
        ),
    },
    'widgets': {
        'figures': 'plain',
        'widgets': 'figures plain records losses data models cka branches training pages',
        'explorers': (
            'atomic figures records recorded widgets pages cka branches models data tasks training runs '
            'sweeps'
        ),
        'pages': 'figures plain records',
        'live': 'arguments figures records widgets pages training tasks data checkpoints models',
        'teacher_lab': 'explorers figures pages recorded records',
    },
    'internals': {
        'reading': 'atomic',
        'atomic': '',
        'arguments': '',
        'parts': 'atomic reading',
        'plain': '',
        'given': 'arguments data reading',
        'classifiers': '',
        'watching': 'models',
        'weights': 'atomic models',
        'checks': 'arguments atomic models',
        'wrapping': 'classifiers',
        'last_stage': 'models teachers',
        'exercises': '',
        'bench': '*',
        'breadth': 'tasks models',
        'bench_training': '*',
        'bench_whole': '*',
        'cli_distill': '*',
        'cli': '*',
        '__main__': '*',
    },
}
READ_LATE = {
    'atomic',
    'pages',
    'parts',
    'reading',
}  # imported by lessons before it: they are the better introduction
NOT_MODULES = {'__init__', '_modidx', '__main__'}
REGISTRIES = [
    'py' + 'pi.org',
    'python' + 'hosted.org',
    'download.' + 'pytorch.org',
    'ana' + 'conda.org',
    'registry.' + 'npmjs.org',
    'un' + 'pkg.com',
    'cdn.' + 'jsdelivr.net',
    'cdn.' + 'plot.ly',
]
MACHINE = re.compile(r'(?<![\w.])/(?:root|home|tmp|Users)/[\w./-]+')


class Copy:
    def __init__(self, path):
        self.path, self.names = path, copy_tree(path)

    def read(self, name):
        return (self.path / name).read_text(encoding='utf-8')

    def notebooks(self):
        found = [n for n in self.names if n.startswith('nbs/') and n.endswith('.ipynb')]
        return [n for n in found if not any(part[0] in '._' for part in n.split('/'))]

    def hashes(self):
        return {n: hashlib.sha256((self.path / n).read_bytes()).hexdigest() for n in self.names}

    def python(self, *args):
        done = subprocess.run(
            [sys.executable, *args], cwd=self.path, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f'{args}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}'
        return done.stdout


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return Copy(tmp_path_factory.mktemp('tree'))


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of its own, to build in."
    return Copy(tmp_path_factory.mktemp('copy')).path


@pytest.fixture(scope='module')
def settings(tree):
    config = ConfigParser(delimiters=['='])
    config.read_string(tree.read('settings.ini'))
    return config['DEFAULT']


@pytest.mark.parametrize(
    'what, code',
    [
        ('nbdev_export', 'from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()'),
        ('nbdev_clean', 'from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__()'),
    ],
)
def test_changes_nothing(tree, what, code):
    before = tree.hashes()
    tree.python('-c', code)
    changed = [n for n, h in tree.hashes().items() if h != before[n]]
    assert not changed, f'{what} changes {changed}: run it, and commit what it gives'
    modules = {p.relative_to(tree.path).as_posix() for p in (tree.path / 'ofa_learn').rglob('*.py')}
    new = sorted(modules - set(tree.names))
    assert not new, f'{what} makes modules that are not there: {new}'


def test_readme_is_current(tree):
    tree.python('tools/readme.py', '--check')


def test_one_version(tree, settings):
    first_line = tree.read('ofa_learn/__init__.py').splitlines()[0]
    assert first_line == f'__version__ = "{settings["version"]}"'
    assert tree.python('setup.py', '--version').split()[-1] == settings['version']


def test_the_package_is_light_until_it_is_used(tree):
    "`distill` is there at the top, and torch is imported only when it is asked for."
    code = 'import sys, ofa_learn; light = "torch" not in sys.modules; '
    code += 'from ofa_learn import distill; print(light, distill.__module__, "distill" in dir(ofa_learn))'
    assert tree.python('-c', code).split() == ['True', 'ofa_learn.training', 'True']


def test_workflows(tree):
    names = [n for n in tree.names if n.startswith('.github/workflows/')]
    assert names
    for name in names:
        flow = yaml.safe_load(tree.read(name))
        assert flow.get('on', flow.get(True)), f'{name}: no trigger'  # YAML reads `on` as true
        for job in flow['jobs'].values():
            assert job['runs-on'] and all('uses' in s or 'run' in s for s in job['steps']), name


def test_hooks_run_what_the_tests_run(tree, settings):
    config = yaml.safe_load(tree.read('.pre-commit-config.yaml'))
    hooks = [hook for repo in config['repos'] for hook in repo['hooks']]
    assert {repo['repo'] for repo in config['repos']} == {'local'}
    assert [hook['entry'] for hook in hooks] == [
        f'.venv/bin/ruff check {" ".join(WHERE)}',
        f'.venv/bin/ruff format --check {" ".join(WHERE)}',
        '.venv/bin/nbdev_clean',
    ]
    needed = {re.split('[<>=]', r)[0] for r in settings['dev_requirements'].split()}
    assert {'ruff', 'mypy', 'nbdev'} <= needed


def test_issue_forms(tree):
    "They are short, and ask for what one needs to go on."
    names = [n for n in tree.names if n.startswith('.github/ISSUE_TEMPLATE/')]
    assert len(names) == 3
    for name in names:
        form = yaml.safe_load(tree.read(name))
        assert form['name'] and form['description'] and len(form['body']) <= 5, name
        ids = [field['id'] for field in form['body']]
        assert len(ids) == len(set(ids)) and all(f['attributes']['label'] for f in form['body']), name
        assert any(f.get('validations', {}).get('required') for f in form['body']), name


def test_every_notebook_has_its_place(tree):
    assert tree.notebooks()
    for name in tree.notebooks():
        code = [c for c in json.loads(tree.read(name))['cells'] if c['cell_type'] == 'code']
        exports = any(re.search(r'^#\|\s*default_exp\s', ''.join(c['source']), re.M) for c in code)
        if name == 'nbs/index.ipynb' or name.startswith(('nbs/walkthroughs/', 'nbs/pages/')):
            assert not exports, f'{name}: it exports, so it is a lesson and belongs to one of {list(ROOMS)}'
        else:
            assert exports, f'{name}: a lesson has a #| default_exp'
            assert re.fullmatch(rf'nbs/({"|".join(ROOMS)})/\d\d_\w+\.ipynb', name), name


def imports_of_package(source):
    "The modules of ofa_learn that a module of it imports, anywhere in it."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ('ofa_learn.' if node.level else '') + (node.module or '')
            names = [base] if base.strip('.') != 'ofa_learn' else [f'ofa_learn.{a.name}' for a in node.names]
        else:
            continue
        yield from (n.split('.')[1] for n in names if n.startswith('ofa_learn.'))


EVERY_FORM = '''
import ofa_learn.a, os
from .b import x
from . import c
from ofa_learn import d
from ofa_learn.e import y
'''


def test_imports_are_seen():
    assert list(imports_of_package(EVERY_FORM)) == list('abcde')


def lessons_of(tree, folder):
    "The notebooks of a folder, by number."
    return sorted(n for n in tree.notebooks() if n.startswith(f'nbs/{folder}/'))


def module_of(tree, lesson):
    "The module that a lesson exports."
    code = [''.join(c['source']) for c in json.loads(tree.read(lesson))['cells'] if c['cell_type'] == 'code']
    return next(m[1] for source in code if (m := re.search(r'^#\|\s*default_exp\s+(\w+)', source, re.M)))


def number_of(lesson):
    return int(lesson.rpartition('/')[2][:2])


@pytest.mark.parametrize('folder', ROOMS)
def test_rooms_follow_the_folders(tree, folder):
    modules = [module_of(tree, lesson) for lesson in lessons_of(tree, folder)]
    assert list(ROOMS[folder]) == modules, 'say in ROOMS what each may import, in the order of the numbers'


def allowed_imports(numbers):
    "{module: the modules that it may import}."
    rooms = {}
    for module, names in [room for rooms_of in ROOMS.values() for room in rooms_of.items()]:
        before = {m for m in numbers if numbers[m] < numbers[module]}
        rooms[module] = before if names == '*' else set(names.split())
        late = rooms[module] - before - READ_LATE
        assert not late, f'{module} may import {late}, which come after it'
    return rooms


def test_arrows_go_one_way(tree):
    lessons = [n for folder in ROOMS for n in lessons_of(tree, folder)]
    rooms = allowed_imports({module_of(tree, n): number_of(n) for n in lessons})
    TopologicalSorter(rooms).prepare()  # fails where imports go in a circle
    wrong = []
    for name in tree.names:
        module = re.fullmatch(r'ofa_learn/(\w+)\.py', name)
        if not module or module[1] in NOT_MODULES:
            continue
        assert module[1] in rooms, f'{name}: say in ROOMS what it may import'
        seen = set(imports_of_package(tree.read(name))) - NOT_MODULES - {'__version__'}
        wrong += [f'{module[1]} imports {x}' for x in sorted(seen - rooms[module[1]])]
    assert not wrong


def next_of(tree, name):
    "The notebook to which the last line of one leads, None where it leads to none."
    prose = [
        ''.join(c['source']) for c in json.loads(tree.read(name))['cells'] if c['cell_type'] == 'markdown'
    ]
    last_line = prose[-1].rstrip().splitlines()[-1]
    link = re.match(r'Next: \[[^]]+\]\(([^)#]+)\)', last_line)
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), link[1])) if link else None


def walk(tree, name):
    "The notebooks that a reader visits who follows \"Next\", up to the first that was there already."
    visited = []
    while name and name not in visited:
        visited.append(name)
        name = next_of(tree, name)
    return visited


def test_next_visits_every_lesson(tree):
    "Folder by folder, each in the order of its numbers; the last lesson leads to no other."
    order = [n for folder in ROOMS for n in lessons_of(tree, folder)]
    assert walk(tree, order[0]) == order


def test_next_visits_every_walkthrough(tree):
    "And ends where it began, at the list of all."
    order = lessons_of(tree, 'walkthroughs')
    assert walk(tree, order[0]) == order and next_of(tree, order[-1]) == order[0]


@pytest.mark.parametrize('folder', ROOMS)
def test_the_list_of_lessons_is_in_order(tree, folder):
    cells = json.loads(tree.read('nbs/pages/lessons.ipynb'))['cells']
    text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    rows = re.findall(rf'^\| (\d\d) \| \[(\w+)\]\(\.\./({folder}/\w+\.ipynb)\) \| \w', text, re.M)
    assert [f'nbs/{path}' for _, _, path in rows] == lessons_of(tree, folder)
    assert [f'nbs/{folder}/{number}_{title}.ipynb' for number, title, _ in rows] == lessons_of(tree, folder)


TIMMS = """
import importlib, json, pkgutil, ofa_learn, timm
found = {}
for info in pkgutil.iter_modules(ofa_learn.__path__):
    if not info.name.startswith('_'):
        module = importlib.import_module(f'ofa_learn.{info.name}')
        found[info.name] = getattr(module, '__all__', [])
print(json.dumps(dict(names=found, models=timm.list_models(module='models'))))
"""


def test_public_names_are_few(tree):
    """What no reader and no other package uses is not in any `__all__`, as a program sees them.

    timm's `register_model` adds the entry point of each model to the `__all__` of its module. These names are
    for timm: a reader writes `make_model('micro_vit')`, and the entry point is what timm calls for that.
    """
    said = json.loads(tree.python('-c', TIMMS).splitlines()[-1])
    entry_points = set(said['models']) & set(said['names']['models'])
    assert len(entry_points) == 6
    names = [n for of in said['names'].values() for n in of if n not in entry_points]
    assert 150 < len(names) <= 200
    assert not [n for n in names if n.startswith('_')]


# Used by name only, from outside of the package, or met by a reader who did not write them.
NOT_IMPORTED = {
    # found by timm under these names
    'models': 'default_cfgs checkpoint_filter_fn micro_resnet micro_vit micro_mixer swin_nano swin_pico '
    # printed with a model, and every checkpoint names the classes of the student's layers
    'cifar_resnet56 MicroResNet BasicBlock',
    # commands of `ofa-learn`
    'cli': 'demo teach look train cka methods models',
    # replaced in a test
    'reading': 'free_memory',
    # classes of what a function gives back: in messages, printed, or named in checkpoints
    'loaders': 'LoadedData',
    'pictures': 'PictureRun',
    'multilabel': 'ManyLabels ManyDeepSupervision ManyKD ManyFitNet ManyOFD ManyReviewKD ManyVkD ManyCC '
    # and a loss that the lesson teaches
    'ManyRKD ManyRSD binary_kd_loss',
    # tables to which a new method is added, see CONTRIBUTING.md
    'figures': 'METHOD_STYLES',
    'bench': 'KINDS',
}


def defined_names(source):
    "Functions, classes and constants of a module that are in no `__all__` and have no underscore."
    names, public = [], set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            nodes = [n for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            stored = [n.id for n in nodes if isinstance(n.ctx, ast.Store)]
            names += stored
            public |= set(ast.literal_eval(node.value)) if '__all__' in stored else set()
    return [n for n in dict.fromkeys(names) if n[0] != '_' and n not in public]


def names_used(source):
    "What a file takes out of the package, as (module, name): by `from`, or as an attribute of a module."
    used, modules = set(), {}
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.split('.')[0] == 'ofa_learn'):
            module = (node.module or '').removeprefix('ofa_learn').strip('.')
            used |= {(module, a.name) for a in node.names}
            modules |= {a.asname or a.name: a.name for a in node.names if not module}
        elif isinstance(node, ast.Import):
            modules |= {
                a.asname or a.name: a.name[10:] for a in node.names if a.name.startswith('ofa_learn.')
            }
    for node in nodes:
        if isinstance(node, ast.Attribute):
            of = ast.unparse(node.value)
            late = re.fullmatch(r"import_module\('ofa_learn\.(\w+)'\)", of)
            module = late[1] if late else modules.get(of)
            used |= {(module, node.attr)} if module else set()
    return used


def home_of(module, name, defined, taken):
    "The module that defines a name, also where another one has it from there."
    while module in defined and name not in defined[module]:
        module = next((m for m, n in taken[module] if n == name), None)
    return module, name


def code_of(tree, notebook):
    "The Python of a notebook, with `pass` where IPython has commands of its own."
    cells = [c for c in json.loads(tree.read(notebook))['cells'] if c['cell_type'] == 'code']
    return re.sub(r'^(\s*)[%!].*$', r'\1pass', '\n'.join(''.join(c['source']) for c in cells), flags=re.M)


def test_used_names_are_seen():
    code = 'from ofa_learn import a\nimport ofa_learn.b as c\nfrom .d import e\na.f, c.g\n'
    code += "import_module('ofa_learn.j').k()\nimport m.n\nfrom m import o\n"
    assert names_used(code) == {('', 'a'), ('b', 'g'), ('d', 'e'), ('a', 'f'), ('j', 'k')}
    assert defined_names("__all__ = ['a']\na = b = 1\nc: int = 2\n_d = 3\ndef e(): ...\n") == list('bce')
    taken = dict(x={('y', 'f'), ('z', 'g')}, y=set())
    assert home_of('x', 'f', dict(x=[], y=['f']), taken) == ('y', 'f')


def test_a_name_that_nobody_imports_has_an_underscore(tree):
    "See CONTRIBUTING.md. A lesson's own cells do not count."
    lessons = {module_of(tree, n): n for folder in ROOMS for n in lessons_of(tree, folder)}
    source = {m: tree.read(f'ofa_learn/{m}.py') for m in lessons}
    defined = {m: defined_names(text) for m, text in source.items()}
    taken = {m: names_used(text) for m, text in source.items()}
    by_file = {n: names_used(code_of(tree, n)) for n in tree.notebooks()}
    others = [n for n in tree.names if re.fullmatch(r'(tests|tools)/.*\.py|ofa_learn/__\w+\.py', n)]
    by_file |= {n: names_used(tree.read(n)) for n in others}
    alone, needless = [], []
    for module, lesson in lessons.items():
        elsewhere = set().union(*(names for n, names in by_file.items() if n != lesson))
        used = {home_of(m, n, defined, taken) for m, n in elsewhere}
        found = [n for n in defined[module] if (module, n) not in used]
        excused = NOT_IMPORTED.get(module, '').split()
        alone += [f'{module}.{n}' for n in found if n not in excused]
        needless += [f'{module}.{n}' for n in excused if n not in found]
    assert not alone, f'{alone}: give them an underscore, or #| export them if a reader calls them'
    assert not needless, f'{needless}: they are used elsewhere or gone, and need no exception'


# What reads, deals or names the parts of a data set.
HAVE_PARTS = {
    *('bench_training', 'cka', 'cli', 'cli_distill', 'data', 'given', 'loaders', 'look'),
    *('parts', 'reading', 'runs', 'settings', 'sweeps'),
}


def test_parts_are_those_of_a_data_set(tree):
    "See CONTRIBUTING.md: a loss sums `losses`, joined methods have `options_of`."
    found = set()
    for lesson in (n for folder in ROOMS for n in lessons_of(tree, folder)):
        module = module_of(tree, lesson)
        for node in ast.walk(ast.parse(tree.read(f'ofa_learn/{module}.py'))):
            said = (getattr(node, kind, None) for kind in ('id', 'arg', 'value'))
            if 'parts' in said:
                found.add(module)
    assert found == HAVE_PARTS


def test_text_names_no_machine_and_no_registry(tree):
    wrong = []
    for name in tree.names:
        try:
            text = tree.read(name)
        except UnicodeDecodeError:
            continue
        wrong += [f'{name}: {host}' for host in REGISTRIES if host in text]
        wrong += [f'{name}: {path[:60]}' for path in MACHINE.findall(text)]
    assert not wrong
