"""From pictures and anyone's network to a student, by one call and by one command."""

import json
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from ofa_learn.checkpoints import load_student
from ofa_learn.cli import main
from ofa_learn.data import digits
from ofa_learn.evaluation import calibration_error, confusion_of, evaluate
from ofa_learn.loaders import load_images
from ofa_learn.models import load_model, make_model
from ofa_learn.pictures import _default_size, _temperature, _unlabelled, distill_pictures
from ofa_learn.runs import teaching_data
from ofa_learn.tasks import create_task
from ofa_learn.teachers import Teacher
from ofa_learn.training import accuracy

QUICK = [
    '--size',
    '16',
    '--train',
    '60',
    '--valid',
    '60',
    '--test',
    '60',
    '--device',
    'cpu',
    '--progress=False',
]


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "180 digits as colour files of 16 pixels, in ten folders."
    home, all_of_them = tmp_path_factory.mktemp('own') / 'pictures', digits()
    for i in range(180):
        place = home / f'digit {all_of_them.labels[i]}'
        place.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray(all_of_them.images[i, 0].numpy()).resize((16, 16))
        grey.convert('RGB').save(place / f'{i}.png')
    return home


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    "A network of another program: weights alone, under the names of DataParallel."
    torch.manual_seed(0)
    net = make_model('micro_resnet', 10, (3, 8, 8))
    file = tmp_path_factory.mktemp('other') / 'best.pth'
    torch.save(dict(model={f'module.{k}': v for k, v in net.state_dict().items()}, epoch=7), file)
    return file


def teacher_words(checkpoint):
    norm = '.5,.5,.5/.25,.25,.25'
    return [
        '--teacher',
        str(checkpoint),
        '--architecture',
        'micro_resnet',
        '--teacher-size',
        '8',
        '--teacher-norm',
        norm,
    ]


@pytest.fixture(scope='module')
def half_named(pictures):
    "The same folder, the pictures of every second class in one folder that says nothing."
    home = pictures.parent / 'half named'
    shutil.copytree(pictures, home)
    for digit in range(1, 10, 2):
        (home / 'unknown').mkdir(exist_ok=True)
        for file in sorted((home / f'digit {digit}').iterdir())[::2]:
            file.rename(home / 'unknown' / file.name)
    return home


def test_pictures_without_a_label_are_the_teachers_alone(half_named, tmp_path, capsys):
    whole = teaching_data(str(half_named), 16, None, 40, 40)
    k = whole.classes.index('unknown')
    data = _unlabelled(whole, 'unknown')
    assert data.classes == tuple(f'digit {i}' for i in range(10))
    assert (data.train.labels == -1).sum() == (whole.train.labels == k).sum() > 0
    for name in ('train', 'valid', 'test'):
        part, before = getattr(data, name), getattr(whole, name)
        named = [whole.classes[y] for y in before.labels.tolist() if y != k]
        assert [data.classes[y] for y in part.labels.tolist() if y >= 0] == named
    assert len(data.train) == len(whole.train) and (data.test.labels >= 0).all()
    with pytest.raises(ValueError, match="labels_missing: the data have no class 'nobody'; expected one of"):
        _unlabelled(whole, 'nobody')

    words = ['distill', '--student', 'micro_vit', '--data', str(half_named), '--out', str(tmp_path / 'o')]
    words += ['--size', '16', '--labels-missing', 'unknown', '--method', 'labels', '--epochs', '1']
    assert main([*words, '--device', 'cpu', '--progress=False']) == 0, capsys.readouterr().err
    _, known = load_model(tmp_path / 'o' / 'student.safetensors')
    assert list(known['classes']) == list(data.classes)


def test_pictures_without_a_label_that_are_read_while_training(half_named):
    whole = load_images(half_named, size=16, valid=40, test=40, workers=0)
    data = _unlabelled(whole, 'unknown')
    batch = next(iter(data.train.batches(data.norm, len(data.train)).epoch(0)))
    assert (batch.target == -1).sum() == (whole.train.labels == whole.classes.index('unknown')).sum() > 0


