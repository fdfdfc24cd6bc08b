"""Training that is killed, stopped, resumed, spread over processes or run in half precision."""

import inspect
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest
import torch
from fresh import Started, as_main, program

from ofa_learn.arguments import check_apart, method_options, settings_of
from ofa_learn.cache import TeacherCache, cached
from ofa_learn.checkpoints import Stopped, load_checkpoint, newest, previous_of, save_checkpoint
from ofa_learn.data import Augment, Batches, Norm, digits, split
from ofa_learn.loaders import load_images
from ofa_learn.models import make_model, save_model
from ofa_learn.settings import Mix
from ofa_learn.sweeps import Sweep
from ofa_learn.tasks import METHODS, DistillationTask, Teacher, all_methods, create_task
from ofa_learn.training import NotFinite, accuracy, check_fit, distill, fit, resumable

DATA = split(digits(), train=100)
SAME = dict(lr=3e-3, augment=Augment(shift=1), device='cpu', progress=False)


def make(method='labels', student='micro_vit', seed=0, **options):
    torch.manual_seed(seed)
    teacher = None if method == 'labels' else Teacher(make_model('micro_resnet'))
    torch.manual_seed(seed)
    return create_task(method, student, teacher, data=DATA, **options)


def weights(task):
    return {k: v.clone() for k, v in task.trainable_module.state_dict().items()}


def untimed(history):
    return [{k: v for k, v in row.items() if k != 'seconds'} for row in history]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Cut(Exception):
    "Power is gone."


def cut_and_resumed(build, folder, data, at=1.5, **how):
    "A run that ends in the middle of an epoch, after a checkpoint, and goes on with another task."

    def cut(done):
        if done > at:
            raise Cut

    with pytest.raises(Cut):
        fit(build(), data, out=folder, save_seconds=0, on_step=cut, **how)
    kept = load_checkpoint(folder / 'last.pt')
    assert kept['start'] > 0, 'the checkpoint should be of the middle of an epoch'
    task = build()
    return task, fit(task, data, out=folder, resume=True, **how)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "130 digits as files, in folders of their classes, to be read while training."
    from PIL import Image

    root, images = tmp_path_factory.mktemp('pictures'), digits()
    for i in range(130):
        place = root / ('train' if i < 100 else 'test') / f'c{images.labels[i]}'
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images.images[i, 0].numpy()).resize((16, 16)).save(place / f'{i}.png')
    return root


@pytest.mark.parametrize('workers', [0, 2])
def test_images_that_are_read_while_training_and_drop_path_resume_to_the_bit(pictures, tmp_path, workers):
    data = load_images(pictures, size=16, channels=1, norm=Norm((0.5,), (0.5,)), valid=20, workers=workers)
    how = dict(epochs=3, batch_size=20, lr=3e-3, device='cpu', progress=False)

    def build():
        torch.manual_seed(0)
        student = make_model('micro_vit', 10, (1, 16, 16), drop_path_rate=0.5, proj_drop_rate=0.2)
        return create_task('labels', student, data=data)

    whole = build()
    history = fit(whole, data, **how)
    task, again = cut_and_resumed(build, tmp_path, data, **how)
    assert untimed(again) == untimed(history) and equal(weights(task), weights(whole))


COMMON = '''
import os, random, signal, sys, time, warnings
import torch
torch.set_num_threads(1)
from ofa_learn.data import Augment, digits, split
from ofa_learn.tasks import Teacher, create_task
from ofa_learn.models import make_model
from ofa_learn.training import accuracy, fit, resumable
from ofa_learn.workers import distributed, place
DATA = split(digits(), train=100)
def make(method, student='micro_vit', **options):
    torch.manual_seed(0); teacher = Teacher(make_model('micro_resnet'))
    torch.manual_seed(0); return create_task(method, student, teacher, data=DATA, **options)
'''

KILLED = (
    COMMON
    + '''
SAYS = os.pipe()

def run(folder):
    torch.manual_seed(0)
    task = create_task('crd', 'micro_vit', Teacher(make_model('micro_resnet')), data=DATA)
    how = dict(batch_size=20, lr=3e-3, opt='adamw', augment=Augment(shift=1), mixup=.2, ema=.9, device='cpu')
    keep = dict(out=folder, resume=resumable(folder), save_seconds=0)
    history = fit(task, DATA, 8, progress=False, **how, **keep, on_step=lambda *_: os.write(SAYS[1], b'.'))
    timeless = [{k: v for k, v in r.items() if k != 'seconds'} for r in history]
    torch.save(dict(weights=task.trainable_module.state_dict(), history=timeless), folder + '/end.tmp')
    os.replace(folder + '/end.tmp', folder + '/end')

def child(folder):
    pid = os.fork()
    if pid:
        return pid
    try:
        run(folder)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

folder, kills = sys.argv[1], int(sys.argv[2])
random.seed(0)
start = time.perf_counter()
assert os.waitpid(child(folder + '/whole'), 0)[1] == 0
one = (time.perf_counter() - start)/len(os.read(SAYS[0], 1000))  # seconds of a step and its checkpoint
for _ in range(kills):
    pid = child(folder + '/killed')
    for _ in range(random.randint(1, 2)):
        os.read(SAYS[0], 1)
    time.sleep(random.random()*one)  # anywhere in the next step, also while it writes
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), 'it had ended before'
    os.set_blocking(SAYS[0], False)
    try:
        os.read(SAYS[0], 1000)
    except BlockingIOError:
        pass
    os.set_blocking(SAYS[0], True)
assert os.waitpid(child(folder + '/killed'), 0)[1] == 0
a, b = (torch.load(f'{folder}/{n}/end', weights_only=True) for n in ('whole', 'killed'))
assert all(torch.equal(a['weights'][k], b['weights'][k]) for k in a['weights']), 'other weights'
assert a['history'] == b['history'], 'another history'
assert not [n for n in os.listdir(folder + '/killed') if n.endswith('.tmp') and str(os.getpid()) in n]
print(f'{kills} kills, the same weights and history')
'''
)


