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

from ofa_learn.plain import _t_below, _t_quantile
from ofa_learn.records import (
    check_record,
    difference_text,
    holm,
    interval,
    load_record,
    load_records,
    p_value,
    results,
    save_record,
    t_quantile,
    table_cells,
    table_html,
    table_legend,
    table_markdown,
    table_text,
    verdict,
    verdict_text,
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
                    losses=dict(ce=0.25),
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
            run(history=[dict(epoch=1, losses=dict(kd=-math.inf))]),
            'history.0.losses.kd: expected a finite number',
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
    assert (row['n'], row['pairs'], row['difference'], row['verdict']) == (5, 2, 2.0, 'within noise')
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


# The 97.5 % quantiles of Student's t as tables print them.
T_TABLE = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 29: 2.0452, 10**6: 1.9600}


@pytest.mark.parametrize('freedom, limit', T_TABLE.items())
def test_limits_are_those_of_the_tables(freedom, limit):
    assert t_quantile(0.975, freedom) == pytest.approx(limit, abs=5e-5)
    assert t_quantile(0.025, freedom) == pytest.approx(-limit, abs=5e-5)


def test_limits_in_closed_form():
    "One degree of freedom is Cauchy's distribution, and two have a root."
    for share in (0.6, 0.9, 0.975, 0.995):
        assert t_quantile(share, 1) == pytest.approx(math.tan(math.pi * (share - 0.5)), abs=1e-6)
        two = (2 * share - 1) / math.sqrt(2 * share * (1 - share))
        assert t_quantile(share, 2) == pytest.approx(two, abs=1e-6)


def test_limits_without_scipy_are_the_same():
    special = pytest.importorskip('scipy.special')
    for freedom in (1, 2, 3, 4, 7, 30):
        for t in (-50.0, -3.0, -0.1, 0.0, 0.3, 2.0):
            assert _t_below(freedom, t) == pytest.approx(special.stdtr(freedom, t), abs=1e-14)
        for share in (0.025, 0.5, 0.6, 0.975):
            want = special.stdtrit(freedom, share)
            assert _t_quantile(freedom, share) == pytest.approx(want, rel=1e-12, abs=1e-12)


def test_intervals_and_p_values_are_those_of_scipy():
    stats = pytest.importorskip('scipy.stats')
    for differences in ([2.0, 1.0, 2.0], [0.2, -0.4], [5.0, 5.0, -4.0, 0.6, 1.0], [0.1] * 7 + [-30.0]):
        wanted = stats.ttest_1samp(differences, 0)
        assert p_value(differences) == pytest.approx(wanted.pvalue, abs=1e-12)
        for level in (0.5, 0.95, 0.99):
            assert interval(differences, level) == pytest.approx(tuple(wanted.confidence_interval(level)))


def test_an_interval_by_hand():
    "Mean 2, standard deviation 2, four runs: the standard error is 1, and t with 3 degrees is 3.1824."
    differences = [2 - math.sqrt(6), 2 + math.sqrt(6), 2.0, 2.0]
    assert statistics.stdev(differences) == pytest.approx(2)
    assert interval(differences) == pytest.approx((2 - 3.18245, 2 + 3.18245), abs=1e-5)
    assert verdict(differences) == 'within noise'  # at twice its standard error
    assert verdict([d + 1.2 for d in differences]) == 'better'
    # With two degrees of freedom the share beyond t is 1 - t / sqrt(2 + t²): at 5 standard errors, .0377.
    assert p_value([2.0, 1.0, 2.0]) == pytest.approx(1 - 5 / math.sqrt(27), abs=1e-12)


differences_of = st.lists(st.integers(-250, 250).map(lambda k: k / 5), max_size=8)


@given(differences_of)
def test_the_verdict_is_that_of_the_interval(differences):
    found, said, p = interval(differences), verdict(differences), p_value(differences)
    assert (found is None) == (p is None) == (said == 'too few')
    if found:
        low, high = found
        assert low <= statistics.fmean(differences) <= high
        assert (said == 'better') == (low > 0) and (said == 'worse') == (high < 0)
        assert (said in ('better', 'worse')) == (p < 0.05 or low == high != 0)
        assert (said == 'the same') == (not any(differences))


@given(differences_of)
def test_swapped_rows_swap_the_verdict(differences):
    back = [-d for d in differences]
    swapped = dict(better='worse', worse='better')
    assert verdict(back) == swapped.get(verdict(differences), verdict(differences))
    assert p_value(back) == p_value(differences)
    if interval(differences):
        low, high = interval(differences)
        assert interval(back) == pytest.approx((-high, -low))


