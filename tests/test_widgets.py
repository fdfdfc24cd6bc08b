"""Widgets without a browser: numbers against the losses, figures that follow controls, pages, and errors."""

import importlib
import json
import math
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import plotly.graph_objects as go
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_learn.data import digits, split
from ofa_learn.exercises import check_guess
from ofa_learn.explorers import AccuracyCurves, BranchExplorer, CKAExplorer
from ofa_learn.figures import class_bars, target_weighting
from ofa_learn.losses import class_weights, dark_mass, kd_loss, ofa_loss
from ofa_learn.models import make_model
from ofa_learn.more_logits import wttm_loss
from ofa_learn.pages import GAMMAS, check_cards, gamma_numbers, static_text, steps_version
from ofa_learn.plain import formulas
from ofa_learn.widgets import (
    GammaExplorer,
    LossAnatomy,
    Slider,
    _anatomy_figure,
    _Engine,
    _gamma_rows,
    _gradient_figure,
    _spread,
    _stacks,
    _stepped,
    _three_classes,
    anatomy_state,
    follow,
    gamma_state,
    live,
    probs_of,
    teacher_cards,
)

number = st.floats(-20, 20)


def close(value, eps=1e-9):
    return pytest.approx(value, abs=eps, rel=eps)


def card(seed=0, k=10, label=3, scale=3.0):
    g = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (8, 8), generator=g)
    logits = torch.randn(k, generator=g, dtype=torch.float64) * scale
    return dict(image=image.tolist(), label=label, logits=logits.tolist())


@pytest.fixture
def cards():
    return [card(i, label=i) for i in range(8)]


def as_batch(c, z):
    "A student's logits, a card's, and its label, as batches of one."
    z_s, z_t = (torch.tensor([logits], dtype=torch.float64) for logits in (z, c['logits']))
    return z_s, z_t, torch.tensor([c['label']])


# State → numbers


@settings(max_examples=60, deadline=None)
@given(st.lists(number, min_size=3, max_size=7), st.floats(1, 4), st.floats(1, 8), st.data())
def test_gamma_numbers_are_the_losses(logits, gamma, T, draw):
    c = dict(label=draw.draw(st.integers(0, len(logits) - 1)), logits=logits)
    s = gamma_state(c, gamma, T)
    n = gamma_numbers(probs_of(c, T), c['label'], gamma)
    z, z_t, y = as_batch(c, torch.linspace(-1, 1, len(logits), dtype=torch.float64).tolist())
    p = (z_t / T).softmax(-1)
    for form in ('paper', 'released'):
        assert s[form] == close(n[form])
        assert s['target'][form] == close(n[f'target_{form}'])
        assert s['dark'][form] == close(n[f'dark_{form}'])
        assert s[form] == close(class_weights(p, y, gamma, form)[0].tolist())
        assert s['dark'][form] == close(dark_mass(p, y, gamma, form).item())
    assert s['share']['kd'] == 1 and s['share']['paper'] == close(1.0)
    assert 0 <= s['share']['released'] <= 1 + 1e-9
    loss = -(torch.tensor(s['paper'], dtype=torch.float64) * F.log_softmax(z / T, -1)[0]).sum()
    assert loss.item() == close(ofa_loss(z, z_t, y, gamma=gamma, temperature=T).item())


