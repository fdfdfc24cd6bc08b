"""What `pip install ofa-learn` gives: sdist, wheel from the sdist, the wheel in an environment of its own."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from copies import ROOT
from packaging.requirements import Requirement
from packaging.version import Version
from test_project import copy  # noqa: F401  (a fixture)

SMALL = '''
import torch, ofa_learn
torch.set_num_threads(1)
from ofa_learn.losses import ofa_loss
from ofa_learn.data import digits, split
from ofa_learn.tasks import Teacher
from ofa_learn.models import make_model
from ofa_learn.training import distill, fit
from ofa_learn.runs import teach
import tempfile, os
data, how = split(digits(), train=100), dict(device='cpu', progress=False)
with tempfile.TemporaryDirectory() as d:
    teacher = os.path.join(d, 't.safetensors')
    info = teach('micro_resnet', data, teacher, epochs=5, **how)
    run = distill('ofa', 'micro_vit', teacher, data, epochs=3, **how)
assert run.history[-1]['loss'] < run.history[0]['loss'], run.history
print(ofa_learn.__file__)
'''


def python(*args, **kwargs):
    done = subprocess.run(list(map(str, args)), capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


@pytest.fixture(scope='module')
def wheel(copy, tmp_path_factory):  # noqa: F811
    "The wheel built from the sdist."
    out = tmp_path_factory.mktemp('dist')
    python(sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, copy)
    return next(out.glob('*.whl'))


def test_contents(wheel):
    scripts = ('shared.js', 'figure.js', 'views.js', 'controls.js', 'plot.js', 'pages.js')
    sheets = ('page.css', 'controls.css', 'choices.css', 'choices_page.css')
    static = {f'ofa_learn/static/{n}' for n in (*scripts, *sheets, 'recorded/lab_gamma.json')}
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        entry_points = opened.read(next(n for n in names if n.endswith('entry_points.txt'))).decode()
    assert {'ofa_learn/py.typed', 'ofa_learn/losses.py'} | static <= set(names)
    assert not [n for n in names if n.startswith(('tests/', 'nbs/', 'tools/'))]
    assert 'ofa-learn = ofa_learn.cli:main' in entry_points
    with tarfile.open(next(wheel.parent.glob('*.tar.gz'))) as sdist:
        names = sdist.getnames()
    for f in ('settings.ini', 'README.md', 'LICENSE', *static):
        assert any(n.endswith(f) for n in names), f


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel and the newest fastcore.

    It sees the other requirements where they are installed already.
    """
    home = tmp_path_factory.mktemp('env')
    venv.create(home, with_pip=True)
    py = home / 'bin' / 'python'
    where = 'import site; print(site.getsitepackages()[0])'
    site = Path(python(py, '-c', where).strip())
    outer = Path(python(sys.executable, '-c', where).strip())
    install = [py, '-m', 'pip', 'install', '-q', '--no-deps']
    python(*install, wheel)
    newest = subprocess.run([*install, '--upgrade', 'fastcore'], capture_output=True, text=True)
    (site / 'outer.pth').write_text(f'{outer}\n')  # behind the environment's own packages
    return py, newest


def test_installed_wheel_distills(installed, tmp_path):
    installed, newest = installed
    where = python(installed, '-c', SMALL, cwd=tmp_path).strip()
    assert where.startswith(str(installed.parent.parent)), where
    assert 'demo' in python(installed.parent / 'ofa-learn', '--help', cwd=tmp_path)
    if newest.returncode and 'OFA_LEARN_REQUIRE_BROWSER' not in os.environ:
        pytest.skip('the newest fastcore could not be downloaded: the wheel works beside the installed one')
    assert newest.returncode == 0, newest.stderr[-2000:]
    there = python(installed, '-c', 'import fastcore; print(fastcore.__version__)', cwd=tmp_path).strip()
    assert Version(there) >= Version(version('fastcore'))


def test_requirements_are_met_and_readable():
    for r in map(Requirement, requires('ofa-learn')):
        if r.marker is None or r.marker.evaluate():
            assert r.specifier.contains(version(r.name), prereleases=True), r
    assert {'torch', 'timm', 'jupyterlab', 'ipywidgets', 'plotly', 'fastcore'} <= {
        Requirement(r).name for r in requires('ofa-learn')
    }


def test_import_of_losses_is_light(tmp_path):
    env = os.environ | {'PYTHONPATH': str(ROOT)}
    loaded = python(
        sys.executable, '-c', 'import sys, ofa_learn.losses; print(*sys.modules)', cwd=tmp_path, env=env
    )
    heavy = {
        'timm',
        'torchvision',
        'plotly',
        'sklearn',
        'IPython',
        'jupyterlab',
        'ipywidgets',
        'fastcore',
        'pandas',
    }
    assert 'torch' in loaded.split() and heavy & set(loaded.split()) == set()
