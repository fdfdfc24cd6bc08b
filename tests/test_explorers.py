"""The explorers: numbers against the records, figures that follow, pages that hold the same, and errors."""

import json
import random
import re
from itertools import product

import pytest
from browsers import one_browser, watch

from ofa_learn.data import digits, split
from ofa_learn.explorers import (
    _ALONE,
    _TAUGHT,
    AccuracyCurves,
    BranchExplorer,
    Choice,
    CKAExplorer,
    _branch_costs,
    _branch_state,
    _branch_table,
    _choices_version,
    _cka_state,
    _curve_state,
    _curve_words,
    load_cka,
    pair_name,
)
from ofa_learn.models import count_params, make_model
from ofa_learn.pages import accuracy_frames, embed_json, plain_figure, static_text
from ofa_learn.recorded import recorded
from ofa_learn.records import interval, named, results, spread_text
from ofa_learn.runs import pair_models
from ofa_learn.sweeps import recording_path
from ofa_learn.tasks import create_task
from ofa_learn.teacher_lab import TeacherLab, _lab_state, _lab_table, _lab_words, _without_copies
from ofa_learn.widgets import SOURCE, LossAnatomy

GAMMAS = (1.0, 1.4, 2.0)
FORMS = ('paper', 'released')
PAIRS = ('cnn-vit', 'vit-cnn')


def run(pair, method, seed, test, epochs=4, **setting):
    "A made-up run that was not looked at in its second epoch."
    seen = {e: test - 10 * (epochs - e) for e in range(1, epochs + 1) if e != 2}
    return dict(
        schema=1,
        kind='run',
        run=f'{pair}_{method}_{seed}_{len(setting)}',
        pair=pair,
        method=method,
        setting=setting,
        seed=seed,
        split_seed=0,
        view_seed=0,
        threads=1,
        device='cpu',
        data=dict(name='made up', fingerprint='none', train=3, valid=2, test=10),
        teacher=None,
        student=dict(name='nobody', params=1),
        epochs=epochs,
        versions=dict(test='1'),
        history=[dict(epoch=e, valid_accuracy=seen.get(e)) for e in range(1, epochs + 1)],
        test_accuracy=test,
        valid_accuracy=test,
        seconds=1.0,
    )


def made_up_gamma():
    "All numbers are made up: accuracy falls with γ, a point apart by seed."
    runs = []
    for (j, pair), seed in product(enumerate(PAIRS), range(3)):
        for i, method in enumerate(('labels', 'deep_supervision', 'kd')):
            runs.append(run(pair, method, seed, 60.0 + 5 * i + seed + 3 * j))
        for (f, form), gamma in product(enumerate(FORMS), GAMMAS):
            test = 80.0 - 2 * gamma + seed + f + 3 * j
            runs.append(run(pair, 'ofa', seed, test, gamma=gamma, form=form))
    return runs


TEMPERATURES = (1.0, 4.0)


def made_up_temperatures():
    "KD and OFA at two temperatures, four points apart; the others have none."
    runs = [r for r in made_up_gamma() if r['method'] not in ('kd', 'ofa')]
    for (j, pair), seed, t in product(enumerate(PAIRS), range(2), TEMPERATURES):
        runs.append(run(pair, 'kd', seed, 70.0 + t + seed + 3 * j, temperature=t))
        for form, gamma in product(FORMS, GAMMAS):
            test = 75.0 - gamma + t + seed + 3 * j
            runs.append(run(pair, 'ofa', seed, test, gamma=gamma, form=form, temperature=t))
    return runs


def made_up_exits():
    choices = product(PAIRS, ([1], [4], [1, 4], None), range(2))
    return [run(p, 'ofa', seed, 70.0 + len(e or '1234') + seed, stages=e) for p, e, seed in choices]


def made_up_cka():
    runs = {}
    for teacher, student in product(('cnn', 'vit'), repeat=2):
        for i, method in enumerate((*_ALONE, *_TAUGHT)):
            runs[teacher, student, method] = dict(
                teacher=teacher,
                student=student,
                method=method,
                test_accuracy=50.0 + i,
                matrix=[[round((r + c + i) / 20, 3) for c in range(3)] for r in range(2)],
                rows=['stem', 'end'],
                columns=['a', 'b', '<c>'],
            )
    return dict(
        data=dict(name='made up', train=3, valid=2, test=10, teach=20),
        epochs=1,
        teaching=2,
        estimator='unbiased',
        teachers=dict(cnn=90.0, vit=80.0),
        runs=runs,
    )


def lab_run(pair, method, seed, test, labels, images, **setting):
    "A made-up run of a student with some labels, whose teacher has seen some images; None: no teacher."
    data = dict(name='made up', fingerprint=f'{labels} labels', train=labels, valid=2, test=10)
    teacher = None if images is None else dict(name='who', params=1, images=images)
    return run(pair, method, seed, test, **setting) | dict(data=data, teacher=teacher)


def made_up_lab():
    "KD at two temperatures and RSD; a teacher of 60 images with 60 labels only, labels alone in each part."
    runs = []
    parts = ((30, 120), (60, 120), (120, 120), (60, 60))
    for (j, pair), (labels, images), seed in product(enumerate(PAIRS), parts, range(3)):
        alone = 50.0 + labels / 4 + seed + 2 * j
        runs.append(lab_run(pair, 'labels', seed, alone, labels, None))
        for t in TEMPERATURES:
            runs.append(lab_run(pair, 'kd', seed, alone + t + images / 60, labels, images, temperature=t))
        runs.append(lab_run(pair, 'rsd', seed, alone + 3 + (-1) ** seed, labels, images))
    return runs