def test_kd_row_is_distillation_with_labels():
    "CE + T² KL has the gradient of the KD row's weighted cross-entropy, at T = 1."
    c = card()
    z, z_t, y = as_batch(c, torch.linspace(-2, 2, 10).tolist())
    z.requires_grad_()
    (want,) = torch.autograd.grad(F.cross_entropy(z, y) + kd_loss(z, z_t), z)
    weights = torch.tensor(gamma_state(c, 3.0)['kd'], dtype=torch.float64)
    (got,) = torch.autograd.grad(-(weights * F.log_softmax(z, -1)).sum(), z)
    assert torch.allclose(got, want, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(number, number), min_size=3, max_size=6),
    st.sampled_from([*GAMMAS, 1.0001, 2.5000001]),
    st.floats(1, 8),
    st.data(),
)
def test_anatomy_adds_up_and_its_gradient_is_autograds(pairs, gamma, T, draw):
    z_s, logits = map(list, zip(*pairs))
    c = dict(label=draw.draw(st.integers(0, len(pairs) - 1)), logits=logits)
    s = anatomy_state(z_s, c, gamma, T)
    z, z_t, y = as_batch(c, z_s)
    z.requires_grad_()
    loss = {g: ofa_loss(z, z_t, y, gamma=g, temperature=T) for g in (1.0, gamma, 2.0)}
    for name, g in (('kd', 1.0), ('ofa', gamma), ('ofa2', 2.0)):
        assert s[name] == close(loss[g].item())
    for (name, losses), total in zip(_stacks(s).items(), (s['kd'], s['ofa'], s['ofa'], s['ofa2'])):
        assert sum(losses.values()) == close(total), name
    for form, g in (('kd', 1.0), ('paper', gamma)):
        (gradient,) = torch.autograd.grad(loss[g], z, retain_graph=True)
        assert s['gradient'][form] == close(gradient[0].tolist())
        assert sum(s['gradient'][form]) == close(0.0, 1e-8)
    if gamma == int(gamma):
        assert s['rest'] == close(0.0) and s['weights'][int(gamma) :] == [0.0] * (4 - int(gamma))


def test_series_by_hand():
    half = dict(label=0, logits=[math.log(p) for p in (0.5, 0.3, 0.2)])
    s = anatomy_state([0.0] * 3, half, 2.0)
    ce = math.log(3)
    assert s['weights'] == close([1.0, 0.25, 0.0, 0.0]) and s['target'] == close(2.25)
    assert s['dark'] == close(0.5 * ce)
    assert s['ofa'] == s['ofa2'] == close(2.75 * ce)
    assert [f[0] for f in formulas(s)] == ['Eq. 5', 'Eq. 6', 'Eq. 7', 'Eq. 8, γ = 2']
    assert formulas(s)[2][2] == '2.197 + (1.000 + 0.250 − 0.500) · 1.099 = 3.021'
    real = anatomy_state([0.0] * 3, half, 1.4)
    assert real['weights'] == close([0.7, 0.07, -0.007, 0.0014])
    assert '− 0.007' in formulas(real)[2][2] and real['weights'][2] < 0


# Digits


def test_cards_of_a_teacher():
    torch.manual_seed(0)
    data, model = split(digits(), train=300), make_model('micro_resnet')
    got = teacher_cards(model, data.test, data.norm, 5)
    sure = [probs_of(c)[c['label']] for c in got]
    assert len(got) == 5 and sure == sorted(sure, reverse=True) and check_cards(got) == list('0123456789')
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.norm.mean, data.norm.std))
    with torch.no_grad():
        p = model.eval()((data.test.images.float() / 255 - mean) / std).softmax(1)
    sure_all = p.gather(1, data.test.labels[:, None])[:, 0]
    assert sure[0] == pytest.approx(sure_all.max().item(), abs=1e-5)
    assert sure[-1] == pytest.approx(sure_all.min().item(), abs=1e-5)
    rows = [i.tolist() for i in data.test.images[:, 0]]
    assert all(c['image'] in rows for c in got)


def test_spread_takes_each_image_once():
    assert sorted(_spread(torch.full((6,), 0.3), 6)) == list(range(6))
    for n in (0, 7):
        with pytest.raises(ValueError, match='n: expected 1 to 6'):
            _spread(torch.full((6,), 0.3), n)


# Numbers → figures