def script(tmp_path, text, *args, torchrun=0):
    "What it prints; its processes begin with PyTorch imported."
    file = tmp_path / 'script.py'
    file.write_text(textwrap.dedent(text))
    return program(file, *args, processes=torchrun)


def test_killed_ten_times_also_while_writing_and_resumed_to_the_bit(tmp_path):
    assert '10 kills, the same weights and history' in script(tmp_path, KILLED, tmp_path, 10)


def test_broken_checkpoint_is_named_and_the_one_before_gives_the_same_end(tmp_path):
    whole = make()
    history = fit(whole, DATA, 4, **SAME)
    fit(make(), DATA, 4, **SAME, out=tmp_path, on_epoch=lambda row: None)
    end = load_checkpoint(tmp_path / 'last.pt')
    assert end['epoch'] == 4 and load_checkpoint(previous_of(tmp_path / 'last.pt'))['epoch'] == 3
    (tmp_path / 'last.pt').write_bytes((tmp_path / 'last.pt').read_bytes()[:5000])
    again = make()
    with pytest.warns(UserWarning, match='last.pt: not a readable checkpoint'):
        rows = fit(again, DATA, 4, **SAME, out=tmp_path, resume=True)
    assert untimed(rows) == untimed(history) and equal(weights(again), weights(whole))
    for f in tmp_path.glob('*.pt'):
        f.write_bytes(b'x')
    with pytest.raises(ValueError, match='Remove the files'):
        fit(make(), DATA, 4, **SAME, out=tmp_path, resume=True)


def test_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / 'last.pt'
    save_checkpoint(dict(n=1), path)

    def full(obj, f):
        f.write(b'half a')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='No space'):
        save_checkpoint(dict(n=2), path)
    assert newest(path) == dict(n=1) and [p.name for p in tmp_path.iterdir()] == ['last.pt']


def test_another_run_is_refused_by_name(tmp_path):
    fit(make(), DATA, 1, **SAME, out=tmp_path)
    before = (tmp_path / 'last.pt').read_bytes()
    with pytest.raises(ValueError, match='holds a run already'):
        fit(make(), DATA, 1, **SAME, out=tmp_path)
    with pytest.raises(ValueError, match='lr: 0.003 → 0.01'):
        fit(make(), DATA, 1, **(SAME | dict(lr=0.01)), out=tmp_path, resume=True)
    with pytest.raises(ValueError, match='method: labels → kd'):
        fit(make('kd'), DATA, 1, **SAME, out=tmp_path, resume=True)
    assert (tmp_path / 'last.pt').read_bytes() == before
    done = fit(make(), DATA, 1, **SAME, out=tmp_path, resume=True)  # a finished run is simply finished
    assert len(done) == 1 and (tmp_path / 'history.csv').read_text().startswith('epoch,seconds,loss')


def test_best_is_never_replaced_by_a_worse_one(tmp_path):
    seen = []
    fit(make(), DATA, 6, **SAME, out=tmp_path, on_epoch=lambda row: seen.append(row['valid_accuracy']))
    best = load_checkpoint(tmp_path / 'best.pt')
    assert best['best'] == max(seen) and best['history'][-1]['valid_accuracy'] == max(seen)


def test_short_epochs_need_not_wait_for_the_disk(tmp_path):
    "`save_epochs=False` writes the checkpoint of the end, and that of a stop wherever it comes, and no more."
    whole = fit(make(), DATA, 3, **SAME)
    at_ends = []

    def look(row):
        at_ends.append((tmp_path / 'a' / 'last.pt').exists())
        if row['epoch'] == 2 and len(at_ends) == 2:
            signal.raise_signal(signal.SIGTERM)

    how = dict(out=tmp_path / 'a', save_epochs=False, on_epoch=look)
    with pytest.raises(Stopped, match='stopped in epoch 2 of 3'):
        fit(make(), DATA, 3, **SAME, **how)
    assert at_ends == [False, False] and load_checkpoint(tmp_path / 'a' / 'last.pt')['epoch'] == 2
    assert untimed(fit(make(), DATA, 3, **SAME, **how, resume=True)) == untimed(whole)
    assert load_checkpoint(tmp_path / 'a' / 'last.pt')['epoch'] == 3
    assert sorted(p.name for p in (tmp_path / 'a').iterdir()) == ['last.pt', 'previous.last.pt']
    fit(make(), DATA, 3, **SAME, out=tmp_path / 'b', save_epochs=False, save_seconds=0)
    assert load_checkpoint(previous_of(tmp_path / 'b' / 'last.pt'))['epoch'] == 2, 'each was due'


