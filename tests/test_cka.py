"""CKA: identities, invariances, streaming against whole, any module, what is refused, and the command."""

import copy
import csv
import warnings

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn
from fresh import warm_processes
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_learn import bench
from ofa_learn.bench import CKA_LAYERS, bench_cka, cka_networks, interleaved, peak_growth, ratio
from ofa_learn.cka import (
    _ESTIMATORS,
    _as_seen_by,
    _load_network,
    cka,
    cka_all,
    cka_matrix,
    compare,
    gram,
    hsic,
    hsic_features,
    layer_names,
    table_csv,
)
from ofa_learn.cli import main
from ofa_learn.data import digits, split
from ofa_learn.models import find_taps, make_model, save_model, tapped_forward
from ofa_learn.watching import _along, watching

few, estimators = settings(max_examples=15, deadline=None), st.sampled_from(_ESTIMATORS)
quiet = dict(progress=False)


def table(seed, n=12, d=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one(x, y, **kw):
    return cka_matrix(x, y, **kw).item()


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.fixture(scope='module')
def nets():
    torch.manual_seed(0)
    return make_model('micro_resnet').eval(), make_model('micro_vit').eval()


@pytest.fixture
def images():
    return torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def u_statistic(K, L):
    """The unbiased HSIC by its definition (Song et al., 2012).

    It sums K_ij (L_ij + L_kl - 2 L_ik) over all ordered quadruples of different images.
    """
    n, total = len(K), 0.0
    for i in range(n):
        for j in range(n):
            for k in range(n):
                for l in range(n):
                    if len({i, j, k, l}) == 4:
                        total += K[i, j] * (L[i, j] + L[k, l] - 2 * L[i, k])
    return total / (n * (n - 1) * (n - 2) * (n - 3))


@few
@given(st.integers(0, 999), st.integers(0, 1))
def test_unbiased_hsic_is_the_u_statistic(seed, uncentred):
    x, y = table(seed, 6, 3) + uncentred, table(seed + 1, 6, 4)
    direct = u_statistic((x @ x.T).numpy(), (y @ y.T).numpy())
    assert hsic(gram(x), gram(y)).item() == pytest.approx(direct, abs=1e-9)
    assert hsic_features(x, y).item() == pytest.approx(direct, abs=1e-9)


def test_biased_hsic_is_equation_4():
    x, y, n = table(0), table(1, d=7), 12
    H = torch.eye(n, dtype=torch.float64) - 1 / n
    direct = torch.trace(x @ x.T @ H @ y @ y.T @ H) / (n - 1) ** 2
    for value in (hsic(gram(x), gram(y), 'biased'), hsic_features(x, y, 'biased')):
        torch.testing.assert_close(value, direct)


@few
@given(st.integers(0, 999), estimators, st.floats(0.1, 50), st.floats(-100, 100))
def test_rotation_scale_and_offset_change_nothing(seed, estimator, scale, offset):
    x, y = table(seed, 20, 6), table(seed + 1, 20, 4)
    Q = torch.linalg.qr(table(seed + 2, 6, 6))[0]
    assert one(scale * x @ Q + offset, y, estimator=estimator) == pytest.approx(
        one(x, y, estimator=estimator), abs=1e-8
    )
    assert one(x, -scale * x @ Q, estimator=estimator) == pytest.approx(1, abs=1e-8)


@few
@given(st.integers(0, 999), estimators)
def test_bounds_symmetry_and_the_order_of_images(seed, estimator):
    x, y, rows = table(seed, 20, 6), table(seed + 1, 20, 4), torch.randperm(20)
    value = one(x, y, estimator=estimator)
    assert (0 if estimator == 'biased' else -1) - 1e-9 <= value <= 1 + 1e-9
    assert (
        value
        == pytest.approx(one(y, x, estimator=estimator), abs=1e-9)
        == pytest.approx(one(x[rows], y[rows], estimator=estimator), abs=1e-9)
    )
    assert one(x[rows], y, estimator=estimator) != pytest.approx(value, abs=1e-6)


def test_a_linear_map_changes_it_and_independence_is_nothing():
    x = table(0, 200, 20)
    assert one(x, x @ table(1, 20, 20)) < 0.95
    assert abs(np.mean([one(table(i, 50, 300), table(i + 1000, 50, 300)) for i in range(20)])) < 0.02
    assert one(table(0, 50, 300), table(1, 50, 300), estimator='biased') > 0.7


@pytest.mark.parametrize('offset', [0, 5, 100])
def test_float32_features_against_float64(offset):
    torch.manual_seed(0)
    x = torch.randn(128, 300) @ torch.randn(300, 3000) / 17
    y = x[:, :700] + 2 * torch.randn(128, 700)
    x, y = x + offset, y + offset
    assert abs(one(x, y) - one(x.double(), y.double())) < 1e-6
    exact = hsic_features(x, y) / (hsic_features(x, x) * hsic_features(y, y)).sqrt()
    assert abs(one(x, y) - exact.item()) < 1e-6


def test_streaming_is_the_same_as_features_in_hand(nets, images):
    cnn, vit = nets
    taps = [find_taps(m, (1, 8, 8)) for m in nets]
    with torch.no_grad():
        a, b = (
            {
                f'stage {s.number}': f[0] if isinstance(f, tuple) else f
                for s, f in zip(t.stages, tapped_forward(m, images, t).stages)
            }
            for m, t in zip(nets, taps)
        )
    got = cka(cnn, vit, images, **quiet)
    torch.testing.assert_close(got.matrix, cka_matrix(a, b), atol=1e-9, rtol=0)
    assert got.rows == list(a) and got.columns == list(b) and (got.images, got.batches) == (24, 1)


def test_batches_add_up_and_a_short_last_one_is_joined(nets, images):
    cnn, vit = nets
    with torch.no_grad():
        a, b = (
            [
                f[0] if isinstance(f, tuple) else f
                for f in tapped_forward(m, images, find_taps(m, (1, 8, 8))).stages
            ]
            for m in nets
        )
    got = cka(cnn, vit, images[:23], batch_size=10, **quiet)  # 10, and 10 + 3
    assert (got.images, got.batches) == (23, 2)

    def S(x, y):
        return 10 * hsic(gram(x[:10]), gram(y[:10])) + 13 * hsic(gram(x[10:23]), gram(y[10:23]))

    want = torch.stack([torch.stack([S(x, y) / (S(x, x) * S(y, y)).sqrt() for y in b]) for x in a])
    torch.testing.assert_close(got.matrix, want, atol=1e-9, rtol=0)
    assert cka(cnn, vit, images, batch_size=10, **quiet).batches == 3  # four images are enough for a batch


def test_minibatches_come_closer_as_they_grow():
    data = split(digits(), valid=512)
    torch.manual_seed(0)
    a, b = make_model('micro_resnet').eval(), make_model('micro_vit').eval()

    def run(size):
        return cka(a, b, data, batch_size=size, **quiet).matrix

    full = run(512)
    far = [(run(size) - full).abs().mean().item() for size in (8, 32, 128)]
    assert far[0] > far[2] and far[2] < 0.02, far


def test_one_pass_where_both_are_one(nets, images):
    calls, (cnn, _) = [], nets
    handle = cnn.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        got = cka(cnn, cnn, images, 'stages.*.*', **quiet)
    finally:
        handle.remove()
    assert len(calls) == 1
    torch.testing.assert_close(got.matrix.diagonal(), torch.ones(len(got.rows), dtype=torch.float64))


def test_all_pairs_of_three_equal_the_pairs(nets, images):
    models = dict(cnn=nets[0], vit=nets[1], mlp=make_model('micro_mixer').eval())
    pairs = cka_all(models, images, batch_size=12, **quiet)
    assert len(pairs) == 9
    for (a, b), s in pairs.items():
        torch.testing.assert_close(
            s.matrix, cka(models[a], models[b], images, batch_size=12, **quiet).matrix, atol=1e-9, rtol=0
        )
        torch.testing.assert_close(s.matrix, pairs[b, a].matrix.T)


class Odd(nn.Module):
    "Tuples, dicts, a layer called twice, one that is never called, one that gives no tensor."

    def __init__(self):
        super().__init__()
        self.first, self.pair, self.twice, self.unused, self.words = (
            nn.Linear(64, 6),
            Pair(),
            nn.Linear(6, 6),
            nn.Linear(3, 3),
            Words(),
        )

    def forward(self, x):
        h, _ = self.pair(self.first(x.flatten(1)))
        self.words(h)
        return self.twice(self.twice(h))


class Pair(nn.Module):
    def forward(self, x):
        return x.relu(), x.sum()


class Words(nn.Module):
    def forward(self, x):
        return 'no tensor'


def test_any_module_by_its_leaves(images):
    got = cka(Odd(), Odd(), images, 'leaves', **quiet)
    assert (
        got.rows[:2] == ['first', 'pair']
        and any('twice' in r for r in got.rows)
        and not any('unused' in r or 'words' in r for r in got.rows)
    )
    assert got.matrix.isfinite().all()


@pytest.mark.parametrize(
    'layer, why', [('unused', 'unused'), ('words', 'words'), ('frist', 'did you mean first')]
)
def test_layers_asked_for_by_name_must_give_features(images, layer, why):
    model = Odd()
    with pytest.raises(ValueError, match=why):
        cka(model, model, images, layer, **quiet)
    assert hooks(model) == 0


def test_channels_last_maps_tokens_and_leaves_of_a_swin():
    torch.manual_seed(0)
    swin = make_model('swin_nano', 10, (3, 32, 32), window_size=2, patch_size=2).eval()
    x = torch.randn(6, 3, 32, 32)
    taps, leaves = cka(swin, swin, x, **quiet), cka(swin, swin, x, 'leaves', **quiet)
    assert len(taps.rows) == 4 and len(leaves.rows) > 50 and taps.matrix.isfinite().all()
    assert set(leaves.rows) <= set(layer_names(swin, 'leaves')) and len(set(leaves.rows)) == len(leaves.rows)
    assert leaves.rows[0].startswith('patch_embed') and leaves.rows[-1].startswith(
        'head'
    )  # in the order of the run


def test_hooks_and_mode_are_restored_also_after_an_error(nets, images):
    cnn, vit = nets
    cnn.train()

    class Stop(Exception):
        pass

    def batches():
        yield images
        raise Stop

    with pytest.raises(Stop):
        cka(cnn, vit, batches(), 'stages.*', ['blocks.*'], **quiet)
    assert hooks(cnn) + hooks(vit) == 0 and cnn.training and not vit.training
    cnn.eval()
    with pytest.raises(ValueError):
        cka(cnn, vit, images * float('nan'), 'stages.*', ['blocks.*'], **quiet)
    assert hooks(cnn) + hooks(vit) == 0
    before = [p.grad for p in cnn.parameters()]
    cka(cnn, vit, images, **quiet)
    assert all(g is None for g in before) and all(p.grad is None for p in cnn.parameters())


@pytest.mark.parametrize(
    'call, words',
    [
        (lambda a, b, x: cka(a, b, x[:3], **quiet), 'at least 4 images'),
        (lambda a, b, x: cka(a, b, x, batch_size=3, **quiet), 'at least 4 images'),
        (lambda a, b, x: cka(a, b, [], **quiet), 'no images'),
        (lambda a, b, x: cka(a, b, x[:0], **quiet), 'no images'),
        (lambda a, b, x: cka(a, b, x, data_b=x[:20], **quiet), 'differ in length'),
        (
            lambda a, b, x: cka(
                a, b, [(x, torch.arange(24))], data_b=[(x, torch.arange(24).flip(0))], **quiet
            ),
            'different orders',
        ),
        (
            lambda a, b, x: cka(a, b, x * float('inf'), 'stages.0', ['blocks.0'], **quiet),
            'NaN or infinite in a: stages.0',
        ),
        (lambda a, b, x: cka(a, b, x, estimator='fair', **quiet), 'expected one of unbiased, biased'),
        (lambda a, b, x: cka(a, b, x, 'stage.*', **quiet), 'no module fits'),
        (lambda a, b, x: cka_all({}, x), 'expected at least one'),
        (lambda a, b, x: cka_all(dict(a=a), dict(b=x)), 'expected a set for each of a'),
        (lambda a, b, x: cka_matrix([]), 'no features'),
        (lambda a, b, x: cka_matrix([table(0, 3)]), 'at least 4'),
        (lambda a, b, x: cka_matrix([table(0, 5)], [table(0, 6)]), 'got 5 and 6'),
        (lambda a, b, x: cka_matrix([table(0, 5), table(0, 6)]), 'different numbers of images'),
        (
            lambda a, b, x: cka_matrix(dict(fine=table(0), bad=table(0) * float('nan'))),
            'NaN or infinite in bad',
        ),
        (lambda a, b, x: compare(['micro_vit'], images=3), 'at least 4'),
        (lambda a, b, x: compare([]), 'at least one model'),
    ],
)
def test_bad_input_is_named(nets, images, call, words):
    with pytest.raises(ValueError, match=words):
        call(*nets, images)


def test_wrong_types_are_named(nets, images):
    with pytest.raises(TypeError, match='floating-point'):
        cka(*nets, (images * 100).long(), **quiet)
    with pytest.raises(TypeError, match='floating-point'):
        gram(torch.arange(12).view(4, 3))
    with pytest.raises(TypeError, match='batches'):
        cka(*nets, ['a'], **quiet)


def test_a_constant_layer_is_nan_with_one_warning_that_names_it():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        m = cka_matrix(dict(live=table(0), dead=torch.full((12, 4), 0.1)))
    assert (
        [str(w.message) for w in caught] == [str(caught[0].message)]
        and 'dead' in str(caught[0].message)
        and 'live' not in str(caught[0].message)
    )
    assert m.isnan().tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_features(dtype):
    x, y = table(0, 40, 30), table(0, 40, 30) + table(1, 40, 30)
    assert abs(one(x.to(dtype), y.to(dtype)) - one(x, y)) < 0.01


def test_networks_by_name(tmp_path):
    torch.manual_seed(0)
    net = make_model('micro_resnet', 10, (3, 12, 12))
    file = str(save_model(net, tmp_path / 'net.safetensors', (3, 12, 12), norm=((0.5,) * 3, (0.25,) * 3)))
    grey = digits()
    model, norm, shape = _load_network(file, grey)
    assert shape == (3, 12, 12) and norm.mean == (0.5,) * 3 and not model.training
    assert (
        _as_seen_by(grey, shape).images.shape[1:] == shape
        and _as_seen_by(grey, shape).images.dtype == torch.uint8
    )
    pairs, seen = compare([file, 'micro_vit', 'micro_vit'], images=33, layers='taps', **quiet)
    assert (
        len(seen) == 33
        and len(set(seen.labels.tolist())) == 10
        and list(pairs)[-1] == ('micro_vit (2)', 'micro_vit (2)')
    )
    rows = list(csv.DictReader(table_csv(pairs).splitlines()))
    assert len(rows) == 12 * 12 and float(rows[0]['cka']) == 1
    with pytest.raises(ValueError, match='has no weights|no weights for'):
        compare(['micro_vit'], pretrained=True)
    with pytest.raises(ValueError, match='such as 224'):
        compare(['vit_small_patch16_224'])
    assert _load_network('vit_tiny_patch16_224', grey, size=32)[2] == (1, 32, 32)


def test_published_weights_keep_their_size_and_normalisation(monkeypatch):
    import ofa_learn.cka as module

    asked = {}

    def create(name, pretrained):
        asked.update(name=name, pretrained=pretrained)
        return nn.Flatten()

    monkeypatch.setattr(module.timm, 'create_model', create)
    _, norm, shape = _load_network('mobilenetv2_100', digits(), pretrained=True)
    cfg = timm.get_pretrained_cfg('mobilenetv2_100')
    assert (
        asked == dict(name='mobilenetv2_100', pretrained=True)
        and shape == (3, 224, 224)
        and norm.mean == tuple(cfg.mean)
        and norm.std == tuple(cfg.std)
    )


def test_command_writes_a_page_and_a_table(tmp_path, capsys):
    from PIL import Image

    for k in ('a', 'b'):
        (tmp_path / 'set' / k).mkdir(parents=True)
        for i in range(9):
            Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(
                tmp_path / 'set' / k / f'{i}.png'
            )
    out = tmp_path / 'page.html'
    assert (
        main(
            [
                'cka',
                'micro_resnet',
                'micro_mixer',
                '--data',
                str(tmp_path / 'set'),
                '--size',
                '16',
                '--images',
                '8',
                '--layers',
                'leaves',
                '--device',
                'cpu',
                '--out',
                str(out),
            ]
        )
        == 0
    )
    rows = list(csv.reader((tmp_path / 'page.csv').read_text().splitlines()))
    leaves = [
        len(layer_names(make_model(m, 2, (3, 16, 16)), 'leaves')) for m in ('micro_resnet', 'micro_mixer')
    ]
    assert (
        rows[0] == ['model_a', 'layer_a', 'model_b', 'layer_b', 'cka']
        and len(rows) > 1 + 0.5 * sum(leaves) ** 2
    )
    said = capsys.readouterr()
    assert '8 of set' in out.read_text() and 'micro_resnet and micro_mixer' in said.out
    assert (
        'ofa-learn cka: warning: CKA is undefined' in said.err and 'micro_mixer: head' in said.err
    )  # a mixer's head starts at zero
    assert main(['cka', 'micro_resnet', '--data', 'nowhere', '--out', str(tmp_path / 'none.html')]) == 2
    assert not (tmp_path / 'none.html').exists() and "expected 'digits'" in capsys.readouterr().err
    assert main(['cka', '--data', 'digits']) == 2
    assert 'required: names' in capsys.readouterr().err


def test_interleaved_takes_turns_and_medians_of_ratios():
    order = []
    times = interleaved(dict(a=lambda: order.append('a'), b=lambda: order.append('b')), rounds=3)
    assert order == list('ab' + 'ab' + 'ba' + 'ab') and [len(t) for t in times.values()] == [3, 3]
    assert ratio([1, 9, 3], [1, 1, 1])['median'] == 3
    with pytest.raises(ValueError, match='at least 1'):
        interleaved({}, rounds=0)


def _allocate(n):
    torch.ones(n * 2**18)


def test_peak_memory_of_a_process_of_its_own(monkeypatch):
    assert 100 < peak_growth(_allocate, (1,), (128,)) < 200
    monkeypatch.setattr(bench, 'multiprocessing', warm_processes())
    with pytest.raises(RuntimeError, match='exit code'):
        peak_growth(_allocate, (1,), ('x',))


def test_memory_does_not_grow_with_the_number_of_batches(monkeypatch):
    from ofa_learn.bench import cka_work

    monkeypatch.setattr(bench, 'multiprocessing', warm_processes())
    one, eight = (peak_growth(cka_work, ('ours', 4, 4, 12), ('ours', 16 * k, 16, 12)) for k in (1, 8))
    assert eight < one + 250, (
        one,
        eight,
    )  # kept graphs of the 112 images more would take about 700 MiB; an allocator's mood 150


def test_benchmark_reports_ratios():
    a, b = cka_networks()
    assert len(layer_names(a, CKA_LAYERS[12])) == 12 and layer_names(a, CKA_LAYERS[24]) == CKA_LAYERS[24]
    result = bench_cka(images=4, rounds=1, memory=False, say=lambda line: None)
    assert (
        result['over_forwards']['median'] > 0
        and result['machine']['threads'] == 1
        and len(result['rows']) >= 2
    )


# --- where a layer keeps its images --------------------------------------------------------------


class Sequence(nn.Module):
    "Patches through a Transformer of PyTorch's own, images first or second, with a table of positions."

    def __init__(self, batch_first, side=2):
        super().__init__()
        self.batch_first, self.side = batch_first, side
        torch.manual_seed(0)
        self.embed = nn.Linear(side * side, 16)
        self.table = nn.Embedding((8 // side) ** 2, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)

    def forward(self, x):
        s = self.side
        x = x.unfold(2, s, s).unfold(3, s, s).flatten(4).flatten(1, 3)  # (B, S, patch)
        x = x if self.batch_first else x.transpose(0, 1)
        positions = self.table(torch.arange(self.table.num_embeddings))  # (S, C), no image in it
        x = self.embed(x) + (positions if self.batch_first else positions[:, None])
        return self.block(x)


@pytest.mark.parametrize('n', [4, 8, 16, 24])  # 16 tokens: a multiple of the batch, equal to it, or neither
def test_images_may_come_second(n, images):
    first, second = Sequence(True).eval(), Sequence(False).eval()
    got = cka(first, second, images[:n], ['embed', 'block', 'block.linear1'], **quiet)
    assert got.rows == ['embed', 'block', 'block.linear1']
    torch.testing.assert_close(got.matrix.diagonal(), torch.ones(3, dtype=torch.float64))
    with torch.no_grad():
        want = cka_matrix(first.embed(first_patches(images[:n])), first(images[:n]))
    assert got.matrix[0, 1].item() == pytest.approx(want.item(), abs=1e-6)


def first_patches(x):
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).flatten(1, 3)


def test_a_table_has_no_images(images):
    for n in (4, 8, 16):
        assert (
            'table'
            not in cka(Sequence(False).eval(), Sequence(True).eval(), images[:n], 'leaves', **quiet).rows
        )
        with pytest.raises(ValueError, match='no features with one row per image from table'):
            cka(Sequence(True).eval(), Sequence(True).eval(), images[:n], 'table', **quiet)


class Views(nn.Module):
    "Two views of each image in one batch, all first views before all second ones, or side by side."

    def __init__(self, beside):
        super().__init__()
        self.beside, self.body = beside, nn.Linear(64, 5)
        nn.init.normal_(self.body.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, x):
        views = torch.stack([x, x.flip(-1)], 1 if self.beside else 0).flatten(2)
        return self.body(views.flatten(0, 1))


def test_several_entries_an_image_fold_back_however_they_lie(images):
    got = cka(Views(True), Views(False), images, 'body', **quiet)
    assert got.matrix.item() == pytest.approx(1)
    assert _along(torch.randn(4, 3), torch.randn(8, 3)).times == 2


@pytest.mark.parametrize(
    'two, four',
    [
        ((2, 3), (2, 3)),
        ((2, 2), (4, 4)),
        ((2,), (4,)),
        ((3, 5), (5, 5)),
        ((2, 5), (4, 5, 1)),
        ((4, 5), (5, 5)),
        ((1, 5), (2, 5)),
    ],
)
def test_no_dimension_or_several_follow_the_batch(two, four):
    assert _along(torch.zeros(two), torch.zeros(four)) is None
    assert _along(None, torch.zeros(four)) is None


def test_a_forward_without_images_is_named(nets, images):
    cnn, _ = nets
    for odd in ("no images", images[:0], torch.arange(5)):
        with (
            pytest.raises(ValueError, match='MicroResNet was called without images'),
            watching(cnn, ['fc'], gram),
        ):
            cnn(odd)
    assert hooks(cnn) == 0


def test_probing_changes_nothing(nets, images):
    cnn = make_model('micro_resnet').train()
    before = {k: v.clone() for k, v in cnn.state_dict().items()}
    state = torch.get_rng_state()
    with watching(cnn.eval(), ['stages.0', 'fc'], gram) as grams, torch.no_grad():
        cnn(images)
    assert set(grams) == {'stages.0', 'fc'} and all(g.shape == (24, 24) for g in grams.values())
    assert all(torch.equal(v, before[k]) for k, v in cnn.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    with watching(cnn.train(), ['fc'], gram) as grams:
        cnn(images)
        assert cnn.training and cnn.stem[1].num_batches_tracked == 1 and grams['fc'].shape == (24, 24)


@pytest.mark.parametrize('kind', ['channels_last', 'half', 'double'])
def test_layouts_and_precisions_give_the_same(kind, nets, images):
    cnn, want = nets[0], cka(*nets, images, ['stages.*'], ['blocks.*'], **quiet).matrix
    other = copy.deepcopy(cnn)
    if kind == 'channels_last':
        other, x = (
            other.to(memory_format=torch.channels_last),
            images.contiguous(memory_format=torch.channels_last),
        )
    else:
        x = images.to(torch.bfloat16 if kind == 'half' else torch.float64)
        other = other.to(x.dtype)
    got = cka(other, nets[1], x, ['stages.*'], ['blocks.*'], data_b=images, **quiet).matrix
    torch.testing.assert_close(got, want, atol=0.02 if kind == 'half' else 1e-4, rtol=0)


# --- loaders -------------------------------------------------------------------------------------


def test_two_loaders_must_not_shuffle(nets, images):
    from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset

    labels = torch.zeros(24)  # all of one class: their order does not show
    held = TensorDataset(images, labels)
    still, shuffled = DataLoader(held, 12), DataLoader(held, 12, shuffle=True)
    drawn = DataLoader(held, 12, sampler=SubsetRandomSampler(range(24)))
    for a, b in ((shuffled, shuffled), (still, shuffled), (shuffled, still), (still, drawn)):
        with pytest.raises(ValueError, match='the loader for [ab] shuffles.*shuffle=False'):
            cka(*nets, a, data_b=b, **quiet)
    want = cka(*nets, images, batch_size=12, **quiet).matrix
    torch.testing.assert_close(cka(*nets, still, data_b=still, **quiet).matrix, want, atol=1e-6, rtol=0)
    assert cka(*nets, shuffled, **quiet).images == 24  # one loader for both: they see the same
