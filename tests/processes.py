"""What tests ask about processes that they started."""

import time
from pathlib import Path


def until(condition, seconds=120):
    "Waits for `condition()`, and fails when it takes too long."
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, 'waited too long'
        time.sleep(0.05)


def children(pid):
    "The processes that `pid` started, where the system says so."
    found = Path(f'/proc/{pid}/task/{pid}/children')
    return [int(c) for c in found.read_text().split()] if found.exists() else []


def alive(pid):
    "Whether the process runs; one that ended and was not yet asked for its result does not."
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except OSError:
        return False


def gone(pids, seconds=30):
    "Waits until none of the processes runs: helpers of multiprocessing end a moment after their parent."
    until(lambda: not any(map(alive, pids)), seconds)
