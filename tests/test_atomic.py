"""Files under two writers, killed writers, a full disk and flipped bits; one writer at a time."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from ofa_learn import atomic
from ofa_learn.atomic import Taken, check_place, locked, sealed, unsealed, whole, write_atomically

POSIX = pytest.mark.skipif(os.name != 'posix', reason='signals and forks')


def python(code, *args, **how):
    "A process with this package and these arguments."
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], text=True, **how)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_two_writers_with_one_process_number_do_not_mix(tmp_path):
    "As in two containers that share a folder: the same number, the same file, at the same time."
    path = tmp_path / 'last.txt'
    with whole(path) as first:
        first.write('a' * 100_000)
        with whole(path) as second:
            second.write('b' * 50_000)
        assert path.read_text() == 'b' * 50_000
        first.write('a' * 100_000)
    assert path.read_text() == 'a' * 200_000 and names(tmp_path) == ['last.txt']


DIES = '''
import os, sys
from ofa_learn.atomic import whole
with whole(sys.argv[1], 'wb') as f:
    f.write(b'half')
    f.flush()
    os._exit(9)
'''


def made_old(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_what_a_killed_writer_left_goes_and_what_a_living_one_needs_stays(tmp_path):
    path = tmp_path / 'a[1].bin'
    assert python(DIES, path).wait() == 9
    (dead,) = tmp_path.iterdir()
    write_atomically(path, 'one')
    assert dead.exists(), 'young ones are left alone'
    other = tmp_path / f'.other.bin.{dead.suffixes[-2]}.tmp'
    other.write_bytes(b'of another file')
    with whole(path) as living:
        (temporary,) = set(tmp_path.iterdir()) - {path, dead, other}
        for p in (dead, temporary, other):
            made_old(p, 7200)
        write_atomically(path, 'two')
        assert (dead.exists(), temporary.exists(), other.exists()) == (False, True, True)
        living.write('three')
    assert path.read_text() == 'three' and set(tmp_path.iterdir()) == {path, other}


def test_without_locks_age_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, '_lock', lambda handle: None)
    path, left = tmp_path / 'a.txt', tmp_path / '.a.txt.4711.tmp'
    for seconds, stays in ((7200, True), (100_000, False)):
        left.write_text('half')
        made_old(left, seconds)
        write_atomically(path, 'whole')
        assert left.exists() == stays
    with pytest.warns(UserWarning, match='this file system has no locks'), locked(tmp_path / 'run'):
        pass


@pytest.mark.parametrize('try_it', [check_place, lambda path: write_atomically(path, 'x')])
def test_a_folder_or_a_device_is_no_place_for_a_file(tmp_path, try_it):
    before = os.stat(os.devnull).st_mode
    for path in (tmp_path, os.devnull):
        with pytest.raises(ValueError, match='is a folder or a device'):
            try_it(path)
    assert os.stat(os.devnull).st_mode == before and names(tmp_path) == []
    (tmp_path / 'file').write_text('x')
    with pytest.raises(OSError):
        try_it(tmp_path / 'file' / 'below.txt')


FULL = '''
import resource, sys
from ofa_learn.atomic import whole
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with whole(sys.argv[1]) as f:
        f.write('new' * 5000)
except OSError as e:
    print(type(e).__name__)
'''


@POSIX
def test_no_room_leaves_the_old_file(tmp_path):
    path = write_atomically(tmp_path / 'a.txt', 'old')
    assert python(FULL, path, stdout=subprocess.PIPE).communicate()[0] == 'OSError\n'
    assert path.read_text() == 'old' and names(tmp_path) == ['a.txt']


def test_a_flipped_bit_in_json_never_gives_another_value():
    value = dict(method='ofa', γ=[1.0, 1.4], n=3, parts={'10': 1, '9': None}, ok=True, test_accuracy=93.2)
    text, seen = json.dumps(sealed(value), ensure_ascii=False).encode(), 0
    assert unsealed(json.loads(text)) == value == unsealed(value)
    known = set(value) | {'checksum'}
    for i in range(len(text)):
        for bit in range(8):
            changed = bytearray(text)
            changed[i] ^= 1 << bit
            try:
                found = unsealed(json.loads(bytes(changed)))
            except ValueError:
                seen += 1
                continue
            if found != value:  # its checksum has lost its name; the content is untouched
                assert {k: v for k, v in found.items() if k in value} == value
                assert len(set(found) - known) == 1
    assert seen > 7 * len(text)
    assert sealed(sealed(value)) == sealed(value)


HOLDS = '''
import sys, time
from ofa_learn.atomic import locked
with locked(*sys.argv[1:]):
    print('held', flush=True)
    time.sleep(60)
'''


def holder(*args):
    process = python(HOLDS, *args, stdout=subprocess.PIPE)
    assert process.stdout.readline() == 'held\n'
    return process


def test_the_second_is_told_who_the_first_is(tmp_path):
    out = tmp_path / 'run'
    first = holder(out)
    try:
        with (
            pytest.raises(Taken, match=rf'run is being written by process {first.pid} on .*, since \d{{4}}-'),
            locked(out),
        ):
            pass
        with locked(out, 'part'):
            pass  # one thing in it is not all of it
    finally:
        first.kill()
        first.wait()
    with locked(out):
        assert names(out) == ['.lock'], 'free again, although its file was still there'
    assert names(out) == []


def test_within_a_process_too(tmp_path):
    out, said = tmp_path / 'run', []

    def other():
        try:
            with locked(out):
                said.append('twice')
        except Taken as e:
            said.append(str(e))

    with locked(out), locked(out):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(10)
        assert names(out) == ['.lock']
    assert len(said) == 1 and 'by this process, since' in said[0]
    assert not out.exists(), 'nothing came of it'
    with locked(out):
        (out / 'a').touch()
    assert names(out) == ['a']


FORKS = '''
import os, sys, time
from ofa_learn.atomic import locked
with locked(sys.argv[1]):
    if os.fork() == 0:
        print('child', os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
'''


@POSIX
def test_a_child_does_not_hold_what_its_killed_parent_held(tmp_path):
    parent = python(FORKS, tmp_path, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline().split()[1])
    parent.kill()
    parent.wait()
    try:
        os.kill(child, 0)
        with locked(tmp_path):
            pass
    finally:
        os.kill(child, 9)


COUNTS = '''
import sys, time
from pathlib import Path
from ofa_learn.atomic import Taken, locked
file = Path(sys.argv[1]) / 'count'
for _ in range(100):
    while True:
        try:
            with locked(sys.argv[1], 'count'):
                n = int(file.read_text())
                time.sleep(.0005)
                file.write_text(str(n + 1))
            break
        except Taken:
            time.sleep(.0005)
'''


def test_never_two_at_once(tmp_path):
    (tmp_path / 'count').write_text('0')
    workers = [python(COUNTS, tmp_path) for _ in range(4)]
    assert [w.wait(120) for w in workers] == [0] * 4
    assert (tmp_path / 'count').read_text() == '400' and names(tmp_path) == ['count']


def test_a_lock_file_with_anything_in_it_is_only_a_file(tmp_path):
    for text in (b'', b'\xff', b'[]', b'{"pid": 1}', b'{"pid": 1, "host": "h", "since": "s"}'):
        (tmp_path / '.lock').write_bytes(text)
        with locked(tmp_path):
            assert json.loads((tmp_path / '.lock').read_text())['pid'] == os.getpid()
