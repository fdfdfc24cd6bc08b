"""Records: what is refused, what survives a crash, and results that equal a computation by hand."""

import json
import math
import os
import statistics
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_learn.records import (
    check_record,
    load_record,
    load_records,
    results,
    save_record,
    table_cells,
    table_html,
    table_markdown,
    table_text,
    verdict,
    write_atomically,
)


def run(method='kd', seed=0, accuracy=60.0, **more):
    return (
        dict(
            schema=1,
            kind='run',
            pair='made-up',
            method=method,
            setting=dict(lr=0.1, nested=dict(ratio=[0.5, 1])),
            seed=seed,
            split_seed=0,
            view_seed=0,
            data=dict(name='made up', fingerprint='none', train=2, valid=1, test=1, classes=['a', 'b']),
            teacher=dict(name='nobody', params=1, valid_accuracy=90.0, test_accuracy=91.0),
            student=dict(name='no one', params=1),
            epochs=1,
            history=[
                dict(
                    epoch=1,
                    seconds=0.5,
                    loss=0.25,
                    parts=dict(ce=0.25),
                    train_accuracy=None,
                    valid_accuracy=50.0,
                )
            ],
            test_accuracy=accuracy,
            valid_accuracy=50.0,
            seconds=0.5,
            device='cpu',
            threads=1,
            versions=dict(python='3'),
        )
        | more
    )


def without(record, name):
    return {k: v for k, v in record.items() if k != name}


def test_round_trip(tmp_path):
    record = run(method='ofa_paper — γ')
    assert load_record(save_record(record, tmp_path / 'a' / 'r.json')) == record
    assert load_records(tmp_path) == [record]


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 100), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.integers())
def test_numbers_and_text_come_back_exactly(tmp_path_factory, accuracy, lr, name, seed):
    record = run(name, seed, accuracy, setting=dict(lr=lr))
    assert load_record(save_record(record, tmp_path_factory.mktemp('r') / 'r.json')) == record


@pytest.mark.parametrize(
    'bad, message',
    [
        (run(seed='0'), "seed: expected int, got '0'"),
        (run(seed=1.0), 'seed: expected int, got 1.0'),
        (run(threads=True), 'threads: expected int, got True'),
        (run(schema=2), 'schema: expected 1, got 2'),
        (run(kind='bench'), "kind: expected 'run', got 'bench'"),
        (without(run(), 'method'), 'method: missing'),
        (run(test_accuracy=math.nan), 'test_accuracy: expected a finite number, got nan'),
        (run(setting=dict(lr=math.inf)), 'setting.lr: expected a finite number, got inf'),
        (
            run(history=[dict(epoch=1, parts=dict(kd=-math.inf))]),
            'history.0.parts.kd: expected a finite number',
        ),
        (run(history=[1]), 'history.0: expected dict, got 1'),
        (run(history=[{}]), 'history.0.epoch: missing'),
        (run(test_accuracy=100.5), 'test_accuracy: expected percent'),
        (run(seconds=-1.0), 'seconds: expected at least 0'),
        (run(data={}), 'data.name: missing'),
        (run(teacher=dict(name='x')), 'teacher.params: missing'),
        (run(student=None), 'student: expected dict, got None'),
        (run(setting={1: 2}), 'setting: expected keys that are strings'),
        (run(setting=dict(x=object())), 'setting.x: expected a plain JSON value, got object'),
        ([], 'record: expected a dict, got list'),
    ],
)
def test_refused(bad, message, tmp_path):
    with pytest.raises(ValueError, match='^' + message.replace('.', r'\.')):
        check_record(bad)
    with pytest.raises(ValueError):
        save_record(bad, tmp_path / 'r.json')
    assert list(tmp_path.iterdir()) == []


def test_labels_alone_have_no_teacher():
    assert check_record(run('labels', teacher=None))['teacher'] is None