@pytest.mark.parametrize('scatter', [0.6, 1.2])
@pytest.mark.parametrize('runs', [2, 3, 5])
def test_of_nothing_one_in_twenty_gets_a_verdict(runs, scatter):
    "Differences that are pure chance, in steps of .2 as 500 test images have them, where ties happen."
    np = pytest.importorskip('numpy')
    tosses = np.round(np.random.default_rng(0).normal(0, 5 * scatter, (4000, runs))) / 5
    found = sum(verdict(list(d)) in ('better', 'worse') for d in tosses.tolist())
    assert found / len(tosses) < 0.06
    assert runs == 2 or found / len(tosses) > 0.035


def test_verdict_edges():
    edges = {
        (): 'too few',
        (9.0,): 'too few',
        (9.0, 9.0): 'too few',  # a tie says nothing about scatter
        (0.0, 0.0): 'too few',
        (9.0, 9.2): 'better',
        (1.0, 3.0): 'within noise',
        (0.0, 0.0, 0.0): 'the same',
        (1.0, 1.0, 1.0): 'better',
        (-1.0, -1.0, -1.0): 'worse',
        (61.2 - 60.8, 70.4 - 70.0, 0.4): 'better',  # equal but for the last bit
        (6.67 - 3.33, 3.33): 'too few',  # thirty images, accuracies rounded to .01: equal
        (3.33 - 6.67, -3.34, 3.33): 'within noise',
        (0.01, -0.01, 0.0): 'the same',
        (0.1 + 0.2 - 0.3, 0.0, 0.0): 'the same',
    }
    assert {d: verdict(list(d)) for d in edges} == edges
    assert interval([9.0, 9.0]) is None and interval([1.0, 1.0, 1.0]) == (1.0, 1.0)
    assert (p_value([9.0]), p_value([1.0] * 3), p_value([0.0] * 3)) == (None, 0.25, 1.0)
    assert p_value([3.33, 3.34, 3.33]) == 0.25
    for judge in (verdict, interval, p_value):
        with pytest.raises(ValueError, match='differences: expected finite numbers, got'):
            judge([1.0, math.nan, 2.0])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.04]) == [0.04] and holm([]) == []
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06] * 3)
    for bad in ([1.5], [-0.1], [math.nan]):
        with pytest.raises(ValueError, match='p_values: expected numbers from 0 to 1'):
            holm(bad)


@given(st.lists(st.floats(0, 1), max_size=8), st.randoms(use_true_random=False))
def test_holm_only_raises_and_keeps_the_order(p_values, random):
    corrected = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected))
    pairs = sorted(zip(p_values, corrected))
    assert all(a[1] <= b[1] for a, b in zip(pairs, pairs[1:]))
    shuffled = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in shuffled]) == [corrected[i] for i in shuffled]
    if p_values:
        assert min(corrected) == min(1.0, len(p_values) * min(p_values))


def a_family():
    "Rows whose differences to KD are sure, likely, nothing, and a single one."
    steps = dict(kd=(0, 0, 0), sure=(5.0, 5.2, 5.1), likely=(2, 1, 2), nothing=(1, -1, 0.5), lone=(3,))
    return [run(m, s, 60 + s + d) for m, ds in steps.items() for s, d in enumerate(ds)]


def test_a_family_is_corrected_for_its_number():
    rows = {r['method']: r for r in results(a_family())}
    assert {r['comparisons'] for r in rows.values()} == {3}  # one run alone is no comparison
    raw = [rows[m]['p'] for m in ('sure', 'likely', 'nothing')]
    assert [rows[m]['p_holm'] for m in ('sure', 'likely', 'nothing')] == holm(raw)
    assert {m: (r['verdict'], r['stays']) for m, r in rows.items()} == dict(
        kd=('', False),
        sure=('better', True),
        likely=('better', False),
        nothing=('within noise', False),
        lone=('too few', False),
    )
    assert [verdict_text(rows[m]) for m in ('sure', 'likely', 'kd')] == ['better*', 'better', '']
    low, high = interval([2.0, 1.0, 2.0])
    assert difference_text(rows['likely']) == f'+1.7 [{low:+.1f}, {high:+.1f}]'
    assert (difference_text(rows['lone']), difference_text(rows['kd'])) == ('+3.0', '')


