"""The command line: words become a call, or a line of what is wrong; output survives any encoding; stops."""

import errno
import io
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.docments import docments
from fresh import Started, command, finished

from ofa_learn import cli
from ofa_learn.cli import main, parsed, printable, sentence
from ofa_learn.models import make_model, save_model
from ofa_learn.training import NotFinite

CPU = ('--device', 'cpu')


def call(*words):
    "Exit code, output and errors of a command in this process."
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main([str(w) for w in words])
    return code, out.getvalue(), err.getvalue()


def refused(*words):
    "The one line with which a command refuses its words."
    code, out, err = call(*words)
    assert code == 2 and err.count('\n') == 1, (code, out, err)
    return err


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------ words


@pytest.mark.parametrize(
    'words, said',
    [
        (['sweep', '--seed', '7'], 'no option --seed; did you mean --seeds?'),
        (['sweep', '--gamma', '2'], 'is an option of dist, ofa and wttm, set by --grid "gamma=…"'),
        (['sweep', '--lr', '2'], '--lr is an option of training, set by --grid "lr=…"'),
        (['sweep', '--gama', '2'], 'did you mean --gamma, an option of dist, ofa and wttm, set by --grid'),
        (['sweep', '--patience', '2'], 'an option of training, set by ofa-learn distill --patience …'),
        (
            ['distill', '--gama', '3'],
            'no option --gama; did you mean --gamma, an option of dist, ofa and wttm?',
        ),
        (
            ['distill', '--temprature', '3'],
            'no option --temprature; did you mean --temperature, an option of',
        ),
        (
            ['distill', '--exit_weigth', '3'],
            'no option --exit-weigth; did you mean --exit-weight, an option of',
        ),
        (['distill', '--lrr', '3'], 'no option --lrr; did you mean --lr, an option of training?'),
        (
            ['train', '--gamma', '2'],
            'Python by run_recipe(recipe(NAME, gamma=…), FOLDER), or by ofa-learn sweep',
        ),
        (['train', '--temperature', '2'], '--temperature is an option of the recipe, set in Python'),
        (['train', '--gama', '2'], 'no option --gama; did you mean --gamma, an option of the recipe'),
        (['train', '--warmup', '2'], 'is an option of dkd and reviewkd, set by ofa-learn distill --warmup …'),
        (['teach', 'micro_vit', '--gamma', '2'], 'distill --gamma … or ofa-learn sweep --grid "gamma=…"'),
        (['teach', 'micro_vit', '--bs', '2'], 'no option --bs; did you mean --batch?'),
        (['teach', 'micro_vit', '--epoch', '3'], 'no option --epoch; did you mean --epochs?'),
        (['train', '--dry'], 'no option --dry; did you mean --dry-run?'),
        (['cka', 'micro_vit', '--batch_size=3'], 'no option --batch-size; did you mean --batch?'),
        (['teach', 'micro_vit', '--pdb'], 'no option --pdb'),
        (['methods', '--xtra', 'a'], 'no option --xtra'),
        (['demo', '--zzz'], 'no option --zzz; expected one of --pair, --out'),
        (['train', 'laptop/cnn-vit'], "no place for 'laptop/cnn-vit'; ofa-learn train --help"),
        (['teach'], 'required: teacher'),
        (['teach', 'micro_vit', '--epochs', 'many'], "invalid int value: 'many'"),
        (['teach', 'micro_vit', '--epochs', '1.5'], "invalid int value: '1.5'"),
        (['teach', 'micro_vit', '--epochs'], 'expected one argument'),
        (['demo', '--quick=yes'], 'ignored explicit argument'),
    ],
)
def test_words_that_make_no_sense(words, said):
    assert said in refused(*words)


def test_what_the_answer_says_sets_it():
    "The grid, the method's options and the recipe take it as the message writes it."
    from ofa_learn.arguments import divided
    from ofa_learn.cli_distill import parse_grid
    from ofa_learn.recipes import recipe
    from ofa_learn.sweeps import Sweep

    assert recipe('laptop/cnn-vit', gamma=2.0).methods['ofa']['gamma'] == 2.0
    assert Sweep(methods='ofa', grid=parse_grid('gamma=2')).grid == dict(gamma=[2])
    assert parsed('distill', ['--gamma', '2'])['options'] == 'gamma=2'
    assert divided('ofa', dict(gamma=2, patience=3)) == (dict(patience=3), dict(gamma=2))


