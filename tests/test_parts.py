"""What a picture, a class and a part are, whichever way they come in."""

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from ofa_learn import parts, reading
from ofa_learn.cli import main
from ofa_learn.data import Augment, Norm, digits, from_arrays, load_data, load_splits, split
from ofa_learn.loaders import load_images
from ofa_learn.runs import teaching_data
from ofa_learn.tasks import create_task
from ofa_learn.training import accuracy, distill, fit

PETS = ('ant', 'bee', 'cat')
RAMP = np.linspace(0, 65535, 40 * 40).reshape(40, 40)
COUNT = iter(range(10**6))


def noise(seed=None, size=(40, 40)):
    "A picture that no other is like."
    rng = np.random.default_rng(next(COUNT) if seed is None else seed)
    return Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))


def fill(folder: Path, n: int = 5) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        noise().save(folder / f'{i}.png')
    return folder


def tree(root: Path, **named) -> Path:
    "Parts with class folders: 12 pictures a class in the training part, 5 elsewhere."
    for part, classes in named.items():
        for name in classes:
            fill(root / part / name, 12 if part.lower().startswith('train') else 5)
    return root


def said_by(read):
    "What a function gives, and what it says."
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        found = read()
    return found, [str(w.message) for w in said]


# ------------------------------------------------------------------ what a picture is


def in_memory(folder: Path) -> np.ndarray:
    "The pixels of the first picture of a folder, by one way in."
    return load_data(folder, size=40).images[0].numpy()


def while_training(folder: Path) -> np.ndarray:
    "The same by the other."
    data = load_images(folder, size=40, workers=0, crop=1.0, norm=Norm((0.0,) * 3, (1.0,) * 3))
    whole = data.train.take(torch.arange(0))
    whole = type(whole)(**vars(whole) | dict(rows=torch.arange(2), labels=torch.zeros(2, dtype=torch.int64)))
    batch = next(whole.batches(data.norm, 2).unchanged())
    return (batch.input[0] * 255).round().numpy().astype(np.uint8)


def half_transparent(mode):
    "Red on the left, nothing on the right."
    image = Image.new('RGBA', (40, 40), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 20, 40))
    return image.convert(mode)


def on_its_side():
    "White above black, for a viewer; the file holds it turned."
    image = Image.new('RGB', (40, 40), 'white')
    image.paste('black', (0, 0, 20, 40))
    turned = Image.Exif()
    turned[274] = 6
    return image, dict(exif=turned)


SEEN = {
    '16bit.png': (lambda: (Image.fromarray(RAMP.astype(np.uint16)), {}), {(0, 0): 0, (39, 39): 255}),
    '16bit.tif': (lambda: (Image.fromarray(RAMP.astype(np.uint16)), {}), {(0, 0): 0, (39, 39): 255}),
    'palette.png': (lambda: (half_transparent('P'), {}), {(0, 0): (255, 0, 0)}),
    'clear.png': (lambda: (half_transparent('RGBA'), {}), {(0, 0): (255, 0, 0), (0, 39): 255}),
    'greyclear.png': (lambda: (half_transparent('LA'), {}), {(0, 0): 76, (0, 39): 255}),
    'cyan.jpg': (lambda: (Image.new('CMYK', (40, 40), (255, 0, 0, 0)), {}), {(0, 0): (0, 255, 255)}),
    'turned.jpg': (on_its_side, {(0, 20): 0, (39, 20): 255}),
    'lab.tif': (
        lambda: (Image.new('RGB', (40, 40), (200, 30, 60)).convert('LAB'), {}),
        {(0, 0): (200, 30, 60)},
    ),
    'one_bit.png': (lambda: (Image.new('1', (40, 40), 1), {}), {(0, 0): 255}),
}


