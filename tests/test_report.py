"""The demo's report in a real browser: no network, no errors, and a slider whose numbers are Python's."""
import os, re, shutil

import pytest

from ofa_learn.twins import gamma_numbers, report

CHROMIUM = os.environ.get('CHROMIUM') or shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
ARGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync']
DIGITS = [dict(image=[[(i*j*k) % 256 for i in range(8)] for j in range(8)], label=l, probs=p) for k, l, p in
          ((3, 1, [.1, .6, .1, .2]), (5, 3, [.3, .3, .3, .1]), (7, 0, [.97, .01, .01, .01]))]


def made_up_runs():
    run = lambda m, s, a: dict(schema=1, pair='made-up', method=m, setting={}, seed=s, split_seed=0, view_seed=0, data={}, teacher=None, student={}, epochs=3,
                               history=[dict(epoch=e, valid_accuracy=a + e) for e in (1, 2, 3)], test_accuracy=a + s, valid_accuracy=a + 3., seconds=1.,
                               device='cpu', threads=1, versions={})
    return [run(m, s, float(a)) for m, a in (('labels', 50), ('kd', 60), ('ofa_paper', 62), ('ofa_released', 55)) for s in range(3)]


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    return report(made_up_runs(), DIGITS, [dict(ce=1., teacher=.4)]*3, tmp_path_factory.mktemp('report')/'report.html',
                  title='Made up <for a test>', classes=['a', '</script>', 'c', 'd'], notes=['All numbers are made up.'])


def test_self_contained(file):
    text = file.read_text()
    assert not re.search(r'<(?:script|img|link)[^>]+(?:src|href)="(?!data:)', text)
    assert 'Made up &lt;for a test&gt;' in text and text.count('<h1>') == 1 and 'lang="en"' in text


@pytest.fixture(scope='module')
def page(file):
    if not CHROMIUM:
        if os.environ.get('OFA_LEARN_REQUIRE_BROWSER'): pytest.fail('no Chromium on the PATH, and this run requires one')
        pytest.skip('no Chromium on the PATH: the browser tests need one')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = browser.new_page(viewport=dict(width=900, height=1000))
        page.trouble = []
        page.on('pageerror', lambda e: page.trouble.append(str(e)))
        page.on('console', lambda m: page.trouble.append(m.text) if m.type in ('error', 'warning') else None)
        page.on('request', lambda r: page.trouble.append(r.url) if not r.url.startswith(('file:', 'data:', 'blob:')) else None)
        page.goto(file.as_uri())
        yield page
        browser.close()


def drawn(page, plot, trace): return page.evaluate('([plot, i]) => Array.from(document.querySelector(plot).data[i].y)', [plot, trace])


def check(page, digit, gamma):
    "The plotted weights are Python's."
    d = DIGITS[digit]
    n = gamma_numbers(d['probs'], d['label'], gamma)
    assert drawn(page, '.classes', 1) == pytest.approx(n['paper'], abs=1e-9)
    assert drawn(page, '.classes', 2) == pytest.approx(n['released'], abs=1e-9)
    assert drawn(page, '.weighting', 3) == pytest.approx([n['paper'][d['label']], n['released'][d['label']]], abs=1e-9)
    assert f"{n['dark_released']:.3f} in the released" in page.inner_text('.numbers')


def test_slider_by_keyboard(page):
    slider = page.locator('input[type=range]')
    slider.focus()
    check(page, 0, 1.4)
    for _ in range(6): page.keyboard.press('ArrowRight')
    check(page, 0, 2.0)
    page.keyboard.press('End'); check(page, 0, 4.0)
    page.keyboard.press('Home'); check(page, 0, 1.0)
    assert slider.get_attribute('aria-valuetext') == 'gamma 1.0'


def test_digits_by_keyboard(page):
    page.locator('input[type=radio]').first.focus()
    page.keyboard.press('ArrowRight'); check(page, 1, 1.0)
    page.keyboard.press('ArrowRight'); check(page, 2, 1.0)


def test_curves_are_drawn_and_nothing_went_wrong(page):
    assert page.locator('.js-plotly-plot').count() == 5
    assert page.locator('table tbody tr').count() == 4
    width = page.evaluate('[document.documentElement.scrollWidth, innerWidth]')
    assert width[0] <= width[1]
    assert page.trouble == []
