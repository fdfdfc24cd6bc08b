"""Ruff has nothing to say about notebooks, tests and tools: neither its linter nor its formatter."""

import ast
import json
import re
import subprocess
import sys

import pytest
from copies import ROOT

WHERE = ('nbs', 'tests', 'tools', 'setup.py')


def ruff(*arguments, text=None):
    "What ruff says of these arguments and how it ends; `text` is a file on its standard input."
    command = [sys.executable, '-m', 'ruff', *arguments]
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, encoding='utf-8')
    return done.returncode, (done.stdout + done.stderr).strip()


def test_the_linter_finds_nothing():
    code, said = ruff('check', '--output-format', 'concise', '--no-cache', *WHERE)
    assert code == 0, said


def test_the_formatter_would_change_nothing():
    code, said = ruff('format', '--check', '--no-cache', *WHERE)
    assert code == 0, f'{said}\nrun .venv/bin/ruff format {" ".join(WHERE)}'


@pytest.mark.parametrize(
    'rule, fault',
    [
        ('E501', f"x = '{'.' * 105}'\n"),
        ('E701', 'if True: x = 1\n'),
        ('E702', 'x = 1; y = 2\n'),
        ('E731', 'double = lambda x: 2 * x\n'),
        ('F401', 'import os\n'),
        ('I001', 'import sys\nimport os\n\nprint(os, sys)\n'),
        ('B006', 'def f(x=[]):\n    return x\n'),
        ('UP006', 'from typing import List\n\nx: List[int] = []\n'),
        ('SIM115', "x = open('a').read()\n"),
    ],
)
def test_the_linter_would_find(rule, fault):
    "The rules that the project counts on are on."
    code, said = ruff(
        'check', '--output-format', 'concise', '--stdin-filename', 'tools/x.py', '-', text=fault
    )
    assert code == 1 and rule in said, said


def test_the_formatter_leaves_quotes_and_breaks_at_110():
    fine = "x = 'a'\ny = \"b\"\n" + f"z = ['{'a' * 49}', '{'b' * 48}']\n"
    assert len(fine.splitlines()[-1]) <= 110
    code, said = ruff('format', '--check', '--stdin-filename', 'tools/x.py', '-', text=fine)
    assert code == 0, said


def mypy(*arguments):
    command = [sys.executable, '-m', 'mypy', *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding='utf-8')
    return done.returncode, done.stdout + done.stderr


def imports_of_the_pages():
    "What the walkthroughs and the pages import of the package, as a file of a reader's."
    paths = [p for folder in ('walkthroughs', 'pages') for p in (ROOT / 'nbs' / folder).glob('*.ipynb')]
    cells = [c for p in paths for c in json.loads(p.read_text(encoding='utf-8'))['cells']]
    code = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'code')
    lines = re.findall(r'^from ofa_learn\.\w+ import (?:\([^)]+\)|.+)', code, re.M)
    nodes = ast.parse('\n'.join(lines)).body
    taken = sorted({('ofa_learn', 'distill')} | {(node.module, a.name) for node in nodes for a in node.names})
    return ''.join(f'from {module} import {name} as name_{i}\n' for i, (module, name) in enumerate(taken))


@pytest.mark.slow
def test_the_types_fit(tmp_path):
    """The package ships `py.typed`, so others' checkers read its annotations.

    Strict ones take a name from where it is defined, or is said to be exported; pages do it in that way.
    """
    wrong = tmp_path / 'wrong.py'
    wrong.write_text('from ofa_learn.losses import kd_loss\n\nkd_loss(1, 2)\n')
    reader = tmp_path / 'reader.py'
    reader.write_text(imports_of_the_pages())
    # all at once: reading PyTorch's types takes the longest
    code, said = mypy('--no-implicit-reexport', 'ofa_learn', str(wrong), str(reader))
    faults = [line for line in said.splitlines() if ': error:' in line]
    # within the package, modules may take a name from where it was imported
    faults = [line for line in faults if 'not explicitly export' not in line or 'reader.py' in line]
    assert code == 1 and all('wrong.py' in line and 'arg-type' in line for line in faults), said
    assert len(faults) == 2, said


# ------------------------------------------------------------------ what ruff has no rule for

QUESTIONS = ('bool', 'isinstance', 'issubclass', 'callable', 'hasattr', 'any', 'all', 'exists', 'is_file')
QUESTIONS += ('is_dir', 'startswith', 'endswith')  # what they answer is True or False


def is_text_or_list(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (str, bytes))
    return isinstance(node, (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp))


def is_true_or_false(node: ast.AST) -> bool:
    "Whether an expression can be told to be one of the two."
    if isinstance(node, ast.BoolOp):
        return all(map(is_true_or_false, node.values))
    if isinstance(node, ast.Call):
        return getattr(node.func, 'id', getattr(node.func, 'attr', '')) in QUESTIONS
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not)
    return isinstance(node, ast.Compare) or (isinstance(node, ast.Constant) and isinstance(node.value, bool))


def times_a_truth(source: str) -> list[str]:
    "Texts and lists that are multiplied by True or False; `… if … else ''` says what is meant."
    products = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.BinOp)]
    return [
        ast.unparse(p)
        for p in products
        if isinstance(p.op, ast.Mult)
        and any(is_text_or_list(a) and is_true_or_false(b) for a, b in ((p.left, p.right), (p.right, p.left)))
    ]


def code_of(path) -> list[str]:
    "A program, or the cells of a notebook without what only IPython understands."
    if path.suffix == '.py':
        return [path.read_text('utf-8')]
    cells = [c for c in json.loads(path.read_text('utf-8'))['cells'] if c['cell_type'] == 'code']
    lines = [[x for x in c['source'] if not x.lstrip().startswith(('%', '!'))] for c in cells]
    return [''.join(x) for x in lines]


def test_no_text_or_list_is_multiplied_by_a_truth():
    paths = [*ROOT.glob('nbs/**/*.ipynb'), *ROOT.glob('tests/**/*.py'), *ROOT.glob('tools/**/*.py')]
    paths = [p for p in paths if not any(part.startswith(('.', '_')) for part in p.relative_to(ROOT).parts)]
    assert len(paths) > 100
    assert {
        f'{p.name}: {found}' for p in paths for code in code_of(p) for found in times_a_truth(code)
    } == set()


@pytest.mark.parametrize(
    'fault',
    [
        "'s' * (n > 1)",
        "(n in fixed) * ' frozen'",
        "f', {n} failed' * bool(failed)",
        "['more'] * (n > 1 and not m)",
        "[x for x in y] * isinstance(n, int)",
        "(1, 2) * path.is_file()",
        "'x' * True",
    ],
)
def test_a_text_or_list_times_a_truth_is_found(fault):
    assert times_a_truth(f'print({fault})') == [ast.unparse(ast.parse(fault))]


@pytest.mark.parametrize(
    'fine', ["'-' * 9", "[0] * len(x)", "'s' if n > 1 else ''", "w * (n > 1)", "(0.0,) * (a or 3)"]
)
def test_a_text_or_list_times_a_number_is_fine(fine):
    assert times_a_truth(fine) == []
