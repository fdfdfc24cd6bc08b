"""The exercises at the end of each lesson of the course.

A wrong answer is told what is wrong and never what is right; a right one may come in any form.
"""

import json

import pytest
from copies import ROOT
from fresh import call
from solving import try_checks

COURSE = ROOT / 'nbs' / 'course'
BOOKS = [p for p in sorted(COURSE.glob('*.ipynb')) if 'Exercises(' in p.read_text(encoding='utf-8')]

# For each exercise, as code: wrong answers that people give, each with a piece of its hint, and right ones
# in another form than the solution's.
TYPICAL: dict[str, dict[int, tuple[list, list]]] = {}


@pytest.mark.parametrize('path', BOOKS, ids=lambda p: p.stem)
def test_checks(path):
    "The lesson runs, its solutions pass, typical mistakes get their hint, and no hint tells the answer."
    count, wrong = call(try_checks, path, TYPICAL.get(path.stem), folder=path.parent)
    assert 3 <= count <= 5 and wrong == []


def test_each_has_two_typical_mistakes_and_another_form():
    for lesson, exercises in TYPICAL.items():
        for n, (wrong, right) in exercises.items():
            assert len(wrong) >= 2 and right, f'{lesson}, exercise {n}'


def test_checks_are_folded():
    for path in BOOKS:
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        held = [c for c in cells if 'check = Exercises(' in ''.join(c['source'])]
        assert [c['metadata'].get('jupyter') for c in held] == [{'source_hidden': True}], path.name
        assert ''.join(held[0]['source']).startswith('#| code-fold: true'), path.name
