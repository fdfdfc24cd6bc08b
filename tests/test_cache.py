"""A teacher's kept answers: equal to the bit, refused where they are another's, noticed where broken."""

import os
import random
import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fresh import finished

from ofa_learn.cache import TeacherCache, _marks, _same_marks, cached
from ofa_learn.data import Augment, Batches, Norm, digits, split
from ofa_learn.identity import weights_hash
from ofa_learn.models import make_model
from ofa_learn.tasks import METHODS, DistillationTask, Teacher, create_task, register
from ofa_learn.training import fit

DATA = split(digits(), train=130)  # 50 + 50 + 30: the last batch is short
SHIFT, ALL = Augment(shift=1), Augment(shift=1, flip=True, turn=10.0, zoom=0.1, erase=0.5)
NEEDS = ('logits', 'pooled')


def teacher(name='micro_resnet', seed=0, **options):
    torch.manual_seed(seed)
    model = make_model(name)
    model.train()(torch.randn(64, 1, 8, 8))  # batch norm that has seen something
    return Teacher(model, **options)


@pytest.fixture
def methods():
    "Methods registered in a test are forgotten after it."
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.mark.parametrize('name', ['micro_resnet', 'micro_vit', 'micro_mixer'])
@pytest.mark.parametrize('augment', [SHIFT, ALL, Augment()])
@pytest.mark.parametrize('size', [50, 13, 500])
def test_equal_to_the_teacher(name, augment, size, tmp_path):
    t = teacher(name, norm=((0.4,), (0.3,)))  # renormalised on the way
    cache = TeacherCache(tmp_path, t, DATA, augment=augment, batch_size=size, needs=NEEDS, view_seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        cache.build(2, progress=False)
    assert len(list(tmp_path.glob('epoch_*.npy'))) == (1 if augment == Augment() else 2)
    for seed, epoch in ((0, 0), (1, 1), (2, 1)):
        for b in Batches(DATA.train, DATA.norm, size, augment, seed, 3).epoch(epoch):
            kept, asked = cache(epoch, b.index, NEEDS, b.input), t(cache.fitted.view(b.input), NEEDS)
            assert (
                torch.equal(kept.logits, asked.logits)
                and torch.equal(kept.pooled, asked.pooled)
                and kept.maps is None
            )
            assert torch.equal(kept.logits, t(cache.fitted.view(b.input)).logits)  # and to the plain forward
            assert kept.logits.is_contiguous() and kept.pooled.is_contiguous()


def student(method, t, cache=None, seed=0, **options):
    "Weights and losses after two epochs, and how often the teacher was asked."
    torch.manual_seed(seed)
    calls, hook = [], t.register_forward_pre_hook(lambda *_: calls.append(1))
    task = create_task(method, 'micro_vit', t, data=DATA)
    if cache is not None:
        assert cached(task, cache) is task
    history = fit(
        task,
        DATA,
        2,
        seed=seed,
        device='cpu',
        progress=False,
        eval_every=2,
        opt='adamw',
        **(dict(augment=SHIFT) | options),
    )
    hook.remove()
    return (
        {**task.trainable_module.state_dict()},
        [(r['loss'], r['losses'], r['valid_accuracy']) for r in history],
        len(calls),
    )


def check_same(method, t, cache, seeds=(0, 1)):
    ends = []
    for seed in seeds:
        (w, h, asked), (v, g, recalled) = student(method, t, seed=seed), student(method, t, cache, seed)
        assert all(torch.equal(w[k], v[k]) for k in w) and h == g and (asked, recalled) == (4, 0)
        ends.append(v)
    return ends


@pytest.mark.parametrize('method', ['kd', 'ofa', 'ofa+kd', 'rsd'])
def test_the_same_student(method, tmp_path):
    if method == 'rsd':
        pytest.importorskip('ofa_learn.rsd')
    t = teacher()
    needs = NEEDS if method == 'rsd' else ('logits',)
    a, b = check_same(
        method, t, TeacherCache(tmp_path, t, DATA, augment=SHIFT, needs=needs).build(2, progress=False)
    )
    assert any(not torch.equal(a[k], b[k]) for k in a)  # one cache, another student for another seed


def test_pooled_features(methods, tmp_path):
    @register('pooled_mse')
    class PooledMSE(DistillationTask):
        "The student's pooled features, mapped to the teacher's."

        needs, taps_needed, stages = ('pooled',), True, ()

        def build_heads(self):
            class Head(torch.nn.Linear):
                def forward(self, features, answers):
                    return super().forward(features.pooled)

            return Head(self.student_taps.width, self.teacher_taps.width)

        def losses(self, student, heads, teacher, target):
            return dict(ce=F.cross_entropy(student.logits, target), hint=F.mse_loss(heads, teacher.pooled))

    t = teacher()
    check_same(
        'pooled_mse',
        t,
        TeacherCache(tmp_path / 'a', t, DATA, augment=SHIFT, needs=NEEDS).build(2, progress=False),
        [0],
    )
    small = TeacherCache(tmp_path / 'b', t, DATA, augment=SHIFT)
    task = create_task('pooled_mse', 'micro_vit', t, data=DATA)
    with pytest.raises(ValueError, match="needs pooled, the cache keeps logits"):
        cached(task, small)
    task.needs = ('maps',)
    with pytest.raises(ValueError, match='feature maps, which are too large'):
        cached(task, small)
    labels = create_task('labels', 'micro_vit', data=DATA)
    assert cached(labels, small).answers.__func__ is DistillationTask.answers


def test_stale_keys_are_named(tmp_path):
    t = teacher()
    TeacherCache(tmp_path, t, DATA, augment=SHIFT)
    one = next(iter(t.model.parameters()))

    def stale(t=t, data=DATA, augment=SHIFT, **options):
        return lambda: TeacherCache(tmp_path, t, data, augment=augment, **options)

    other, pixels, ids = teacher(seed=1), DATA.train.images.clone(), DATA.train.ids + 1
    pixels[0, 0, 0, 0] += 1
    for make, what in [
        (stale(other), r'teacher\.weights: \w{16} → \w{16}'),
        (stale(teacher('micro_vit')), 'teacher.model: MicroResNet → VisionTransformer'),
        (stale(teacher(norm=((0.1,), (0.2,)))), 'teacher.norm'),
        (stale(augment=Augment(shift=1, flip=True)), 'augment.flip: False → True'),
        (stale(view_seed=1), 'view_seed: 0 → 1'),
        (stale(batch_size=40), 'batch_size: 50 → 40'),
        (stale(needs=NEEDS), 'needs'),
        (stale(data=replace(DATA, train=replace(DATA.train, images=pixels))), 'data.train'),
        (stale(data=replace(DATA, train=replace(DATA.train, ids=ids))), 'data.ids'),
        (stale(data=replace(DATA, norm=Norm((0.5,), (0.5,)))), 'data.norm'),
    ]:
        with pytest.raises(ValueError, match=what):
            make()
    stale()()  # the same is welcome
    with torch.no_grad():
        one.view(-1)[0] += 1e-6
    with pytest.raises(ValueError, match='teacher.weights'):
        stale()()
    (tmp_path / 'key.json').write_text('{"for')
    with pytest.raises(ValueError, match='key.json: not readable'):
        stale()()


def test_a_foreign_teacher_or_norm(tmp_path):
    cache = TeacherCache(tmp_path, teacher(), DATA, augment=SHIFT)
    with pytest.raises(ValueError, match='other weights'):
        cached(create_task('kd', 'micro_vit', teacher(seed=1), data=DATA), cache)
    with pytest.raises(ValueError, match='normalised by'):
        cached(
            create_task('kd', 'micro_vit', teacher(), data=replace(DATA, norm=Norm((0.5,), (0.5,)))), cache
        )
    assert (
        weights_hash(teacher().model) == weights_hash(teacher().model) != weights_hash(teacher(seed=1).model)
    )
    cached(create_task('kd', 'micro_vit', teacher(), data=DATA), cache)  # the same weights, another object


@pytest.mark.parametrize(
    'wrong',
    [
        dict(view_seed=1),
        dict(augment=Augment()),
        dict(augment=replace(SHIFT, flip=True)),
        dict(augment=Augment(shift=2)),
    ],
)
def test_other_views_are_noticed(wrong, tmp_path):
    t = teacher()
    cache = TeacherCache(tmp_path, t, DATA, augment=SHIFT).build(2, progress=False)
    with pytest.raises(ValueError, match='^input: not the images'):
        student('kd', t, cache, **wrong)


def test_a_teacher_with_the_same_weights_and_other_heads_is_another_teacher(tmp_path):
    torch.manual_seed(0)
    two, four = (make_model('micro_vit', num_heads=n) for n in (2, 4))
    four.load_state_dict(two.state_dict())
    x = DATA.norm(DATA.train.images[:5])
    assert weights_hash(two) == weights_hash(four) and not torch.equal(two.eval()(x), four.eval()(x))
    cache = TeacherCache(tmp_path, Teacher(two), DATA, augment=SHIFT)
    with pytest.raises(ValueError, match='teacher.layers.blocks.0.attn.num_heads: 2 → 4'):
        TeacherCache(tmp_path, Teacher(four), DATA, augment=SHIFT)
    for other, what in ((Teacher(four), 'num_heads: 2 → 4'), (Teacher(two, norm=((0.5,), (0.5,))), 'norm: ')):
        with pytest.raises(
            ValueError, match=f'^task: its teacher has other weights, modules or norm.*{what}'
        ):
            cached(create_task('kd', 'micro_vit', other, data=DATA), cache)


def test_images_that_are_read_while_training_are_refused_with_a_reason(tmp_path):
    from PIL import Image

    from ofa_learn.loaders import load_images

    for part, n in (('train', 6), ('test', 2)):
        for i in range(2 * n):
            place = tmp_path / part / f'c{i % 2}'
            place.mkdir(parents=True, exist_ok=True)
            Image.new('L', (8, 8), 20 * i).save(place / f'{i}.png')
    data = load_images(tmp_path, size=8, channels=1, norm=Norm((0.5,), (0.5,)), valid=2, workers=0)
    torch.manual_seed(0)
    with pytest.raises(ValueError, match='^data: .*is read while training.*leave the teacher in the loop'):
        TeacherCache(tmp_path / 'kept', Teacher(make_model('micro_resnet', 2)), data)
    assert not (tmp_path / 'kept').exists()


def test_mixed_images_and_missing_rows(tmp_path):
    t = teacher()
    task = cached(
        create_task('kd', 'micro_vit', t, data=DATA),
        TeacherCache(tmp_path, t, DATA, augment=SHIFT).build(1, progress=False),
    )
    b = next(iter(Batches(DATA.train, DATA.norm, 50, SHIFT).epoch(0)))
    assert task(b.input, b.target, index=b.index)['loss'].isfinite()
    assert task(b.input.bfloat16().float(), b.target, index=b.index)[
        'loss'
    ].isfinite()  # rounded as under autocast
    with pytest.raises(ValueError, match='^index: kept answers'):
        task(b.input, b.target)
    with pytest.raises(ValueError, match='mixup'):
        task(0.8 * b.input + 0.2 * b.input.flip(0), b.target, index=b.index)
    with pytest.raises(ValueError, match='not the images'):
        task(b.input, b.target, index=b.index.flip(0))
    task.epoch = 1
    with pytest.raises(ValueError, match=r'^epoch: no answers to epoch 1.*missing; call build\(2\)'):
        task(b.input, b.target, index=b.index)


def test_marks_tell_images_apart():
    x = DATA.norm(DATA.train.images)
    m = _marks(x)
    assert _same_marks(m, _marks(x.bfloat16()), 64) and _marks(x.to(memory_format=torch.channels_last)).equal(
        m
    )
    assert (m[:, None] - m[None]).abs().fill_diagonal_(9).lt(0.02 * 8).float().mean() < 0.02


def test_truncated_files_are_noticed(tmp_path):
    t = teacher()
    make = partial(TeacherCache, tmp_path, t, DATA, augment=SHIFT)
    cache = make().build(2, progress=False)
    whole, path = cache.path(1).read_bytes(), cache.path(1)
    other = b'\x93NUMPY'
    for broken in (
        b'',
        whole[:5],
        whole[:100],
        whole[:128],
        whole[:-1],
        whole[: len(whole) // 2],
        b'x' * len(whole),
        other + whole[6:20],
    ):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=r'epoch_0001.npy is not whole'):
            make()(1, torch.arange(5))
        with pytest.warns(UserWarning, match='asked again'):
            make().build(2, progress=False)
        assert path.read_bytes() == whole
    import numpy as np

    np.save(path, np.zeros((3, 3), np.float32))
    with pytest.raises(ValueError, match=r'of shape \(3, 3\) instead'):
        make()(1, torch.arange(3))


def killed_while_building(folder):
    cache, done, sync = TeacherCache(folder, teacher(), DATA, augment=SHIFT), [], os.fsync

    def fsync(f):
        done.append(f)
        if len(done) == 5:  # each epoch: the file, then its folder
            os._exit(9)
        sync(f)

    os.fsync = fsync
    cache.build(5, progress=False)


def test_killed_while_building(tmp_path):
    done = finished(killed_while_building, tmp_path, folder=tmp_path)
    assert done.returncode == 9, done.stderr[-2000:]
    there = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob('epoch_*')}
    assert set(there) == {'epoch_0000.npy', 'epoch_0001.npy'} and list(tmp_path.glob('.*.tmp'))
    os.utime(next(tmp_path.glob('.*.tmp')), (0, 0))
    t, calls = teacher(), []
    t.register_forward_pre_hook(lambda *_: calls.append(1))
    cache = TeacherCache(tmp_path, t, DATA, augment=SHIFT).build(5, progress=False)
    assert len(calls) == 3 * 3 + 1  # three epochs of three batches, and one to compare
    assert there.items() <= {p.name: p.stat().st_mtime_ns for p in tmp_path.glob('epoch_*')}.items()
    assert not list(tmp_path.glob('.*.tmp'))  # an old one is cleared away
    assert [cache.compare(e, batches=2) for e in range(5)] == [0.0] * 5


