"""The report in a real browser: no network, no errors, and a slider whose numbers are Python's.

All runs in here are made up.
"""

import html
import json
import re
from html.parser import HTMLParser

import pytest
from browsers import one_browser, watch
from plotly.offline import get_plotlyjs

from ofa_learn.pages import (
    _facts,
    _gamma_sentence,
    _headline,
    embed_json,
    gamma_numbers,
    gamma_version,
    report,
    verdict_words,
)
from ofa_learn.records import results

DIGITS = [
    dict(image=[[(i * j * k) % 256 for i in range(8)] for j in range(8)], label=label, probs=probs)
    for k, label, probs in (
        (3, 1, [0.1, 0.6, 0.1, 0.2]),
        (5, 3, [0.3, 0.3, 0.3, 0.1]),
        (7, 0, [0.97, 0.01, 0.01, 0.01]),
    )
]
CLASSES = ['a', '</script><b>', 'c', 'd']
NASTY = '<img src=x onerror=alert(1)>'


def made_up_run(pair, method, seed, accuracy):
    return dict(
        schema=1,
        kind='run',
        pair=pair,
        method=method,
        setting={},
        seed=seed,
        split_seed=0,
        view_seed=0,
        student=dict(name=NASTY, params=1),
        versions=dict(test='1'),
        data=dict(name='made up ' + NASTY, fingerprint='none', train=3, valid=2, test=1),
        teacher=dict(name='nobody', params=1, valid_accuracy=90.0, test_accuracy=91.0),
        epochs=3,
        history=[dict(epoch=e, valid_accuracy=accuracy + e if e != 2 else None) for e in (1, 2, 3)],
        test_accuracy=accuracy + seed,
        valid_accuracy=accuracy + 3.0,
        seconds=1.0,
        device='cpu',
        threads=1,
    )


ROWS = dict(labels=50, kd=60, ofa_paper=62, ofa_released=55)


def made_up_runs(pair='made-up', methods=ROWS):
    return [made_up_run(pair, m, seed, float(a)) for m, a in methods.items() for seed in range(3)]


def write_report(path):
    "A report of everything above."
    about = dict(title='Made up <for a test>', notes=['All numbers are made up. ' + NASTY], classes=CLASSES)
    return report(made_up_runs(), DIGITS, [dict(ce=1.0, teacher=0.4)] * 3, path, **about)


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp('report') / 'report.html')


class Reader(HTMLParser):
    "Tags, text, and whether every tag that was opened is closed in order."

    VOID = {'meta', 'link', 'br', 'img', 'input'}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


def test_self_contained_and_whole(file):
    page = Reader(file.read_text(encoding='utf-8'))
    names = [t for t, _ in page.tags]
    assert page.open == [] and names.count('h1') == 1
    assert 'img' not in names and 'b' not in names  # nothing that came in as text became a tag
    assert all(v.startswith('data:') for _, a in page.tags for k, v in a.items() if k in ('src', 'href'))
    assert dict(page.tags)['html'] == {'lang': 'en'}
    assert page.text['h1'] == ['Made up <for a test>'] == page.text['title']
    levels = [int(t[1]) for t in names if re.fullmatch(r'h\d', t)]
    assert all(b <= a + 1 for a, b in zip([0, *levels], levels))
    captions = page.text['figcaption']
    assert all(c.strip() for c in captions)
    assert len(captions) == names.count('figure') == names.count('figcaption')
    states = [json.loads(t) for t in page.text['script'] if t.startswith('{')]
    assert len(states) == 5 and states[-1]['classes'] == CLASSES
    assert [p.name for p in file.parent.iterdir()] == ['report.html']


def test_same_input_same_file(file, tmp_path):
    assert write_report(tmp_path / 'again.html').read_bytes() == file.read_bytes()


def test_what_the_headline_says():
    said = _headline(results(made_up_runs()))
    assert '62' not in said
    assert 'OFA, paper’s form: 63.0 % on test, +2.0 points against KD in 3 paired runs (better' in said
    assert 'OFA, released form: 56.0 % on test, -5.0 points' in said and 'worse' in said
    assert 'Without a teacher: labels alone 51.0 %' in said
    assert 'too few runs to tell' in _headline(results([r for r in made_up_runs() if r['seed'] < 2]))
    assert 'nothing is compared' in _headline(results(made_up_runs(methods=dict(labels=50))))
    assert dict(_facts(made_up_runs()))['Runs'] == '12, seeds 0, 1, 2'


