"""Anyone's network as a teacher: opened, shown what it expects, asked in the student's classes, or not."""

import warnings
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn as nn

from ofa_learn.cache import TeacherCache, cache_key
from ofa_learn.data import Augment, digits, from_arrays, split
from ofa_learn.look import look_at
from ofa_learn.models import make_model, save_model
from ofa_learn.tasks import create_task
from ofa_learn.teachers import Ensemble, Teacher, fit_teacher, logits_in, matched_classes
from ofa_learn.training import accuracy, distill, predict

DATA = split(digits(), train=60, valid=100, test=100)
HALF = ((0.5,), (0.25,))


def answers(teacher, size, norm, k=10, needs=('logits',), names=None, x=None):
    teacher = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
    x = torch.randn(3, *size, generator=torch.Generator().manual_seed(1)) if x is None else x
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return fit_teacher(teacher, size, norm, k, needs, names)(teacher, x, needs)


class Means(nn.Module):
    "Two logits that say what it was shown: the mean pixel of the first channel, and the width."

    def __init__(self, channels=1):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.channels = channels

    def forward(self, x):
        assert x.shape[1] == self.channels, x.shape
        return torch.stack([x[:, 0].mean((1, 2)) * self.scale, x.new_full((len(x),), x.shape[-1])], 1)


# ---- what it is shown


@pytest.mark.parametrize('size', [(1, 16, 16), (1, 4, 4), (1, 8, 12)])
def test_its_own_size(size):
    "A constant image stays constant, whatever the size."
    x = torch.full((2, 1, 8, 8), 0.7)
    z = answers(Teacher(Means(), input_size=size), (1, 8, 8), None, 2, x=x).logits
    torch.testing.assert_close(z, torch.tensor([[0.7, size[-1]]] * 2))


def test_that_it_is_resized_is_said():
    teacher = Teacher(Means(), input_size=(1, 16, 16))
    with pytest.warns(UserWarning, match='shown the images at 16 × 16, its own size.* sees them at 8 × 8'):
        create_task('kd', 'micro_vit', teacher=teacher, input_size=(1, 8, 8), num_classes=2)


def test_a_vision_transformer_says_its_size():
    "One that takes 16 pixels teaches a student that sees 8, tapped and all."
    teacher = make_model('micro_vit', 10, (1, 16, 16))
    for method in ('ofa', 'rsd', 'fitnet', 'scalekd'):
        with pytest.warns(UserWarning, match='16 × 16|rsd'):
            task = create_task(method, 'micro_resnet', teacher, input_size=(1, 8, 8), num_classes=10)
        assert task.teacher_taps.input_size == (1, 16, 16)
        out = task(torch.randn(4, 1, 8, 8), torch.arange(4))
        assert out['loss'].isfinite()


def test_a_file_says_its_size_and_norm(tmp_path):
    model = make_model('micro_resnet', 10, (1, 16, 16))
    file = save_model(model, tmp_path / 't.safetensors', (1, 16, 16), HALF)
    x = torch.rand(3, 1, 8, 8)
    z = answers(file, (1, 8, 8), ((0.3,), (0.2,)), x=(x - 0.3) / 0.2).logits
    large = nn.functional.interpolate((x - 0.5) / 0.25, (16, 16), mode='bicubic', antialias=True)
    torch.testing.assert_close(z, model.eval()(large), rtol=1e-4, atol=1e-4)


def test_grey_images_for_a_teacher_of_colours():
    teacher = Teacher(Means(3), norm=((0.5,) * 3, (0.25,) * 3), input_size=(3, 8, 8))
    x = torch.full((1, 1, 8, 8), 0.9)
    z = answers(teacher, (1, 8, 8), HALF, 2, x=(x - 0.5) / 0.25).logits
    torch.testing.assert_close(z[0, 0], torch.tensor(1.6))


