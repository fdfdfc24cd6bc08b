"""Weights of other programs come in whole, under their plain names, or not at all."""

import argparse
import json
import re

import pytest
import timm
import torch
import torch.nn as nn
from safetensors.torch import save_file

from ofa_learn.export import export_student
from ofa_learn.models import make_model, save_model
from ofa_learn.teachers import Teacher
from ofa_learn.weights import fill, filled_model, model_at, plain_names, state_at, state_in

SIZE = (3, 16, 16)
X = torch.randn(2, *SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope='module')
def vit():
    torch.manual_seed(0)
    return make_model('micro_vit', 7, SIZE).eval()


def same(a, b):
    with torch.no_grad():
        return torch.equal(a(X), b(X))


CHECKPOINTS = dict(
    plain=lambda s: s,
    timm=lambda s: dict(arch='micro_vit', state_dict=s, epoch=3, args=argparse.Namespace(lr=0.1)),
    reference=lambda s: dict(model=s, optimizer=dict(state={}, param_groups=[dict(lr=0.1)]), epoch=3),
    parallel=lambda s: {f'module.{k}': v for k, v in s.items()},
    compiled=lambda s: dict(net={f'_orig_mod.{k}': v for k, v in s.items()}),
    both=lambda s: {f'module._orig_mod.{k}': v for k, v in s.items()},
    averaged=lambda s: {f'module.{k}': v for k, v in s.items()} | dict(n_averaged=torch.tensor(4)),
)


@pytest.mark.parametrize('form', CHECKPOINTS)
def test_checkpoints_of_every_program(form, vit, tmp_path):
    torch.save(CHECKPOINTS[form](vit.state_dict()), tmp_path / 'best.pth')
    assert same(filled_model('micro_vit', tmp_path / 'best.pth', input_size=SIZE), vit)


def test_safetensors_without_a_word_about_the_network(vit, tmp_path):
    file = tmp_path / 'model.safetensors'
    save_file(vit.state_dict(), file)
    assert same(filled_model('micro_vit', file, input_size=SIZE), vit)
    with pytest.raises(ValueError, match='nothing says of which network'):
        model_at(file)


def test_two_sets_of_weights_are_asked_about(vit, tmp_path):
    weights = vit.state_dict()
    ema = {k: v + 1 if v.is_floating_point() else v for k, v in weights.items()}
    torch.save(dict(state_dict=weights, state_dict_ema=ema), tmp_path / 'last.pth')
    with pytest.raises(ValueError, match=r"2 sets of weights; say which .*weights_key='state_dict'"):
        filled_model('micro_vit', tmp_path / 'last.pth', input_size=SIZE)
    found = filled_model('micro_vit', tmp_path / 'last.pth', input_size=SIZE, key='state_dict')
    assert same(found, vit)
    with pytest.raises(ValueError, match="no weights under 'ema', there are state_dict, state_dict_ema"):
        filled_model('micro_vit', tmp_path / 'last.pth', input_size=SIZE, key='ema')


def test_a_network_that_says_what_it_is(vit, tmp_path):
    more = vit.state_dict() | {'blocks.4.norm1.weight': torch.zeros(64)}
    torch.save(CHECKPOINTS['timm'](more), tmp_path / 'a.pth')
    with pytest.raises(ValueError, match='left over: blocks.4'):
        model_at(tmp_path / 'a.pth')  # a deeper one than it says
    own = save_model(vit, tmp_path / 'own.safetensors', SIZE, classes=list('abcdefg'))
    model, about = model_at(own)
    assert same(model, vit) and list(about['classes']) == list('abcdefg')


def test_a_folder_of_a_hub(vit, tmp_path):
    norm = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    made = make_model('micro_vit', 7, SIZE).eval()
    folder = export_student(made, tmp_path / 'hub', SIZE, norm, list('abcdefg'), img_size=16)
    model, about = model_at(folder)
    assert same(model, made)
    assert (about['norm'], about['input_size'], about['classes']) == (norm, SIZE, list('abcdefg'))
    (folder / 'model.safetensors').unlink()
    with pytest.raises(ValueError, match='no weights, expected model.safetensors'):
        model_at(folder)
    (folder / 'config.json').write_text(json.dumps(dict(architectures=['ViTForImageClassification'])))
    with pytest.raises(ValueError, match='names no timm architecture.*Load the network with the library'):
        model_at(folder)
    with pytest.raises(ValueError, match='expected a folder with a config.json'):
        model_at(tmp_path)


def test_torchscript_is_a_network(tmp_path):
    layers = nn.Sequential(nn.Flatten(), nn.Linear(768, 7)).eval()
    torch.jit.trace(layers, X).save(tmp_path / 'traced.pt')
    assert same(model_at(tmp_path / 'traced.pt')[0], layers)
    with pytest.raises(ValueError, match='a TorchScript program, which is a whole network'):
        filled_model('micro_vit', tmp_path / 'traced.pt', 7, SIZE)


class Evil:
    def __reduce__(self):
        return (print, ('ran',))


@pytest.mark.parametrize('content', [Evil(), dict(state_dict={}, hook=Evil())])
def test_no_code_runs(content, tmp_path, capsys):
    torch.save(content, tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match='runs code from the file. If you trust'):
        model_at(tmp_path / 'evil.pth')
    assert 'ran' not in capsys.readouterr().out