def test_figures_have_titles_captions_and_room():
    for gamma in (1.0, 1.4, 2.0, 4.0):
        s = anatomy_state(torch.linspace(-5, 5, 10).tolist(), card(), gamma)
        a, g = _anatomy_figure(s), _gradient_figure(s, list('abcdefghij'))
        for f in (a, g):
            assert f.layout.meta['caption'] and f.layout.yaxis.title.text
            assert f.layout.title.text.endswith(f'γ = {gamma:g}')
        assert list(a.data[-1].y) == close([s['kd'], s['ofa'], s['ofa'], s['ofa2']])
        assert a.layout.yaxis.range[1] > s['ofa']
        assert [list(t.y) for t in g.data] == [s['gradient'][form] for form in ('kd', 'paper')]
        assert 'd (true)' in g.data[0].x
        assert sum(t.y[2] for t in a.data[:-1]) == close(s['ofa'])
    assert _stepped(1.0) == 2.0 and _stepped(0.0) == 0.125 and _stepped(3.7, 1.0) == 8.0
    hostile = _gradient_figure(s, ['<b>x</b>', *'bcdefghij'])
    assert hostile.data[0].x[0] == '&lt;b&gt;x&lt;/b&gt;'


# Widgets


def test_gamma_explorer_follows_its_controls(cards):
    w = GammaExplorer(cards)
    assert w.gamma.value == 1.4 and w.numbers['gamma'] == 1.4
    for gamma, T, digit in ((2.0, 1.0, 0), (1.0, 1.0, 0), (0.1, 1.0, 0), (4.0, 3.0, 7), (1.4, 8.0, 2)):
        w.gamma.value, w.temperature.value, w.digit.value = gamma, T, digit
        label = cards[digit]['label']
        p = probs_of(cards[digit], T)
        for shown, new in ((w.fig, target_weighting(gamma, p[label])), (w.bars, class_bars(p, label, gamma))):
            for a, b in zip(shown.data, new.data, strict=True):
                assert (list(a.x), list(a.y), a.name) == (list(b.x), list(b.y), b.name)
            assert shown.layout.title.text == new.layout.title.text
        assert w.fig.layout.yaxis.range[1] > 2**gamma
        assert f'{w.numbers["target"]["paper"]:.3f}' in w.words.value and f'γ = {gamma:g}' in w.words.value


def test_loss_anatomy_follows_its_controls(cards):
    w = LossAnatomy(cards)
    assert w.gamma.value == 2 and w.student[0] == [0.0] * 10
    w.digit.value = 4
    true, *wrong = _three_classes(cards[4])
    assert true == 4
    names = [f'student’s logit of {c}' for c in (f'{true} (true)', *wrong)]
    assert [s.description for s in w.z] == names
    z = [0.0] * 10
    for slider, c, v in zip(w.z, (true, *wrong), (3.2, -1.5, 0.7)):
        slider.value = z[c] = v
    s = anatomy_state(z, cards[4], 2.0)
    assert w.student[4] == z and w.student[0] == [0.0] * 10 and w.numbers == s
    assert list(w.fig.data[-1].y) == close([s['kd'], s['ofa'], s['ofa'], s['ofa2']])
    assert list(w.gradient.data[1].y) == close(s['gradient']['paper'])
    assert all(f'= {s[k]:.3f}' in w.text() for k in ('ofa', 'kd'))
    assert f'= {s["ofa2"]:.3f}' in w.words.value
    w.digit.value = 0
    assert [x.value for x in w.z] == [0.0] * 3  # another digit, another student
    w.digit.value = 4
    assert [x.value for x in w.z] == [3.2, -1.5, 0.7]  # which is remembered
    w.gamma.value = 1.4
    assert w.numbers == anatomy_state(z, cards[4], 1.4)
    assert any(min(t.y) < 0 for t in w.fig.data) and w.fig.layout.yaxis.range[0] < 0


