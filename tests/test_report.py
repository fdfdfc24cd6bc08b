"""The report in a real browser: no network, no errors, and a slider whose numbers are Python's. All runs in here are made up."""

import html
import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ofa_learn.records import results
from ofa_learn.twins import embed_json, facts, gamma_numbers, gamma_sentence, gamma_twin, headline, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))
from pictures import CHROMIUM_ARGS, chromium

CHROMIUM = chromium()
DIGITS = [
    dict(image=[[(i * j * k) % 256 for i in range(8)] for j in range(8)], label=l, probs=p)
    for k, l, p in (
        (3, 1, [0.1, 0.6, 0.1, 0.2]),
        (5, 3, [0.3, 0.3, 0.3, 0.1]),
        (7, 0, [0.97, 0.01, 0.01, 0.01]),
    )
]
CLASSES = ['a', '</script><b>', 'c', 'd']
NASTY = '<img src=x onerror=alert(1)>'


def made_up_runs(
    pair='made-up', methods=(('labels', 50), ('kd', 60), ('ofa_paper', 62), ('ofa_released', 55))
):
    run = lambda m, s, a: dict(
        schema=1,
        kind='run',
        pair=pair,
        method=m,
        setting={},
        seed=s,
        split_seed=0,
        view_seed=0,
        student=dict(name=NASTY, params=1),
        versions=dict(test='1'),
        data=dict(name='made up ' + NASTY, fingerprint='none', train=3, valid=2, test=1),
        teacher=dict(name='nobody', params=1, valid_accuracy=90.0, test_accuracy=91.0),
        epochs=3,
        history=[dict(epoch=e, valid_accuracy=a + e if e != 2 else None) for e in (1, 2, 3)],
        test_accuracy=a + s,
        valid_accuracy=a + 3.0,
        seconds=1.0,
        device='cpu',
        threads=1,
    )
    return [run(m, s, float(a)) for m, a in methods for s in range(3)]


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    return report(
        made_up_runs(),
        DIGITS,
        [dict(ce=1.0, teacher=0.4)] * 3,
        tmp_path_factory.mktemp('report') / 'report.html',
        title='Made up <for a test>',
        classes=CLASSES,
        notes=['All numbers are made up. ' + NASTY],
    )


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
    assert (
        page.open == [] and names.count('h1') == 1 and 'img' not in names and 'b' not in names
    )  # nothing that came in as text became a tag
    assert all(v.startswith('data:') for _, a in page.tags for k, v in a.items() if k in ('src', 'href'))
    assert (
        dict(page.tags)['html'] == {'lang': 'en'}
        and page.text['h1'] == ['Made up <for a test>'] == page.text['title']
    )
    levels = [int(t[1]) for t in names if re.fullmatch(r'h\d', t)]
    assert all(b <= a + 1 for a, b in zip([0, *levels], levels))
    assert all(c.strip() for c in page.text['figcaption']) and len(page.text['figcaption']) == names.count(
        'figure'
    ) == names.count('figcaption')
    states = [json.loads(t) for t in page.text['script'] if t.startswith('{')]
    assert len(states) == 5 and states[-1]['classes'] == CLASSES
    assert [p.name for p in file.parent.iterdir()] == ['report.html']


def test_same_input_same_file(file, tmp_path):
    again = report(
        made_up_runs(),
        DIGITS,
        [dict(ce=1.0, teacher=0.4)] * 3,
        tmp_path / 'again.html',
        title='Made up <for a test>',
        classes=CLASSES,
        notes=['All numbers are made up. ' + NASTY],
    )
    assert again.read_bytes() == file.read_bytes()


def test_what_the_headline_says():
    said = headline(results(made_up_runs()))
    assert (
        '62' not in said
        and 'OFA, paper’s form: 63.0 % on test, +2.0 points against KD in 3 paired runs (better' in said
    )
    assert (
        'OFA, released form: 56.0 % on test, -5.0 points' in said
        and 'worse' in said
        and 'Without a teacher: labels alone 51.0 %' in said
    )
    assert 'too few runs to tell' in headline(results([r for r in made_up_runs() if r['seed'] < 2]))
    assert 'nothing is compared' in headline(results(made_up_runs(methods=(('labels', 50),))))
    assert dict(facts(made_up_runs()))['Runs'] == '12, seeds 0, 1, 2'


def test_two_pairs_have_a_section_each(tmp_path):
    cards = [dict(d, terms=dict(ce=1.0)) for d in DIGITS[:2]]
    text = report(
        made_up_runs('one') + made_up_runs('two'),
        DIGITS,
        cards,
        tmp_path / 'r.html',
        title='Made up',
        notes=(),
    ).read_text(encoding='utf-8')
    assert (
        '<h2>How they got there: one</h2>' in text
        and '<h2>How they got there: two</h2>' in text
        and '<th scope="col">pair</th>' in text
    )


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda: gamma_twin([]), 'at least one image'),
        (lambda: gamma_twin([DIGITS[0] | dict(label=4)]), 'label: expected a class from 0 to 3, got 4'),
        (lambda: gamma_twin([DIGITS[0] | dict(probs=[0.5, 0.1])]), 'expected 2 probabilities that sum to 1'),
        (lambda: gamma_twin([DIGITS[0] | dict(image=[[1], [1, 2]])]), 'rows of one length'),
        (lambda: gamma_twin(DIGITS, ['a']), 'digits.0.probs: expected 1 probabilities'),
        (lambda: gamma_numbers([0.5, 0.5], 0, 0.5), 'gamma: expected at least 1'),
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


