"""What a run leaves: students taken out of its folder, an end by patience, more epochs, a closer look."""

import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn as nn

from ofa_learn import look
from ofa_learn.checkpoints import Stopped, load_student, out_of_patience
from ofa_learn.data import Norm, digits, split
from ofa_learn.evaluation import evaluate
from ofa_learn.models import make_model, save_model
from ofa_learn.tasks import Teacher, create_task
from ofa_learn.training import accuracy, distill, fit

DATA = split(digits(), train=100)
HOW = dict(device='cpu', progress=False)
STEADY = HOW | dict(sched='constant', warmup_epochs=0)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.fixture(scope='module')
def school():
    "A network that reads digits."
    run = distill('labels', 'micro_resnet', None, DATA, epochs=8, **HOW)
    assert run.test_accuracy > 40
    return run.model


def told(call):
    "What a call gives, and its warnings."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        found = call()
    return found, [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def test_each_student_of_a_folder_is_the_one_that_was_asked_for(tmp_path):
    run = distill('labels', 'micro_vit', None, DATA, epochs=6, ema=0.8, out=tmp_path, **HOW | dict(lr=8e-3))
    last, best, mean = (load_student(tmp_path, which) for which in ('last', 'best', 'ema'))
    assert same(last, run.model) and not last.training
    reached = [row['valid_accuracy'] for row in run.history]
    assert accuracy(best, DATA.valid, DATA.norm) == max(reached)
    assert accuracy(mean, DATA.valid, DATA.norm) == run.history[-1]['ema_accuracy']
    assert same(load_student(tmp_path), last), 'the last is what is meant where nobody says'


def test_reading_a_student_draws_no_random_number(tmp_path):
    distill('labels', 'micro_vit', None, DATA, epochs=1, out=tmp_path, **HOW)
    before = torch.get_rng_state()
    load_student(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_student_that_is_not_there_is_said(tmp_path, school):
    with pytest.raises(ValueError, match="which: expected 'last', 'best' or 'ema', got 'first'"):
        load_student(tmp_path, 'first')
    with pytest.raises(ValueError, match='holds no last.pt and no student.safetensors'):
        load_student(tmp_path)
    distill('labels', 'micro_vit', None, DATA, epochs=1, out=tmp_path / 'run', **HOW)
    with pytest.raises(ValueError, match='no moving average; train with ema=.999'):
        load_student(tmp_path / 'run', 'ema')
    (tmp_path / 'run' / 'best.pt').unlink()
    with pytest.raises(ValueError, match='holds no best.pt; no epoch has ended in a look'):
        load_student(tmp_path / 'run', 'best')
    (tmp_path / 'file').mkdir()
    save_model(school, tmp_path / 'file' / 'student.safetensors', DATA.input_size, DATA.norm)
    assert same(load_student(tmp_path / 'file'), school)
    with pytest.raises(ValueError, match="without checkpoints; it has 'last' only"):
        load_student(tmp_path / 'file', 'best')


class Net(nn.Module):
    def __init__(self, width=10):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width))

    def forward(self, x):
        return self.layers(x)


def test_a_network_of_ones_own_is_given(tmp_path):
    run = distill('labels', Net(), None, DATA, epochs=1, out=tmp_path, **HOW)
    with pytest.raises(ValueError, match=r'names no timm architecture \(Net\).*student=Net'):
        load_student(tmp_path)
    assert same(load_student(tmp_path, student=Net()), run.model)
    with pytest.raises(ValueError, match='do not fit Net'):
        load_student(tmp_path, student=Net(7))


@pytest.mark.parametrize('other', [dict(num_heads=2), dict(depth=5)])
def test_a_network_that_its_name_does_not_build_is_refused(other, tmp_path):
    "With another number of heads all shapes are the same, and every answer is another."
    network = make_model('micro_vit', **other)
    run = distill('labels', network, None, DATA, epochs=1, out=tmp_path, **HOW)
    with pytest.raises(ValueError, match='micro_vit that was built with other arguments'):
        load_student(tmp_path)
    assert same(load_student(tmp_path, student=make_model('micro_vit', **other)), run.model)


def test_dropout_is_no_other_network(tmp_path):
    network = make_model('micro_vit', drop_path_rate=0.1)
    run = distill('labels', network, None, DATA, epochs=1, out=tmp_path, **HOW)
    x = DATA.norm(DATA.test.images[:9])
    assert torch.equal(load_student(tmp_path)(x), run.model.eval()(x))


