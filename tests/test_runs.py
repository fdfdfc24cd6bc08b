"""Recipes become runs.

Their settings arrive, a stopped run goes on, many processes share one, and images are read while training.
"""

import json
import os
import signal
import time

import pytest
import torch
from fresh import Started, command, program
from PIL import Image
from torch.utils.data import IterableDataset

from ofa_learn import loaders, runs
from ofa_learn.cli import main
from ofa_learn.data import digits, split
from ofa_learn.identity import weights_hash
from ofa_learn.loaders import _seeded, load_images
from ofa_learn.models import load_model
from ofa_learn.recipes import recipe, recipes
from ofa_learn.runs import (
    _cost,
    _cost_text,
    _recipe_data,
    _recipe_teacher,
    _task_options,
    _unfollowed,
    _view_options,
    dry_run,
    fit_arguments,
    run_recipe,
    teach,
    teaching_data,
    training_folder,
)
from ofa_learn.sweeps import _OF_FIT, _method_options

CPU = torch.device('cpu')
PARTS = ('train', 'validation')  # as the papers have it: the published validation images test
SMALL = dict(train_images=100, epochs=4, teacher_epochs=4, opt='adamw', lr=4e-3)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "200 digits as colour PNG files in ImageNet's layout."
    root, images = tmp_path_factory.mktemp('images'), digits()
    for i in range(200):
        place = root / ('train' if i < 150 else 'validation') / f'c{images.labels[i]}'
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.images[i, 0].numpy()).convert('RGB').resize((40, 40)).save(place / f'{i}.png')
    return root


@pytest.fixture(scope='module')
def teacher(folder, tmp_path_factory):
    file = tmp_path_factory.mktemp('teacher') / 't.safetensors'
    teach(
        'micro_resnet',
        load_images(folder, size=32, valid=20, parts=PARTS, workers=0),
        file,
        1,
        device='cpu',
        progress=False,
    )
    return file


