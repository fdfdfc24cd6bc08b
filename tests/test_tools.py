"""The project's tools: README.md without Quarto, notebooks made ready, pictures of figures."""

import base64
import os
import subprocess
import sys

import nbformat
import pictures
import prepare
import pytest
import readme
from copies import ROOT
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

FIGURE = {'data': [{'type': 'bar', 'x': ['a', 'b'], 'y': [1, 2]}], 'layout': {'width': 320, 'height': 240}}


def figure_cell():
    return new_code_cell(
        'fig', outputs=[new_output('display_data', {pictures.PLOTLY: FIGURE, 'text/plain': 'Figure'})]
    )


@pytest.fixture
def project(tmp_path, monkeypatch):
    "An index alone, for tools/readme.py."
    cells = [
        new_markdown_cell(
            '# T\n\n> S\n\n[a](40_losses.ipynb) [b](40_losses.ipynb#the-loss) [c](https://example.org/x)'
        ),
        new_code_cell('#| hide\nsecret()'),
        new_code_cell('#| eval: false\nshown()'),
        new_code_cell('print(1)', outputs=[new_output('stream', text='1\n')]),
    ]
    (tmp_path / 'nbs').mkdir()
    nbformat.write(new_notebook(cells=cells), tmp_path / 'nbs/index.ipynb')
    monkeypatch.setattr(readme, 'ROOT', tmp_path)
    return tmp_path


def test_readme_shows_what_a_reader_needs(project):
    text = readme.readme()
    for part in (
        '# T',
        '> S',
        '](nbs/40_losses.ipynb)',
        '](nbs/40_losses.ipynb#the-loss)',
        '](https://example.org/x)',
        'shown()',
        '    1\n',
    ):
        assert part in text
    for part in ('secret', '#|'):
        assert part not in text


def test_readme_check_says_what_differs(project, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['readme.py', '--check'])
    assert readme.main() == 1 and '+# T' in capsys.readouterr().out
    assert not (project / 'README.md').exists()
    monkeypatch.setattr(sys, 'argv', ['readme.py'])
    assert readme.main() == 0
    monkeypatch.setattr(sys, 'argv', ['readme.py', '--check'])
    assert readme.main() == 0


def test_client_leaves_what_is_not_to_be_run():
    kept = new_output('stream', text='kept\n')
    nb = new_notebook(cells=[new_code_cell('print(2)'), new_code_cell('#| eval: false\n1/0', outputs=[kept])])
    prepare.Client(nb, kernel_name='python3').execute()
    assert [o['text'] for c in nb.cells for o in c.outputs] == ['2\n', 'kept\n']


def test_live_views_go_and_what_is_beside_them_stays():
    view = {'application/vnd.jupyter.widget-view+json': dict(model_id='1')}
    outputs = [
        new_output('display_data', view | {'text/plain': 'numbers'}),
        new_output('display_data', dict(view)),
        new_output('stream', text='said\n'),
    ]
    kept = prepare.without_views(outputs)
    assert [o.get('data', o.get('text')) for o in kept] == [{'text/plain': 'numbers'}, 'said\n']


def test_an_error_stops():
    nb = new_notebook(cells=[new_code_cell('1/0'), new_code_cell('print(2)')])
    with pytest.raises(CellExecutionError, match='ZeroDivisionError'):
        prepare.Client(nb, kernel_name='python3').execute()
    assert not nb.cells[1].outputs


def test_a_failing_cell_is_named(tmp_path):
    path = tmp_path / '40_x.ipynb'
    cells = [
        new_markdown_cell('# T'),
        new_code_cell('#| export\nz = 0', id='first'),
        new_code_cell('1/z', id='bad'),
    ]
    nb = new_notebook(cells=cells)
    nbformat.write(nb, path)
    before = path.read_bytes()
    with pytest.raises(SystemExit) as stopped:
        prepare.prepare(path)
    said = str(stopped.value)
    assert "40_x.ipynb: cell 2 (from 0), id bad, '1/z' failed; nothing was written" in said
    assert 'ZeroDivisionError' in said and path.read_bytes() == before
    assert prepare.called(nb, 1) == "cell 1 (from 0), id first, 'z = 0'"


def test_several_notebooks_are_counted(tmp_path, monkeypatch, capsys):
    "And one alone is not; what is done with each is left out here."
    monkeypatch.setattr(prepare, 'ROOT', tmp_path)
    monkeypatch.setattr(prepare, 'prepare', lambda path: 2 if path.stem == 'b' else 0)
    monkeypatch.setattr(prepare.subprocess, 'run', lambda *args, **kwargs: None)
    monkeypatch.setattr(sys, 'argv', ['prepare.py', str(tmp_path / 'a.ipynb'), str(tmp_path / 'b.ipynb')])
    prepare.main()
    assert capsys.readouterr().out == '[1/2] a.ipynb\n  0 s\n[2/2] b.ipynb\n  0 s, 2 pictures\n'
    monkeypatch.setattr(sys, 'argv', ['prepare.py', str(tmp_path / 'a.ipynb')])
    prepare.main()
    assert capsys.readouterr().out == 'a.ipynb\n  0 s\n'


def test_all_notebooks_in_order():
    names = [p.relative_to(ROOT / 'nbs').as_posix() for p in prepare.all_notebooks()]
    assert names[0] == 'course/00_data.ipynb' and names[-1] == 'index.ipynb'
    assert len(names) == len(set(names)) == len([*(ROOT / 'nbs').glob('*/*.ipynb')]) + 1
    numbers = [n.split('/')[1][:2] for n in names if not n.startswith(('walkthroughs/', 'pages/', 'index'))]
    assert numbers == sorted(numbers)


def test_what_jupyterlab_keeps_folded_stays():
    metadata = dict(
        execution=dict(busy=1), tags=['x'], jupyter=dict(source_hidden=True, outputs_hidden=False)
    )
    assert prepare.kept_metadata(metadata) == dict(tags=['x'], jupyter=dict(source_hidden=True))
    assert prepare.kept_metadata(dict(jupyter=dict(outputs_hidden=False))) == {}


def test_a_figure_gets_a_picture_and_cleaning_keeps_it(tmp_path):
    if not pictures.chromium():
        if os.environ.get('OFA_LEARN_REQUIRE_BROWSER') == '1':
            pytest.fail('no Chromium, and this run requires one')
        pytest.skip('no Chromium')
    nb = new_notebook(cells=[new_markdown_cell('# T'), figure_cell()])
    assert pictures.add_pictures(nb) == 1
    png = base64.b64decode(nb.cells[1].outputs[0].data['image/png'])
    assert png[:8] == b'\x89PNG\r\n\x1a\n'
    width, height = (int.from_bytes(png[i : i + 4], 'big') for i in (16, 20))
    assert (width, height) == (320, 240)
    path = tmp_path / 'figure.ipynb'
    nbformat.write(nb, path)
    clean = 'import sys; from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__(sys.argv[1])'
    subprocess.run([sys.executable, '-c', clean, path], cwd=ROOT, check=True)
    data = nbformat.read(path, as_version=4).cells[1].outputs[0].data
    assert base64.b64decode(data['image/png']) == png and data[pictures.PLOTLY] == FIGURE


def test_without_a_browser_figures_stay_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr(pictures, 'chromium', lambda: None)
    nb = new_notebook(cells=[figure_cell()])
    assert pictures.add_pictures(nb) == 0 and 'image/png' not in nb.cells[0].outputs[0].data
    assert 'no Chromium' in capsys.readouterr().out
