"""The docs site in a real browser, on loopback, with the network refused.

Pages, figures, keys, search, words for pictures, and what axe finds.
"""

import functools
import http.server
import os
import re
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
from copies import ROOT
from pictures import CHROMIUM_ARGS, chromium

DESKTOP, PHONE = dict(width=1280, height=900), dict(width=390, height=844)
ACCESS = [  # a page of every kind; what they have in common is looked at in both sizes and shades
    ('index.html', DESKTOP, 'light'),  # text
    ('index.html', PHONE, 'light'),
    ('course.html', DESKTOP, 'dark'),  # a list
    ('walkthroughs/60_your_own_model_and_images.html', DESKTOP, 'light'),  # code and a picture
    ('reference/logits.html', PHONE, 'dark'),  # definitions
    ('walkthroughs/10_slide_gamma.html', PHONE, 'light'),  # figures that move
    ('widgets/97_teacher_lab.html', DESKTOP, 'light'),  # lists and a slider over recorded runs
    ('pages/cheat_sheet.html', PHONE, 'light'),  # formulas in wide tables
]
WAIT = 120_000  # ms; a busy machine takes its time over plotly
LOOK = '''async () => {
    const frame = () => new Promise(done => requestAnimationFrame(done))
    const versions = [...document.querySelectorAll('figure.ofa-page')]
    // narrow.js sets titles in lines
    for (let i = 0; versions.length && i < 20; i++) await frame()
    const images = [...document.images]
    const cut = title => {
        const plot = title.closest('.plot').getBoundingClientRect(), box = title.getBoundingClientRect()
        return box.width && (box.left < plot.left - 1 || box.right > plot.right + 1)
            && !title.closest('details:not([open])')
    }
    const text = e => [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('')
    const markdown = /\\|\\s*:?(-{3}|—)|\\]\\([\\w.\\/-]+\\)/
    const scrolls = e => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible'
        && e.tabIndex < 0 && !e.querySelector('a, button, input')
    // Ticks may slant, so that their boxes cross where their letters don't.
    const words = 'text[class$=title], .annotation-text, .legendtext, .ytick text'
    const overlaps = plot => {
        const all = [...plot.querySelectorAll(words)].map(e => e.getBoundingClientRect())
        const boxes = all.filter(b => b.width)
        const both = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2
        return boxes.some((a, i) => boxes.slice(0, i).some(b => both(a, b)))
            && !plot.closest('details:not([open])')
    }
    const drawn = '.plot .main-svg .plot-container, .plot .main-svg .subplot'
    return {
        headings: document.querySelectorAll('h1').length,
        title: document.title,
        silent: images.filter(i => !i.alt.trim() && i.getAttribute('role') !== 'presentation').length,
        unseen: images.filter(i => i.loading !== 'lazy' && !i.naturalWidth).length,
        versions: versions.length,
        drawn: versions.filter(f => f.querySelector(drawn)).length,
        raw: [...document.querySelectorAll('main p, main li, main td')]
            .filter(e => markdown.test(text(e))).length,
        bad: document.querySelectorAll('merror, .error, .problematic').length,
        wide: Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth),
        spills: [...document.querySelectorAll('.plot')]
            .filter(p => p.querySelector('.main-svg')?.getBoundingClientRect().width > p.clientWidth + 1)
            .length,
        cut: [...document.querySelectorAll('.plot :is(.gtitle, .xtitle)')].filter(cut).length,
        over: [...document.querySelectorAll('figure.ofa-page .plot')].filter(overlaps).length,
        unreachable: [...document.querySelectorAll('main :is(pre, table, div.math)')].filter(scrolls).length,
    }
}'''
AXE = '''async () => {
    const rules = ['wcag2a', 'wcag2aa', 'best-practice']
    const found = await axe.run({exclude: [['.main-svg']]}, {runOnly: rules, resultTypes: ['violations']})
    return found.violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(v => {
        const node = v.nodes[0]
        return [v.id, v.nodes.length, node.target.join(' '), node.html.slice(0, 160), node.failureSummary]
    })
}'''
PLOTTED = '''() => {
    const plots = [...document.querySelectorAll('figure.ofa-page .plot')]
    return plots.map(p => JSON.stringify(p.data.map(t => t.y)))
}'''
SHADE = '''() => {
    const colour = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)
    return colour.reduce((sum, part) => sum + Number(part), 0)
}'''


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

    def heard(message):
        if message.type in ('error', 'warning'):
            go.wrong.append(message.text)

    def failed(request):
        if request.failure != 'net::ERR_ABORTED':  # aborted: the reader went on
            go.wrong.append(f'{request.failure}: {request.url[:80]}')

    def asked(request):
        if not request.url.startswith((address, 'data:', 'blob:')):
            go.wrong.append(f'asked: {request.url[:80]}')

    def go(name, viewport=DESKTOP, scheme='light'):
        key = (viewport['width'], scheme)
        if key not in pages:
            page = pages[key] = browser.new_context(viewport=viewport, color_scheme=scheme).new_page()
            page.set_default_timeout(WAIT)
            page.on('console', heard)
            page.on('pageerror', lambda error: go.wrong.append(str(error)))
            page.on('requestfailed', failed)
            page.on('request', asked)
        pages[key].goto(address + name)
        return pages[key]

    go.wrong = []
    yield go
    for page in pages.values():
        page.context.close()


