"""What the doors let in and what they refuse: labels, pixels, files, folders, parts that belong together."""

import io
from dataclasses import replace
from functools import partial
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ofa_learn import loaders
from ofa_learn.data import (
    Augment,
    Norm,
    Splits,
    contact_sheet,
    digits,
    from_arrays,
    load_data,
    load_splits,
    split,
)
from ofa_learn.loaders import load_images

GREY = np.zeros((6, 8, 8), np.uint8)
LABELS = [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    'labels, error, message',
    [
        (
            [1, 2, 1, 2, 1, 2],
            ValueError,
            'go from 1 to 2, and no image is of class 0; number the 2 classes from 0 to 1',
        ),
        ([0, 1, 3, 0, 1, 3], ValueError, 'no image is of class 2'),
        ([0, 0, 0, 0, 0, 10**9], ValueError, 'no image is of class 1'),
        ([-2, 0, 1, 0, 1, 0], ValueError, r'start at 0 \(−1 is for no label\), got -2'),
        ([-1] * 6, ValueError, 'no image has one; name the classes'),
        ([-1, 1, 2, 1, 2, 1], ValueError, 'no image is of class 0'),
        ([[0, 1]] * 6, ValueError, r'got shape \(6, 2\)'),
        ([0, 0, 0, 0, 0, 0], ValueError, 'at least two classes'),
        ([0.0, 1, 0, 1, 0, 1], TypeError, 'expected integers, got float64'),
        (list('ababab'), TypeError, 'expected integers, got <U1'),
        (np.array(LABELS, object), TypeError, 'expected integers, got object'),
        ([0, 1, 0, 1, 0], ValueError, 'one class index for each of the 6 images'),
    ],
)
def test_labels(labels, error, message):
    with pytest.raises(error, match=message):
        from_arrays(GREY, labels)


@pytest.mark.parametrize(
    'images, error, message',
    [
        (GREY + np.nan, ValueError, '384 pixels are NaN'),
        (GREY + 200.0, ValueError, 'divide by 255'),
        (GREY.astype(np.int64), TypeError, 'expected uint8 pixels or floats'),
        (GREY.astype(object), TypeError, 'got object'),
        (GREY.astype(bool), TypeError, 'got bool'),
        (GREY + 0j, TypeError, 'got complex128'),
        (GREY[:, :0], ValueError, 'expected pixels'),
        (np.zeros((6, 64), np.uint8), ValueError, r'got shape \(6, 64\)'),
        (np.zeros((6, 6, 8, 8), np.uint8), ValueError, '1 or 3 channels'),
        (np.zeros((6, 4, 8, 5), np.uint8), ValueError, 'either first or last and not both'),
    ],
)
def test_pixels(images, error, message):
    with pytest.raises(error, match=message):
        from_arrays(images, LABELS)


def test_floats_in_0_to_1_are_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8)).astype(np.uint8)
    whole, share = from_arrays(pixels, LABELS), from_arrays(pixels / np.float32(255), LABELS)
    assert torch.equal(whole.images, share.images)


def test_a_class_that_is_named_and_empty_is_not_dealt():
    named = from_arrays(np.zeros((9, 8, 8), np.uint8), [0, 2, 0, 2, 0, 2, 0, 2, 2], ['a', 'b', 'c'])
    with pytest.raises(ValueError, match='at least 3 images, one per part; too few of b'):
        split(named)


