"""How each lesson of the course and on methods begins, with a picture, and ends, with exercises.

A wrong answer is told what is wrong and never what is right; a right one may come in any form.
"""

import json
import re

import pytest
from copies import ROOT
from fresh import call
from solving import try_checks

from ofa_learn.exercises import _judge, check_guess, near

FOLDERS = ('course', 'methods')
LESSONS = [p for folder in FOLDERS for p in sorted((ROOT / 'nbs' / folder).glob('*.ipynb'))]
BOOKS = [p for p in LESSONS if 'Exercises(' in p.read_text(encoding='utf-8')]

# For each exercise, as code: wrong answers that people give, each with a piece of its hint, and right ones
# in another form than the solution's.
TYPICAL: dict[str, dict[int, tuple[list, list]]] = {
    '00_data': {
        1: ([('200', 'was not among the first'), ('0', 'a chance of 200')], ["'45'", '[44]']),
        2: (
            [('5', 'Only complete'), ("'4.75'", 'Only complete'), ('3', 'complete ones are not')],
            ["'4'", '[4]'],
        ),
        3: (
            [("['seed', 'view_seed']", 'luck you want to measure'), ("'split_seed'", 'other pictures')],
            ["{'view_seed', 'split_seed'}"],
        ),
    },
    '10_models': {
        1: ([("'maps'", 'Which layout'), ("'cnn'", 'one of the two kinds')], ["' tokens'"]),
        2: ([('[1, 4]', 'as Python counts'), ('[0, 1]', 'last of four'), ('[0]', 'two indices')], ['[0, 3]']),
        3: (
            [('0.5', 'A quarter of the positions'), ('1', 'Not all of its conv')],
            ["'0.889'", '[second / first]'],
        ),
    },
    '20_cka': {
        1: (
            [
                ('dict(features=False, images=False)', 'In which order'),
                ('dict(features=True, images=True)', 'the images themselves'),
                ("'features'", 'with features and'),
            ],
            ['dict(images=False, features=True)'],
        ),
        2: (
            [
                ("'blocks.*'", 'in a list'),
                ("['blocks.*']", 'two layers of each'),
                ("['blocks.*.norm1', 'blocks.*.mlp']", 'as a whole'),
            ],
            ["('blocks.*.attn', 'blocks.*.mlp')"],
        ),
        3: (
            [('1', 'does not tell apart'), ('0', 'often does, too')],
            [
                "'0.471'",
                'cka_matrix(*(torch.eye(k).repeat_interleave(8 // k, 0) for k in (4, 2)))',
            ],
        ),
        4: ([('0', 'any two random rows'), ('1.05', 'Not quite')], ["'0.96'", 'torch.tensor(BY_CHANCE)']),
    },
    '30_branches': {
        1: ([('0.27', 'count both'), ('54', 'a share of all')], ["'0.54'", '[share]']),
        2: ([('3', 'Not from 56'), ('1', 'halves the grid once')], ["'2'", 'torch.tensor(2)']),
        3: ([('0', 'not think at all'), ('4', 'stages remain')], ["'1'", '[1.0]']),
        4: ([('100', 'Look for the teacher'), ("'50 %'", 'Look for the teacher')], ["'0 %'"]),
    },
    '40_losses': {
        1: ([('2', 'doubling it takes more'), ('torch.tensor(4.)', 'not more')], ["'2.71'", '[2.7095]']),
        2: (
            [
                ('lambda m, K, gamma: m**gamma / (K - 1)', 'nothing should be lost'),
                ('lambda m, K, gamma: m**gamma', 'each wrong class hold'),
            ],
            ['lambda m, K, gamma: (K - 1) * (m / (K - 1)) ** gamma'],
        ),
        3: (
            [
                ('lambda w, p_s: p_s - w', 'Not zero at the best student'),
                ('lambda w, p_s: w - w.sum(-1, keepdim=True) * p_s', 'which way does it point'),
            ],
            ['lambda w, p_s: -(w - p_s * w.sum(1)[:, None])'],
        ),
        4: (
            [
                ("lambda z, t, y, gamma: F.cross_entropy(z, y, reduction='none')", 'the exponent took'),
                ('lambda z, t, y, gamma: F.cross_entropy(z, y)', 'one number per image'),
            ],
            [
                'lambda *given: (ofa_loss(*given[:3], gamma=given[3], reduction="none")'
                ' - ofa_loss(*given[:3], gamma=given[3], form="released", reduction="none"))'
            ],
        ),
    },
    '49_teachers': {
        1: ([('0.01', 'the largest input'), ('1', 'not silent')], ["'0.027'", '[0.0267]']),
        2: ([("'original'", 'cannot see'), ("'both'", 'one of the two')], ["'View'"]),
        3: ([('0.1', 'does nothing'), ('-1', 'less than none')], ["'0'", '[0]']),
    },
    '50_tasks': {
        1: (
            [
                ("['loss', 'output', 'final', 'exit_1', 'exit_4']", 'the sum and the logits'),
                ("['exit_1', 'exit_4']", 'what else is compared'),
                ("['ce', 'exit_1', 'exit_4']", 'inside the other losses'),
            ],
            ["['exit_1', 'exit_4', 'final']"],
        ),
        2: ([('torch.float32', 'a module of the task'), ("'no idea'", 'Expected a dtype')], ["'float64'"]),
        3: (
            [('2', 'Add up the weights'), ('[0]', 'nothing of the labels')],
            ["'0.5'", 'torch.tensor([0.5])'],
        ),
        4: ([("('pooled', 'logits')", 'do with those'), ("'maps'", 'after their positions')], ["'pooled'"]),
    },
    '52_look': {
        1: ([('0.1', 'digits in general'), ('1', 'has not seen these')], ["str(unseen)", '[unseen]']),
        2: (
            [("'zoom'", 'one of the two'), ('max(sure_of, key=sure_of.get)', 'surer of these')],
            ["'shifts'"],
        ),
        3: ([('50', 'by a hair'), ('80', 'standard error')], ["'65 %'", 'torch.tensor([65.0])']),
    },
    '70_rsd': {
        1: ([('0', 'Something is to pay'), ('121', 'do to a factor')], ["'4'", 'torch.tensor([4.0])']),
        2: ([('7', 'Did you add both'), ('0.07', 'Did you add both'), ('63', 'count fully')], ["'7.07'"]),
        3: ([('511', 'its own share'), ('64', 'centring'), ('8', 'one forward')], ["'63'", '[63]']),
        4: ([('7.68', 'counts twice'), ('768**2', 'forget')], ["'5898'", '5899', 'torch.tensor(5898.24)']),
    },
    '72_hcd': {
        1: (
            [('0.707', 'above θ squared'), ('0.207', 'true class out'), ('0.244', 'true class out')],
            ["'0.043'", 'torch.tensor([0.0429])'],
        ),
        2: ([('0.25', 'Does the cosine'), ('1', 'Does the cosine')], ["'0'", '[0.0]']),
        3: ([('2.303', 'over the stages'), ('36.8', 'stages only')], ["'9.21'", '[9.2103]']),
        4: (
            [('0.307', 'How many stages'), ('2.46', 'Which layer'), ('0', 'how many sets')],
            ["'1.23'", 'torch.tensor(1.2304)'],
        ),
    },
    '74_scalekd': {
        1: (
            [
                ("lambda student, teacher: dfm_loss(student, teacher, 'alternative')", 'order of the lesson'),
                ('lambda student, teacher: dfm_loss(student, teacher)', 'taken off at all'),
                ('lambda student, teacher: len(student) * exchanged(student, teacher)', 'divide by B'),
                ('lambda student, teacher: student - teacher', 'one number'),
            ],
            ["lambda student, teacher: exchanged(student, teacher).item()"],
        ),
        2: ([('3.136', 'on another grid'), ('0.016', 'each position')], ["'0.784'", 'torch.tensor(0.784)']),
        3: ([('49', 'to choose between'), ('0', 'does come out')], ["'1'", '[1.0]']),
        4: ([('24.42', 'must stay'), ('9.67', 'and one to stage 4')], ["'12.21'", '[12.2]']),
    },
    '76_combined': {
        1: (
            [
                ("['kd_ce', 'kd_kd', *(f'ofa_exit_{i}' for i in range(1, 5)), 'ofa_final']", 'Who holds'),
                ("['kd', 'final', 'exit_1', 'exit_2', 'exit_3', 'exit_4']", 'How are they named'),
                ("['kd_kd', *(f'ofa_exit_{i}' for i in range(1, 5))]", 'One is missing'),
            ],
            ["('ofa_final', 'kd_kd', *(f'ofa_exit_{i}' for i in range(1, 5)))"],
        ),
        2: (
            [
                (
                    "sum(v for k, (v, _) in last.items() if k[:3] == 'ofa') / last['fitnet_hint_2'][0]",
                    'Did you compare values',
                ),
                (
                    "sum(g.norm() for k, (_, g) in last.items() if k[:3] == 'ofa')"
                    " / last['fitnet_hint_2'][1].norm()",
                    'Gradients are vectors',
                ),
            ],
            ["of_ofa.norm() / last['fitnet_hint_2'][1].norm()"],
        ),
        3: ([('3', 'comes first'), ('5', 'KD weighs'), ('0', 'comes first')], ["'4.8'", '[4.8]']),
        4: ([('3', 'answer several'), ('2', 'answer several')], ["'1'", 'torch.tensor(1)']),
    },
    '78_multilabel': {
        1: ([('0.018', 'share one unit'), ('0.982', 'two equal logits')], ["'0.482'", '[0.4821]']),
        2: ([('75', 'The first image'), ('100', 'The first image'), ('0.5', 'so far')], ["'50 %'", '[50]']),
        3: ([('81', 'every no'), ('0', 'stand equal')], ["'19 %'", 'torch.tensor(19.0)']),
        4: (
            [
                ("['rkd', 'reviewkd', 'crd']", 'its negatives'),
                ("['rkd', 'dist', 'reviewkd']", 'reads a softmax'),
                ("'rkd'", 'not all'),
                ("['kd']", 'out of the five'),
            ],
            ["{'ReviewKD', 'RKD'}"],
        ),
    },
    '80_training': {
        1: ([('6', 'Do several batches make one update?'), ('3.25', 'Do several batches')], ["'3'", '[3]']),
        2: ([('50', 'leave out of the count'), ('75', 'is wrong')], ["'66.7 %'", 'torch.tensor(66.67)']),
        3: (
            [
                ('dict(lr=8e-3, batch_size=20, weight_decay=0)', 'never changes its rate'),
                ("dict(lr=8e-3, sched='constant', weight_decay=0)", 'the rate would still rise'),
                ("dict(batch_size=20, lr=8e-3, sched='none')", 'how `fit_1` makes its optimizer'),
            ],
            ["[('lr', 0.008), ('batch_size', 20), ('weight_decay', 0.0), ('sched', 'none')]"],
        ),
        4: ([("'views'", 'view_seed'), ("['split', 'first weights']", 'was settled')], ["['first weights']"]),
    },
    '55_logits': {
        1: ([('4', 'more than twice as likely'), ('8', 'nearer to each other')], ["'5.77'", '[5.771]']),
        2: (
            [
                ('lambda s, t: (s - t).square().mean() / 2', 'Adding 5 to all logits'),
                ('lambda s, t: kd_loss(s, t, temperature=1000.0)', 'Near the limit, but not there'),
                ('lambda s, t: 2 * limit(s, t)', 'Compare it with T = 1000'),
                ('lambda s, t: limit(s, t) * s.shape[1] / 10', 'with other K'),
                ('lambda s, t: limit(s.detach(), t) + 0 * s.sum()', 'but its gradient is not'),
                ('lambda s, t: limit(s.detach(), t)', 'but its gradient is not'),
            ],
            ['lambda s, t: ((s - t) - (s - t).mean(-1)[:, None]).pow(2).sum() / (2 * s.numel())'],
        ),
        3: (
            [
                ('lambda t, y: t.softmax(1).gather(1, y[:, None])[:, 0]', 'do not add up to KL'),
                ('lambda t, y: torch.full((len(t),), 8.0)', 'No one number fits'),
                ('lambda t, y: 0.5', 'one number per image'),
            ],
            ['lambda t, y: [1 - row.softmax(0)[c].item() for row, c in zip(t, y)]'],
        ),
        4: (
            [
                ('lambda t: 2 * t', 'on no straight line'),
                ('lambda t: torch.log(0.5 * t.softmax(1) + 0.5 / t.shape[1])', 'no surer than its teacher'),
                ('lambda t: (4 * t.softmax(1) - 0.6).log()', 'fall below zero'),
                (
                    'lambda t: (0.2 + 0.99 / (1 - 5 * t.softmax(1).amin(1, keepdim=True))'
                    ' * (t.softmax(1) - 0.2)).log()',
                    'the columns are not',
                ),
            ],
            ['lambda t: (t.softmax(1) - 0.9 * t.softmax(1).min()).log() + 3'],
        ),
    },
    '57_more_logits': {
        1: (
            [
                ('lambda K, T: (K - 1) / K**0.5 / T', 'Not yet at K = 10'),
                ('lambda K, T: 1 / (1 + 9 * 2.718281828 ** (-(10**0.5) / T))', 'for no other K'),
                ('lambda K, T: 1 / (1 + (K - 1) * 2.718281828 ** -(K**0.5))', 'at no other T'),
            ],
            ['lambda k, t: torch.tensor([k**0.5 / t] + [0.0] * (k - 1)).softmax(0)[0]'],
        ),
        2: (
            [
                ("'kd'", 'Another one'),
                ("['kd', 'dist', 'wttm', 'deit']", 'the same loss for both'),
                ("'ofa'", 'the five names'),
            ],
            ["'WTTM, dist, kd'", "{'kd', 'wttm', 'dist'}"],
        ),
        3: ([('10', 'then comes the power'), ('1', 'one per class')], ["'6.31'", 'torch.tensor([6.31])']),
        4: (
            [
                ('lambda p, g: p', 'not flat enough'),
                ('lambda p, g: p ** (1 / g)', 'not flat enough'),
                ('lambda p, g: p**g / (p**g).sum(1, keepdim=True)', 'How much should an image count'),
                ('lambda p, g: (p**g).sum(1)', 'one weight per class'),
            ],
            ['lambda p, g: (p**g).tolist()', 'lambda p, g: (g * p.log()).exp()'],
        ),
    },
    '60_hints': {
        1: (
            [
                ('[1, 2, 3, 4]', 'six numbers'),
                ('[1, 1, 2, 2, 3, 4]', 'ends nearest'),
                ('[1, 2, 3, 4, 5, 6]', 'four stages'),
                ('[1, 1, 2, 2, 3, 3]', 'learn from the last'),
            ],
            ["'1, 1, 2, 3, 3, 4'", 'torch.tensor([1, 1, 2, 3, 3, 4])'],
        ),
        2: ([('3136', 'look at all of a window'), ('196', 'four neighbours')], ["'784'", '[784]']),
        3: ([('-0.798', 'lies deeper'), ('-6', 'not a bound'), ('1.596', 'below zero')], ["'-1.596'"]),
        4: (
            [
                ('torch.ones(4, 4)', 'as large as MSE does'),
                ('[[2, -2, 2, -2], [-2, 2, -2, 2]] * 2', 'is not 1'),
                ('[[1, 1, -1, -1]] * 4', 'one of the pools still'),
                ('[[0.0] * 4] * 4', 'is not 1'),
            ],
            ['torch.tensor([1.0, -1, 1, -1]).repeat(4, 1)[None, None]'],
        ),
        5: (
            [
                ('lambda s, t, m: 2 * (s - t)', 'below its margin'),
                ('lambda s, t, m: 2 * (s - max(t, m))', 'the student is free'),
                ('lambda s, t, m: 2 * (max(t, m) - s)', 'a plain square'),
                ('lambda s, t, m: 2 * (s - max(t, m)) if t > 0 or t < m < s else 0', 'above a target'),
            ],
            ['lambda s, t, m: torch.tensor(2.0 * (s - max(t, m)) * (s > max(t, m) or max(t, m) > 0))'],
        ),
    },
    '62_vkd': {
        1: (
            [
                ("['longer', 'reordered']", 'gone after the layer norm'),
                ("['reordered']", 'one more'),
                ("['scaled']", 'the four names'),
            ],
            ["'one feature, reordered'", "{'reordered', 'one feature'}"],
        ),
        2: (
            [
                ('torch.zeros(64)', 'less than 1 apart'),
                ('2 * narrow.weight[0]', 'still tell them apart'),
                ('torch.ones(32)', '64 numbers'),
            ],
            ['(3 * torch.linalg.svd(narrow.weight)[2][40]).tolist()'],
        ),
        3: ([('1', 'does not come through'), ('0.25', 'shorten nothing')], ["'0.5'", '[0.5]']),
        4: (
            [
                ('lambda A: torch.eye(len(A)) + A / 2', 'is not orthogonal'),
                ('lambda A: torch.matrix_exp(A)', 'not the Cayley transform'),
                (
                    'lambda A: torch.linalg.inv(torch.eye(len(A)) + A / 2) @ (torch.eye(len(A)) - A / 2)',
                    'not the Cayley transform',
                ),
            ],
            ['lambda A: torch.linalg.inv(torch.eye(len(A)) - A / 2) @ (torch.eye(len(A)) + A / 2)'],
        ),
    },
    '65_relations': {
        1: (
            [
                ('triangle', 'another width'),
                ('[[0, 0, 0], [3, 0, 0], [0, 4, 0]]', 'still 3, 4 and 5'),
                ('torch.cat([stretched, stretched], 1)', 'other proportions'),
                ('torch.zeros(3, 4)', 'are one'),
                ('[[0, 0, 1], [6, 0, 1]]', 'three points'),
            ],
            ['torch.cat([triangle, triangle], 1)', '10 * torch.tensor([[0, 0, 0], [0, 3, 0], [4, 0, 0]])'],
        ),
        2: ([('3', 'The others are free'), ('6', 'would be seen')], ["'4'", '[4]']),
        3: (
            [('512', 'does not fit'), ('467', 'does not fit'), ('256', 'another image')],
            ["'466'", 'torch.tensor(466)'],
        ),
        4: ([('0', 'the ε in'), ('1e-7', 'the ε in'), ('10.7', 'surer student')], ["'0.128'", '[0.128]']),
    },
    '94_demo': {
        1: (
            [
                ("'labels'", 'more than a student'),
                ("'ofa_t4'", 'has a teacher'),
                ("'exits'", 'has this name'),
            ],
            ["'deep supervision'"],
        ),
        2: ([('100', 'Equal epochs'), ('20', 'twice the steps')], ["'40'", '[40]']),
        3: (
            [('0.42', 'makes it larger'), ('5.6', 'not variances'), ('1', 'makes it larger')],
            ["'2.37'", '[2.37]'],
        ),
        4: ([('0', 'misses'), ('9.5', 'far too many'), ('5', 'far too many')], ["'0.5'", '[0.5]']),
    },
}


