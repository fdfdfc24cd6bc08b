"""The main job in small: the real command, its table, report and records."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fresh import Started, command, finished

import ofa_learn.demo as module
from ofa_learn.atomic import unsealed
from ofa_learn.demo import _ROWS, Plan, _asides, _conclusions, _failed, _rows
from ofa_learn.records import load_records

CLI = Path(sys.executable).parent / 'ofa-learn'


def run(*args, cwd):
    return finished(command, *args, folder=cwd)


SMALL = ['--quick', '--epochs', '2', '--seeds', '1', '--teach', '100', '--train', '60']


def test_demo(tmp_path):
    done = run('demo', *SMALL, '--pair', 'mlp-cnn', '--records', 'runs', cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'too short to conclude' in done.stdout and 'which has learned from 100 images' in done.stdout
    assert 'Labels alone reach' in done.stdout and 'rows with a teacher' in done.stdout
    records = {r['method']: r for r in load_records(tmp_path / 'runs')}
    assert set(records) == set(_ROWS)
    assert {r['pair'] for r in records.values()} == {'mlp-cnn'}
    more = [records.pop(row) for row in ('labels_all', 'kd_t4_more', 'ofa_t4_more')]
    assert {r['data']['train'] for r in more} == {100} and {r['data']['train'] for r in records.values()} == {
        60
    }
    prints = {r['data']['fingerprint'] for r in (*records.values(), *more)}
    assert len(prints) == 3  # all labels, a share of them, and the student's images
    page = (tmp_path / 'demo.html').read_text()
    assert 'ofa-page' in page and 'with all the teacher’s images they would reach' in page
    assert not list(tmp_path.glob('.demo*'))


def made_up(method, *accuracies):
    "A run for each accuracy."
    about = dict(pair='cnn-vit', split_seed=0, view_seed=0, setting={}, data={}, epochs=1, seconds=1.0)
    return [
        dict(about, method=method, seed=i, test_accuracy=a, valid_accuracy=a)
        for i, a in enumerate(accuracies)
    ]


def test_what_a_demo_concludes():
    "The sentences are those of the numbers: paired, and with their verdicts."
    means = dict(labels=70, deep_supervision=71, kd_t1=70, kd_t4=75, ofa_t1=60, ofa_t4=72, rsd=85, fitnet=80)
    records = [r for m, a in (means | dict(labels_all=98)).items() for r in made_up(m, a - 1, a, a + 1)]
    said = ' '.join(_conclusions(records))
    assert 'Labels alone reach 70.0 %, with all the teacher’s images they would reach 98.0 %, and' in said
    assert 'that of RSD, 85.0 %: +15.0 points (better) against labels alone' in said
    assert len(_conclusions(records)) == 3
    assert (
        'Of 6 rows with a teacher 4 are better than labels alone by the 95 % interval, '
        'none when corrected for all 8 comparisons.'
    ) in said
    assert 'KD moves by +5.0 points (better) and OFA by +12.0 points (better)' in said
    assert _asides(records) == ['Exits without a teacher, against labels alone: +1.0 points (better).']
    more = made_up('kd_t4_more', 89, 90, 91) + made_up('ofa_t4_more', 92, 93, 94)
    more = ' '.join(_asides(records + more))
    assert 'KD at T = 4 reaches 90.0 %: +15.0 points (better) against KD on the labelled ones.' in more
    assert 'OFA at T = 4 reaches 93.0 % there: +3.0 points (better) against that.' in more


def test_a_demo_whose_teacher_saw_no_more_has_no_row_of_more():
    assert {'kd_t4_more', 'ofa_t4_more'} == set(_rows(Plan())) - set(_rows(Plan(train=60, teach=60)))


def test_a_demo_counts_what_stays_among_its_rows():
    "A difference of 1.67 ± .33 (its standard error) is better by itself, and nothing among eight."
    plain = dict(deep_supervision=0, kd_t1=0, kd_t4=0, ofa_t1=0, ofa_t4=0, fitnet=0, labels_all=0)
    records = [r for m in ('labels', *plain) for r in made_up(m, 60.0, 61.0, 60.4)]
    rsd = made_up('rsd', 62.0, 62.0, 62.4)
    said = ' '.join(_conclusions(records + rsd))
    assert 'Of 6 rows with a teacher 1 is better than labels alone by the 95 % interval, none when' in said
    one = [r for r in records + rsd if r['seed'] == 0]
    assert 'None of 6 rows with a teacher can be judged: one seed has no interval.' in ' '.join(
        _conclusions(one)
    )
    clear = made_up('fitnet', 90.0, 91.1, 90.3)
    records = [r for r in records if r['method'] != 'fitnet']
    said = ' '.join(_conclusions(records + rsd + clear))
    assert 'a teacher 2 are better than labels alone by the 95 % interval, 1 when corrected for all 8' in said


def test_errors_are_one_line(tmp_path):
    command = [CLI, 'demo', '--pair', 'cnn-cnn']  # by the program itself
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (
        done.returncode == 2 and 'Traceback' not in done.stderr and 'expected one of cnn-vit' in done.stderr
    )
    done = run('teach', 'micro_resnet', '--data', 'nowhere.npz', cwd=tmp_path)
    assert done.returncode == 2 and "expected 'digits'" in done.stderr
    assert run('dmeo', cwd=tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_of_ones_own_data(tmp_path):
    import numpy as np

    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    images = (rng.random((120, 16, 16, 3)) * 80 + labels[:, None, None, None] * 60).astype(np.uint8)
    np.savez(tmp_path / 'mine.npz', images=images, labels=labels)
    done = run(
        'teach',
        'micro_resnet',
        '--data',
        'mine.npz',
        '--epochs',
        '8',
        '--out',
        't.safetensors',
        '--device',
        'cpu',
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    from ofa_learn.tasks import Teacher

    teacher = Teacher(str(tmp_path / 't.safetensors'))
    assert teacher.input_size == (3, 16, 16) and teacher.norm is not None


def begun(*args, cwd, **env):
    "The demo, started."
    return Started(command, 'demo', *args, folder=cwd, **env)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(os.name != 'posix', reason='sends signals')
def test_a_demo_that_was_stopped_goes_on_in_any_encoding(tmp_path):
    how, rows = [*SMALL, '--jobs', '1', '--records', 'runs'], len(_ROWS)
    process, work = begun(*how, cwd=tmp_path), tmp_path / 'demo.running'
    for _ in range(3000):
        if list(work.glob('runs/*.json')) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err.count('\n') == 1, err
    assert f'of {rows} runs; demo.running holds all of it, --resume goes on' in err
    kept = {f: f.read_bytes() for f in work.glob('runs/*.json')}
    teacher = (work / 'teacher.safetensors').read_bytes()
    assert kept and len(kept) < rows and not (tmp_path / 'demo.html').exists()

    again = run('demo', *how, cwd=tmp_path)
    assert again.returncode == 2 and 'holds a demo that was stopped; --resume goes on' in again.stderr
    other = run('demo', *how, '--gamma', '2', '--resume', cwd=tmp_path)
    assert other.returncode == 2 and 'holds another demo; plan.gamma: 1.4 → 2.0' in other.stderr
    assert (work / 'teacher.safetensors').read_bytes() == teacher

    process = begun(*how, '--resume', cwd=tmp_path, PYTHONIOENCODING='ascii')
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.isascii()
    said = out
    assert (
        'gamma = 1.4' in said
        and 'Teaching the teacher' not in said
        and said.count(' seed 0 ') == rows - len(kept)
    )
    records = load_records(tmp_path / 'runs')
    done = [unsealed(json.loads(text))['record'] for text in kept.values()]
    assert len(records) == rows and all(r in records for r in done)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['demo.html', 'runs']


def test_a_failed_run_says_which_and_why():
    assert str(_failed('kd', 1, 'its process died; was there memory enough?')).startswith('kd, seed 1: its')
    users = 'Traceback …\nofa_learn.training.NotFinite: the loss is not finite: kd at epoch 3'
    assert isinstance(_failed('kd', 1, users), ValueError) and '\n' not in str(_failed('kd', 1, users))
    bug = _failed('kd', 1, "Traceback …\nKeyError: 'x'")
    assert isinstance(bug, RuntimeError) and 'Traceback' in str(bug)


@pytest.mark.parametrize(
    'name, value', [('train', 0), ('teach', 0), ('epochs', 1.5), ('seeds', -1), ('gamma', 0.9)]
)
def test_a_plan_refuses_what_no_run_could_use(name, value):
    with pytest.raises(ValueError, match=f'{name}: expected'):
        Plan(**{name: value})
    with pytest.raises(ValueError, match='gamma: expected finite numbers'):
        Plan(gamma=float('inf'))


@pytest.mark.parametrize(
    'options, said',
    [
        (dict(gama=2), "Plan has no option 'gama'; did you mean 'gamma'?"),
        (dict(temperature=2), "'temperature' is an option of create_task for"),
    ],
)
def test_a_plan_answers_an_option_that_it_does_not_have(options, said):
    with pytest.raises(TypeError, match=re.escape(said)):
        Plan(**options)


def test_rows_that_cannot_be_built_are_known_before_the_teacher_learns(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'teach', lambda *a, **k: pytest.fail('it began to teach'))
    with pytest.raises(ValueError):
        module.demo(Plan(methods=('ofa+ofa',)), tmp_path / 'demo.html')
    assert not list(tmp_path.iterdir())