@pytest.mark.parametrize('method', ['labels', 'kd'])
def test_accumulated_batches_are_one_batch(method):
    a, b = make(method), make(method)
    one = fit(a, DATA, 2, **SAME, batch_size=50)
    two = fit(b, DATA, 2, **SAME, batch_size=25, accumulate=2)
    for x, y in zip(one, two):
        assert x['loss'] == pytest.approx(y['loss'], rel=1e-4)
    for k, v in weights(a).items():
        torch.testing.assert_close(v, weights(b)[k], atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_learns(precision):
    task = make('ofa', 'micro_resnet')
    history = fit(task, DATA, 6, **(SAME | dict(lr=5e-3)), precision=precision, channels_last=True)
    assert history[-1]['loss'] < history[0]['loss'] and all(
        p.dtype == torch.float32 for p in task.trainable_module.parameters()
    )
    assert accuracy(task.student, DATA.test, DATA.norm) > 30  # 39 and 43 where this was written, 38 in fp32


def test_the_default_schedule_is_not_much_worse_than_a_constant_rate_on_a_short_run():
    "Means of two seeds on test were 70.1 and 71.8 at 2e-3, 70.8 and 56.3 at 8e-3, see 77_settings."
    data = split(digits(), train=60, valid=200, teach=1097)

    def reaches(lr, **schedule):
        found = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            task = create_task('labels', 'micro_vit', data=data)
            how = SAME | dict(augment=Augment(), batch_size=20, lr=lr, weight_decay=0, seed=seed)
            fit(task, data, 20, **how, eval_every=20, **schedule)
            found.append(accuracy(task.student, data.test, data.norm))
        return sum(found) / 2

    constant = dict(sched='constant', warmup_epochs=0)
    low, high = reaches(2e-3), reaches(8e-3)
    assert low > 65 and reaches(2e-3, **constant) - low < 6
    assert high > 66 and high - reaches(8e-3, **constant) > 5


def test_moving_average_and_mixing():
    task = make()
    history = fit(task, DATA, 3, **SAME, ema=0.5, mixup=0.2, cutmix=1.0)
    assert all(row['ema_accuracy'] is not None for row in history)
    plain, ema = task.student.state_dict(), task.get_eval_model(ema=True).state_dict()
    assert any(not torch.equal(plain[k], ema[k]) for k in plain)
    with pytest.raises(ValueError, match='even'):
        Mix(0.2, 0.0, 10, 7)


def test_a_part_of_an_epoch_is_the_rest_of_it():
    batches = Batches(DATA.train, DATA.norm, 20, Augment(shift=1), seed=3)
    whole, rest = list(batches.epoch(2)), list(batches.epoch(2, start=3))
    assert len(whole) == 5 and len(rest) == 2
    for a, b in zip(whole[3:], rest):
        assert torch.equal(a.input, b.input) and torch.equal(a.index, b.index)
    halves = [
        list(Batches(DATA.train, DATA.norm, 20, Augment(shift=1), seed=3, shard=(r, 2)).epoch(2))
        for r in (0, 1)
    ]
    for i, b in enumerate(whole):
        assert (
            sorted(torch.cat([halves[0][i].index, halves[1][i].index]).tolist()) == sorted(b.index.tolist())
            and len(halves[0][i].index) == 10
        )
    with pytest.raises(ValueError, match='multiple of the 3 processes'):
        Batches(DATA.train, DATA.norm, 20, shard=(0, 3))


IMAGE_BY_IMAGE = [
    *[('kd', {}), ('kd', dict(hard=True)), ('kd', dict(standardise=True)), ('dkd', dict(standardise=True))],
    *[('ofa', {}), ('ofa', dict(standardise=True)), ('lskd', {}), ('wttm', {}), ('vkd', {})],
    *[('deit', {}), ('deit', dict(hard=False, temperature=2.0))],
]
OVER_THE_BATCH = [('rsd', dict(features=what)) for what in ('pooled', 'logits', 'stages')]
TWO = (
    COMMON
    + f'CASES = {IMAGE_BY_IMAGE + OVER_THE_BATCH}'
    + '''
with distributed():
    for i, (method, options) in enumerate(CASES):
        task = make(method, **options)
        folder = f'{sys.argv[1]}/{i}'
        how = dict(lr=3e-3, augment=Augment(shift=1), device='cpu', progress=False, out=folder)
        history = fit(task, DATA, 2, **how)
        if place()[0] == 0:
            torch.save(dict(history=history, weights=task.student.state_dict()), folder + '.pt')
'''
)


@pytest.mark.filterwarnings('ignore:rsd. a batch')
def test_two_processes_give_the_losses_of_one_but_for_statistics_of_the_batch(tmp_path):
    script(tmp_path, TWO, tmp_path, torchrun=2)
    for i, (method, options) in enumerate(IMAGE_BY_IMAGE + OVER_THE_BATCH):
        history = fit(make(method, **options), DATA, 2, **SAME)
        two = torch.load(tmp_path / f'{i}.pt', weights_only=True)['history']
        assert (tmp_path / str(i) / 'last.pt').exists() and (tmp_path / str(i) / 'history.csv').exists()
        if (method, options) in OVER_THE_BATCH:
            assert abs(two[0]['loss'] / history[0]['loss'] - 1) > 1e-3, (method, options)
            continue
        for a, b in zip(history, two):
            assert b['loss'] == pytest.approx(a['loss'], rel=1e-5), (method, options)
            assert b['valid_accuracy'] == pytest.approx(a['valid_accuracy'], abs=0.6)
            assert b['train_accuracy'] == pytest.approx(a['train_accuracy'], abs=1e-3)


FAILS = (
    COMMON
    + '''
with distributed():
    task = make('labels')
    def fail(row):
        if place()[0] == 1: raise RuntimeError('the second process has had enough')
    fit(task, DATA, 50, device='cpu', progress=False, on_epoch=fail)
print('finished')
'''
)


def test_a_failing_process_ends_all_with_its_message(tmp_path):
    "By the command itself."
    (tmp_path / 'fails.py').write_text(FAILS)
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    env = os.environ | dict(OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore')
    how = dict(capture_output=True, text=True, timeout=240, cwd=tmp_path, env=env)
    done = subprocess.run([*torchrun, 'fails.py'], **how)
    assert (
        done.returncode != 0
        and 'the second process has had enough' in done.stderr
        and 'finished' not in done.stdout
    )


def test_not_finite_leaves_the_last_good_checkpoint(tmp_path):
    fit(make(), DATA, 2, **SAME, out=tmp_path)
    before = (tmp_path / 'last.pt').read_bytes()
    task = make()
    with torch.no_grad():
        task.student.head.weight.fill_(float('nan'))
    with pytest.raises(NotFinite):
        fit(task, DATA, 2, **SAME, out=tmp_path / 'other')
    assert (tmp_path / 'last.pt').read_bytes() == before and not (tmp_path / 'other' / 'last.pt').exists()


class Fake:
    "As torchvision's sets look: data, targets, classes; not there until it is downloaded."

    here = set()

    def __init__(self, root, train, download=False):
        import numpy as np

        if download and root == 'no network':
            raise OSError('Network is unreachable')
        if download:
            Fake.here.add(root)
        if root not in Fake.here:
            raise RuntimeError('Dataset not found or corrupted. You can use download=True to download it')
        n = 200 if train else 60
        self.data, self.targets, self.classes = (
            np.full((n, 32, 32, 3), 7 if train else 9, np.uint8),
            [i % 10 for i in range(n)],
            [str(i) for i in range(10)],
        )


def test_sets_with_a_test_part_of_their_own(monkeypatch):
    from torchvision import datasets

    from ofa_learn.data import load_splits

    monkeypatch.setattr(datasets, 'CIFAR10', Fake)
    s = load_splits('cifar10', train=50, root='here', split_seed=1)
    assert (
        (len(s.train), len(s.valid), len(s.test)) == (50, 20, 60)
        and s.input_size == (3, 32, 32)
        and (s.test.images == 9).all()
        and (s.train.images == 7).all()
    )
    assert not set(s.train.ids.tolist()) & set(s.valid.ids.tolist()) and min(s.test.ids.tolist()) == 200
    with pytest.raises(ValueError, match='Without a network, copy there'):
        load_splits('cifar10', root='no network')
    with pytest.raises(ValueError, match='test part of its own'):
        load_splits('cifar10', test=10, root='here')


def test_tensorboard_where_it_is_installed(monkeypatch, tmp_path):
    "Every number of every epoch, once, also after a stop in between; what is told to it is looked at here."
    import importlib.util
    import sys
    import types

    said, opened = {}, []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            opened.append((folder, purge_step))
            for k in [k for k in said if k[1] >= purge_step]:
                del said[k]

        def add_scalar(self, name, value, step):
            said[name, step] = value

        def close(self):
            opened.append('closed')

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name, *a: types.SimpleNamespace() if name == 'tensorboard' else find(name, *a),
    )
    monkeypatch.setitem(
        sys.modules, 'torch.utils.tensorboard', types.SimpleNamespace(SummaryWriter=SummaryWriter)
    )

    class Stop(Exception):
        pass

    def stop(row):
        if row['epoch'] == 2:
            raise Stop

    with pytest.raises(Stop):
        fit(make('deep_supervision'), DATA, 3, out=tmp_path, on_epoch=stop, **SAME)
    history = fit(make('deep_supervision'), DATA, 3, out=tmp_path, resume=True, **SAME)
    assert opened[1::2] == ['closed'] * 2 and all(o[0] == str(tmp_path / 'tensorboard') for o in opened[::2])
    for row in history:
        assert (
            said['valid_accuracy', row['epoch']] == row['valid_accuracy']
            and said['losses/ce', row['epoch']] == row['losses']['ce']
        )
    assert {step for _, step in said} == {1, 2, 3} and ('epoch', 1) not in said


TWO_WRITERS = (
    COMMON
    + '''
def wait(row):
    print('begun', flush=True)
    sys.stdin.readline()
fit(make('labels'), DATA, 2, device='cpu', progress=False, out=sys.argv[1], on_epoch=wait)
'''
)


def test_a_second_run_into_one_folder_is_told_who_is_there(tmp_path):
    (tmp_path / 'first.py').write_text(TWO_WRITERS)
    first = Started(as_main, tmp_path / 'first.py', tmp_path / 'run', folder=tmp_path)
    assert first.stdout.readline() == 'begun\n'
    with pytest.raises(ValueError, match=rf'run is being written by process {first.pid} on .*, since '):
        fit(make(), DATA, 2, **SAME, out=tmp_path / 'run', resume=True)
    first.communicate('\n\n', timeout=120)
    assert first.returncode == 0
    assert load_checkpoint(tmp_path / 'run' / 'last.pt')['epoch'] == 2
    assert not (tmp_path / 'run' / '.lock').exists()


def test_a_refused_run_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match='epochs: expected'):
        fit(make(), DATA, 0, **SAME, out=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'options, said',
    [
        (dict(epochs=0), 'epochs'),
        (dict(opt='adamww'), 'adamww'),
        (dict(accumulate=0), 'accumulate: expected an integer from 1'),
        (dict(clip=-1), 'clip: expected a finite number'),
        (dict(resume=True), 'resume: say with out='),
        ({}, None),
    ],
)
def test_settings_are_checked_without_training(options, said):
    task, noise = make(), torch.get_rng_state()
    before = weights(task)
    if said is None:
        check_fit(task, DATA, **SAME)
    else:
        with pytest.raises((ValueError, RuntimeError, AssertionError, KeyError), match=said):
            check_fit(task, DATA, **SAME | options)
    assert equal(weights(task), before) and torch.equal(torch.get_rng_state(), noise)


