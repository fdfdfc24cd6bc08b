"""Stops that nobody takes for a failure, and checkpoints that load as they were written or not at all."""

import signal, threading

import pytest

from ofa_learn.checkpoints import Stopped, stoppable
from ofa_learn.data import digits, split
from ofa_learn.distill import create_task
from ofa_learn.training import fit


def test_a_stop_is_no_failure():
    assert issubclass(Stopped, KeyboardInterrupt) and not issubclass(Stopped, Exception)


def test_contexts_within_one_another_share_one_request():
    def both():
        with stoppable() as outer:
            with stoppable() as inner:
                assert inner is outer
                signal.raise_signal(signal.SIGTERM)
            assert outer.asked, 'what came during the inner one is known to the outer one'

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped):
        both()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with stoppable() as later:
        assert not later.asked


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_the_innermost_context_says_when(number):
    seen = []

    def run():
        with stoppable(at_once=True):
            with stoppable():
                signal.raise_signal(number)
                seen.append('saved')
            seen.append('not reached')

    with pytest.raises(Stopped):
        run()
    assert seen == ['saved']

    def prompt():
        with stoppable():
            with stoppable(at_once=True):
                signal.raise_signal(number)
                seen.append('not reached')

    with pytest.raises(Stopped):
        prompt()
    assert seen == ['saved']


def test_many_sigterms_are_one_and_a_second_ctrl_c_interrupts():
    with pytest.raises(KeyboardInterrupt) as raised:
        with stoppable():
            for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
    assert raised.type is KeyboardInterrupt


def test_the_outermost_advice_is_the_message():
    with pytest.raises(Stopped, match='^the same command goes on$'):
        with stoppable(advice='the same command goes on'):
            with stoppable(advice='resume=True goes on'):
                raise Stopped('in the middle')


def test_an_error_stays_what_it_is():
    with pytest.raises(ValueError, match='wrong'):
        with stoppable(advice='go on') as stop:
            stop.ask()
            raise ValueError('wrong')


def test_another_thread_has_a_request_of_its_own():
    ready, told, out = threading.Event(), threading.Event(), []

    def work():
        try:
            with stoppable() as stop:
                out.append(stop)
                ready.set()
                told.wait(10)
        except Stopped:
            out.append('stopped')

    thread = threading.Thread(target=work)
    with stoppable() as mine:
        thread.start()
        assert ready.wait(10) and out[0] is not mine
        out[0].ask()
        out[0].ask()  # by hand it may come twice
        told.set()
        thread.join(10)
        assert out[1:] == ['stopped'] and not mine.asked


def test_a_training_within_tells_who_is_around_it():
    data = split(digits(), train=100)

    def around():
        for _ in range(3):
            with stoppable():
                starts.append(1)
                fit(create_task('labels', 'micro_vit', data=data), data, 3, **options)

    starts = []
    options = dict(device='cpu', progress=False, on_step=lambda done: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped):
        around()
    assert len(starts) == 1


def test_who_has_nothing_to_lose_does_not_begin_after_a_request():
    with pytest.raises(Stopped):
        with stoppable() as stop:
            stop.ask()
            with stoppable(at_once=True):
                raise AssertionError('begun')
