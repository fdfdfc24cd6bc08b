"""The walkthroughs in JupyterLab, in a real browser.

Run all, move γ and the rest by keyboard, and compare what is plotted with the kernel's numbers.
"""

import io
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
from browsers import need_browser, one_browser, watch
from PIL import Image, ImageChops

from ofa_learn.explorers import AccuracyCurves, BranchExplorer, CKAExplorer, _curve_state, pair_name
from ofa_learn.losses import class_weights, ofa_loss
from ofa_learn.pages import gamma_numbers
from ofa_learn.recorded import recorded
from ofa_learn.teacher_lab import TeacherLab
from ofa_learn.widgets import GammaExplorer, LossAnatomy

ROOT = Path(__file__).resolve().parents[1]
NAME = '10_slide_gamma.ipynb'
WAIT = 60_000  # milliseconds
SETTINGS = {
    'notebook-extension/tracker': dict(windowingMode='none'),
    'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False, doNotDisturbMode=True),
}


# Other books than the walkthroughs, for widgets that share no walkthrough.
BOOKS = dict(
    explorers=(
        'from ofa_learn.explorers import BranchExplorer, CKAExplorer',
        'exits = BranchExplorer()\nexits',
        'maps = CKAExplorer()\nmaps',
    ),
    teacher_lab=('from ofa_learn.teacher_lab import TeacherLab', 'lab = TeacherLab()\nlab'),
    alone=('from ofa_learn.widgets import LossAnatomy\nLossAnatomy()',),
)
# Folders that JupyterLab would otherwise take from the user.
FOLDERS = (
    'HOME',
    'JUPYTER_CONFIG_DIR',
    'JUPYTER_DATA_DIR',
    'JUPYTER_RUNTIME_DIR',
    'JUPYTERLAB_WORKSPACES_DIR',
    'IPYTHONDIR',
    'XDG_CACHE_HOME',
)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def write_books(folder):
    "The walkthroughs, and the other books."
    without = shutil.ignore_patterns('.ipynb_checkpoints')
    shutil.copytree(ROOT / 'nbs' / 'walkthroughs', folder, ignore=without)
    kernel = dict(kernelspec=dict(name='python3', display_name='python3'))
    for name, codes in BOOKS.items():
        cells = [nbformat.v4.new_code_cell(code) for code in codes]
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f'{name}.ipynb')


def write_settings(folder):
    for name, value in SETTINGS.items():
        file = folder / '@jupyterlab' / f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))


def environment(home):
    "The process's environment, with folders of its own under `home`."
    own = {name: str(home / name.lower()) for name in FOLDERS}
    for folder in own.values():
        Path(folder).mkdir()
    return dict(
        os.environ,
        **own,
        JUPYTERLAB_SETTINGS_DIR=str(home / 'settings'),
        JUPYTER_PLATFORM_DIRS='0',
        OMP_NUM_THREADS='1',
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ['PYTHONPATH']]),
        PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
    )


def command_line(home, port, token):
    server = dict(port=port, port_retries=0, ip='127.0.0.1', token=token, open_browser=False)
    server['root_dir'] = home / 'books'
    command = [
        sys.executable,
        '-m',
        'jupyterlab',
        *(f'--ServerApp.{k}={v}' for k, v in server.items()),
        '--LabApp.expose_app_in_browser=True',
        '--LabApp.extension_manager=readonly',
        '--LabApp.news_url=None',
        '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
    ]
    if hasattr(os, 'geteuid') and os.geteuid() == 0:
        command.append('--allow-root')
    return command


