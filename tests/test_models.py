"""What lesson 10 does not show of models: choosing stages and of the head that runs once."""

import copy

import numpy as np
import pytest
import torch
import torch.nn as nn

from ofa_learn.models import (
    Taps,
    check_stages,
    count_flops,
    find_taps,
    load_model,
    make_model,
    save_model,
    stage_indices,
    tapped_forward,
)
from ofa_learn.tasks import create_task

TAPS = find_taps(make_model('micro_resnet'), (1, 8, 8))


@pytest.mark.parametrize(
    'stages, numbers',
    [
        (None, (1, 2, 3, 4)),
        (4, (4,)),
        (np.int64(2), (2,)),
        ((4, 1), (1, 4)),
        ([2], (2,)),
        (range(1, 3), (1, 2)),
        ({3, 2}, (2, 3)),
        (np.array([3, 1]), (1, 3)),
        (iter((1, 2)), (1, 2)),
    ],
)
def test_one_stage_or_several(stages, numbers):
    found = check_stages(stages, TAPS)
    assert found == numbers
    assert all(type(n) is int for n in found)


@pytest.mark.parametrize(
    'stages, error, says',
    [
        (9, ValueError, r'stages: expected one or more of \(1, 2, 3, 4\), each once, got 9'),
        (0, ValueError, 'got 0'),
        (-1, ValueError, 'got -1'),
        ((), ValueError, r'got \(\)'),
        ((1, 1), ValueError, r'got \(1, 1\)'),
        ((2, 5), ValueError, r'got \(2, 5\)'),
        ('4', TypeError, "stages: expected numbers from .*, got '4'"),
        ('all', TypeError, "got 'all'"),
        (True, TypeError, 'got True'),
        ((1, True), TypeError, r'expected whole numbers from .*, got \(1, True\)'),
        ((2.0,), TypeError, r'whole numbers .* got \(2.0,\)'),
        (2.0, TypeError, 'got 2.0'),
        (('2',), TypeError, 'whole numbers'),
    ],
)
def test_other_stages_are_refused(stages, error, says):
    with pytest.raises(error, match=says):
        check_stages(stages, TAPS)


# ---- the head runs once

MICRO = dict.fromkeys(('micro_resnet', 'micro_vit', 'micro_mixer'), (1, 8, 8))
SMALL = (3, 64, 64)
PLAIN = MICRO | dict.fromkeys(
    (
        'cifar_resnet56',
        'test_convnext',
        'test_efficientnet',
        'test_nfnet',
        'test_resnet',
        'efficientvit_b0',  # a batch norm in the head
        'mobilenetv4_conv_small_035',  # another
        'repvit_m1',  # two classifiers in one module
    ),
    SMALL,
)
WATCHED = dict(
    crossvit_tiny_240=(3, 240, 240),  # two branches, two classifiers
    deit_tiny_distilled_patch16_224=SMALL,  # two tokens, two classifiers
    dla46x_c=SMALL,  # a convolution
    efficientformer_l1=(3, 224, 224),  # two classifiers on one vector
    efficientvit_m0=SMALL,  # a batch norm and a dropout after pre_logits
    resnetv2_18=SMALL,
    shvit_s1=SMALL,
)


def model_of(name):
    torch.manual_seed(0)
    size = (PLAIN | WATCHED)[name]
    return make_model(name, 7, size, drop_rate=0.5), size


def watched(model, call):
    "What the classifiers read while `call` runs, each once, joined; and what `call` returned."
    found, read = model.get_classifier(), []
    hooks = [
        c.register_forward_pre_hook(lambda m, args: read.append(args[0]))
        for c in (found if isinstance(found, (tuple, list, nn.ModuleList)) else [found])
    ]
    out = call()
    for h in hooks:
        h.remove()
    once = [r for i, r in enumerate(read) if not any(r is other for other in read[:i])]
    return torch.cat([r.flatten(1) for r in once], 1), out


@pytest.mark.parametrize('name', [*PLAIN, *WATCHED])
def test_the_tapped_forward_is_the_plain_one_while_training(name):
    """With dropout and batch norms at work: logits, draws and running statistics.

    Pooled is what the classifier reads.
    """
    model, size = model_of(name)
    taps, x = find_taps(model, size), torch.randn(4, *size)
    assert taps.plain_head == (name in PLAIN)
    twin = copy.deepcopy(model).train()
    torch.manual_seed(1)
    plain = model.train()(x)
    after = torch.get_rng_state()
    torch.manual_seed(1)
    read, out = watched(twin, lambda: tapped_forward(twin, x, taps))
    assert torch.equal(out.logits, plain) and torch.equal(torch.get_rng_state(), after)
    assert torch.equal(out.pooled, read) and out.pooled.shape == (4, taps.width)
    for (key, a), b in zip(model.state_dict().items(), twin.state_dict().values()):
        assert torch.equal(a, b), key
    if isinstance(model.get_classifier(), nn.Linear) and name != 'repvit_m1':
        assert torch.equal(twin.get_classifier()(out.pooled), out.logits)


@pytest.mark.parametrize('name', [*PLAIN, *WATCHED])
def test_probing_leaves_the_model_as_it_was(name):
    model, size = model_of(name)
    model.train()
    for m in list(model.modules())[::3]:
        m.eval()

    def look():
        modes = ('training', 'p', 'drop_rate')
        return [{k: v for k, v in vars(m).items() if k in modes} for m in model.modules()]

    before, state, weights = look(), torch.get_rng_state(), copy.deepcopy(model.state_dict())
    find_taps(model, size)
    assert look() == before and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


