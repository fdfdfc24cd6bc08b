"""Data loaders and data sets of the user's own, for training and for looking."""

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ofa_learn.cache import TeacherCache
from ofa_learn.data import Augment, Norm, digits, split
from ofa_learn.given import as_splits, between
from ofa_learn.models import make_model
from ofa_learn.tasks import Teacher, all_methods, create_task
from ofa_learn.training import check_fit, distill, fit, predict

DATA = split(digits(), train=120, valid=60, test=60)
HOW = dict(device='cpu', progress=False)


class Dicts:
    "Pictures and labels as the Hugging Face hub has them."

    def __init__(self, part, **extra):
        self.x, self.y, self.extra = DATA.norm(part.images), part.labels, extra

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return dict(pixel_values=self.x[i], labels=int(self.y[i])) | self.extra


def tensors(part):
    return TensorDataset(DATA.norm(part.images), part.labels)


def loader(part, make=tensors):
    return DataLoader(make(part), 20, shuffle=True, generator=torch.Generator().manual_seed(0))


SOURCES = dict(
    loaders=lambda: (loader(DATA.train), loader(DATA.valid)),
    sets=lambda: (tensors(DATA.train), tensors(DATA.valid)),
    dicts=lambda: dict(train=loader(DATA.train, Dicts), val=Dicts(DATA.valid), classes=DATA.classes),
    three=lambda: (loader(DATA.train), tensors(DATA.valid), loader(DATA.test)),
)


@pytest.fixture(scope='module')
def teacher():
    torch.manual_seed(0)
    return Teacher(make_model('micro_resnet'), allow_untrained=True)


@pytest.mark.parametrize('kind', SOURCES)
def test_a_student_is_distilled_with_loaders_and_sets(kind, teacher):
    run = distill('ofa', 'micro_vit', teacher, SOURCES[kind](), 2, batch_size=20, **HOW)
    assert [row['epoch'] for row in run.history] == [1, 2]
    assert run.history[1]['loss'] < run.history[0]['loss'] and 0 <= run.test_accuracy <= 100
    assert (run.test_accuracy == run.valid_accuracy) == (kind != 'three')


def test_a_data_set_gives_the_run_that_its_images_give():
    def trained(data):
        torch.manual_seed(0)
        task = create_task('labels', 'micro_vit', data=DATA)
        return fit(task, data, 2, batch_size=20, **HOW)

    given, own = trained(SOURCES['sets']()), trained(DATA)
    for a, b in zip(given, own):
        assert a | dict(seconds=0) == b | dict(seconds=0)


def test_bytes_are_normalised_as_the_task_says(teacher):
    raw = (
        TensorDataset(DATA.train.images, DATA.train.labels),
        TensorDataset(DATA.valid.images, DATA.valid.labels),
    )
    torch.manual_seed(0)
    task = create_task('kd', 'micro_vit', teacher, data=DATA)
    known = fit(task, raw, 1, batch_size=20, **HOW)
    said = distill(
        'kd', 'micro_vit', teacher, dict(train=raw[0], valid=raw[1], norm=DATA.norm), 1, batch_size=20, **HOW
    )
    assert known[0]['loss'] == pytest.approx(said.history[0]['loss'])
    with pytest.raises(ValueError, match='train: it gives uint8 pixels; say how they are normalised'):
        distill('kd', 'micro_vit', teacher, raw, 1, **HOW)


def test_floats_are_renormalised_for_a_teacher_with_a_norm_of_its_own():
    torch.manual_seed(0)
    model, other = make_model('micro_resnet'), Norm((0.5,), (0.25,))
    teacher = Teacher(model, norm=other, allow_untrained=True)
    given = as_splits(dict(train=tensors(DATA.train), valid=tensors(DATA.valid), norm=DATA.norm))
    assert torch.allclose(
        predict(teacher, given.valid, given.norm), predict(teacher, DATA.valid, DATA.norm), atol=1e-4
    )
    unknown = as_splits(SOURCES['sets']())
    with pytest.raises(ValueError, match='valid: they are wanted normalised by .*; say how they are'):
        predict(teacher, unknown.valid, DATA.norm)


def test_what_needs_numbers_says_so(teacher, tmp_path):
    data = as_splits(SOURCES['loaders']())
    with pytest.raises(ValueError, match='data'):
        TeacherCache(tmp_path, teacher, data)
    task = create_task('crd', 'micro_vit', teacher, data=DATA)
    with pytest.raises(ValueError, match='index'):
        fit(task, SOURCES['loaders'](), 1, **HOW)