def wait_until_up(process, status, log):
    for _ in range(300):
        assert process.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(status, timeout=5).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail('JupyterLab did not come up\n' + log.read_text()[-3000:])


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab on loopback over a copy of the walkthroughs: a notebook's address but for its name."
    need_browser()
    home = tmp_path_factory.mktemp('lab')
    write_books(home / 'books')
    write_settings(home / 'settings')
    env = environment(home)
    port, token = free_port(), secrets.token_hex(16)
    command = command_line(home, port, token)
    with open(home / 'log', 'wb') as log:
        process = subprocess.Popen(command, cwd=home, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_up(process, f'http://127.0.0.1:{port}/api/status?token={token}', home / 'log')
        yield f'http://127.0.0.1:{port}/doc/tree/{{}}?token={token}'
    finally:
        process.terminate()  # the server ends its kernels itself
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


SERVER = ('http://127.0.0.1:', 'ws://127.0.0.1:', 'data:', 'blob:')
HARMLESS = (
    *('GPU stall due to ReadPixels', 'WebGL'),  # Chromium's own words without a graphics card
    'Shared module @jupyterlite/services',  # where `make lite` was run: its kernel is for its own site
)
CODE = '''jupyterapp.shell.currentWidget.content.widgets.map(w => w.model.sharedModel.toJSON())
    .filter(c => c.cell_type === 'code' && c.source.trim())'''
FAILED = f"{CODE}.filter(c => c.outputs.some(o => o.output_type === 'error')).map(c => c.source)"
WAITING = f'{CODE}.filter(c => c.execution_count === null).length'
IDLE = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
STORED = '.jp-RenderedPlotly img, .jp-RenderedPlotly.js-plotly-plot'
LIVE = '.jupyter-widgets .js-plotly-plot'


def run_all(page, address, stored, live):
    "Open a notebook, see its stored figures, run each of its cells, see its live ones; what goes wrong."
    trouble = watch(page, SERVER, HARMLESS, kinds=('error',))
    page.goto(address)
    page.wait_for_function(IDLE, timeout=WAIT)
    page.wait_for_function(f"document.querySelectorAll('{STORED}').length === {stored}", timeout=WAIT)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(f"document.querySelectorAll('{LIVE}').length >= {live}", timeout=5 * WAIT)
    page.wait_for_function(IDLE, timeout=5 * WAIT)
    page.wait_for_function(f'{WAITING} === 0 || {FAILED}.length', timeout=5 * WAIT)
    assert page.evaluate(FAILED) == []
    return trouble


@pytest.fixture(scope='module')
def browser(lab):
    yield from one_browser()


@pytest.fixture(scope='module')
def new_page(browser):
    "What opens a page of 900 pixels' width in the one browser of these tests."

    def opened():
        page = browser.new_page(viewport=dict(width=900, height=1500))
        page.set_default_timeout(WAIT)
        return page

    return opened


@pytest.fixture(scope='module')
def book(lab, new_page):
    "The first walkthrough, run from top to bottom; no page error and no console error until the end."
    page = new_page()
    trouble = run_all(page, lab.format(NAME), stored=4, live=8)  # the first widget stands there twice
    yield page
    page.close()
    assert trouble == []


PLOTTED = '''(i) => {
    const plot = document.querySelectorAll('.jupyter-widgets .js-plotly-plot')[i];
    return {
        title: plot._fullLayout.title.text,
        axes: ['xaxis', 'xaxis2'].map((axis) => plot._fullLayout[axis]?.type),
        traces: plot._fullData.map((t) => ({name: t.name, x: Array.from(t.x), y: Array.from(t.y)})),
    };
}'''


def plotted(page, i):
    "Title, axes and traces of the i-th figure of a widget."
    return page.evaluate(PLOTTED, i)


def title(page, i):
    return plotted(page, i)['title']


def rounded(values):
    return [round(v, 9) for v in values]


ASK = '''(code) => new Promise((done, fail) => {
    const {kernel} = window.jupyterapp.shell.currentWidget.sessionContext.session;
    const future = kernel.requestExecute({code});
    const text = [];
    future.onIOPub = (message) => {
        if (message.header.msg_type === 'stream') text.push(message.content.text);
    };
    future.done.then(() => done(JSON.parse(text.join('').split('ANSWER')[1])), fail);
})'''


def ask(page, expression, imports=''):
    "A value from the notebook's kernel, while whatever else runs there goes on."
    return page.evaluate(ASK, f'import json\n{imports}\nprint("ANSWER" + json.dumps({expression}))')


SLEEP = '''() => {
    const {kernel} = window.jupyterapp.shell.currentWidget.sessionContext.session;
    kernel.requestExecute({code: 'import time; time.sleep(5)'});
}'''


def at_rest(page, i):
    "The i-th figure, once two looks half a second apart are alike: plotly draws again when the hand rests."

    def alike():
        first = plotted(page, i)
        page.wait_for_timeout(500)
        return plotted(page, i) == first

    assert until(page, alike, True)
    return plotted(page, i)


def moves_while_the_kernel_sleeps(page, widget, control, key, i):
    "A key on a control: the i-th figure follows at once, and the widget in the kernel when it can."
    know = f'all(f.moves_itself() for f in {widget}.figures)'
    assert reaches(page, lambda: ask(page, know), True)  # the table has come
    before, stood = at_rest(page, i), ask(page, f'{widget}.text()')
    control.focus()
    page.evaluate(SLEEP)
    page.keyboard.press(key)
    assert until(page, lambda: plotted(page, i) != before, True, seconds=4)
    now = plotted(page, i)
    assert reaches(page, lambda: ask(page, f'{widget}.text()') != stood, True)
    assert plotted(page, i) == now


STOPWATCH = '''() => {
    const control = document.activeElement;
    const widget = control.closest('figure.ofa-page, .widget-vbox');
    const plots = [...widget.querySelectorAll('.js-plotly-plot')];
    const drawn = ['path', 'image', 'text'].map((kind) => `.cartesianlayer ${kind}`);
    const strokes = ['.gtitle', '.shapelayer path', ...drawn].join();
    const look = (node) => ['d', 'transform', 'href', 'style'].map((k) => node.getAttribute(k)).join();
    const seen = (plot) => [...plot.querySelectorAll(strokes)].map((n) => look(n) + n.textContent).join();
    window.took = [];
    window.stopwatch?.abort();  // one at a time
    window.stopwatch = new AbortController();
    control.addEventListener('keydown', () => {
        const start = performance.now();
        const before = plots.map(seen);
        const wait = () => {
            if (plots.every((plot, i) => seen(plot) !== before[i])) took.push(performance.now() - start);
            else setTimeout(wait, 1);
        };
        setTimeout(wait, 0);
    }, {capture: true, signal: stopwatch.signal});
}'''


MOVES = int(os.environ.get('OFA_LEARN_MOVES', 4))  # 50 for numbers that are told to others
BACK_AND_FORTH = ('ArrowRight', 'ArrowLeft')


def latency(page, name, control, first=4, keys=BACK_AND_FORTH):
    """From a key press on a control until all figures of its widget are new ones, each time.

    Median and 95th percentile in milliseconds, printed and not asserted. `first` steps lead away from the
    control's end.
    """
    control.focus()
    if keys is BACK_AND_FORTH:
        for key in ['Home'] + ['ArrowRight'] * first:
            page.keyboard.press(key)
    page.wait_for_timeout(1500)
    page.evaluate(STOPWATCH)
    for i in range(MOVES):
        page.keyboard.press(keys[i % 2])
        page.wait_for_function(f'took.length === {i + 1}', timeout=WAIT, polling=30)
    took = sorted(page.evaluate('took'))
    median, slow = statistics.median(took), took[math.ceil(0.95 * MOVES) - 1]
    print(f'\n{name}, {MOVES} moves: median {median:.0f} ms, 95th percentile {slow:.0f} ms', end='')


# Of every widget a control that moves all its figures: what it is called, and how it is moved.
HANDS = dict(
    GammaExplorer=('γ', dict(first=13)),
    LossAnatomy=('γ', {}),
    AccuracyCurves=('γ', {}),
    BranchExplorer=('stage 2', dict(keys=('Space', 'Space'))),
    CKAExplorer=('student', dict(first=0)),
    TeacherLab=('labels', dict(first=1)),
)


def latency_of(page, widget, where='', nth=0):
    label, how = HANDS[widget]
    latency(page, f'{where}{widget}, {label}', page.get_by_label(label, exact=True).nth(nth), **how)


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


def reaches(page, read, want, seconds=30):
    "Whether what is read becomes what is wanted, in time."
    return until(page, read, want, seconds) == want


def shot(page, name):
    if keep := os.environ.get('OFA_LEARN_SCREENSHOTS'):
        page.screenshot(path=f'{keep}/{name}.png')


def test_gamma_by_keyboard(book):
    card = cards(book)[0]
    label = card['label']
    p = torch.tensor([card['logits']], dtype=torch.float64).softmax(-1)
    gamma = book.get_by_label('γ', exact=True).first
    gamma.focus()
    shot(book, 'explorer')
    moves = (
        ([], 1.4),
        (['ArrowRight'] * 6, 2.0),
        (['ArrowUp'], 2.1),
        (['ArrowLeft'], 2.0),
        (['End'], 4.0),
        (['Home'], 0.1),
        (['ArrowRight'] * 13, 1.4),
    )
    for keys, value in moves:
        for key in keys:
            book.keyboard.press(key)
        assert reaches(book, lambda: title(book, 0), f'Weight of the true class at γ = {value:g}')
        assert reaches(book, lambda: title(book, 1), f'What each class counts at γ = {value:g}')
        assert gamma.get_attribute('aria-valuetext') == f'{value:.1f}'
        weighting, bars = (plotted(book, i)['traces'] for i in (0, 1))
        assert weighting[1]['y'] == pytest.approx([(1 + q) ** value for q in weighting[1]['x']], abs=1e-12)
        n = gamma_numbers(p[0].tolist(), label, value)
        assert weighting[3]['x'] == pytest.approx([p[0, label].item()] * 2)
        assert weighting[3]['y'] == pytest.approx([n['target_paper'], n['target_released']])
        for trace, form in ((1, 'paper'), (2, 'released')):
            w = n[form]
            if value >= 1:
                assert w == pytest.approx(class_weights(p, torch.tensor([label]), value, form)[0].tolist())
            want = [w[label]] + [v for c, v in enumerate(w) if c != label]
            assert bars[trace]['y'] + bars[trace + 3]['y'] == pytest.approx(want, abs=1e-12)
    # The arrow keys moved the slider, not the notebook.
    assert book.evaluate('document.activeElement.type') == 'range'
    assert book.locator('.ofa-alone').count() == 4 and not book.locator('.ofa-alone:visible').count()


def test_digit_and_temperature_by_keyboard(book):
    known = cards(book)
    book.get_by_label('temperature T', exact=True).first.focus()
    book.keyboard.press('ArrowRight')
    book.keyboard.press('Tab')
    assert book.evaluate('document.activeElement.type') == 'radio'
    for _ in range(7):
        book.keyboard.press('ArrowRight')
    label = known[7]['label']
    p = (torch.tensor(known[7]['logits'], dtype=torch.float64) / 1.5).softmax(-1).tolist()
    assert reaches(book, lambda: rounded(plotted(book, 0)['traces'][3]['x']), rounded([p[label]] * 2))
    names = [[str(label)], [str(c) for c in range(10) if c != label]]  # the true class, and the others
    assert reaches(book, lambda: [t['x'] for t in plotted(book, 1)['traces'][:4:3]], names)
    assert plotted(book, 1)['axes'] == ['category'] * 2
    assert book.locator('table').filter(has_text='dark knowledge kept').first.inner_text().count('%') == 3
    shot(book, 'explorer-wrong')


def test_anatomy_by_keyboard(book):
    card = cards(book)[0]
    gamma = book.get_by_label('γ', exact=True).nth(2)
    gamma.focus()
    for _ in range(6):
        book.keyboard.press('ArrowLeft')
    book.get_by_label('(true)').first.focus()
    for _ in range(20):
        book.keyboard.press('ArrowRight')
    assert book.evaluate('document.activeElement.parentElement.querySelector("output").textContent') == '2.0'
    z_s, z_t = torch.zeros(1, 10, dtype=torch.float64), torch.tensor([card['logits']], dtype=torch.float64)
    z_s[0, card['label']] = 2.0
    z_s.requires_grad_()
    losses = [ofa_loss(z_s, z_t, torch.tensor([card['label']]), gamma=g) for g in (1.0, 1.4, 1.4, 2.0)]
    want = rounded(loss.item() for loss in losses)

    def totals():
        return rounded(plotted(book, 4)['traces'][-1]['y'])

    assert reaches(book, totals, want)
    stacks = plotted(book, 4)['traces'][:-1]
    assert [sum(t['y'][i] for t in stacks) for i in range(4)] == pytest.approx(want, abs=1e-8)
    (gradient,) = torch.autograd.grad(losses[1], z_s)
    assert reaches(book, lambda: rounded(plotted(book, 5)['traces'][1]['y']), rounded(gradient[0].tolist()))
    book.get_by_label('>99 %').nth(2).focus()
    book.keyboard.press('ArrowRight')  # another digit: its own classes, sliders and student
    label = cards(book)[1]['label']
    names = [f'{c} (true)' if c == label else str(c) for c in range(10)]
    assert reaches(book, lambda: plotted(book, 5)['traces'][1]['x'], names)
    assert plotted(book, 5)['axes'][0] == 'category'
    assert book.get_by_label(f'student’s logit of {label} (true)').input_value() == '0'
    book.keyboard.press('ArrowLeft')
    assert reaches(book, totals, want)
    said = book.locator('[role=status]').filter(has_text='Eq. 8').first  # the words come after the figures
    assert reaches(book, lambda: all(f'= {v:.3f}' in said.inner_text() for v in want), True), (
        said.inner_text()
    )
    shot(book, 'anatomy')
    moves_while_the_kernel_sleeps(book, 'anatomy', gamma, 'ArrowRight', 4)
    moves_while_the_kernel_sleeps(book, 'anatomy', book.get_by_label('(true)').first, 'ArrowLeft', 5)


def test_recorded_accuracies_by_keyboard(book):
    "γ, form, T, pair and epoch over recorded runs: what is drawn is what was recorded."
    runs = recorded('lab_gamma')
    gammas = sorted({r['setting']['gamma'] for r in runs if r['method'] == 'ofa'})
    pairs = list(dict.fromkeys(r['pair'] for r in runs))
    choice = dict(pair='vit-cnn', form='paper', gamma=1.4, temperature=1.0, epoch=150)

    def traces(i, name):
        return [t for t in plotted(book, i)['traces'] if t['name'].startswith(name)]

    def ring():
        (trace,) = traces(7, 'current γ')
        return rounded(trace['x'] + trace['y'])

    def check():
        s = _curve_state(runs, **choice)
        mean = statistics.fmean(s['over'][choice['gamma']])
        assert reaches(book, ring, rounded([choice['gamma'], mean]))
        assert reaches(book, lambda: traces(6, 'epoch')[0]['x'], [choice['epoch']] * 2)
        want = f"While training, γ = {choice['gamma']:g}, T = {choice['temperature']:g}"
        assert reaches(book, lambda: title(book, 6), want)
        own = [t['y'] for t in traces(6, 'OFA') if len(t['x']) == 15 and t['y'][0] is not None]
        curves = [y for _, y in s['series'][f"ofa_{choice['form']}"]]
        means = pytest.approx([statistics.fmean(v) for v in zip(*curves)], abs=1e-4)
        assert any(y == means for y in own), own

    check()
    moves = (
        ('γ', 'range', ['ArrowRight'], dict(gamma=gammas[gammas.index(1.4) + 1])),
        ('γ', 'range', ['End'], dict(gamma=4.0)),
        ('form of the loss', 'select-one', ['ArrowDown'], dict(form='released')),
        ('temperature T', 'select-one', ['ArrowDown'], dict(temperature=4.0)),
        ('pair', 'select-one', ['ArrowDown'], dict(pair=pairs[pairs.index('vit-cnn') + 1])),
        ('epoch', 'range', ['ArrowLeft'] * 3, dict(epoch=120)),
    )
    for label, role, keys, new in moves:
        book.get_by_label(label, exact=True).last.focus()
        assert book.evaluate('document.activeElement.type') == role
        for key in keys:
            book.keyboard.press(key)
        choice |= new
        check()
    box = book.locator('.widget-vbox:has(.ofa-range select)').last
    said = box.locator('[role=status]')
    want = f'{pair_name(choice["pair"])}, γ = 4, T = 4'
    assert reaches(book, lambda: want in said.inner_text(), True), said.inner_text()
    shot(book, 'accuracies')
    gamma = book.get_by_label('γ', exact=True).last
    moves_while_the_kernel_sleeps(book, 'accuracies', gamma, 'ArrowLeft', 7)


MAPS = '''[...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')].slice(2)
    .map((plot) => plot._fullData[0].z.map((row) => Array.from(row)))'''


def test_exits_and_layers_by_keyboard(lab, new_page):
    "The other two widgets over recorded numbers, in a notebook of their own."
    page = new_page()
    trouble = run_all(page, lab.format('explorers.ipynb'), stored=0, live=4)
    page.get_by_label('stage 4', exact=True).focus()
    page.keyboard.press('Space')  # the last exit is taken away
    want = ask(page, 'exits.words_of(exits.compute(pair=exits.pair.value, exits=[1, 2, 3]))')
    of_exits, of_maps = (page.locator('.widget-vbox [role=status]').nth(i) for i in (0, 1))
    assert reaches(page, of_exits.inner_text, want) and 'Exits 1, 2, 3' in want
    page.get_by_label('student', exact=True).focus()
    page.keyboard.press('ArrowDown')
    assert reaches(page, lambda: 'MLP' in ask(page, 'maps.words_of(maps.numbers)'), True)
    want = ask(page, 'maps.words_of(maps.numbers)')
    assert reaches(page, of_maps.inner_text, want)
    kernel = ask(page, "[[list(map(float, r)) for r in f.data[0]['z']] for f in maps.draw(maps.numbers)]")

    want = [[pytest.approx(row) for row in rows] for rows in kernel]
    assert until(page, lambda: page.evaluate(MAPS), want) == want
    shot(page, 'exits-and-layers')
    moves_while_the_kernel_sleeps(page, 'exits', page.get_by_label('stage 1', exact=True), 'Space', 1)
    moves_while_the_kernel_sleeps(page, 'maps', page.get_by_label('student after'), 'ArrowUp', 3)
    for widget in ('BranchExplorer', 'CKAExplorer'):
        latency_of(page, widget)
    page.close()
    assert trouble == []


def test_teacher_lab_by_keyboard(lab, new_page):
    "Labels, T and teacher by keyboard: what is drawn is what was recorded, what was not is said."
    page = new_page()
    trouble = run_all(page, lab.format('teacher_lab.ipynb'), stored=0, live=2)
    w = TeacherLab()

    def ring():
        (trace,) = [t for t in plotted(page, 0)['traces'] if t['name'] == 'chosen']
        return rounded(trace['x'] + trace['y'])

    def shown():
        "Words and ring, as a reader sees them, once they are those of the kernel's widget."
        said = page.locator('.widget-vbox [role=status]')
        chosen = w.figures[0].data[-1]
        assert reaches(page, said.inner_text, w.words_of(w.numbers))
        assert reaches(page, ring, rounded([*chosen.x, *chosen.y]))

    shown()
    latency_of(page, 'TeacherLab')  # from 60 to 120 labels and back, all recorded
    moves = (
        ('labels', 'range', ['ArrowRight'], dict(labels=120)),
        ('temperature T', 'select-one', ['ArrowUp'], dict(temperature=1.0)),
        ('method', 'select-one', ['End'], dict(method=w.method.values[-1])),
        ('labels', 'range', ['Home', 'ArrowRight'], dict(labels=60)),
        ('teacher has seen', 'select-one', ['Home'], dict(images=60)),
        ('labels', 'range', ['End'], dict(labels=1097)),
        ('pair', 'select-one', ['Home'], dict(pair=w.pair.values[0])),
    )
    for label, role, keys, new in moves:
        page.get_by_label(label, exact=True).focus()
        assert page.evaluate('document.activeElement.type') == role
        for key in keys:
            page.keyboard.press(key)
        for name, value in new.items():
            w.controls[name].value = value
        shown()
    assert 'Not recorded' in w.text() and ring() == []
    assert page.locator('.annotation-text').filter(has_text='Not recorded').count() == 1
    shot(page, 'teacher-lab')
    moves_while_the_kernel_sleeps(page, 'lab', page.get_by_label('labels', exact=True), 'Home', 1)
    latency_of(page, 'TeacherLab', 'to what was not recorded and back: ')  # 60 was, 120 was not
    labels = page.get_by_label('labels', exact=True)
    latency(page, 'where nothing was recorded: TeacherLab, labels', labels, first=2)  # 120 and 300 were not
    page.close()
    assert trouble == []


def test_without_the_front_end_the_page_says_what_to_do(lab, new_page):
    "JupyterLab that lacks anywidget's part: one sentence to be seen, after the time that loading may take."
    page = new_page()
    page.route('**/extensions/anywidget/**', lambda route: route.abort())
    page.goto(lab.format('alone.ipynb'))
    page.wait_for_function(IDLE, timeout=WAIT)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    said = page.locator('.jupyter-widgets .ofa-alone')
    said.wait_for(state='visible', timeout=5 * WAIT)
    assert 'run pip install anywidget jupyterlab_widgets' in said.inner_text()
    assert page.evaluate(FAILED) == []
    assert not page.locator('.js-plotly-plot:visible, .ofa-range:visible').count()
    shot(page, 'alone')
    page.close()


NAMES = '''[...document.querySelectorAll('.jupyter-widgets input')]
    .map((input) => [...input.labels].map((label) => label.innerText).join(' ').trim())'''
EDGES = '''[...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')]
    .map((plot) => [plot.querySelector('svg.main-svg'), plot.closest('.widget-vbox')]
        .map((node) => Math.round(node.getBoundingClientRect().right)))'''


def test_every_control_has_a_name(book):
    names = book.evaluate(NAMES)
    assert len(names) == 3 * (2 + 8) + 3 + 2 and all(names)
    edges = book.evaluate(EDGES)
    assert all(svg <= box <= 900 for svg, box in edges), edges  # nothing is cut off at 900 pixels


def test_latency(book):
    "The other widgets' stands at the end of their tests."
    for nth, widget in ((0, 'GammaExplorer'), (2, 'LossAnatomy'), (3, 'AccuracyCurves')):
        latency_of(book, widget, nth=nth)
    # From where it stands: at its end a step of the logit changes less than a pixel.
    latency(book, 'LossAnatomy, a logit', book.get_by_label('(true)').first, keys=['ArrowRight', 'ArrowLeft'])


def test_latency_of_the_pages(new_page, tmp_path):
    logits = [1.0, 2.0, 0.0, -1.0, 0.5, 0.0, 0.0, 1.0, -2.0, 0.0]
    card = dict(image=[[0, 255], [128, 0]], label=1, logits=logits)
    recorded_ones = AccuracyCurves, BranchExplorer, CKAExplorer, TeacherLab
    page = new_page()
    for widget in (GammaExplorer([card]), LossAnatomy([card]), *(make() for make in recorded_ones)):
        page.goto(widget.to_html(tmp_path / 'page.html').as_uri())
        page.wait_for_selector('.ofa-page .js-plotly-plot')
        latency_of(page, type(widget).__name__, 'page of ')
    page.close()


# plotly's own drawing, which follows when the hand rests, waits here until it is let go.
HELD = '''
    const later = window.setTimeout;
    window.held = [];
    window.setTimeout = (f, ms, ...more) => ms === 250 ? -held.push(f) : later(f, ms, ...more);
'''
COUNTED = '''() => {
    const react = Plotly.react;
    window.asked = 0;
    Plotly.react = (...figure) => (asked++, react(...figure));
}'''
LET_GO = 'held.splice(0).forEach((draw) => draw())'
LOWEST = '''() => Math.max(...[...document.querySelectorAll('.ofa-page .plot, .ofa-page .controls')]
    .map((part) => part.getBoundingClientRect().bottom))'''


def not_recorded():
    "A teacher that was recorded with 60 labels only, at a place where it was not."
    return TeacherLab(images=60, labels=120)


# Lines, bars, texts, ranges, ticks; markers, error bars, opacities, rectangles; heat maps and their layers;
# words in a box.
PAINTED = [
    (GammaExplorer, 'γ', ['ArrowRight', 'Home']),
    (LossAnatomy, 'γ', ['ArrowRight', 'Home', 'End']),
    (AccuracyCurves, 'γ', ['ArrowRight', 'End']),
    (BranchExplorer, 'stage 2', ['Space', 'Space']),
    (BranchExplorer, 'pair', ['ArrowDown']),
    (CKAExplorer, 'student', ['ArrowUp', 'End']),
    (CKAExplorer, 'student after', ['ArrowUp']),
    (TeacherLab, 'labels', ['ArrowRight', 'ArrowRight', 'Home']),
    (TeacherLab, 'pair', ['Home', 'End']),
    (not_recorded, 'labels', ['ArrowRight', 'ArrowRight', 'ArrowLeft']),
]


def pictures(page):
    "A page's figures as they look now."
    shots = [plot.screenshot() for plot in page.locator('.plot').all()]
    return [Image.open(io.BytesIO(shot)).convert('RGB') for shot in shots]


def apart(one, other):
    "In how many pixels two pictures differ by more than a quarter of the way from black to white."
    difference = ImageChops.difference(one, other).convert('L')
    return sum(difference.histogram()[64:])


@pytest.mark.parametrize('widget, label, keys', PAINTED)
def test_what_is_painted_is_what_plotly_draws(new_page, tmp_path, widget, label, keys):
    "To a few pixels at the edges of lines; and controls and figures of a page are on one screen."
    page = new_page()
    page.set_viewport_size(dict(width=1280, height=800))
    page.add_init_script(HELD)
    trouble = watch(page, kinds=('error',))
    page.goto(widget().to_html(tmp_path / 'page.html').as_uri())
    page.wait_for_selector('.js-plotly-plot .gtitle')
    page.wait_for_timeout(1000)
    assert page.evaluate(LOWEST) <= 800
    page.evaluate(COUNTED)
    before = pictures(page)
    for key in keys:
        page.get_by_label(label, exact=True).focus()
        page.keyboard.press(key)
        page.wait_for_timeout(100)
        assert page.evaluate('asked') == 0
        painted = pictures(page)
        page.evaluate(LET_GO)
        page.wait_for_function('asked', timeout=WAIT)
        page.wait_for_timeout(100)
        page.evaluate('asked = 0')
        assert [a.size for a in painted] == [a.size for a in before]
        assert max(map(apart, painted, before)) > 40  # something has moved
        assert max(map(apart, painted, pictures(page))) <= 40
        before = painted
    assert page.evaluate('document.documentElement.scrollWidth') <= 1280
    page.close()
    assert trouble == []


def test_what_was_not_recorded_comes_and_goes_at_once(new_page, tmp_path):
    "A ring, two lines and a box with words: all of them before the hand rests, whoever draws."
    page = new_page()
    page.set_viewport_size(dict(width=1280, height=800))
    page.add_init_script(HELD)
    page.goto(not_recorded().to_html(tmp_path / 'page.html').as_uri())
    page.wait_for_selector('.js-plotly-plot .gtitle')
    page.wait_for_timeout(1000)
    page.evaluate(LET_GO)
    before = pictures(page)
    for key in ('ArrowLeft', 'ArrowRight', 'ArrowLeft'):  # from 120 labels to 60, which were recorded
        page.get_by_label('labels', exact=True).focus()
        page.keyboard.press(key)
        page.wait_for_timeout(500)
        soon = pictures(page)
        page.evaluate(LET_GO)
        page.wait_for_timeout(200)
        assert min(map(apart, soon, before)) > 40  # both figures have moved
        assert max(map(apart, soon, pictures(page))) <= 40
        before = soon
    page.close()


DRAWN = "i => document.querySelectorAll('[data-page=steps] .plot')[i].data.map((t) => Array.from(t.y))"


def test_anatomy_page_without_a_kernel(new_page, tmp_path):
    "The page of `to_html`, from a file: γ by keyboard, and the widget's numbers."
    card = dict(image=[[0, 255], [128, 0]], label=1, logits=[1.0, 2.0, 0.0, -1.0])
    widget = LossAnatomy([card], list('abcd'))
    page = new_page()
    trouble = watch(page, kinds=('error',))
    page.goto(widget.to_html(tmp_path / 'page.html').as_uri())
    page.wait_for_selector('[data-page=steps] .js-plotly-plot')
    page.get_by_label('γ', exact=True).focus()
    for keys, gamma in (([], 2.0), (['ArrowLeft'] * 6, 1.4), (['End'], 4.0), (['Home'], 1.0)):
        for key in keys:
            page.keyboard.press(key)
        widget.gamma.value = gamma
        for i, shown in enumerate((widget.fig, widget.gradient)):
            assert page.evaluate(DRAWN, i) == [pytest.approx(list(t.y), abs=1e-12) for t in shown.data]
        assert page.inner_text('.numbers') == widget.text()
        assert page.locator('input[type=range]').get_attribute('aria-valuetext') == f'gamma {gamma:.1f}'
    if keep := os.environ.get('OFA_LEARN_SCREENSHOTS'):
        page.screenshot(path=f'{keep}/page.png', full_page=True)
    page.close()
    assert trouble == []


GROWN = '''(plot) => ({
    y: Array.from(plot._fullData[0].y ?? []),
    notes: plot._fullLayout.annotations.map((note) => note.text),
})'''
FIT = '''[...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')]
    .every((plot) => plot.getAttribute('aria-label') && plot.getBoundingClientRect().right <= 900)'''


def test_live_distillation(lab, new_page):
    "Walkthrough 20 by keyboard: start, move γ, pause, continue, stop; curves have the kernel's numbers."
    page = new_page()
    trouble = run_all(page, lab.format('20_live_distillation.ipynb'), stored=3, live=6)
    box = page.locator('.widget-vbox:has(.ofa-buttons)').nth(1)  # of step 2
    first, stop = (box.locator('.ofa-buttons button').nth(i) for i in (0, 1))

    def drawn():
        return box.locator('.js-plotly-plot').first.evaluate(GROWN)

    def losses():
        return ask(page, '[r["loss"] for r in second.run.rows]')

    def status():
        return box.locator('[role=status]').inner_text().split('.')[0]

    first.focus()
    assert first.inner_text() == 'Start' and stop.get_attribute('aria-disabled') == 'true'
    page.keyboard.press('Enter')
    assert reaches(page, first.inner_text, 'Pause', 60)
    assert reaches(page, lambda: len(drawn()['y']) >= 3, True, 60)  # it grows
    page.keyboard.press('Tab')
    page.keyboard.press('Tab')
    assert page.evaluate('document.activeElement.type') == 'range'
    for _ in range(6):
        page.keyboard.press('ArrowRight')
    assert reaches(page, lambda: drawn()['notes'][-1:], ['γ = 2'], 60)
    assert ask(page, 'second.run.task.gamma') == 2.0  # the kernel answers while it trains
    shot(page, 'live-running')
    page.keyboard.press('Shift+Tab')
    page.keyboard.press('Shift+Tab')
    page.keyboard.press('Enter')
    assert reaches(page, status, 'Paused between two steps', 60)
    assert reaches(page, first.inner_text, 'Continue')
    rows = losses()
    assert until(page, lambda: drawn()['y'], rows) == pytest.approx(rows)
    page.wait_for_timeout(500)
    assert ask(page, 'len(second.run.rows)') == len(rows)  # it stands still
    page.keyboard.press('Space')
    assert reaches(page, lambda: len(drawn()['y']) > len(rows), True, 60)
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    assert reaches(page, status, 'Stopped', 60) and reaches(page, first.inner_text, 'Start again')
    assert reaches(page, lambda: stop.get_attribute('aria-disabled'), 'true')
    threads = ask(page, '[t.name for t in threading.enumerate()]', 'import threading')
    assert 'ofa-learn live' not in threads
    marks = ask(page, 'second.run.marks')
    assert marks[0] == [0, 1.4] and marks[-1][1] == 2
    rows = losses()
    assert until(page, lambda: drawn()['y'], rows) == pytest.approx(rows)
    assert page.evaluate(FIT)
    shot(page, 'live-stopped')
    page.close()
    assert trouble == []
