"""What the docs site is made of, as far as it can be checked without Quarto."""
import ast, json, os, subprocess, sys

import pytest
import yaml

from copies import ROOT, copy_tree

BOOKS = sorted([*(ROOT/'nbs').glob('*.ipynb'), *(p for d in ('pages', 'walkthroughs') for p in (ROOT/'nbs'/d).glob('*.ipynb'))])
PROCESS = '''
if __name__ == '__main__':
    from nbdev.quarto import nbdev_sidebar, refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml(); nbdev_sidebar.__wrapped__(); proc_nbs()
'''


def is_import(node): return isinstance(node, (ast.Import, ast.ImportFrom))


@pytest.mark.parametrize('path', BOOKS, ids=lambda p: p.stem)
def test_import_cells_hold_imports_only(path):
    "nbdev runs the cells with imports to make the reference, so nothing else may stand in them."
    for i, cell in enumerate(json.loads(path.read_text())['cells']):
        source = ''.join(cell['source'])
        if cell['cell_type'] != 'code' or not source.strip(): continue
        kinds = {is_import(n) for n in ast.parse(source).body}
        assert kinds != {True, False}, f'cell {i}: {source[:80]}'


def test_every_notebook_becomes_a_page(tmp_path):
    copy_tree(tmp_path)
    env = os.environ | {'PYTHONPATH': str(tmp_path), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', PROCESS], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    pages = lambda folder: {p.relative_to(folder).with_suffix('').as_posix() for p in folder.rglob('*.ipynb') if not any(s[0] in '._' for s in p.relative_to(folder).parts)}
    made = pages(tmp_path/'_proc')
    assert made == pages(tmp_path/'nbs'), (done.stdout + done.stderr)[-3000:]
    listed = yaml.safe_load((tmp_path/'nbs'/'sidebar.yml').read_text())['website']['sidebar']['contents']
    listed = [f for entry in listed for f in (entry['contents'] if isinstance(entry, dict) else [entry])]    # a folder is a section
    assert {f.removesuffix('.ipynb') for f in listed} == made
    for p in (tmp_path/'_proc').glob('*.ipynb'): assert p.stem == 'index' or p.stem[:2].isdigit()
