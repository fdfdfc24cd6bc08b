"""The project's tools: README.md without Quarto, notebooks made ready, pictures of figures."""
import base64, os, subprocess, sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT/'tools'))
import pictures, prepare, readme

FIGURE = {'data': [{'type': 'bar', 'x': ['a', 'b'], 'y': [1, 2]}], 'layout': {'width': 320, 'height': 240}}


def figure_cell(): return new_code_cell('fig', outputs=[new_output('display_data', {pictures.PLOTLY: FIGURE, 'text/plain': 'Figure'})])


def test_readme_shows_what_a_reader_needs(tmp_path):
    cells = [new_markdown_cell('# T\n\n> S\n\n[a](40_losses.ipynb) [b](../LICENSE) [c](https://example.org/x) [d](#e)\n\n```md\n[f](g.md)\n```'),
             new_code_cell('#| hide\nsecret()'), new_code_cell('#| eval: false\nshown()'),
             new_code_cell('print(1)', outputs=[new_output('stream', text='1\n')]), figure_cell()]
    nbformat.write(new_notebook(cells=cells), tmp_path/'index.ipynb')
    text = readme.readme(tmp_path/'index.ipynb')
    for part in ('](nbs/40_losses.ipynb)', '](LICENSE)', '](https://example.org/x)', '](#e)', '[f](g.md)', 'shown()', '    1\n'): assert part in text
    for part in ('secret', '#|', 'plotly'): assert part not in text


def test_readme_check_says_what_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readme, 'README', tmp_path/'README.md')
    monkeypatch.setattr(sys, 'argv', ['readme.py', '--check'])
    assert readme.main() == 1 and '+# ofa-learn' in capsys.readouterr().out
    assert not (tmp_path/'README.md').exists()
    monkeypatch.setattr(sys, 'argv', ['readme.py'])
    assert readme.main() == 0
    monkeypatch.setattr(sys, 'argv', ['readme.py', '--check'])
    assert readme.main() == 0


def test_execute_keeps_what_is_not_run_and_tidy_what_is_real(tmp_path):
    kept = new_output('stream', text='kept\n')
    nb = new_notebook(cells=[new_code_cell('print(1 + 1, flush=True)\nprint(3)'), new_code_cell('#| eval: false\n1/0', outputs=[kept]),
                             new_code_cell('from ipywidgets import IntSlider\nIntSlider()')])
    prepare.execute(nb, tmp_path)
    prepare.tidy(nb)
    assert [o['text'] for c in nb.cells[:2] for o in c.outputs] == ['2\n3\n', 'kept\n']
    assert dict(nb.metadata) == {'kernelspec': prepare.KERNEL} and 'execution' not in nb.cells[0].metadata
    assert prepare.WIDGET not in nb.cells[2].outputs[0].data and 'IntSlider' in nb.cells[2].outputs[0].data['text/plain']


def test_an_error_stops_with_the_cells_number(tmp_path):
    with pytest.raises(SystemExit, match=r'(?s)cell 1 .*ZeroDivisionError'):
        prepare.execute(new_notebook(cells=[new_code_cell('1'), new_code_cell('1/0'), new_code_cell('2')]), tmp_path)


def test_a_figure_gets_a_picture_and_cleaning_keeps_it(tmp_path):
    if not pictures.find_chromium():
        if os.environ.get('OFA_LEARN_REQUIRE_BROWSER') == '1': pytest.fail('no chromium')
        pytest.skip('no chromium')
    nb = new_notebook(cells=[new_markdown_cell('# T'), figure_cell()])
    assert pictures.add_pictures(nb) == 1
    png = base64.b64decode(nb.cells[1].outputs[0].data[pictures.PNG])
    assert png[:8] == b'\x89PNG\r\n\x1a\n' and (int.from_bytes(png[16:20], 'big'), int.from_bytes(png[20:24], 'big')) == (320, 240)
    nbformat.write(nb, tmp_path/'figure.ipynb')
    clean = f'from nbdev.clean import nbdev_clean; nbdev_clean.__wrapped__({str(tmp_path/"figure.ipynb")!r})'
    subprocess.run([sys.executable, '-c', clean], cwd=ROOT, check=True)
    data = nbformat.read(tmp_path/'figure.ipynb', as_version=4).cells[1].outputs[0].data
    assert base64.b64decode(data[pictures.PNG]) == png and data[pictures.PLOTLY] == FIGURE


def test_without_a_browser_figures_stay_as_they_are(monkeypatch, capsys):
    monkeypatch.setenv('CHROMIUM', 'no-such-browser')
    nb = new_notebook(cells=[figure_cell()])
    assert pictures.add_pictures(nb) == 0 and pictures.PNG not in nb.cells[0].outputs[0].data
    assert 'no chromium' in capsys.readouterr().out