def test_ends_near_zero_show_their_side():
    for low, text in ((0.02, '+0.02'), (-0.049, '-0.05'), (0.0, '+0.0'), (0.05, '+0.1'), (-1.0, '-1.0')):
        row = dict(difference=2.0, interval=(low, 4.0))
        assert difference_text(row) == f'+2.0 [{text}, +4.0]'


def test_a_tie_gets_its_verdict_and_no_star():
    "Three equal differences are three equal signs: p = 1/4, whatever their size."
    rows = results(a_family() + [run('tie', s, 62.2 + s) for s in range(3)])
    tie = rows[-1]
    assert (tie['verdict'], tie['p'], tie['stays'], tie['comparisons']) == ('better', 0.25, False, 4)
    assert 'An interval without width' in table_legend(rows)
    assert 'without width' not in table_legend(rows[:-1])


@pytest.mark.parametrize('rows', [5, 15])
def test_of_tables_of_nothing_one_in_twenty_has_a_star(rows):
    "All rows of a table share their baseline, and accuracies move in steps of .2, so that ties happen."
    np = pytest.importorskip('numpy')
    drawn = np.random.default_rng(0).normal(0, 4, (400, 3, 1 + rows))
    tables = (np.round(drawn) / 5).tolist()
    starred = 0
    for table in tables:
        differences = [[seed[i] - seed[0] for seed in table] for i in range(1, 1 + rows)]
        p_values = [p for p in map(p_value, differences) if p is not None]
        starred += min(holm(p_values)) < 0.05
    assert 0 < starred / len(tables) < 0.07


def test_another_pair_is_another_family():
    "More rows elsewhere change nothing here; more rows here do."
    one = results(a_family())
    two = results(a_family() + [r | dict(pair='another') for r in a_family()])
    assert two[: len(one)] == one and two[len(one) :] == [r | dict(pair='another') for r in one]
    alone = results([r for r in a_family() if r['method'] in ('kd', 'likely')])[1]
    assert alone['stays'] and alone['comparisons'] == 1 and verdict_text(alone) == 'better'


def test_the_legend_counts_the_comparisons():
    rows = results(a_family())
    said = table_legend(rows)
    assert '3 comparisons: without any effect one in twenty' in said and '(Holm)' in said
    assert (
        '“within noise”: the interval holds 0.' in said and '“too few”' in said and '“the same”' not in said
    )
    both = table_legend(rows + results([r | dict(pair='another') for r in a_family()]))
    assert '6 comparisons, up to 3 to a pair of networks' in both and 'each pair by itself' in both
    lone = table_legend(results([run()]))
    assert lone == 'Accuracies in percent: mean ± sample standard deviation over seeds (runs).'
    assert 'comparison' not in table_legend(results([run(), run('mine', accuracy=61.0)]))


def test_tables():
    rows = results([run(m, s, a + s) for m, a in (('kd', 50.0), ('<i>|x', 60.0)) for s in range(3)])
    text = table_text(rows).splitlines()
    assert (
        len(text) == 4
        and 'difference to kd' in text[0]
        and '+10.0 [+10.0, +10.0]' in text[3]
        and len({len(line) for line in text[1:2] + text[3:]}) <= 2
    )
    assert text == table_text(table_cells(rows)).splitlines()
    assert '&lt;i&gt;\\|x' in table_markdown(rows) and table_markdown(rows).count('\n') == 3
    page = table_html(rows, 'a < b')
    assert '&lt;i&gt;|x' in page and '<i>' not in page and 'a &lt; b' in page
    assert 'difference to KD' in table_text(table_cells(rows, lambda m: m.upper()))


def test_no_torch():
    code = (
        'import sys, ofa_learn.records; assert not {"torch", "numpy", "scipy", "plotly"} & set(sys.modules)'
    )
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


def test_a_record_older_than_an_option_is_compared_with_one_of_today():
    "The option is missing there; at the value that changes nothing it is the same experiment."
    old = [run('labels', seed=s) for s in (0, 1)]
    young = [r | dict(setting=r['setting'] | dict(class_weights=None, balanced=False)) for r in old[1:]]
    assert results(old[:1] + young, 'labels')[0]['n'] == 2
    weighed = [r | dict(setting=r['setting'] | dict(balanced=True)) for r in old[1:]]
    with pytest.raises(ValueError, match='differ in setting'):
        results(old[:1] + weighed, 'labels')
