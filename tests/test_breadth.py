"""A slice of `ofa-learn models --check`: a dozen families and more than one image size, square and not."""

import pytest

from ofa_learn.breadth import check_student, check_teacher

STUDENTS = [
    ('test_resnet', (3, 96, 64)),
    ('test_vit', (3, 80, 112)),
    ('test_convnext', (3, 64, 96)),
    ('test_efficientnet', None),
    ('test_mambaout', (3, 96, 96)),
    ('test_nfnet', None),
    ('test_coatnet', None),
    ('test_byobnet', (1, 64, 64)),
    ('mobilenetv2_035', (3, 96, 128)),
    ('swin_pico', None),
    ('starnet_s050', (3, 64, 64)),
    ('edgenext_xx_small', (3, 96, 96)),
    ('regnetx_002', (3, 64, 96)),
    ('levit_128s', None),
    ('xcit_nano_12_p16_224', (3, 64, 96)),
    ('micro_resnet', (1, 9, 13)),
    ('micro_vit', (2, 11, 30)),
    ('micro_mixer', (3, 33, 40)),
    ('efficientvit_b0', (3, 64, 64)),
    ('test_vit_relpos', None),
]


@pytest.mark.parametrize('name, size', STUDENTS, ids=lambda v: v if isinstance(v, str) else '')
def test_student(name, size):
    assert check_student(name, size)['why'] == ''


@pytest.mark.parametrize(
    'name, size',
    STUDENTS[::2] + [('hiera_tiny_224', None)],  # Hiera stops early unless told not to
    ids=lambda v: v if isinstance(v, str) else '',
)
def test_teacher(name, size):
    assert check_teacher(name, size) == ''
