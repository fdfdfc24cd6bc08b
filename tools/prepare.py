"""Run notebooks as a reader would and keep what comes out: execute, add static pictures, clean, export, README.

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
from nbclient.exceptions import CellExecutionError

sys.path.insert(0, str(Path(__file__).parent))
from pictures import add_pictures

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


class Client(NotebookClient):
    "A client that leaves cells marked `#| eval: false` alone."

    async def async_execute_cell(self, cell, *args, **kwargs):
        if re.search(r'^#\|\s*eval:\s*false', cell.source, re.M):
            return cell
        return await super().async_execute_cell(cell, *args, **kwargs)


def joined(outputs: list) -> list:
    "Stream outputs that follow one another as one, so that the stored file does not depend on how fast they came."
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


def prepare(path: Path) -> None:
    start, nb = time.perf_counter(), nbformat.read(path, as_version=4)
    nb.metadata = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    client = Client(nb, timeout=600, resources={'metadata': {'path': str(path.parent)}})
    try:
        client.execute()
    except CellExecutionError as e:
        at = next(i for i, c in enumerate(nb.cells) for o in c.get('outputs', ()) if o.output_type == 'error')
        sys.exit(f'{path.relative_to(ROOT)}: cell {at} (from 0) failed; nothing was written\n{e}')
    nb.metadata = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    for cell in nb.cells:
        folded = {
            k: True for k in ('source_hidden', 'outputs_hidden') if cell.metadata.get('jupyter', {}).get(k)
        }  # what a walkthrough keeps folded
        cell.metadata = {k: v for k, v in cell.metadata.items() if k not in ('execution', 'jupyter')} | (
            {'jupyter': folded} if folded else {}
        )
        if cell.cell_type == 'code':
            cell.outputs = joined(without_views(cell.outputs))
    pictures = add_pictures(nb)
    nbformat.write(nb, path)
    subprocess.run([BIN / 'nbdev_clean', '--fname', path], check=True, cwd=ROOT)
    subprocess.run(
        [BIN / 'nbdev_export', '--path', path], check=True, cwd=ROOT
    )  # the next notebook may import it
    print(
        f'{path.relative_to(ROOT)}: {time.perf_counter() - start:.0f} s'
        + (f', {pictures} pictures' if pictures else ''),
        flush=True,
    )


def main() -> None:
    books = [Path(a).resolve() for a in sys.argv[1:]] or sorted(
        p
        for p in (ROOT / 'nbs').rglob('*.ipynb')
        if '.ipynb_checkpoints' not in p.parts and p.name != 'index.ipynb'
    )
    for path in books:
        prepare(path)
    index = ROOT / 'nbs' / 'index.ipynb'
    if not sys.argv[1:] and index.exists():
        prepare(index)
    subprocess.run([BIN / 'nbdev_export'], check=True, cwd=ROOT)
    if index.exists():
        subprocess.run([sys.executable, ROOT / 'tools' / 'readme.py'], check=True)


if __name__ == '__main__':
    main()