def test_a_shown_figure_sends_what_changed_and_nothing_else():
    sent = []
    p = live(target_weighting(1.4, 0.5))
    p.observe(lambda change: sent.append(change['name']), names=['traces', 'look'])
    follow(p, target_weighting(1.4, 0.5))
    assert sent == []
    follow(p, target_weighting(1.4, 0.6))  # the dot moves, the title stays
    assert sent == ['traces'] and list(p.data[3].x) == p.traces[3]['x'] == [0.6, 0.6]
    follow(p, class_bars([0.2, 0.8], 1, 2.0))  # and a figure of another kind may come
    assert sent == ['traces', 'traces', 'look'] and len(p.data) == 6
    assert p.look['title']['text'] == p.layout.title.text and p.look['autotypenumbers'] == 'strict'
    assert set(p.get_state()) >= {'traces', 'look', 'engine'} and 'layout' not in p.get_state()
    json.dumps(p.stored, allow_nan=False)


def test_a_view_moves_by_itself_and_the_kernel_follows(cards):
    "A move sends nothing back to figures that the page has moved already; Python's figure is the new one."
    w, sent, seen = GammaExplorer(), [], []
    assert len(w.cards) == 8 == len(LossAnatomy().cards)  # recorded ones
    for figure in w.figures:
        figure.observe(lambda change: sent.append(change['name']), names=['traces', 'look'])
    w.gamma.observe(lambda change: seen.append(change['new']), 'value')
    w.gamma.value = 3.0
    label = w.card['label']
    assert (sent, seen) == ([], [3.0])
    assert list(w.fig.data[1].y) == list(target_weighting(3.0, probs_of(w.card)[label]).data[1].y)
    assert w.fig.stored['application/vnd.plotly.v1+json']['layout']['title']['text'].endswith('γ = 3')
    assert w.figures[1].given['cards'][0]['logits'] == w.cards[0]['logits']
    assert set(w.fig.get_state()['hands']) == {'gamma', 'temperature', 'digit'}


def test_a_subclass_may_draw_one_figure_more(cards):
    class Three(GammaExplorer):
        def draw(self, s):
            return [*super().draw(s), target_weighting(s['gamma'])]

    w = Three(cards)
    w.gamma.value = 2.0
    assert [f.view for f in w.figures] == ['weighting', 'classes', '']
    assert w.figures[2].look['title']['text'].endswith('γ = 2')


def test_plotly_is_sent_once_for_all_figures(cards):
    w, v = GammaExplorer(cards), LossAnatomy(cards)
    engines = {f.engine.model_id for f in (*w.figures, *v.figures, live(go.Figure()))}
    assert len(engines) == 1 and len(_Engine.get().code) > 1e6
    assert all(len(f._esm) < 4e4 for f in w.figures)  # our own scripts, without plotly's megabytes
    _Engine.get().close()  # as Widget.close_all does
    assert live(go.Figure()).engine.comm is not None


def test_one_move_redraws_once(cards, monkeypatch):
    w = LossAnatomy(cards)
    drawn, draw = [], LossAnatomy.draw

    def counted(self, s):
        drawn.append(s)
        return draw(self, s)

    monkeypatch.setattr(LossAnatomy, 'draw', counted)
    for control, value in ((w.gamma, 3.0), (w.z[0], 1.0), (w.digit, 1)):
        drawn.clear()
        control.value = value
        assert len(drawn) == 1


class Watched(LossAnatomy):
    "It takes its time, and notes how many draw at once."

    inside = 0

    def __init__(self, *args):
        self.together = []
        super().__init__(*args)

    def draw(self, s):
        self.inside += 1
        self.together.append(self.inside)
        time.sleep(0.05)
        figures = super().draw(s)
        self.inside -= 1
        return figures

    def tables(self):
        time.sleep(0.05)
        yield from super().tables()


def test_a_cell_and_a_hand_draw_one_after_the_other(cards):
    "From JupyterLab 4.4 on they come from two threads."
    w = Watched(cards)
    with ThreadPoolExecutor(2) as pool:
        moves = [pool.submit(setattr, c, 'value', v) for c, v in ((w.gamma, 3.0), (w.temperature, 2.0))]
    assert [move.result() for move in moves] == [None] * 2
    assert max(w.together) == 1 and len(w.together) == 3
    assert (w.numbers['gamma'], w.numbers['temperature']) == (3.0, 2.0)
    assert [t.y for t in w.fig.data] == [t.y for t in _anatomy_figure(w.numbers).data]


