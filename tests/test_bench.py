"""Every benchmark runs in a tiny size, compares the same work, and reports rows. No test asserts a time."""

import json

import pytest
import torch
import torch.nn as nn
from fresh import warm_processes

from ofa_learn import bench as bench_losses
from ofa_learn import bench_training
from ofa_learn.bench import LOSSES, bench_loss, bench_methods, loss_inputs, loss_step, loss_work, peak_growth
from ofa_learn.bench_training import (
    CASES,
    bench,
    bench_gpu,
    bench_loading,
    bench_muon,
    bench_step,
    bench_sweep,
    forward_flops,
    largest_difference,
    sized_teacher,
)
from ofa_learn.bench_whole import BENCHMARKS
from ofa_learn.cli import main
from ofa_learn.data import digits, split
from ofa_learn.models import load_model
from ofa_learn.tasks import Teacher, all_methods, create_task


def quiet(line):
    pass


def check(result):
    "The rows are text, the ratios are numbers of the rounds, and all of it can be kept as JSON."
    assert result['rows'] and all(isinstance(x, str) and x for row in result['rows'] for x in row)
    assert result['machine']['threads'] == 1
    assert json.loads(json.dumps(result, allow_nan=False))['rows']
    return result


def test_every_benchmark_is_listed_once():
    names = ['cka', 'loss', 'methods', 'step', 'loading', 'sweep', 'muon', 'gpu', 'folder']
    assert list(BENCHMARKS) == names  # all of them, whatever was imported before this test
    with pytest.raises(ValueError, match='expected one of cka, loss'):
        bench('nothing')
    with pytest.raises(ValueError, match="the benchmark loss has no option 'steps'"):
        bench('loss', steps=3)
    with pytest.raises(
        ValueError, match="no option 'gama'; did you mean 'gamma', an option of create_task for"
    ):
        bench('loss', gama=2)
    with pytest.raises(ValueError, match="no option 'roundss'; did you mean 'rounds'[?]"):
        bench('loss', roundss=2)


def test_loss_versions_agree():
    small = check(bench_loss(quick=True, say=quiet))
    assert small['values'] < 1e-5 and small['gradients'] < 1e-4
    assert len(small['rows']) == 3 and small['released']['rounds'] == small['paper']['rounds'] == 1


def test_loss_inputs_are_the_same_for_all():
    (a, t, y), (b, u, z) = loss_inputs('plain', 6, 4), loss_inputs('paper', 6, 4)
    assert isinstance(a, list) and torch.equal(torch.stack(a), b) and torch.equal(t, u) and torch.equal(y, z)
    for which in LOSSES:
        losses, gradients = loss_step(which, *loss_inputs(which, 6, 4))
        assert losses.shape == (5,) and sum(g.numel() for g in gradients) == 5 * 6 * 4


def test_the_papers_form_holds_the_label_too():
    "At γ = 1 and T = 1 it is the released form and the labels' cross-entropy."
    z, t, y = loss_inputs('paper', 6, 4)
    paper, released = (loss_step(w, z, t, y, gamma=1.0)[0] for w in ('paper', 'released'))
    assert torch.allclose(
        paper, released + torch.stack([nn.functional.cross_entropy(h, y) for h in z.detach()])
    )


def test_loss_memory_is_read_over_the_inputs(monkeypatch):
    monkeypatch.setattr(bench_losses, 'multiprocessing', warm_processes())
    make, work = (
        peak_growth(loss_work, ('plain', 8, 100, True), ('plain', 2048, 400, step)) for step in (False, True)
    )
    assert 15 < make < 40  # six arrays of 3.1 MiB
    assert work > make


def test_methods_over_the_floor():
    small = check(bench_methods(quick=True, say=quiet))
    assert set(small['over_floor']) == set(all_methods())
    assert len(small['rows']) == 1 + len(all_methods()) and small['rows'][0][0].startswith('OFA over KD')


def test_the_two_loops_train_the_same_student():
    small = check(bench_step(quick=True, say=quiet))
    assert small[8]['difference'] == 0 and len(small['rows']) == 2


def test_largest_difference_sees_buffers():
    a, b = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    assert largest_difference(a, b) == 0
    b.running_mean += 0.5
    assert largest_difference(a, b) == 0.5


def test_loading_gives_the_same_pixels():
    small = check(bench_loading(quick=True, say=quiet))
    assert (
        small['difference'] < 1e-5
        and small['images'] == 256
        and set(small['rate']) == {'resident', 'none', 'two'}
        and small['jpegs']['files'] == 512
        and set(small['jpegs']['rate']) == {'ours', 'theirs'}
    )


def test_sized_teacher_has_the_multiple_that_it_says(tmp_path):
    data = split(digits(), train=50, valid=50, test=50)
    for times in (4, 1):
        file, have = sized_teacher(times, 'micro_vit', data, tmp_path)
        assert abs(have / times - 1) < 0.2
        task = create_task('ofa', 'micro_vit', Teacher(load_model(file)[0]), data=data)
        teacher, own = forward_flops(task, torch.zeros(5, *data.input_size))
        assert teacher / own == pytest.approx(have)  # also for another batch


def test_sweeps_from_cache_and_loop_are_equal_to_the_bit():
    small = check(bench_sweep(quick=True, say=quiet))
    assert [(small[c]['equal'], small[c]['runs']) for c in CASES] == [(2, 2)] * 3 and len(small['rows']) == 6


def test_muon_is_timed_in_both_number_types():
    small = check(bench_muon(quick=True, say=quiet))
    assert small['updates']['rounds'] == 1 and len(small['rows']) == 1


def test_gpu_parts_run_on_the_cpu():
    small = check(bench_gpu(device='cpu', quick=True, say=quiet))
    assert len(small['measured']) == 9 and {r['method'] for r in small['measured']} == {'labels', 'kd', 'ofa'}
    assert small['machine']['device'] == 'cpu' and all(
        'memory not measured' in text for _, text in small['rows']
    )


def test_without_a_gpu_it_says_what_it_would_measure(monkeypatch):
    monkeypatch.setattr(bench_training.torch.cuda, 'is_available', lambda: False)
    ((name, what),) = check(bench_gpu(say=quiet))['rows']
    assert 'no GPU here' in name and 'swin_tiny_patch4_window7_224 → resnet18' in what and 'compiled' in what


def test_command_line(tmp_path, capsys):
    file = tmp_path / 'loss.json'
    assert main(['bench', 'loss', '--quick', '--out', str(file)]) == 0
    assert 'largest difference' in capsys.readouterr().out and json.loads(file.read_bytes())['images'] == 64
    assert (
        main(['bench', 'loss', '--images', '3']) == 2
        and "the benchmark loss has no option 'images'; 'images' is an option of the benchmarks"
        in capsys.readouterr().err
    )
    assert main(['bench', 'speed']) == 2 and 'sweep, muon, gpu' in capsys.readouterr().err
