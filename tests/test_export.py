"""Exported students answer as before: in timm's layout, with other families, and in ONNX Runtime."""

import json
import logging
import multiprocessing

import pytest
import timm
import torch
import torch.nn as nn

from ofa_learn.atomic import locked
from ofa_learn.data import digits, split
from ofa_learn.export import export_onnx, export_student, onnx_table
from ofa_learn.models import load_model, make_model, save_model
from ofa_learn.pictures import distill_pictures
from ofa_learn.tasks import Teacher, create_task
from ofa_learn.training import accuracy, distill

ONE = dict(input_size=(1, 8, 8), num_classes=10)


@pytest.mark.parametrize('method', ['ofa', 'ofa+rsd'])
@pytest.mark.parametrize('student', ['micro_resnet', 'micro_vit', 'micro_mixer'])
def test_student_of_a_task_loads_with_timm_and_answers_to_the_bit(tmp_path, method, student):
    torch.manual_seed(0)
    task = create_task(method, student, Teacher(make_model('micro_resnet')), **ONE)
    size = {} if student == 'micro_resnet' else dict(img_size=8)
    folder = export_student(
        task.student, tmp_path / 'out', (1, 8, 8), ((0.3,), (0.4,)), list('abcdefghij'), **size
    )
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        want = task.student.eval()(x)
    for again in (
        timm.create_model(f'local-dir:{folder}', pretrained=True),
        timm.create_model(
            student, checkpoint_path=str(folder / 'model.safetensors'), in_chans=1, num_classes=10, **size
        ),
    ):
        with torch.no_grad():
            assert torch.equal(again.eval()(x), want)
    config = json.loads((folder / 'config.json').read_text())
    assert (
        config['label_names'][2] == 'c'
        and config['pretrained_cfg']['mean'] == [0.3]
        and config['pretrained_cfg']['input_size'] == [1, 8, 8]
    )


@pytest.mark.parametrize('name, size', [('micro_resnet', (3, 16, 16)), ('cifar_resnet56', (1, 32, 32))])
def test_the_images_channels_are_kept(tmp_path, name, size):
    net = make_model(name, 7, size).eval()
    folder = export_student(net, tmp_path / 'out', size)
    file = save_model(net, tmp_path / 'net.safetensors', size)
    x = torch.randn(2, *size)
    with torch.no_grad():
        for again in (timm.create_model(f'local-dir:{folder}', pretrained=True), load_model(file)[0]):
            assert torch.equal(again.eval()(x), net(x))


def eight_heads(vit):
    "The same weights, read as eight heads of 8 channels instead of four of 16."
    for block in vit.blocks:
        block.attn.num_heads, block.attn.head_dim, block.attn.scale = 8, 8, 8**-0.5
    return vit


