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