def test_numpy_integers_are_named():
    np = pytest.importorskip('numpy')
    with pytest.raises(ValueError, match='^seed: expected int'):
        check_record(run(seed=np.int64(0)))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_record(run(), tmp_path / 'r.json')

    def full(*_):
        raise OSError('no space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='no space'):
        save_record(run(accuracy=1.0), path)
    assert load_record(path) == run() and [p.name for p in tmp_path.iterdir()] == ['r.json']


def test_killed_while_writing(tmp_path):
    save_record(run(), tmp_path / 'r.json')
    code = (
        'import os, sys\nfrom ofa_learn.records import write_atomically\n'
        'os.fsync = lambda _: os._exit(9)\nwrite_atomically(sys.argv[1], "half of a rec")'
    )
    assert subprocess.run([sys.executable, '-c', code, tmp_path / 'r.json']).returncode == 9
    assert load_records(tmp_path) == [run()]  # a leftover temporary file is not taken for a record


def test_readers_never_see_half_a_file(tmp_path):
    path, stop, seen = tmp_path / 'r.json', threading.Event(), []
    save_record(run(), path)

    def read():
        while not stop.is_set():
            seen.append(load_record(path)['test_accuracy'])

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        save_record(run(accuracy=float(i)), path)
    stop.set()
    reader.join()
    assert seen and set(seen) <= {60.0, *map(float, range(60))}


def test_foreign_files_are_named_and_skipped(tmp_path):
    save_record(run(), tmp_path / 'good.json')
    bad = {
        'half.json': b'{"schema": 1,',
        'list.json': b'[]',
        'nan.json': json.dumps(run(test_accuracy=math.nan)).encode(),
        'bytes.json': b'\xff\xfe\x00',
        'deep.json': b'[' * 100_000,
        'other.json': b'{"a": 1}',
    }
    for name, text in bad.items():
        (tmp_path / name).write_bytes(text)
    with pytest.warns(UserWarning) as seen:
        assert load_records(tmp_path) == [run()]
    assert len(seen) == len(bad) and all(any(name in str(w.message) for w in seen) for name in bad)
    with pytest.raises(FileNotFoundError):
        load_record(tmp_path / 'nowhere.json')
    with pytest.raises(ValueError, match='expected a folder'):
        load_records(tmp_path / 'nowhere')


def test_results_by_hand():
    accs = dict(kd=(60.0, 70.0, 80.0), other=(62.0, 71.0, 82.0), lone=(50.0,))
    kd, other, lone = results(
        [run(m, s, a, seconds=float(s)) for m, xs in accs.items() for s, a in enumerate(xs)]
    )
    assert (kd['n'], kd['mean'], kd['spread'], kd['difference'], kd['pairs'], kd['verdict']) == (
        3,
        70,
        10,
        None,
        0,
        '',
    )
    assert other['mean'] == pytest.approx(215 / 3) and other['spread'] == pytest.approx(
        math.sqrt(((62 - 215 / 3) ** 2 + (71 - 215 / 3) ** 2 + (82 - 215 / 3) ** 2) / 2)
    )
    assert (
        other['difference'] == pytest.approx(5 / 3)
        and other['difference_spread'] == pytest.approx(math.sqrt(1 / 3))
        and other['verdict'] == 'better'
    )
    assert (other['seconds'], other['epochs'], other['valid']) == (1.0, 1, 50.0)
    assert (lone['spread'], lone['difference'], lone['difference_spread'], lone['verdict']) == (
        None,
        -10.0,
        None,
        'too few',
    )


def test_differences_only_over_shared_seeds_splits_views_and_pairs():
    base = [run('kd', s, 50.0) for s in range(3)]
    mine = [
        run('mine', 0, 51.0),
        run('mine', 1, 53.0),
        run('mine', 9, 99.0),
        run('mine', 2, 98.0, split_seed=1),
        run('mine', 2, 97.0, view_seed=1),
    ]
    row = results(base + mine)[1]
    assert (row['n'], row['pairs'], row['difference'], row['verdict']) == (5, 2, 2.0, 'too few')
    assert results(base + [run('mine', 0, 51.0, pair='another')])[1]['pairs'] == 0
    assert results(base + mine[:2], baseline='mine')[0]['difference'] == -2.0


def test_order_does_not_matter():
    records = [run(m, s, 50.0 + s + 3 * (m == 'mine') + (s == 1)) for m in ('kd', 'mine') for s in range(4)]

    def by_name(rows):
        return {r['method']: r for r in rows}

    assert by_name(results(records)) == by_name(results(records[::-1]))


def test_what_must_not_be_averaged():
    with pytest.raises(ValueError, match="'kd' of 'made-up' has two runs of seed 0"):
        results([run(), run(accuracy=61.0)])
    for more in (
        dict(setting=dict(lr=0.2)),
        dict(epochs=2),
        dict(data=run()['data'] | dict(fingerprint='another')),
    ):
        with pytest.raises(ValueError, match='differ in setting, epochs or data'):
            results([run(), run(seed=1, **more)])
    assert (
        len(results([run(setting=dict(view_seed=0)), run(seed=1, setting=dict(view_seed=1), view_seed=1)]))
        == 1
    )  # seeds are not a setting


@given(st.lists(st.floats(-50, 50), min_size=3, max_size=8))
def test_verdict_is_twice_the_standard_error(differences):
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    outside = abs(statistics.fmean(differences)) > 2 * error
    assert (verdict(differences) in ('better', 'worse')) == outside
    assert verdict([-d for d in differences]) == {'better': 'worse', 'worse': 'better'}.get(
        verdict(differences), 'within noise'
    )


def test_verdict_edges():
    assert [verdict(d) for d in ([], [9.0], [9.0, 9.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0])] == [
        'too few',
        'too few',
        'too few',
        'within noise',
        'better',
    ]


def test_tables():
    rows = results([run(m, s, a + s) for m, a in (('kd', 50.0), ('<i>|x', 60.0)) for s in range(3)])
    text = table_text(rows).splitlines()
    assert (
        len(text) == 4
        and 'difference to kd' in text[0]
        and '+10.0 ± 0.0' in text[3]
        and len({len(line) for line in text[1:2] + text[3:]}) <= 2
    )
    assert text == table_text(table_cells(rows)).splitlines()
    assert '&lt;i&gt;\\|x' in table_markdown(rows) and table_markdown(rows).count('\n') == 3
    page = table_html(rows, 'a < b')
    assert '&lt;i&gt;|x' in page and '<i>' not in page and 'a &lt; b' in page
    assert 'difference to KD' in table_text(table_cells(rows, lambda m: m.upper()))


def test_no_torch():
    code = 'import sys, ofa_learn.records; assert not {"torch", "numpy", "plotly"} & set(sys.modules)'
    subprocess.run([sys.executable, '-c', code], check=True)


def test_write_atomically_keeps_text(tmp_path):
    assert write_atomically(tmp_path / 'new' / 't.txt', 'γ\nλ').read_bytes() == 'γ\nλ'.encode()


def test_a_changed_record_is_no_record(tmp_path):
    "Every bit of a record's file flipped, in turn: what loads is the record, or it is refused."
    path = save_record(run(), tmp_path / 'r.json')
    text = path.read_bytes()
    for i in range(8 * len(text)):
        changed = bytearray(text)
        changed[i // 8] ^= 1 << i % 8
        path.write_bytes(changed)
        try:
            found = load_record(path)
        except ValueError:
            continue
        extra = set(found) - set(run())  # a checksum whose name was hit is no checksum
        assert {k: v for k, v in found.items() if k not in extra} == run() and len(extra) <= 1
    better = text.replace(b'"test_accuracy": 60.0', b'"test_accuracy": 90.0')
    path.write_bytes(better)
    with pytest.raises(ValueError, match=r'r.json: checksum: this is not what was written'):
        load_record(path)
    path.write_text(json.dumps(run()))  # from before there were checksums, or by hand
    assert load_record(path) == run()
