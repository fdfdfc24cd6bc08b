"""Recorded sweeps: packed small, read back as records, refused when damaged, made again by their command."""

import json
import random
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch

from ofa_learn.checkpoints import digest
from ofa_learn.cli import sweep as sweep_command
from ofa_learn.recorded import (
    contents,
    load_recording,
    measured,
    pack,
    place,
    recorded,
    recordings,
    regenerate,
    source_of,
)
from ofa_learn.records import check_record, named, results
from ofa_learn.sweeps import Sweep, load_plan, planned_runs, recording_path, save_plan, sweep

PLAN = Sweep(
    pairs=('cnn-vit',),
    methods=('labels', 'kd', 'ofa', 'ofa+fitnet'),
    seeds=2,
    parts=dict(train=50, valid=60, test=60, teach=90),
    eval_every=2,
    teaching=dict(epochs=2, lr=5e-3, opt='adamw'),
    grid={
        'epochs': 2,
        'opt': 'adamw',
        'lr': 8e-3,
        'kd.temperature': 2.0,
        'gamma': [1.0, 2.0],
        'stages': [[4], None],
    },
)


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
    "The plan done in one process: its folder, its records, the packed file."
    home = tmp_path_factory.mktemp('recorded')
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        done = sweep(PLAN, home / 'out', jobs=0, device='cpu', progress=False)
    return home / 'out', done, pack(home / 'out', home / 'tiny.json', save_plan(PLAN, home / 'plan.json'))


def test_records_come_back(packed):
    _, done, file = packed
    again = load_recording(file)
    assert (
        [r['run'] for r in again] == [r['run'] for r in done] == [r['name'] for r in planned_runs(PLAN)]
    )  # in the plan's order
    for a, b in zip(map(check_record, again), done):
        assert {k: v for k, v in a.items() if k not in ('history', 'test_accuracy', 'valid_accuracy')} == {
            k: v for k, v in b.items() if k not in ('history', 'test_accuracy', 'valid_accuracy')
        }
        assert digest(a['setting']) == digest(b['setting'])  # true stays true, 1.0 a number
        looked = [h for h in b['history'] if h['valid_accuracy'] is not None]
        assert [h['epoch'] for h in a['history']] == [h['epoch'] for h in looked] == [2]
        assert [h['valid_accuracy'] for h in a['history']] == [round(h['valid_accuracy'], 2) for h in looked]
        last, whole = a['history'][-1], b['history'][-1]
        assert last['loss'] == pytest.approx(whole['loss'], abs=1e-4) and last['seconds'] == whole['seconds']
        assert 'losses' in whole and 'losses' not in last  # these stay in the sweep's folder
        assert abs(a['test_accuracy'] - b['test_accuracy']) <= 0.005


def test_tables_and_paired_differences_are_equal(packed):
    _, done, file = packed
    base = next(r['method'] for r in named(done) if r['method'].startswith('kd'))
    for a, b in zip(results(named(load_recording(file)), base), results(named(done), base), strict=True):
        assert a.keys() == b.keys()
        for k in a:
            # Accuracies are kept to .01, and with two seeds an interval reaches 12.7 standard errors.
            apart = 0.15 if k == 'interval' else 0.01
            known = isinstance(b[k], (float, tuple))
            assert a[k] == pytest.approx(b[k], abs=apart) if known else a[k] == b[k], k


def test_the_file_is_small_and_stable(packed, tmp_path):
    out, done, file = packed
    text = file.read_text(encoding='utf-8')
    assert len(text) < sum(p.stat().st_size for p in (out / 'runs').iterdir()) / 3 and str(out) not in text
    assert len(text.splitlines()) == len(done) + 3  # a line a run
    assert pack(out, tmp_path / 'again.json', PLAN).read_text(encoding='utf-8') == text
    single = tmp_path / 'one' / 'runs'
    single.mkdir(parents=True)
    (single / 'r.json').write_text(json.dumps(done[0]))
    with pytest.warns(UserWarning, match='1 of the 2 runs'):
        one = pack(
            tmp_path / 'one',
            tmp_path / 'one.json',
            replace(PLAN, methods=('labels',), grid=dict(epochs=2, opt='adamw', lr=8e-3)),
        )
    assert load_recording(one)[0]['run'] == done[0]['run']