def test_the_command_end_to_end(pictures, checkpoint, tmp_path, capsys):
    out = tmp_path / 'student'
    words = ['distill', '--student', 'micro_vit', '--data', str(pictures), '--out', str(out), *QUICK]
    words += [
        *teacher_words(checkpoint),
        '--method',
        'ofa',
        '--epochs',
        '1',
        '--gamma',
        '1.2',
        '--temperature=2',
    ]
    assert main([*words, '--dry-run']) == 0
    said = capsys.readouterr().out
    assert (
        'MicroResNet (0.31 M parameters) teaches VisionTransformer' in said and 'nothing was trained' in said
    )
    assert 'the student sees 3×16×16, the teacher the same views at 3×8×8' in said
    assert 'no better than guessing' in said  # it is a network of random weights
    assert not out.exists()
    assert main(words) == 0, capsys.readouterr().err
    names = {p.name for p in out.iterdir()}
    assert {'student.safetensors', 'hub', 'report.html', 'evaluation.json', 'history.csv'} <= names
    about = json.loads((out / 'evaluation.json').read_text())
    assert about['options'] == dict(gamma=1.2, temperature=2) and about['test']['images'] == 60
    model, known = load_model(out / 'student.safetensors')
    assert list(known['classes']) == [f'digit {i}' for i in range(10)]
    data = teaching_data(str(pictures), 16, 60, 60, 60)
    assert evaluate(model, data.test, data.norm).accuracy == pytest.approx(about['test']['accuracy'])
    hub = timm.create_model(f'local-dir:{out}/hub', pretrained=True).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(hub(x), model(x))
    page = (out / 'report.html').read_text()
    assert 'micro_vit by ofa' in page and 'calibration error' in page
    assert main(words) == 2 and 'holds a finished run' in capsys.readouterr().err


@pytest.mark.parametrize(
    'more, message',
    [
        (['--gama', '1.4'], 'no option --gama; did you mean'),
        (['--momentun', '0.9'], 'no option --momentun'),
        (['--lr', 'high'], 'lr: expected'),
        (['--lr', 'high', '--dry-run'], 'lr: expected'),
        (['--gamma', '0.5'], 'gamma: expected finite numbers of at least 1'),
        (['--margin', '2'], 'no option --margin'),
        (['word'], 'no place for'),
        (['--method', 'labels'], 'teacher: labels has none'),
        (['--resume'], 'holds nothing to go on from'),
        (['--teacher-channels', '1'], 'It goes with --teacher-size'),
        (['--teacher-norm', '123/58'], 'divide by 255'),
        (['--teacher-norm', '0.5'], 'expected means/deviations'),
        (['--architecture', 'resnet18'], 'its weights are not those of ResNet'),
        (['--student', 'resnet1'], 'did you mean'),
    ],
)
def test_what_the_command_refuses(more, message, pictures, checkpoint, tmp_path, capsys):
    words = ['distill', '--data', str(pictures), '--out', str(tmp_path / 'o'), '--epochs', '1', *QUICK]
    words += [] if '--student' in more else ['--student', 'micro_vit']
    if '--teacher-channels' not in more:
        words += teacher_words(checkpoint)
    else:
        words += ['--teacher', str(checkpoint), '--architecture', 'micro_resnet']
    for option in more:  # what is given here replaces the usual
        if option.startswith('--') and option in words:
            at = words.index(option)
            del words[at : at + 2]
    assert main([*words, *more]) == 2
    import re

    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert not (tmp_path / 'o' / 'student.safetensors').exists()


@pytest.mark.parametrize(
    'words, message',
    [
        (['--data', 'digits'], 'student: say which with --student'),
        (['--student', 'micro_vit'], 'data: say which with --data'),
        (['--student', 'micro_vit', '--data', 'digits'], 'ofa needs one; --teacher FILE'),
        (
            ['--student', 'micro_vit', '--data', 'digits', '--method', 'labels', '--pretrained'],
            'leave out --pretr',
        ),
    ],
)
def test_what_the_command_asks_for(words, message, capsys):
    assert main(['distill', *words]) == 2
    assert message in capsys.readouterr().err


def test_without_a_teacher_and_going_on(tmp_path):
    "Stopped after the first epoch and continued, it is the run that was not stopped."
    how = dict(method='labels', epochs=2, train=60, device='cpu', progress=False, say=lambda text: None)

    class Enough(Exception):
        pass

    def stop(row):
        if row['epoch'] == 1:
            raise Enough

    with pytest.raises(Enough):
        distill_pictures(None, 'micro_resnet', 'digits', tmp_path / 'a', on_epoch=stop, **how)
    again = distill_pictures(None, 'micro_resnet', 'digits', tmp_path / 'a', resume=True, **how)
    whole = distill_pictures(None, 'micro_resnet', 'digits', tmp_path / 'b', **how)
    weights = (r.model.state_dict() for r in (again, whole))
    assert all(torch.equal(x, y) for x, y in zip(*(w.values() for w in weights)))
    assert again.test == whole.test