def test_an_npz_file_that_cannot_be_read_is_named(tmp_path):
    file, whole = tmp_path / 'mine.npz', io.BytesIO()
    np.savez_compressed(whole, images=np.arange(384, dtype=np.uint8).reshape(6, 8, 8), labels=LABELS)
    whole = whole.getvalue()
    flipped = bytearray(whole)
    flipped[80] ^= 4
    pickled, single = io.BytesIO(), io.BytesIO()
    np.savez(pickled, images=np.array([GREY[0], None], object), labels=[0, 1])
    np.save(single, GREY)
    cases = [whole[: len(whole) // 2], whole[:10], b'', b'a text', bytes(flipped), pickled.getvalue()]
    for content in (*cases, single.getvalue()):
        file.write_bytes(content)
        with pytest.raises(ValueError, match='mine.npz: not a readable .npz file'):
            load_data(file)
    np.savez(file, images=GREY, targets=LABELS)
    with pytest.raises(ValueError, match='no array named labels; it holds images, targets'):
        load_data(file)
    file.write_bytes(whole)
    assert len(load_data(file)) == 6


def folders(root: Path, *names: str, each: int = 4) -> Path:
    "Class folders with a few pictures each."
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(np.full((8, 8, 3), 40 * k + i, np.uint8)).save(root / name / f'{i}.png')
    return root


def test_parts_are_not_taken_for_classes(tmp_path):
    root = folders(tmp_path / 'set', 'train/cat', 'train/dog', 'test/cat', 'test/dog')
    with pytest.raises(ValueError, match=r'split already \(train, test\); `load_splits` reads its parts'):
        load_data(root)
    assert len(load_data(root / 'train')) == 8
    assert load_data(folders(tmp_path / 'vehicles', 'bus', 'train')).classes == ('bus', 'train')


def test_parts_of_other_classes_or_sizes_are_refused(tmp_path):
    train = load_data(folders(tmp_path / 'a', 'ant', 'bee', 'cat'))
    fewer = load_data(folders(tmp_path / 'b', 'ant', 'cat'))
    norm = split(digits(), train=100).norm
    with pytest.raises(ValueError, match='only in training: bee; only in test: none'):
        Splits(train, train, fewer, norm)
    small = load_data(tmp_path / 'a', size=16)
    with pytest.raises(ValueError, match=r'valid: images of \(3, 16, 16\)'):
        Splits(train, small, train, norm)


def pictures(root: Path, **classes) -> Path:
    "Parts, each with its classes' folders: 12 pictures a class in train, 4 elsewhere."
    for part, names in classes.items():
        folders(root / part, *names, each=12 if part == 'train' else 4)
    return root


PETS = ('ant', 'bee', 'cat')


@pytest.mark.parametrize(
    'parts, message',
    [
        (dict(ants=PETS, val=PETS), 'ants: it lies beside the parts val and is none of them'),
        (dict(val=PETS), 'parts: val, but no training part'),
        (dict(train=PETS, val=PETS, Valid=PETS), "'val' and 'Valid' are both the valid part"),
        (
            dict(train=PETS, val=('cow', 'hen')),
            r'valid: it has other classes than the training part \(cow, hen\)',
        ),
        (dict(train=PETS, val=('Ant', 'bee')), "'ant' is another class by its name alone"),
    ],
)
@pytest.mark.parametrize('read', [load_splits, partial(load_images, size=16, workers=0)])
def test_folders_that_are_no_parts_that_belong_together(parts, message, read, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(pictures(tmp_path / 'set', **parts))


def test_image_folders_whose_parts_are_named(tmp_path):
    root = pictures(tmp_path / 'set', train=PETS, test=PETS)
    data = load_images(root, size=16, valid=6, parts=('train', 'test'), workers=0)
    assert (len(data.train), len(data.valid), len(data.test)) == (30, 6, 12)
    (root / 'val').mkdir()
    (root / 'val' / 'flat.png').write_bytes(b'')  # ImageNet's test folder is like that: pictures, no classes
    again = load_images(root, size=16, valid=6, parts=('train', 'test'), workers=0)
    assert again.train.fingerprint == data.train.fingerprint
    with pytest.raises(ValueError, match="expected '', or a name such as torch/cifar10"):
        load_images(root, 'cifar10')
    with pytest.raises(ValueError, match="no folder 'tests'; there are test, train, val"):
        load_images(root, parts=('train', 'tests'))


def test_pictures_of_all_kinds_are_read(tmp_path):
    root = pictures(tmp_path / 'set', train=PETS, val=PETS)
    for kind in ('webp', 'bmp', 'gif'):
        Image.new('RGB', (8, 8)).save(root / 'val' / 'ant' / f'more.{kind}')
    assert len(load_images(root, size=16, workers=0).valid) == 15


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('content', [b'no picture', None])
def test_a_broken_picture_is_named_and_no_other_takes_its_place(tmp_path, workers, content):
    root = pictures(tmp_path / 'set', train=PETS, val=PETS)
    broken = root / 'val' / 'bee' / '2.png'
    broken.write_bytes(content or broken.read_bytes()[:45])
    data = load_images(root, size=16, workers=workers)
    with pytest.raises(ValueError) as raised:
        list(data.valid.batches(data.norm, 4).unchanged())
    said = str(raised.value)
    assert said.startswith(str(broken)) and 'cannot be read' in said and '\n' not in said
    assert active_children() == []  # left to the garbage collector, each would be waited for 5 s


class Grey:
    "Pictures without colours, as torchvision's MNIST gives them."

    def __init__(self, n: int):
        self.targets = [i % 3 for i in range(n)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return Image.new('L', (8, 8), i), self.targets[i]


@pytest.mark.parametrize('channels', [1, 3])
def test_pictures_have_the_channels_that_were_asked_for(monkeypatch, channels):
    monkeypatch.setattr(
        loaders, 'create_dataset', lambda name, split, **how: Grey(60 if split == 'train' else 9)
    )
    norm = Norm((0.5,) * channels, (0.5,) * channels)
    data = load_images('nowhere', 'torch/mnist', 16, channels, norm, valid=6, workers=0)
    assert next(iter(data.train.batches(norm, 4).epoch(0))).input.shape == (4, channels, 16, 16)


@pytest.mark.parametrize('read', [load_data, load_splits])
def test_an_option_that_nothing_would_use_is_an_error(read, tmp_path):
    np.savez(tmp_path / 'mine.npz', images=GREY, labels=LABELS)
    for source in ('digits', tmp_path / 'mine.npz', digits()):
        with pytest.raises(ValueError, match='size: only folders are scaled'):
            read(source, size=16)
    with pytest.raises(ValueError, match='size: cifar10 is taken as it is'):
        load_splits('cifar10', size=64, root=tmp_path)


def ids(part):
    return set(part.ids.tolist())


@pytest.mark.parametrize('teach', [30, 60, 300, 1097])
def test_a_teacher_sees_more_or_fewer_of_the_same_images(teach):
    data, alone = split(digits(), 60, 200, teach=teach), split(digits(), 60, 200)
    for part in ('train', 'valid', 'test'):
        assert ids(getattr(data, part)) == ids(getattr(alone, part)), 'a teacher changes no other part'
    assert data.norm == alone.norm and len(data.teach) == teach
    assert ids(data.teach) <= ids(data.train) if teach <= 60 else ids(data.train) < ids(data.teach)
    assert not ids(data.teach) & (ids(data.valid) | ids(data.test))
    assert len(data.teach.labels.unique()) == 10
    own = data.for_teacher()
    assert ids(own.train) == ids(data.teach) and own.test is data.test and own.teach is None
    assert alone.for_teacher() is alone and (own.norm == data.norm) == (teach == 60)


def test_a_teachers_part_must_fit():
    with pytest.raises(ValueError, match='teach: expected 10 to 1027'):
        split(digits(), 60, 200, teach=1095)
    with pytest.raises(ValueError, match='teach: expected 10 to 50'):
        split(digits(), 60, 200, teach=5)


def test_parts_of_the_official_test_images(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8), np.arange(60) % 2
    np.savez(tmp_path / 'cifar10.npz', x_train=x, y_train=y, x_test=x[:40], y_test=y[:40], classes=['a', 'b'])
    data = load_splits('cifar10', 10, 10, official='test', root=tmp_path)
    assert data.train.name == 'cifar10 (test part)' and len(data.test) == 13
    assert max(ids(data.train) | ids(data.valid) | ids(data.test)) < 40
    with pytest.raises(ValueError, match="official: expected 'test', or None"):
        load_splits('cifar10', official='train', root=tmp_path)
    with pytest.raises(ValueError, match='official: digits has no official parts'):
        load_splits('digits', official='test')


def test_images_without_a_label_are_only_trained_on():
    whole = digits()
    labels = torch.where(torch.arange(len(whole)) % 3 == 0, whole.labels, -1)
    data = split(from_arrays(whole.images, labels), valid=100, test=150)
    assert data.train.unlabelled == int((labels < 0).sum()) == 1198
    assert not data.valid.unlabelled and not data.test.unlabelled
    assert len(data.train) == len(whole) - 250
    fewer = split(from_arrays(whole.images, labels), train=50, valid=100, test=150)
    assert len(fewer.train) - fewer.train.unlabelled == 50 and fewer.train.unlabelled == 1198
    with pytest.raises(ValueError, match='test: 1198 images have no label, and it measures with labels'):
        replace(data, test=data.train)


@pytest.mark.parametrize('keep', [0, 60, 1097])
def test_a_share_of_the_labels(keep):
    all_of_it, data = split(digits(), valid=200), split(digits(), valid=200, labels=keep)
    assert torch.equal(data.train.images, all_of_it.train.images)
    known = data.train.labels >= 0
    assert known.sum() == keep and torch.equal(data.train.labels[known], all_of_it.train.labels[known])
    assert data.train.fingerprint != all_of_it.train.fingerprint or keep == 1097
    assert torch.equal(data.test.labels, all_of_it.test.labels)
    if keep == 60:  # the images that a student of 60 is shown
        small = split(digits(), train=60, valid=200)
        assert set(data.train.ids[known].tolist()) == set(small.train.ids.tolist())


def test_more_labels_than_images_are_refused():
    with pytest.raises(ValueError, match='labels: expected 10 to 90 images .* got 95'):
        split(digits(), train=100, labels=95)


def test_the_teachers_other_images_without_their_labels():
    data = split(digits(), train=60, valid=200, teach=300)
    more = data.more_images()
    assert torch.equal(more.train.ids, data.teach.ids) and more.teach is None
    known = more.train.labels >= 0
    assert set(more.train.ids[known].tolist()) == set(data.train.ids.tolist())
    assert more.norm == data.for_teacher().norm and torch.equal(more.test.ids, data.test.ids)
    for none in (split(digits(), train=60), split(digits(), train=60, teach=30)):
        with pytest.raises(ValueError, match='teach: the teacher has no image that the student is not shown'):
            none.more_images()


def test_what_a_folder_and_a_view_refuse(tmp_path):
    with pytest.raises(ValueError, match='one sub-folder per class, found none'):
        load_data(tmp_path)
    for name in ('cat', 'dog'):
        (tmp_path / name).mkdir()
        contact_sheet(digits().images[:1]).save(tmp_path / name / 'a.png')
    (tmp_path / 'dog' / 'b.png').write_bytes(b'not a picture')
    assert len(load_data(tmp_path, per_class=1)) == 2  # b.png is not read
    with pytest.raises(ValueError, match='per_class: expected at least 1'):
        load_data(tmp_path, per_class=0)
    with pytest.raises(ValueError, match='0 ≤ zoom < 1'):
        Augment(zoom=2)