class Cut(Exception):
    "Power is gone."


def test_a_run_on_a_loader_goes_on_from_the_last_whole_epoch(tmp_path):
    def make():
        torch.manual_seed(0)
        return create_task('labels', 'micro_vit', data=DATA)

    def cut(done):
        if done > 1.5:
            raise Cut

    with pytest.raises(Cut):
        fit(make(), SOURCES['loaders'](), 3, out=tmp_path, save_seconds=0, on_step=cut, **HOW)
    rows = fit(make(), SOURCES['loaders'](), 3, out=tmp_path, resume=True, **HOW)
    assert [row['epoch'] for row in rows] == [1, 2, 3]
    with pytest.raises(ValueError, match='cannot go on within an epoch'):
        next(as_splits(SOURCES['loaders']()).train.batches(None).epoch(0, start=1))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    'data, message',
    [
        ((loader(DATA.train),), 'expected a Splits, parts'),
        (
            dict(train=tensors(DATA.train), test=tensors(DATA.valid)),
            'a training and a validation part, got train, test',
        ),
        ((loader(DATA.train),) * 4, "'more' is none"),
        (DATA.train, 'data: expected a Splits, parts .* got ImageData'),
        (dict(train=loader(DATA.train), rest=1), "'rest' is none"),
        ((DataLoader(Stream()), loader(DATA.valid)), 'the train part is a stream without a length'),
        ((loader(DATA.train), tensors(DATA.valid.take(torch.arange(0)))), 'the valid part is empty'),
        ((TensorDataset(*[torch.zeros(4, 1, 8, 8)] * 3),) * 2, 'got a list of 3|got a tuple of 3'),
        ((TensorDataset(torch.zeros(4, 8), torch.zeros(4).long()),) * 2, r'a tensor \(B, C, H, W\)'),
        (tuple(Dicts(p, image=0) for p in (DATA.train, DATA.valid)), 'expected a dict with one of'),
        (tuple(loader(p, Dicts) for p in (DATA.train, DATA.valid)), "say with data={…, 'classes': names}"),
        ('digits', 'data: expected a Splits, parts .* got str'),
    ],
)
def test_what_is_no_part_is_refused_by_name(data, message):
    with pytest.raises((ValueError, TypeError), match=message):
        distill('labels', 'micro_vit', None, data, 1, **HOW)


def test_options_that_a_loader_has_no_use_for_are_refused():
    task = create_task('labels', 'micro_vit', data=DATA)
    with pytest.raises(ValueError, match='augment: the train part has a transform of its own'):
        check_fit(task, SOURCES['loaders'](), augment=Augment(shift=1))
    with pytest.raises(ValueError, match='data: images of'):
        check_fit(create_task('labels', 'micro_vit', input_size=(1, 16, 16)), SOURCES['loaders']())
    with pytest.raises(ValueError, match='batch_size: the DataLoader makes batches of 20'):
        check_fit(task, SOURCES['loaders'](), batch_size=64)


@pytest.mark.parametrize('method', all_methods())
def test_every_method_refuses_the_same_targets(method, teacher):
    task = create_task(method, 'micro_vit', teacher, data=DATA)
    x, index = torch.randn(4, 1, 8, 8), torch.arange(4)
    wrong = dict(
        sum=torch.full((4, 10), 0.2),
        negative=2 * torch.eye(10)[:4] - 0.1,
        beyond=torch.tensor([0, 1, 2, 10]),
        gap=torch.tensor([0, 1, 2, -2]),
        floats=torch.rand(4),
        nan=torch.full((4, 10), float('nan')),
    )
    for target in wrong.values():
        with pytest.raises((ValueError, TypeError), match='target: '):
            task(x, target, index=index)


def test_one_map_turns_a_normalisation_into_another():
    source, target = Norm((0.5, 0.4), (0.25, 0.2)), Norm((0.3, 0.6), (0.5, 0.1))
    scale, shift = between(source, target)
    pixels = torch.rand(4, 2, 3, 3)
    sides = [[torch.tensor(v).view(-1, 1, 1) for v in norm] for norm in (source, target)]
    (mean, std), (other, deviation) = sides
    assert torch.allclose((pixels - mean) / std * scale + shift, (pixels - other) / deviation, atol=1e-6)
