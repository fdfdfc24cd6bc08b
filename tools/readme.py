"""README.md from nbs/index.ipynb, without Quarto.

usage: python tools/readme.py [--check]      (--check: change nothing, fail when README.md is not current)
"""

import difflib
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
HEAD = '<!-- made from nbs/index.ipynb by `make readme`; edit that -->\n\n'
HIDE = Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags=('no-input',)))


def from_the_top(text: str) -> str:
    "Links to notebooks and pictures as they are from the folder above nbs/."
    return re.sub(r'\]\(((?:[a-z]+/)?\w+\.(?:ipynb|png|gif)(?:#[\w.-]+)?)\)', r'](nbs/\1)', text)


def readme() -> str:
    nb = nbformat.read(ROOT / 'nbs' / 'index.ipynb', as_version=4)
    nb.cells = [c for c in nb.cells if not re.search(r'^#\|\s*hide\b', c.source, re.M)]
    for cell in nb.cells:
        if re.search(r'^#\|\s*echo:\s*false', cell.source, re.M):
            cell.metadata['tags'] = ['no-input']
        cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip()
        if cell.cell_type == 'markdown':
            cell.source = from_the_top(cell.source)
        for o in cell.get('outputs', []):
            if 'text/markdown' in o.get('data', {}):
                o.data = {'text/markdown': from_the_top(o.data['text/markdown'])}
    nb.metadata['language_info'] = {'name': 'python'}
    text, _ = MarkdownExporter(config=HIDE).from_notebook_node(nb)
    return HEAD + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


def main() -> int:
    path, new = ROOT / 'README.md', readme()
    old = path.read_text(encoding='utf-8') if path.exists() else ''
    if '--check' not in sys.argv:
        path.write_text(new, encoding='utf-8')
        return 0
    lines = difflib.unified_diff(old.splitlines(True), new.splitlines(True), 'README.md', 'nbs/index.ipynb')
    sys.stdout.writelines(lines)
    return int(old != new)


if __name__ == '__main__':
    sys.exit(main())
