"""The papers' pairs, numbers and settings: complete, consistent, and with an origin for every value."""

import dataclasses
import json
import re
import subprocess
import sys
from importlib.resources import files

import pytest
import timm
from fresh import call

import ofa_learn.models  # noqa: F401  (registers Swin-N, Swin-P and the micro models)
from ofa_learn.recipes import (
    ORIGINS,
    Recipe,
    describe,
    gains,
    mean_gains,
    paper_markdown,
    paper_models,
    paper_numbers,
    paper_table,
    recipe,
    recipes,
    row_methods,
    steps,
    successor_means,
    successors,
)

PAPER, LAPTOP = recipes('cifar100') + recipes('imagenet'), recipes('digits')
EIGHT = ['fitnet', 'cc', 'rkd', 'crd', 'kd', 'dkd', 'dist', 'ofa']
ABOUT = {
    'name',
    'teacher',
    'student',
    'teacher_model',
    'student_model',
    'teacher_timm',
    'student_timm',
    'pair',
    'laptop',
    'table',
    'settings',
    'methods',
    'provenance',
    'notes',
    'remarks',
}

# The paper's tables once more, typed column by column (the package has them row by row).
COLUMNS = {
    1: dict(
        scratch=[69.75] * 3 + [68.87] * 3 + [72.17] * 3 + [75.53] * 3 + [76.65] * 3,
        fitnet=[
            70.44,
            71.18,
            70.78,
            70.95,
            71.75,
            71.59,
            75.84,
            70.45,
            74.38,
            78.33,
            74.81,
            76.17,
            78.13,
            74.69,
            76.48,
        ],
        kd=[
            70.22,
            71.14,
            70.89,
            70.87,
            72.05,
            71.92,
            75.10,
            74.00,
            74.16,
            77.58,
            77.15,
            76.26,
            77.41,
            76.84,
            76.67,
        ],
        ofa=[
            71.34,
            71.85,
            71.38,
            71.39,
            72.32,
            72.12,
            76.55,
            74.41,
            74.46,
            78.64,
            77.50,
            76.63,
            78.53,
            77.53,
            77.31,
        ],
    ),
    2: dict(
        teacher_accuracy=[89.26, 92.04, 87.29] * 2 + [88.41, 87.29] * 2 + [88.41, 89.26],
        scratch=[74.01] * 3 + [73.68] * 3 + [68.00] * 2 + [72.63] * 2 + [66.56] * 2,
        fitnet=[78.87, 77.71, 77.15, 74.28, 73.54, 73.78, 60.78, 71.05, 24.06, 75.20, 45.47, 63.12],
        dist=[77.75, 76.49, 76.36, 72.89, 72.54, 73.26, 73.55, 71.67, 76.41, 75.85, 71.93, 11.05],
        ofa=[80.54, 80.15, 79.39, 80.98, 78.45, 78.78, 75.76, 73.90, 78.32, 78.93, 81.22, 80.63],
    ),
    5: dict(
        teacher_accuracy=[73.31],
        kd=[70.66],
        ofd=[70.81],
        reviewkd=[71.61],
        crd=[71.17],
        dkd=[71.70],
        dist=[72.07],
        ofa=[72.10],
    ),
    6: dict(
        teacher_accuracy=[82.83, 86.53],
        scratch=[79.86] * 2,
        rkd=[79.53, 79.38],
        reviewkd=[80.06, 79.32],
        crd=[79.33, 79.48],
        dkd=[80.49, 80.76],
        dist=[80.55, 80.90],
        ofa=[80.64, 81.33],
    ),
}


@pytest.mark.parametrize('number', COLUMNS)
def test_columns(number):
    for key, column in COLUMNS[number].items():
        assert [r[key] for r in paper_table(number)] == column, key