@pytest.mark.parametrize(
    'differences, words',
    [
        ((2.0, 2.1, 1.9), 'better; 95 % interval +1.8 to +2.2; stays when corrected for 2 comparisons'),
        (
            (2.0, 1.0, 2.0),
            'better; 95 % interval +0.2 to +3.1; does not stay when corrected for 2 comparisons',
        ),
        ((3.0, 1.0, 2.0), 'within noise, not told apart; 95 % interval -0.5 to +4.5'),
        ((0.0, 0.0, 0.0), 'the same in every pair of runs; 95 % interval +0.0 to +0.0'),
        ((2.0,), 'too few runs to tell'),
    ],
)
def test_a_verdict_in_words(differences, words):
    steps = dict(kd=(0, 0, 0), ofa_paper=differences, labels=(1, -1, 0.4))
    runs = [made_up_run('one', m, s, 60.0 + d) for m, ds in steps.items() for s, d in enumerate(ds)]
    row = next(r for r in results(runs) if r['method'] == 'ofa_paper')
    assert verdict_words(row) == words


def test_the_table_says_what_it_counts(file):
    "Three rows beside KD: the caption of the table has the interval and their number."
    text = file.read_text(encoding='utf-8')
    assert '3 comparisons: without any effect one in twenty' in text
    assert '<th scope="col">difference to KD [95 %]</th>' in text and '+2.0 [+2.0, +2.0]' in text


def test_two_pairs_have_a_section_each(tmp_path):
    cards = [dict(d, losses=dict(ce=1.0)) for d in DIGITS[:2]]
    runs = made_up_runs('one') + made_up_runs('two')
    file = report(runs, DIGITS, cards, tmp_path / 'r.html', title='Made up', notes=())
    text = file.read_text(encoding='utf-8')
    assert '<h2>How they got there: one</h2>' in text and '<h2>How they got there: two</h2>' in text
    assert '<th scope="col">pair</th>' in text


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: gamma_version([]), 'at least one image'),
        (lambda: gamma_version([DIGITS[0] | dict(label=4)]), 'label: expected a class from 0 to 3, got 4'),
        (
            lambda: gamma_version([DIGITS[0] | dict(probs=[0.5, 0.1])]),
            'expected 2 probabilities that sum to 1',
        ),
        (lambda: gamma_version([DIGITS[0] | dict(image=[[1], [1, 2]])]), 'rows of one length'),
        (lambda: gamma_version(DIGITS, ['a']), 'digits.0.probs: expected 1 probabilities'),
        (lambda: gamma_numbers([0.5, 0.5], 0, 0.0), 'gamma: expected a number above 0'),
        (lambda: report([], DIGITS, [], 'r.html', title=''), 'at least one run'),
        (
            lambda: report(made_up_runs(), DIGITS, [dict(ce=1.0)], 'r.html', title=''),
            'expected 3, one for each digit, got 1',
        ),
        (lambda: embed_json(float('inf')), 'not JSON compliant'),
    ],
)
def test_refused(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        call()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope='module')
def browser():
    yield from one_browser()


@pytest.fixture
def page(browser, file):
    page = browser.new_page(viewport=dict(width=900, height=1000))
    trouble = watch(page)
    page.goto(file.as_uri())
    page.wait_for_selector('[data-page=gamma] .js-plotly-plot')
    yield page
    page.close()
    assert trouble == []


DRAWN = '''([plot, trace]) => {
    const {x, y} = document.querySelectorAll('[data-page=gamma] .plot')[plot].data[trace];
    return {x: Array.from(x), y: Array.from(y)};
}'''


def drawn(page, plot, trace):
    return page.evaluate(DRAWN, [plot, trace])


def check(page, digit, gamma):
    "What is drawn equals Python's numbers; returns the weights of the wrong classes in the released form."
    d = DIGITS[digit]
    label = d['label']
    p = d['probs'][label]
    n = gamma_numbers(d['probs'], label, gamma)

    def close(values):
        return pytest.approx(values, abs=1e-12)

    def wrong(values):
        return [v for c, v in enumerate(values) if c != label]

    names = [html.escape(c, quote=False) for c in CLASSES]
    assert drawn(page, 0, 3) == dict(x=close([p, p]), y=close([n['target_paper'], n['target_released']]))
    paper, released = (drawn(page, 0, trace) for trace in (1, 2))
    assert released['y'] == close([(1 + q) ** gamma - 1 for q in released['x']])
    assert paper['y'] == close([(1 + q) ** gamma for q in released['x']])
    for trace, values in enumerate((d['probs'], n['paper'], n['released'])):
        assert drawn(page, 1, trace) == dict(x=[names[label]], y=close([values[label]]))
        assert drawn(page, 1, trace + 3) == dict(x=wrong(names), y=close(wrong(values)))
    assert page.inner_text('.numbers') == _gamma_sentence(n)
    assert page.inner_text('.controls output') == f'{gamma:.1f}'
    assert page.locator('input[type=range]').get_attribute('aria-valuetext') == f'gamma {gamma:.1f}'
    return drawn(page, 1, 5)['y']