def test_two_pages_ask_at_once(cards):
    w = Watched(cards)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(w.asked, w.fig, dict(wants='table'), []) for _ in range(2)]
    assert [ask.result() for ask in asked] == [None] * 2
    assert all(f.moves_itself() for f in w.figures)


def test_a_given_student_stays_and_far_logits_fit(cards):
    g = torch.Generator().manual_seed(1)
    given_logits = torch.randn(8, 10, generator=g, dtype=torch.float64) * 12
    w = LossAnatomy(cards, student_logits=given_logits)
    assert w.z[0].max >= given_logits.abs().max()
    assert w.numbers == anatomy_state(given_logits[0].tolist(), cards[0], 2.0)
    assert w.z[0].value == pytest.approx(given_logits[0, 0].item(), abs=1e-8)
    w.z[0].value = 1.0
    assert given_logits[0, 0] != 1.0  # the caller's tensor is its own


def test_gamma_is_whole_where_it_looks_whole(cards):
    w = LossAnatomy(cards)
    w.gamma.value = 1.4
    for _ in range(6):
        w.gamma.value += 0.1  # 1.9999999999999998 or so
    assert w.gamma.value == 2 and w.numbers['weights'][2:] == [0.0, 0.0]


def test_every_control_says_its_name(cards):
    for w in (GammaExplorer(cards), LossAnatomy(cards)):
        controls = [w.gamma, w.temperature, w.digit, *getattr(w, 'z', ())]
        names = [c.description for c in controls]
        assert all(names) and len(set(names)) == len(names)
        assert len(w.digit.names) == len(cards)
        assert w.caption and w.caption.split('.')[0] in w.hint.value.replace('&#x27;', "'")


def test_without_a_front_end_a_widget_says_what_to_do(cards):
    "The sentence is hidden by the style sheet that comes with the front end."
    for w in (GammaExplorer(cards), LossAnatomy(cards), BranchExplorer()):
        (said,) = re.findall('<p class="ofa-alone" role="alert".*?>(.*?)</p>', w.hint.value)
        assert 'run pip install anywidget jupyterlab_widgets where JupyterLab runs' in said
        assert said.count('. ') == 0 and '.ofa-alone { display: none; }' in static_text('controls.css')


def test_what_a_stored_notebook_keeps(cards):
    for w in (GammaExplorer(cards), LossAnatomy(cards)):
        kept = w._repr_mimebundle_()
        assert kept['application/vnd.jupyter.widget-view+json']['model_id'] == w.model_id
        figure = kept['application/vnd.plotly.v1+json']
        assert figure['layout']['title']['text'] == w.fig.layout.title.text
        assert len(figure['data']) == len(w.fig.data) and kept['text/plain'] == w.text()
        json.dumps(figure, allow_nan=False)


# Pages


def states(file):
    "What the page versions of a page hold."
    embedded = r'<script type="application/json">(.*?)</script>'
    return [json.loads(text) for text in re.findall(embedded, file.read_text(encoding='utf-8'), re.S)]


def test_gamma_page_has_the_widgets_numbers(cards, tmp_path):
    w = GammaExplorer(cards, gamma=2.2, temperature=4.0)
    file = w.to_html(tmp_path / 'page.html')
    (state,) = states(file)
    assert state['gamma'] == 2.2
    assert [d['probs'] for d in state['digits']] == [probs_of(c, 4.0) for c in cards]
    assert [p.name for p in tmp_path.iterdir()] == ['page.html']
    assert 'at temperature 4' in file.read_text(encoding='utf-8')