def test_a_pickled_network_is_not_unpickled(vit, tmp_path):
    torch.save(vit, tmp_path / 'whole.pth')
    with pytest.raises(ValueError, match=r'torch.load\(.*weights_only=False\)'):
        model_at(tmp_path / 'whole.pth')


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'not a readable file of torch.save'),
        (b'<html>404</html>', 'not a readable|runs code from the file'),
        (None, 'no such file'),
    ],
)
def test_files_that_are_none(content, message, tmp_path):
    file = tmp_path / 'x.pth'
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        model_at(file)


def test_what_does_not_fit_is_listed(vit):
    state = vit.state_dict()
    few = {k: v for k, v in state.items() if 'head' not in k}
    with pytest.raises(ValueError, match=r'2 missing: head.weight, head.bias'):
        fill(make_model('micro_vit', 7, SIZE), few, 'x.pth')
    with pytest.raises(ValueError, match=r'other shapes: head.weight \(7, .*instead of \(9, '):
        fill(make_model('micro_vit', 9, SIZE), state, 'x.pth')
    with pytest.raises(ValueError, match='left over: extra'):
        fill(make_model('micro_vit', 7, SIZE), state | dict(extra=torch.zeros(1)), 'x.pth')
    with pytest.raises(ValueError, match='no classifier to read it from; say how many micro_vit has'):
        filled_model('micro_vit', few, input_size=SIZE)


def test_counters_of_old_files_may_be_missing():
    model = make_model('micro_resnet', 7, SIZE).eval()
    state = {k: v for k, v in model.state_dict().items() if 'num_batches_tracked' not in k}
    assert same(filled_model('micro_resnet', state), model)  # K and the channels are read off the weights


def test_prefixes_that_only_some_have_stay():
    w = torch.zeros(1)
    assert list(plain_names({'module.a': w, 'b': w})) == ['module.a', 'b']
    assert plain_names({}) == {}


@pytest.mark.parametrize('found', [7, None, {}, dict(epoch=3), [torch.zeros(2)]])
def test_no_weights_at_all(found):
    with pytest.raises(ValueError, match=re.escape('x.pth: expected weights, tensors by name')):
        state_in(found, 'x.pth')


def test_a_state_may_hold_parameters():
    layer = nn.Linear(2, 3)
    assert set(state_in(dict(layer.named_parameters()), 'x')) == {'weight', 'bias'}


def test_names_of_a_class_that_held_the_network(vit):
    "A training program's own class puts its attribute before every name; whatever it is called, it goes."
    for word in ('model.', 'net.'):
        state = {word + k: v for k, v in vit.state_dict().items()}
        again = filled_model('micro_vit', state, input_size=SIZE)
        assert all(torch.equal(v, again.state_dict()[k]) for k, v in vit.state_dict().items())


@pytest.mark.parametrize('broken', ['weight', 'buffer'])
def test_a_teacher_with_nan_is_refused(broken):
    model = make_model('micro_resnet', 10, (1, 8, 8))
    names = {'weight': dict(model.named_parameters()), 'buffer': dict(model.named_buffers())}[broken]
    name = next(k for k, v in names.items() if v.is_floating_point())
    with torch.no_grad():
        names[name].view(-1)[0] = float('nan')
    with pytest.raises(ValueError, match=f'hold NaN or infinite numbers, such as {name}; take a checkpoint'):
        Teacher(model, allow_untrained=True)


def test_an_optimizer_is_no_network(tmp_path):
    torch.save(dict(state={}, param_groups=[]), tmp_path / 'optimizer.pt')
    with pytest.raises(ValueError, match=r'it holds a dictionary \(there are state, param_groups\)'):
        state_at(tmp_path / 'optimizer.pt')


def test_names_of_the_program_that_trained_it():
    "A ResNet-56 under the usual names of a ResNet, as its authors' file has them; K is read off the file."
    model = make_model('cifar_resnet56', 12, (3, 32, 32))

    def usual(name):
        name = (
            name.replace('stem.0.', 'conv1.').replace('stem.1.', 'bn1.').replace('.shortcut.', '.downsample.')
        )
        return re.sub(r'^stages\.(\d)', lambda found: f'layer{int(found[1]) + 1}', name)

    theirs = {usual(k): v for k, v in model.state_dict().items()}
    assert len(theirs.keys() - model.state_dict().keys()) > 300
    again = filled_model('cifar_resnet56', theirs, input_size=(3, 32, 32))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_file_that_would_be_resampled_is_not_taken():
    "timm's own function for ViTs stretches positions to another grid; that is no longer the file's network."
    small = timm.create_model('vit_tiny_patch16_224', num_classes=2, img_size=32, depth=1).state_dict()
    theirs = {f'visual.{k}': v for k, v in small.items()} | {'text.weight': torch.zeros(1)}
    model = timm.create_model('vit_tiny_patch16_224', num_classes=2, img_size=64, depth=1)
    with pytest.raises(ValueError, match='its weights are not those of VisionTransformer'):
        fill(model, theirs, 'theirs')