def test_slider_by_keyboard(page):
    assert page.get_by_label('γ', exact=True).get_attribute('type') == 'range'
    page.locator('input[type=range]').focus()
    first = check(page, 0, 1.4)
    for _ in range(6):
        page.keyboard.press('ArrowRight')
    second = check(page, 0, 2.0)
    assert all(b < a for a, b in zip(first, second))  # the released form shrinks every wrong class
    page.keyboard.press('ArrowLeft')
    check(page, 0, 1.9)
    page.keyboard.press('End')
    check(page, 0, 4.0)
    page.keyboard.press('Home')
    assert all(b > a for a, b in zip(first, check(page, 0, 0.1)))  # below 1 it lifts them, as WTTM does


def test_digits_by_keyboard(page):
    assert page.locator('fieldset legend').inner_text()
    page.locator('input[type=range]').focus()
    page.keyboard.press('Tab')  # the next stop is the group of images
    assert page.evaluate('document.activeElement.type') == 'radio'
    first = check(page, 0, 1.4)
    page.keyboard.press('ArrowRight')
    assert check(page, 1, 1.4) != first
    page.keyboard.press('ArrowRight')
    check(page, 2, 1.4)
    page.keyboard.press('Shift+Tab')
    page.keyboard.press('ArrowRight')
    check(page, 2, 1.5)


LABELS = '''() => [...document.querySelectorAll('.plot')[0].querySelectorAll('.ytick text')]
    .map((text) => text.getBoundingClientRect()).map((box) => [box.top, box.bottom])'''


def test_names_of_three_lines_have_room(browser, tmp_path):
    methods = dict(labels=50, kd_t4=60, kd_t4_more=62, ofa_t4=58, ofa_t4_more=61)
    file = report(made_up_runs(methods=methods), DIGITS, [], tmp_path / 'names.html', title='Long names')
    page = browser.new_page(viewport=dict(width=1280, height=800))
    page.goto(file.as_uri())
    page.wait_for_selector('.plot .ytick text')
    boxes = sorted(page.evaluate(LABELS))
    assert len(boxes) == 5 and sum(bottom - top > 35 for top, bottom in boxes) == 2  # of three lines
    assert all(after[0] - before[1] > 5 for before, after in zip(boxes, boxes[1:])), boxes
    page.close()


DARK = '''() => Array.from(document.querySelectorAll('.strip canvas')).map((canvas) => {
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    return Array.from(data).filter((_, i) => i % 4 === 0).map((v) => 255 - v);
})'''


def test_thumbnails_are_the_images(page):
    dark = page.evaluate(DARK)
    assert dark == [[v for row in d['image'] for v in row] for d in DIGITS]


@pytest.mark.parametrize('width', [320, 390, 900])
def test_everything_is_drawn_and_fits(page, width):
    page.set_viewport_size(dict(width=width, height=900))
    page.wait_for_timeout(300)
    assert page.locator('.js-plotly-plot').count() == 6 and page.locator('table tbody tr').count() == 4
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    boxes = page.evaluate('''Array.from(document.querySelectorAll('.plot .main-svg'))
        .map((svg) => svg.getBoundingClientRect()).map((box) => [box.left, box.right])''')
    assert boxes and all(left >= 0 and right <= width + 1 for left, right in boxes)


def test_dark_page_has_light_figures(browser, file):
    page = browser.new_page(color_scheme='dark')
    page.goto(file.as_uri())
    background = "where => getComputedStyle(document.querySelector(where)).backgroundColor"
    assert page.evaluate(background, 'body') == 'rgb(22, 22, 22)'
    assert page.evaluate(background, '.plot') == 'rgb(255, 255, 255)'
    page.close()


def test_without_javascript_the_words_are_there(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    n = gamma_numbers(DIGITS[0]['probs'], DIGITS[0]['label'], 1.4)
    assert page.inner_text('.numbers') == _gamma_sentence(n) and page.locator('table tbody tr').count() == 4
    context.close()


WITHOUT = 'delete window.DecompressionStream'
SIZES = "names => names.map((name) => document.querySelector(name).getBoundingClientRect().bottom)"


def test_the_page_is_small_and_begins_with_sentence_picture_and_table(page, file):
    "plotly.js stands in it compressed; what is unpacked is the installed one."
    assert file.stat().st_size < 2e6
    page.set_viewport_size(dict(width=1280, height=800))
    page.wait_for_timeout(300)
    assert max(page.evaluate(SIZES, ['.lead', '.first .plot', '.first table'])) <= 800
    assert page.evaluate('document.head.querySelector("script").textContent') == get_plotlyjs()


def test_an_old_browser_is_told_what_to_do(browser, file):
    page = browser.new_page()
    page.add_init_script(WITHOUT)
    trouble = watch(page)
    page.goto(file.as_uri())
    said = page.locator('figure.ofa-page [role=alert]')
    said.first.wait_for()
    assert said.count() == 5 and 'open it in a current Firefox' in said.first.inner_text()
    assert page.locator('table tbody tr').count() == 4 and trouble == []
    page.close()
