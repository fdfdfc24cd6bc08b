"""Every notebook runs from a clean start, and reads well."""

import ast
import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from browsers import missing
from copies import ROOT
from fresh import call

NBS = ROOT / 'nbs'
BOOKS = sorted(
    p for p in NBS.rglob('*.ipynb') if not any(s.startswith(('.', '_')) for s in p.relative_to(NBS).parts)
)


def run(path: Path) -> None:
    "All cells of a notebook, but for those that are not to be evaluated; an error is said and raised."
    from nbdev.config import get_config
    from nbdev.test import test_nb

    config = get_config()
    went, _ = test_nb(path, skip_flags=config.tst_flags.split(), basepath=config.config_path)
    assert went


@dataclass(frozen=True)
class Caps:
    "What a reader takes in at once. Statements are counted, not lines: breaking a line costs nothing."

    function: int = 25  # statements in an exported cell
    with_class: int = 45  # statements in an exported cell that holds a class
    lesson: int = 340  # exported statements
    other: int = 60  # lines of a cell that is not exported
    width: int = 110  # characters of a code line
    prose: float = 2.0  # words for each statement, where there are more than 20
    size: int = 500_000  # bytes


LESSON = Caps()
REFERENCE = replace(LESSON, prose=0.0)  # internals: short, tests as examples, in the manner of fastcore


def caps_of(path: Path) -> Caps:
    return REFERENCE if path.parent.name == 'internals' else LESSON


def name(path: Path) -> str:
    return str(path.relative_to(NBS))


# Those with exercises run where these are tried: tests/test_walkthroughs.py, tests/test_exercises.py.
TRIED = ('walkthroughs', 'course', 'methods')
WITH_CHECKS = [p for p in BOOKS if p.parent.name in TRIED and 'Exercises(' in p.read_text('utf-8')]


# Where there is a browser, tests/test_lab.py runs each cell of these in JupyterLab.
IN_LAB = set() if missing() else {'10_slide_gamma', '20_live_distillation'}

# These begin first, so that two processes which share the notebooks end together.
LONGEST = ('20_cka', '78_multilabel', '80_training', '97_bench_training')
HERE = [p for p in reversed(BOOKS) if p not in WITH_CHECKS and p.stem not in IN_LAB]
TO_RUN = sorted(HERE, key=lambda p: p.stem not in LONGEST)


@pytest.mark.parametrize('path', TO_RUN, ids=name)
def test_runs(path):
    call(run, path, folder=path.parent)


# ------------------------------------------------------------------ what the rules look at


@dataclass
class Cell:
    place: int  # from 0
    kind: str  # 'code', 'markdown' or 'raw'
    source: str
    stored: str  # its outputs, as JSON
    name: str  # its id

    @property
    def exported(self) -> bool:
        return bool(re.search(r'^#\|\s*export', self.source, re.M))

    @property
    def lines(self) -> list[str]:
        "Those of code: no empty ones, no directives."
        return [l for l in self.source.splitlines() if l.strip() and not l.strip().startswith('#|')]

    def __str__(self):
        return f'cell {self.place}'


@dataclass
class Book:
    cells: list[Cell]
    metadata: dict
    size: int  # bytes
    caps: Caps

    @property
    def code(self) -> list[Cell]:
        return [c for c in self.cells if c.kind == 'code']

    @property
    def markdown(self) -> list[Cell]:
        return [c for c in self.cells if c.kind == 'markdown']


def read(nb: dict, size: int, caps: Caps) -> Book:
    cells = []
    for i, c in enumerate(nb['cells']):
        stored = json.dumps(c.get('outputs', []))
        cells.append(Cell(i, c['cell_type'], ''.join(c['source']), stored, c.get('id', '')))
    return Book(cells, nb['metadata'], size, caps)


def without_magics(source: str) -> str:
    return '\n'.join('' if l.lstrip().startswith(('%', '!')) else l for l in source.splitlines())


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, 'value', None), str)


def statements(source: str) -> int:
    "How many there are in a cell, docstrings and imports aside."
    nodes = [n for n in ast.walk(ast.parse(without_magics(source))) if isinstance(n, ast.stmt)]
    return sum(not is_docstring(n) and not isinstance(n, (ast.Import, ast.ImportFrom)) for n in nodes)


def has_class(source: str) -> bool:
    return bool(re.search(r'^class ', source, re.M))


# ------------------------------------------------------------------ the rules: each yields what is wrong

RULES = []


def rule(function):
    RULES.append(function)
    return function


@rule
def has_title_and_subtitle(book):
    first = next((c.source for c in book.markdown), '')
    if not re.match(r'# .+\n(?:.*\n)*?> ', first):
        yield 'the first markdown cell needs a title and a "> " subtitle'


@rule
def keeps_no_widget_state(book):
    if 'widgets' in book.metadata:
        yield 'widget state is saved'


@rule
def is_small(book):
    if book.size > book.caps.size:
        yield f'{book.size:,} bytes, more than {book.caps.size:,}'


@rule
def has_ids(book):
    for cell in book.cells:
        if not cell.name:
            yield f'{cell} has no id'


@rule
def keeps_its_outputs(book):
    if len(book.code) > 4 and all(c.stored == '[]' for c in book.code):
        yield 'no stored outputs: run it'


@rule
def keeps_no_error(book):
    for cell in book.code:
        if '"output_type": "error"' in cell.stored:
            yield f'{cell}: a stored error'


@rule
def keeps_no_live_view(book):
    for cell in book.code:
        if 'vnd.jupyter.widget-view' in cell.stored:
            yield f'{cell}: a live view of a widget is saved, which needs a kernel'


@rule
def names_no_machine(book):
    for cell in book.cells:
        if m := re.search(r'(?<![\w.])/(?:root|home|tmp|Users)/[\w./-]+', cell.source + cell.stored):
            yield f'{cell}: a machine path, {m.group()}'


