"""Every notebook runs from a clean start, and reads well."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BOOKS = sorted(
    p
    for p in (ROOT / 'nbs').rglob('*.ipynb')
    if not any(s.startswith(('.', '_')) for s in p.relative_to(ROOT).parts)
)
RUN = '''
import sys, torch; torch.set_num_threads(1)
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
ok, seconds = test_nb(Path(sys.argv[1]), skip_flags=get_config().tst_flags.split(), basepath=get_config().config_path)
sys.exit(not ok)
'''
name = lambda p: str(p.relative_to(ROOT / 'nbs'))


@pytest.mark.parametrize('path', BOOKS, ids=name)
def test_runs(path):
    env = os.environ | {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1', 'MPLBACKEND': 'agg'}
    done = subprocess.run(
        [sys.executable, '-c', RUN, str(path)],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=path.parent,
        env=env,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]


def code_lines(source):
    return [l for l in source.splitlines() if l.strip() and not l.strip().startswith('#|')]


def problems(nb) -> list[str]:
    "What a reader would trip over."
    out, code, words, exported = [], 0, 0, 0
    head = next((''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown'), '')
    if not re.match(r'# .+\n(?:.*\n)*?> ', head):
        out.append('the first markdown cell needs a title and a "> " subtitle')
    if 'widgets' in nb['metadata']:
        out.append('widget state is saved')
    for i, c in enumerate(nb['cells']):
        source = ''.join(c['source'])
        if not c.get('id'):
            out.append(f'cell {i} has no id')
        if c['cell_type'] == 'markdown':
            words += len(re.findall(r'\w+', source))
            continue
        n, is_export = len(code_lines(source)), bool(re.search(r'^#\|\s*export', source, re.M))
        code, exported = code + n, exported + n * is_export
        limit = 30 if is_export and not re.search(r'^class ', source, re.M) else 45
        if n > limit:
            out.append(f'cell {i}: {n} lines, more than {limit}')
        stored = json.dumps(c.get('outputs', []))
        if 'vnd.jupyter.widget-view' in stored:
            out.append(f'cell {i}: a live view of a widget is saved, which needs a kernel')
        if '"output_type": "error"' in stored:
            out.append(f'cell {i}: a stored error')
        if m := re.search(r'(?<![\w.])/(?:root|home|tmp|Users)/[\w./-]+', source + stored):
            out.append(f'cell {i}: a machine path, {m.group()}')
    if exported > 420:
        out.append(f'{exported} exported lines: make it two lessons')
    if code > 20 and words < 2 * code:
        out.append(f'{words / code:.1f} words of prose a line of code')
    if len(nb['cells']) > 8 and not any(c.get('outputs') for c in nb['cells']):
        out.append('no stored outputs: run it')
    return out


@pytest.mark.parametrize('path', BOOKS, ids=name)
def test_reads_well(path):
    assert path.stat().st_size <= 500_000
    assert problems(json.loads(path.read_text())) == []


def test_rules_can_fail():
    cell = dict(
        cell_type='code',
        id='a',
        source='\n'.join(f'x{i} = 1' for i in range(50)),
        outputs=[dict(output_type='error')],
    )
    found = problems(dict(metadata=dict(widgets={}), cells=[cell]))
    assert len(found) == 5, found
