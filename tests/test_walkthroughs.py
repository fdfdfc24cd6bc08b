"""The walkthroughs as a course: each asks before it shows, and its exercises' checks say what is wrong and never what is right."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WALKS = ROOT / 'nbs' / 'walkthroughs'
BOOKS = sorted(p for p in WALKS.glob('[0-9]*.ipynb') if 'Exercises(' in p.read_text(encoding='utf-8'))
RUN = r'''
import ast, json, re, sys
import torch; torch.set_num_threads(1)
from ofa_learn.exercises import NO_ANSWER, RIGHT
cells = json.load(open(sys.argv[1], encoding='utf-8'))['cells']
source, space = lambda c: ''.join(c['source']), {'__name__': '__main__'}
for c in cells:
    if c['cell_type'] == 'code' and not re.search(r'^#\|\s*eval:\s*false', source(c), re.M): exec(source(c), space)
text, check, wrong = '\n'.join(source(c) for c in cells if c['cell_type'] == 'markdown'), space['check'], []

def tokens(hint):
    "Everything in a hint that could be taken for an answer."
    for t in re.findall(r"[\[(][^\])]*[\])]|[\w.+-]*\w", hint):
        yield t
        try: yield ast.literal_eval(t)
        except (ValueError, SyntaxError): pass

for n, tests in check.tests.items():
    say = lambda *words: wrong.append(f'exercise {n}: ' + ' '.join(map(str, words)))
    found = re.search(rf'\*\*{n}\.\*\*.*?<details><summary>Solution</summary>.*?```python\n(.*?)```', text, re.S)
    if not found: say('no folded solution with code'); continue
    code = found[1]
    own = dict(space)
    exec(code, own)
    answer = own.get(f'answer_{n}')
    if answer is None: say(f'the solution sets no answer_{n}'); continue
    if check(n) != NO_ANSWER or space.get(f'answer_{n}', 0) is not None: say('it should start without an answer, and say so')
    if check(n, answer) != RIGHT: say('its solution is refused:', check(n, answer))
    others = ['', 'nonsense', -12345.678, 1e9, float('nan'), [], {}, object(), lambda *a, **k: None]
    if isinstance(answer, (int, float)) or hasattr(answer, 'item'): others += [2*float(answer) + 1, -float(answer) - 1]
    for a in others:
        if check(n, a) in (RIGHT, NO_ANSWER) or not check(n, a).strip(): say(f'no hint for {a!r}')
    for _, hint in tests:
        for t in tokens(hint):
            if check(n, t) == RIGHT: say(f'the hint gives it away: {hint!r} holds {t!r}')
print('RESULT' + json.dumps([len(check.tests), wrong]))
'''


def cells(path):
    return [
        (c['cell_type'], ''.join(c['source'])) for c in json.loads(path.read_text(encoding='utf-8'))['cells']
    ]


def test_all_are_there():
    assert {p.stem[:2] for p in BOOKS} >= {'00', '30', '40', '50', '60', '80'}


@pytest.mark.parametrize('path', BOOKS, ids=lambda p: p.stem)
def test_asks_before_it_shows(path):
    code = [s for kind, s in cells(path) if kind == 'code']
    text = '\n'.join(s for kind, s in cells(path) if kind == 'markdown')
    made = [i for i, s in enumerate(code) if re.match(r'guess\w*(, guess\w*)* = None(, None)*$', s.strip())]
    looked = [i for i, s in enumerate(code) if 'check_guess(' in s]
    assert made and looked and made[0] < looked[0], 'a guess in a cell of its own, before the cell that shows'
    assert len(made) == text.count('**Predict.**')
    last = cells(path)[-1]
    assert (
        last[0] == 'markdown'
        and '## What you can do now' in last[1]
        and re.search(r'^Next: \[', last[1], re.M)
    )


@pytest.mark.parametrize('path', BOOKS, ids=lambda p: p.stem)
def test_checks(path):
    "In a process of its own, as the walkthrough would run: wrong answers get a hint, the solution passes, no hint gives it away."
    env = os.environ | {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', RUN, str(path)],
        capture_output=True,
        text=True,
        timeout=1200,
        cwd=path.parent,
        env=env,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    count, wrong = json.loads(done.stdout.split('RESULT')[-1])
    assert 3 <= count <= 5 and wrong == []


def test_checks_are_folded():
    for path in BOOKS:
        held = [
            c
            for c in json.loads(path.read_text(encoding='utf-8'))['cells']
            if c['cell_type'] == 'code' and 'check = Exercises(' in ''.join(c['source'])
        ]
        assert (
            len(held) == 1
            and held[0]['metadata'].get('jupyter') == {'source_hidden': True}
            and ''.join(held[0]['source']).startswith('#| code-fold: true')
        ), path.name


def test_results_wait_for_the_guess():
    "In JupyterLab the stored output of a cell that answers a prediction is folded until it is run."
    for path in BOOKS:
        wanted = None
        for c in json.loads(path.read_text(encoding='utf-8'))['cells']:
            source = ''.join(c['source'])
            if made := re.match(r'(guess\w*)(, guess\w*)* = None', source.strip()):
                wanted = made[1]
            elif wanted and c['cell_type'] == 'code' and c['outputs']:
                assert c['metadata'].get('jupyter') == {'outputs_hidden': True}, (
                    f'{path.name}: {source[:60]!r} shows what {wanted} asks for'
                )
                if 'check_guess(' not in source:
                    continue
                first = next(''.join(o['text']) for o in c['outputs'] if o['output_type'] == 'stream').split(
                    '\n'
                )[0]  # what JupyterLab shows of a folded output
                assert 'No guess yet' in first, (
                    f'{path.name}: print what check_guess says first, not {first!r}'
                )
                wanted = None


def test_the_start_lists_everything():
    text = '\n'.join(s for kind, s in cells(WALKS / '00_start_here.ipynb') if kind == 'markdown')
    linked = set(re.findall(r'\]\(([\w./]+\.ipynb)\)', text))
    there = {p.name for p in WALKS.glob('[0-9]*.ipynb')} - {'00_start_here.ipynb'} | {
        f'../{p.parent.name}/{p.name}'
        for p in (ROOT / 'nbs').glob('*/[0-9]*.ipynb')
        if p.parent.name != 'walkthroughs'
    }
    assert not there - linked


PLANNED = set()


@pytest.mark.parametrize('path', sorted(WALKS.glob('[0-9]*.ipynb')), ids=lambda p: p.stem)
def test_links(path):
    for link in re.findall(
        r'\]\(([\w./]+\.ipynb)\)', '\n'.join(s for kind, s in cells(path) if kind == 'markdown')
    ):
        assert link in PLANNED or (path.parent / link).resolve().is_file(), link
