"""The walkthroughs as a course.

Each asks before it shows, and its exercises' checks say what is wrong and never what is right.
"""

import json
import re

import pytest
from copies import ROOT
from fresh import call
from solving import try_checks

WALKS = ROOT / 'nbs' / 'walkthroughs'
ALL = sorted(WALKS.glob('[0-9]*.ipynb'))
BOOKS = [p for p in ALL if 'Exercises(' in p.read_text(encoding='utf-8')]
TEN = WALKS / '90_ten_situations.ipynb'  # all of it are exercises, so it shows nothing to be predicted


def read(path):
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def cells(path):
    return [(c['cell_type'], ''.join(c['source'])) for c in read(path)]


def prose(path):
    return '\n'.join(source for kind, source in cells(path) if kind == 'markdown')


def links(path):
    "The notebooks to which one links, without the place in them."
    return re.findall(r'\]\(([\w./]+\.ipynb)(?:#[\w.-]+)?\)', prose(path))


def places(path):
    "The anchors that a page's headings get on the site."
    titles = re.findall(r'^#+ (.+)$', prose(path), re.M)
    return {re.sub(r'[^\w.-]', '', t.lower().replace(' ', '-')) for t in titles}


def test_all_are_there():
    assert {p.stem[:2] for p in BOOKS} >= {'00', '30', '40', '50', '60', '80'}


@pytest.mark.parametrize('path', [p for p in BOOKS if p != TEN], ids=lambda p: p.stem)
def test_asks_before_it_shows(path):
    code = [s for kind, s in cells(path) if kind == 'code']
    made = [i for i, s in enumerate(code) if re.match(r'guess\w*(, guess\w*)* = None(, None)*$', s.strip())]
    looked = [i for i, s in enumerate(code) if 'check_guess(' in s]
    assert made and looked and made[0] < looked[0], 'a guess in a cell of its own, before the cell that shows'
    assert len(made) == prose(path).count('**Predict.**')
    kind, last = cells(path)[-1]
    assert kind == 'markdown' and '## What you can do now' in last


@pytest.mark.parametrize('path', BOOKS, ids=lambda p: p.stem)
def test_checks(path):
    "Its code runs; wrong answers get a hint, the solution passes, and no hint gives it away."
    count, wrong = call(try_checks, path, folder=path.parent)
    assert (count == 10 if path == TEN else 3 <= count <= 5) and wrong == []


def test_checks_are_folded():
    for path in BOOKS:
        code = [c for c in read(path) if c['cell_type'] == 'code']
        held = [c for c in code if 'check = Exercises(' in ''.join(c['source'])]
        assert len(held) == 1, path.name
        assert held[0]['metadata'].get('jupyter') == {'source_hidden': True}, path.name
        assert ''.join(held[0]['source']).startswith('#| code-fold: true'), path.name


def first_line(cell):
    "What JupyterLab shows of a folded output."
    said = next(o for o in cell['outputs'] if o['output_type'] == 'stream')
    return ''.join(said['text']).split('\n')[0]


def test_results_wait_for_the_guess():
    "In JupyterLab the stored output of a cell that answers a prediction is folded until it is run."
    for path in BOOKS:
        wanted = None
        for c in read(path):
            source = ''.join(c['source'])
            if made := re.match(r'(guess\w*)(, guess\w*)* = None', source.strip()):
                wanted = made[1]
            elif wanted and c['cell_type'] == 'code' and c['outputs']:
                where = f'{path.name}: {source[:60]!r}'
                folded = c['metadata'].get('jupyter') == {'outputs_hidden': True}
                assert folded, f'{where} shows what {wanted} asks for'
                if 'check_guess(' not in source:
                    continue
                assert 'No guess yet' in first_line(c), f'{where}: print what check_guess says first'
                wanted = None


def test_the_start_lists_everything():
    start = WALKS / '00_start_here.ipynb'
    lessons = [p for p in (ROOT / 'nbs').glob('*/[0-9]*.ipynb') if p.parent != WALKS]
    there = {f'../{p.parent.name}/{p.name}' for p in lessons}
    there |= {p.name for p in ALL if p != start}
    assert sorted(there - set(links(start))) == []


@pytest.mark.parametrize('path', ALL, ids=lambda p: p.stem)
def test_links(path):
    for link in links(path):
        assert (path.parent / link).resolve().is_file(), link


GUIDE = '55_when_does_a_teacher_help.ipynb#which-method-for-my-problem'


def test_the_guide_is_where_every_page_says():
    "Every walkthrough leads from its end to the guide which says what method to begin with."
    name, _, place = GUIDE.partition('#')
    assert place in places(WALKS / name)
    ends = {p.stem: cells(p)[-1][1] for p in ALL}
    assert [k for k, end in ends.items() if f']({GUIDE})' not in end and f'](#{place})' not in end] == []
    for page in ('index.ipynb', 'pages/methods.ipynb'):
        assert f'walkthroughs/{GUIDE})' in prose(ROOT / 'nbs' / page), page
