"""The walkthroughs in JupyterLab, in a real browser: run all, move γ and the rest by keyboard, and compare what is plotted with the kernel's numbers."""

import json
import math
import os
import secrets
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
import torch

from ofa_learn.explorers import curve_state, pair_name
from ofa_learn.losses import class_weights, ofa_loss
from ofa_learn.recorded import recorded
from ofa_learn.twins import gamma_numbers
from ofa_learn.widgets import GammaExplorer, LossAnatomy

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'tools'))
from pictures import browser_page, chromium

NAME, WAIT = '10_slide_gamma.ipynb', 60_000  # milliseconds
SETTINGS = {
    'notebook-extension/tracker': dict(windowingMode='none'),
    'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False, doNotDisturbMode=True),
}


def unavailable(reason):
    if os.environ.get('OFA_LEARN_REQUIRE_BROWSER') == '1':
        pytest.fail(f'{reason}, and OFA_LEARN_REQUIRE_BROWSER=1 asks for one')
    pytest.skip(f'{reason}: the tests in JupyterLab need one')


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab on loopback with a token, over a copy of the walkthroughs, with configuration folders of its own; a notebook's address but for its name."
    if not chromium() or not os.path.exists(chromium()):
        unavailable('no Chromium on the PATH or in $CHROMIUM')
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        unavailable('no playwright')
    home = tmp_path_factory.mktemp('lab')
    shutil.copytree(
        ROOT / 'nbs' / 'walkthroughs', home / 'books', ignore=shutil.ignore_patterns('.ipynb_checkpoints')
    )
    code = [
        'from ofa_learn.explorers import BranchExplorer, CKAExplorer',
        'exits = BranchExplorer()\nexits',
        'maps = CKAExplorer()\nmaps',
    ]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(c) for c in code],
            metadata=dict(kernelspec=dict(name='python3', display_name='python3')),
        ),
        home / 'books' / 'explorers.ipynb',
    )
    for name, value in SETTINGS.items():
        file = home / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    own = {
        k: str(home / k.lower())
        for k in (
            'HOME',
            'JUPYTER_CONFIG_DIR',
            'JUPYTER_DATA_DIR',
            'JUPYTER_RUNTIME_DIR',
            'JUPYTERLAB_WORKSPACES_DIR',
            'IPYTHONDIR',
            'XDG_CACHE_HOME',
        )
    }
    env = (
        os.environ
        | own
        | dict(
            JUPYTERLAB_SETTINGS_DIR=str(home / 'settings'),
            PYTHONPATH=str(ROOT),
            OMP_NUM_THREADS='1',
            JUPYTER_PLATFORM_DIRS='0',
        )
    )
    env['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), env['PATH']])
    for folder in own.values():
        Path(folder).mkdir()
    port, token = free_port(), secrets.token_hex(16)
    options = dict(
        port=port, port_retries=0, ip='127.0.0.1', token=token, root_dir=home / 'books', open_browser=False
    )
    command = [
        sys.executable,
        '-m',
        'jupyterlab',
        *(f'--ServerApp.{k}={v}' for k, v in options.items()),
        '--LabApp.expose_app_in_browser=True',
        '--LabApp.extension_manager=readonly',
        '--LabApp.news_url=None',
        '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
    ]
    if hasattr(os, 'geteuid') and os.geteuid() == 0:
        command.append('--allow-root')
    with open(home / 'log', 'wb') as log:
        process = subprocess.Popen(command, cwd=home, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            assert process.poll() is None, (home / 'log').read_text()[-3000:]
            try:
                urllib.request.urlopen(f'http://127.0.0.1:{port}/api/status?token={token}', timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail('JupyterLab did not come up\n' + (home / 'log').read_text()[-3000:])
        yield f'http://127.0.0.1:{port}/doc/tree/{{}}?token={token}'
    finally:
        process.terminate()  # the server ends its kernels itself
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


HARMLESS = ('GPU stall due to ReadPixels', 'WebGL')  # Chromium's own words without a graphics card


def run_all(page, address, trouble, stored, live):
    "Open a notebook, see its stored figures, run all its cells, and wait for its live ones; what goes wrong is put into `trouble`."
    page.on('pageerror', lambda e: trouble.append(f'page: {e}'))
    page.on(
        'console',
        lambda m: (
            trouble.append(f'console: {m.text}')
            if m.type == 'error' and not any(h in m.text for h in HARMLESS)
            else None
        ),
    )
    page.on(
        'request',
        lambda r: (
            trouble.append(f'request: {r.url}')
            if not r.url.startswith(('http://127.0.0.1:', 'ws://127.0.0.1:', 'data:', 'blob:'))
            else None
        ),
    )
    page.goto(address)
    page.wait_for_function(
        "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=WAIT,
    )
    page.wait_for_function(
        f"document.querySelectorAll('.jp-RenderedPlotly img, .jp-RenderedPlotly.js-plotly-plot').length === {stored}",
        timeout=WAIT,
    )
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(
        f"document.querySelectorAll('.jupyter-widgets .js-plotly-plot').length >= {live}", timeout=5 * WAIT
    )
    page.wait_for_function(
        "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'",
        timeout=5 * WAIT,
    )


@pytest.fixture(scope='module')
def new_page(lab):
    "What opens a page of 900 pixels' width in the one browser of these tests."
    with browser_page() as start:

        def opened():
            page = start.context.browser.new_page(viewport=dict(width=900, height=1500))
            page.set_default_timeout(WAIT)
            return page

        yield opened


@pytest.fixture(scope='module')
def book(lab, new_page):
    "The first walkthrough, run from top to bottom; no page error and no console error until the end."
    trouble, page = [], new_page()
    run_all(page, lab.format(NAME), trouble, stored=3, live=6)
    yield page
    page.close()
    assert trouble == []


PLOTTED = '''i => { const all = document.querySelectorAll('.jupyter-widgets .js-plotly-plot')[i];
    return {title: all._fullLayout.title.text, axes: ['xaxis', 'xaxis2'].map(a => all._fullLayout[a]?.type), traces: all._fullData.map(t => ({name: t.name, x: Array.from(t.x), y: Array.from(t.y)}))}; }'''


def plotted(page, i):
    return page.evaluate(PLOTTED, i)


def ask(page, expression, imports=''):
    "A value from the notebook's kernel, while whatever else runs there goes on."
    code = f'import json\n{imports}\nprint("ANSWER" + json.dumps({expression}))'
    return page.evaluate(
        '''code => new Promise((done, fail) => {
        const future = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code}), text = [];
        future.onIOPub = m => { if (m.header.msg_type === 'stream') text.push(m.content.text); };
        future.done.then(() => done(JSON.parse(text.join('').split('ANSWER')[1])), fail); })''',
        code,
    )


def cards(page):
    "The digits' labels and logits, as the kernel has them."
    return ask(page, "[dict(label=c['label'], logits=c['logits']) for c in cards]")


def until(page, read, want, seconds=30):
    "Wait until what is read is what is wanted; what was read last."
    end = time.monotonic() + seconds
    while True:
        got = read()
        if got == want or time.monotonic() > end:
            return got
        page.wait_for_timeout(20)


def shot(page, name):
    if keep := os.environ.get('OFA_LEARN_SCREENSHOTS'):
        page.screenshot(path=f'{keep}/{name}.png')


def test_gamma_by_keyboard(book):
    known, gamma = cards(book), book.get_by_label('γ', exact=True).first
    card = known[0]
    p = torch.tensor([card['logits']], dtype=torch.float64).softmax(-1)
    gamma.focus()
    shot(book, 'explorer')
    for keys, value in (
        ([], 1.4),
        (['ArrowRight'] * 6, 2.0),
        (['ArrowUp'], 2.1),
        (['ArrowLeft'], 2.0),
        (['End'], 4.0),
        (['Home'], 1.0),
        (['ArrowRight'] * 4, 1.4),
    ):
        for key in keys:
            book.keyboard.press(key)
        title = until(book, lambda: plotted(book, 0)['title'], f'Weight of the true class at γ = {value:g}')
        assert (
            title == f'Weight of the true class at γ = {value:g}'
            and gamma.get_attribute('aria-valuetext') == f'{value:.1f}'
        )
        assert (
            until(book, lambda: plotted(book, 1)['title'], f'What each class counts at γ = {value:g}')
            == f'What each class counts at γ = {value:g}'
        )
        weighting, bars = (plotted(book, i)['traces'] for i in (0, 1))
        assert weighting[1]['y'] == pytest.approx([(1 + q) ** value for q in weighting[1]['x']], abs=1e-12)
        n = gamma_numbers(p[0].tolist(), card['label'], value)
        assert weighting[3]['x'] == pytest.approx([p[0, card['label']].item()] * 2) and weighting[3][
            'y'
        ] == pytest.approx([n['target_paper'], n['target_released']])
        for trace, form in ((1, 'paper'), (2, 'released')):
            w = class_weights(p, torch.tensor([card['label']]), value, form)[0].tolist()
            assert bars[trace]['y'] + bars[trace + 3]['y'] == pytest.approx(
                [w[card['label']]] + [v for c, v in enumerate(w) if c != card['label']], abs=1e-12
            )
    assert (
        book.evaluate('document.activeElement.type') == 'range'
    )  # the arrow keys moved the slider, not the notebook


def test_digit_and_temperature_by_keyboard(book):
    known = cards(book)
    book.get_by_label('temperature T', exact=True).first.focus()
    book.keyboard.press('ArrowRight')
    book.keyboard.press('Tab')
    assert book.evaluate('document.activeElement.type') == 'radio'
    for _ in range(7):
        book.keyboard.press('ArrowRight')
    card = known[7]
    p = (torch.tensor(card['logits'], dtype=torch.float64) / 1.5).softmax(-1).tolist()
    marked = lambda: [round(v, 9) for v in plotted(book, 0)['traces'][3]['x']]
    assert until(book, marked, [round(p[card['label']], 9)] * 2) == [round(p[card['label']], 9)] * 2
    label, bars = card['label'], plotted(book, 1)
    assert bars['axes'] == ['category'] * 2 and [t['x'] for t in bars['traces'][:4:3]] == [
        [str(label)],
        [str(c) for c in range(10) if c != label],
    ]
    assert book.locator('table').filter(has_text='dark knowledge kept').first.inner_text().count('%') == 3
    shot(book, 'explorer-wrong')


def test_anatomy_by_keyboard(book):
    card = cards(book)[0]
    gamma = book.get_by_label('γ', exact=True).nth(1)
    gamma.focus()
    for _ in range(6):
        book.keyboard.press('ArrowLeft')
    book.get_by_label('(true)').first.focus()
    for _ in range(20):
        book.keyboard.press('ArrowRight')
    assert book.evaluate('document.activeElement.parentElement.querySelector("output").textContent') == '2.0'
    z_s, z_t, y = (
        torch.zeros(1, 10, dtype=torch.float64),
        torch.tensor([card['logits']], dtype=torch.float64),
        torch.tensor([card['label']]),
    )
    z_s[0, card['label']] = 2.0
    z_s.requires_grad_()
    losses = [ofa_loss(z_s, z_t, y, gamma=g) for g in (1.0, 1.4, 1.4, 2.0)]
    want = [round(v.item(), 9) for v in losses]
    assert until(book, lambda: [round(v, 9) for v in plotted(book, 2)['traces'][-1]['y']], want) == want
    stacks = plotted(book, 2)['traces'][:-1]
    assert [sum(t['y'][i] for t in stacks) for i in range(4)] == pytest.approx(want, abs=1e-8)
    wanted = [round(v, 9) for v in torch.autograd.grad(losses[1], z_s)[0][0].tolist()]
    assert until(book, lambda: [round(v, 9) for v in plotted(book, 3)['traces'][1]['y']], wanted) == wanted
    book.get_by_label('>99 %').nth(1).focus()
    book.keyboard.press('ArrowRight')  # another digit: its own classes, sliders and student
    label = cards(book)[1]['label']
    names = [f'{c} (true)' if c == label else str(c) for c in range(10)]
    assert (
        until(book, lambda: plotted(book, 3)['traces'][1]['x'], names) == names
        and plotted(book, 3)['axes'][0] == 'category'
    )
    assert book.get_by_label(f'student’s logit of {label} (true)').input_value() == '0'
    book.keyboard.press('ArrowLeft')
    assert until(book, lambda: [round(v, 9) for v in plotted(book, 2)['traces'][-1]['y']], want) == want
    said = lambda: (
        book.locator('[role=status]').filter(has_text='Eq. 8').first.inner_text()
    )  # the words come after the figures
    assert until(book, lambda: all(f'= {v:.3f}' in said() for v in want), True), said()
    shot(book, 'anatomy')


def test_recorded_accuracies_by_keyboard(book):
    "γ, form, pair and epoch over recorded runs: what is drawn is what was recorded."
    runs, box = recorded('gamma'), book.locator('.widget-vbox:has(.ofa-range select)').last
    gammas, pairs = (
        sorted({r['setting']['gamma'] for r in runs if r['method'] == 'ofa'}),
        list(dict.fromkeys(r['pair'] for r in runs)),
    )
    choice = dict(pair='cnn-vit', form='paper', gamma=1.4, epoch=40)

    def check():
        s = curve_state(runs, **choice)
        mean = round(statistics.fmean(s['over'][choice['gamma']]), 9)
        ring = lambda: next(
            [round(v, 9) for v in t['x'] + t['y']]
            for t in plotted(book, 5)['traces']
            if t['name'] == 'current γ'
        )
        assert until(book, ring, [choice['gamma'], mean]) == [choice['gamma'], mean]
        line = lambda: next(t['x'] for t in plotted(book, 4)['traces'] if t['name'] == 'epoch')
        assert (
            until(book, line, [choice['epoch']] * 2) == [choice['epoch']] * 2
            and plotted(book, 4)['title'] == f"While training, γ = {choice['gamma']:g}"
        )
        own = [
            t
            for t in plotted(book, 4)['traces']
            if t['name'].startswith('OFA') and len(t['x']) == 40 and t['y'][0] is not None
        ]
        curves = [y for _, y in s['series'][f"ofa_{choice['form']}"]]
        assert any(
            t['y'] == pytest.approx([statistics.fmean(v) for v in zip(*curves)], abs=1e-4) for t in own
        ), [t['name'] for t in own]

    check()
    for label, role, keys, new in (
        ('γ', 'range', ['ArrowRight'], dict(gamma=gammas[gammas.index(1.4) + 1])),
        ('γ', 'range', ['End'], dict(gamma=4.0)),
        ('form of the loss', 'select-one', ['ArrowDown'], dict(form='released')),
        ('pair', 'select-one', ['ArrowDown'], dict(pair=pairs[1])),
        ('epoch', 'range', ['ArrowLeft'] * 3, dict(epoch=37)),
    ):
        book.get_by_label(label, exact=True).last.focus()
        assert book.evaluate('document.activeElement.type') == role
        for key in keys:
            book.keyboard.press(key)
        choice |= new
        check()
    said = lambda: box.locator('[role=status]').inner_text()
    assert until(book, lambda: f'{pair_name(pairs[1])}, γ = 4' in said(), True), said()
    shot(book, 'accuracies')


def test_exits_and_layers_by_keyboard(lab, new_page):
    "The other two widgets over recorded numbers, in a notebook of their own."
    trouble, page = [], new_page()
    run_all(page, lab.format('explorers.ipynb'), trouble, stored=0, live=4)
    page.get_by_label('stage 4', exact=True).focus()
    page.keyboard.press('Space')  # the last exit is taken away
    want = ask(page, 'exits.words_of(exits.compute(pair=exits.pair.value, exits=[1, 2, 3]))')
    said = lambda i: page.locator('.widget-vbox [role=status]').nth(i).inner_text()
    assert until(page, lambda: said(0), want) == want and 'Exits 1, 2, 3' in want
    page.get_by_label('student', exact=True).focus()
    page.keyboard.press('ArrowDown')
    assert until(page, lambda: 'MLP' in ask(page, 'maps.words_of(maps.numbers)'), True)
    want = ask(page, 'maps.words_of(maps.numbers)')
    assert until(page, lambda: said(1), want) == want
    shown = lambda: page.evaluate(
        "[...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')].slice(2).map(p => p._fullData[0].z.map(r => Array.from(r)))"
    )
    kernel = ask(page, '[[list(map(float, r)) for r in f.data[0].z] for f in maps.draw(maps.numbers)]')
    assert until(
        page, lambda: [[len(r) for r in m] for m in shown()], [[len(r) for r in m] for m in kernel]
    ) and shown() == [[pytest.approx(r) for r in m] for m in kernel]
    shot(page, 'exits-and-layers')
    page.close()
    assert trouble == []


def test_every_control_has_a_name(book):
    names = book.evaluate(
        '''[...document.querySelectorAll('.jupyter-widgets input')].map(n => [...n.labels].map(l => l.innerText).join(' ').trim())'''
    )
    assert len(names) == 2 * (2 + 8) + 3 + 2 and all(names)
    wide = book.evaluate('''[...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')].map(n => [n.querySelector('svg.main-svg'), n.closest('.widget-vbox')]
        .map(e => Math.round(e.getBoundingClientRect().right)))''')
    assert all(svg <= box <= 900 for svg, box in wide), wide  # nothing is cut off at 900 pixels


STOPWATCH = '''() => {
    const control = document.activeElement, plots = [...control.closest('figure.ofa-twin, .widget-vbox').querySelectorAll('.js-plotly-plot')];
    const seen = p => p._fullLayout.title.text + JSON.stringify(p._fullData.map(t => Array.from(t.y)));
    window.took = [];
    control.addEventListener('keydown', () => {
        const start = performance.now(), before = plots.map(seen);
        const look = () => plots.every((p, i) => seen(p) !== before[i]) ? took.push(performance.now() - start) : setTimeout(look, 1);
        setTimeout(look, 0);
    }, {capture: true}); }'''


def latency(page, name, control, moves=50):
    "From a key press on a control until all figures of its widget are new ones: median and 95th percentile in milliseconds, printed and not asserted."
    control.focus()
    for key in ['Home'] + ['ArrowRight'] * 4:
        page.keyboard.press(key)
    page.wait_for_timeout(1500)
    page.evaluate(STOPWATCH)
    for i in range(moves):
        page.keyboard.press('ArrowLeft' if i % 2 else 'ArrowRight')
        page.wait_for_function(f'took.length === {i + 1}', timeout=WAIT, polling=30)
    took = sorted(page.evaluate('took'))
    print(
        f'\n{name}, {moves} moves: median {statistics.median(took):.0f} ms, 95th percentile {took[math.ceil(0.95 * moves) - 1]:.0f} ms',
        end='',
    )


def test_latency(book):
    latency(book, 'GammaExplorer, γ', book.get_by_label('γ', exact=True).first)
    latency(book, 'LossAnatomy, γ', book.get_by_label('γ', exact=True).nth(1))
    latency(book, 'LossAnatomy, a logit', book.get_by_label('(true)').first)


def test_latency_of_the_pages(new_page, tmp_path):
    one = [
        dict(image=[[0, 255], [128, 0]], label=1, logits=[1.0, 2.0, 0.0, -1.0, 0.5, 0.0, 0.0, 1.0, -2.0, 0.0])
    ]
    for widget in (GammaExplorer(one), LossAnatomy(one)):
        page = new_page()
        page.goto(widget.to_html(tmp_path / 'page.html').as_uri())
        page.wait_for_selector('.ofa-twin input[type=range]')
        latency(page, f'page of {type(widget).__name__}, γ', page.get_by_label('γ', exact=True))
        page.close()


def test_anatomy_page_without_a_kernel(new_page, tmp_path):
    "The page of `to_html`, from a file: γ by keyboard, and the widget's numbers."
    widget = LossAnatomy(
        [dict(image=[[0, 255], [128, 0]], label=1, logits=[1.0, 2.0, 0.0, -1.0])], list('abcd')
    )
    file, trouble = widget.to_html(tmp_path / 'page.html'), []
    page = new_page()
    page.on('pageerror', lambda e: trouble.append(str(e)))
    page.on('console', lambda m: trouble.append(m.text) if m.type == 'error' else None)
    page.on(
        'request',
        lambda r: trouble.append(r.url) if not r.url.startswith(('file:', 'data:', 'blob:')) else None,
    )
    page.goto(file.as_uri())
    page.wait_for_selector('[data-twin=steps] .js-plotly-plot')
    page.get_by_label('γ', exact=True).focus()
    for keys, gamma in (([], 2.0), (['ArrowLeft'] * 6, 1.4), (['End'], 4.0), (['Home'], 1.0)):
        for key in keys:
            page.keyboard.press(key)
        widget.gamma.value = gamma
        for i, shown in enumerate((widget.fig, widget.gradient)):
            drawn = page.evaluate(
                "i => document.querySelectorAll('[data-twin=steps] .plot')[i].data.map(t => Array.from(t.y))",
                i,
            )
            assert drawn == [pytest.approx(list(t.y), abs=1e-12) for t in shown.data]
        assert (
            page.inner_text('.numbers') == widget.text()
            and page.locator('input[type=range]').get_attribute('aria-valuetext') == f'gamma {gamma:.1f}'
        )
    if keep := os.environ.get('OFA_LEARN_SCREENSHOTS'):
        page.screenshot(path=f'{keep}/page.png', full_page=True)
    page.close()
    assert trouble == []


def test_live_distillation(lab, new_page):
    "The second walkthrough: start, move γ while it trains, pause, continue, stop, all by keyboard; the curves are the kernel's numbers."
    trouble, page = [], new_page()
    run_all(page, lab.format('20_live_distillation.ipynb'), trouble, stored=3, live=6)
    box = page.locator('.widget-vbox:has(.ofa-buttons)').nth(1)  # of step 2
    first, stop = (box.locator('.ofa-buttons button').nth(i) for i in (0, 1))
    drawn = lambda: box.locator('.js-plotly-plot').first.evaluate(
        "p => ({y: Array.from(p._fullData[0].y ?? []), notes: p._fullLayout.annotations.map(a => a.text)})"
    )
    first.focus()
    assert first.inner_text() == 'Start' and stop.get_attribute('aria-disabled') == 'true'
    page.keyboard.press('Enter')
    assert until(page, first.inner_text, 'Pause', 60) == 'Pause'
    assert until(page, lambda: len(drawn()['y']) >= 3, True, 60)  # it grows
    page.keyboard.press('Tab')
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.type') == 'range'
    for _ in range(6):
        page.keyboard.press('ArrowRight')
    assert (
        until(page, lambda: drawn()['notes'][-1:], ['γ = 2'], 60) == ['γ = 2']
        and ask(page, 'second.run.task.gamma') == 2.0
    )  # the kernel answers while it trains
    shot(page, 'live-running')
    page.keyboard.press('Shift+Tab')
    page.keyboard.press('Shift+Tab')
    page.keyboard.press('Enter')
    status = lambda: box.locator('[role=status]').inner_text().split('.')[0]
    assert (
        until(page, status, 'Paused between two steps', 60) == 'Paused between two steps'
        and until(page, first.inner_text, 'Continue') == 'Continue'
    )
    rows = ask(page, '[r["loss"] for r in second.run.rows]')
    assert until(page, lambda: drawn()['y'], rows) == pytest.approx(rows)
    page.wait_for_timeout(500)
    assert ask(page, 'len(second.run.rows)') == len(rows)  # it stands still
    page.keyboard.press('Space')
    assert until(page, lambda: len(drawn()['y']) > len(rows), True, 60)
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    assert (
        until(page, status, 'Stopped', 60) == 'Stopped'
        and until(page, first.inner_text, 'Start again') == 'Start again'
    )
    assert until(page, lambda: stop.get_attribute('aria-disabled'), 'true') == 'true'
    assert (
        ask(page, '[t.name for t in threading.enumerate() if t.name == "ofa-learn live"]', 'import threading')
        == []
    )
    marks, rows = ask(page, 'second.run.marks'), ask(page, '[r["loss"] for r in second.run.rows]')
    assert (
        marks[0] == [0, 1.4]
        and marks[-1][1] == 2
        and until(page, lambda: drawn()['y'], rows) == pytest.approx(rows)
    )
    assert page.evaluate(
        "[...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')].every(p => p.getAttribute('aria-label') && p.getBoundingClientRect().right <= 900)"
    )
    shot(page, 'live-stopped')
    page.close()
    assert trouble == []