def is_whole(look):
    faults = ('silent', 'unseen', 'bad', 'raw', 'wide', 'spills', 'over', 'cut', 'unreachable')
    if any(look[fault] for fault in faults):
        return False
    return look['versions'] == look['drawn'] and look['headings'] == 1 and bool(look['title'])


def test_every_page_opens_whole(built, visit):
    "On a phone, where what is too wide shows: pages, tables and figures."
    docs = built / '_docs'
    paths = sorted(p.relative_to(docs) for p in docs.rglob('*.html') if '_static' not in p.parts)
    wrong, versions = {}, 0
    for path in paths:
        visit.wrong.clear()
        look = visit(path.as_posix(), PHONE).evaluate(LOOK)
        if visit.wrong or not is_whole(look):
            wrong[path.as_posix()] = (look, visit.wrong[:])
        versions += look['versions']
    assert not wrong and versions > 10


def test_figures_move_by_keyboard(visit):
    page = visit('walkthroughs/10_slide_gamma.html')
    for kind in ('gamma', 'steps'):
        figure = page.locator(f'figure[data-page={kind}]').first
        slider, numbers = figure.locator('input[type=range]'), figure.locator('.numbers')
        plots, words = page.evaluate(PLOTTED), numbers.text_content()
        start = float(slider.input_value())
        slider.focus()
        for _ in range(3):
            page.keyboard.press('ArrowRight')
        now = f'{start + 0.3:.1f}'
        assert figure.locator('output').text_content() == now
        assert slider.get_attribute('aria-valuetext') == f'gamma {now}'
        assert page.evaluate(PLOTTED) != plots and numbers.text_content() != words
    radio = page.locator('figure[data-page=gamma] input[type=radio]')
    radio.first.focus()
    page.keyboard.press('ArrowRight')
    assert radio.nth(1).is_checked() and visit.wrong == []


def test_teacher_lab_moves_by_keyboard(visit):
    "The page version in the docs: labels and teacher, and what was not recorded in words."
    page = visit('widgets/97_teacher_lab.html')
    figure = page.locator('figure[data-page=choices]')
    numbers, words = figure.locator('.numbers'), []
    figure.get_by_label('labels', exact=True).focus()
    page.keyboard.press('ArrowRight')
    words.append(numbers.text_content())
    figure.get_by_label('teacher has seen').focus()
    page.keyboard.press('Home')
    words.append(numbers.text_content())
    assert words[0].startswith(
        'ViT teaches CNN, 120 labels, a teacher that has seen 1097 images, KD, T = 4: '
    )
    assert 'Not recorded: KD, T = 4 with 120 labels and a teacher that has seen 60 images.' in words[1]
    assert visit.wrong == []