@pytest.mark.parametrize(
    'method, options, T',
    [
        ('kd', {}, 4.0),
        ('ofa', dict(temperature=4.0), 4.0),
        ('dist', dict(temperature=4.0), 4.0),
        ('ofa+kd', dict(options_of=dict(ofa=dict(temperature=3.0), kd=dict(temperature=2.0))), 2.0),
    ],
)
def test_the_teacher_is_looked_at_as_the_method_reads_it(method, options, T, tmp_path):
    said, teacher = [], make_model('micro_resnet')
    how = dict(train=60, device='cpu', dry_run=True, say=said.append)
    distill_pictures(teacher, 'micro_vit', 'digits', tmp_path / 'o', method, **how, **options)
    assert f'At T = {T:g}' in said[0] or 'no better than guessing' in said[0]
    task = create_task(method, 'micro_vit', teacher, input_size=(1, 8, 8), **options)
    assert _temperature(task) == T


def test_numbers_of_an_evaluation():
    "By hand: three images of class 0, one of them wrong, one of class 1, and class 2 without an image."
    logits = torch.tensor([[4.0, 0, 0], [3.0, 1, 0], [0, 5.0, 0], [0, 2.0, 1]])
    labels = torch.tensor([0, 0, 0, 1])
    assert confusion_of(logits.argmax(1), labels, 3).tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    probs = logits.softmax(1)
    bins = np.ceil(probs.max(1).values.numpy() * 15)
    right = (logits.argmax(1) == labels).numpy()
    slow = (
        sum(abs(probs.max(1).values.numpy()[bins == b].sum() - right[bins == b].sum()) for b in set(bins)) / 4
    )
    assert calibration_error(probs, labels) == pytest.approx(slow)


def test_an_evaluation_leaves_out_what_has_no_label():
    data = teaching_data('digits', None, 60, 60, 100)
    part = data.test
    part.labels[:40] = -1
    net = Teacher(make_model('micro_resnet'))
    found = evaluate(net, part, data.norm)
    assert found.images == 60 and found.accuracy == pytest.approx(accuracy(net, part, data.norm), abs=1e-4)
    assert sum(map(sum, found.confusion)) == 60
    part.labels[:] = -1
    with pytest.raises(ValueError, match='none of its images has a label'):
        evaluate(net, part, data.norm)


def test_a_finished_run_goes_on_for_more_epochs_and_measures_its_files(tmp_path):
    said = []
    how = dict(method='labels', train=60, test=60, device='cpu', progress=False, say=said.append)
    how |= dict(sched='constant', warmup_epochs=0, size=None)
    distill_pictures(None, 'micro_resnet', 'digits', tmp_path / 'a', epochs=1, **how)
    with pytest.raises(ValueError, match='holds a finished run.*more epochs than it has'):
        distill_pictures(None, 'micro_resnet', 'digits', tmp_path / 'a', epochs=1, resume=True, **how)
    again = distill_pictures(None, 'micro_resnet', 'digits', tmp_path / 'a', epochs=3, resume=True, **how)
    whole = distill_pictures(None, 'micro_resnet', 'digits', tmp_path / 'b', epochs=3, **how)
    files = [load_model(tmp_path / name / 'student.safetensors')[0] for name in 'ab']
    files += [timm.create_model(f'local-dir:{tmp_path}/a/hub', pretrained=True), load_student(tmp_path / 'a')]
    x = torch.randn(3, 1, 8, 8)
    assert again.test == whole.test and all(torch.equal(f.eval()(x), whole.model.eval()(x)) for f in files)


def test_the_command_measures_onnx_files(tmp_path, capsys):
    pytest.importorskip('onnxruntime', reason='needs ofa-learn[onnx]')
    pytest.importorskip('onnxscript', reason='needs ofa-learn[onnx]')
    out = tmp_path / 'student'
    words = [
        'distill',
        '--student',
        'micro_resnet',
        '--data',
        'digits',
        '--method',
        'labels',
        '--epochs',
        '1',
    ]
    words += ['--train', '60', '--test', '60', '--device', 'cpu', '--progress=False', '--patience', '1']
    assert main([*words, '--out', str(out), '--onnx', 'static']) == 0, capsys.readouterr().err
    assert 'ONNX int8 static' in capsys.readouterr().out
    rows = json.loads((out / 'evaluation.json').read_text())['onnx']
    assert [r['file'] for r in rows] == [None, 'student.onnx', 'student.int8.onnx']
    assert all((out / r['file']).exists() for r in rows[1:])
    assert 'ONNX float32' in (out / 'report.html').read_text()


def test_a_published_architecture_says_at_which_size_a_folder_is_shown(tmp_path):
    "A file with weights alone names no size; 224 pixels for a network of 32 would cost 49 times as much."
    small, large = (Teacher(timm.create_model(n, num_classes=3)) for n in ('cifar_resnet56', 'resnet18'))
    assert _default_size(small, str(tmp_path)) == (32, 32) and _default_size(large, str(tmp_path)) == (
        224,
        224,
    )
    assert _default_size(Teacher(make_model('micro_resnet', 3)), str(tmp_path)) is None