@rule
def is_narrow(book):
    for cell in book.code:
        widest = max(map(len, cell.source.splitlines()), default=0)
        if widest > book.caps.width:
            yield f'{cell}: a line of {widest} characters, more than {book.caps.width}'


@rule
def exports_small_cells(book):
    for cell in book.code:
        count, cap = statements(cell.source), book.caps.function
        if has_class(cell.source):
            cap = book.caps.with_class
        if cell.exported and count > cap:
            yield f'{cell}: {count} statements, more than {cap}'


@rule
def has_no_long_cell(book):
    for cell in book.code:
        if not cell.exported and len(cell.lines) > book.caps.other:
            yield f'{cell}: {len(cell.lines)} lines, more than {book.caps.other}'


@rule
def is_one_lesson(book):
    exported = sum(statements(c.source) for c in book.code if c.exported)
    if exported > book.caps.lesson:
        yield f'{exported} exported statements, more than {book.caps.lesson}: make it two lessons'


@rule
def explains_itself(book):
    count = sum(statements(c.source) for c in book.code)
    words = sum(len(re.findall(r'\w+', c.source)) for c in book.markdown)
    if count > 20 and words < book.caps.prose * count:
        yield f'{words / count:.1f} words of prose a statement, fewer than {book.caps.prose:g}'


def problems(book: Book) -> list[str]:
    "What a reader would trip over."
    return [what for check in RULES for what in check(book)]


@pytest.mark.parametrize('path', BOOKS, ids=name)
def test_reads_well(path):
    nb = json.loads(path.read_text(encoding='utf-8'))
    book = read(nb, path.stat().st_size, caps_of(path))
    assert problems(book) == []


# ------------------------------------------------------------------ the rules can fail


def many(count: int) -> str:
    return '\n'.join(f'x{i} = 1' for i in range(count))


def book(*code, stored=(), words=2000, first='# Title\n\n> Subtitle.\n\n', metadata=None, size=0, name='a'):
    "A book of much prose and these code cells, the first of them with the outputs `stored`."
    cells = [dict(cell_type='markdown', id=name, source=first + 'word ' * words)]
    for i, source in enumerate(code):
        cells.append(dict(cell_type='code', id=f'c{i}', source=source, outputs=[] if i else [*stored]))
    return read(dict(metadata=metadata or {}, cells=cells), size, LESSON)


ERROR = dict(output_type='error', ename='ZeroDivisionError')
LIVE = dict(output_type='display_data', data={'application/vnd.jupyter.widget-view+json': {}})
SAID = dict(output_type='stream', text='1')
PATH_SAID = dict(output_type='stream', text='wrote /home' + '/me/run.pt')
CLASS = '#| export\nclass A:\n    "Docstring."\n' + '\n'.join(f'    x{i} = 1' for i in range(44))
FUNCTION = '#| export\n' + many(25)
FAULTS = {  # rule: books that it refuses
    has_title_and_subtitle: [book(first='# Title\n'), book(first='Title\n\n> Subtitle.\n')],
    keeps_no_widget_state: [book(metadata=dict(widgets={}))],
    is_small: [book(size=500_001)],
    has_ids: [book(name='')],
    keeps_its_outputs: [book(*['x = 1'] * 5)],
    keeps_no_error: [book('1/0', stored=[ERROR])],
    keeps_no_live_view: [book('slider', stored=[LIVE])],
    names_no_machine: [book('train()', stored=[PATH_SAID]), book("open('/tmp" + "/x.json')")],
    is_narrow: [book(f"x = '{'.' * 105}'")],
    exports_small_cells: [book(FUNCTION + '\nx = 1'), book(CLASS + '\n    x = 1')],
    has_no_long_cell: [book(many(61))],
    is_one_lesson: [book(*[FUNCTION] * 14, stored=[SAID])],
    explains_itself: [book(many(21), words=39)],
}
FINE = [  # at the caps, not over them
    book(size=500_000),
    book(*['x = 1'] * 4),
    book(*['x = 1'] * 5, stored=[SAID]),
    book(f"x = '{'.' * 104}'"),
    book(FUNCTION, 'import a, b\n' * 30),
    book(CLASS, '%load_ext x\n' + many(59)),
    book(*[FUNCTION] * 13, stored=[SAID]),
    book(many(20), words=0),
    book(many(21), words=40),
]


def test_every_rule_has_its_fault():
    assert set(FAULTS) == set(RULES)


@pytest.mark.parametrize('check, fault', [(check, b) for check, books in FAULTS.items() for b in books])
def test_rules_can_fail(check, fault):
    "Each fault is found, by its rule and by no other."
    found = list(check(fault))
    assert found and problems(fault) == found


@pytest.mark.parametrize('fine', FINE)
def test_rules_let_pass(fine):
    assert problems(fine) == []


def test_reference_notebooks_need_fewer_words_and_nothing_else_less():
    assert problems(replace(book(many(21), words=0), caps=REFERENCE)) == []
    long = book(many(61))
    assert problems(replace(long, caps=REFERENCE)) == problems(long) != []


def test_a_notebook_that_fails_is_seen(tmp_path):
    made = dict(
        cells=[dict(cell_type='code', id='a', source="print('before')\n1/0", outputs=[], metadata={})]
    )
    path = tmp_path / 'bad.ipynb'
    path.write_text(json.dumps(made | dict(metadata={}, nbformat=4, nbformat_minor=5)))
    with pytest.raises(AssertionError, match='ZeroDivisionError'):
        call(run, path, folder=tmp_path)
    with pytest.raises(AssertionError, match='took more than'):
        call(time.sleep, 60, folder=tmp_path, timeout=0.5)