@pytest.mark.parametrize('name', recipes())
def test_every_recipe_becomes_arguments_that_exist(name):
    r = recipe(name)
    for method in r.methods:
        assert set(_task_options(r, method)) <= set(_method_options(method))
    how = fit_arguments(r, CPU)
    assert set(how) <= set(_OF_FIT) | {'augment'} and how['lr'] == r.lr and how['batch_size'] == r.batch_size
    for k in (
        'epochs',
        'opt',
        'weight_decay',
        'sched',
        'warmup_epochs',
        'warmup_lr',
        'min_lr',
        'clip',
        'ema',
    ):
        assert how[k] == getattr(r, k), k
    known = set(r.augment) - {'mixup', 'cutmix', 'shift'}
    assert len(set(_view_options(r)) - {'re_mode'}) == len(known), f'{name}: {known} are not all followed'
    assert fit_arguments(r, CPU, r.batch_size // r.devices)['accumulate'] == r.devices
    assert any('binary' in w for w in _unfollowed(r)) == (r.label_loss == 'bce')


def test_a_dry_run_trains_nothing_and_says_everything(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['train', '--recipe', 'laptop/mlp-cnn', '--dry-run', '--epochs', '7', '--device', 'cpu']) == 0
    text = capsys.readouterr().out
    assert (
        'epochs           7' in text
        and 'yours' in text
        and 'estimate on cpu' in text
        and '42 in 7 epochs' in text
        and not list(tmp_path.iterdir())
    )
    assert main(['train', '--recipe', 'list']) == 0 and capsys.readouterr().out.split() == recipes()


def test_the_cost_follows_the_recipe():
    c = _cost(recipe('laptop/cnn-vit'), 'kd', 'cpu', at_once=10, timed=1)
    assert (
        c['at_once'] == 10
        and c['heads'] == 0
        and c['hours'] == pytest.approx(c['seconds'] * 6 * 80 / 3600)
        and 'minutes' in _cost_text(recipe('laptop/cnn-vit'), c, CPU)
    )


def test_a_run_stopped_by_a_signal_goes_on_to_the_same_student(tmp_path):
    r = recipe('laptop/cnn-vit', **SMALL)
    whole = run_recipe(r, tmp_path / 'whole', 'kd', device='cpu', progress=False)

    def stop(row):
        if row['epoch'] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    taught = next((tmp_path / 'whole').glob('teacher-*'))
    with pytest.raises(KeyboardInterrupt, match='resume=True goes on'):
        run_recipe(r, tmp_path / 'cut', 'kd', device='cpu', progress=False, teacher=taught, on_epoch=stop)
    assert not (tmp_path / 'cut' / 'student.safetensors').exists()
    cut = run_recipe(r, tmp_path / 'cut', 'kd', device='cpu', progress=False, teacher=taught, resume=True)
    assert (tmp_path / 'cut' / 'student.safetensors').read_bytes() == (
        tmp_path / 'whole' / 'student.safetensors'
    ).read_bytes()
    assert (
        cut.test_accuracy
        == whole.test_accuracy
        == json.loads((tmp_path / 'cut' / 'run.json').read_text())['test_accuracy']
    )
    told = json.loads((tmp_path / 'cut' / 'run.json').read_text())['teacher']
    assert told['model'] == 'MicroResNet' and told['weights'] == weights_hash(load_model(taught)[0])


def test_ctrl_c_ends_the_command_with_a_sentence(tmp_path):
    words = ['train', '--method', 'labels', '--epochs', '2000', '--device', 'cpu', '--out', tmp_path / 'run']
    p = Started(command, *words, folder=tmp_path)
    for _ in range(600):
        if (tmp_path / 'run' / 'history.csv').exists():
            break
        time.sleep(0.1)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    assert p.returncode == 130 and 'stopped in epoch' in err and 'Traceback' not in err, err[-2000:]
    assert (tmp_path / 'run' / 'last.pt').exists()


COMMAND = '''
from ofa_learn.cli import main

if __name__ == '__main__':
    assert main() == 0
'''


def test_two_processes_run_one_recipe(tmp_path):
    "As under torchrun; tests/test_training.py starts torchrun itself."
    data = split(digits(), train=300)
    teach('micro_resnet', data, tmp_path / 't.safetensors', 2, device='cpu', progress=False)
    (tmp_path / 'command.py').write_text(COMMAND)
    words = ('train', '--epochs', 2, '--device', 'cpu', '--method', 'kd')
    words += ('--teacher', tmp_path / 't.safetensors', '--out', tmp_path / 'two')
    said = program(tmp_path / 'command.py', *words, processes=2)
    assert said.count('% on test') == 1
    one = run_recipe(
        recipe('laptop/cnn-vit', epochs=2),
        tmp_path / 'one',
        'kd',
        teacher=tmp_path / 't.safetensors',
        device='cpu',
        progress=False,
    )
    two = json.loads((tmp_path / 'two' / 'run.json').read_text())
    assert two['test_accuracy'] == pytest.approx(one.test_accuracy, abs=0.5)


def test_images_that_are_read_while_training_with_all_that_a_recipe_asks(folder, teacher, tmp_path):
    r = recipe(
        'imagenet/resnet50-deit_t',
        num_classes=10,
        train_images=135,
        input_size=[3, 32, 32],
        epochs=2,
        batch_size=40,
        devices=2,
        ema=0.9,
        warmup_epochs=0,
    )
    assert {'re_prob', 'auto_augment'} <= set(_view_options(r)) and fit_arguments(r, CPU, 20)[
        'accumulate'
    ] == 2
    run = run_recipe(
        r,
        tmp_path / 'run',
        'kd',
        data=folder,
        teacher=teacher,
        at_once=20,
        workers=0,
        device='cpu',
        progress=False,
    )
    assert run.history[-1]['ema_accuracy'] is not None and run.task.label_smoothing == r.smoothing
    model, about = load_model(tmp_path / 'run' / 'student.safetensors')
    assert about['architecture'] == 'deit_tiny_patch16_224' and about['num_classes'] == 10


def test_workers_do_not_change_a_view_and_a_resumed_epoch_is_the_same(folder):
    def make(workers):
        views = dict(auto_augment='rand-m9-mstd0.5-inc1', re_prob=0.5, re_mode='pixel')
        return load_images(folder, size=32, valid=20, parts=PARTS, workers=workers, views=views).train

    a, b = (list(make(w).batches(loaders._IMAGENET, 30, view_seed=5).epoch(2)) for w in (0, 2))
    for x, y in zip(a, b):
        assert torch.equal(x.input, y.input) and torch.equal(x.target, y.target)
    rest = list(make(0).batches(loaders._IMAGENET, 30, view_seed=5).epoch(2, start=1))
    assert len(rest) == len(a) - 1 and torch.equal(rest[0].input, a[1].input)
    other = next(iter(make(0).batches(loaders._IMAGENET, 30, view_seed=6).epoch(2)))
    assert torch.equal(other.index, a[0].index) and not torch.equal(other.input, a[0].input)


def test_fingerprints_tell_parts_apart(folder):
    a, b = (load_images(folder, size=32, valid=20, parts=PARTS, split_seed=s, workers=0) for s in (0, 1))
    assert a.train.fingerprint != b.train.fingerprint and a.test.fingerprint == b.test.fingerprint
    assert not set(a.train.rows.tolist()) & set(a.valid.rows.tolist()) and len(a.train) + len(a.valid) == 150
    assert (
        load_images(folder, size=40, valid=20, parts=PARTS, workers=0).test.fingerprint != a.test.fingerprint
    )


def test_random_numbers_go_on_after_a_view():
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with _seeded(3, 4):
        torch.rand(7)
    assert torch.equal(torch.rand(2), expected)


def test_bad_input_is_refused_with_what_to_do(folder, tmp_path, monkeypatch):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(())

    monkeypatch.setattr(loaders, 'create_dataset', lambda *a, **k: Stream())
    with pytest.raises(ValueError, match='is a stream without numbers'):
        load_images(folder, 'wds/x')
    monkeypatch.undo()
    with pytest.raises(ValueError, match='say with data='):
        _recipe_data(recipe('imagenet/deit_t-resnet18'))
    with pytest.raises(ValueError, match='ofa-learn teach'):
        _recipe_teacher(recipe('cifar100/swin_t-resnet18'), split(digits(), train=50), tmp_path)
    with pytest.raises(ValueError, match='divisor of 50'):
        fit_arguments(recipe('laptop/cnn-vit'), CPU, 20)
    with pytest.raises(ValueError, match='settings for labels'):
        run_recipe(recipe('laptop/cnn-vit'), tmp_path, 'crd')
    with pytest.raises(ValueError, match='pretrained: timm has no published weights'):
        teach('micro_vit', split(digits(), train=50), tmp_path / 't.safetensors', pretrained=True)
    with pytest.raises(ValueError, match='no recipe'):
        main_error('train', '--recipe', 'laptop/cnn-vti')
    assert teaching_data(str(folder), size=16).input_size == (3, 16, 16)


def main_error(*words):
    "The error itself, not the line that the command prints."
    from ofa_learn.recipes import recipe as named

    return named(words[-1])


def test_sizes_that_a_set_has_of_its_own_are_not_dropped_in_silence(folder):
    with pytest.raises(ValueError, match='train, test: .* is read whole'):
        teaching_data(str(folder), 32, train=50)
    with pytest.raises(ValueError, match='cifar10 is read whole'):
        teaching_data('cifar10', 64, test=10)


def test_a_joined_method_is_timed_without_data():
    r = recipe('cifar100/swin_t-resnet18')
    methods = _task_options(r, 'ofa+crd')['options_of']
    assert set(methods) == {'ofa', 'crd'} and methods['ofa']['soft'] == 'hard'
    from dataclasses import replace

    from ofa_learn.runs import _recipe_task

    tiny = replace(recipe('laptop/cnn-vit'), methods=dict(ofa={}, crd={}))
    assert _recipe_task(tiny, 'ofa+crd', 'random', None, 0).name == 'ofa+crd'


def test_another_teaching_is_another_file(tmp_path):
    data, made = split(digits(), train=60), []
    for epochs in (1, 2):
        r = recipe('laptop/cnn-vit', **SMALL | dict(teacher_epochs=epochs))
        _recipe_teacher(r, data, tmp_path, say=lambda line: made.append(line), device='cpu', progress=False)
    assert (
        len(list(tmp_path.glob('teacher-*.safetensors'))) == 2
        and sum('teaching the teacher' in m for m in made) == 2
    )


def stop_after(epoch):
    "What `on_epoch` does when somebody presses Ctrl-C in that epoch."

    def look(row):
        if row['epoch'] == epoch:
            signal.raise_signal(signal.SIGINT)

    return look


def test_a_teacher_that_was_stopped_goes_on_to_the_same_file(tmp_path):
    data, how = split(digits(), train=100), dict(device='cpu', progress=False)
    teach('micro_vit', data, tmp_path / 'whole.safetensors', 4, **how)
    file = tmp_path / 'cut.safetensors'
    with pytest.raises(KeyboardInterrupt, match='cut.training holds everything, resume=True goes on'):
        teach('micro_vit', data, file, 4, on_epoch=stop_after(2), **how)
    assert not file.exists() and training_folder(file).is_dir()
    with pytest.raises(ValueError, match='cut.training holds a run already .* resume=True'):
        teach('micro_vit', data, file, 4, **how)
    with pytest.raises(ValueError, match='holds another run; .*lr'):
        teach('micro_vit', data, file, 4, lr=1e-3, resume=True, **how)
    teach('micro_vit', data, file, 4, resume=True, **how)
    assert file.read_bytes() == (tmp_path / 'whole.safetensors').read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['cut.safetensors', 'whole.safetensors']


def test_a_teacher_that_is_there_stays_unless_asked_for(tmp_path):
    data, file = split(digits(), train=60), tmp_path / 't.safetensors'
    how = dict(device='cpu', progress=False)
    teach('micro_vit', data, file, 2, **how)
    before = file.read_bytes()
    with pytest.raises(ValueError, match='t.safetensors exists already; choose another name'):
        teach('micro_vit', data, file, 1, **how)
    assert file.read_bytes() == before
    teach('micro_vit', data, file, 1, overwrite=True, **how)
    assert file.read_bytes() != before and [p.name for p in tmp_path.iterdir()] == [file.name]


def test_where_nothing_is_to_go_on_from(tmp_path):
    data = split(digits(), train=100)
    with pytest.raises(ValueError, match='nowhere does not exist, so there is nothing to go on from'):
        run_recipe(recipe('laptop/cnn-vit', **SMALL), tmp_path / 'nowhere', resume=True, device='cpu')
    with pytest.raises(ValueError, match='t.training does not exist, so there is nothing'):
        teach('micro_vit', data, tmp_path / 't.safetensors', resume=True)
    (tmp_path / 'other').mkdir()
    with pytest.raises(ValueError, match='other holds no checkpoint'):
        run_recipe(recipe('laptop/cnn-vit', **SMALL), tmp_path / 'other', resume=True, device='cpu')
    assert [p.name for p in tmp_path.rglob('*')] == ['other']


def test_a_recipe_that_was_stopped_while_its_teacher_learned_goes_on(tmp_path, monkeypatch):
    r, how = recipe('laptop/cnn-vit', **SMALL), dict(device='cpu', progress=False)
    whole = run_recipe(r, tmp_path / 'whole', 'kd', **how)
    taught = runs.teach
    monkeypatch.setattr(runs, 'teach', lambda *a, **k: taught(*a, on_epoch=stop_after(2), **k))
    with pytest.raises(KeyboardInterrupt):
        run_recipe(r, tmp_path / 'cut', 'kd', **how)
    monkeypatch.undo()
    with pytest.raises(ValueError, match='holds a run already'):
        run_recipe(r, tmp_path / 'cut', 'kd', **how)
    cut = run_recipe(r, tmp_path / 'cut', 'kd', resume=True, **how)
    assert cut.test_accuracy == whole.test_accuracy
    files = [sorted(p.name for p in (tmp_path / n).glob('*.safetensors')) for n in ('whole', 'cut')]
    assert files[0] == files[1] and not list((tmp_path / 'cut').glob('*.training'))
    for name in files[0]:
        assert (tmp_path / 'whole' / name).read_bytes() == (tmp_path / 'cut' / name).read_bytes()


def test_the_place_of_a_file_is_tried_before_the_training(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    (tmp_path / 'folder.safetensors').mkdir()
    monkeypatch.setattr(runs, 'fit', lambda *a, **k: pytest.fail('it began to train'))
    data = split(digits(), train=100)
    for name in ('file/t.safetensors', 'folder.safetensors', '/proc/nowhere/t.safetensors'):
        with pytest.raises((ValueError, OSError)):
            teach('micro_vit', data, tmp_path / name, 1, device='cpu')
    with pytest.raises((ValueError, OSError)):
        run_recipe(recipe('laptop/cnn-vit', **SMALL), tmp_path / 'file', 'labels', device='cpu')


@pytest.mark.parametrize(
    'method, given, message',
    [
        ('kd', dict(data='images'), 'data: laptop/cnn-vit trains on the digits'),
        ('kd', dict(workers=2), 'workers: the images of laptop/cnn-vit are in memory'),
        ('labels', dict(teacher='t.safetensors'), 'teacher: labels learns without one'),
        ('kd', dict(teacher='t.safetensors'), 't.safetensors: no such file'),
        ('kd', dict(data=split(digits(), train=100), workers=2), 'workers: the images are loaded already'),
    ],
)
def test_an_argument_that_a_run_would_not_use_is_an_error(tmp_path, method, given, message):
    with pytest.raises(ValueError, match=message):
        run_recipe(recipe('laptop/cnn-vit', **SMALL), tmp_path / 'run', method, device='cpu', **given)
    assert not list(tmp_path.iterdir())


def test_a_recipe_holds_the_options(tmp_path):
    with pytest.raises(TypeError, match="run_recipe has no option 'gamma'; 'gamma' is an option of recipe"):
        run_recipe(recipe('laptop/cnn-vit'), tmp_path / 'run', gamma=2)
    with pytest.raises(ValueError, match="gama: not a setting of a recipe; did you mean 'gamma'"):
        recipe('laptop/cnn-vit', gama=2)
    with pytest.raises(TypeError, match="fit has no option 'gamma'"):
        teach('micro_vit', split(digits(), train=100), tmp_path / 't.safetensors', 1, gamma=2)


def test_a_dry_run_refuses_before_it_times(monkeypatch):
    monkeypatch.setattr(runs, '_cost', lambda *a, **k: pytest.fail('it began to time'))
    for at_once in (0, -5, 7):
        with pytest.raises(ValueError, match='at_once: expected a divisor of 50'):
            dry_run(recipe('laptop/cnn-vit'), 'kd', 'cpu', at_once)
