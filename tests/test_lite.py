"""The site that runs in a browser, as far as it goes without npm and an index of packages.

`tools/lite.py --open` is the rest: it opens the built site in Chromium and moves γ.
"""

import json
import os
import subprocess
import sys
import zipfile

import lite
import pytest
from browsers import one_browser
from copies import ROOT

ALL_CELLS = """
import json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
for name in ('10_slide_gamma.ipynb', 'explorers.ipynb'):
    names = {}
    for cell in json.load(open(name, encoding='utf-8'))['cells']:
        if cell['cell_type'] == 'code':
            exec(cell['source'], names)
"""


def test_its_notebooks_run_without_torch_and_numpy(tmp_path):
    lite.contents(tmp_path)
    done = subprocess.run(
        [sys.executable, '-c', ALL_CELLS, json.dumps(lite.ABSENT)],
        cwd=tmp_path,
        env=os.environ | dict(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert 'Number 5 it doubts most' in done.stdout and 'No guess yet' in done.stdout


def test_the_tour_is_the_walkthrough(tmp_path):
    "Cell for cell, but for the teacher, what it needs, and one cell that says where the reader is."
    cells = json.loads(lite.TOUR.read_text(encoding='utf-8'))['cells']
    made = lite.tour(cells)
    assert len(made) == len(cells) + 1 and 'nothing installed' in made[1]['source']
    code = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    kept = [c['source'] for c in made if c['cell_type'] == 'code']
    changed = [True, True, False, True]  # imports, teacher, the first figure, what the teacher doubts
    assert [a != b for a, b in zip(code, kept)] == changed + [False] * (len(code) - 4)
    assert not [c for c in made if '.ipynb' in c['source']]  # other notebooks are pages of the docs
    assert len({c['id'] for c in made}) == len(made)


def test_a_cell_that_needs_torch_is_named():
    cells = [dict(cell_type='code', source=s) for s in ('x = 1', 'from ofa_learn.training import distill')]
    with pytest.raises(
        ValueError, match='a cell imports ofa_learn.training, which does not run in a browser'
    ):
        lite.tour(cells)
    with pytest.raises(ValueError, match='expected a stored page version with digits, got none'):
        lite.stored_cards([dict(outputs=[])])


def wheel(folder, name, *requires):
    path = folder / f'{name}-1.0-py3-none-any.whl'
    lines = [
        'Metadata-Version: 2.1',
        f'Name: {name}',
        'Version: 1.0',
        *(f'Requires-Dist: {r}' for r in requires),
    ]
    with zipfile.ZipFile(path, 'w') as z:
        z.writestr(f'{name}-1.0.dist-info/METADATA', '\n'.join(lines))
        z.writestr(f'{name}/__init__.py', '')
        z.writestr(f'{name}-1.0.data/data/share/x.py', '')
    return lite.described(path)


def test_the_lock_file_knows_what_the_site_serves_and_nothing_else(tmp_path):
    wheels = [
        wheel(tmp_path, 'plotly', 'narwhals>=1.15', 'numpy; extra == "express"'),
        wheel(tmp_path, 'Narwhals'),
        wheel(tmp_path, 'ofa_learn', 'torch>=2.6', 'plotly>=6'),
    ]
    lock = lite.locked(dict(info=dict(python='3.14.2'), packages=dict(numpy={})), wheels)
    assert (
        sorted(lock['packages']) == ['narwhals', 'ofa-learn', 'plotly'] and lock['info']['python'] == '3.14.2'
    )
    found = lock['packages']['plotly']
    assert (found['depends'], found['imports']) == (['narwhals'], ['plotly']) and len(found['sha256']) == 64
    assert lock['packages']['ofa-learn']['depends'] == [
        'plotly'
    ]  # of its requirements what the widgets import


def test_no_other_place_is_asked():
    kernel = lite.settings()['jupyter-config-data']['litePluginSettings'][lite.KERNEL]
    assert kernel['disablePyPIFallback'] and 'ofa-learn' in kernel['loadPyodideOptions']['packages']
    start = (ROOT / 'tools' / 'lite_start.html').read_text(encoding='utf-8')
    assert '//' not in start.replace('<!doctype html>', '')


def test_a_site_without_front_ends_is_refused(tmp_path):
    found = {'jupyter-config-data': {'federated_extensions': [{'name': 'anywidget'}]}}
    (tmp_path / 'jupyter-lite.json').write_text(json.dumps(found))
    with pytest.raises(SystemExit, match='@jupyter-widgets/jupyterlab-manager.*: no front end in'):
        lite.check_front_ends(tmp_path)


@pytest.fixture(scope='module')
def page():
    for browser in one_browser():
        yield browser.new_page()


def test_a_reader_is_told_what_to_do(page, tmp_path):
    "Served with a file missing; opened from a disk; in a browser without WebAssembly."
    lite.start_page(tmp_path, ['pyodide.mjs'])
    start = tmp_path / 'start.html'
    text = start.read_text(encoding='utf-8')
    page.route(
        'http://lite.test/start.html', lambda route: route.fulfill(body=text, content_type='text/html')
    )
    page.route('http://lite.test/pyodide.mjs', lambda route: route.abort())
    said = page.locator('#wrong')
    page.goto('http://lite.test/start.html')
    said.filter(has_text='http://lite.test/pyodide.mjs could not be loaded: allow this address').wait_for()
    assert not page.locator('#ways').is_visible()
    page.goto(start.as_uri())
    assert 'serve the folder' in said.inner_text()
    page.add_init_script('delete window.WebAssembly')
    page.goto('http://lite.test/start.html')
    assert (
        said.inner_text().startswith('This browser has no WebAssembly')
        and 'or read the tour' in said.inner_text()
    )