def test_anatomy_page_has_the_widgets_numbers(cards, tmp_path):
    w = LossAnatomy(cards, gamma=1.4)
    w.digit.value, w.z[0].value, w.temperature.value = 3, 2.0, 2.0
    state = states(w.to_html(tmp_path / 'page.html'))[-1]
    assert state['gamma'] == 1.4 and state['views'] == [f.view for f in w.figures] == ['anatomy', 'gradient']
    own = dict(label=w.card['label'], logits=w.card['logits'], student=w.logits)
    assert state['given'] == own | dict(among=dict(digit=[3]), moving=_three_classes(w.card))
    assert state['values']['z0'] == w.logits[w.card['label']] == 2.0
    for shown, drawn in zip((w.fig, w.gradient), state['figures']):
        assert [t['y'] for t in drawn['data']] == [list(t.y) for t in shown.data]
        assert drawn['layout']['title']['text'] == shown.layout.title.text
    assert len(state['texts']) == len(GAMMAS) == 31
    for gamma, text in zip(GAMMAS, state['texts']):
        w.gamma.value = gamma
        assert text == w.text()


# Errors


@pytest.mark.parametrize(
    'call, message',
    [
        (
            lambda: check_cards([dict(image=[[1]], label=0, logits=[0.0, math.nan])]),
            'cards.0.logits: expected finite numbers',
        ),
        (
            lambda: check_cards([dict(image=[[1]], logits=[0.0, 1.0])]),
            'cards.0: expected image, label and logits, label missing',
        ),
        (lambda: check_cards([dict(image=[[1], [1, 2]], label=0, logits=[0.0, 1.0])]), 'rows of one length'),
        (lambda: check_cards([card(k=10), card(k=9)]), 'expected 10 probabilities'),
        (lambda: GammaExplorer([]), 'cards: expected at least one image, got none'),
        (lambda: GammaExplorer([card()], gamma=9), 'γ: expected a number from 0.1 to 4, got 9'),
        (lambda: LossAnatomy([card()], gamma=0.5), 'γ: expected a number from 1 to 4, got 0.5'),
        (
            lambda: GammaExplorer([card()], temperature=0),
            'temperature T: expected a number from 1 to 8, got 0',
        ),
        (lambda: GammaExplorer([card()], classes=list('ab')), 'expected 2 probabilities'),
        (lambda: LossAnatomy([card(k=2, label=1)]), 'cards: expected at least 3 classes, got 2'),
        (lambda: LossAnatomy([card()], student_logits=[[0.0] * 9]), r'student_logits: expected \(1, 10\)'),
        (
            lambda: LossAnatomy([card()], student_logits=[[math.inf] * 10]),
            'student_logits: expected finite numbers',
        ),
        (lambda: setattr(GammaExplorer([card()]).digit, 'value', 1), 'digit: expected 0 to 0, got 1'),
        (lambda: steps_version([], dict(views=[]), [''], 1.0, ''), 'texts: expected 31'),
        (lambda: steps_version([], dict(views=['anatomy']), [''] * 31, 1.0, ''), 'one for each view, got 0'),
        (lambda: steps_version([], dict(views=[]), [''] * 31, 1.45, ''), 'gamma: expected a stop'),
        (lambda: gamma_state(card(), 0.05), 'gamma: expected finite numbers of at least 0.1'),
        (
            lambda: Slider(description='x', min=0, max=1, value=math.nan),
            'x: expected a number from 0 to 1, got nan',
        ),
    ],
)
def test_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_refused_value_leaves_the_widget_as_it_was(cards):
    w = GammaExplorer(cards)
    before = list(w.fig.data[1].y)
    with pytest.raises(ValueError):
        w.gamma.value = 0.05
    assert w.gamma.value == 1.4 and list(w.fig.data[1].y) == before