def test_the_plan_inside_does_the_same_runs(packed, capsys):
    _, done, file = packed
    assert load_plan(file) == PLAN
    assert [r['name'] for r in planned_runs(load_plan(file))] == [r['run'] for r in done]
    sweep_command(str(file), print=True, out=str(file.parent / 'jobs'))
    assert len(capsys.readouterr().out.splitlines()) == len(done)


def test_runs_of_other_plans_are_refused(packed, tmp_path):
    out, done, _ = packed
    for plan, said in (
        (replace(PLAN, seeds=1), 'seed is 1 and the plan has 0'),
        (replace(PLAN, methods=('labels', 'kd', 'ofa')), "'ofa.fitnet'"),
        (replace(PLAN, grid=PLAN.grid | dict(gamma=1.0)), 'gamma is 2.0'),
        (replace(PLAN, pairs=('vit-cnn',)), "pair is 'cnn-vit'"),
        (replace(PLAN, grid=PLAN.grid | {'kd.temperature': 3.0}), 'kd.temperature is 2.0'),
    ):
        with pytest.raises(ValueError, match=said):
            pack(out, tmp_path / 'x.json', plan)
    assert not (tmp_path / 'x.json').exists() and place(PLAN, done[0]) < place(PLAN, done[-1])
    with pytest.raises(ValueError, match='ofa-learn sweep --plan'):
        pack(tmp_path, tmp_path / 'x.json', PLAN)
    with pytest.raises(ValueError, match='ofa-learn sweep --plan'):
        pack(tmp_path / 'nowhere', tmp_path / 'x.json', PLAN)


def test_what_is_no_record_is_named_and_left_out(packed, tmp_path):
    out, done, _ = packed
    (tmp_path / 'o' / 'runs').mkdir(parents=True)
    for i, r in enumerate(done):
        (tmp_path / 'o' / 'runs' / f'{i}.json').write_text(json.dumps(r))
    (tmp_path / 'o' / 'runs' / 'half.json').write_text('{"schema": 1, ')
    (tmp_path / 'o' / 'runs' / 'future.json').write_text(json.dumps(done[0] | dict(schema=7)))
    with pytest.warns(UserWarning) as said:
        file = pack(tmp_path / 'o', tmp_path / 'x.json', PLAN)
    assert (
        len(load_recording(file)) == len(done)
        and len(said) == 2
        and {'half.json', 'future.json'} == {str(w.message).split('/runs/')[1].split(':')[0] for w in said}
    )


def damaged(file, tmp_path, change):
    found = json.loads(file.read_text())
    change(found)
    (tmp_path / 'd.json').write_text(json.dumps(found))
    return tmp_path / 'd.json'


@pytest.mark.parametrize(
    'run', [{}, 'text', None, dict(group=99), dict(group=0), dict(group='0', run='odd')], ids=str
)
def test_a_damaged_run_is_named_and_skipped(packed, tmp_path, run):
    _, done, file = packed
    broken = damaged(file, tmp_path, lambda f: f['runs'].__setitem__(2, run))
    with pytest.warns(UserWarning, match='d.json: skipped run (2|odd)'):
        assert len(load_recording(broken)) == len(done) - 1


def test_damaged_files_are_refused(packed, tmp_path):
    _, _, file = packed
    for change, said in (
        (lambda f: f.update(version=2), 'version 2, expected 1'),
        (lambda f: f.update(kind='cka'), 'no recording'),
        (lambda f: f.update(runs=[]), 'without a single run'),
    ):
        with pytest.raises(ValueError, match=said):
            load_recording(damaged(file, tmp_path, change))
    (tmp_path / 'half.json').write_text(file.read_text()[:300])
    with pytest.raises(ValueError, match='half.json: not JSON'):
        load_recording(tmp_path / 'half.json')
    with pytest.raises(ValueError, match='half.json: not JSON'):
        load_plan(tmp_path / 'half.json')
    with pytest.raises(ValueError, match='no file'):
        load_recording(tmp_path / 'none.json')
    with pytest.raises(ValueError, match='no recording'):
        load_recording(save_plan(PLAN, tmp_path / 'plan.json'))