def test_words_become_arguments():
    given = parsed('train', ['--recipe', 'a', '--dry-run', '--view_seed=3', '--at-once', '5'])
    assert (given['recipe'], given['dry_run'], given['view_seed'], given['at_once']) == ('a', True, 3, 5)
    assert parsed('cka', ['a', 'b', '--size', '8'])['names'] == 'a,b'
    assert not {'pdb', 'xtra'} & set(given)


def as_module(name, *words):
    "What `python -m` does, for a process that is there already."
    sys.argv = [name, *words]
    runpy.run_module(name, run_name='__main__', alter_sys=True)


def test_the_command_is_a_module_and_a_program(tmp_path):
    words = ('demo', '--pair', 'cnn-cnn')
    how = dict(capture_output=True, text=True, cwd=tmp_path, timeout=120)
    real = subprocess.run([sys.executable, '-m', 'ofa_learn', *words], **how)
    for done in (real, finished(as_module, 'ofa_learn.cli', *words, folder=tmp_path)):
        assert done.returncode == 2 and 'ofa-learn demo: pair: expected one of' in done.stderr, done.stderr
    assert real.stderr.startswith('ofa-learn demo: ')


# ------------------------------------------------------------------ options that nothing would use


@pytest.mark.parametrize(
    'words, said',
    [
        (['train', '--recipe', 'list', '--epochs', '3'], 'prints the names and stops; leave out --epochs'),
        (['train', '--recipe', 'list', '--dry-run'], 'leave out --dry-run'),
        (['train', '--data', 'images'], 'data: laptop/cnn-vit trains on the digits'),
        (['train', '--dry-run', '--data', 'images'], 'data: laptop/cnn-vit trains on the digits'),
        (['train', '--workers', '2'], 'workers: the images of laptop/cnn-vit are in memory'),
        (['train', '--dry-run', '--workers', '0'], 'workers: the images of laptop/cnn-vit are in memory'),
        (['train', '--method', 'labels', '--teacher', 't'], 'teacher: labels learns without one'),
        (['train', '--method', 'kd', '--teacher', 't.safetensors'], 'teacher: t.safetensors: no such file'),
        (['teach', 'micro_vit', '--size', '16'], 'size: only folders are scaled'),
        (['teach', 'micro_vit', '--data', 'cifar10', '--test', '9'], 'cifar10 has a test part of its own'),
        (['teach', 'micro_vit', '--data', 'cifar10', '--size', '9', '--train', '9'], 'cifar10 is read whole'),
        (
            ['cka', 'resnet18', '--pretrained', '--size', '64'],
            'size of their images; leave out --size',
        ),
        (['cka', 'a.safetensors', '--pretrained'], 'comes with its weights and size; leave out --pretrained'),
        (['cka', 'a.safetensors', '--size', '8'], 'comes with its weights and size; leave out --size'),
        (['cka', 'micro_vit', '--out', 'a.csv'], 'page and table would both be a.csv'),
        (['bench', 'cka', '--quick', '--rounds', '3'], '--quick has a size of its own; leave out --rounds'),
        (['bench', 'loss', '--images', '3'], "the benchmark loss has no option 'images'"),
        (['sweep', '--plan', 'p.json', '--seeds', '3'], 'A plan says all of it; leave out --seeds'),
        (['sweep', '--plan', 'p.json', '--data', 'digits'], 'A plan says all of it; leave out --data'),
        (['sweep', '--print', '--jobs', '2', '--loop'], 'writes commands only; leave out --jobs, --loop'),
        (['sweep', '--print', '--only', 'a'], '--print writes commands only; leave out --only'),
        (['models', '--out', 'rows.json'], 'Only --check writes a file; leave out --out'),
        (['models', '--check', '--names', 'micro_vit'], 'leave out --names'),
    ],
)
def test_an_option_that_nothing_would_use_is_an_error(words, said):
    assert said in refused(*words)
    assert not list(Path().iterdir())


def test_a_dry_run_names_what_it_was_told():
    words = ['--seed', '4', '--out', 'here', '--compile', '--channels-last', '--epochs', '2', *CPU]
    code, out, _ = call('train', '--method', 'labels', '--dry-run', *words)
    assert code == 0 and 'into here, with seed 4, ' in out and 'compile True' in out
    assert not list(Path().iterdir())


# ------------------------------------------------------------------ numbers and places