WIDGETS = dict(
    curves=lambda: AccuracyCurves(made_up_gamma(), pair='cnn-vit'),
    temperatures=lambda: AccuracyCurves(made_up_temperatures()),
    exits=lambda: BranchExplorer(made_up_exits()),
    cka=lambda: CKAExplorer(made_up_cka()),
    lab=lambda: TeacherLab(made_up_lab()),
)


# Numbers


def test_curve_numbers_are_the_records():
    records = made_up_gamma()
    for pair, form, g in product(PAIRS, FORMS, GAMMAS):
        s = _curve_state(records, pair, form, g, 3)
        of_pair = [r for r in records if r['pair'] == pair]
        mine = [r for r in of_pair if r['setting'] in ({}, dict(gamma=g, form=form))]
        for a, b in zip(s['rows'], results(mine), strict=True):
            assert a == b | dict(method=f'ofa_{form}' if b['method'] == 'ofa' else b['method'])
        for h in GAMMAS:
            recorded_so = [r for r in of_pair if r['setting'] == dict(gamma=h, form=form)]
            assert s['over'][h] == [r['test_accuracy'] for r in recorded_so]
        assert list(s['over']) == list(GAMMAS)
        # The epoch without a look is left out, not drawn as 0.
        assert all(x == [1, 3, 4] for lines in s['series'].values() for x, _ in lines)
        assert s['at']['kd'] == [r['history'][2]['valid_accuracy'] for r in mine if r['method'] == 'kd']
        # The axes hold the second half of training, and every run's test accuracy, whatever is chosen.
        assert s['frames'] == accuracy_frames(of_pair)
    assert _curve_state(records, 'cnn-vit', 'paper', 1.0, 2)['at']['kd'] == []
    assert 'not recorded' in _curve_words(_curve_state(records, 'cnn-vit', 'paper', 3.0, 4))


def test_kd_and_ofa_are_of_one_temperature():
    "Where both have several; what has none or one stands beside them at each."
    records = made_up_temperatures()
    for t in TEMPERATURES:
        s = _curve_state(records, 'vit-cnn', 'paper', 1.4, 4, t)
        of_t = [r for r in records if r['pair'] == 'vit-cnn' and r['setting'].get('temperature', t) == t]
        mine = [r for r in of_t if r['method'] != 'ofa' or r['setting']['gamma'] == 1.4]
        mine = [r for r in mine if r['setting'].get('form', 'paper') == 'paper']
        assert [r['mean'] for r in s['rows']] == [r['mean'] for r in results(mine)]
        assert s['over'][1.4] == [76.6 + t, 77.6 + t] and s['levels']['kd'] == [73.0 + t, 74.0 + t]
        assert len(s['levels']['labels']) == 3 and f'γ = 1.4, T = {t:g}, ' in _curve_words(s)
    frames = [_curve_state(records, 'vit-cnn', 'paper', 1.4, 4, t)['frames'] for t in TEMPERATURES]
    assert frames[0] == frames[1]  # so that one sees the dots move, not the axis
    one = [r for r in records if r['method'] != 'kd' or r['setting']['temperature'] == 4.0]
    assert _curve_state(one, 'vit-cnn', 'paper', 1.4, 4, 1.0)['levels']['kd'] == [77.0, 78.0]


@pytest.mark.parametrize('pair', ['cnn-vit', 'vit-cnn', 'cnn-mlp', 'mlp-cnn'])
def test_costs_are_those_of_the_task(pair):
    costs = _branch_costs(pair)
    teacher, student = pair_models(pair)
    data = split(digits(), train=50)
    for exits in ([2], [1, 4], [1, 2, 3, 4]):
        task = create_task('ofa', student, make_model(teacher), data=data, stages=exits)
        s = _branch_state([], pair, exits)
        assert count_params(task.student) == costs['student']['params']
        assert count_params(task.trainable_module) == s['params'] + costs['student']['params']
        assert s['flops'] == sum(c['flops'] for c in costs['exits'] if c['stage'] in exits) > 0
        assert s['here'] == []
    assert _branch_state([], pair, [])['params'] == 0


def test_exits_none_means_all_and_gaps_are_said():
    s = _branch_state(made_up_exits(), 'cnn-vit', [1, 2, 3, 4])
    assert s['here'] == [74.0, 75.0] and list(s['over']) == [(1,), (4,), (1, 4), (1, 2, 3, 4)]
    chosen = _branch_table(_branch_state(made_up_exits(), 'cnn-vit', [2, 3]))[-1]
    assert chosen[-1] == 'not recorded' == spread_text([])


def lab_choices():
    return product(PAIRS, ('labels', 'kd', 'rsd'), (60, 120), (30, 60, 120), TEMPERATURES)