def test_a_student_of_other_classes_is_refused():
    task = create_task('labels', 'micro_vit', input_size=(1, 8, 8), num_classes=7)
    with pytest.raises(ValueError, match='10 classes, but the student has 7'):
        check_fit(task, DATA, **SAME)


def kd_task(student='micro_vit', seed=1, **options):
    "A task whose teacher, options and student can be changed one at a time."
    teaching = options.pop('teacher', 'micro_resnet')
    norm = options.pop('norm', None)
    method, data = options.pop('method', 'ofa'), options.pop('data', DATA)
    torch.manual_seed(seed)
    model = make_model(teaching)
    if options.pop('buffer', False):
        model.stem[1].running_var[0] += 0.01
    torch.manual_seed(0)
    made = make_model('micro_vit', **student) if isinstance(student, dict) else student
    return create_task(method, made, Teacher(model, norm=norm), data=data, **options)


OTHER_NORM = replace(DATA, norm=Norm((0.5,), (0.5,)))
OTHER_VALID = replace(DATA, valid=DATA.valid.take(torch.arange(1, len(DATA.valid))))
OTHER_IDS = replace(DATA, train=replace(DATA.train, ids=DATA.train.ids + 1))
OTHER_LABELS = replace(DATA, train=replace(DATA.train, labels=DATA.train.labels.roll(1)))
JOINED = dict(method='ofa+kd', weights=(1.0, 0.5))


