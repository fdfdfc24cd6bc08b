"""Sweeps: which runs there are, their names, killed ones that go on, failing ones, and the records."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import wraps
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from fresh import Started, as_main, command, warm_processes
from processes import gone, others_of_group

from ofa_learn import sweeps, workers
from ofa_learn.atomic import locked
from ofa_learn.checkpoints import Stopped, digest
from ofa_learn.cli import sweep as sweep_command
from ofa_learn.cli_distill import parse_grid
from ofa_learn.data import Augment
from ofa_learn.records import check_record, load_record, load_records, named, over, record_path, results
from ofa_learn.runs import pair_models
from ofa_learn.sweeps import (
    Sweep,
    _method_options,
    _run_one,
    check_runs,
    commands,
    load_plan,
    planned_runs,
    ready_teacher,
    save_plan,
    sweep,
)
from ofa_learn.tasks import METHODS, Teacher
from ofa_learn.training import distill

SMALL = dict(parts=dict(train=100, valid=100, test=100), teaching=dict(epochs=2, lr=5e-3, opt='adamw'))
PLAN = Sweep(
    seeds=2, grid=dict(epochs=2, opt='adamw', lr=8e-3, gamma=[1.0, 2.0]), **SMALL
)  # 2 × (labels, kd, two OFA)
quiet = dict(jobs=0, device='cpu', progress=False)


def timeless(record):
    "A record without what a clock says."
    record = {k: v for k, v in record.items() if k not in ('seconds', 'cached')}
    return record | dict(
        history=[{k: v for k, v in row.items() if k != 'seconds'} for row in record['history']]
    )


def by_name(records):
    return {r['run']: timeless(r) for r in records}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The plan, done at once in one process: folder and records."
    out = tmp_path_factory.mktemp('whole')
    torch.set_num_threads(1)
    return out, sweep(PLAN, out, **quiet)


def test_records_are_complete(whole):
    out, records = whole
    assert len(records) == 8 and [r['run'] for r in records] == [r['name'] for r in planned_runs(PLAN)]
    assert {p.stem for p in (out / 'runs').iterdir()} == {r['run'] for r in records} and load_records(
        out / 'runs'
    ) == sorted(records, key=lambda r: r['run'])
    for r in map(check_record, records):
        assert (
            r['setting']['lr'] == 8e-3
            and r['setting']['weight_decay'] == 0.05
            and r['setting']['augment']['shift'] == 1
        )  # given, default, views
        assert (
            r['cached'] == (r['method'] != 'labels') == (r['teacher'] is not None)
            and r['threads'] == 1
            and r['device'] == 'cpu'
        )
        assert (
            len(r['history']) == 2
            and {'python', 'torch', 'timm', 'ofa_learn'} <= set(r['versions'])
            and r['machine']['cores'] >= 1
        )
        assert r['commit'] is None or len(r['commit'].rstrip('+')) == 40
    assert len(list((out / 'teachers').glob('*.safetensors'))) == len(list((out / 'caches').iterdir())) == 1
    kd = [r for r in records if r['method'] == 'kd']
    assert (
        kd[0]['setting'] == kd[1]['setting']
        and kd[0]['seed'] != kd[1]['seed']
        and kd[0]['history'][0]['loss'] != kd[1]['history'][0]['loss']
    )


def test_equal_to_plain_training(whole):
    "Seed by seed the same as `distill` with the teacher in the loop: the cache changes nothing."
    out, records = whole
    file, info = ready_teacher(PLAN, 'micro_resnet', out)
    for r in [r for r in records if r['method'] == 'kd'] + records[-1:]:
        own = {k: v for k, v in r['setting'].items() if k in ('gamma',)}
        run = distill(
            r['method'],
            'micro_vit',
            Teacher(str(file)),
            PLAN.load(),
            2,
            seed=r['seed'],
            **own,
            opt='adamw',
            lr=8e-3,
            augment=PLAN.augment,
            device='cpu',
            progress=False,
        )
        assert run.test_accuracy == r['test_accuracy'] and [h['losses'] for h in run.history] == [
            h['losses'] for h in r['history']
        ]
    assert info == records[-1]['teacher']


def test_nothing_is_repeated(whole, monkeypatch):
    out, records = whole
    before = {p: p.stat().st_mtime_ns for p in out.rglob('*')}

    def no(*_, **__):
        raise AssertionError('trained again')

    for name in ('_run_one', 'ready_teacher', '_ready_cache'):
        monkeypatch.setattr(sweeps, name, no)
    assert (
        sweep(PLAN, out, **quiet) == records and {p: p.stat().st_mtime_ns for p in out.rglob('*')} == before
    )
    assert (
        sweep(PLAN, out, only=records[3]['run'], **quiet)
        == [records[3]]
        == sweep(PLAN, out, only=records[3]['run'][-12:], **quiet)
    )


def test_a_larger_plan_does_the_rest(whole, tmp_path, monkeypatch):
    import shutil

    out, records = whole
    shutil.copytree(out, tmp_path / 'o')
    started, one = [], _run_one
    monkeypatch.setattr(
        sweeps, '_run_one', lambda plan, run, *a: started.append(run['name']) or one(plan, run, *a)
    )
    larger = replace(PLAN, grid=PLAN.grid | dict(gamma=[1, 2, 1.4]), seeds=(0, 1))
    assert len(sweep(larger, tmp_path / 'o', **quiet)) == 10 and len(started) == 2
    assert by_name(records).items() <= by_name(load_records(tmp_path / 'o' / 'runs')).items()
    broken = record_path(tmp_path / 'o', started[0])
    broken.write_text(broken.read_text()[:100])
    with pytest.warns(UserWarning, match='done again'):
        sweep(larger, tmp_path / 'o', **quiet)
    assert len(started) == 3 and started[2] == started[0] and load_record(broken)


DRIVER = '''
import sys, torch
torch.set_num_threads(1)
from ofa_learn.sweeps import load_plan, sweep
if __name__ == '__main__':
    print('ready', flush=True)
    sweep(load_plan(sys.argv[1]), sys.argv[2], int(sys.argv[3]), device='cpu', progress=False)
'''


def start(tmp_path, plan, jobs):
    (tmp_path / 'driver.py').write_text(DRIVER)
    words = (save_plan(plan, tmp_path / 'plan.json'), tmp_path / 'out', jobs)
    return Started(as_main, tmp_path / 'driver.py', *words, folder=tmp_path)


def test_killed_at_any_moment(whole, tmp_path):
    done, moments = {}, []
    for jobs in (0, 0, 2):
        process = start(tmp_path, PLAN, jobs)
        assert process.stdout.readline() == 'ready\n'
        if jobs:  # wait for the workers, where this system tells
            end = time.time() + 30
            while (
                Path('/proc/self/task').exists()
                and len(others_of_group(process.pid)) < 2
                and process.poll() is None
                and time.time() < end
            ):
                time.sleep(0.05)
        time.sleep(moments.append(random.uniform(0, 1.5)) or moments[-1])
        started = others_of_group(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        gone(started, 120)  # one that is still importing on a busy machine sees it when it has
        with warnings.catch_warnings():
            warnings.simplefilter('error')  # what is there is whole
            there = {
                p: p.stat().st_mtime_ns for p in (tmp_path / 'out' / 'runs').glob('*.json') if load_record(p)
            }
        assert done.items() <= there.items(), moments  # and what was finished is not done again
        done = there
    records = sweep(PLAN, tmp_path / 'out', **quiet)
    assert (
        done.items() <= {p: p.stat().st_mtime_ns for p in (tmp_path / 'out' / 'runs').glob('*.json')}.items()
    ), moments
    assert by_name(records) == by_name(whole[1]), moments


METHOD = '''
import os, torch
from ofa_learn.tasks import METHODS, DistillationTask, register
if 'fails' not in METHODS:
    @register('fails')
    class Fails(DistillationTask):
        "Raises."
        needs = ()
        def losses(self, student, heads, teacher, target): raise RuntimeError('on purpose, in the middle')
    @register('dies')
    class Dies(DistillationTask):
        "Takes its process with it."
        needs = ()
        def losses(self, student, heads, teacher, target): os._exit(9)
    @register('maps')
    class Maps(DistillationTask):
        "Wants what no cache keeps."
        needs = ('maps',)
        def losses(self, student, heads, teacher, target):
            return dict(ce=student.logits.square().mean() + 0*teacher.maps[0].sum())
'''


@pytest.fixture
def own_methods(tmp_path, monkeypatch):
    "Methods of a user's own module, forgotten after the test."
    (tmp_path / 'sweep_methods.py').write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(METHODS)
    yield ('sweep_methods',)
    METHODS.clear()
    METHODS.update(before)
    sys.modules.pop('sweep_methods', None)


def test_failing_and_dying_runs_are_named(own_methods, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, 'get_context', warm_processes().get_context)
    plan = Sweep(
        methods=('fails', 'dies', 'labels'), seeds=1, imports=own_methods, grid=dict(epochs=1), **SMALL
    )
    with pytest.warns(UserWarning) as said:
        records = sweep(plan, tmp_path / 'o', jobs=2, device='cpu', progress=False)
    said = [str(w.message) for w in said if str(w.message).startswith('failed')]
    assert {r['method'] for r in records} == {'labels'}
    assert len(said) == 2 and any('cnn-vit_fails_0' in s and 'on purpose' in s for s in said)
    assert any('cnn-vit_dies_0' in s and 'its process died' in s for s in said)
    kept = {p.name.split('_')[1]: p.read_text() for p in (tmp_path / 'o' / 'failed').iterdir()}
    assert set(kept) == {'fails', 'dies'} and 'Traceback' in kept['fails'] and 'in losses' in kept['fails']


def test_a_mended_run_is_no_longer_failed(own_methods, tmp_path):
    plan = Sweep(methods=('fails', 'maps'), seeds=1, imports=own_methods, grid=dict(epochs=1), **SMALL)
    with pytest.warns(UserWarning, match='failed: cnn-vit_fails_0'):
        records = sweep(plan, tmp_path / 'o', **quiet)
    assert (
        [r['method'] for r in records] == ['maps']
        and not records[0]['cached']
        and not (tmp_path / 'o' / 'caches').exists()
    )
    METHODS['fails'].losses = lambda self, student, heads, teacher, target: dict(
        ce=torch.nn.functional.cross_entropy(student.logits, target)
    )
    assert len(sweep(plan, tmp_path / 'o', **quiet)) == 2 and not list((tmp_path / 'o' / 'failed').iterdir())


def test_a_bad_teacher_takes_only_its_runs(tmp_path):
    plan = Sweep(
        pairs=('cnn-vit', 'mlp-vit'),
        methods=('labels', 'kd'),
        seeds=1,
        grid=dict(epochs=1),
        teachers=dict(micro_mixer=str(tmp_path / 't.safetensors')),
        **SMALL,
    )
    with pytest.raises(ValueError, match="teachers: 'micro_mixer' should be in .*no such file"):
        sweep(plan, tmp_path / 'o', **quiet)
    (tmp_path / 't.safetensors').write_text('nothing')
    with pytest.warns(UserWarning, match='failed: mlp-vit_kd_0_.*not a readable safetensors'):
        records = sweep(plan, tmp_path / 'o', **quiet)
    assert [(r['pair'], r['method']) for r in records] == [
        ('cnn-vit', 'labels'),
        ('cnn-vit', 'kd'),
        ('mlp-vit', 'labels'),
    ]


def test_a_teacher_from_a_file(whole, tmp_path):
    out, records = whole
    file, info = ready_teacher(PLAN, 'micro_resnet', out)
    plan = replace(
        PLAN,
        methods=('kd',),
        grid={k: v for k, v in PLAN.grid.items() if k != 'gamma'},
        teachers=dict(micro_resnet=str(file)),
    )
    got = sweep(plan, tmp_path, **quiet)
    old = [r for r in records if r['method'] == 'kd']
    of_a_file = {k: v for k, v in info.items() if k != 'images'}  # nobody knows what it was trained on
    assert (
        [r['teacher'] for r in got] == [of_a_file] * 2
        and [r['test_accuracy'] for r in got] == [r['test_accuracy'] for r in old]
        and got[0]['run'] != old[0]['run']
    )
    assert not list((tmp_path / 'teachers').glob('*.safetensors'))


def test_commands_reproduce_the_runs(whole, tmp_path):
    code = 'import sys, ofa_learn.cli as c; c.COMMANDS["s"] = c.sweep; sys.exit(c.main())'
    program = shlex.join([sys.executable, '-c', code, 's'])
    plan = replace(PLAN, seeds=(1,))
    lines = commands(plan, tmp_path / 'my runs', program, device='cpu')
    assert len(lines) == len(set(lines)) == 4
    done = subprocess.run(lines[3], shell=True, capture_output=True, text=True)  # one as the shell has it
    assert done.returncode == 0, done.stderr[-3000:]
    assert '1 runs in' in done.stdout and [r['run'] for r in load_records(tmp_path / 'my runs' / 'runs')] == [
        planned_runs(plan)[3]['name']
    ]
    for line in lines:  # the others without the start of a process
        words = dict(zip((w := shlex.split(line)[4:])[::2], w[1::2]))
        sweep_command(
            words['--plan'],
            out=words['--out'],
            jobs=int(words['--jobs']),
            device=words['--device'],
            only=words['--only'],
        )
    assert by_name(load_records(tmp_path / 'my runs' / 'runs')) == by_name(
        r for r in whole[1] if r['seed'] == 1
    )


def test_the_command(whole, tmp_path, capsys):
    out, records = whole
    plan = str(save_plan(PLAN, tmp_path / 'p.json'))
    sweep_command(plan, out=str(out), jobs=0, device='cpu')
    said = capsys.readouterr().out
    assert 'ofa gamma=2.0' in said and 'difference to kd' in said and '8 runs in' in said
    sweep_command(plan, out=str(tmp_path / 'o'), print=True)
    assert capsys.readouterr().out.count('ofa-learn sweep --plan') == 8 and [
        p.suffix for p in (tmp_path / 'o').iterdir()
    ] == ['.json']
    options = dict(
        methods='kd', grid='epochs=1', train=100, seeds=1, out=str(tmp_path / 'o'), jobs=0, device='cpu'
    )
    with (
        pytest.warns(UserWarning, match='failed'),
        pytest.raises(ValueError, match='1 of 1 runs failed; .*failed says why'),
    ):
        sweep_command(**options | dict(grid='epochs=1 lr=1e30 opt=sgd warmup_epochs=0'))
    with pytest.raises(ValueError, match='grid: kd: epochs: expected'):
        sweep_command(**options | dict(grid='epochs=0'))
    from fastcore.script import anno_parser

    parsed = vars(
        anno_parser(sweep_command, prog='sweep').parse_args(
            shlex.split('--grid "gamma=1,2 form=paper" --jobs 3 --print --methods ofa')
        )
    )
    assert (parsed['grid'], parsed['jobs'], parsed['print'], parsed['methods'], parsed['loop']) == (
        'gamma=1,2 form=paper',
        3,
        True,
        'ofa',
        False,
    )


def test_options_go_where_they_belong():
    def names(plan):
        return [r['name'] for r in planned_runs(plan)]

    def by(plan):
        return {r['method']: r for r in planned_runs(plan)}

    base = Sweep(seeds=1, **SMALL)
    r = by(
        replace(
            base,
            grid={'gamma': 1.1, 'temperature': 2.0, 'kd.temperature': 4.0, 'lr': 0.1, 'label_smoothing': 0.1},
        )
    )
    assert r['labels']['options'] == dict(label_smoothing=0.1) and r['labels']['fit'] == dict(lr=0.1)
    assert r['kd']['options'] == dict(temperature=4.0, label_smoothing=0.1) and r['ofa']['options'] == dict(
        gamma=1.1, temperature=2.0, label_smoothing=0.1
    )
    assert r['ofa']['setting']['form'] == 'paper' and r['ofa']['setting']['epochs'] == 100
    assert names(base) == names(
        replace(base, grid=dict(gamma=1.4, form='paper', epochs=100))
    )  # defaults given are defaults
    assert names(base) != names(replace(base, grid=dict(batch_size=51)))
    for change in (
        dict(view_seed=1),
        dict(split_seed=1),
        dict(augment=Augment()),
        dict(parts=dict(train=101, valid=100, test=100)),
    ):
        assert not set(names(base)) & set(names(replace(base, **change))), change
    taught = set(names(base)) & set(names(replace(base, teaching=dict(epochs=3))))
    assert len(taught) == 1 and 'labels' in taught.pop()  # labels alone do not depend on the teacher
    both = by(replace(base, methods='ofa+kd', grid=dict(weights=[[1.0, 0.5]], gamma=2.0)))['ofa+kd'][
        'options'
    ]
    assert both == dict(options_of=dict(ofa=dict(gamma=2.0), kd={}), weights=[1.0, 0.5])
    grid = dict(form=['paper', 'released'], stages=[[1], [4]], gamma=[1, 2, 1.0])
    assert len(planned_runs(replace(base, grid=grid))) == 2 + 2 * 2 * 2  # 1 and 1.0 are one


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(grid=dict(gama=1)), "fit, labels, kd and ofa: no option 'gama'; did you mean 'gamma'"),
        (
            dict(grid={'kd.gamma': 1}),
            "grid: kd: no option 'gamma'; 'gamma' is .* for dist, ofa and wttm",
        ),
        (dict(grid={'dkdd.gamma': 1}), "the method of 'dkdd.gamma': expected one of .*; did you mean 'kd'"),
        (
            dict(grid=dict(seed=[1])),
            "'seed'; 'seed' is an option of Sweep, as seeds",
        ),
        (dict(grid={'.lr': 0.1}), "grid: the method of '.lr': expected one of labels, kd, ofa, got ''"),
        (dict(grid={'ofa.lr': 0.1}), "grid: ofa: no option 'lr'; 'lr' is an option of fit in a plan's grid"),
        (dict(methods='ofa+kd', grid={'ofa+kd.gamma': 2}), "grid: ofa.kd: no option 'gamma'"),
        (dict(methods='ofa+kd', grid={'kd.label_smoothing': 0.1}), "grid: kd: no option 'label_smoothing'"),
        (dict(grid=dict(view_seed=1)), "no option 'view_seed'; 'view_seed' is an option of Sweep"),
        (dict(grid=dict(device='cpu')), "no option 'device'; 'device' is an option of sweep"),
        (dict(grid=dict(bank_momentum=0.1)), "'bank_momentum' is an option of a plan's grid for crd"),
        (dict(methods='crd', grid={'crd.momentum': 0.1}), "did you mean 'bank_momentum'"),
        (dict(grid=dict(lr=[])), 'lr has no values'),
        (dict(grid=dict(lr=[torch.zeros(1)])), 'lr must be plain values'),
        (dict(methods='odf'), 'did you mean'),
        (dict(teaching=dict(lrr=1)), "teaching: fit has no option 'lrr'; did you mean 'lr'"),
        (dict(pairs='cnn'), 'expected teacher-student'),
        (dict(pairs='cnn-nothing'), "timm has no 'nothing'"),
        (dict(seeds=0), 'at least one'),
        (dict(methods=()), 'at least one'),
    ],
)
def test_bad_plans(bad, message):
    with pytest.raises(ValueError, match=message):
        Sweep(**bad)


def test_options_in_the_wrong_place_are_told_where_they_go(tmp_path):
    with pytest.raises(TypeError, match="Sweep has no option 'gamma'; 'gamma' is .* a plan's grid for dist"):
        Sweep(methods='ofa', gamma=[1, 2])
    with pytest.raises(TypeError, match="no option 'epochs'; 'epochs' is an option of fit in a plan's grid"):
        replace(PLAN, epochs=3)
    with pytest.raises(TypeError, match="sweep has no option 'seeds'; 'seeds' is an option of Sweep"):
        sweep(PLAN, tmp_path / 'out', seeds=3)
    with pytest.raises(TypeError, match="sweep has no option 'job'; did you mean 'jobs'"):
        sweep(PLAN, tmp_path / 'out', job=0)
    assert not list(tmp_path.iterdir())


def test_crds_momentum_and_that_of_the_optimizer_are_two_options():
    plan = Sweep(methods='crd', seeds=1, grid=dict(momentum=0.8, bank_momentum=0.4), **SMALL)
    (run,) = planned_runs(plan)
    assert run['options'] == dict(bank_momentum=0.4) and run['fit'] == dict(momentum=0.8)
    assert (run['setting']['momentum'], run['setting']['bank_momentum']) == (0.8, 0.4)


def test_plans_as_files(tmp_path):
    plan = replace(PLAN, pairs='vit-cnn', seeds=(3, 5), augment=Augment(shift=1, flip=True))
    assert load_plan(save_plan(plan, tmp_path / 'p.json')) == plan and asdict(plan)['seeds'] == (3, 5)
    (tmp_path / 'q.json').write_text('{"pairs": "cnn-vit", "epochs": 3}')
    with pytest.raises(ValueError, match='a plan has no epochs; it has pairs, methods, grid'):
        load_plan(tmp_path / 'q.json')
    for text in ('{', '[]', '3'):
        (tmp_path / 'q.json').write_text(text)
        with pytest.raises(ValueError, match='q.json'):
            load_plan(tmp_path / 'q.json')
    with pytest.raises(ValueError, match='no file'):
        load_plan(tmp_path / 'none.json')


def test_small_pieces(whole):
    assert pair_models('mlp-resnet18') == ('micro_mixer', 'resnet18') and digest(
        dict(a=1, b=[2.0])
    ) == digest(dict(b=(2,), a=1.0)) != digest(dict(a=True, b=[2]))
    assert parse_grid(' lr=.1,1e-3 opt=sgd,adamw clip=None ') == dict(
        lr=[0.1, 1e-3], opt=['sgd', 'adamw'], clip=[None]
    )
    for bad in ('lr', 'lr=', '=3'):
        with pytest.raises(ValueError, match='option=value'):
            parse_grid(bad)
    assert {'gamma', 'weights', 'temperature', 'label_smoothing'} <= set(
        _method_options('ofa+kd')
    ) and 'device' not in _method_options('kd')
    with pytest.raises(ValueError, match='which 2 of 8 have'):
        sweep(PLAN, whole[0], only='cnn-vit_kd', **quiet)
    for jobs in (-1, 1.5):
        with pytest.raises(ValueError, match='jobs: expected'):
            sweep(PLAN, whole[0], jobs=jobs)


def test_tables_and_the_figure(whole):
    records = whole[1]
    with pytest.raises(ValueError, match='has two runs of seed 0'):
        results(records)
    rows = results(named(records))
    assert [(r['method'], r['n']) for r in rows] == [
        ('labels', 2),
        ('kd', 2),
        ('ofa gamma=1.0', 2),
        ('ofa gamma=2.0', 2),
    ]
    assert all(r['pairs'] == 2 for r in rows if r['method'] != 'kd')
    fig = over(records)
    lines = {t.name: (list(t.x), list(t.y)) for t in fig.data if t.mode == 'lines'}
    means = {r['method']: r['mean'] for r in rows}
    assert [v for n, v in lines.items() if n.startswith('OFA')] == [
        ([1.0, 2.0], [means['ofa gamma=1.0'], means['ofa gamma=2.0']])
    ]
    assert ([1.0, 2.0], [means['labels']] * 2) in lines.values() and sum(
        len(t.x) for t in fig.data if t.mode == 'markers'
    ) == 4
    with pytest.raises(ValueError, match='runs of one pair'):
        over(records + [records[0] | dict(pair='other')])
    with pytest.raises(ValueError, match="'tempo'"):
        over(records, 'tempo')


def test_tuples_are_lists_as_in_a_file(tmp_path):
    "A plan that is kept as JSON, for a cluster, has the runs that it had."
    plan = Sweep(
        methods='ofa',
        seeds=1,
        grid=dict(gamma=(1.0, 1.4), stages=[(1, 4), [4]]),
        parts=dict(train=100, valid=50, test=50),
    )
    again = load_plan(save_plan(plan, tmp_path / 'plan.json'))
    assert len(planned_runs(plan)) == 4
    assert [r['name'] for r in planned_runs(again)] == [r['name'] for r in planned_runs(plan)]
    with pytest.raises(ValueError, match='gamma has no values'):
        Sweep(methods='ofa', grid=dict(gamma=()))


def test_over_finds_a_setting_inside_a_joined_method():
    def record(method, setting, accuracy):
        return dict(pair='cnn-vit', method=method, seed=0, setting=setting, test_accuracy=accuracy)

    made = [record('kd', dict(temperature=1.0), 80.0)] + [
        record(
            'ofa+kd',
            dict(options_of=dict(ofa=dict(gamma=g, form='paper'), kd=dict(temperature=1.0))),
            80.0 + g,
        )
        for g in (1.0, 2.0)
    ]
    lines = {t.name: (list(t.x), list(t.y)) for t in over(made).data if t.mode == 'lines'}
    assert lines['OFA + KD'] == ([1.0, 2.0], [81.0, 82.0]) and lines['KD'] == ([1.0, 2.0], [80.0, 80.0])


def test_a_teacher_is_described_for_the_images_at_hand(tmp_path):
    "The same file of weights, other test images: its accuracies are those of these images."
    from dataclasses import replace

    from ofa_learn.sweeps import ready_teacher

    plan = Sweep(
        methods='kd', seeds=1, parts=dict(train=60, valid=50, test=50), teaching=dict(epochs=2, lr=5e-3)
    )
    other = replace(plan, parts=dict(train=60, valid=50, test=400))
    (file, one), (_, again), (same, two) = (
        ready_teacher(p, 'micro_resnet', tmp_path, 'cpu') for p in (plan, plan, other)
    )
    assert (
        one == again and one['weights'] == ready_teacher(plan, 'micro_resnet', tmp_path, 'cpu')[1]['weights']
    )
    given = [
        ready_teacher(replace(p, teachers=dict(micro_resnet=str(file))), 'micro_resnet', tmp_path, 'cpu')[1]
        for p in (plan, other)
    ]
    assert (
        given[0]['weights'] == given[1]['weights'] and given[0]['test_accuracy'] != given[1]['test_accuracy']
    )


def signalling(fn, after=False, only=lambda: True):
    "The function, with a SIGTERM just before or after it; `only` says whether this time."

    def call(*args, **how):
        if not after and only():
            signal.raise_signal(signal.SIGTERM)
        out = fn(*args, **how)
        if after and only():
            signal.raise_signal(signal.SIGTERM)
        return out

    return call


def in_training(fn):
    "`fit` or `teach`, with a SIGTERM in the first update."

    @wraps(fn)
    def call(*args, **how):
        return fn(*args, **how, on_step=lambda done: signal.raise_signal(signal.SIGTERM))

    return call


def third():
    "True the third time."
    calls = count(1)
    return lambda: next(calls) == 3


PHASES = {  # what is hit, and how many runs are finished then
    'before': ('planned_runs', signalling, 0),
    'teacher': ('teach', in_training, 0),
    'teacher, tested': ('measured', lambda f: signalling(f, after=True), 0),
    'answers': ('cache_key', signalling, 0),
    'student': ('fit', in_training, 0),
    'testing': ('accuracy', lambda f: signalling(f, after=True), 1),
    'third record': ('save_record', lambda f: signalling(f, only=third()), 3),
}


@pytest.mark.parametrize('phase', PHASES)
def test_a_stop_is_no_failure_and_the_same_call_goes_on(whole, tmp_path, phase):
    name, how, n = PHASES[phase]
    out = tmp_path / 'o'
    if phase in ('answers', 'student', 'testing', 'third record'):  # with its teacher there already
        shutil.copytree(whole[0] / 'teachers', out / 'teachers')
    if phase == 'teacher, tested':
        shutil.copytree(whole[0] / 'teachers', out / 'teachers', ignore=shutil.ignore_patterns('*.json'))
    with pytest.MonkeyPatch.context() as m, warnings.catch_warnings():
        warnings.simplefilter('error')
        m.setattr(sweeps, name, how(getattr(sweeps, name)))
        with pytest.raises(Stopped, match='keeps every finished run, and the same call goes on'):
            sweep(PLAN, out, **quiet)
    kept = list((out / 'runs').glob('*.json'))
    assert len(kept) == n and not list((out / 'failed').glob('*'))
    assert not list(out.rglob('.*'))  # no lock and no temporary file
    for p in kept:
        assert timeless(load_record(p)) == by_name(whole[1])[p.stem]
    assert sweep(PLAN, out, only=planned_runs(PLAN)[-1]['name'], **quiet)


def test_the_command_shows_what_it_has_when_it_is_stopped(whole, tmp_path, monkeypatch, capsys):
    (tmp_path / 'o' / 'runs').mkdir(parents=True)
    shutil.copytree(whole[0] / 'teachers', tmp_path / 'o' / 'teachers')
    for r in whole[1][:6]:  # all but those with γ = 2
        shutil.copy(record_path(whole[0], r['run']), tmp_path / 'o' / 'runs')
    monkeypatch.setattr(sweeps, 'fit', in_training(sweeps.fit))
    plan = str(save_plan(PLAN, tmp_path / 'p.json'))
    with pytest.raises(Stopped, match='the same command goes on'):
        sweep_command(plan, out=str(tmp_path / 'o'), jobs=0, device='cpu')
    said = capsys.readouterr().out
    assert '6 of 8 runs in' in said and 'ofa gamma=1.0' in said, said


@pytest.mark.skipif(os.name != 'posix', reason='sends signals')
@pytest.mark.parametrize('phase, number', [('teachers', signal.SIGTERM), ('runs', signal.SIGINT)])
def test_ctrl_c_in_a_terminal(tmp_path, phase, number):
    "The whole group gets it, as from a terminal; the code is 130 and one line says how to go on."
    words = dict(pairs='cnn-vit,mlp-vit', methods='labels,kd', train='100', seeds='2', device='cpu', jobs='2')
    words |= dict(out=tmp_path / 'o', grid='epochs=150' if phase == 'runs' else 'epochs=1')
    if phase == 'runs':
        words |= dict(methods='labels')
    process = Started(command, 'sweep', *(f'--{k}={v}' for k, v in words.items()), folder=tmp_path)
    end = time.time() + 240
    while len(list((tmp_path / 'o' / phase).glob('.*.lock'))) < 2 and time.time() < end:
        time.sleep(0.05)
    started = others_of_group(process.pid)
    os.killpg(process.pid, number)
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.strip().splitlines()[-1] == (
        f"ofa-learn sweep: stopped; {tmp_path / 'o'} keeps every finished run, and the same command goes on"
    )
    assert 'Traceback' not in errors and 'failed' not in errors + said
    gone(started)
    assert not list((tmp_path / 'o').glob('failed/*'))


def holds(seconds, *what):
    with locked(*what):
        print('held', flush=True)
        time.sleep(seconds)


@contextmanager
def held(seconds, *what):
    "Within: another process holds a lock."
    process = Started(holds, seconds, *what, folder=Path.cwd())
    assert process.stdout.readline() == 'held\n'
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_two_sweeps_and_one_folder(whole, tmp_path):
    out = tmp_path / 'o'
    shutil.copytree(whole[0], out)
    gone = [r['run'] for r in whole[1][-2:]]
    for name in gone:
        record_path(out, name).unlink()
    with held(60, out) as other:
        with pytest.raises(ValueError, match=f'o is being written by process {other.pid} on '):
            sweep(PLAN, out, **quiet)
        assert len(sweep(PLAN, out, only=gone[0], **quiet)) == 1, 'a single run is no second sweep'
        plan = replace(PLAN, methods='labels', grid={k: v for k, v in PLAN.grid.items() if k != 'gamma'})
        assert len(sweep(plan, out, **quiet)) == 2, 'nothing to do is no writing'
    with held(60, out / 'runs', gone[1]) as other:
        with pytest.warns(
            UserWarning, match=f'left out: .*{gone[1]} is being written by process {other.pid}'
        ):
            assert len(sweep(PLAN, out, **quiet)) == 7
        assert not list((out / 'failed').glob('*'))
        with (
            pytest.warns(UserWarning, match='left out'),
            pytest.raises(ValueError, match='^1 of 8 runs are being done elsewhere'),
        ):
            sweep_command(str(save_plan(PLAN, tmp_path / 'p.json')), out=str(out), jobs=0, device='cpu')
    assert by_name(sweep(PLAN, out, **quiet)) == by_name(whole[1])


def test_a_teacher_that_somebody_is_making_is_waited_for(whole, tmp_path):
    out = tmp_path / 'o'
    shutil.copytree(whole[0], out, ignore=shutil.ignore_patterns('runs', 'caches'))
    (about,) = (out / 'teachers').glob('*.json')
    known, (file,) = about.read_text(), (out / 'teachers').glob('*.safetensors')
    about.unlink()
    with (
        held(3, out / 'teachers', file.stem),
        pytest.warns(UserWarning, match='waiting: .* is being written by'),
    ):
        made = ready_teacher(PLAN, 'micro_resnet', out, 'cpu')
    assert made[0] == file and about.read_text() == known
    with held(60, out / 'teachers', file.stem), pytest.warns(UserWarning, match='waiting') as seen:
        about.unlink()

        def stop_when_it_waits():
            while not any('waiting' in str(w.message) for w in seen.list):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=stop_when_it_waits, daemon=True).start()
        with pytest.raises(Stopped):
            sweep(PLAN, out, **quiet)


def arrays(tmp_path, seed):
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 255, (120, 8, 8), dtype=np.uint8), np.arange(120) % 3
    np.savez(tmp_path / 'mine.npz', images=images, labels=labels)


@pytest.mark.parametrize('kind', ['npz', 'folder'])
def test_data_that_changed_are_read_again(tmp_path, kind):
    "In one session, by the same path: other images are other runs."
    from PIL import Image

    def write(seed):
        if kind == 'npz':
            return arrays(tmp_path, seed)
        rng = np.random.default_rng(seed)
        for k in 'abc':
            (tmp_path / 'mine' / k).mkdir(parents=True, exist_ok=True)
            for i in range(20):
                pixels = rng.integers(0, 255, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / 'mine' / k / f'{i}.bmp')

    write(0)
    source = tmp_path / ('mine.npz' if kind == 'npz' else 'mine')
    options = {} if kind == 'npz' else dict(size=8, channels=1)
    plan = Sweep(
        methods='labels',
        seeds=1,
        data=str(source),
        data_options=options,
        parts=dict(train=30, valid=9, test=9),
        grid=dict(epochs=1),
    )
    (one,) = sweep(plan, tmp_path / 'o', **quiet)
    old = planned_runs(plan)
    assert plan.load() is plan.load()
    write(1)
    (two,) = sweep(plan, tmp_path / 'o', **quiet)
    assert one['run'] != two['run'] and one['data']['fingerprint'] != two['data']['fingerprint']
    with pytest.raises(ValueError, match='have changed since this run was planned'):
        _run_one(plan, old[0], tmp_path / 'o', device='cpu')


@pytest.mark.parametrize(
    'how, said',
    [
        (dict(grid=dict(gamma=[1.0, 0.5])), r'grid: ofa: gamma: .*0.5'),
        (dict(grid=dict(gamma=True)), 'grid: ofa: gamma: expected a number, got True'),
        (dict(grid=dict(temperature=[1.0, 0])), 'grid: kd: temperature: expected a finite number above 0'),
        (dict(methods='ofa+kd', grid={'kd.temperature': 0}), r'grid: ofa\+kd: temperature'),
        (dict(grid=dict(exit_weight=-1)), 'grid: ofa: exit_weight: expected a finite number of at least 0'),
        (dict(methods='kd+ofa', grid={'ofa.form': 'papr'}), r"grid: kd\+ofa: form: .*did you mean 'paper'"),
        (dict(methods='ofa+kd', grid=dict(weights=[[1, -1]])), r'grid: ofa\+kd: weights: expected 2'),
        (dict(grid=dict(label_weight=1.0)), "grid: ofa: label_weight: the paper's form holds"),
        (dict(grid=dict(label_smoothing=1)), 'grid: labels: label_smoothing: expected 0 ≤ ε < 1'),
        (dict(grid=dict(positions='odd')), 'grid: labels: positions: expected one of even, released'),
        (dict(grid=dict(epochs=[1, 0])), 'grid: labels: epochs: expected an integer from 1, got 0'),
        (dict(grid=dict(ema=True)), 'grid: labels: ema: expected a number from 0 and below 1'),
        (dict(grid=dict(ema=[None, 1.5])), 'grid: labels: ema: .*got 1.5'),
        (dict(grid=dict(sched='plateau')), 'grid: labels: sched: plateau is not offered'),
        (dict(grid=dict(opt='adamww')), 'grid: labels: opt: timm has no .adamww.; did you mean'),
        (dict(grid=dict(precision='fp8')), 'grid: labels: precision: expected one of fp32, bf16, fp16'),
        (dict(grid=dict(T=4)), "no option 'T'; did you mean 'temperature'"),
        (dict(grid=dict(batch=4)), "no option 'batch'; did you mean 'batch_size'"),
        (dict(teaching=dict(epochs=0)), 'teaching: epochs: expected an integer from 1, got 0'),
        (dict(teaching=dict(ema=True)), 'teaching: ema'),
        (dict(seeds=True), 'seeds: expected how many, or a list of them, got True'),
        (dict(seeds=[0, -1]), 'seeds: expected an integer from 0, got -1'),
        (dict(view_seed=-1), 'view_seed: expected an integer from 0'),
        (dict(split_seed=0.5), 'split_seed: expected an integer from 0'),
        (dict(eval_every=0), 'eval_every: expected an integer from 1'),
        (dict(augment=dict(shfit=1)), "augment: no option 'shfit'; did you mean 'shift'"),
        (dict(augment=3), 'augment: expected an Augment'),
        (dict(parts=dict(trian=9)), "parts: no option 'trian'; did you mean 'train'"),
        (dict(grid=[1]), r'grid: expected a dict, got \[1\]'),
        # one word, two meanings
        (dict(methods=('ofa', 'dist'), grid=dict(gamma=[1, 2])), "by 'ofa.gamma' or 'dist.gamma'"),
        (dict(methods=('dkd', 'dist'), grid=dict(beta=1)), "by 'dkd.beta' or 'dist.beta'"),
        (dict(methods=('kd', 'crd'), grid=dict(temperature=1)), "by 'kd.temperature' or 'crd.temperature'"),
        (dict(methods=('fitnet', 'rsd'), grid=dict(weight=1)), "by 'fitnet.weight' or 'rsd.weight'"),
        (dict(methods=('ofa+kd', 'dist'), grid=dict(gamma=2)), "by 'ofa.gamma' or 'dist.gamma'"),
    ],
)
def test_a_plan_is_refused_when_it_is_built_by_whatever_door(tmp_path, how, said):
    plan = SMALL | dict(seeds=1, methods=('labels', 'kd', 'ofa')) | how
    with pytest.raises(ValueError, match=said):
        Sweep(**plan)
    (tmp_path / 'p.json').write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=said):
        load_plan(tmp_path / 'p.json')
    with pytest.raises(ValueError, match=said):
        sweep_command(str(tmp_path / 'p.json'), out=str(tmp_path / 'o'), jobs=0)
    assert not (tmp_path / 'o').exists()


@pytest.mark.parametrize(
    'grid, said',
    [
        ('gamma=1,.5', 'grid: ofa: gamma: expected finite numbers of at least 1'),
        ('ema=True', 'grid: labels: ema'),
        ('sched=plateau', 'grid: labels: sched: plateau is not offered'),
        ('temperature=0', 'grid: kd: temperature'),
        ('T=4', "did you mean 'temperature'"),
        ('gamma=1 gamma=2', 'grid: gamma is said twice'),
    ],
)
def test_the_command_refuses_a_grid_before_anything_is_written(tmp_path, grid, said):
    with pytest.raises(ValueError, match=said):
        sweep_command(methods='labels,kd,ofa', grid=grid, out=str(tmp_path / 'o'), jobs=0)
    assert not (tmp_path / 'o').exists()


def test_a_word_with_one_meaning_is_for_all_and_a_method_may_be_named():
    plan = Sweep(methods=('kd', 'ofa', 'dkd'), seeds=1, grid=dict(temperature=2.0, stages=[[1, 4]]), **SMALL)
    assert [r['options'].get('temperature') for r in planned_runs(plan)] == [2.0] * 3
    plan = Sweep(methods=('ofa', 'dist'), seeds=1, grid={'ofa.gamma': [1, 2], 'dist.gamma': 0.5}, **SMALL)
    assert [r['options']['gamma'] for r in planned_runs(plan)] == [1, 2, 0.5]


@pytest.mark.parametrize(
    'how, said',
    [
        (dict(methods='ofa', grid=dict(stages=[[9]])), r'cnn-vit_ofa_0_\w+: stages'),
        (dict(methods='fitnet', grid=dict(stages=[[4], 'x'])), r'cnn-vit_fitnet_0_\w+: stages'),
        (dict(methods='ofa', grid=dict(gamma=[[1, 2]])), r'cnn-vit_ofa_0_\w+: gamma: .*5 of them'),
    ],
)
def test_what_only_the_networks_can_say_is_said_before_the_teacher_is_trained(
    tmp_path, monkeypatch, how, said
):
    monkeypatch.setattr(sweeps, 'teach', None)
    plan, noise = Sweep(seeds=1, **SMALL | dict(grid=dict(epochs=1)) | how), torch.get_rng_state()
    file = str(save_plan(plan, tmp_path / 'p.json'))
    for start in (
        lambda: sweep(plan, tmp_path / 'o', **quiet),
        lambda: commands(plan, tmp_path / 'o'),
        lambda: sweep_command(file, out=str(tmp_path / 'o'), jobs=0, prepare=True),
    ):
        with pytest.raises(ValueError, match=said):
            start()
    written = [p for p in (tmp_path / 'o').rglob('*') if p.is_file()]  # the place was tried, and is empty
    assert not written and torch.equal(torch.get_rng_state(), noise)


def test_rows_of_a_stopped_sweep_say_what_was_planned(whole):
    done = [r for r in whole[1] if r['setting'].get('gamma') != 2.0]
    assert {r['method'] for r in named(done)} == {'labels', 'kd', 'ofa'}
    assert {r['method'] for r in named(done, planned_runs(PLAN))} == {'labels', 'kd', 'ofa gamma=1.0'}


def test_a_teacher_that_was_stopped_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    "And ends as one that was left alone."
    plan = Sweep(methods='kd', seeds=1, grid=dict(epochs=1), **SMALL)
    alone = ready_teacher(plan, 'micro_resnet', tmp_path / 'alone', 'cpu')
    done, taught = [], sweeps.teach

    def stop_once(name, data, file, **how):
        def tick(at):
            done.append(at)
            if len(done) == 3:
                signal.raise_signal(signal.SIGTERM)

        return taught(name, data, file, **how, on_step=tick)

    monkeypatch.setattr(sweeps, 'teach', stop_once)
    with pytest.raises(Stopped):
        sweep(plan, tmp_path / 'o', **quiet)
    (record,) = sweep(plan, tmp_path / 'o', **quiet)
    assert done == [0.5, 1.0, 1.5, 2.0], 'no update twice'
    assert record['teacher'] == alone[1]
    assert sorted(p.suffix for p in (tmp_path / 'o' / 'teachers').iterdir()) == ['.json', '.safetensors']


class Killed(Exception):
    "Power is gone."


def once(what, after):
    "`fit`, with something happening after so many updates, once; and where each update was."
    done, trained = [], sweeps.fit

    @wraps(trained)
    def fit(*args, **how):
        def tick(at):
            done.append(at)
            if len(done) == after:
                what()

        return trained(*args, **how, on_step=tick)

    return fit, done


def power_fails():
    raise Killed


@pytest.mark.parametrize('method', ['kd', 'fitnet'])  # with its teacher's answers kept, and with the teacher
@pytest.mark.parametrize('how', ['stopped', 'killed'])
def test_a_run_that_ended_in_the_middle_goes_on_from_its_checkpoint(tmp_path, monkeypatch, method, how):
    "And its record is that of one that was left alone."
    plan = Sweep(methods=method, seeds=1, grid=dict(epochs=3), **SMALL)
    (alone,) = sweep(plan, tmp_path / 'alone', **quiet)
    fit, done = once(power_fails if how == 'killed' else lambda: signal.raise_signal(signal.SIGTERM), 3)
    monkeypatch.setattr(sweeps, 'fit', fit)
    monkeypatch.setattr(sweeps, '_KEEP_SECONDS', 0.0 if how == 'killed' else 60.0)
    if how == 'killed':
        with pytest.warns(UserWarning, match='failed: .*Killed'):
            assert sweep(plan, tmp_path / 'o', **quiet) == []
    else:
        with pytest.raises(Stopped):
            sweep(plan, tmp_path / 'o', **quiet)
    (folder,) = (tmp_path / 'o' / 'runs').iterdir()
    assert sorted(p.name for p in folder.iterdir())[0] == 'last.pt', 'no history, no best'
    (record,) = sweep(plan, tmp_path / 'o', **quiet)
    again = 1 if how == 'killed' else 0  # the update that was under way
    assert len(done) == 6 + again and sorted(set(done)) == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert timeless(record) == timeless(alone)
    assert [p.suffix for p in (tmp_path / 'o' / 'runs').iterdir()] == ['.json'], 'the checkpoints are gone'


def test_no_record_is_half_of_another_version(tmp_path, monkeypatch):
    "A run whose checkpoint another version wrote begins again, and takes that with it at its end."
    plan = Sweep(methods='labels', seeds=1, grid=dict(epochs=2), **SMALL)
    fit, done = once(lambda: signal.raise_signal(signal.SIGTERM), 3)
    monkeypatch.setattr(sweeps, 'fit', fit)
    with pytest.raises(Stopped):
        sweep(plan, tmp_path / 'o', **quiet)
    there, before = sweeps.surroundings, len(done)
    monkeypatch.setattr(sweeps, 'surroundings', lambda device: there(device) | dict(commit='another'))
    (record,) = sweep(plan, tmp_path / 'o', **quiet)
    assert record['commit'] == 'another' and done[before:] == [0.5, 1.0, 1.5, 2.0]
    assert [p.suffix for p in (tmp_path / 'o' / 'runs').iterdir()] == ['.json']


def test_a_sweep_that_was_stopped_while_its_teacher_learned_goes_on(tmp_path, monkeypatch):
    plan = Sweep(methods='kd', grid=dict(epochs=1), seeds=1, parts=dict(train=120), teaching=dict(epochs=4))
    how = dict(jobs=0, device='cpu', progress=False)
    (whole,) = sweep(plan, tmp_path / 'whole', **how)
    taught = sweeps.teach

    def stopped(*args, **given):
        def look(row):
            if row['epoch'] == 2:
                signal.raise_signal(signal.SIGTERM)

        return taught(*args, on_epoch=look, **given)

    monkeypatch.setattr(sweeps, 'teach', stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep(plan, tmp_path / 'cut', **how)
    assert list((tmp_path / 'cut' / 'teachers').glob('*.training'))
    monkeypatch.undo()
    (cut,) = sweep(plan, tmp_path / 'cut', **how)
    files = [next((tmp_path / n / 'teachers').glob('*.safetensors')) for n in ('whole', 'cut')]
    assert files[0].read_bytes() == files[1].read_bytes() and cut['test_accuracy'] == whole['test_accuracy']
    assert not list((tmp_path / 'cut' / 'teachers').glob('*.training'))


def test_a_teacher_is_tried_with_its_own_images():
    "The student's one batch an epoch could not be divided into two for an update; the teacher's five can."
    plan = replace(PLAN, methods=('kd',), grid={}, parts=dict(train=50, valid=100, test=100, teach=300))
    plan = replace(plan, teaching=PLAN.teaching | dict(accumulate=2))
    check_runs(plan, planned_runs(plan))
    with pytest.raises(ValueError, match='teaching micro_resnet: accumulate'):
        own = replace(plan, parts=plan.parts | dict(teach=50))
        check_runs(own, planned_runs(own))


def test_a_recording_without_a_plan_is_no_plan(tmp_path):
    (tmp_path / 'x.json').write_text('{"kind": "recording"}')
    with pytest.raises(ValueError, match='a plan has no NoneType'):
        load_plan(tmp_path / 'x.json')
