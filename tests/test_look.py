"""What a teacher has to say is seen before a student learns from it."""

from dataclasses import replace

import pytest
import torch
import torch.nn as nn

from ofa_learn.cli import main
from ofa_learn.data import Augment, Norm, digits, split
from ofa_learn.look import SURE, look_at
from ofa_learn.models import make_model, save_model
from ofa_learn.tasks import Teacher
from ofa_learn.training import accuracy

DATA = split(digits(), train=100, valid=200)


class Table(nn.Module):
    "Answers each image with `sure` for its label, or for another class where it is wrong."

    def __init__(self, data, sure, wrong=0):
        super().__init__()
        parts = (data.train, data.valid, data.test)
        self.known = {}
        for part in parts:
            for i, (x, y) in enumerate(zip(data.norm(part.images), part.labels.tolist())):
                self.known[x.numpy().tobytes()] = (y + 1) % 10 if i < wrong * len(part) else y
        self.logit = nn.Parameter(torch.tensor(float(sure)))

    def forward(self, x):
        z = torch.zeros(len(x), 10)
        for i, one in enumerate(x):
            z[i, self.known.get(one.numpy().tobytes(), 0)] = self.logit
        return z


def test_numbers_of_a_teacher_that_is_known():
    sure = torch.tensor(9.0)
    report = look_at(Table(DATA, sure), DATA, temperatures=(1, 3))
    assert report.accuracy == dict(train=100, valid=100, test=100)
    for row, T in zip(report.answers, (1, 3)):
        p = torch.tensor([sure / T, *[0.0] * 9]).softmax(0)
        assert row['true_class'] == pytest.approx(p[0].item(), abs=1e-6)
        assert row['entropy'] == pytest.approx(-(p * p.log()).sum().item(), abs=1e-5)
    assert report.answers[0]['true_class'] > SURE > report.answers[1]['true_class']
    assert 'it says little that the labels don’t. Raise T (3 leaves 0.3' in report.says[1]


def test_three_sentences():
    assert look_at(Table(DATA, 9), DATA, temperature=4).says == [
        'It knows the problem: 100.0 % of 200 validation images.',
        'At T = 4 the true class gets 0.51 of its answer on average: 0.49 is left to tell the student what '
        'else an image resembles.',
    ]
    at_any = look_at(Table(DATA, 1000), DATA)
    assert at_any.says[1].endswith('Show stronger views, or raise T further.')
    labels_shifted = look_at(Table(DATA, 9, wrong=0.95), DATA)
    assert len(labels_shifted.says) == 1 and 'no better than guessing: 5.0 %' in labels_shifted.says[0]
    assert 'is left' not in str(labels_shifted)
    mostly = look_at(Table(DATA, 9, wrong=0.7), DATA).says[0]
    assert (
        mostly.startswith('It is wrong about most images: right for 30.0 % of 200')
        and 'order of its classes' in mostly
    )


def test_through_its_own_normalisation():
    torch.manual_seed(0)
    model, own = make_model('micro_resnet'), Norm((0.3,), (0.1,))
    report = look_at(Teacher(model, norm=own), DATA)
    assert report.accuracy['test'] == pytest.approx(accuracy(model, DATA.test, own))
    assert report.accuracy['test'] == pytest.approx(accuracy(Teacher(model, norm=own), DATA.test, DATA.norm))


def test_a_large_part_is_looked_at_in_some_images():
    report = look_at(make_model('micro_vit'), DATA, most=50)
    assert report.looked_at == dict(train=50, valid=50, test=50)


def test_images_without_a_label_are_left_out():
    labels = torch.where(torch.arange(100) < 40, DATA.train.labels, -1)
    few = replace(DATA, train=replace(DATA.train, labels=labels))
    report = look_at(Table(DATA, 9), few)
    assert report.looked_at['train'] == 40 and report.accuracy['train'] == 100
    assert report.answers[0]['true_class'] == pytest.approx(0.9988, abs=1e-4)


def test_the_figure_shows_the_numbers():
    report = look_at(Table(DATA, 9), DATA)
    bars = {trace.name: list(trace.y) for trace in report.figure().data}
    assert bars['true class'] == [row['true_class'] for row in report.answers]
    assert bars['all other classes'] == [row['others'] for row in report.answers]


def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = save_model(make_model('micro_resnet'), tmp_path / 't.safetensors', (1, 8, 8))
    assert not main(['look', str(file), '--train', '100', '--device', 'cpu', '--out', 'look.html'])
    said = capsys.readouterr().out
    assert 'Splits(digits: 100 train' in said and 'no better than guessing' in said
    assert 'all other classes' in (tmp_path / 'look.html').read_text()
    assert main(['look', 'micro_resnet']) == 2
    assert 'expected a .safetensors file, or --pretrained with it' in capsys.readouterr().err


@pytest.mark.parametrize('augment, rounds', [(Augment(), 1), (Augment(shift=1), 2)])
def test_a_teacher_is_asked_once_where_views_change_nothing(augment, rounds):
    data = split(digits(), train=60, valid=20, test=20)
    seen = []
    model = make_model('micro_resnet')
    teacher = Teacher(model, allow_untrained=True)
    model.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    look_at(teacher, data, augment=augment)
    assert sum(n for n in seen if n > 2) == 60 * rounds + 40  # one or two images are probes