@pytest.mark.parametrize('read', [in_memory, while_training])
@pytest.mark.parametrize('name', SEEN)
def test_a_picture_comes_in_as_it_is_seen(name, read, tmp_path):
    make, expected = SEEN[name]
    for k in ('a', 'b'):
        fill(tmp_path / k)
    image, how = make()
    image.save(tmp_path / 'a' / f'0_{name}', **how)
    (tmp_path / 'a' / '0.png').unlink()
    pixels = read(tmp_path).astype(int)
    for (row, column), value in expected.items():
        assert np.abs(pixels[:, row, column] - value).max() <= 4, (row, column, pixels[:, row, column])


@pytest.mark.parametrize('read', [in_memory, while_training])
@pytest.mark.parametrize(
    'name, image, message',
    [
        ('x.tif', Image.fromarray(RAMP.astype(np.float32)), 'its pixels are floats'),
        ('x.tif', Image.fromarray((RAMP * 100).astype(np.int32)), 'go from 0 to 6553500, and nothing says'),
        ('x.png', Image.fromarray((RAMP / 16).astype(np.uint16)), 'its brightest pixel is 4095 of 65535'),
        ('x.gif', [noise(1), noise(2)], r'it holds 2 pictures \(a film, or pages\)'),
        ('x.tif', [noise(1), noise(2)], r'it holds 2 pictures \(a film, or pages\)'),
    ],
)
def test_a_picture_that_is_seen_in_more_than_one_way_is_refused(name, image, message, read, tmp_path):
    for k in ('a', 'b'):
        fill(tmp_path / k)
    first, *rest = image if isinstance(image, list) else [image]
    (tmp_path / 'a' / '0.png').unlink()
    how = dict(save_all=True, append_images=rest) if rest else {}
    first.save(tmp_path / 'a' / f'0_{name}', **how)
    with pytest.raises(ValueError, match=f'0_{name}.*{message}'):
        read(tmp_path)


def test_what_is_behind_a_transparent_picture_can_be_asked_for(tmp_path):
    for k in ('a', 'b'):
        fill(tmp_path / k, 1)
        half_transparent('RGBA').save(tmp_path / k / '0.png')
    black = load_data(tmp_path, size=40, background='black').images[0]
    assert black[:, 0, 39].tolist() == [0, 0, 0]
    kept = load_data(tmp_path, size=40, channels=4).images[0]
    assert kept[:, 0, 0].tolist() == [255, 0, 0, 255] and kept[3, 0, 39] == 0


@pytest.mark.parametrize('read', [in_memory, while_training])
def test_all_pictures_that_cannot_be_read_are_named_at_once(read, tmp_path):
    for k in ('a', 'b'):
        fill(tmp_path / k)
    (tmp_path / 'a' / '0.png').write_bytes(b'')
    (tmp_path / 'a' / '1.png').write_bytes(b'no picture')
    (tmp_path / 'b' / '2.png').write_bytes((tmp_path / 'b' / '2.png').read_bytes()[:200])
    with pytest.raises(ValueError, match='images cannot be read; repair or remove them') as raised:
        read(tmp_path)
    named = [line.split(' (')[0][-7:] for line in str(raised.value).splitlines()[1:]]
    assert named == ['a/0.png', 'a/1.png'] + (['b/2.png'] if read is in_memory else [])


def test_what_a_computer_keeps_for_itself_is_left_out_at_any_depth(tmp_path):
    for k in ('a', 'b', '.hidden', '.ipynb_checkpoints', '__MACOSX'):
        fill(tmp_path / 'train' / k, 4)
    fill(tmp_path / 'train' / 'a' / 'deep' / '__MACOSX', 2)
    fill(tmp_path / 'train' / 'a' / 'deep', 1)
    fill(tmp_path / 'train' / 'b' / '.ipynb_checkpoints', 2)
    (tmp_path / 'train' / 'b' / '._0.png').write_bytes(b'a fork')
    assert len(load_data(tmp_path / 'train')) == 9
    data = load_images(tmp_path, workers=0)
    assert len(data.train) + len(data.valid) + len(data.test) == 9 and data.classes == ('a', 'b')