def test_lab_numbers_are_the_records():
    records = _without_copies(made_up_lab())
    assert len(records) == len(made_up_lab()) - 2 * 3  # labels alone with 60 labels, once
    for pair, method, images, labels, t in lab_choices():
        s = _lab_state(records, pair, method, images, labels, t)
        of_pair = [r for r in records if r['pair'] == pair]
        with_t = [r for r in of_pair if r['setting'].get('temperature', t) == t]
        mine = [r for r in with_t if (r['teacher'] or dict(images=images))['images'] == images]
        for m, over in s['over'].items():
            for n in (30, 60, 120):
                own = [r for r in mine if (r['method'], r['data']['train']) == (m, n)]
                assert over.get(n, []) == [r['test_accuracy'] for r in own]
            assert list(over) == sorted(over)
        assert s['rows'] == results([r for r in mine if r['data']['train'] == labels], 'labels')
        assert s['seen'] == ([60] if images == 60 else [30, 60, 120]) and s['at'] == [30, 60, 120]
        # One axis for all that can be chosen of a pair, so that one sees the dots move.
        assert s['frames']['test'] == _lab_state(records, pair, 'kd', 120, 30, 4.0)['frames']['test']
        low, high = s['frames']['test']
        assert low < min(r['test_accuracy'] for r in of_pair) - 1 and high <= 103 + 10


def test_what_the_lab_lacks_is_said():
    records = _without_copies(made_up_lab())
    s = _lab_state(records, 'cnn-vit', 'kd', 60, 120, 4.0)
    said = 'Not recorded: KD, T = 4 with 120 labels and a teacher that has seen 60 images.'
    assert said in _lab_words(s) and 'recorded with 60 labels' in _lab_words(s)
    table = {row[0]: row[1] for row in _lab_table(s)}
    assert table['KD, T = 4'] == table['RSD'] == 'not recorded' and table['labels alone'] == '81.0 ± 1.0 (3)'
    s = _lab_state(records, 'cnn-vit', 'labels', 60, 120, 4.0)
    assert _lab_words(s) == 'CNN teaches ViT, 120 labels, labels alone: 81.0 ± 1.0 % (3) on test.'
    s = _lab_state(records, 'cnn-vit', 'rsd', 120, 60, 4.0)
    assert 'a teacher that has seen 120 images, RSD: 69.3 ± 1.5 % (3) on test; +3.3 points' in _lab_words(s)


def test_teacher_lab_draws_records_and_nothing_between_them():
    w = TeacherLab(made_up_lab())
    assert w.values() == dict(pair='vit-cnn', images=120, method='kd', temperature=4.0, labels=60)
    for pair, method, images, labels, t in lab_choices():
        for name, value in zip(
            ('pair', 'method', 'images', 'labels', 'temperature'), (pair, method, images, labels, t)
        ):
            getattr(w, name).value = value
        over = w.numbers['over']
        *methods, ring = w.figures[0].data
        for own, dots, means in zip(over.values(), methods[::2], methods[1::2], strict=True):
            assert list(dots.customdata) == [n for n, v in own.items() for _ in v]
            assert list(dots.y) == [a for v in own.values() for a in v]
            assert list(means.y) == [pytest.approx(sum(v) / len(v)) for v in own.values()]
            reach = [interval(v)[1] - sum(v) / len(v) for v in own.values()]
            assert list(means.error_y.array) == pytest.approx(reach)
            assert [round(x) for x in means.x] == [w.labels.values.index(n) for n in own]
        here = over[method].get(labels)
        assert list(ring.y) == ([pytest.approx(sum(here) / 3)] if here else [])
        layout = w.figures[0].layout
        assert list(layout.yaxis.range) == w.numbers['frames']['test']
        assert layout.xaxis.ticktext[w.labels.values.index(labels)] == str(labels)
        assert (layout.shapes[0].x0 + layout.shapes[0].x1) / 2 == w.labels.values.index(labels)
        notes = [a.text for a in layout.annotations]
        only = 'A teacher of 60 images is recorded with 60 labels only.'
        assert [only in note for note in notes] == ([True] if images == 60 else [])
        drawn = [t.name for t in w.figures[1].data if t.name]
        want = ['labels alone', dict(kd='KD', rsd='RSD').get(method)] if here else ['labels alone']
        assert drawn == [name for name in want if name]
        missing = [a.text for a in w.figures[1].layout.annotations]
        assert len(missing) == (0 if here else 1) and all('Not recorded' in text for text in missing)
        assert f'{labels} labels' in w.words.value
    one = [r for r in made_up_lab() if r['setting'].get('temperature') != 4.0]
    assert 'temperature' not in TeacherLab(one).controls and 'T = ' not in TeacherLab(one).text()


def test_cka_numbers_are_the_matrices():
    found = made_up_cka()
    s = _cka_state(found, 'cnn', 'vit', 'ofa', 'untrained')
    assert s['before'] is found['runs']['cnn', 'vit', 'untrained']
    assert s['after'] is found['runs']['cnn', 'vit', 'ofa']
    assert [r['method'] for r in s['rows']] == [*_ALONE, *_TAUGHT]
    assert s['rows'][0]['mean'] == pytest.approx(sum(range(2)) / 40 + 1 / 20)
    assert s['rows'][0]['last'] == 0.15


# Controls


def plotlys(value):
    "A value as plotly has it: numbers alike, whatever stands for them."
    return json.loads(json.dumps(value))


@pytest.mark.parametrize('widget', [AccuracyCurves, BranchExplorer, CKAExplorer, TeacherLab])
def test_a_sketch_is_the_figure(widget):
    "What is built without plotly is what plotly makes of it, to the last entry."
    w = widget()
    for drawn in w.draw(w.numbers):
        assert plotlys(drawn.as_dict()) == json.loads(drawn.figure().to_json())


