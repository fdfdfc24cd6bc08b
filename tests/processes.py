"""What tests ask about processes that they started."""

import time
from contextlib import suppress
from pathlib import Path


def until(condition, seconds=120):
    "Waits for `condition()`, and fails when it takes too long."
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, 'waited too long'
        time.sleep(0.05)


def others_of_group(pid):
    "The processes that `pid`, the first of a group, has started into it, where the system says so."
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):  # it has ended
            group = int(stat.read_text().rsplit(')', 1)[1].split()[2])
            found += [int(stat.parent.name)] if group == pid else []
    return [number for number in found if number != pid]


def alive(pid):
    "Whether the process runs; one that ended and was not yet asked for its result does not."
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


def gone(pids, seconds=30):
    "Waits until none of the processes runs: helpers of multiprocessing end a moment after their parent."
    until(lambda: not any(map(alive, pids)), seconds)