def test_colours_for_a_teacher_of_grey_images():
    teacher = Teacher(Means(), norm=((0.0,), (1.0,)), input_size=(1, 8, 8))
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    z = answers(teacher, (3, 8, 8), ((0.0,) * 3, (1.0,) * 3), 2, x=red).logits
    torch.testing.assert_close(z[0, 0], torch.tensor(0.299))


@pytest.mark.parametrize(
    'make, norm, message',
    [
        (
            lambda: Teacher(Means(3), input_size=(3, 8, 8)),
            HALF,
            'takes 3 channels, the images have 1; to conv',
        ),
        (
            lambda: Teacher(Means(2), norm=((0,) * 2, (1,) * 2), input_size=(2, 8, 8)),
            HALF,
            'takes 2 channels',
        ),
        (lambda: Teacher(Means(), norm=HALF), None, 'the teacher expects images normalised by'),
    ],
)
def test_what_cannot_be_converted(make, norm, message):
    with pytest.raises(ValueError, match=message):
        fit_teacher(make(), (1, 8, 8), norm, 2, ('logits',))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_its_own_precision(dtype):
    "It is asked in its dtype and answers in the student's, features too."
    model = make_model('micro_resnet').eval()
    x = torch.randn(3, 1, 8, 8)
    plain = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        task = create_task('rsd', 'micro_vit', model.to(dtype), input_size=(1, 8, 8))
    a = task.answers(x)
    assert a.logits.dtype == a.pooled.dtype == torch.float32
    assert (a.logits - plain).abs().max() < 0.1
    task(x, torch.arange(3))['loss'].backward()


@pytest.mark.parametrize('norm', [((127.0,), (0.0,)), ((0.5,), ()), 0.5, ((0.5, 0.5), (0.2,))])
def test_norms_that_there_cannot_be(norm):
    with pytest.raises((ValueError, TypeError), match='norm: expected'):
        Teacher(make_model('micro_resnet'), norm=norm)


def test_a_norm_in_units_of_0_to_255_is_refused():
    with pytest.raises(ValueError, match=r'norm: .*for pixels in \[0, 1\].*divide by 255'):
        Teacher(make_model('micro_resnet'), norm=((123.7,), (58.4,)))


def test_timms_published_weights_bring_their_norm_as_a_module_too():
    "With the classes of the weights; a head of one's own was trained on one's own images."
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert Teacher(timm.create_model('resnet18', num_classes=1000)).norm == imagenet
    assert Teacher(timm.create_model('resnet18', num_classes=10)).norm is None
    assert Teacher(timm.create_model('resnet18'), norm=((0.5,) * 3, (0.5,) * 3)).norm == (
        (0.5,) * 3,
        (0.5,) * 3,
    )


# ---- where its logits are


@pytest.mark.parametrize(
    'wrap',
    [
        lambda z: SimpleNamespace(logits=z),
        lambda z: OrderedDict(logits=z, hidden_states=None),
        lambda z: (z, z + 1),
        lambda z: [z],
        lambda z: dict(out=z),
    ],
)
def test_outputs_of_every_form(wrap):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = make_model('micro_resnet').eval()

        def forward(self, x):
            return wrap(self.model(x))

    model = Other()
    x = torch.randn(3, 1, 8, 8)
    task = create_task('kd', 'micro_vit', model, input_size=(1, 8, 8))
    assert torch.equal(task.answers(x).logits, model.model(x))


@pytest.mark.parametrize('out', [dict(a=torch.zeros(2, 3), b=torch.zeros(2, 3)), 'text', (), None])
def test_outputs_that_nobody_can_guess(out):
    with pytest.raises(TypeError, match='say where its logits are:\n    class Plain'):
        logits_in(out)


def test_probabilities_are_refused():
    soft = nn.Sequential(make_model('micro_resnet'), nn.Softmax(1))
    with pytest.raises(ValueError, match='gives probabilities .its rows sum to 1.'):
        create_task('kd', 'micro_vit', soft, input_size=(1, 8, 8))
    logarithm = nn.Sequential(make_model('micro_resnet'), nn.LogSoftmax(1))
    create_task('kd', 'micro_vit', logarithm, input_size=(1, 8, 8))


