"""Run notebooks as a reader would and keep what comes out.

Each is executed from a clean start, gets static pictures beside its figures, is cleaned and exported.
README.md follows at the end.

usage: python tools/prepare.py [NOTEBOOK ...]      (default: all under nbs/, in order)
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

os.environ |= {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1'}  # progress bars are nothing to keep
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

sys.path.insert(0, str(Path(__file__).parent))
from pictures import add_pictures

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
KERNEL = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}


class Client(NotebookClient):
    "A client that leaves cells marked `#| eval: false` alone, and knows the cell at which it is."

    at = 0

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        self.at = cell_index
        if re.search(r'^#\|\s*eval:\s*false', cell.source, re.M):
            return cell
        return await super().async_execute_cell(cell, cell_index, *args, **kwargs)


def joined(outputs: list) -> list:
    """Stream outputs that follow one another as one.

    So the stored file does not depend on how fast they came.
    """
    out = []
    for o in outputs:
        if out and o.output_type == 'stream' == out[-1].output_type and o.name == out[-1].name:
            out[-1].text += o.text
        else:
            out.append(o)
    return out


def without_views(outputs: list) -> list:
    "Outputs without live views of widgets, which need a kernel: the figure or text beside them stays."
    for o in outputs:
        o.get('data', {}).pop('application/vnd.jupyter.widget-view+json', None)
    return [o for o in outputs if o.get('data', True)]


def kept_metadata(metadata: dict) -> dict:
    "A cell's metadata without times of execution; of JupyterLab's only what a walkthrough keeps folded."
    kept = {k: v for k, v in metadata.items() if k not in ('execution', 'jupyter')}
    of_lab = metadata.get('jupyter', {})
    folded = {k: True for k in ('source_hidden', 'outputs_hidden') if of_lab.get(k)}
    return kept | ({'jupyter': folded} if folded else {})


def called(nb, i: int) -> str:
    "Words that find a cell: its place, its id, its first line."
    cell = nb.cells[i]
    first = next((line for line in cell.source.splitlines() if not line.startswith('#|')), '')
    return f'cell {i} (from 0), id {cell.get("id", "none")}, {first!r}'


def execute(nb, path: Path) -> None:
    "Run a notebook in the folder where it lies; ends the program where a cell fails."
    nb.metadata = KERNEL
    client = Client(nb, timeout=600, resources={'metadata': {'path': str(path.parent)}})
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
        sys.exit(f'{path.name}: {called(nb, client.at)} failed; nothing was written\n{e}')
    nb.metadata = KERNEL


def prepare(path: Path) -> int:
    "Run one notebook, write it, export it; returns how many pictures it got."
    nb = nbformat.read(path, as_version=4)
    execute(nb, path)
    for cell in nb.cells:
        cell.metadata = kept_metadata(cell.metadata)
        if cell.cell_type == 'code':
            cell.outputs = joined(without_views(cell.outputs))
    pictures = add_pictures(nb)
    nbformat.write(nb, path)
    subprocess.run([BIN / 'nbdev_clean', '--fname', path], check=True, cwd=ROOT)
    # The next notebook may import what this one exports.
    subprocess.run([BIN / 'nbdev_export', '--path', path], check=True, cwd=ROOT)
    return pictures


def all_notebooks() -> list[Path]:
    "Lessons by number, then walkthroughs and pages, which import them all; the index last: it is the README."
    found = [p for p in (ROOT / 'nbs').glob('*/*.ipynb') if not p.parent.name.startswith(('.', '_'))]
    found.sort(key=lambda p: (p.parent.name in ('walkthroughs', 'pages'), p.name))
    return [*found, ROOT / 'nbs' / 'index.ipynb']


def main() -> None:
    books = [Path(a).resolve() for a in sys.argv[1:]] or all_notebooks()
    for i, path in enumerate(books, 1):
        counter = f'[{i}/{len(books)}] ' if len(books) > 1 else ''
        start = time.perf_counter()
        print(f'{counter}{path.relative_to(ROOT)}', flush=True)
        pictures = prepare(path)
        seconds = f'{time.perf_counter() - start:.0f} s'
        print('  ' + seconds + (f', {pictures} pictures' if pictures else ''), flush=True)
    subprocess.run([BIN / 'nbdev_export'], check=True, cwd=ROOT)
    subprocess.run([sys.executable, ROOT / 'tools' / 'readme.py'], check=True)


if __name__ == '__main__':
    main()
