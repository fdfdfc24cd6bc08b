"""Runs a notebook's code, then tries the checks of its exercises."""

import ast
import json
import re
import sys
from contextlib import suppress
from pathlib import Path
from types import ModuleType


def _cells(path: Path) -> tuple[list[str], list[str]]:
    "Prose and code of a notebook; cells that are not to be evaluated are left out."
    prose, code = [], []
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            prose.append(source)
        elif not re.search(r'^#\|\s*eval:\s*false', source, re.M):
            code.append(source)
    return prose, code


# For an exercise: code that sets its answer wrongly in a way that people do, and what the hint should hold.
TYPICAL = {
    '80_write_a_method': {
        2: [
            (
                'def answer_2(s, t):\n'
                '    s, t = s.log_softmax(-1), t.detach().log_softmax(-1)\n'
                '    return (s.exp().detach() * (s - t)).sum(-1).mean()',
                'something of the student was detached',
            ),
            (
                'def answer_2(s, t):\n'
                '    s, t = s.detach().log_softmax(-1), t.detach().log_softmax(-1)\n'
                '    return (s.exp() * (s - t)).sum(-1).mean()',
                'no gradient arrives at the student',
            ),
            (
                'answer_2 = torch.no_grad()(lambda s, t: reverse(s, t))',
                'no gradient arrives at the student',
            ),
            ('answer_2 = reverse', 'A gradient goes to the teacher'),
        ],
        3: [
            (
                "answer_3 = create_task('ofa+skew', 'micro_mixer', teacher, data=data, "
                "options_of=dict(skew=dict(mix=.2)))",
                'Another student',
            ),
            (
                "import copy\n"
                "answer_3 = create_task('ofa+skew', 'micro_vit', copy.deepcopy(teacher), data=data, "
                "options_of=dict(skew=dict(mix=.2)))",
                'Another teacher',
            ),
        ],
    },
    '00_start_here': {
        4: [
            (
                "answer_4 = distill('ofa', 'micro_mixer', teacher, data, epochs=1, gamma=1.4, **how)\n"
                "answer_4.setting['epochs'] = EPOCHS",
                'Another student',
            ),
            (
                "import copy\n"
                "answer_4 = distill('ofa', 'micro_resnet', copy.deepcopy(teacher), data, epochs=1, **how)\n"
                "answer_4.setting['epochs'] = EPOCHS",
                'Another teacher',
            ),
            (
                "answer_4 = distill('ofa', 'micro_resnet', teacher, data, epochs=1, gamma=1.4, "
                "temperature=4, device='cpu', progress=False)\n"
                "answer_4.setting['epochs'] = EPOCHS",
                'the settings of the other two',
            ),
        ],
    },
    '60_your_own_model_and_images': {
        2: [('answer_2 = content', 'does without them'), ("answer_2 = ['rkd', 'cc']", 'Some are missing')],
    },
    '90_ten_situations': {
        1: [("answer_1 = 'ofd'", 'where one may choose'), ("answer_1 = 'labels'", 'a control')],
        2: [
            ("answer_2 = ['kd', 'dist', 'hcd']", 'look inside the teacher'),
            ("answer_2 = ['kd', 'labels']", 'ask no teacher at all'),
            ("answer_2 = ['kd', 'ofa']", 'are missing'),
        ],
        3: [
            ('answer_3 = 1.3 - 1.96 * 1.652 / 3**0.5', 'Further down'),
            ('answer_3 = 1.3 - t_quantile(0.975, 2) * 1.652', 'Not as far down'),
            ('answer_3 = 1.3 + t_quantile(0.975, 2) * 1.652 / 3**0.5', 'Which end'),
        ],
        4: [('answer_4 = 7', 'wider than that'), ('answer_4 = 12', 'Fewer would do')],
        5: [
            (
                "rows = means('lab', 'vit-cnn', 'test_accuracy')\n"
                "answer_5 = rows['ofa temperature=4.0'] - rows['labels']",
                'but with its exits',
            ),
            ('answer_5 = 10.0', 'differs in the teacher alone'),
        ],
        6: [('answer_6 = 0.55', 'is a choice on test'), ('answer_6 = -2', 'Not as low')],
        7: [
            ("answer_7 = means('lab_unlabelled', 'vit-cnn', 'test_accuracy')['kd'] - 84.0", 'have a teacher'),
            ('answer_7 = 3', 'sees more pictures'),
        ],
        8: [
            ("answer_8 = dict(a='classes', b='normalisation', c='untrained', d='none')", 'in the same way'),
            ("answer_8 = dict(a='none', b='classes', c='untrained', d='normalisation')", 'The healthy one'),
        ],
        9: [
            ("answer_9 = 'reviewkd'", 'longer than the budget'),
            ("answer_9 = 'fitnet'", 'another affordable one'),
        ],
        10: [('answer_10 = 16', 'overflows'), ('answer_10 = 10', 'room for more')],
    },
}