def test_files_that_are_no_pictures_here_are_said(tmp_path):
    for k in ('a', 'b'):
        fill(tmp_path / k, 3)
    (tmp_path / 'a' / 'photo.HEIC').write_bytes(b'x')
    noise().save(tmp_path / 'loose.png')
    data, said = said_by(lambda: load_data(tmp_path))
    assert len(data) == 6 and '1 of .heic' in said[0] and '1 pictures lie beside the class folders' in said[1]


# ------------------------------------------------------------------ parts


DOORS = [
    load_splits,
    lambda root: load_images(root, size=16, workers=0),
    lambda root: teaching_data(str(root), '16'),
]


@pytest.mark.parametrize('read', DOORS)
@pytest.mark.parametrize(
    'names',
    [('train', 'val', 'test'), ('Train', 'VALIDATION', 'Test'), ('training', 'Valid', 'testing')],
)
def test_a_folder_that_is_split_keeps_its_parts(names, read, tmp_path):
    data, said = said_by(lambda: read(tree(tmp_path / 'pets', **dict.fromkeys(names, PETS))))
    assert (len(data.train), len(data.valid), len(data.test)) == (36, 15, 15)
    assert data.classes == PETS and not said


@pytest.mark.parametrize('read', DOORS)
@pytest.mark.parametrize(
    'names, counts',
    [(('train', 'val'), (33, 15, 3)), (('train', 'test'), (33, 3, 15)), (('train',), (30, 3, 3))],
)
def test_a_part_that_is_missing_is_made_out_of_training_pictures_and_said(names, counts, read, tmp_path):
    data, said = said_by(lambda: read(tree(tmp_path / 'pets', **dict.fromkeys(names, PETS))))
    assert (len(data.train), len(data.valid), len(data.test)) == counts
    assert len(said) == 1 and 'taken out of its training images' in said[0]
    assert all(
        f'3 for the {part} part' in said[0] for part, n in zip(('valid', 'test'), counts[1:]) if n == 3
    )


def test_a_count_for_a_part_of_its_own_is_refused(tmp_path):
    root = tree(tmp_path / 'pets', train=PETS, val=PETS, test=PETS)
    for read in (load_splits, load_images):
        for part in ('valid', 'test'):
            with pytest.raises(ValueError, match=f'{part}: pets has a {part} part of its own'):
                read(root, **{part: 5})
    with pytest.raises(ValueError, match='train, test: .* is read whole'):
        teaching_data(str(root), train=5)


def test_a_test_folder_without_classes_is_said_and_left_out(tmp_path):
    root = fill(tree(tmp_path / 'pets', train=PETS) / 'test').parent  # as Kaggle has it
    data, said = said_by(lambda: load_splits(root))
    assert len(data.test) == 3 and 'its pictures are in no class folders' in said[0]


X = np.random.default_rng(0).integers(0, 256, (90, 8, 8, 3), dtype=np.uint8)
Y = np.arange(90) % 3


