"""Answers that somebody kept teach like the network that gave them, or say why they cannot."""

import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ofa_learn.cache import keep_answers
from ofa_learn.cli import main
from ofa_learn.data import Augment, digits, split
from ofa_learn.look import look_at
from ofa_learn.models import make_model, save_model
from ofa_learn.tasks import Teacher, create_task
from ofa_learn.training import distill, fit, predict

DATA = split(digits(), train=100)
HOW = dict(device='cpu', progress=False)


@pytest.fixture(scope='module')
def school():
    return distill('labels', 'micro_resnet', None, DATA, epochs=8, **HOW).model


@pytest.fixture(scope='module')
def answers(school):
    teacher, x = Teacher(school), DATA.norm(DATA.train.images)
    found = teacher(x, ('logits', 'pooled')) if teacher.find_taps(DATA.input_size) else None
    return {k: getattr(found, k).numpy() for k in ('logits', 'pooled')}


def weights(run):
    return torch.cat([p.flatten() for p in run.model.state_dict().values()])


def taught(teacher, method='kd', epochs=2, data=DATA, **more):
    return distill(method, 'micro_vit', teacher, data, epochs, **HOW | more)


@pytest.mark.parametrize('form', ['array', 'tensor', 'npy', 'path', 'npz', 'dict', 'float16'])
def test_kept_logits_teach_in_every_form(form, school, answers, tmp_path):
    logits = answers['logits']
    np.save(tmp_path / 'a.npy', logits)
    np.savez(tmp_path / 'a.npz', logits=logits)
    forms = dict(array=logits, tensor=torch.from_numpy(logits), npy=str(tmp_path / 'a.npy'))
    forms |= dict(path=tmp_path / 'a.npy', npz=tmp_path / 'a.npz', dict=dict(logits=tmp_path / 'a.npy'))
    forms |= dict(float16=logits.astype(np.float16))
    near = 2e-2 if form == 'float16' else 1e-4
    assert torch.allclose(weights(taught(forms[form])), weights(taught(school)), atol=near)


@pytest.mark.parametrize('method', ['ofa', 'rkd', 'kd+rsd', 'crd'])
def test_pooled_features_make_more_methods_possible(method, school, answers):
    kept, live = (taught(t, method) for t in (answers, school))
    assert kept.task.trainable_module.state_dict().keys() == live.task.trainable_module.state_dict().keys()
    assert kept.history[-1]['loss'] == pytest.approx(live.history[-1]['loss'], rel=1e-3)


def test_a_method_that_needs_more_says_so(answers):
    with pytest.raises(ValueError, match='pooled are needed; these methods would work: .*kd'):
        create_task('rsd', 'micro_vit', answers['logits'], data=DATA)
    with pytest.raises(ValueError, match='maps are needed, and its kept answers do not hold them'):
        create_task('fitnet', 'micro_vit', answers, data=DATA)
    with pytest.raises(ValueError, match='logits are needed'):
        create_task('kd', 'micro_vit', dict(pooled=answers['pooled']), data=DATA)


def spoiled(logits, row=7):
    out = logits.copy()
    out[row, 3] = np.nan
    return out


@pytest.mark.parametrize(
    'change, says',
    [
        (lambda a: a[:99], '99 rows of answers and 100 training images'),
        (lambda a: a[:, :7], 'it has 7 classes, the student 10'),
        (lambda a: a.astype(int), 'got int64 of shape'),
        (lambda a: a[0], r'one row per training image, got float32 of shape \(10,\)'),
        (spoiled, 'its logits are not finite in row 7'),
        (lambda a: torch.from_numpy(a).softmax(1), 'its rows are probabilities'),
        (lambda a: dict(logit=a), "are 'logits', 'pooled' or both.*got logit"),
        (lambda a: dict(logits=a, views='all'), "expected views 'same' or 'any', got 'all'"),
        (lambda a: dict(logits=a, pooled=a[:5]), '100 of logits, 5 of pooled'),
        (lambda a: 'no/such/file.npy', 'no readable file of answers'),
        (lambda a: dict(logits=a, images='123'), 'about other training images than these'),
    ],
)
def test_what_does_not_fit_is_said_before_anything_trains(change, says, answers):
    with pytest.raises(ValueError, match=says):
        taught(change(answers['logits']))


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / 'a.npy').write_bytes(b'not an array')
    with pytest.raises(ValueError, match='a.npy is no readable file of answers'):
        taught(tmp_path / 'a.npy')