@pytest.mark.parametrize(
    'words, said',
    [
        (['demo', '--seeds', '0'], 'seeds: expected an integer from 1, got 0'),
        (['demo', '--epochs', '-3'], 'epochs: expected an integer from 1, got -3'),
        (['demo', '--train', '5'], 'train: expected 10 to'),
        (['demo', '--gamma', '.5'], 'gamma: expected finite numbers of at least 1, got [0.5]'),
        (['demo', '--gamma', 'nan'], 'gamma: expected finite numbers of at least 1, got [nan]'),
        (['demo', '--jobs', '0'], 'jobs: expected at least 1, got 0'),
        (['demo', '--methods', 'rds'], 'got rds'),
        (['demo', '--methods', 'kd'], 'kd would be a row twice'),
        (['demo', '--methods', 'rsd,rsd'], 'rsd would be a row twice'),
        (['demo', '--resume'], 'demo.running holds nothing to go on from; begin without resume'),
        (['train', '--epochs', '0'], 'epochs: expected'),
        (['train', '--at-once', '0'], 'at_once: expected a divisor of 50'),
        (['train', '--dry-run', '--at-once', '-5'], 'at_once: expected a divisor of 50'),
        (['train', '--resume', '--out', 'nowhere'], 'nowhere does not exist, so there is nothing to go on'),
        (['cka', 'micro_vit', '--size', '0'], 'size: expected at least 1 pixel, got 0'),
        (['cka', 'micro_vit', '--images', '0'], 'images: expected at least 4, got 0'),
        (['cka', 'micro_vit', '--batch', '0'], 'batch_size: expected'),
        (['cka', 'micro_vit', '--estimator', 'best'], 'estimator: expected'),
        (['bench', 'cka', '--rounds', '0'], 'rounds: expected at least 1, got 0'),
        (['bench', 'cka', '--threads', '-1'], 'threads: expected at least 1, got -1'),
        (['sweep', '--jobs', '-1'], 'jobs: expected at least 0, got -1'),
        (['sweep', '--seeds', '0'], 'expected at least one pair, one method and one seed'),
        (['sweep', '--train', '0', '--jobs', '0'], 'train: expected'),
        (['methods', '--rounds', '-1'], 'rounds: expected at least 0, got -1'),
    ],
)
def test_numbers_that_make_no_sense(words, said):
    assert said in refused(*words)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    'words, said',
    [
        (['--epochs', '0'], 'epochs: expected'),
        (['--lr', '-1'], ''),
        (['--lr', 'nan'], ''),
        (['--batch', '1'], 'batch_size: expected an integer from 2'),
        (['--opt', 'adamm'], ''),
        (['--train', '-5'], 'train: expected'),
        (['--valid', '0'], 'valid: expected 10 to'),
        (['--pretrained'], 'pretrained: timm has no published weights for micro_vit'),
        (['--resume'], 'teacher.training does not exist, so there is nothing to go on from'),
        (['--data', 'nowhere.npz'], "expected 'digits', an existing .npz file"),
        (['--out', 'teacher.pt'], 'expected a file ending in .safetensors'),
    ],
)
def test_what_teach_refuses(words, said):
    code, _, err = call('teach', 'micro_vit', *CPU, *words)
    assert code == 2 and err.count('\n') == 1 and said in err
    assert not list(Path().iterdir())


def test_help_names_every_benchmark():
    from ofa_learn.bench_whole import BENCHMARKS

    said = docments(cli.bench)['name']
    assert sorted(said.removeprefix('what to measure: ').split(', ')) == sorted(BENCHMARKS)


@pytest.mark.parametrize('command', ['teach', 'demo', 'train', 'cka', 'bench', 'sweep'])
@pytest.mark.parametrize('place', ['file/in/it', '/proc/nowhere/a', 'x' * 300 + '/a'])
def test_a_place_that_cannot_be_written_is_known_before_the_work(command, place, monkeypatch):
    Path('file').write_text('')

    def work(*args, **how):
        pytest.fail('it began to work')

    for name in (
        'ofa_learn.runs.fit',
        'ofa_learn.demo.teach',
        'ofa_learn.cka.compare',
        'ofa_learn.bench.bench',
    ):
        monkeypatch.setattr(name, work)
    monkeypatch.setattr('ofa_learn.bench_whole.bench', work)
    words = dict(teach=['micro_vit', *CPU], train=['--method', 'labels', *CPU], cka=['micro_vit', *CPU])
    words |= dict(bench=['loss'], demo=[], sweep=[])
    end = dict(teach='.safetensors', demo='.html', cka='.html', bench='.json').get(command, '')
    assert place[:40] in refused(command, *words[command], '--out', place + end)


