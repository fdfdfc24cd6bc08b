"""The main job in small: the real command, its table, report and records."""

import subprocess
import sys
from pathlib import Path

from ofa_learn.records import load_records

CLI = Path(sys.executable).parent / 'ofa-learn'


def run(*args, cwd):
    return subprocess.run([CLI, *args], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_demo(tmp_path):
    done = run(
        'demo',
        '--quick',
        '--epochs',
        '2',
        '--seeds',
        '1',
        '--train',
        '100',
        '--pair',
        'mlp-cnn',
        '--records',
        'runs',
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'too short to conclude' in done.stdout and 'OFA, paper’s form' in done.stdout
    records = load_records(tmp_path / 'runs')
    assert {r['method'] for r in records} == {
        'labels',
        'labels_long',
        'deep_supervision',
        'kd',
        'ofa_released',
        'ofa_paper',
    }
    assert len({r['data']['fingerprint'] for r in records}) == 1 and all(
        r['pair'] == 'mlp-cnn' for r in records
    )
    assert 'ofa-twin' in (tmp_path / 'demo.html').read_text() and not list(tmp_path.glob('.demo*'))


def test_errors_are_one_line(tmp_path):
    done = run('demo', '--pair', 'cnn-cnn', cwd=tmp_path)
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