def test_a_full_disk(tmp_path, monkeypatch):
    import shutil

    cache = TeacherCache(tmp_path, teacher(), DATA, augment=SHIFT).build(1, progress=False)

    def full(*_):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as m:
        m.setattr(os, 'fsync', full)
        with pytest.raises(OSError, match='No space'):
            cache.build(2, progress=False)
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == ['epoch_0000.npy', 'key.json'] and cache.compare(0) == 0
    )
    with monkeypatch.context() as m:
        m.setattr(shutil, 'disk_usage', lambda _: type('Usage', (), dict(free=10)))
        with pytest.raises(ValueError, match='GB are free'):
            cache.build(2, progress=False)
    for bad in (0, 1.5, None):
        with pytest.raises(ValueError, match='^epochs: expected an integer'):
            cache.build(bad)
    (tmp_path / 'key.json').unlink()
    with pytest.raises(ValueError, match='no key.json'):
        TeacherCache(tmp_path, teacher(), DATA, augment=SHIFT)


def test_a_changed_number_is_noticed_and_asked_about_again(tmp_path):
    t, rng = teacher(), random.Random(0)
    make = partial(TeacherCache, tmp_path, t, DATA, augment=SHIFT)
    cache = make().build(2, progress=False)
    path, index = cache.path(1), torch.arange(len(DATA.train))
    good, answers = path.read_bytes(), cache.rows(1, index)
    for _ in range(60):
        changed = bytearray(good)
        changed[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match='epoch_0001.npy is (not whole|.* of shape)'):
            make()(1, torch.arange(5))
    with pytest.warns(UserWarning, match='asked again'):
        make().build(2, progress=False)
    assert path.read_bytes() == good
    path.write_bytes(good[:-32])  # as it was written before there was a checksum
    assert torch.equal(make().rows(1, index), answers) and make().build(2, progress=False).trouble(1) is None