def test_a_truncated_file_and_a_device_that_is_not_here(monkeypatch):
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 4
    np.savez('mine.npz', images=images, labels=labels)
    Path('mine.npz').write_bytes(Path('mine.npz').read_bytes()[:900])
    for words in (['teach', 'micro_vit'], ['cka', 'micro_vit'], ['sweep']):
        assert 'mine.npz: not a readable .npz file' in refused(*words, '--data', 'mine.npz')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    for device in ('cuda', 'cuda:3', 'gpu'):
        for words in (['teach', 'micro_vit'], ['cka', 'micro_vit'], ['train', '--dry-run'], ['sweep']):
            assert 'device: ' in refused(*words, '--device', device)


# ------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize(
    'error, said',
    [
        (OSError(errno.ENOSPC, 'No space left on device', 'a/b'), 'a/b: No space left on device'),
        (PermissionError(errno.EACCES, 'Permission denied', 'a'), 'a: Permission denied'),
        (NotFinite('the loss is not finite: ce at epoch 2'), 'the loss is not finite: ce at epoch 2'),
        (ImportError('no torch_cka; pip install ofa-learn[bench]'), 'no torch_cka; pip install'),
        (torch.OutOfMemoryError('CUDA out of memory. Tried\nto allocate'), 'a smaller model need less'),
        (RuntimeError('DefaultCPUAllocator: can\'t allocate memory'), 'fewer images at a time'),
        (MemoryError(), 'fewer images at a time'),
        (ValueError('holds a run; give\n resume=True to go on'), 'holds a run; give; --resume to go on'),
        (ValueError(), 'ValueError'),
    ],
)
def test_mistakes_end_in_one_line(error, said, monkeypatch):
    def fails(pair='', rounds=0):
        raise error

    monkeypatch.setitem(cli.COMMANDS, 'methods', fails)
    assert said in refused('methods')
    monkeypatch.setenv('OFA_LEARN_DEBUG', '1')
    with pytest.raises(type(error)):
        main(['methods'])


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fails(pair='', rounds=0):
        return {}['key']

    monkeypatch.setitem(cli.COMMANDS, 'methods', fails)
    with pytest.raises(KeyError):
        main(['methods'])
    assert sentence(KeyError('key')) is None and sentence(RuntimeError('shapes cannot be multiplied')) is None


def test_a_loss_that_is_not_finite_is_one_line():
    file = save_model(make_model('micro_resnet'), 'broken.safetensors', (1, 8, 8))
    assert file.exists()
    code, _, err = call('teach', 'micro_resnet', '--lr', '1e30', '--epochs', '3', '--train', '100', *CPU)
    assert code == 2 and err.count('\n') == 1 and 'the loss is not finite' in err


def on_a_full_disk(*words):
    "No file may grow beyond 100 kB here, which is what a full disk looks like to a program."
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    command(*words)


def test_a_full_disk_is_one_line(tmp_path):
    words = ['teach', 'micro_vit', '--epochs', '1', '--train', '60', *CPU]
    done = finished(on_a_full_disk, *words, folder=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and last.startswith('ofa-learn teach: ') and 'too large' in last
    assert 'Traceback' not in done.stderr and not list(tmp_path.rglob('*.tmp'))


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs a device that is always full')
def test_an_output_that_takes_nothing_more(tmp_path):
    words = [sys.executable, '-m', 'ofa_learn', 'train', '--recipe', 'list']
    with open('/dev/full', 'w') as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, 'ofa-learn train: No space left on device\n')
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does when it has seen enough
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, '')


# ------------------------------------------------------------------ encodings


@pytest.mark.parametrize('encoding', ['ascii', 'cp1252', 'cp850', 'latin-1', 'utf-8'])
def test_output_survives_any_encoding(encoding):
    file = io.BytesIO()
    text = 'γ = 1.4: 63.1 ± 0.4 → “better” 模 \udce4 ─'
    stream = io.TextIOWrapper(file, encoding=encoding)
    with redirect_stdout(stream), redirect_stderr(stream), printable():
        print(text, flush=True)
        print(text, file=sys.stderr, flush=True)
    said = file.getvalue().decode(encoding)
    assert said.count('1.4') == 2 and ('gamma' in said) == (encoding != 'utf-8')
    assert stream.errors == 'strict'


@pytest.mark.parametrize(
    'command', ['demo', 'teach', 'look', 'train', 'sweep', 'cka', 'bench', 'models', 'methods']
)
def test_help_survives_ascii(command):
    stream = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
    with redirect_stdout(stream), pytest.raises(SystemExit) as end:
        main([command, '--help'])
    assert end.value.code == 0