@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda m: torch.compile(m, backend='eager')])
def test_wrappers_are_taken_off(wrap):
    model = make_model('micro_resnet')
    assert Teacher(wrap(nn.DataParallel(model))).model is model


# ---- where it comes from


def test_a_file_for_a_name_and_for_a_module(tmp_path):
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.save(own.state_dict(), tmp_path / 'own.pth')
    x = torch.randn(3, 1, 8, 8)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert torch.equal(Teacher(other, weights=tmp_path / 'own.pth')(x).logits, own(x))
    net = make_model('micro_resnet').eval()
    teacher = Teacher('micro_resnet', weights=net.state_dict())
    assert torch.equal(teacher(x).logits, net(x)) and teacher.norm is None
    with pytest.raises(ValueError, match='its weights are not those of'):
        Teacher('micro_vit', input_size=(1, 8, 8), weights=tmp_path / 'own.pth', num_classes=10)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda p: Teacher(str(p / 'none.safetensors')), 'no such file'),
        (lambda p: Teacher('micro_resnet', 10, (1, 8, 8)), 'random weights and nothing to teach'),
        (lambda p: Teacher('micro_resnet'), 'needs num_classes and input_size'),
        (lambda p: Teacher('micro_resnet', weights=p / 'none.pth'), 'no such file'),
        (lambda p: Teacher(make_model('micro_vit'), pretrained=True), 'goes with the name of a timm model'),
        (
            lambda p: Teacher('resnet18', pretrained=True, weights=p / 'a.pth'),
            'goes with the name of a timm mo',
        ),
        (lambda p: Teacher(p, weights=p / 'a.pth'), 'has its own; give the name of a timm model'),
        (lambda p: Teacher(p), 'expected a folder with a config.json'),
    ],
)
def test_teachers_that_there_are_not(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


def test_a_folder_in_the_way_of_a_name(tmp_path, monkeypatch):
    "What is called as a timm model is one, whatever lies in the working directory."
    (tmp_path / 'micro_resnet').mkdir()
    monkeypatch.chdir(tmp_path)
    assert Teacher('micro_resnet', 10, (1, 8, 8), allow_untrained=True).norm is None


# ---- in which classes


def test_another_order_is_put_right():
    "Measured, looked at, cached and distilled alike."
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    names = [f'digit {i}' for i in range(10)]
    images = from_arrays(np.zeros((80, 8, 8), np.uint8), np.arange(80) % 10, classes=names)
    data = split(images, train=40, valid=20, test=20)
    model = make_model('micro_resnet').eval()
    straight, turned = Teacher(model, classes=names), Teacher(model, classes=[names[i] for i in order])
    x = torch.randn(3, 1, 8, 8)
    z = create_task('kd', 'micro_vit', straight, data=data).answers(x).logits
    expected = torch.empty_like(z)
    expected[:, order] = z  # column i of `turned` is the digit order[i]
    assert torch.equal(create_task('kd', 'micro_vit', turned, data=data).answers(x).logits, expected)
    torch.testing.assert_close(
        predict(turned, data.test, data.norm)[:, order], predict(straight, data.test, data.norm)
    )
    keys = [cache_key(t, data, Augment(), 0, 20, ['logits']) for t in (straight, turned)]
    assert keys[0] != keys[1] and keys[0] == cache_key(Teacher(model), data, Augment(), 0, 20, ['logits'])


def test_ten_classes_of_a_thousand():
    names = tuple(f'class {i}' for i in range(40))
    wanted = ('class 7', 'class 31')
    teacher = Teacher(make_model('micro_resnet', 40), classes=names)
    x = torch.randn(3, 1, 8, 8)
    z = answers(teacher, (1, 8, 8), None, 2, names=wanted, x=x).logits
    assert torch.equal(z, teacher(x).logits[:, [7, 31]])


@pytest.mark.parametrize(
    'own, names, message',
    [
        (['cat', 'dog'], ['cat', 'cow'], 'lack 1 of the 2 of the data: cow; it has, not in the data: dog'),
        (['cat', 'dog', 'cat'], ['cat', 'dog'], 'cat more than once'),
        (['cat'], ['cat', 'dog'], 'the teacher has 2 and 1 names'),
        (None, ['cat', 'dog', 'cow'], 'it has 2 classes, the student 3'),
    ],
)
def test_classes_that_do_not_fit(own, names, message):
    with pytest.raises(ValueError, match=message):
        matched_classes(own, names, 3 if own and len(own) == 3 else 2, len(names))


def test_methods_that_read_no_logits_take_a_teacher_without_a_classifier():
    backbone = make_model('micro_resnet', 0)
    for method in ('fitnet', 'rsd', 'rkd', 'cc'):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            task = create_task(method, 'micro_vit', backbone, data=DATA)
        assert task(torch.randn(6, 1, 8, 8), torch.arange(6))['loss'].isfinite(), method
    with pytest.raises(ValueError, match='it has 128 classes, the student 10'):
        create_task('kd', 'micro_vit', backbone, data=DATA)


# ---- several


def test_an_ensemble_averages_logits():
    a, b = make_model('micro_resnet').eval(), make_model('micro_vit', 10, (1, 16, 16)).eval()
    both = Ensemble([a, Teacher(b, norm=HALF)], shares=(3, 1))
    x = torch.rand(3, 1, 8, 8)
    z = answers(both, (1, 8, 8), ((0.0,), (1.0,)), x=x).logits
    large = nn.functional.interpolate((x - 0.5) / 0.25, (16, 16), mode='bicubic', antialias=True)
    torch.testing.assert_close(z, 0.75 * a(x) + 0.25 * b(large), rtol=1e-4, atol=1e-4)


def test_an_ensemble_teaches_by_every_way():
    both = [make_model('micro_resnet'), make_model('micro_mixer')]
    for method in ('ofa', 'kd', 'fitnet', 'rsd', 'ofa+rsd'):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            run = distill(method, 'micro_vit', both, DATA, epochs=1, device='cpu', progress=False)
        assert run.history[-1]['loss'] > 0
    assert 0 <= accuracy(Ensemble(both), DATA.test, DATA.norm) <= 100
    assert look_at(Ensemble(both), DATA).looked_at['valid'] == 100


def test_an_ensemble_is_cached(tmp_path):
    both = Ensemble([make_model('micro_resnet'), make_model('micro_vit')])
    cache = TeacherCache(tmp_path, both, DATA, batch_size=20)
    cache.build(1, progress=False)
    assert cache.compare(0) < 1e-4
    keys = [cache.key]
    for how in (dict(shares=(3, 1)), dict(features=1)):
        keys.append(cache_key(Ensemble(list(both.model), **how), DATA, Augment(), 0, 20, ['logits']))
    other = Ensemble([Teacher(both.model[0].model), Teacher(both.model[1].model, norm=HALF)])
    keys.append(cache_key(other, DATA, Augment(), 0, 20, ['logits']))
    assert all(a != b for i, a in enumerate(keys) for b in keys[:i])


@pytest.mark.parametrize(
    'how, message',
    [
        (dict(teachers=[]), 'at least two, got 0'),
        (dict(teachers=['micro_vit'] * 2), 'needs num_classes and input_size'),
        (dict(shares=(1, 0)), 'expected 2 numbers above 0'),
        (dict(shares=(1,)), 'expected 2 numbers above 0'),
        (dict(features=2), 'expected a number from 0 to 1, got 2'),
    ],
)
def test_ensembles_that_there_are_not(how, message):
    with pytest.raises(ValueError, match=message):
        Ensemble(**(dict(teachers=[make_model('micro_vit'), make_model('micro_resnet')]) | how))