# -- patience


def rows(*accuracies):
    return [dict(epoch=i + 1, valid_accuracy=a) for i, a in enumerate(accuracies)]


@pytest.mark.parametrize(
    'accuracies, patience, ends',
    [
        ((50, 60, 60, 59), 2, True),  # an equal one is no better
        ((50, 60, 59), 2, False),
        ((50, 60, 59, 61), 2, False),
        ((50, None, None, None), 2, False),  # nobody looked
        ((50, None, 49, None, 48), 2, True),
        ((50, 49), 1, True),
        ((50, 49, 48), None, False),
        ((), 1, False),
    ],
)
def test_patience_counts_looks_that_are_no_better(accuracies, patience, ends):
    assert (out_of_patience(rows(*accuracies), patience) is not None) == ends


def plain_rows(history):
    return [{k: v for k, v in row.items() if k != 'seconds'} for row in history]


def waiting(folder=None, patience=2, **how):
    torch.manual_seed(0)
    task = create_task('labels', 'micro_vit', data=DATA)
    return task, fit(task, DATA, 12, lr=2e-2, out=folder, patience=patience, **HOW, **how)


def test_a_run_that_waits_in_vain_ends_and_says_why(tmp_path):
    task, history = waiting(tmp_path / 'whole')
    assert len(history) < 12 and 'patience: 2 looks after epoch' in history[-1]['ended']
    assert not any('ended' in row for row in history[:-1])
    assert 'patience: 2 looks' in (tmp_path / 'whole' / 'history.csv').read_text()

    def cut(done):
        if done > len(history) - 1.5:
            raise Stopped

    with pytest.raises(Stopped):
        waiting(tmp_path / 'cut', on_step=cut)
    resumed, again = waiting(tmp_path / 'cut', resume=True)
    assert plain_rows(again) == plain_rows(history) and same(resumed.student, task.student)
    assert plain_rows(waiting(tmp_path / 'cut', resume=True)[1]) == plain_rows(history), 'it had ended'
    longer = waiting(tmp_path / 'cut', patience=30, resume=True)[1]
    assert len(longer) > len(history) and 'ended' not in longer[len(history) - 1]


def test_its_end_is_said_where_there_is_a_bar(capsys):
    how = HOW | dict(progress=True)
    history = distill('labels', 'micro_vit', None, DATA, 40, lr=2e-2, patience=1, **how).history
    assert f'ended after epoch {len(history)}: patience: 1 looks' in capsys.readouterr().err


@pytest.mark.parametrize('wrong', [0, 1.5, True])
def test_patience_is_a_number_of_looks(wrong):
    with pytest.raises(ValueError, match='patience: expected an integer from 1, or None'):
        distill('labels', 'micro_vit', None, DATA, 2, patience=wrong, **HOW)


# -- more epochs


@pytest.mark.parametrize('how', [STEADY, HOW | dict(sched='multistep', decay_epochs=[1], warmup_epochs=0)])
def test_more_epochs_of_a_rate_that_knows_no_end_are_the_longer_run(how, tmp_path):
    distill('labels', 'micro_vit', None, DATA, 2, out=tmp_path, **how)
    went_on, said = told(
        lambda: distill('labels', 'micro_vit', None, DATA, 4, out=tmp_path, resume=True, **how)
    )
    whole = distill('labels', 'micro_vit', None, DATA, 4, **how)
    assert not said and same(went_on.model, whole.model)
    assert plain_rows(went_on.history) == plain_rows(whole.history)


def test_what_a_cosine_does_from_there_is_said(tmp_path):
    distill('labels', 'micro_vit', None, DATA, 2, out=tmp_path, **HOW)
    went_on, said = told(
        lambda: distill('labels', 'micro_vit', None, DATA, 4, out=tmp_path, resume=True, **HOW)
    )
    whole = distill('labels', 'micro_vit', None, DATA, 4, **HOW)
    assert len(said) == 1 and 'planned for 2 epochs and goes on to 4' in said[0]
    assert 'cosine schedule of 2, down to 0.0003; from here it follows that of 4, from 0.0013' in said[0]
    rates = [[row['lr'] for row in run.history] for run in (went_on, whole)]
    assert rates[0][2:] == rates[1][2:] and rates[0][1] != rates[1][1]


