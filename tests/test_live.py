"""A training in a thread, without a browser: the same numbers as `distill`, and γ moved while it runs.

Also pause, continue, stop, exceptions, a second run, and no thread left.
"""

import contextlib
import gc
import importlib
import json
import re
import sys
import threading

import pytest
import torch
import torch.nn as nn

from ofa_learn.checkpoints import load_checkpoint
from ofa_learn.data import Augment, digits, split
from ofa_learn.figures import sketch
from ofa_learn.live import (
    LiveDistill,
    _accuracy_figure,
    _label_marks,
    _laboratory,
    _loss_figure,
    _numbers_text,
    _Runner,
    _status_text,
)
from ofa_learn.models import make_model
from ofa_learn.tasks import Teacher, create_task
from ofa_learn.training import accuracy, distill, fit

DATA = split(digits(), train=100)
HOW = dict(lr=3e-3, batch_size=25, device='cpu')
SOON = 60  # seconds, for what takes a moment


@pytest.fixture(scope='module')
def teacher():
    torch.manual_seed(5)
    return Teacher(make_model('micro_resnet'))


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    if _Runner.going is not None:
        _Runner.going.stop()
    assert not [t for t in threading.enumerate() if t.name == 'ofa-learn live']


def untimed(rows):
    return [{k: v for k, v in row.items() if k != 'seconds'} for row in rows]


def runner(teacher, epochs=4, changed=lambda run: None, seed=0, **options):
    "A runner whose `changed` is given the runner."

    def make(gamma):
        torch.manual_seed(seed)
        return create_task('ofa', 'micro_vit', teacher, data=DATA, gamma=gamma)

    run = _Runner(make, DATA, epochs, seed=seed, **HOW | options)
    run.changed = lambda: changed(run)
    return run


def when(happens):
    "An event, and a `changed` that sets it when something holds for the run."
    event = threading.Event()
    return event, lambda run: event.set() if happens(run) else None


# The runner


def test_left_alone_it_is_distill(teacher):
    run = runner(teacher)
    before = torch.random.get_rng_state()
    run.build()
    assert torch.equal(
        torch.random.get_rng_state(), before
    )  # building leaves the notebook's random numbers alone
    run.start()
    assert run.wait(SOON)
    want = distill('ofa', 'micro_vit', teacher, DATA, 4, gamma=1.4, progress=False, **HOW)
    assert (
        untimed(run.rows) == untimed(want.history)
        and run.test == want.test_accuracy
        and run.status == 'done'
        and run.error is None
    )
    assert all(
        torch.equal(a, b)
        for a, b in zip(run.task.student.state_dict().values(), want.model.state_dict().values())
    )
    run.start()  # again, with a new student
    assert run.wait(SOON) and untimed(run.rows) == untimed(want.history) and run.marks == [(0.0, 1.4)]


def test_gamma_counts_from_the_next_step(teacher):
    def later(run):
        run.gamma = 3.0 if len(run.rows) >= 2 else 1.4

    run = runner(teacher, changed=later)
    run.start()
    run.wait()
    assert run.marks == [
        (0.0, 1.4),
        (2.25, 3.0),
    ]  # 4 updates an epoch; the first one after the second row is done when it is asked

    def by_hand(done):
        task.gamma = 3.0 if done >= 2.25 else 1.4

    torch.manual_seed(0)
    task = create_task('ofa', 'micro_vit', teacher, data=DATA, gamma=1.4)
    assert untimed(fit(task, DATA, 4, seed=0, progress=False, on_step=by_hand, **HOW)) == untimed(run.rows)
    alone = runner(teacher)
    alone.start()
    alone.wait()
    assert untimed(alone.rows[:2]) == untimed(run.rows[:2]) and alone.rows[2]['loss'] < run.rows[2]['loss']


def test_pause_stands_still_and_loses_nothing(teacher):
    first, seen = when(lambda run: len(run.rows) == 1)
    asleep, slept = when(lambda run: run.status == 'paused')
    run = runner(teacher, changed=lambda run: (seen(run), slept(run)))
    run.start()
    assert first.wait(SOON)
    run.pause()
    assert asleep.wait(SOON)
    still = run.now()
    assert not run.wait(0.3) and run.now() == still and still['status'] == 'paused'
    run.resume()
    assert run.wait(SOON) and run.status == 'done'
    alone = runner(teacher)
    alone.start()
    alone.wait()
    assert untimed(run.rows) == untimed(alone.rows) and run.test == alone.test