def test_shape_of_the_tables():
    assert [len(paper_table(n)) for n in (1, 2, 5, 6)] == [15, 12, 1, 2]
    for n in (1, 2):
        for r in paper_table(n):
            assert list(row_methods(r)) == EIGHT
    assert list(row_methods(paper_table(5)[0])) == ['kd', 'ofd', 'reviewkd', 'crd', 'dkd', 'dist', 'ofa']
    assert list(row_methods(paper_table(6)[0])) == ['rkd', 'reviewkd', 'crd', 'dkd', 'dist', 'ofa']
    for n in (1, 2, 5, 6):
        for r in paper_table(n):
            assert all(
                isinstance(v, float) and 10 < v < 95
                for v in [r['teacher_accuracy'], r['scratch'], *row_methods(r).values()]
            )
            assert max(row_methods(r), key=row_methods(r).get) == 'ofa'


def test_a_model_has_one_accuracy_a_data_set():
    "As teacher, and from scratch as student; on ImageNet Swin-T, DeiT-T and the ResNets are both or either."
    seen = {}
    for n, data in ((1, 'imagenet'), (2, 'cifar100'), (5, 'imagenet'), (6, 'imagenet')):
        for r in paper_table(n):
            for key in (
                ('teacher', data, r['teacher'], r['teacher_accuracy']),
                ('scratch', data, r['student'], r['scratch']),
            ):
                assert seen.setdefault(key[:3], key[3]) == key[3], key


def test_means():
    assert (
        abs(mean_gains(2)['kd'] - 3.17) < 0.0051
        and abs(mean_gains(2)['ofa'] - 7.47) < 0.005
        and abs(mean_gains(1)['ofa'] - 2.20) < 0.005
    )


def test_what_the_text_says_of_the_rows():
    def lead(r):
        return round(r['ofa'] - max(v for m, v in row_methods(r).items() if m != 'ofa'), 2)

    cifar = [lead(r) for r in paper_table(2)]
    assert (min(cifar), max(cifar)) == (0.28, 8.00)  # "ranging from 0.28% to 8.00%"
    assert max(lead(r) for r in paper_table(1)[6:]) == 0.71  # "a maximum accuracy gain of 0.71%"
    assert min(lead(r) for r in paper_table(1)[:6]) == 0.20


def test_daggers():
    for r in paper_table(1):
        assert r['with_fitnet'] == (('dkd', 'dist', 'ofa') if r['teacher'] == 'ResNet50' else ())
    assert sum('†' in line for line in paper_markdown(1).splitlines()) == 3
    assert not any(r['with_fitnet'] for n in (2, 5, 6) for r in paper_table(n))


def test_markdown():
    lines = paper_markdown(2, dict(ofa='One for all')).splitlines()
    assert len(lines) == 14 and 'One for all' in lines[0] and len({line.count('|') for line in lines}) == 1
    numbers = '89.26 | 74.01 | 78.87 | 74.19 | 74.11 | 77.63 | 78.74 | 80.26 | 77.75 | **80.54**'
    assert lines[2] == f'| Swin-T | ResNet18 | {numbers} |'


@pytest.mark.parametrize('number', [3, 4, 0, '7', None, True])
def test_no_such_table(number):
    with pytest.raises(ValueError, match='number: expected one of 1, 2, 5, 6'):
        paper_table(number)


def test_names():
    assert len(recipes()) == len(set(recipes())) == 36 and [
        len(recipes(d)) for d in ('imagenet', 'cifar100', 'digits')
    ] == [18, 12, 6]
    assert set(LAPTOP) == {
        f'laptop/{a}-{b}' for a in ('cnn', 'vit', 'mlp') for b in ('cnn', 'vit', 'mlp') if a != b
    }
    assert all(re.fullmatch(r'(cifar100|imagenet|laptop)/[a-z0-9_]+-[a-z0-9_]+', n) for n in recipes())
    assert [r['recipe'] for n in (1, 2, 5, 6) for r in paper_table(n)] == [
        n for n in recipes() if n not in LAPTOP
    ]
    with pytest.raises(ValueError, match='dataset: expected one of imagenet, cifar100, digits'):
        recipes('cifar')