@pytest.mark.parametrize(
    'arrays',
    [
        ('train_images', 'train_labels', 'val_images', 'val_labels', 'test_images', 'test_labels'),
        ('x_train', 'y_train', 'x_valid', 'y_valid', 'x_test', 'y_test'),
        ('X_train', 'y_train', 'X_val', 'y_val', 'X_test', 'y_test'),
    ],
)
def test_files_with_parts_of_their_own(arrays, tmp_path):
    values = (X[:60], Y[:60, None], X[60:75], Y[60:75, None], X[75:], Y[75:, None])
    np.savez(tmp_path / 'med.npz', **dict(zip(arrays, values)))
    data, said = said_by(lambda: load_splits(tmp_path / 'med.npz'))
    assert (len(data.train), len(data.valid), len(data.test)) == (60, 15, 15) and not said
    assert torch.equal(data.test.labels, torch.from_numpy(Y[75:]))
    assert len(set(torch.cat([data.train.ids, data.valid.ids, data.test.ids]).tolist())) == 90
    with pytest.raises(ValueError, match='split already'):
        load_data(tmp_path / 'med.npz')
    with pytest.raises(ValueError, match='test: med has a test part of its own'):
        load_splits(tmp_path / 'med.npz', test=5)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda x, y: (x, y),
        lambda x, y: TensorDataset(torch.from_numpy(x), torch.from_numpy(y)),
        lambda x, y: [(Image.fromarray(image), int(label)) for image, label in zip(x, y)] and Pictures(x, y),
        lambda x, y: from_arrays(x, y),
    ],
)
def test_parts_in_hand(wrap):
    data = load_splits({'Train': wrap(X[:60], Y[:60]), 'test': wrap(X[60:], Y[60:])}, valid=6)
    assert (len(data.train), len(data.valid), len(data.test)) == (54, 6, 30)
    assert torch.equal(data.test.images, torch.from_numpy(X[60:]).permute(0, 3, 1, 2))
    with pytest.raises(ValueError, match='valid part of its own'):
        load_splits(dict(train=wrap(X[:60], Y[:60]), val=wrap(X[60:], Y[60:])), valid=6)
    with pytest.raises(ValueError, match="parts: 'rest' is none; expected train, val and test"):
        load_splits(dict(train=wrap(X[:60], Y[:60]), rest=wrap(X[60:], Y[60:])))


class Pictures:
    "PIL pictures and labels by number, as torchvision's sets give them."

    classes = PETS

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return Image.fromarray(self.x[i]), int(self.y[i])


# ------------------------------------------------------------------ classes


@pytest.mark.parametrize('read', DOORS)
def test_a_class_without_pictures_in_one_part_keeps_its_number(read, tmp_path):
    root = tree(tmp_path / 'pets', train=PETS, val=PETS, test=('ant', 'cat'))
    data, said = said_by(lambda: read(root))
    assert sorted(set(data.test.labels.tolist())) == [0, 2] and data.test.classes == PETS
    assert said == ['test: it has no pictures of bee; the class keeps its number']
    (root / 'test' / 'bee').mkdir()  # an empty folder says no more
    assert read(root).test.labels.tolist() == data.test.labels.tolist()


class Knows(torch.nn.Module):
    "A student that is right on every picture: the class is the brightness."

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        brightness = x.mean((1, 2, 3))[:, None] * self.scale
        return -((brightness - torch.tensor([0.1, 0.5, 0.9])) ** 2)


@pytest.mark.parametrize('read', [load_splits, lambda root: load_images(root, size=16, workers=0)])
def test_a_student_that_is_right_is_right_where_a_class_is_missing(read, tmp_path):
    for part, names in dict(train=PETS, val=PETS, test=('ant', 'cat')).items():
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4):
                grey = round(255 * (0.1 + 0.4 * PETS.index(name)))
                Image.new('RGB', (16, 16), (grey, grey, grey - i)).save(tmp_path / part / name / f'{i}.png')
    data = read(tmp_path)
    plain = Norm((0.0,) * 3, (1.0,) * 3)
    assert [accuracy(Knows(), part, plain) for part in (data.train, data.valid, data.test)] == [100] * 3


@pytest.mark.parametrize('read', [load_data, lambda root: load_images(root, workers=0)])
def test_classes_are_numbered_as_people_count_by_every_door(read, tmp_path):
    for name in ('10', '9', 'B', 'a'):
        fill(tmp_path / name)
    assert read(tmp_path).classes == ('9', '10', 'a', 'B')


