"""The committed tree is consistent: notebooks, modules, README, configuration. All of it is looked at in a copy."""

import ast, hashlib, json, re, subprocess, sys
from configparser import ConfigParser

import pytest
import yaml

from copies import ROOT, copy_tree  # noqa: F401  (test_package takes ROOT from here)

# (module, what it may import of the package), in the lessons' order: arrows go up only.
ROOMS = [
    ('data', ''),
    ('atomic', ''),
    ('figures', ''),
    ('models', 'atomic'),
    ('cka', 'data models'),
    ('branches', 'models'),
    ('losses', ''),
    ('distill', 'models branches losses'),
    ('logits', 'distill losses'),
    ('hints', 'models branches distill'),
    ('relations', 'data losses distill'),
    ('rsd', 'losses distill'),
    ('hcd', 'branches losses distill'),
    ('scalekd', 'models distill'),
    ('settings', ''),
    ('checkpoints', 'atomic'),
    ('identity', ''),
    ('training', 'atomic checkpoints data models distill identity settings'),
    ('loaders', 'data'),
    ('recipes', ''),
    ('runs', 'atomic checkpoints data distill identity loaders models recipes training'),
    ('records', 'atomic'),
    ('export', 'models'),
    ('cache', 'checkpoints data distill identity records'),
    ('sweeps', 'cache checkpoints data distill figures models records runs training'),
    ('recorded', 'records sweeps'),
    ('exercises', ''),
    ('twins', 'figures records'),
    ('widgets', 'figures records losses data models cka branches training twins'),
    ('explorers', 'figures records recorded widgets twins cka branches models data distill training sweeps'),
    ('live', 'figures records widgets twins training distill data checkpoints models'),
    ('demo', '*'),
    ('bench', '*'),
    ('breadth', 'distill models'),
    ('site', 'twins'),
    ('bench_training', '*'),
    ('cli', '*'),
]
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

    def lessons(self):
        return [n for n in self.names if re.match(r'nbs/(?!.*/?[._]).*\.ipynb$', n)]

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
    new = [p.relative_to(tree.path).as_posix() for p in (tree.path / 'ofa_learn').rglob('*.py')]
    assert not changed, f'{what} changes {changed}: run it, and commit what it gives'
    assert set(new) <= set(tree.names), (
        f'{what} makes modules that are not there: {sorted(set(new) - set(tree.names))}'
    )


def test_readme_is_current(tree):
    tree.python('tools/readme.py', '--check')


def test_one_version(tree, settings):
    assert f'__version__ = "{settings["version"]}"' == tree.read('ofa_learn/__init__.py').strip(), (
        '__init__.py holds the version and nothing else'
    )
    assert tree.python('setup.py', '--version').split()[-1] == settings['version']


def test_workflows(tree):
    names = [n for n in tree.names if n.startswith('.github/workflows/')]
    assert names
    for name in names:
        flow = yaml.safe_load(tree.read(name))
        assert flow.get('on', flow.get(True)), f'{name}: no trigger'  # YAML reads `on` as true
        for job in flow['jobs'].values():
            assert job['runs-on'] and all('uses' in s or 'run' in s for s in job['steps']), name


def test_every_notebook_has_its_place(tree):
    for name in tree.lessons():
        cells = json.loads(tree.read(name))['cells']
        exports = any(
            re.search(r'^#\|\s*default_exp\s', ''.join(c['source']), re.M)
            for c in cells
            if c['cell_type'] == 'code'
        )
        apart = name == 'nbs/index.ipynb' or name.startswith(('nbs/walkthroughs/', 'nbs/pages/'))
        assert exports != apart, f'{name}: ' + (
            'exports, so it is a lesson: number it' if apart else 'a lesson has a #| default_exp'
        )


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


def test_imports_are_seen():
    assert list(
        imports_of_package(
            'import ofa_learn.a, os\nfrom .b import x\nfrom . import c\nfrom ofa_learn import d\nfrom ofa_learn.e import y'
        )
    ) == list('abcde')


def test_arrows_go_one_way(tree):
    above, wrong = [], []
    rooms = {}
    for module, allowed in ROOMS:
        rooms[module] = set(above) if allowed == '*' else set(allowed.split())
        assert rooms[module] <= set(above), f'{module} may import what comes after it'
        above.append(module)
    for name in tree.names:
        module = re.fullmatch(r'ofa_learn/(\w+)\.py', name)
        if not module or module[1] in NOT_MODULES:
            continue
        assert module[1] in rooms, f'{name}: say in ROOMS what it may import'
        seen = set(imports_of_package(tree.read(name))) - NOT_MODULES - {'__version__'}
        wrong += [f'{module[1]} imports {x}' for x in sorted(seen - rooms[module[1]])]
    assert not wrong


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