def test_views_that_change_are_refused_unless_it_is_meant(answers):
    views = dict(augment=Augment(shift=1))
    with pytest.raises(ValueError, match="which they would not follow.*views='any'"):
        taught(answers['logits'], **views)
    assert taught(dict(logits=answers['logits'], views='any'), **views).test_accuracy > 5
    with pytest.raises(ValueError, match='mixup, cutmix: they mix images'):
        taught(dict(logits=answers['logits'], views='any'), mixup=0.2)


def test_rows_in_another_order_are_warned_of(answers):
    with pytest.warns(UserWarning, match='no better than guessing, .* of 100 training images.*rows of kept'):
        taught(np.roll(answers['logits'], 37, 0), epochs=1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        taught(answers['logits'], epochs=1)


def test_resumed_by_the_same_answers_only(answers, tmp_path):
    taught(answers['logits'], out=tmp_path, sched='constant', warmup_epochs=0)
    with pytest.raises(ValueError, match='holds another run; teacher.answers'):
        taught(answers['logits'] + 1, out=tmp_path, resume=True, sched='constant', warmup_epochs=0)
    went_on = taught(
        answers['logits'].copy(), epochs=3, out=tmp_path, resume=True, sched='constant', warmup_epochs=0
    )
    assert len(went_on.history) == 3


def test_images_without_numbers_are_refused(answers):
    x, y = DATA.norm(DATA.train.images), DATA.train.labels
    loader = DataLoader(TensorDataset(x, y), 50)
    task = create_task('kd', 'micro_vit', dict(logits=answers['logits'], views='any'), input_size=(1, 8, 8))
    with pytest.raises(ValueError, match='The images of a DataLoader have none'):
        fit(task, (loader, loader), 1, **HOW)


def test_kept_answers_and_a_network_answer_together(school, answers):
    both = taught([school, answers['logits']])
    assert torch.allclose(weights(both), weights(taught(school)), atol=1e-4), 'the mean of two that are alike'


def test_predict_gives_what_is_kept(school, answers):
    "The recipe of the documentation: predict, save, teach."
    assert np.allclose(predict(school, DATA.train, DATA.norm).numpy(), answers['logits'], atol=1e-5)


def test_nobody_looks_at_kept_answers_elsewhere(answers):
    with pytest.raises(ValueError, match='there is nobody to ask'):
        look_at(answers['logits'], DATA)


def test_a_network_of_the_same_name_is_still_a_network():
    assert create_task('kd', 'micro_vit', make_model('micro_resnet'), data=DATA).name == 'kd'


# -- by commands


def test_asked_by_one_command_and_taught_by_another(school, tmp_path, capsys):
    file, kept, out = (str(tmp_path / name) for name in ('teacher.safetensors', 'answers.npz', 'student'))
    save_model(school, file, DATA.input_size, DATA.norm)
    assert main(['answers', file, '--train', '100', '--device', 'cpu', '--out', kept]) == 0
    said = capsys.readouterr().out
    assert f'{kept}: logits 100 × 10, pooled 100 × 128' in said
    words = ['distill', '--student', 'micro_vit', '--data', 'digits', '--train', '100', '--epochs', '1']
    words += ['--device', 'cpu', '--progress=False', '--out', out, '--teacher', kept]
    assert main(words) == 0, capsys.readouterr().err
    assert '% of 100 training images' in capsys.readouterr().err, 'it is looked at where it can be'
    words[words.index('100')] = '90'
    words[words.index(out)] = out + '2'
    assert main(words) == 2 and '100 rows of answers and 90 training images' in capsys.readouterr().err
    assert main(['answers', kept, '--out', str(tmp_path / 'b.npz')]) == 2
    assert 'holds answers already' in capsys.readouterr().err
    assert main(['answers', file, '--out', str(tmp_path / 'b.npy')]) == 2
    assert 'expected a file ending in .npz' in capsys.readouterr().err
    assert main(['answers', file, '--out', kept]) == 2, 'nothing is written over'


def test_answers_know_their_images(school, tmp_path):
    path = tmp_path / 'a.npz'
    keep_answers(Teacher(school), DATA, path)
    assert torch.allclose(weights(taught(path)), weights(taught(school)), atol=1e-4)
    with pytest.raises(ValueError, match='about other training images than these'):
        taught(path, data=split(digits(), train=100, split_seed=5))