def test_a_choice_has_nothing_in_between():
    c = Choice('stops', 'γ', {1.0: '1', 1.4: '1.4'}, 1)
    assert isinstance(c.value, float)
    for wrong in (1.2, 0, None, 'x', [1.0]):
        with pytest.raises(ValueError, match='γ: expected one of 1.0, 1.4, got'):
            c.value = wrong
        assert c.value == 1.0
    boxes = Choice('checks', 'exits', {1: 'a', 2: 'b', 3: 'c'}, (3, 1, 3))
    assert boxes.value == [1, 3] and boxes.key([]) == ''
    assert len(boxes.options()) == 8 and len({boxes.key(o) for o in boxes.options()}) == 8
    with pytest.raises(ValueError, match='exits: expected a list, got 1'):
        boxes.value = 1
    with pytest.raises(ValueError, match='exits: expected some of 1, 2, 3, got 4'):
        boxes.value = [4]


def test_figures_follow_the_controls():
    w = AccuracyCurves(made_up_gamma())
    for pair, form, g in product(PAIRS, FORMS, GAMMAS):
        w.pair.value, w.form.value, w.gamma.value = pair, form, g
        *_, ofa, ring = w.figures[1].data
        mean = sum(w.numbers['over'][g]) / 3
        assert list(ring.x) == [g] and list(ring.y) == [pytest.approx(mean)]
        assert list(ofa.x) == list(GAMMAS) and list(ofa.error_y.array) == [1.0] * 3
        assert w.fig.data[-2].y[-1] == pytest.approx(mean)
        assert pair_name(pair) in w.figures[1].layout.title.text
        assert f'γ = {g:g}' in w.fig.layout.title.text
        assert f'γ = {g:g}' in w.words.value and 'ofa-learn' not in w.hint.value
        assert list(w.fig.layout.yaxis.range) == w.numbers['frames']['valid']
        assert list(w.figures[1].layout.yaxis.range) == w.numbers['frames']['test']
    assert 'temperature' not in w.controls and 'T =' not in w.fig.layout.title.text
    assert w.epoch.values == [1, 3, 4]  # nobody looked in the second
    w.epoch.value = 1
    assert list(w.fig.data[-1].x) == [1, 1] and 'validation, epoch 1' in w.words.value
    t = AccuracyCurves(made_up_temperatures())
    assert (t.pair.value, t.form.value, t.temperature.value) == ('vit-cnn', 'paper', 1.0)
    before = t.figures[1].data[-1].y[0]
    t.temperature.value = 4.0
    assert t.figures[1].data[-1].y[0] == before + 3
    assert t.fig.layout.title.text == 'While training, γ = 1.4, T = 4'
    assert t.figures[1].layout.title.text == 'Final test accuracy, ViT teaches CNN, T = 4'
    assert AccuracyCurves(made_up_temperatures(), temperature=4.0).temperature.value == 4.0
    b = BranchExplorer(made_up_exits())
    b.exits.value = [4]
    assert list(b.fig.data[0].marker.opacity) == [0.2, 0.2, 0.2, 1.0]
    assert list(b.figures[1].data[-1].y) == ['4'] and 'Exit 4,' in b.words.value
    b.exits.value = [2]
    assert list(b.figures[1].data[-1].y) == [] and 'not recorded' in b.words.value
    b.exits.value = []
    assert 'tick at least one' in b.words.value
    c = CKAExplorer(made_up_cka())
    c.method.value = 'kd'
    (after,) = c.figures[1].data
    assert [list(map(float, z)) for z in after.z] == c.found['runs']['cnn', 'vit', 'kd']['matrix']
    assert after.x[-1] == 'ViT &lt;c&gt;'
    assert '<c>' not in c.words.value and 'After: KD' in c.figures[1].layout.title.text