@pytest.mark.parametrize(
    'then, now, says',
    [
        ({}, dict(seed=2), r'teacher\.weights: \w{16} → \w{16}'),
        ({}, dict(buffer=True), r'teacher\.weights: \w{16} → \w{16}'),
        ({}, dict(teacher='micro_mixer'), 'teacher.model: MicroResNet → MlpMixer'),
        ({}, dict(norm=((0.5,), (0.25,))), r'teacher.norm: None → \[\[0.5\], \[0.25\]\]'),
        (dict(gamma=1.4), dict(gamma=3), 'options.gamma: 1.4 → 3'),
        ({}, dict(temperature=4.0), 'options.temperature: 1.0 → 4.0'),
        ({}, dict(label_smoothing=0.1), 'options.label_smoothing: 0.0 → 0.1'),
        ({}, dict(exit_weight=0.5), 'options.exit_weight: 1.0 → 0.5'),
        ({}, dict(student=dict(num_heads=2)), r'layers.student.blocks.0.attn.num_heads: 4 → 2'),
        ({}, dict(student=dict(drop_path_rate=0.2)), r'layers.student.blocks.\d.drop_path1.drop_prob'),
        ({}, dict(student='micro_mixer'), 'student: VisionTransformer → MlpMixer'),
        ({}, dict(data=OTHER_NORM), r'data.norm'),
        ({}, dict(data=OTHER_VALID), r'data.valid.images: 400 → 399'),
        ({}, dict(data=OTHER_IDS), r'data.train.ids: \w{16} → \w{16}'),
        ({}, dict(data=OTHER_LABELS), r'data.train.fingerprint: \w{12} → \w{12}'),
        (JOINED, JOINED | dict(weights=(1.0, 1.0)), 'options.weights.kd: 0.5 → 1.0'),
        (
            JOINED,
            JOINED | dict(options_of=dict(kd=dict(temperature=2.0))),
            'options.kd.temperature: 4.0 → 2.0',
        ),
        (dict(method='crd'), dict(method='crd', negatives=5), r'options.negatives: \d+ → 5'),
        (dict(method='rkd'), dict(method='rkd', distance_weight=1), r'options.distance_weight: 25.0 → 1'),
    ],
)
def test_a_run_is_resumed_by_itself_only(then, now, says, tmp_path):
    how = SAME | dict(out=tmp_path)
    fit(kd_task(**then), then.get('data', DATA), 1, **how)
    before = (tmp_path / 'last.pt').read_bytes()
    with pytest.raises(ValueError, match='resume: .* holds another run; .*' + says):
        fit(kd_task(**now), now.get('data', DATA), 1, **how, resume=True)
    assert (tmp_path / 'last.pt').read_bytes() == before
    assert len(fit(kd_task(**then), then.get('data', DATA), 1, **how, resume=True)) == 1


def test_a_method_of_ones_own_is_told_apart_by_options_that_no_attribute_keeps(tmp_path):
    class Mine(DistillationTask):
        name = 'mine'

        def __init__(self, student, teacher=None, *, strength=1.0, **options):
            self.measure = lambda a, b: strength * (a - b).square().mean()
            super().__init__(student, teacher, **options)

        def losses(self, student, heads, teacher, target):
            return dict(pull=self.measure(student.logits, teacher.logits))

    def build(**options):
        torch.manual_seed(0)
        return Mine('micro_vit', Teacher(make_model('micro_resnet')), data=DATA, **options)

    fit(build(), DATA, 1, **SAME, out=tmp_path)
    with pytest.raises(ValueError, match=r'options.strength: 1.0 → 2.0$'):
        fit(build(strength=2.0), DATA, 1, **SAME, out=tmp_path, resume=True)
    fit(build(strength=1.0), DATA, 1, **SAME, out=tmp_path, resume=True)


def test_the_same_run_in_other_words_is_the_same_run(tmp_path):
    "Defaults written out, a teacher from a file, its answers from a cache: nothing differs."
    torch.manual_seed(1)
    file = save_model(make_model('micro_resnet'), tmp_path / 't.safetensors', (1, 8, 8))
    fit(kd_task(), DATA, 1, **SAME, out=tmp_path / 'run')
    torch.manual_seed(0)
    task = create_task('ofa', 'micro_vit', Teacher(str(file)), data=DATA, gamma=1.4, positions='even')
    cached(task, TeacherCache(tmp_path / 'kept', task.teacher, DATA, augment=Augment(shift=1)))
    assert len(fit(task, DATA, 1, **SAME, out=tmp_path / 'run', resume=True)) == 1