def test_a_folder_in_memory_is_dealt_as_it_always_was(tmp_path):
    for name in ('a', 'b'):
        fill(tmp_path / name, 12)
    names = [f'{i}.png' for i in (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)]  # letter by letter
    first = [np.asarray(Image.open(tmp_path / 'a' / n)) for n in names]
    assert np.array_equal(load_data(tmp_path, size=40).images[:12].numpy().transpose(0, 2, 3, 1), first)


def test_classes_in_another_order_are_joined_by_their_names():
    one = from_arrays(X[:60], Y[:60], ('cat', 'ant', 'bee'))
    other = from_arrays(X[60:], Y[60:], ('ant', 'bee', 'cat'))
    data = load_splits(dict(train=one, test=other), valid=6)
    names = [data.classes[k] for k in data.test.labels.tolist()]
    assert data.classes == PETS and names == [other.classes[k] for k in other.labels.tolist()]


def test_labels_with_gaps_are_mapped_by_names_or_refused():
    with pytest.raises(
        ValueError, match=r'no image is of class 1; .* np.unique\(labels, return_inverse=True\)'
    ):
        from_arrays(X, Y * 2)
    with pytest.raises(ValueError, match='there are 3 classes .*do they begin at 1'):
        from_arrays(X, Y + 1, PETS)
    named = from_arrays(X, Y * 2, {0: 'ant', 2: 'bee', 4: 'cat'})
    assert named.classes == PETS and torch.equal(named.labels, torch.from_numpy(Y))
    with pytest.raises(ValueError, match=r'labels: \[4\] have no name in classes'):
        from_arrays(X, Y * 2, {0: 'ant', 2: 'bee'})
    assert torch.equal(from_arrays(X, Y[:, None]).labels, torch.from_numpy(Y))
    with pytest.raises(ValueError, match='no image is of class 0'):  # in parts, too
        load_splits(dict(train=(X[:60], Y[:60] + 1), test=(X[60:], Y[60:] + 1)))


# ------------------------------------------------------------------ the same picture twice


@pytest.mark.parametrize('read', DOORS)
def test_the_same_picture_in_training_and_in_test_is_said(read, tmp_path):
    root = tree(tmp_path / 'pets', train=PETS, val=PETS, test=PETS)
    shutil.copy(root / 'train' / 'ant' / '3.png', root / 'test' / 'bee' / 'again.png')
    data, said = said_by(lambda: read(root))
    assert len(data.test) == 16 and len(said) == 1
    assert said[0].startswith('pets: pictures of the test part are in the training part, too: 1 of 16')


def test_the_same_picture_in_arrays_is_said_and_the_digits_have_none():
    twice = from_arrays(np.concatenate([X, X[:30]]), np.concatenate([Y, Y[:30]]))
    _, said = said_by(lambda: split(twice))
    assert any('test part are in the training part, too' in s for s in said)
    assert not said_by(lambda: split(digits(), train=200))[1]


# ------------------------------------------------------------------ sizes and channels


@pytest.mark.parametrize('read', [load_splits, lambda root, size: load_images(root, size=size, workers=0)])
def test_pictures_that_are_not_square(read, tmp_path):
    root = tree(tmp_path / 'pets', train=PETS, val=PETS, test=PETS)
    assert [read(root, size=s).input_size for s in ((16, 24), '16x24', 16)] == [(3, 16, 24)] * 2 + [
        (3, 16, 16)
    ]
    for wrong in ((16, 0), '16x', (1, 2, 3), 8.5, True):
        with pytest.raises(ValueError, match='size: expected at least 1 pixel per side, or'):
            read(root, size=wrong)


def test_a_command_takes_a_size_that_is_not_square(tmp_path, capsys):
    root = tree(tmp_path / 'pets', train=PETS, val=PETS, test=PETS)
    file = str(tmp_path / 't.safetensors')
    words = ['--data', str(root), '--size', '16x24', '--epochs', '1', '--out', file, '--device', 'cpu']
    assert main(['teach', 'micro_resnet', *words]) == 0
    assert 'pets: 36 train, 15 valid, 15 test' in capsys.readouterr().out
    assert main(['teach', 'micro_resnet', '--size', 'large', *words[:2], '--out', f'{file}.safetensors']) == 2