def _mistakes(n: int, path: Path, space: dict):
    "Wrong answers that people give, and that pass or get another hint than they should."
    for code, hint in TYPICAL.get(path.stem, {}).get(n, ()):
        own = dict(space)
        exec(code, own)
        said = space['check'](n, own[f'answer_{n}'])
        if hint not in said:
            yield f'{code!r} is told {said!r}'


def _tokens(hint: str):
    "Everything in a hint that could be taken for an answer."
    for found in re.findall(r'[\[(][^\])]*[\])]|[\w.+-]*\w', hint):
        yield found
        with suppress(ValueError, SyntaxError):
            yield ast.literal_eval(found)


def _wrong_answers(answer):
    yield from ('', 'nonsense', -12345.678, 1e9, float('nan'), [], {}, object(), lambda *a, **k: None)
    size = getattr(answer, 'numel', lambda: 1)()  # a tensor of many numbers is no number
    if size == 1 and (isinstance(answer, (int, float)) or hasattr(answer, 'item')):
        yield from (2 * float(answer) + 1, -float(answer) - 1)


def _faults(n: int, tests: list, space: dict, text: str):
    "What is wrong with the check of one exercise."
    from ofa_learn.exercises import NO_ANSWER, RIGHT

    check = space['check']
    solution = rf'\*\*{n}\.\*\*.*?<details><summary>Solution</summary>.*?```python\n(.*?)```'
    found = re.search(solution, text, re.S)
    if not found:
        yield 'no folded solution with code'
        return
    own = dict(space)
    exec(found[1], own)
    answer = own.get(f'answer_{n}')
    if answer is None:
        yield f'the solution sets no answer_{n}'
        return
    if check(n) != NO_ANSWER or space.get(f'answer_{n}', 0) is not None:
        yield 'it should start without an answer, and say so'
    if check(n, answer) != RIGHT:
        yield f'its solution is refused: {check(n, answer)}'
    for a in _wrong_answers(answer):
        if check(n, a) in (RIGHT, NO_ANSWER) or not check(n, a).strip():
            yield f'no hint for {a!r}'
    for _, hint in tests:
        for t in _tokens(hint):
            if check(n, t) == RIGHT:
                yield f'the hint gives it away: {hint!r} holds {t!r}'


def _misjudged(n: int, space: dict, wrong: list, right: list):
    "Typical answers, as code, that get another verdict than they should."
    from ofa_learn.exercises import RIGHT

    for code, hint in [*wrong, *((code, RIGHT) for code in right)]:
        said = space['check'](n, eval(code, dict(space)))
        if hint not in said or (said == RIGHT) != (hint == RIGHT):
            yield f'{code} is told {said!r}'


def try_checks(path: Path, answers: dict | None = None) -> tuple[int, list[str]]:
    """How many exercises a notebook has, and what is wrong with them.

    `answers` are typical ones, as code: {number: ([(a wrong one, a piece of its hint)], [right ones])}.
    """
    prose, code = _cells(path)
    notebook = ModuleType('__main__')  # timm looks a model's configuration up in the module that defines it
    sys.modules['__main__'] = notebook
    space = vars(notebook)
    for source in code:
        exec(source, space)
    wrong = []
    for n, tests in space['check'].tests.items():
        wrong += [f'exercise {n}: {what}' for what in _faults(n, tests, space, '\n'.join(prose))]
        wrong += [f'exercise {n}: {what}' for what in _mistakes(n, path, space)]
    for n, (typical, right) in (answers or {}).items():
        wrong += [f'exercise {n}: {what}' for what in _misjudged(n, space, typical, right)]
    return len(space['check'].tests), wrong