@pytest.mark.parametrize('method', ['rkd', 'cc', 'hcd'])
def test_batch_norms_in_the_head_move_once_a_step(method):
    student = make_model('mobilenetv4_conv_small_035', 10, SMALL)
    task = create_task(method, student, make_model('micro_resnet', 10, SMALL), input_size=SMALL).train()
    task(torch.randn(4, *SMALL), torch.arange(4))
    moved = {k: int(v) for k, v in student.state_dict().items() if k.endswith('num_batches_tracked')}
    assert moved and set(moved.values()) == {1}, moved


class Dropping(nn.Module):
    "A micro ResNet with one more dropout, between its pre-logits and its classifier."

    def __init__(self, p):
        super().__init__()
        self.inner, self.late, self.num_classes = make_model('micro_resnet'), nn.Dropout(p), 10

    def forward_intermediates(self, x, **options):
        options.pop('stop_early', None)
        return self.inner.forward_intermediates(x, **options)

    def forward_head(self, x, pre_logits=False):
        x = self.inner.forward_head(x, pre_logits=True)
        return x if pre_logits else self.inner.fc(self.late(x))

    def forward(self, x):
        return self.forward_head(self.forward_intermediates(x)[0])


class Naming(Dropping):
    def get_classifier(self):
        return self.inner.fc


def test_a_dropout_after_pre_logits_is_found_also_where_it_is_off():
    for p in (0.5, 0.0):
        model = Naming(p)
        taps = find_taps(model, (1, 8, 8))
        assert not taps.plain_head
    model.late.p = 0.5  # switched on later
    out = tapped_forward(model.train(), torch.randn(4, 1, 8, 8), taps)
    assert (out.pooled == 0).float().mean() > 0.3 and torch.equal(model.inner.fc(out.pooled), out.logits)


def test_a_model_that_cannot_name_its_classifier_is_asked_twice():
    model, x = Dropping(0.0).eval(), torch.randn(4, 1, 8, 8)
    taps = find_taps(model, (1, 8, 8))
    out = tapped_forward(model, x, taps)
    assert torch.equal(out.logits, model(x)) and torch.equal(model.inner.fc(out.pooled), out.logits)


def test_no_hook_is_left_after_an_error():
    model = Naming(0.0)
    taps = find_taps(model, (1, 8, 8))
    model.late = nn.Linear(3, 3)  # does not fit
    with pytest.raises(RuntimeError):
        tapped_forward(model, torch.randn(4, 1, 8, 8), taps)
    assert not model.inner.fc._forward_pre_hooks


def test_without_classes_the_logits_are_the_pooled_features():
    model, x = make_model('micro_resnet', 0).eval(), torch.randn(4, 1, 8, 8)
    out = tapped_forward(model, x, find_taps(model, (1, 8, 8)))
    assert torch.equal(out.logits, model(x)) and torch.equal(out.pooled, out.logits)


@pytest.mark.parametrize('model', [*MICRO, Naming(0.0)], ids=[*MICRO, 'watched'])
def test_compiled(model):
    "A plain head stays in one graph with the model; a watched one runs beside the graphs."
    torch._dynamo.reset()
    model = make_model(model) if isinstance(model, str) else model
    taps, x = find_taps(model.eval(), (1, 8, 8)), torch.randn(4, 1, 8, 8)

    def forward(x):
        return tapped_forward(model, x, taps)

    want, compiled = forward(x), torch.compile(forward, backend='eager', fullgraph=taps.plain_head)
    for _ in range(3):
        got = compiled(x)
        assert torch.equal(got.logits, want.logits) and torch.equal(got.pooled, want.pooled)


def test_a_wrong_guess_about_the_head_costs_no_exactness():
    "Taps made by hand say nothing of the head, which then is watched."
    model, x = make_model('micro_vit').eval(), torch.randn(4, 1, 8, 8)
    taps = find_taps(model, (1, 8, 8))
    assert taps.plain_head and not Taps('tokens', (), 1, True, 64, 10, (1, 8, 8)).plain_head
    by_hand = Taps(*[getattr(taps, f) for f in list(taps.__dataclass_fields__)[:-1]])
    for a, b in zip(tapped_forward(model, x, taps)[:2], tapped_forward(model, x, by_hand)[:2]):
        assert torch.equal(a, b)


def test_attention_is_counted_whatever_kernel_computes_it():
    "Its two products are 2·5²·16 operations each, in four heads of four blocks: 25,600 of the whole."
    model = make_model('micro_vit').eval()
    assert count_flops(model, torch.zeros(1, 1, 8, 8)) == 1_320_192 + 4 * 4 * 2 * (2 * 5**2 * 16)


def test_what_a_file_of_a_model_refuses(tmp_path):
    file = save_model(make_model('micro_vit'), tmp_path / 'vit.safetensors', (1, 8, 8))
    with pytest.raises(ValueError, match='such as depth=6'):
        save_model(make_model('micro_vit', depth=6), file, (1, 8, 8))
    assert [p.name for p in tmp_path.iterdir()] == ['vit.safetensors']
    file.write_bytes(file.read_bytes()[:1000])  # a truncated copy
    with pytest.raises(ValueError, match='not a readable safetensors file'):
        load_model(file)


def test_micro_models_take_any_size_from_eight_and_any_channels():
    for name in ('micro_resnet', 'micro_vit', 'micro_mixer'):
        assert make_model(name, 7, (3, 20, 36))(torch.randn(2, 3, 20, 36)).shape == (2, 7)


def test_positions_that_are_not_there():
    twelve = [(192, 14, 14)] * 12
    with pytest.raises(ValueError, match="'even', 'released'"):
        stage_indices(twelve, 'odd')
    with pytest.raises(ValueError, match='0 to 11'):
        stage_indices(twelve, [3, 12])
    assert stage_indices([(128, 14, 14), (256, 7, 7), (384, 4, 4)]) == [0, 1, 2]