@pytest.mark.parametrize('channels', [1, 2, 4, 5])
def test_other_numbers_of_channels_are_distilled(channels):
    x = np.random.default_rng(1).integers(0, 256, (120, channels, 8, 8), dtype=np.uint8)
    data = split(from_arrays(x, np.arange(120) % 3), valid=12, test=12)
    last = from_arrays(x.transpose(0, 2, 3, 1), np.arange(120) % 3)
    assert torch.equal(last.images, torch.from_numpy(x))
    how = dict(epochs=1, device='cpu', progress=False, augment=Augment(shift=1))
    teacher = distill('labels', 'micro_resnet', None, data, **how).model
    assert distill('ofa', 'micro_vit', teacher, data, **how).history[-1]['loss'] > 0


def test_a_norm_for_other_channels_is_refused(tmp_path):
    root = tree(tmp_path / 'pets', train=PETS, test=PETS)
    with pytest.raises(ValueError, match='norm: expected 1 means and deviations, got 3'):
        load_images(root, channels=1)


# ------------------------------------------------------------------ more pictures than memory


def test_a_folder_larger_than_memory_is_read_while_training_with_the_same_numbers(monkeypatch, tmp_path):
    root = tree(tmp_path / 'pets', **{'.': PETS})
    shift = Augment(shift=1, flip=True)

    def trained(data):
        torch.manual_seed(0)
        task = create_task('labels', 'micro_resnet', data=data)
        history = fit(task, data, 2, batch_size=4, augment=shift, device='cpu', progress=False)
        return history[-1]['loss'], accuracy(task.student, data.test, data.norm)

    small = load_splits(root, size=16, split_seed=1)
    monkeypatch.setattr(reading, 'free_memory', lambda: 10_000)
    large, said = said_by(lambda: load_splits(root, size=16, split_seed=1))
    assert said[0] == 'pets: 15 pictures of 3×16×16 take 1.15e-05 GB, and 1e-05 GB are free'
    assert not hasattr(large.train, 'images') and large.norm == small.norm
    assert large.train.labels.tolist() == small.train.labels.tolist()
    assert trained(large) == trained(small)
    with pytest.raises(ValueError, match='too many pictures for the memory; `load_splits` reads them'):
        load_data(root, size=16)
    assert parts.fits is reading.fits


# ------------------------------------------------------------------ what else people have


def test_a_link_that_leads_back_up_brings_no_other_class_in(tmp_path):
    root = tree(tmp_path / 'pets', train=PETS, test=PETS)
    (root / 'train' / 'ant' / 'back').symlink_to(root / 'train')
    data = load_splits(root, valid=3)
    assert len(data.train) == 33 and data.train.labels.bincount().tolist() == [11, 11, 11]


@pytest.mark.parametrize('read', [in_memory, while_training])
def test_a_link_to_nothing_is_named(read, tmp_path):
    for k in ('a', 'b'):
        fill(tmp_path / k)
    (tmp_path / 'a' / '0.png').unlink()
    (tmp_path / 'a' / '0.png').symlink_to(tmp_path / 'gone.png')
    with pytest.raises(ValueError, match=r'a/0.png: this image cannot be read \(.*No such file'):
        read(tmp_path)


@pytest.mark.parametrize('read', DOORS)
def test_a_part_of_empty_folders_is_a_part_that_is_missing(read, tmp_path):
    root = tree(tmp_path / 'pets', train=PETS, val=PETS)
    for name in PETS:
        (root / 'test' / name).mkdir(parents=True)
    data, said = said_by(lambda: read(root))
    assert len(data.test) == 3 and 'test: it holds no pictures, so there is no test part' in said[0]