def unavailable(reason):
    if os.environ.get('OFA_LEARN_REQUIRE_BROWSER') == '1':
        pytest.fail(f'{reason}, and OFA_LEARN_REQUIRE_BROWSER=1 asks for one')
    pytest.skip(f'{reason}: the browser tests need one')


@pytest.fixture(scope='module')
def browser():
    if not CHROMIUM or not os.path.exists(CHROMIUM):
        unavailable('no Chromium on the PATH or in $CHROMIUM')
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable('no playwright')
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, file):
    page, trouble = browser.new_page(viewport=dict(width=900, height=1000)), []
    page.on('pageerror', lambda e: trouble.append(str(e)))
    page.on('console', lambda m: trouble.append(m.text) if m.type in ('error', 'warning') else None)
    page.on('dialog', lambda d: (trouble.append(d.message), d.dismiss()))
    page.on(
        'request',
        lambda r: trouble.append(r.url) if not r.url.startswith(('file:', 'data:', 'blob:')) else None,
    )
    page.goto(file.as_uri())
    page.wait_for_selector('[data-twin=gamma] .js-plotly-plot')
    yield page
    page.close()
    assert trouble == []


def drawn(page, plot, trace):
    return page.evaluate(
        '''([plot, i]) => {
    const {x, y} = document.querySelectorAll('[data-twin=gamma] .plot')[plot].data[i]; return {x: Array.from(x), y: Array.from(y)}; }''',
        [plot, trace],
    )


def check(page, digit, gamma):
    "What is drawn equals Python's numbers; returns the weights of the wrong classes in the released form."
    d = DIGITS[digit]
    n, p, label = gamma_numbers(d['probs'], d['label'], gamma), d['probs'][d['label']], d['label']
    close = lambda values: pytest.approx(values, abs=1e-12)
    wrong = lambda values: [v for c, v in enumerate(values) if c != label]
    names = [html.escape(c, quote=False) for c in CLASSES]
    assert drawn(page, 0, 3) == dict(x=close([p, p]), y=close([n['target_paper'], n['target_released']]))
    curve = drawn(page, 0, 2)
    assert curve['y'] == close([(1 + q) ** gamma - 1 for q in curve['x']]) and drawn(page, 0, 1)[
        'y'
    ] == close([(1 + q) ** gamma for q in curve['x']])
    for trace, values in enumerate((d['probs'], n['paper'], n['released'])):
        assert drawn(page, 1, trace) == dict(x=[names[label]], y=close([values[label]]))
        assert drawn(page, 1, trace + 3) == dict(x=wrong(names), y=close(wrong(values)))
    assert page.inner_text('.numbers') == gamma_sentence(n)
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
    check(page, 0, 1.0)


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


def test_thumbnails_are_the_images(page):
    dark = page.evaluate('''() => Array.from(document.querySelectorAll('.strip canvas')).map(c => {
        const a = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return Array.from(a).filter((_, i) => i % 4 === 0).map(v => 255 - v); })''')
    assert dark == [[v for row in d['image'] for v in row] for d in DIGITS]


@pytest.mark.parametrize('width', [320, 390, 900])
def test_everything_is_drawn_and_fits(page, width):
    page.set_viewport_size(dict(width=width, height=900))
    page.wait_for_timeout(300)
    assert page.locator('.js-plotly-plot').count() == 6 and page.locator('table tbody tr').count() == 4
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    boxes = page.evaluate(
        "Array.from(document.querySelectorAll('.plot .main-svg')).map(s => s.getBoundingClientRect()).map(r => [r.left, r.right])"
    )
    assert boxes and all(left >= 0 and right <= width + 1 for left, right in boxes)


def test_dark_page_has_light_figures(browser, file):
    page = browser.new_page(color_scheme='dark')
    page.goto(file.as_uri())
    colour = lambda where: page.evaluate(
        "w => getComputedStyle(document.querySelector(w)).backgroundColor", where
    )
    assert colour('body') == 'rgb(22, 22, 22)' and colour('.plot') == 'rgb(255, 255, 255)'
    page.close()


def test_without_javascript_the_words_are_there(browser, file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(file.as_uri())
    n = gamma_numbers(DIGITS[0]['probs'], DIGITS[0]['label'], 1.4)
    assert page.inner_text('.numbers') == gamma_sentence(n) and page.locator('table tbody tr').count() == 4
    context.close()