PRINTED = '''() => {
    const seen = e => e.getClientRects().length && e.textContent.trim()
    const cells = [...document.querySelectorAll('.sheet :is(th, td), .sheet td code')].filter(seen)
    const style = e => getComputedStyle(e)
    return {
        smallest: Math.min(...cells.map(e => parseFloat(style(e).fontSize))),
        colours: [...new Set(cells.map(e => style(e).color))],
        backs: [...new Set([document.body, ...cells].map(e => style(e).backgroundColor))],
        beside: [...document.querySelectorAll('nav, header, footer, button')].filter(seen).length,
        wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        cut: cells.filter(e => e.scrollWidth > e.clientWidth + 1 && e.tagName !== 'CODE').length,
    }
}'''
WITHIN_A4 = dict(width=round((210 - 2 * 9) / 25.4 * 96), height=1000)  # CSS pixels between the margins


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_the_cheat_sheet_prints_on_two_sides_of_a4(visit, scheme):
    "Black on white, in type that can be read, whole, and nothing else on the paper."
    page = visit('pages/cheat_sheet.html', WITHIN_A4, scheme)
    page.emulate_media(media='print', color_scheme=scheme)
    look = page.evaluate(PRINTED)
    assert look.pop('smallest') >= 7 / 72 * 96  # 7 pt
    assert look == dict(colours=['rgb(0, 0, 0)'], backs=['rgb(255, 255, 255)'], beside=0, wide=0, cut=0)
    paper = page.pdf(prefer_css_page_size=True)
    (size,) = set(re.findall(rb'/MediaBox \[([\d. ]+)\]', paper))
    assert [round(float(v) / 72 * 25.4) for v in size.split()[2:]] == [210, 297]
    assert len(re.findall(rb'/Type /Page\b', paper)) == 2


def test_search_finds_a_function(visit):
    page = visit('search.html?q=ofa_loss')
    page.locator('#search-results a[href^="course/40_losses.html"]').first.wait_for()
    assert page.locator('#search-results a[href^="reference/losses.html"]').count() and visit.wrong == []


def test_night_is_dark(visit):
    dark, light = (visit('index.html', scheme=scheme).evaluate(SHADE) for scheme in ('dark', 'light'))
    assert dark < 150 < 600 < light


@pytest.fixture(scope='module')
def axe():
    spec = find_spec('axe_playwright_python')
    if not spec:
        pytest.skip('axe-playwright-python is not installed')
    return (Path(spec.origin).parent / 'axe.min.js').read_text(encoding='utf-8')


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_quartos_own_markup_is_readable_and_fits_a_phone(visit, address, axe, scheme):
    page = visit('index.html', PHONE, scheme)
    nbs = ROOT / 'nbs'
    written = dict(
        PAGE='#161616' if scheme == 'dark' else '#ffffff',
        TEXT='#ececec' if scheme == 'dark' else '#1a1a1a',
        CODE='#f0b48a' if scheme == 'dark' else '#7d12ba',
        LINK='#7cc4ec' if scheme == 'dark' else '#005a8f',
        STYLES=f'{address}_static/styles.css',
        SHADE=scheme,
        WIDE_MATH='<mi>p</mi><mo>+</mo>' * 60,
        REACH=(nbs / 'reach.js').read_text(encoding='utf-8'),
    )
    text = (ROOT / 'tests' / 'quarto.html').read_text(encoding='utf-8')  # made as Quarto makes pages
    for word, value in written.items():
        text = text.replace(word, value)
    page.set_content(text.replace('WIDE', 'a_name_of_a_thing_that_goes_on_and_on'))
    look = page.evaluate(LOOK)
    assert not (look['wide'] or look['unreachable'])
    page.evaluate(axe)
    assert page.evaluate(AXE) == []
    words = '[...document.querySelectorAll("td, td a, td p")].map(e => e.getClientRects().length)'
    assert set(page.evaluate(words)) == {1}  # nothing in a table breaks inside a word


def test_axe_finds_nothing_serious(visit, axe):
    found = {}
    for name, size, scheme in ACCESS:
        page = visit(name, size, scheme)
        page.evaluate(axe)
        if bad := page.evaluate(AXE):
            found[name, size['width'], scheme] = bad
    assert not found