def test_names_that_are_not_there():
    with pytest.raises(
        ValueError, match=r"no recording 'gama', there are .*gamma.*ofa-learn sweep --plan PLAN"
    ):
        recorded('gama')
    with pytest.raises(ValueError, match='no file recorded:gama'):
        sweep_command('recorded:gama')


@pytest.mark.parametrize('name', recordings())
def test_what_is_shipped(name):
    "Every record is whole, belongs to its plan, and says nothing of the machine but what a record says."
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        records = recorded(name)
    plan = load_plan(f'recorded:{name}')
    assert [r['run'] for r in sorted(records, key=lambda r: place(plan, r))] == [
        r['run'] for r in records
    ] and len({r['run'] for r in records}) == len(records)
    assert (
        contents(records).startswith(f"{len(records)} runs of {plan.data}")
        and regenerate(name) == f'ofa-learn sweep --plan recorded:{name} --out {name}'
    )
    assert len(results(named(records), 'labels')) >= 1 and all(r['threads'] == 1 for r in records)


def test_contents_say_what_student_and_teacher_have_seen():
    own = recorded('lab_teacher_60') + recorded('lab_teacher_300')
    assert ' runs of digits, 60 training images (the teacher has seen 60 or 300); pairs: ' in contents(own)
    alone = [r for r in own if r['teacher'] is None]
    assert ' runs of digits, 60 training images; pairs: ' in contents(alone)


def test_several_recordings_are_one_source():
    names = ['lab_labels_30', 'lab_labels_120']
    records, command = source_of(names)
    assert records == [r for name in names for r in recorded(name)]
    assert command == (
        'for name in lab_labels_30 lab_labels_120; do ofa-learn sweep --plan recorded:$name --out $name; done'
    )
    assert source_of(names[:1]) == source_of(names[0])
    assert ', 30 or 120 training and 500 test images (the teacher has seen 1097)' in measured(records)
    three = [r | dict(epochs=e) for e in (8, 75, 150) for r in records[:1]]
    assert ', 8, 75 or 150 epochs, ' in measured(three)


def test_all_of_it_is_small_and_packaged():
    setup = (recording_path('').parents[3] / 'setup.py').read_text(encoding='utf-8')
    assert "'static/**/*.json'" in setup
    assert {'lab_gamma', 'methods'} <= set(recordings())
    assert sum(p.stat().st_size for p in recording_path('').parent.glob('*.json')) < 1_400_000


def test_read_without_the_sources_folder(tmp_path):
    "From any working directory, as an installed package reads it."
    code = "from ofa_learn.recorded import recorded; print(len(recorded('lab_gamma')))"
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={'PYTHONPATH': str(recording_path('').parents[3]), 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0 and int(done.stdout) >= 1, done.stderr


def test_a_flipped_bit_never_gives_another_run(packed, tmp_path):
    _, _, file = packed
    text, whole = file.read_bytes(), {r['run']: r for r in load_recording(file)}
    rng, path = random.Random(0), tmp_path / 'd.json'
    for _ in range(400):
        changed = bytearray(text)
        changed[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try:
                found = load_recording(path)
            except (ValueError, KeyError):
                continue
        for r in found:
            kept = {k: v for k, v in r.items() if k in whole[r['run']]}
            assert kept == whole[r['run']]
    path.write_bytes(text.replace(b'"gamma":[1.0,2.0]', b'"gamma":[1.0,2.5]'))
    with pytest.raises(ValueError, match='checksum: this is not what was written'):
        load_plan(path)
