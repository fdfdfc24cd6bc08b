"""Ruff has nothing to say about notebooks, tests and tools: neither its linter nor its formatter."""

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


@pytest.mark.slow
def test_the_types_fit(tmp_path):
    "The package ships `py.typed`, so others' checkers read its annotations."
    wrong = tmp_path / 'wrong.py'
    wrong.write_text('from ofa_learn.losses import kd_loss\n\nkd_loss(1, 2)\n')
    code, said = mypy('ofa_learn', str(wrong))  # both at once: reading PyTorch's types takes the longest
    faults = [line for line in said.splitlines() if ': error:' in line]
    assert code == 1 and all('wrong.py' in line and 'arg-type' in line for line in faults), said
    assert len(faults) == 2 and 'Found 2 errors in 1 file' in said, said