@pytest.mark.parametrize('seed', range(3))
def test_arguments_that_leave_no_trace_in_the_shapes_are_asked_for(tmp_path, seed):
    torch.manual_seed(seed)
    net = make_model('micro_vit', num_heads=8)
    with pytest.raises(ValueError, match='answers differently; name the arguments .* num_heads=8'):
        save_model(net, tmp_path / 'net.safetensors', (1, 8, 8))
    before = torch.get_rng_state()
    file = save_model(net, tmp_path / 'net.safetensors', (1, 8, 8), num_heads=8)
    export_student(net, tmp_path / 'good', (1, 8, 8), img_size=8, num_heads=8)
    assert torch.equal(torch.get_rng_state(), before)
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_model(file)[0](x), net.eval()(x))
    with pytest.raises(ValueError, match='timm builds another network'):
        export_student(eight_heads(make_model('micro_vit')), tmp_path / 'bad', (1, 8, 8), img_size=8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['good', 'net.safetensors']


def test_a_micro_resnet_says_that_it_only_averages():
    with pytest.raises(ValueError, match="averages its last map .* got 'max'"):
        make_model('micro_resnet', global_pool='max')


def test_weights_in_half_precision_are_kept(tmp_path):
    net = make_model('micro_vit').bfloat16()
    file = save_model(net, tmp_path / 'net.safetensors', (1, 8, 8))
    export_student(net, tmp_path / 'out', (1, 8, 8), img_size=8)
    kept = load_model(file)[0].state_dict()
    assert all(torch.equal(kept[k], v.float()) for k, v in net.state_dict().items())


def test_nothing_is_written_over_or_half_written(tmp_path, monkeypatch):
    import ofa_learn.export as module

    net = make_model('micro_resnet')
    folder = export_student(net, tmp_path / 'out', (1, 8, 8))
    before = (folder / 'model.safetensors').read_bytes()
    with pytest.raises(ValueError, match='nothing was written'):
        export_student(net, folder, (1, 8, 8))

    def broken(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(module, 'save_for_hf', broken)
    with pytest.raises(OSError):
        export_student(net, tmp_path / 'other', (1, 8, 8))
    assert [p.name for p in tmp_path.iterdir()] == ['out'] and (
        folder / 'model.safetensors'
    ).read_bytes() == before
    with pytest.raises(ValueError, match='no timm model'):
        export_student(nn.Flatten(), tmp_path / 'x', (1, 8, 8))


def test_what_a_killed_export_left_is_cleared_and_two_do_not_meet(tmp_path):
    (tmp_path / '.out.building').mkdir()
    (tmp_path / '.out.building' / 'half').write_text('x')
    with locked(tmp_path, 'out'):
        asked = dict(method='fork') if 'fork' in multiprocessing.get_all_start_methods() else {}
        with (
            multiprocessing.get_context(**asked).Pool(1) as pool,
            pytest.raises(ValueError, match='written by'),
        ):
            pool.apply(export_student, (make_model('micro_resnet'), tmp_path / 'out', (1, 8, 8)))
    folder = export_student(make_model('micro_resnet'), tmp_path / 'out', (1, 8, 8))
    assert [p.name for p in tmp_path.iterdir()] == ['out']
    assert sorted(p.name for p in folder.iterdir()) == ['config.json', 'model.safetensors']


def test_onnx_answers_as_pytorch(tmp_path):
    pytest.importorskip('onnxruntime', reason='needs ofa-learn[onnx]')
    pytest.importorskip('onnxscript', reason='needs ofa-learn[onnx]')
    net = make_model('micro_vit')
    assert export_onnx(net, tmp_path / 's.onnx', (1, 8, 8)) < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ['s.onnx'] and net.training
    with pytest.raises(ValueError, match='ending in .onnx'):
        export_onnx(net, tmp_path / 's.bin', (1, 8, 8))
    small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(ValueError, match='differ by'):
        export_onnx(small, tmp_path / 't.onnx', (1, 8, 8), tolerance=-1.0)
    assert [p.name for p in tmp_path.iterdir()] == ['s.onnx']


def needs_onnx():
    pytest.importorskip('onnxruntime', reason='needs ofa-learn[onnx]')
    pytest.importorskip('onnxscript', reason='needs ofa-learn[onnx]')


@pytest.mark.parametrize('name, kind', [('micro_resnet', 'static'), ('micro_vit', 'dynamic')])
def test_the_table_has_what_the_files_get_right(name, kind, tmp_path):
    needs_onnx()
    import onnxruntime

    data = split(digits(), train=100, test=200)
    net = distill('labels', name, None, data, 6, device='cpu', progress=False).model
    table = onnx_table(net, tmp_path, data, kind, turns=2)
    assert [r['name'] for r in table.rows] == ['PyTorch float32', 'ONNX float32', f'ONNX int8 {kind}']
    torch_row, float_row, int_row = table.rows
    assert torch_row['accuracy'] == pytest.approx(accuracy(net, data.test, data.norm))
    assert float_row['accuracy'] == pytest.approx(torch_row['accuracy'], abs=0.5)
    assert abs(int_row['accuracy'] - torch_row['accuracy']) < 5
    assert torch_row['ratio'] == 1 and all(r['milliseconds'] > 0 for r in table.rows)
    assert int_row['megabytes'] < 0.6 * float_row['megabytes'], 'that is what the integers are for'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['student.int8.onnx', 'student.onnx']
    session = onnxruntime.InferenceSession(
        str(tmp_path / int_row['file']), providers=['CPUExecutionProvider']
    )
    logits = session.run(None, dict(images=data.norm(data.test.images).numpy()))[0]
    right = (torch.from_numpy(logits).argmax(1) == data.test.labels).float().mean().item() * 100
    assert right == pytest.approx(int_row['accuracy'], abs=1.1)
    said = str(table)
    assert 'against PyTorch' in said and '200 test images' in said and '1 thread,' in said
    assert logging.root.manager.disable == 0


def test_an_unknown_kind_of_integers_is_refused_before_anything_trains(tmp_path):
    needs_onnx()
    with pytest.raises(ValueError, match="int8: expected one of static, dynamic, got 'int4'"):
        distill_pictures(None, 'micro_vit', 'digits', tmp_path / 'o', 'labels', onnx='int4')
    assert not (tmp_path / 'o').exists()