@pytest.mark.parametrize(
    'call, message',
    [
        (
            lambda: AccuracyCurves(made_up_gamma(), pair='cnn-gnn'),
            'pair: expected one of cnn-vit, vit-cnn, got .cnn-gnn',
        ),
        (lambda: AccuracyCurves([]), 'ofa-learn sweep'),
        (lambda: AccuracyCurves(made_up_gamma(), form='papr'), 'expected one of paper, released, got .papr'),
        (
            lambda: AccuracyCurves(made_up_temperatures(), temperature=2.0),
            'temperature T: expected one of 1.0, 4.0, got 2.0',
        ),
        (
            lambda: AccuracyCurves(made_up_gamma(), temperature=4.0),
            'temperature: got 4.0, but these records have no method at several',
        ),
        (
            lambda: AccuracyCurves([r for r in made_up_gamma() if r['method'] == 'kd']),
            'no run of OFA among 6; `ofa-learn sweep --plan recorded:lab_gamma',
        ),
        (lambda: AccuracyCurves('nothing'), "no recording 'nothing'.*ofa-learn sweep"),
        (lambda: TeacherLab(['lab', 'nothing']), "no recording 'nothing'.*ofa-learn sweep"),
        (lambda: TeacherLab([]), 'records: expected at least one run'),
        (
            lambda: TeacherLab([r for r in made_up_lab() if r['teacher'] is None]),
            'no run with a teacher among 18',
        ),
        (lambda: TeacherLab(made_up_lab(), labels=61), 'labels: expected one of 30, 60, 120, got 61'),
        (lambda: TeacherLab(made_up_lab(), images=61), 'teacher has seen: expected one of 60, 120, got 61'),
        (lambda: TeacherLab(made_up_lab(), pair='cnn-mlp'), 'pair: expected one of cnn-vit, vit-cnn'),
        (lambda: TeacherLab(made_up_lab(), method='ofa'), 'method: expected one of labels, kd, rsd'),
        (lambda: TeacherLab(made_up_lab(), temperature=2.0), 'temperature T: expected one of 1.0, 4.0'),
        (
            lambda: BranchExplorer([r for r in made_up_gamma() if r['method'] == 'kd']),
            'plan recorded:lab_exits',
        ),
        (lambda: BranchExplorer(made_up_exits(), exits=[0]), 'got 0'),
        (lambda: CKAExplorer(made_up_cka(), teacher='mlp'), 'teacher: expected one of cnn, vit'),
        (lambda: CKAExplorer(made_up_cka(), method='labels'), 'student after: expected one of'),
        (lambda: load_cka('nowhere.json'), 'no file nowhere.json.*record_cka'),
        (lambda: load_cka(recording_path('lab_gamma')), 'no CKA recording'),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_shipped_recordings_open():
    w = AccuracyCurves()
    ofa = [r for r in recorded('lab_gamma') if r['method'] == 'ofa']
    assert set(w.gamma.values) == {r['setting']['gamma'] for r in ofa}
    assert w.temperature.values == [1.0, 4.0] and w.epoch.values == list(range(10, 151, 10))
    assert w.values() == dict(pair='vit-cnn', form='paper', temperature=1.0, gamma=1.4, epoch=150)
    assert 'ofa-learn sweep --plan recorded:lab_gamma --out lab_gamma' in w.hint.value
    assert 'the teacher has seen 1097' in w.hint.value
    assert len(_choices_version(w)) < 1_000_000
    old = AccuracyCurves('methods')  # one temperature, every epoch
    assert 'temperature' not in old.controls and old.epoch.values == list(range(1, 41))
    assert AccuracyCurves('lab').temperature.values == [1.0, 4.0]
    assert 'recorded:lab_exits' in BranchExplorer().hint.value and 'record_cka' in CKAExplorer().hint.value
    lab = TeacherLab()
    assert lab.labels.values == [30, 60, 120, 300, 1097] and lab.images.values[-1] == 1097
    assert lab.pair.values == ['cnn-vit', 'vit-cnn'] and lab.temperature.values == [1.0, 4.0]
    assert set(lab.method.values) == {'labels', 'kd', 'ofa', 'rsd', 'fitnet'}
    assert 'lab_labels_30 lab_labels_60 lab_labels_120 lab_labels_300 lab_labels_1097' in lab.hint.value
    assert len(_choices_version(lab)) < 1_000_000
    found = load_cka()
    assert len(found['runs']) == 54
    for r in found['runs'].values():
        assert len(r['matrix']) == len(r['rows']) and len(r['matrix'][0]) == len(r['columns'])
        assert all(-0.2 <= v <= 1 for line in r['matrix'] for v in line)
    for m in _ALONE:  # one student, whichever teacher it stands beside
        for s in ('cnn', 'vit', 'mlp'):
            assert len({found['runs'][t, s, m]['test_accuracy'] for t in ('cnn', 'vit', 'mlp')}) == 1


def test_the_caption_says_what_the_recording_shows():
    records = recorded('lab_gamma')

    def at(pair, form, t):
        return _curve_state(records, pair, form, 1.4, 150, t)

    def mean(values):
        return sum(values) / len(values)

    def means(s):
        return [mean(v) for v in s['over'].values()]

    caption = AccuracyCurves().caption
    assert 'KD rises by more than six points, OFA by more than four' in caption
    low, high = (at('vit-cnn', 'paper', t) for t in TEMPERATURES)
    assert 6 < mean(high['levels']['kd']) - mean(low['levels']['kd']) < 7
    for form in FORMS:
        low, high = (mean(means(at('vit-cnn', form, t))) for t in TEMPERATURES)
        assert 4 < high - low < 5
    assert 'the ring goes up and down by a point or two' in caption
    for form, t in product(FORMS, TEMPERATURES):
        s = at('vit-cnn', form, t)
        assert max(abs(a - b) for a, b in zip(means(s), means(s)[1:])) < 2
    apart = [max(v) - min(v) for v in at('vit-cnn', 'paper', 1.0)['over'].values()]
    assert max(apart) > 3 and 'runs of one γ lie further apart than that' in caption
    falling = {pair: means(at(pair, 'released', 4.0)) for pair in {r['pair'] for r in records}}
    lost = [first - last for first, *_, last in falling.values()]
    assert 'γ = 4 ends below γ = 1, by a quarter of a point to four points' in caption
    assert 0.2 < min(lost) < 0.3 and 3.9 < max(lost) < 4
    steady = [pair for pair, v in falling.items() if all(b < a + 1e-6 for a, b in zip(v, v[1:]))]
    assert steady == ['vit-mlp'] and 'From ViT to MLP no stop rises, elsewhere some do' in caption
    best = {pair: max(v[1:]) - v[0] for pair, v in falling.items()}
    assert [pair for pair, gain in best.items() if gain > 0.1] == ['cnn-vit'], 'so says pages/results'
    assert 'about the line of deep supervision, which meets no teacher' in caption
    for pair, form, t in product(('cnn-vit', 'cnn-mlp'), FORMS, TEMPERATURES):
        s = at(pair, form, t)
        assert abs(mean(means(s)) - mean(s['levels']['deep_supervision'])) < 1.2
    assert 'deep supervision' not in AccuracyCurves(records).caption  # its own records, its own findings


def test_the_caption_of_the_lab_says_what_the_recordings_show():
    w = TeacherLab()

    def row(pair, method, images, labels):
        rows = _lab_state(w.records, pair, method, images, labels, 4.0)['rows']
        return next(r for r in rows if r['method'] == method)

    def gain(*choice):
        return row(*choice)['difference']

    assert 'it is worth 7 points with 30 labels, 3 with 120, and about one with 300' in w.caption
    assert [round(gain('vit-cnn', 'kd', 1097, n)) for n in (30, 120, 300)] == [7, 3, 1]
    assert 'of 6 points 2 are left, within noise' in w.caption
    assert [round(gain('vit-cnn', 'kd', n, 60)) for n in (1097, 60)] == [6, 2]
    assert row('vit-cnn', 'kd', 60, 60)['verdict'] == 'within noise'
    assert '14 points with 60 labels, and still 12' in w.caption
    assert [round(gain('cnn-vit', 'rsd', n, 60)) for n in (1097, 60)] == [14, 12]
    assert 'it stays behind labels alone, by 5 points with 300 labels and by 15 with all 1097' in w.caption
    assert [round(gain('cnn-vit', 'ofa', 1097, n)) for n in (300, 1097)] == [-5, -15]
    assert all(gain('cnn-vit', 'ofa', 1097, n) < 0 for n in w.labels.values)
    assert 'a ViT does not read better with 1097 labels than with 300' in w.caption
    alone = [row('cnn-vit', 'labels', 1097, n)['mean'] for n in (300, 1097)]
    assert alone[0] >= alone[1]
    assert 'RSD' not in TeacherLab(w.records).caption  # its own records, its own findings


@pytest.mark.parametrize('method', ['kd', 'ofa'])
def test_five_seeds_tell_that_temperature_matters(method):
    "As walkthrough 10 says, where a ViT teaches a CNN."
    records = [r for r in recorded('lab') if r['pair'] == 'vit-cnn']
    rows = {r['method']: r for r in results(named(records), f'{method} temperature=1.0')}
    row = rows[f'{method} temperature=4.0']
    assert (row['pairs'], row['verdict']) == (5, 'better')


# Pages


def state_of(text):
    "What a page version of choices holds."
    embedded = r'data-page="choices"><script type="application/json">(.*?)</script>'
    return json.loads(re.search(embedded, text, re.S)[1])


@pytest.mark.parametrize('name', WIDGETS)
def test_every_choice_is_on_the_page(name):
    w = WIDGETS[name]()
    state = state_of(_choices_version(w))
    pool = state['pool']
    assert len({embed_json(v) for v in pool}) == len(pool)
    moving = [c for k, c in w.controls.items() if k not in w.fixed]
    choices = list(product(*(c.options() for c in moving)))
    assert len(state['states']) == len(choices)
    for values in choices[::3]:
        for c, v in zip(moving, values):
            c.value = v
        s = state['states'][','.join(c.key(v) for c, v in zip(moving, values))]
        for shown, (traces, layout) in zip(w.figures, s['figures'], strict=True):
            drawn = json.loads(shown.figure.to_json())
            assert [pool[t] for t in traces] == drawn['data']
            assert pool[layout]['title'] == drawn['layout']['title']
        assert pool[s['words']] == w.words_of(w.numbers)
        assert pool[s['table']] in w.words.value


@pytest.fixture(scope='module')
def browser():
    yield from one_browser()


@pytest.fixture
def opened(browser, tmp_path):
    "A function of a widget → its page in the browser; no request, no error, no warning until the end."
    pages = {}

    def show(w):
        page = browser.new_page(viewport=dict(width=900, height=1200))
        pages[page] = watch(page)
        page.set_default_timeout(90_000)
        page.goto(w.to_html(tmp_path / 'page.html').as_uri())
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot').length === 2")
        return page

    yield show
    for page, trouble in pages.items():
        for width in (320, 900):
            page.set_viewport_size(dict(width=width, height=900))
            page.wait_for_timeout(200)
            assert page.evaluate('document.documentElement.scrollWidth') <= width
        page.close()
        assert trouble == []


STAND_IN = '''async ([source, state]) => {
    const file = new Blob([source], {type: 'text/javascript'});
    const {default: control} = await import(URL.createObjectURL(file));
    const heard = [];
    window.model = {
        get: (name) => state[name],
        set: (name, value) => { state[name] = value; },
        save_changes: () => heard.forEach((changed) => changed()),
        on: (_, changed) => heard.push(changed),
        off: () => {},
    };
    document.body.innerHTML = '';
    control.render({model: window.model, el: document.body});
}'''


def test_controls_of_the_widgets(browser):
    "Each kind of `Choice` with a stand-in for the kernel: named, moved by keys, and told of changes."
    page = browser.new_page()
    trouble = watch(page)

    def value():
        return page.evaluate('window.model.get("value")')

    def show(c):
        known = ('kind', 'value', 'values', 'names', 'description')
        page.evaluate(STAND_IN, [SOURCE, {name: getattr(c, name) for name in known}])

    show(Choice('stops', 'γ', {1.0: '1', 1.4: '1.4', 4.0: '4'}, 1.4))
    slider = page.get_by_label('γ')
    assert slider.get_attribute('type') == 'range' and page.inner_text('output') == '1.4'
    slider.press('ArrowRight')
    assert value() == 4 and page.inner_text('output') == '4' and slider.get_attribute('aria-valuetext') == '4'
    show(Choice('select', 'pair', {'cnn-vit': 'CNN teaches ViT', 'vit-cnn': '<b>'}, 'vit-cnn'))
    assert page.get_by_label('pair').input_value() == '1' and page.locator('b').count() == 0
    page.get_by_label('pair').press('ArrowUp')
    assert value() == 'cnn-vit'
    show(Choice('checks', 'exits', {1: 'stage 1', 2: 'stage 2', 3: 'stage 3'}, [3]))
    page.get_by_label('stage 1').press('Space')
    assert value() == [1, 3] and page.locator('fieldset legend').inner_text() == 'exits'
    page.evaluate('window.model.set("value", [2]); window.model.save_changes()')
    assert [page.get_by_label(f'stage {i}').is_checked() for i in (1, 2, 3)] == [False, True, False]
    assert page.locator('[data-lm-suppress-shortcuts=true]').count() == 3 and trouble == []
    page.close()


def given_table(w):
    "What the views of a widget are given when the page has asked until it was told all."
    for _ in range(1000):
        w.asked(w.fig, dict(wants='table'), [])
    assert all(f.moves_itself() for f in w.figures)
    return [f.given for f in w.figures]


def test_a_table_comes_in_pieces_and_then_the_kernel_only_follows(monkeypatch):
    "Until it is there the kernel draws; afterwards a move sends nothing, and Python's figure is the new one."
    ticks, said, sent = iter(range(10_000)), [], []
    monkeypatch.setattr('time.monotonic', lambda: next(ticks))
    w = WIDGETS['curves']()
    monkeypatch.setattr(w.fig, 'send', said.append)
    for figure in w.figures:
        figure.observe(lambda change: sent.append(change['name']), names=['traces', 'look'])
    w.gamma.value = 2.0
    assert {'traces', 'look'} <= set(sent) and not w.fig.given
    assert len(given_table(w)[0]['states']) == 2 * 2 * 3 == len(said)
    sent.clear()
    w.gamma.value, w.pair.value, w.epoch.value = 1.0, 'vit-cnn', 3
    assert sent == [] and w.fig.data[-1].x == (3, 3)
    assert w.figures[1].data[-1].x == (1.0,) and w.fig.turn == 2
    w.asked(w.fig, {}, [])
    assert len(said) == 12


def test_what_an_image_gives_holds_for_its_digit():
    w, turns = LossAnatomy(), []
    w.fig.observe(lambda change: turns.append(change['new']), 'turn')
    w.gamma.value, w.temperature.value, w.z[0].value = 3.0, 2.0, -1.5
    assert turns == [] and w.fig.layout.title.text.endswith('γ = 3')
    w.digit.value = 2  # its classes have other names, and its student other logits
    assert turns == [2] and not w.fig.moves_itself()
    assert given_table(w)[0]['among'] == dict(digit=[2]) and w.fig.moves_itself()
    w.z[0].value = 2.0
    w.digit.value = 0
    assert turns == [2, 3] and w.z[0].value == -1.5
    given_table(w)
    assert w.fig.given['student'] == w.student[0] and w.student[0][w.card['label']] == -1.5


def no_fit(part):
    "A part of a layout without what only says that a range is no guess of plotly's."
    return {k: v for k, v in part.items() if k != 'autorange'} if isinstance(part, dict) else part


VIEWS = '''([givens, figures, name, states]) => states.map(
    (values) => givens.map((given, i) => views[name](figures[i], given, values))
)'''


def test_what_the_page_draws_by_itself_is_what_the_kernel_draws(browser):
    "Every recorded choice at some epochs: the same arrays and words."
    page = browser.new_page()
    page.add_script_tag(content=static_text('shared.js', 'figure.js', 'views.js'))
    for w in (make() for make in WIDGETS.values()):
        first = [dict(data=f.traces, layout=f.look) for f in w.figures]
        hands = w.fig.hands
        options = {k: c.options() for k, c in hands.items()}
        states = [dict(zip(hands, values)) for values in list(product(*options.values()))[::3]]
        shown = page.evaluate(VIEWS, [given_table(w), first, w.fig.view, states])
        for values, figures in zip(states, shown, strict=True):
            for name, value in values.items():
                hands[name].value = value
            drawn = [plain_figure(f) for f in w.draw(w.numbers)]
            for one, other in zip(figures, drawn, strict=True):
                assert one['data'] == other['data']
                for part in ('title', 'xaxis', 'yaxis', 'annotations', 'shapes'):
                    assert no_fit(one['layout'].get(part)) == no_fit(other['layout'].get(part))
    page.close()


def stirred(w, draw):
    "Random places of the sliders of a `LossAnatomy`: often their ends, often whole."
    sliders = {k: c for k, c in w.fig.hands.items() if c is not w.digit}
    places = {k: draw.choice([c.min, c.max, draw.uniform(c.min, c.max)]) for k, c in sliders.items()}
    return {k: round(v, draw.choice([0, 1, 4])) for k, v in places.items()} | dict(digit=w.digit.value)


def test_one_images_loss_on_the_page_is_the_kernels(browser):
    "Any γ, T and logits, of several teachers and students: what views.js computes is what Python does."
    draw = random.Random(1)
    page = browser.new_page()
    page.add_script_tag(content=static_text('shared.js', 'figure.js', 'views.js'))
    for spread in (0.1, 3, 30, 300):
        logits = [[draw.gauss(0, spread) for _ in range(5)] for _ in range(2)]
        image = [[0, 255], [255, 0]]
        w = LossAnatomy([dict(image=image, label=1, logits=logits[0])], list('abcde'), 1.0, 1.0, logits[1:])
        first = [dict(data=f.traces, layout=f.look) for f in w.figures]
        states = [stirred(w, draw) for _ in range(40)]
        for i, (view, figure) in enumerate(zip(('anatomy', 'gradient'), first)):
            shown = page.evaluate(VIEWS, [[w.figures[i].given], [figure], view, states])
            for values, (one,) in zip(states, shown, strict=True):
                for name, value in values.items():
                    w.fig.hands[name].value = value
                other = plain_figure(w.draw(w.numbers)[i])
                assert w.figures[i].moves_itself() and one['layout']['title'] == other['layout']['title']
                assert one['layout']['yaxis']['range'] == pytest.approx(other['layout']['yaxis']['range'])
                for a, b in zip(one['data'], other['data'], strict=True):
                    assert a.pop('y') == pytest.approx(b.pop('y'), rel=1e-9, abs=1e-11)
                    assert a == b
    page.close()


DRAWN = '''(i) => {
    const plot = document.querySelectorAll('.js-plotly-plot')[i];
    const line = (u) => ArrayBuffer.isView(u) || Array.isArray(u) ? Array.from(u) : u;
    const plain = (v) => v === undefined ? null : Array.from(v, line);
    const traces = plot.data.map((t) => ({x: plain(t.x), y: plain(t.y), z: plain(t.z)}));
    return {title: plot.layout.title.text, traces};
}'''


def listed(values):
    "Values of a trace, or lines of them, as lists."
    if values is None:
        return None
    return [list(map(float, v)) if hasattr(v, '__len__') and not isinstance(v, str) else v for v in values]


def same(page, w):
    "The page shows what the widget shows: every trace's numbers, the titles, the words and the table."
    for i, shown in enumerate(w.figures):
        drawn = page.evaluate(DRAWN, i)
        assert drawn['title'] == shown.layout.title.text
        for trace, t in zip(drawn['traces'], shown.data, strict=True):
            assert trace == dict(x=listed(t.x), y=listed(t.y), z=listed(t.z if 'z' in t else None))
    assert page.inner_text('.numbers') == w.words_of(w.numbers)
    cells = [cell for row in w.table(w.numbers)[1:] for cell in row]
    assert page.locator('.cells td, .cells tbody th').all_inner_texts() == cells


def test_curves_by_keyboard(opened):
    w = WIDGETS['curves']()
    page = opened(w)
    assert page.get_by_label('γ', exact=True).get_attribute('type') == 'range'
    assert page.get_by_label('pair').count() == 1
    same(page, w)
    page.get_by_label('γ', exact=True).focus()
    page.keyboard.press('ArrowRight')
    w.gamma.value = 2.0
    same(page, w)
    assert page.get_by_label('γ', exact=True).get_attribute('aria-valuetext') == '2'
    page.keyboard.press('Home')
    w.gamma.value = 1.0
    same(page, w)
    page.keyboard.press('Shift+Tab')
    page.keyboard.press('ArrowDown')
    w.form.value = 'released'
    same(page, w)
    page.keyboard.press('Shift+Tab')
    page.keyboard.press('ArrowDown')
    w.pair.value = 'vit-cnn'
    same(page, w)


def test_temperature_by_keyboard(opened):
    w = WIDGETS['temperatures']()
    page = opened(w)
    same(page, w)
    page.get_by_label('temperature T').focus()
    page.keyboard.press('ArrowDown')
    w.temperature.value = 4.0
    same(page, w)


def test_exits_by_keyboard(opened):
    w = WIDGETS['exits']()
    page = opened(w)
    same(page, w)
    page.get_by_label('stage 2').focus()
    page.keyboard.press('Space')
    page.keyboard.press('Tab')
    page.keyboard.press('Space')
    w.exits.value = [1, 4]
    same(page, w)
    for _ in range(2):
        page.keyboard.press('Shift+Tab')
    page.keyboard.press('Space')
    w.exits.value = [4]
    same(page, w)
    page.get_by_label('stage 4').press('Space')
    w.exits.value = []
    same(page, w)


def test_cka_by_keyboard(opened):
    w = WIDGETS['cka']()
    page = opened(w)
    same(page, w)
    page.get_by_label('student after').focus()
    page.keyboard.press('ArrowUp')
    w.method.value = 'kd'
    same(page, w)
    page.get_by_label('teacher').focus()
    page.keyboard.press('ArrowDown')
    w.teacher.value = 'vit'
    same(page, w)


def test_teacher_lab_by_keyboard(opened):
    w = WIDGETS['lab']()
    page = opened(w)
    same(page, w)
    page.get_by_label('labels', exact=True).focus()
    page.keyboard.press('ArrowRight')
    w.labels.value = 120
    same(page, w)
    page.keyboard.press('Shift+Tab')
    page.keyboard.press('ArrowUp')
    w.temperature.value = 1.0
    same(page, w)
    page.get_by_label('teacher has seen').focus()
    page.keyboard.press('ArrowUp')
    w.images.value = 60
    same(page, w)
    assert 'Not recorded' in page.inner_text('.numbers')
    assert page.locator('.annotation-text').filter(has_text='Not recorded').count() == 1
    page.get_by_label('method').focus()
    page.keyboard.press('ArrowDown')
    page.keyboard.press('Home')
    w.method.value = 'labels'
    same(page, w)