@pytest.mark.parametrize('path', BOOKS, ids=lambda p: p.stem)
def test_checks(path):
    "The lesson runs, its solutions pass, typical mistakes get their hint, and no hint tells the answer."
    count, wrong = call(try_checks, path, TYPICAL.get(path.stem), folder=path.parent)
    assert 3 <= count <= 5 and wrong == []


def test_each_has_two_typical_mistakes_and_another_form():
    for lesson, exercises in TYPICAL.items():
        for n, (wrong, right) in exercises.items():
            assert len(wrong) >= 2 and right, f'{lesson}, exercise {n}'


def test_a_guess_is_one_number_and_an_answer_may_stand_in_a_list():
    for guess in ('forty', [1], [2], (2,), [], [1, 2], True):
        assert check_guess(guess, 2, 'low', 'high') == f'Expected a number, got {guess!r}.'
    assert [check_guess(guess, 2, 'low', 'high') for guess in (1, '1', 2, '2 %')] == [
        *['Too low. low'] * 2,
        *['Right.'] * 2,
    ]
    assert _judge([2], near(2, 'low', 'high')) == 'Right.', 'what is computed often comes in a list'


def pictures(cells: list[dict]) -> list[bool]:
    "For each cell whether it is code that draws a figure, and says in words what the figure shows."
    outputs = ['application/vnd.plotly.v1+json' in json.dumps(c.get('outputs', [])) for c in cells]
    words = [re.search(r'^#\| fig-alt: \w.{20}', ''.join(c['source']), re.M) for c in cells]
    return [drawn and bool(said) for drawn, said in zip(outputs, words)]


@pytest.mark.parametrize('path', BOOKS, ids=lambda p: p.stem)
def test_a_picture_stands_in_the_first_three_cells(path):
    assert any(pictures(json.loads(path.read_text(encoding='utf-8'))['cells'][:3]))


def test_a_picture_is_drawn_and_has_words():
    figure = dict(data={'application/vnd.plotly.v1+json': {}})
    alt = ['#| fig-alt: two curves that meet at γ = 1\n', 'fig']
    cells = [dict(source=alt, outputs=[figure]), dict(source=alt), dict(source=['fig'], outputs=[figure])]
    assert pictures(cells) == [True, False, False]


def test_checks_are_folded():
    for path in BOOKS:
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        held = [c for c in cells if 'check = Exercises(' in ''.join(c['source'])]
        assert [c['metadata'].get('jupyter') for c in held] == [{'source_hidden': True}], path.name
        assert ''.join(held[0]['source']).startswith('#| code-fold: true'), path.name