def test_gamma_moved_in_a_pause_is_marked_where_it_is_taken_up(teacher):
    asleep, slept = when(lambda run: run.status == 'paused')

    def changed(run):
        if len(run.rows) == 1 and run.status == 'running':
            run.pause()
        slept(run)

    run = runner(teacher, 3, changed=changed)
    run.start()
    assert asleep.wait(SOON)
    run.changed, run.gamma = lambda: None, 2.0
    assert run.now()['marks'] == [(0.0, 1.4)]  # nothing has been trained with it yet
    run.resume()
    assert run.wait(SOON) and run.marks == [(0.0, 1.4), (1.25, 2.0)] and run.task.gamma == 2.0


@pytest.mark.parametrize('paused', [False, True])
def test_stop_leaves_no_thread(teacher, paused):
    ready, seen = when(lambda run: run.rows and (run.status == 'paused' or not paused))

    def changed(run):
        if paused and run.rows and run.status == 'running':
            run.pause()
        seen(run)

    run = runner(teacher, 100_000, changed=changed)
    run.start()
    assert ready.wait(SOON)
    run.stop()
    assert run.status == 'stopped' and not run.thread.is_alive() and run.test is None and run.error is None
    rows = len(run.rows)
    assert not run.wait(0.1) or len(run.rows) == rows
    run.stop()  # twice does no harm


def test_an_exception_is_kept(teacher):
    run = runner(teacher, lr=1e30, warmup_epochs=0, clip=None)
    run.start()
    run.wait()
    assert (
        run.status == 'failed'
        and 'the loss is not finite' in _numbers_text(run.now())
        and _numbers_text(run.now()).startswith('NotFinite: ')
    )
    run.fit_options |= dict(lr=3e-3)
    run.start()
    run.wait()
    assert run.status == 'done' and run.error is None  # what failed can be started again


def test_a_wrong_gamma_ends_the_run_and_says_so(teacher):
    run = runner(teacher, changed=lambda run: setattr(run, 'gamma', 0.5) if run.rows else None)
    run.start()
    run.wait()
    assert run.status == 'failed' and 'gamma' in _numbers_text(run.now())


def test_one_trains_at_a_time(teacher):
    ready, seen = when(lambda run: run.rows)
    a, b = runner(teacher, 100_000, changed=seen), runner(teacher, 2)
    a.start()
    assert ready.wait(SOON)
    b.start()
    assert a.status == 'stopped' and not a.thread.is_alive()
    assert b.wait(SOON) and b.status == 'done' and len(b.rows) == 2


def test_the_notebooks_threads_stay(teacher):
    before = torch.get_num_threads()
    run = runner(teacher, 1)
    run.start()
    run.wait()
    assert torch.get_num_threads() == before


# The hook in `fit`


def test_on_step_is_told_the_epochs_done():
    seen = []
    torch.manual_seed(0)
    history = fit(
        create_task('labels', 'micro_vit', data=DATA),
        DATA,
        2,
        on_step=seen.append,
        accumulate=2,
        progress=False,
        **HOW | dict(batch_size=20),
    )
    assert seen == pytest.approx([0.5, 1.0, 1.5, 2.0]) and len(history) == 2  # whole updates only


# Figures and words


def made_up(rows=3, marks=((0.0, 1.4),), **more):
    def row(e):
        seen = None if e == 2 else 50.0 + e
        return dict(
            epoch=e, loss=10 / e, losses=dict(final=2 / e, exit_1=4 / e, exit_2=4 / e), valid_accuracy=seen
        )

    now = dict(status='done', epochs=40, gamma=1.4, error=None, test=None, marks=list(marks))
    return now | dict(rows=[row(e) for e in range(1, rows + 1)]) | more


def test_figures_show_the_rows_and_the_marks():
    now = made_up(marks=[(0.0, 1.4), (3.0, 1.5), (3.5, 1.6), (20.0, 4.0)])
    loss, seen = _loss_figure(now), _accuracy_figure(now)
    assert [(t.name, list(t.x), list(t.y)) for t in loss.data][0] == ('sum', [1, 2, 3], [10, 5, 10 / 3])
    assert [t.name for t in loss.data] == ['sum', 'final logits', 'exit 1', 'exit 2']
    assert len({t.line.color for t in loss.data}) == 4
    assert (list(seen.data[0].x), list(seen.data[0].y)) == ([1, 3], [51, 53])  # no look, no point
    assert tuple(seen.layout.yaxis.range) == (0, 100)
    for f in (loss, seen):
        assert [s.x0 for s in f.layout.shapes] == [0, 3, 3.5, 20]
        assert [a.text for a in f.layout.annotations] == ['γ = 1.4', 'γ = 1.6', 'γ = 4']
        assert f.layout.meta['caption'] and f.layout.title.text and f.layout.xaxis.range[1] >= 40
    for figure in (_loss_figure, _accuracy_figure):  # what is shown is built without plotly, and is the same
        assert sketch(figure, now).as_dict() == json.loads(figure(now).to_json())
    empty = _loss_figure(made_up(0))
    assert not empty.data[0].x and tuple(empty.layout.yaxis.range) == (0, 1)


