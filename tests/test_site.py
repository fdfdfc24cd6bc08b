"""The docs site in a real browser, on loopback, with the network refused: pages, figures, keys, search, words for pictures, axe."""

import functools
import http.server
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'tools'))
from pictures import CHROMIUM_ARGS, chromium

DESKTOP, PHONE = dict(width=1280, height=900), dict(width=390, height=844)
SAMPLE = [
    'index.html',
    'course.html',
    'course/00_data.html',
    'course/40_losses.html',
    'running/82_recipes.html',
    'reference/losses.html',
    'walkthroughs/10_slide_gamma.html',
]
ACCESS = [
    'index.html',
    'course/00_data.html',
    'reference/logits.html',
    'walkthroughs/10_slide_gamma.html',
]  # text, pictures, definitions, figures that move
WAIT = 120_000  # ms; a busy machine takes its time over plotly
LOOK = '''() => ({
    headings: document.querySelectorAll('h1').length, title: document.title,
    silent: [...document.images].filter(i => !i.alt.trim() && i.getAttribute('role') !== 'presentation').length,
    unseen: [...document.images].filter(i => i.loading !== 'lazy' && !i.naturalWidth).length,
    twins: document.querySelectorAll('figure.ofa-twin').length, drawn: [...document.querySelectorAll('figure.ofa-twin')].filter(f => f.querySelector('.plot .main-svg .plot-container, .plot .main-svg .subplot')).length,
    raw: [...document.querySelectorAll('main p, main li, main td')].filter(e => /\\|\\s*:?(-{3}|—)|\\]\\([\\w.\\/-]+\\)/.test([...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join(''))).length,
    bad: document.querySelectorAll('merror, .error, .problematic').length})'''
AXE = '''async () => (await axe.run({exclude: [['.main-svg']]}, {runOnly: ['wcag2a', 'wcag2aa', 'best-practice'], resultTypes: ['violations']})).violations
    .filter(v => ['serious', 'critical'].includes(v.impact)).map(v => [v.id, v.nodes.length, v.nodes[0].target.join(' '), v.nodes[0].html.slice(0, 160), v.nodes[0].failureSummary])'''


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def address(built):
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(Quiet, directory=built / '_docs')
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()


@pytest.fixture(scope='module')
def browser():
    if not chromium():
        if os.environ.get('OFA_LEARN_REQUIRE_BROWSER') == '1':
            pytest.fail('no Chromium, and this run requires one')
        pytest.skip('no Chromium')
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=chromium(),
            args=[*CHROMIUM_ARGS, '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'],
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    "Open a page; what went wrong is gathered in `visit.wrong`."
    pages = {}

    def go(name, viewport=DESKTOP, scheme='light'):
        if (key := (viewport['width'], scheme)) not in pages:
            page = pages[key] = browser.new_context(viewport=viewport, color_scheme=scheme).new_page()
            page.set_default_timeout(WAIT)
            page.on('console', lambda m: go.wrong.append(m.text) if m.type in ('error', 'warning') else None)
            page.on('pageerror', lambda e: go.wrong.append(str(e)))
            page.on(
                'requestfailed',
                lambda r: (
                    go.wrong.append(f'{r.failure}: {r.url[:80]}') if r.failure != 'net::ERR_ABORTED' else None
                ),
            )  # aborted: the reader went on
            page.on(
                'request',
                lambda r: (
                    None
                    if r.url.startswith((address, 'data:', 'blob:'))
                    else go.wrong.append(f'asked: {r.url[:80]}')
                ),
            )
        pages[key].goto(address + name)
        return pages[key]

    go.wrong = []
    yield go
    for page in pages.values():
        page.context.close()


def test_every_page_opens_whole(built, visit):
    names, wrong = (
        sorted(
            p.relative_to(built / '_docs').as_posix()
            for p in (built / '_docs').rglob('*.html')
            if '_static' not in p.parts
        ),
        {},
    )
    twins = 0
    for name in names:
        visit.wrong.clear()
        look = visit(name).evaluate(LOOK)
        if (
            look['twins'] != look['drawn']
            or look['silent']
            or look['unseen']
            or look['bad']
            or look['raw']
            or look['headings'] != 1
            or not look['title']
            or visit.wrong
        ):
            wrong[name] = (look, visit.wrong[:])
        twins += look['twins']
    assert not wrong and twins > 10


def plotted(page):
    return page.evaluate(
        "[...document.querySelectorAll('figure.ofa-twin .plot')].map(p => JSON.stringify(p.data.map(t => t.y)))"
    )


def test_twins_move_by_keyboard(visit):
    page = visit('walkthroughs/10_slide_gamma.html')
    for kind in ('gamma', 'steps'):
        figure = page.locator(f'figure[data-twin={kind}]').first
        slider, before, words = (
            figure.locator('input[type=range]'),
            plotted(page),
            figure.locator('.numbers').text_content(),
        )
        start = float(slider.input_value())
        slider.focus()
        for _ in range(3):
            page.keyboard.press('ArrowRight')
        assert (
            figure.locator('output').text_content() == f'{start + 0.3:.1f}'
            and slider.get_attribute('aria-valuetext') == f'gamma {start + 0.3:.1f}'
        )
        assert plotted(page) != before and figure.locator('.numbers').text_content() != words
    radio = page.locator('figure[data-twin=gamma] input[type=radio]')
    radio.first.focus()
    page.keyboard.press('ArrowRight')
    assert radio.nth(1).is_checked() and visit.wrong == []


def test_figures_fit_a_phone(visit):
    for name in SAMPLE:
        page = visit(name, PHONE)
        assert page.evaluate('document.documentElement.scrollWidth') <= PHONE['width'], name
        wide = page.evaluate(
            "[...document.querySelectorAll('.plot')].map(p => [p.querySelector('.main-svg').getBoundingClientRect().width, p.clientWidth])"
        )
        assert all(drawn <= room + 1 for drawn, room in wide), (name, wide)
    assert visit.wrong == []


def test_search_finds_a_function(visit):
    page = visit('search.html?q=ofa_loss')
    page.locator('#search-results a[href^="course/40_losses.html"]').first.wait_for()
    assert page.locator('#search-results a[href^="reference/losses.html"]').count() and visit.wrong == []


def test_night_is_dark(visit):
    shade = lambda scheme: visit('index.html', scheme=scheme).evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
    )
    assert shade('dark') < 150 < 600 < shade('light')


def test_axe_finds_nothing_serious(visit):
    spec = find_spec('axe_playwright_python')
    if not spec:
        pytest.skip('axe-playwright-python is not installed')
    axe, found = (Path(spec.origin).parent / 'axe.min.js').read_text(encoding='utf-8'), {}
    for name, size, scheme in [
        *((n, s, 'light') for n in ACCESS for s in (DESKTOP, PHONE)),
        ('reference/logits.html', PHONE, 'dark'),
        ('course.html', DESKTOP, 'dark'),
    ]:
        page = visit(name, size, scheme)
        page.evaluate(axe)
        if bad := page.evaluate(AXE):
            found[name, size['width'], scheme] = bad
    assert not found