def test_a_checkpoint_of_an_earlier_version_says_what_to_do(tmp_path):
    fit(make(), DATA, 1, **SAME, out=tmp_path)
    state = load_checkpoint(tmp_path / 'last.pt')
    kept = ('teacher', 'options', 'weights', 'layers')
    state['setting'] = {k: v for k, v in state['setting'].items() if k not in kept}
    save_checkpoint(state, tmp_path / 'last.pt')
    with pytest.raises(ValueError, match='written by an earlier version.*begin in another folder'):
        fit(make(), DATA, 1, **SAME, out=tmp_path, resume=True)


def test_a_stop_is_heard_after_the_last_update_of_an_epoch(tmp_path):
    how = SAME | dict(batch_size=100, epochs=8)  # one update an epoch
    whole = make()
    history = fit(whole, DATA, **how)

    def stop(row):
        if row['epoch'] == 5:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match='stopped in epoch 5 of 8, after step 1 of 1; .* holds everything'):
        fit(make(), DATA, **how, out=tmp_path, on_epoch=stop)
    kept = load_checkpoint(tmp_path / 'last.pt')
    assert (kept['epoch'], kept['start'], len(kept['history'])) == (5, 0, 5)
    assert len((tmp_path / 'history.csv').read_text().splitlines()) == 6
    again = make()
    rows = fit(again, DATA, **how, out=tmp_path, resume=True)
    assert untimed(rows) == untimed(history) and equal(weights(again), weights(whole))


@pytest.mark.parametrize(
    'at, where', [(0.5, 'epoch 1 of 2, after step 1 of 2'), (2.0, 'epoch 2 of 2, after step 2')]
)
def test_a_stop_is_heard_after_the_first_and_the_very_last_update(at, where, tmp_path):
    def stop(done):
        if done == at:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Stopped, match=where):
        fit(make(), DATA, 2, **SAME, out=tmp_path, on_step=stop)
    assert len(fit(make(), DATA, 2, **SAME, out=tmp_path, resume=True)) == 2
    with pytest.raises(Stopped, match='nothing was saved'):
        fit(make(), DATA, 2, **SAME, on_step=stop)


def updates_of(task, data=DATA, **how):
    "The history of a training, and how many steps its optimizer took."
    before = torch.optim.SGD.step
    steps = []

    def step(self, *args, **kwargs):
        steps.append(1)
        return before(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, 'step', step)
        history = fit(task, data, 2, **SAME | dict(opt='momentum', lr=0.01), **how)
    return history, len(steps)