def test_words():
    assert _status_text(made_up(0, status='ready')).startswith('Ready.')
    assert (
        _status_text(made_up(marks=[(0.0, 1.4), (2.5, 4.0)]))
        == 'Done. γ was moved: γ = 4 from epoch 2.50 on.'
    )
    assert (
        _numbers_text(made_up(test=61.0))
        == '3 of 40 epochs, loss 3.333, validation accuracy 53.0 %, test accuracy 61.0 %'
    )
    assert _label_marks([], 40) == [] and _label_marks([(0.0, 1.0), (0.1, 2.0)], 40) == [
        (0.0, 1.0, ''),
        (0.1, 2.0, 'γ = 2'),
    ]


# The widget


def test_buttons_and_curves(teacher, tmp_path):
    w = LiveDistill('micro_vit', teacher, DATA, 4, **HOW)
    assert (
        w.buttons.names == ['Start', 'Stop']
        and w.buttons.enabled == [True, False]
        and 'press Start' in w.words.value
    )
    asleep, shown = threading.Event(), w.run.changed

    def changed():
        if len(w.run.rows) == 2 and w.run.status == 'running' and not asleep.is_set():
            w.run.pause()
        shown()
        if w.run.status == 'paused':
            asleep.set()

    w.run.changed = changed
    w.press('Start')
    assert asleep.wait(SOON)
    assert (
        w.buttons.names == ['Continue', 'Stop']
        and w.buttons.enabled == [True, True]
        and 'Paused' in w.words.value
    )
    assert list(w.fig.data[0].y) == [r['loss'] for r in w.run.rows] and len(w.run.rows) == 2
    w.gamma.value = 2.5
    w.press('Start')  # a second press that came late
    assert w.run.status == 'paused'
    w.press('Continue')
    assert w.run.wait(SOON)
    assert (
        w.buttons.names == ['Start again', 'Stop']
        and w.buttons.enabled == [True, False]
        and w.run.marks == [(0.0, 1.4), (2.25, 2.5)]
    )
    assert (
        list(w.figures[1].data[0].y) == [r['valid_accuracy'] for r in w.run.rows]
        and [a.text for a in w.fig.layout.annotations][-1] == 'γ = 2.5'
    )
    kept = w._repr_mimebundle_()
    assert (
        kept['text/plain'] == w.text()
        and '4 of 4 epochs' in w.text()
        and len(kept['application/vnd.plotly.v1+json']['data']) == len(w.fig.data)
    )
    states = [
        json.loads(t)
        for t in re.findall(
            r'<script type="application/json">(.*?)</script>',
            w.to_html(tmp_path / 'page.html').read_text(encoding='utf-8'),
            re.S,
        )
    ]
    assert [[t.get('y') for t in s['data']] for s in states] == [
        [list(t.y) for t in f.data] for f in w.figures
    ]  # the page version has the widget's numbers
    w.press('Start again')
    w.press('Stop')
    assert w.run.status in ('stopped', 'done') and w.buttons.enabled[1] is False


def test_it_starts_in_the_laboratory(tmp_path):
    "60 digits for the student, 1,097 for its teacher, which is trained once and no random number is used."
    before = torch.random.get_rng_state()
    w = LiveDistill(epochs=2, device='cpu')
    assert torch.equal(torch.random.get_rng_state(), before)
    data, task = w.run.data, w.run.task
    assert (len(data.train), len(data.valid), len(data.test), len(data.teach)) == (60, 200, 500, 1097)
    assert type(task.student).__name__ == 'MicroResNet' and 'Mixer' in type(task.teacher.model).__name__
    assert task.teacher.norm == data.for_teacher().norm != data.norm
    assert accuracy(task.teacher.model, data.test, task.teacher.norm) > 90
    assert w.run.fit_options['lr'] == 4e-3 and w.run.fit_options['augment'] == Augment(shift=1)
    w.press('Start')
    assert w.run.wait(SOON) and w.run.status == 'done'
    page = w.to_html(tmp_path / 'page.html').read_text(encoding='utf-8')
    assert '60 training images; a teacher of this set-up has seen 1097' in page
    other = LiveDistill('micro_vit', lr=1e-3)
    assert other.run.task.teacher.model is task.teacher.model is _laboratory()[0].model
    assert other.run.fit_options['lr'] == 1e-3