def test_models_are_in_timm(tmp_path):
    for name, m in paper_models().items():
        assert timm.is_model(m['model']), name
        if m['timm'] is None:
            assert m['note'] and m['model'] in (
                'swin_nano',
                'swin_pico',
                'micro_resnet',
                'micro_vit',
                'micro_mixer',
            ), name
        else:
            assert m['timm'] == m['model'] and timm.is_model(m['timm']), name
    made_here = {'swin_nano', 'swin_pico', 'micro_resnet', 'micro_vit', 'micro_mixer'}
    bare = call(timm.list_models, folder=tmp_path)
    assert not made_here & set(bare) and 'swin_tiny_patch4_window7_224' in bare  # timm of itself has none
    weights = {w for n in recipes() if (w := recipe(n).teacher_weights)}
    assert weights == {'deit_tiny_patch16_224.fb_in1k'} and weights <= set(timm.list_pretrained())


def test_importing_it_takes_no_torch():
    code = (
        'import sys, ofa_learn.recipes as r; r.describe("laptop/cnn-vit"); '
        'print([m for m in ("torch", "timm", "numpy", "plotly") if m in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize('settings', ['released', 'authors_run'])
@pytest.mark.parametrize('name', recipes())
def test_every_setting_has_an_origin(name, settings):
    r = recipe(name, None if name.startswith('laptop/') else settings)
    assert set(r.provenance) == {f.name for f in dataclasses.fields(Recipe)} - ABOUT
    assert set(r.provenance.values()) <= set(ORIGINS) - {'yours'}
    for key, origin in r.provenance.items():
        if origin == 'unknown':
            assert getattr(r, key) is None and r.notes[key], key
    if settings == 'released':
        assert 'authors_run' not in r.provenance.values()
    assert (set(r.provenance.values()) == {'ours'}) == (name in LAPTOP) == (r.settings == 'ours')
    assert all(isinstance(n, str) and n for n in [*r.notes.values(), *r.remarks])
    assert {m for m in r.methods} == {'labels', 'deep_supervision'} | (
        set(paper_numbers(r)['methods']) if r.table else {'kd', 'ofa'}
    )
    json.dumps(dataclasses.asdict(r))


def test_files_hold_only_what_is_used():
    data = json.loads(
        (files('ofa_learn') / 'static' / 'recipes' / 'settings.json').read_text(encoding='utf-8')
    )
    from fnmatch import fnmatchcase

    for part in data['layers'] + data['remarks']:
        for pattern in part['for']:
            assert any(fnmatchcase(n, pattern) for n in recipes()), pattern
        if 'set' in part:
            assert set(part.get('why', {})) <= set(part['set']), part['for']
    assert {layer['from'] for layer in data['layers']} | {'yours'} == set(ORIGINS)


# (recipe, settings): what methods' specification says of it
SAID = [
    (
        'cifar100/swin_t-resnet18',
        'released',
        dict(
            epochs=300,
            batch_size=1024,
            opt='sgd',
            lr=0.05,
            min_lr=1e-3,
            sched='cosine',
            warmup_epochs=3,
            weight_decay=2e-3,
            clip=None,
            smoothing=0.1,
            exit_weight=1.0,
            gamma=1.0,
            form='released',
            ema=None,
            augment=dict(crop=[0.08, 1.0], flip=0.5),
        ),
    ),
    (
        'cifar100/swin_t-resnet18',
        'authors_run',
        dict(lr=0.1, exit_weight=0.1, gamma=1.0, clip=None, min_lr=1e-3, warmup_lr=1e-6),
    ),
    ('cifar100/vit_s-resnet18', 'authors_run', dict(lr=0.05, exit_weight=1.0)),
    ('cifar100/vit_s-mobilenetv2', 'authors_run', dict(lr=0.05, exit_weight=0.1)),
    ('cifar100/vit_s-mobilenetv2', 'released', dict(exit_weight=1.0)),
    (
        'cifar100/convnext_t-swin_p',
        'released',
        dict(
            opt='adamw',
            lr=5e-4,
            min_lr=1e-5,
            warmup_epochs=20,
            warmup_lr=5e-7,
            weight_decay=0.05,
            clip=5.0,
            ema=None,
        ),
    ),
    ('cifar100/mixer_b16-deit_t', 'authors_run', dict(ema=0.99996, min_lr=1e-6)),
    ('cifar100/swin_t-resmlp_s12', 'authors_run', dict(ema=None, min_lr=1e-5, opt='adamw')),
    (
        'imagenet/mixer_b16-mobilenetv2',
        'authors_run',
        dict(
            epochs=100,
            batch_size=512,
            opt='sgd',
            lr=0.1,
            min_lr=1e-6,
            sched='step',
            decay_epochs=30,
            warmup_epochs=3,
            weight_decay=1e-4,
            clip=None,
            ema=None,
        ),
    ),
    (
        'imagenet/convnext_t-swin_n',
        'authors_run',
        dict(
            epochs=300,
            batch_size=1024,
            opt='adamw',
            lr=5e-4,
            min_lr=1e-6,
            sched='cosine',
            warmup_epochs=20,
            weight_decay=0.05,
            clip=5.0,
            ema=0.99996,
        ),
    ),
    (
        'imagenet/vit_b-resnet50',
        'authors_run',
        dict(
            epochs=300,
            batch_size=2048,
            opt='lamb',
            lr=5e-3,
            sched='cosine',
            warmup_epochs=5,
            weight_decay=0.02,
            label_loss='bce',
            drop_path=0.05,
            ema=0.9998,
            smoothing=0.0,
        ),
    ),
    ('imagenet/deit_t-resnet18', 'authors_run', dict(gamma=1.5)),
    ('imagenet/resnet50-deit_t', 'authors_run', dict(gamma=1.1)),
    ('imagenet/resnet50-deit_t', 'released', dict(gamma=1.0)),
]


@pytest.mark.parametrize('name, settings, said', SAID)
def test_settings(name, settings, said):
    r = recipe(name, settings)
    assert {k: getattr(r, k) for k in said} == said


def test_origins_of_what_was_run():
    assert [recipe('cifar100/swin_t-resnet18').provenance[k] for k in ('lr', 'exit_weight', 'gamma')] == [
        'authors_run'
    ] * 3
    assert recipe('imagenet/resnet50-deit_t').provenance['gamma'] == 'paper'
    assert (
        recipe('imagenet/swin_t-resnet18').provenance['gamma'] == 'released'
        and 'stated nowhere' in recipe('imagenet/swin_t-resnet18').notes['gamma']
    )


@pytest.mark.parametrize('name', PAPER)
def test_a_paper_pair_has_its_laptop_version(name):
    r = recipe(name)
    if r.table == 5 or name == 'imagenet/resnet152-resnet50':
        assert r.laptop is None
    else:
        assert recipe(r.laptop).pair == r.pair and r.laptop in LAPTOP


@pytest.mark.parametrize('name', LAPTOP)
def test_laptop_recipes_are_of_the_recorded_sweeps(name):
    "The demo's pairs, on images that teacher and student share, with the optimizer of recorded:methods."
    from ofa_learn.demo import _TEACHER_EPOCHS, PAIRS
    from ofa_learn.sweeps import load_plan

    r, plan = recipe(name), load_plan('recorded:methods')
    assert (r.teacher_model, r.student_model) == PAIRS[name.removeprefix('laptop/')]
    assert r.teacher_epochs == _TEACHER_EPOCHS[r.teacher_model]
    assert r.train_images == plan.parts['train'] == 300 and r.augment == dict(shift=plan.augment.shift)
    assert (r.opt, r.lr) == (plan.grid['opt'], plan.grid['lr'])
    assert (r.epochs, r.gamma, r.batch_size) == (80, 1.4, 50)


def test_laptop_takes_fits_own_defaults():
    import inspect

    from ofa_learn.runs import teach
    from ofa_learn.training import fit

    r, default = (
        recipe('laptop/cnn-mlp'),
        {k: p.default for k, p in inspect.signature(fit).parameters.items()},
    )
    for key in ('weight_decay', 'sched', 'warmup_epochs', 'min_lr', 'clip'):
        assert getattr(r, key) == default[key], key
    assert (r.teacher_lr, r.teacher_opt) == (
        inspect.signature(teach).parameters['lr'].default,
        default['opt'],
    )


@pytest.mark.parametrize(
    'name', ['cifar100/convnext_t-deit_t', 'imagenet/resnet34-resnet18', 'laptop/cnn-vit']
)
def test_every_tasks_options_are_taken(name):
    "The options of a recipe, on micro models, for the methods that there are."
    import torch

    import ofa_learn.logits  # noqa: F401
    from ofa_learn import tasks
    from ofa_learn.models import make_model
    from ofa_learn.tasks import create_task

    r, x, y = recipe(name), torch.randn(4, 1, 8, 8), torch.arange(4)
    known = tasks.all_methods()
    there = [m for m in r.methods if m in known]
    assert {'labels', 'deep_supervision', 'kd', 'ofa'} <= set(there)
    for m in there:
        if m == 'crd':
            continue  # takes the data set's size and labels as well
        teacher = None if m in ('labels', 'deep_supervision') else make_model('micro_resnet')
        task = create_task(
            m, 'micro_vit', teacher, input_size=(1, 8, 8), label_smoothing=r.smoothing, **r.methods[m]
        )
        assert task(x, y)['loss'].isfinite(), m


def test_nobody_can_change_it_for_others():
    r = recipe('cifar100/swin_t-resnet18')
    with pytest.raises(dataclasses.FrozenInstanceError):
        r.lr = 1.0
    r.augment['flip'] = 0.0
    r.input_size[0] = 1
    r.methods['ofa'].clear()
    r.provenance.clear()
    paper_models().clear()
    paper_table(2)[0]['ofa'] = 0.0
    successors()[0].clear()
    again = recipe('cifar100/swin_t-resnet18')
    assert (
        again.augment['flip'] == 0.5
        and again.input_size == [3, 224, 224]
        and again.methods['ofa']
        and again.provenance
    )
    assert paper_models() and paper_table(2)[0]['ofa'] == 80.54 and successors()[0]


def test_changes_are_yours():
    r = recipe('imagenet/vit_b-resnet50', epochs=10, gamma=1.2)
    assert (r.epochs, r.gamma, r.methods['ofa']['gamma']) == (10, 1.2, 1.2)
    assert [r.provenance[k] for k in ('epochs', 'gamma', 'lr')] == ['yours', 'yours', 'released']
    assert 'gamma' not in r.notes and re.search(r'epochs +10 +yours', describe(r))


WRONG = [
    (lambda: recipe('swin_t-resnet18'), 'did you mean .*cifar100/swin_t-resnet18'),
    (lambda: recipe('laptop/vit-vit'), 'did you mean laptop/'),
    (lambda: recipe('?'), 'see recipes'),
    (lambda: recipe(None), 'no recipe None'),
    (lambda: recipe('laptop/cnn-vit', 'released'), 'settings: laptop/cnn-vit is no pair of the paper'),
    (lambda: recipe('laptop/cnn-vit', 'authors_run'), 'has one set of its own; leave it out'),
    (
        lambda: recipe('imagenet/resnet50-deit_t', 'both'),
        "settings: expected 'released' or 'authors_run', got 'both'",
    ),
    (lambda: recipe('laptop/cnn-vit', learning_rate=1), 'learning_rate: not a setting'),
    (lambda: recipe('laptop/cnn-vit', teacher='x'), 'teacher: not a setting'),
    (lambda: paper_numbers('laptop/cnn-vit'), 'is a laptop recipe'),
    (lambda: successors('x'), 'system: expected one of'),
    (lambda: steps(recipe('laptop/cnn-vit', epochs=0)), 'epochs: expected an integer from 1, got 0'),
    (lambda: steps(recipe('laptop/cnn-vit'), images=2.5), 'images: expected an integer'),
    (lambda: describe('laptop/cnn-vit', at_once=0), 'at_once: expected a divisor'),
    (lambda: describe('laptop/cnn-vit', at_once=51), 'at_once: expected a divisor'),
]


@pytest.mark.parametrize('call, said', WRONG)
def test_errors(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_unhashable_name():
    with pytest.raises((ValueError, TypeError)):
        recipe(['laptop/cnn-vit'])


def test_steps():
    assert steps(recipe('cifar100/swin_t-resnet18')) == (48, 14_400)  # the authors' log counts 48
    assert steps(recipe('imagenet/deit_t-resnet18')) == (2502, 250_200) and steps(
        recipe('laptop/mlp-cnn')
    ) == (6, 480)
    assert steps(recipe('laptop/mlp-cnn'), images=10) == (1, 80)


def test_steps_are_fits():
    from ofa_learn.data import Batches, digits, split

    r = recipe('laptop/mlp-cnn')
    for n in (120, 300):
        data = split(digits(), train=n)
        assert len(Batches(data.train, data.norm, r.batch_size)) == steps(r, n)[0]


@pytest.mark.parametrize('name', recipes())
def test_described(name):
    r = recipe(name)
    text = describe(r)
    for key, origin in r.provenance.items():
        assert re.search(rf'^  {key} +.*\b{origin}\b', text, re.M), key
    assert (
        text == describe(name)
        and f'{steps(r)[1]:,} in {r.epochs} epochs' in text
        and all(x in text for x in r.remarks)
    )
    assert ('Table' in text.split('steps:')[1]) == (r.table is not None) and (
        r.laptop is None or f'laptop version: {r.laptop}' in text
    )
    assert ('unknown' in text) == ('unknown' in r.provenance.values())


def test_batch_norm_is_warned_about():
    assert 'warning' not in describe(
        'cifar100/swin_t-resnet18', at_once=128
    ) and '8 micro-batches of 128' in describe('cifar100/swin_t-resnet18', at_once=128)
    assert 'warning: batch norm sees 32 images at a time, the original 256' in describe(
        'imagenet/vit_b-resnet50', at_once=32
    )


def test_gains_and_numbers():
    p = paper_numbers('cifar100/swin_t-resmlp_s12')
    assert (
        p['table'],
        p['teacher'],
        p['scratch'],
        p['methods']['dist'],
        p['gains']['dist'],
        p['gains']['ofa'],
    ) == (2, 89.26, 66.56, 11.05, -55.51, 14.07)
    assert gains(paper_table(5)[0])['ofa'] == 2.35 and paper_numbers(recipe('imagenet/resnet50-swin_n'))[
        'with_fitnet'
    ] == ('dkd', 'dist', 'ofa')


def test_successors_are_marked():
    rows = successors()
    assert {r['hand'] for r in rows} == {'second', 'abstract'} and all(r['source'] for r in rows)
    assert {r['system'] for r in rows if r['hand'] == 'abstract'} == {'scalekd'}
    best = {
        (r['system'], r['teacher'], r['student'], r['dataset']): r['accuracy']
        for r in rows
        if r['what'] == 'whole method'
    }
    assert (
        best['rsd', 'Swin-T', 'ResNet18', 'cifar100'] == 83.92
        and best['hcd', 'Swin-T', 'MobileNetV2', 'cifar100'] == 82.19
    )
    assert best['scalekd', 'Swin-L', 'ResNet50', 'imagenet'] == 82.03
    assert [(m['system'], m['gain'], m['hand']) for m in successor_means()] == [
        ('rsd', 10.69, 'second'),
        ('fbt', 8.38, 'second'),
        ('pat', 8.17, 'second'),
    ]


def test_it_is_packed():
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    assert "'static/**/*.json'" in (root / 'setup.py').read_text()
    assert '*.json' in (root / 'MANIFEST.in').read_text()