# ------------------------------------------------------------------ stops


def interrupted(process, after: Path, number, timeout=120):
    "Send a signal when a file is there; exit code, output and errors."
    for _ in range(timeout * 10):
        if after.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()
    process.send_signal(number)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(os.name != 'posix', reason='sends signals')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_teach_stops_and_goes_on(tmp_path, number):
    words = ['teach', 'micro_vit', '--train', '100', *CPU]
    long = Started(command, *words, '--epochs', '400', folder=tmp_path)
    code, _, err = interrupted(long, tmp_path / 'teacher.training' / 'history.csv', number)
    assert code == 130 and err.count('\n') == 1, err
    assert (
        'stopped in epoch' in err and 'teacher.training holds all of it' in err and '--resume goes on' in err
    )
    code, _, err = call(*words, '--epochs', '400')
    assert code == 2 and 'holds a run already' in err and '--resume' in err and 'resume=True' not in err


def with_slow_data(*words):
    "The command, where the digits take a minute to come."
    import sklearn.datasets

    def slow():
        Path('begun').touch()
        time.sleep(60)

    sklearn.datasets.load_digits = slow
    command(*words)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.skipif(os.name != 'posix', reason='sends signals')
def test_a_stop_before_there_is_anything_to_save(tmp_path):
    for words in (['teach', 'micro_vit'], ['train', '--method', 'labels'], ['cka', 'micro_vit']):
        (tmp_path / 'begun').unlink(missing_ok=True)
        process = Started(with_slow_data, *words, folder=tmp_path)
        code, _, err = interrupted(process, tmp_path / 'begun', signal.SIGTERM)
        assert code == 130 and err.count('\n') == 1 and 'stopped' in err, err
        assert '--resume' not in err


def test_a_stop_in_this_process_is_no_traceback(monkeypatch):
    def stops(pair='', rounds=0):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setitem(cli.COMMANDS, 'methods', stops)
    code, _, err = call('methods')
    assert (code, err) == (130, 'ofa-learn methods: stopped\n')


@pytest.mark.parametrize('name', cli.COMMANDS)
def test_every_option_says_what_it_is(name):
    "A comment that stands where fastcore does not look is lost without a word."
    told = docments(cli.COMMANDS[name])
    assert [k for k, said in told.items() if not said and k != 'return'] == []


def test_a_wrong_type_is_named():
    assert "argument --epochs: invalid int value: 'x'" in refused('demo', '--epochs', 'x')


@pytest.mark.parametrize(
    'words, said',
    [
        (['--batch', '4'], 'no option --batch; did you mean --batch-size, an option of training?'),
        (['--T', '4'], 'no option --T; did you mean --temperature, an option of'),
        (['--gamma', '2'], "'labels' has no option 'gamma'; 'gamma' is an option of dist, ofa and wttm"),
        (['--ema'], 'ema: expected a number from 0 and below 1, or None, got True'),
        (['--ema', '1.5'], 'ema: expected a number'),
        (['--sched', 'plateau'], 'sched: plateau is not offered'),
        (['--label_smoothing', '1'], 'label_smoothing: expected'),
    ],
)
def test_what_distill_refuses_before_it_reads_pictures(words, said):
    assert said in refused(
        'distill', '--student', 'micro_vit', '--data', 'nowhere', '--method', 'labels', *words
    )
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    'words, said',
    [
        (['teach', 'micro_vit', '--data', 'nowhere.npz', '--lr', '-1'], 'lr: expected'),
        (['teach', 'micro_vit', '--data', 'nowhere.npz', '--batch', '1'], 'batch_size: expected'),
        (['look', 'x.safetensors', '--temperature', '0'], 'temperature: expected a finite number above 0'),
        (['sweep', '--methods', 'ofa', '--grid', 'gamma=1,.5'], 'grid: ofa: gamma: expected'),
        (['sweep', '--methods', 'ofa,dist', '--grid', 'gamma=1,2'], "by 'ofa.gamma' or 'dist.gamma'"),
    ],
)
def test_ranges_are_looked_at_before_anything_is_read_or_taught(words, said):
    assert said in refused(*words)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    'signal_name, said',
    [
        ('Killed', 'not memory enough'),
        ('Bus error', 'not memory enough'),
        ('Terminated', 'ended from outside'),
    ],
)
def test_a_reading_process_that_was_ended_is_said_as_what_it_was(signal_name, said):
    error = RuntimeError(f'DataLoader worker (pid 7) is killed by signal: {signal_name}. ')
    assert sentence(error).startswith(said)