def test_fewer_epochs_or_another_rate_are_another_run(tmp_path):
    distill('labels', 'micro_vit', None, DATA, 3, out=tmp_path, **STEADY)
    for epochs, how in ((2, STEADY), (4, STEADY | dict(lr=1e-4))):
        with pytest.raises(ValueError, match='holds another run; .*(epochs: 3 → 2|lr: 0.002 → 0.0001)'):
            distill('labels', 'micro_vit', None, DATA, epochs, out=tmp_path, resume=True, **how)


# -- the teacher is looked at


def mixed_up(network):
    "The same network with its classes in another order."
    turn = nn.Linear(10, 10, bias=False)
    turn.weight.data = torch.eye(10).roll(3, 0)
    return nn.Sequential(network, turn)


def test_a_teacher_that_only_guesses_is_warned_of(school):
    _, said = told(lambda: distill('kd', 'micro_vit', mixed_up(school), DATA, 1, **HOW))
    assert len(said) == 1 and 'no better than guessing' in said[0]
    assert all(cause in said[0] for cause in ('are in another order', 'norm=', 'weights were not loaded'))
    assert not told(lambda: distill('kd', 'micro_vit', school, DATA, 1, **HOW))[1]


def test_a_teacher_sees_what_it_expects(school):
    "Normalised another way, and said so: it knows the digits. Nobody said so: it does not."
    norm = Norm((0.0,), (0.05,))
    moved = nn.Sequential(nn.BatchNorm2d(1), school).eval()  # from (x - 0) / 0.05 to the data's
    moved[0].running_mean = torch.tensor([DATA.norm.mean[0] / 0.05])
    moved[0].running_var = torch.tensor([(DATA.norm.std[0] / 0.05) ** 2])
    assert not told(lambda: distill('kd', 'micro_vit', Teacher(moved, norm=norm), DATA, 1, **HOW))[1]


def test_nobody_is_asked_for_answers_that_nobody_reads(school):
    assert not told(lambda: distill('fitnet', 'micro_vit', make_model('micro_resnet'), DATA, 1, **HOW))[1]


class Drawing(nn.Module):
    "A network that draws random numbers whenever it is asked."

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) + 0 * (random.random() + np.random.rand() + torch.rand(1).item())


def test_a_look_draws_no_random_number(school):
    task = create_task('kd', 'micro_vit', Drawing(school), data=DATA)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    look.look_before(task, DATA, tell=False)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_a_look_changes_no_training(school, monkeypatch):
    seen = distill('kd', 'micro_vit', Teacher(school), DATA, 2, **HOW)
    monkeypatch.setattr('ofa_learn.training.look_before', lambda *_: None)
    blind = distill('kd', 'micro_vit', Teacher(school), DATA, 2, **HOW)
    assert same(seen.model, blind.model) and plain_rows(seen.history) == plain_rows(blind.history)


def test_one_teacher_is_asked_once(school, monkeypatch, capsys):
    asked, score = [], look._score
    monkeypatch.setattr(look, '_score', lambda *of: asked.append(1) or score(*of))
    monkeypatch.setattr(look, '_KNOWN', type(look._KNOWN)())
    for method in ('kd', 'dist', 'kd'):
        distill(method, 'micro_vit', school, DATA, 1, **HOW)
    assert len(asked) == 1
    distill('kd', 'micro_vit', school, split(digits(), train=100, split_seed=1), 1, **HOW)
    assert len(asked) == 2, 'of other images it is asked again'
    with torch.no_grad():
        next(school.parameters()).mul_(1.0)
    distill('kd', 'micro_vit', school, DATA, 1, **HOW | dict(progress=True))
    assert len(asked) == 3, 'its weights may have changed'
    assert 'teacher: micro_resnet, ' in capsys.readouterr().err


# -- and the run


def test_a_run_looks_closer(school):
    run = distill('kd', 'micro_vit', school, DATA, 2, **HOW)
    found = run.evaluate()
    assert found == evaluate(run.model, DATA.test, DATA.norm) and found.accuracy == pytest.approx(
        run.test_accuracy
    )
    assert run.evaluate('valid').accuracy == pytest.approx(run.valid_accuracy)
    with pytest.raises(ValueError, match="part: expected 'train', 'valid' or 'test'"):
        run.evaluate('all')