@pytest.mark.parametrize('inside', ['pets', 'pets/train'])
def test_a_folder_around_the_folder_is_seen(inside, tmp_path):
    for name in PETS:
        fill(tmp_path / inside / name)
    with pytest.raises(
        ValueError, match='it has one class folder, pets, with folders in it; is .*pets meant'
    ):
        load_splits(tmp_path)


def test_a_telephones_picture_with_a_preview_is_its_first(tmp_path):
    for k in ('a', 'b'):
        fill(tmp_path / k)
    (tmp_path / 'a' / '0.png').unlink()
    how = dict(format='MPO', save_all=True, append_images=[Image.new('RGB', (40, 40))])
    Image.new('RGB', (40, 40), 'red').save(tmp_path / 'a' / '0.jpg', **how)
    assert in_memory(tmp_path)[0].min() > 200


@pytest.mark.parametrize('one, other', [('Cat', 'cat'), ('caf\u00e9', 'cafe\u0301'), ('cat', 'cat ')])
def test_names_that_look_the_same_are_refused(one, other, tmp_path):
    root = tree(tmp_path / 'pets', train=(one, 'dog'), test=(other, 'dog'))
    with pytest.raises(ValueError, match='is another class by its name alone'):
        load_splits(root)


def test_pictures_in_a_folder_inside_the_class_folder_belong_to_the_class(tmp_path):
    for name in PETS:
        fill(tmp_path / 'train' / name / 'images', 12)  # as Tiny-ImageNet has it
    assert load_images(tmp_path, workers=0).classes == load_splits(tmp_path).classes == PETS
    fill(tmp_path / 'val' / 'images')
    with pytest.raises(ValueError, match=r'valid: it has other classes than the training part \(images\)'):
        load_splits(tmp_path)


def test_a_picture_too_large_to_be_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    for k in ('a', 'b'):
        fill(tmp_path / k)
    with pytest.raises(ValueError, match='images cannot be read.*') as raised:
        load_data(tmp_path)
    assert 'exceeds limit of 200 pixels' in str(raised.value)


def test_arrays_that_say_what_to_do_about_them(tmp_path):
    for images, labels, message in (
        ((X * 257.0).astype(np.uint16), Y, 'got uint16; divide by what is white, such as 255 or 65535'),
        (X / 127.5 - 1, Y, 'were they normalised'),
        (X, np.eye(3, dtype=int)[Y], 'take argmax'),
        (X, np.array(PETS)[Y], 'gives names and numbers'),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            from_arrays(images, labels)
    np.savez(tmp_path / 'names.npz', images=X, labels=Y, classes=np.array([b'ant', b'bee', b'cat']))
    assert load_data(tmp_path / 'names.npz').classes == PETS


def test_a_command_looks_at_the_test_part_of_a_folder_that_is_split(tmp_path, capsys):
    root = tree(tmp_path / 'pets', train=PETS, test=PETS)
    words = ['--data', str(root), '--size', '16', '--out', str(tmp_path / 'c.html'), '--device', 'cpu']
    assert main(['cka', 'micro_resnet', *words]) == 0
    assert '15 images of test' in capsys.readouterr().out


def test_a_recipe_is_not_given_pictures_that_it_would_not_look_at(tmp_path, capsys):
    root = tree(tmp_path / 'pets', train=PETS, test=PETS)
    for recipe, said in (
        ('laptop/cnn-vit', 'trains on the digits, which are in the package; leave it out'),
        ('cifar100/swin_t-resnet18', 'trains on cifar100, and .* holds other pictures'),
    ):
        assert main(['train', '--recipe', recipe, '--data', str(root), '--dry-run']) == 2
        assert re.search(said, capsys.readouterr().err)


def test_parts_are_not_one_set():
    with pytest.raises(ValueError, match='source: train, test are parts; `load_splits` takes them'):
        load_data(dict(train=(X, Y), test=(X, Y)))