def test_a_teacher_or_data_of_ones_own_stay(teacher):
    of_the_lab = LiveDistill('micro_vit', teacher, device='cpu').run
    assert of_the_lab.data is _laboratory()[1] and of_the_lab.task.teacher.model is teacher.model
    own = LiveDistill('micro_vit', teacher, DATA, device='cpu').run
    assert own.data is DATA and 'lr' not in own.fit_options


def test_a_press_in_the_browser_arrives(teacher):
    w = LiveDistill('micro_vit', teacher, DATA, 1, **HOW)
    w.buttons._handle_custom_msg({'pressed': 'Start'}, [])
    assert w.run.wait(SOON) and w.run.status == 'done'


def test_an_exception_appears(teacher):
    w = LiveDistill('micro_vit', teacher, DATA, 3, **HOW | dict(lr=1e30, warmup_epochs=0, clip=None))
    w.press('Start')
    w.run.wait()
    assert (
        all(
            part in w.words.value
            for part in ('NotFinite', 'the loss is not finite', 'role=alert', 'Traceback')
        )
        and w.buttons.names[0] == 'Start again'
    )
    assert 'NotFinite' in w.text()


def test_closing_stops(teacher):
    ready = threading.Event()
    w = LiveDistill('micro_vit', teacher, DATA, 100_000, **HOW)
    shown = w.run.changed
    w.run.changed = lambda: (shown(), ready.set() if w.run.rows else None)
    w.press('Start')
    assert ready.wait(SOON)
    w.close()
    assert not w.run.thread.is_alive()


# Errors


@pytest.mark.parametrize(
    'change, error, message',
    [
        (
            dict(
                teacher=lambda: Teacher(
                    nn.Sequential(
                        nn.Flatten(),
                        nn.Linear(DATA.input_size[0] * DATA.input_size[1] * DATA.input_size[2], 9),
                    )
                )
            ),
            ValueError,
            'teacher: it has 9 classes, the student 10',
        ),
        (dict(student=lambda: make_model('micro_vit')), TypeError, 'student: expected a timm name'),
        (dict(gamma=lambda: 0.5), ValueError, 'expected a number from 1 to 4, got 0.5'),
        (dict(epochs=lambda: 0), ValueError, 'epochs: expected an integer from 1, got 0'),
        (dict(form=lambda: 'other'), ValueError, 'form'),
        (dict(gama=lambda: 2.0), TypeError, "'ofa' has no option 'gama'; did you mean 'gamma'"),
        (dict(lrr=lambda: 0.1), TypeError, "did you mean 'lr', an option of fit and distill"),
        (dict(options=lambda: dict(stages=2)), TypeError, 'given directly'),
        (dict(progress=lambda: True), TypeError, "no option 'progress'; it watches"),
        (dict(teacher=lambda: None), ValueError, 'teacher'),
    ],
)
def test_refused(teacher, change, error, message):
    with pytest.raises(error, match=message):
        LiveDistill(
            **dict(student='micro_vit', teacher=teacher, data=DATA)
            | {k: make() for k, make in change.items()}
        )


def test_a_widget_that_was_refused_goes_silently(teacher, monkeypatch):
    "ipywidgets closes what is thrown away, also what was never set up."
    said = []
    monkeypatch.setattr(sys, 'unraisablehook', said.append)
    with contextlib.suppress(TypeError):
        LiveDistill('micro_vit', teacher, DATA, gama=2)
    gc.collect()
    assert not said


def test_no_page_of_nothing(teacher, tmp_path):
    with pytest.raises(ValueError, match='nothing has been trained yet'):
        LiveDistill('micro_vit', teacher, DATA).to_html(tmp_path / 'page.html')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['ipywidgets', 'anywidget'])
def test_what_is_missing_is_named(monkeypatch, name):
    import ofa_learn
    import ofa_learn.live
    import ofa_learn.widgets

    for module in ('live', 'widgets'):
        monkeypatch.delitem(sys.modules, f'ofa_learn.{module}')
        monkeypatch.setattr(ofa_learn, module, getattr(ofa_learn, module))  # put back at the end
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        ImportError, match=f'needs {name}, which is not installed: pip install ipywidgets anywidget'
    ):
        importlib.import_module('ofa_learn.live')


def test_a_stop_saves_what_there_is(teacher, tmp_path):
    "By the flag that a signal sets elsewhere; the same task goes on from the folder."
    ready, seen = when(lambda run: run.rows)
    run = runner(teacher, 100_000, changed=seen, out=tmp_path / 'run')
    run.start()
    assert ready.wait(SOON)
    run.stop()
    state = load_checkpoint(tmp_path / 'run' / 'last.pt')
    assert run.status == 'stopped' and state['epoch'] >= len(run.rows) >= 1
    assert not (tmp_path / 'run' / '.lock').exists()