@pytest.mark.parametrize(
    'batches, whole', [((20, 2), 40), ((20, 3), 60), ((20, 4), 80), ((20, 6), 120), ((30, 2), 60)]
)
def test_accumulated_batches_make_the_updates_of_the_undivided_batch(batches, whole):
    data = split(digits(), train=130)  # six batches of 20, four of 30
    a, b = (create_task('labels', make_model('micro_vit'), data=data) for _ in range(2))
    b.load_state_dict(a.state_dict())
    (one, steps), (two, again) = (
        updates_of(a, data, batch_size=whole),
        updates_of(b, data, batch_size=batches[0], accumulate=batches[1]),
    )
    assert steps == again == 2 * (130 // whole)
    for x, y in zip(one, two):
        assert x['loss'] == pytest.approx(y['loss'], rel=1e-5) and x['lr'] == y['lr']
    for k, v in weights(a).items():
        torch.testing.assert_close(v, weights(b)[k], atol=1e-5, rtol=1e-4)


def test_an_update_that_would_never_be_whole_is_refused():
    with pytest.raises(ValueError, match='^accumulate: an update takes 3 batches and an epoch has 2'):
        fit(make(), DATA, 1, **SAME, batch_size=50, accumulate=3)


def test_accumulated_parts_are_resumed_to_the_bit(tmp_path):
    data = split(digits(), train=130)
    how = dict(epochs=3, batch_size=20, accumulate=2, ema=0.9, lr=3e-3, device='cpu', progress=False)

    def build():
        torch.manual_seed(0)
        return create_task('labels', make_model('micro_vit', drop_path_rate=0.3), data=data)

    whole = build()
    history = fit(whole, data, **how)
    task, again = cut_and_resumed(build, tmp_path, data, **how)
    assert untimed(again) == untimed(history) and equal(weights(task), weights(whole))


def test_messages_count_epochs_and_steps_from_one():
    def break_it(done):
        if done == 1.5:  # after the first of two steps in the second epoch
            with torch.no_grad():
                task.student.head.weight.fill_(float('nan'))

    task = make()
    with pytest.raises(NotFinite, match='ce, loss at epoch 2, step 2'):
        fit(task, DATA, 3, **SAME, on_step=break_it)


def test_resume_wants_a_run_to_resume(tmp_path):
    with pytest.raises(ValueError, match='^resume: .* holds no checkpoint to go on from'):
        fit(make(), DATA, 1, **SAME, out=tmp_path / 'nowhere', resume=True)
    assert not (tmp_path / 'nowhere').exists() and not resumable(tmp_path / 'nowhere')
    fit(make(), DATA, 1, **SAME, out=tmp_path, resume=resumable(tmp_path))
    assert resumable(tmp_path)
    (tmp_path / 'last.pt').replace(previous_of(tmp_path / 'last.pt'))  # killed between the two renames
    assert resumable(tmp_path) and len(fit(make(), DATA, 1, **SAME, out=tmp_path, resume=True)) == 1
    for wrong in (None, 'yes', 1):
        with pytest.raises(TypeError, match='^resume: expected True or False'):
            fit(make(), DATA, 1, **SAME, out=tmp_path, resume=wrong)


SAVED = (
    COMMON
    + '''
with distributed():
    for method in ('kd', 'crd'):
        task = make(method, 'micro_resnet')
        folder = f'{sys.argv[1]}/{method}'
        how = dict(batch_size=20, lr=5e-3, ema=.8, augment=Augment(shift=1), device='cpu', progress=False)
        history = fit(task, DATA, 3, out=folder, **how)
        test = accuracy(task.student, DATA.test, DATA.norm)
        one = DATA.test.take(torch.arange(1))  # fewer images than processes
        print(place()[0], accuracy(task.student, one, DATA.norm) in (0, 100), flush=True)
        if place()[0] == 0:
            kept = dict(history=history, test=test, weights=task.student.state_dict())
            torch.save(kept, folder + '.pt')
        states = [None, None]
        torch.distributed.all_gather_object(states, task.student.state_dict())
        assert all(torch.equal(states[0][k], states[1][k]) for k in states[0]), 'two students'
'''
)


def test_two_processes_report_the_accuracy_of_the_student_that_they_save(tmp_path):
    out = script(tmp_path, SAVED, tmp_path, torchrun=2)
    assert out.count('True') == 4
    for method in ('kd', 'crd'):
        told = torch.load(tmp_path / f'{method}.pt', weights_only=True)
        kept = load_checkpoint(tmp_path / method / 'last.pt')['loop']
        model = make_model('micro_resnet')
        for name, key in (('weights', 'valid_accuracy'), ('ema', 'ema_accuracy')):
            own = {k.removeprefix('student.'): v for k, v in kept[name].items() if k.startswith('student.')}
            model.load_state_dict(own)
            assert accuracy(model, DATA.valid, DATA.norm) == pytest.approx(told['history'][-1][key], abs=1e-9)
        model.load_state_dict(told['weights'])
        assert accuracy(model, DATA.test, DATA.norm) == pytest.approx(told['test'], abs=1e-9)


ODD = (  # takes a folder and a method
    COMMON
    + '''
DATA = split(digits(), train=130, valid=33, test=35)  # an odd last batch, and shares of two sizes
def run(folder, resume, cut=None, **more):
    task = make(sys.argv[2], 'micro_resnet')
    how = dict(batch_size=20, accumulate=2, lr=3e-3, mixup=.2, ema=.8, augment=Augment(shift=1))
    more |= dict(device='cpu', progress=False, out=folder, resume=resume, save_seconds=0)
    return task, fit(task, DATA, 3, **how, **more)
class Cut(Exception): pass
def cut(done):
    if done > 1.6: raise Cut
with distributed():
    whole, history = run(sys.argv[1] + '/whole', False)
    try: run(sys.argv[1] + '/cut', False, on_step=cut)
    except Cut: pass
    again, rows = run(sys.argv[1] + '/cut', True)
    a, b = whole.trainable_module.state_dict(), again.trainable_module.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a), 'other weights'
    for x, y in zip(history, rows):
        assert all(x[k] == y[k] for k in ('valid_accuracy', 'ema_accuracy', 'lr')), (x, y)
        assert abs(x['loss'] - y['loss']) < 1e-6, (x, y)
        assert abs(x['train_accuracy'] - y['train_accuracy']) < 1e-4, (x, y)
    print('equal', flush=True)
'''
)


def test_two_processes_with_odd_shares_and_accumulation_are_resumed_to_the_bit(tmp_path):
    assert script(tmp_path, ODD, tmp_path, 'kd', torchrun=2).count('equal') == 2


def test_memory_banks_of_two_processes_are_resumed_to_the_bit_and_by_one_said_to_be_lost(tmp_path):
    assert script(tmp_path, ODD, tmp_path, 'kd+crd', torchrun=2).count('equal') == 2
    data = split(digits(), train=130, valid=33, test=35)
    task = create_task('kd+crd', 'micro_resnet', make_model('micro_resnet'), data=data)
    state = load_checkpoint(tmp_path / 'whole' / 'last.pt')['loop']
    with pytest.warns(UserWarning, match='the buffers of 2 processes and there are 1 now'):
        task.load_task_state(task.get_task_state() | state['own'])
    own = dict(task.trainable_module.named_buffers())
    bank = next(name for name in own if name.endswith('student_bank'))
    first, second = (kept[bank] for kept in state['own']['buffers'])
    assert torch.equal(own[bank], first) and not torch.equal(first, second)


STOPPED = (
    COMMON
    + '''
from ofa_learn.checkpoints import Stopped
with distributed():
    task = make('kd')
    def stop(row):
        if place()[0] == 1 and row['epoch'] == 2: signal.raise_signal(signal.SIGTERM)
    try: fit(task, DATA, 50, batch_size=100, device='cpu', progress=False, on_epoch=stop, out=sys.argv[1])
    except Stopped as e: print(str(e).split(';')[0], flush=True)
'''
)


def test_a_stop_that_one_process_hears_stops_all(tmp_path):
    out = script(tmp_path, STOPPED, tmp_path / 'run', torchrun=2)
    assert out.count('stopped in epoch 2 of 50, after step 1 of 1') == 2


ON = dict(batch_size=20, augment=Augment(shift=1), device='cpu', progress=False, lr=3e-3, epochs=3)
RESUMED = {
    'mixup and cutmix': dict(mixup=0.3, cutmix=1.0),
    'ema': dict(ema=0.9),
    'fp16 with its scaler': dict(precision='fp16', student='micro_resnet'),
    'bf16, channels last': dict(precision='bf16', channels_last=True, student='micro_resnet'),
    'accumulation': dict(batch_size=10, accumulate=2, clip=None),
    'muon': dict(opt='muon', lr=8e-3),
    'lookahead': dict(opt='lookahead_sgd'),
    'a dtype in the state': dict(opt='adafactorbv'),
    'drop path and dropout': dict(student=dict(drop_path_rate=0.5, proj_drop_rate=0.3)),
    'looks now and then': dict(eval_every=2, ema=0.5),
    **{f'sched {s}': dict(sched=s) for s in ('cosine', 'tanh', 'poly', 'constant', 'none')},
    'sched step': dict(sched='step', decay_epochs=1, warmup_epochs=0),
    'sched multistep': dict(sched='multistep', decay_epochs=[1, 2]),
    'sched wsd': dict(sched='wsd', decay_epochs=1),
    'sched rsqrt': dict(sched='rsqrt', decay_epochs=1, warmup_epochs=1),
    **{m: dict(method=m) for m in ('crd', 'rkd', 'rsd', 'fitnet', 'ofd', 'reviewkd', 'hcd', 'dist')},
    'crd joined': dict(method='ofa+crd', ema=0.9),
}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('what', RESUMED)
def test_whatever_carries_state_is_resumed_to_the_bit(what, tmp_path):
    how = ON | RESUMED[what]
    task = {k: how.pop(k) for k in ('method', 'student') if k in how}

    def build():
        return kd_task(**dict(method='kd') | task)

    whole = build()
    history = fit(whole, DATA, **how)
    again, rows = cut_and_resumed(build, tmp_path, DATA, **how)
    assert untimed(rows) == untimed(history) and equal(weights(again), weights(whole))
    if 'ema' in how:
        a, b = (t.get_trainable_module(ema=True).module.state_dict() for t in (again, whole))
        assert equal(a, b)


# --- a method's options beside those of fit ------------------------------------------------------


def test_distill_gives_each_option_to_whom_it_belongs():
    teacher = Teacher(make_model('micro_resnet'))
    how = dict(opt='sgd', momentum=0.8, device='cpu', progress=False)
    run = distill('crd', 'micro_vit', teacher, DATA, 1, bank_momentum=0.4, **how)
    assert run.setting == dict(epochs=1, opt='sgd', momentum=0.8, bank_momentum=0.4)
    assert run.task.bank_momentum == 0.4
    own = dict(ofa=dict(gamma=2.0))
    run = distill('ofa+kd', 'micro_vit', teacher, DATA, 1, weights=(1, 0.5), options_of=own, **how)
    assert run.task.members['ofa'].gamma == 2.0 and run.task.weights == dict(ofa=1, kd=0.5)


@pytest.mark.parametrize('method', all_methods())
def test_no_method_has_an_option_of_fit(method):
    check_apart(method)
    given = {name for name in inspect.signature(fit).parameters if name not in ('data', 'device')}
    assert not given & set(method_options(all_methods()[method]))


def test_an_option_of_ones_own_method_that_fit_has_is_refused(monkeypatch):
    class Mine(DistillationTask):
        def __init__(self, student, teacher=None, *, momentum=0.5, **options):
            super().__init__(student, teacher, **options)

    monkeypatch.setitem(METHODS, 'mine', Mine)
    for call in (
        lambda: distill('mine', 'micro_vit', make_model('micro_resnet'), DATA, 1),
        lambda: distill('kd+mine', 'micro_vit', make_model('micro_resnet'), DATA, 1),
        lambda: Sweep(methods='mine'),
    ):
        with pytest.raises(ValueError, match="mine has an option 'momentum', and so has `fit`"):
            call()


@pytest.mark.parametrize(
    'options, says',
    [
        (dict(gama=2), "'ofa' has no option 'gama'; did you mean 'gamma'"),
        (dict(epoch=2), "did you mean 'epochs', an option of fit and distill"),
        (dict(alpha=1.0), "'alpha' is an option of dkd"),
        (dict(options=dict(gamma=2)), "a method's options are given directly, such as gamma=1.4"),
    ],
    ids=str,
)
def test_distill_answers_an_option_that_is_not_there(options, says):
    with pytest.raises(TypeError, match=says):
        distill('ofa', 'micro_vit', make_model('micro_resnet'), DATA, **options)


@pytest.mark.parametrize(
    'options, says',
    [
        (
            dict(gamma=2),
            "fit has no option 'gamma'; 'gamma' is an option of create_task for dist, ofa and wttm",
        ),
        (dict(label_smoothing=0.1), "'label_smoothing' is an option of create_task for every method"),
        (dict(learning_rate=1), "no option 'learning_rate'"),
        (dict(batchsize=10), "did you mean 'batch_size'"),
        (dict(options={}), 'given directly'),
    ],
    ids=str,
)
def test_fit_answers_an_option_that_is_not_there(options, says):
    with pytest.raises(TypeError, match=says):
        fit(make(), DATA, 1, **options)


def test_the_signature_of_distill_shows_the_options_of_fit_and_ends_in_the_methods():
    *named, last = inspect.signature(distill).parameters.values()
    assert (last.name, last.kind) == ('options', last.VAR_KEYWORD)
    assert set(settings_of(fit)) <= {p.name for p in named}
    assert inspect.signature(fit).parameters['lr'].default == 2e-3