@pytest.mark.parametrize('name', ['ipywidgets', 'anywidget'])
def test_what_is_missing_is_named(monkeypatch, name):
    import ofa_learn.widgets as kept

    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, 'ofa_learn.widgets')
    said = f'ofa_learn.widgets needs {name}, which is not installed: pip install ipywidgets anywidget'
    with pytest.raises(ImportError, match=said):
        importlib.import_module('ofa_learn.widgets')
    monkeypatch.setitem(sys.modules, 'ofa_learn.widgets', kept)
    import ofa_learn

    ofa_learn.widgets = kept


# Guesses


def test_a_guess_is_told_where_it_is_wrong_and_never_the_answer():
    def say(guess):
        return check_guess(guess, 3.1415, 'look left', 'look right')

    assert say(1) == 'Too low. look left' and say(9.0) == 'Too high. look right'
    assert say(3.12) == 'Right.' and say(None).startswith('No guess yet')
    assert not any('3.1' in say(g) for g in (None, -5, 3.0, 3.2, 100, math.nan, math.inf))
    assert say('3') == 'Too low. look left'  # a number as text
    for wrong in ('forty', True, [3], [3, 4]):
        assert say(wrong) == f'Expected a number, got {wrong!r}.'


def test_rows_are_the_numbers(cards):
    head, kd, paper, released = _gamma_rows(gamma_state(cards[2], 2.0), list('0123456789'))
    assert len(head) == len(kd) == 5 and 'class, 2' in head[1]
    assert paper[-1] == kd[-1] == '100 %' and float(released[-1].split()[0]) < 100


def test_below_gamma_1_the_released_form_is_wttm_but_for_the_true_class(cards):
    for c in cards:
        s = gamma_state(c, 0.3)
        z_s, z_t, _ = as_batch(c, [0.5 * i for i in range(10)])
        z_s.requires_grad_()
        (gradient,) = torch.autograd.grad(wttm_loss(z_s, z_t, gamma=0.3), z_s)
        w = torch.tensor(s['wttm'], dtype=torch.float64)
        assert gradient[0].tolist() == close((w.sum() * z_s[0].softmax(0) - w).tolist())
        wrong = [i for i in range(10) if i != c['label']]
        assert [s['wttm'][i] for i in wrong] == [s['released'][i] for i in wrong]
    *_, released, wttm = _gamma_rows(s, list('0123456789'))
    assert wttm[0] == 'WTTM, p^γ' and wttm[2:] == released[2:] and wttm[1] != released[1]
    assert s['share']['wttm'] > 1
    # What a wrong class gets is seen.
    bars = class_bars(s['probs'], c['label'], 0.3)
    assert max(bars.data[5].y) <= bars.layout.yaxis2.range[1] <= 2 * max(bars.data[5].y)


WITHOUT_TORCH = '''
import subprocess
import sys
for name in ('torch', 'timm', 'numpy', 'scipy', 'sklearn', 'PIL', 'tqdm', 'safetensors'):
    sys.modules[name] = None
from ofa_learn.explorers import AccuracyCurves, BranchExplorer, CKAExplorer
from ofa_learn.teacher_lab import TeacherLab
from ofa_learn.widgets import GammaExplorer, LossAnatomy
card = dict(image=[[0, 255], [255, 0]], label=1, logits=[0.0, 2.0, 1.0])
for widget in (GammaExplorer([card]), LossAnatomy([card]), AccuracyCurves(), BranchExplorer(), CKAExplorer()):
    print(widget.text())
TeacherLab().page_version
'''


def test_widgets_open_where_there_is_no_torch():
    "In a browser there are plotly, ipywidgets and anywidget; the numbers are the same as with all the rest."
    done = subprocess.run([sys.executable, '-c', WITHOUT_TORCH], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one = dict(image=[[0, 255], [255, 0]], label=1, logits=[0.0, 2.0, 1.0])
    widgets = GammaExplorer([one]), LossAnatomy([one]), AccuracyCurves(), BranchExplorer(), CKAExplorer()
    assert done.stdout == ''.join(f'{w.text()}\n' for w in widgets)
