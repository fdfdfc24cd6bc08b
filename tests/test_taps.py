"""Taps: what lesson 10 does not show of choosing stages and of the head that runs once."""

import numpy as np
import pytest

from ofa_learn.models import check_stages, find_taps, make_model

TAPS = find_taps(make_model('micro_resnet'), (1, 8, 8))


@pytest.mark.parametrize(
    'stages, numbers',
    [
        (None, (1, 2, 3, 4)),
        (4, (4,)),
        (np.int64(2), (2,)),
        ((4, 1), (1, 4)),
        ([2], (2,)),
        (range(1, 3), (1, 2)),
        ({3, 2}, (2, 3)),
        (np.array([3, 1]), (1, 3)),
        (iter((1, 2)), (1, 2)),
    ],
)
def test_one_stage_or_several(stages, numbers):
    found = check_stages(stages, TAPS)
    assert found == numbers
    assert all(type(n) is int for n in found)


@pytest.mark.parametrize(
    'stages, error, says',
    [
        (9, ValueError, r'stages: expected one or more of \(1, 2, 3, 4\), each once, got 9'),
        (0, ValueError, 'got 0'),
        (-1, ValueError, 'got -1'),
        ((), ValueError, r'got \(\)'),
        ((1, 1), ValueError, r'got \(1, 1\)'),
        ((2, 5), ValueError, r'got \(2, 5\)'),
        ('4', TypeError, "stages: expected numbers from .*, got '4'"),
        ('all', TypeError, "got 'all'"),
        (True, TypeError, 'got True'),
        ((1, True), TypeError, r'expected whole numbers from .*, got \(1, True\)'),
        ((2.0,), TypeError, r'whole numbers .* got \(2.0,\)'),
        (2.0, TypeError, 'got 2.0'),
        (('2',), TypeError, 'whole numbers'),
    ],
)
def test_other_stages_are_refused(stages, error, says):
    with pytest.raises(error, match=says):
        check_stages(stages, TAPS)
