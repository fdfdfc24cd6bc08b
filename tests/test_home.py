"""`~` is the home folder wherever a path comes from, Python or the command line."""

import numpy as np
import pytest
import torch
from PIL import Image

from ofa_learn.atomic import path_of
from ofa_learn.cache import TeacherCache
from ofa_learn.cli import main
from ofa_learn.data import digits, load_data, load_splits, split
from ofa_learn.export import export_student
from ofa_learn.loaders import load_images
from ofa_learn.models import load_model, make_model, save_model
from ofa_learn.records import load_records
from ofa_learn.sweeps import Sweep, load_plan, save_plan, sweep
from ofa_learn.tasks import Teacher
from ofa_learn.training import distill, resumable

QUIET = dict(device='cpu', progress=False)


@pytest.fixture
def home(tmp_path, monkeypatch):
    "A home folder with pictures, arrays and a teacher; we are elsewhere, and nothing is written there."
    home, elsewhere = tmp_path / 'home', tmp_path / 'elsewhere'
    elsewhere.mkdir()
    images = digits()
    for i in range(40):
        place = home / 'pictures' / f'c{images.labels[i] % 2}'
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.images[i, 0].numpy()).save(place / f'{i}.png')
    np.savez(home / 'digits.npz', images=images.images[:60].numpy(), labels=images.labels[:60].numpy())
    for name in ('HOME', 'USERPROFILE'):
        monkeypatch.setenv(name, str(home))
    monkeypatch.chdir(elsewhere)
    yield home
    assert list(elsewhere.iterdir()) == []


def test_a_user_whom_nobody_knows_is_a_name(home):
    assert path_of('~/a') == path_of(home / 'a') == home / 'a'
    assert str(path_of('~nobody-is-called-so/a')) == '~nobody-is-called-so/a'


def test_images(home):
    assert len(load_data('~/pictures')) == len(load_splits('~/pictures', test=4, valid=4).train) + 8 == 40
    assert len(load_data('~/digits.npz')) == 60
    assert load_splits('~/digits.npz', valid=10, test=10).num_classes == 10
    data = load_images('~/pictures', size=8, valid=8, test=8, workers=0)
    assert data.num_classes == 2


@pytest.mark.filterwarnings('ignore:teacher. micro_resnet is no better', 'ignore:epochs. ')
def test_a_run_its_files_and_its_teacher(home):
    data = split(digits(), train=60)
    torch.manual_seed(0)
    save_model(make_model('micro_resnet'), '~/teacher.safetensors', (1, 8, 8), norm=data.norm)
    assert (home / 'teacher.safetensors').is_file() and load_model('~/teacher.safetensors')
    run = distill('kd', 'micro_vit', '~/teacher.safetensors', data, 1, out='~/run', **QUIET)
    assert resumable('~/run') and (home / 'run' / 'last.pt').is_file() and len(run.history) == 1
    again = distill('kd', 'micro_vit', '~/teacher.safetensors', data, 2, out='~/run', resume=True, **QUIET)
    assert len(again.history) == 2
    export_student(again.model, '~/exported', (1, 8, 8))
    assert (home / 'exported').exists()


def test_a_sweep_and_its_records(home):
    parts, teaching = dict(train=100, valid=100, test=100), dict(epochs=1)
    plan = Sweep(methods=('labels', 'kd'), seeds=1, grid=dict(epochs=1), parts=parts, teaching=teaching)
    save_plan(plan, '~/plan.json')
    assert load_plan('~/plan.json') == plan
    sweep(plan, '~/sweep', jobs=0, **QUIET)
    assert len(load_records('~/sweep/runs')) == 2
    assert list((home / 'sweep' / 'teachers').glob('*.safetensors'))


def test_answers_that_are_kept(home):
    data = split(digits(), train=60)
    TeacherCache('~/answers', Teacher(make_model('micro_resnet'), norm=data.norm), data)
    assert any((home / 'answers').iterdir())


def test_a_command_whose_shell_left_it_as_it_is(home):
    main(['teach', 'micro_resnet', '--out=~/taught.safetensors', '--epochs', '1', '--train', '60'])
    assert (home / 'taught.safetensors').is_file()
