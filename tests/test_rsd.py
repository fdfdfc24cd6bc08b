"RSD on pooled features, on logits and on stages: what each correlates, and that the default is what it was."

import numpy as np
import pytest
import torch
import torch.nn as nn

from ofa_learn.data import digits, split
from ofa_learn.models import find_taps, make_model
from ofa_learn.rsd import Decoupler, rsd_loss
from ofa_learn.tasks import create_task

DATA = split(digits(), train=100)
X, Y = DATA.norm(DATA.train.images[:24]), DATA.train.labels[:24]
MICRO = ('micro_resnet', 'micro_vit', 'micro_mixer')
pytestmark = pytest.mark.filterwarnings('ignore:rsd. a batch')


def make(student='micro_vit', teacher='micro_resnet', **options):
    torch.manual_seed(0)
    teacher = make_model(teacher) if isinstance(teacher, str) else teacher
    return create_task('rsd', student, teacher, data=DATA, **options)


def slow(s, t, kappa=0.01):
    "Entry by entry in NumPy's float64."
    s, t = ((v - v.mean(0)) / (v.std(0) + 1e-5) for v in (x.detach().double().numpy() for x in (s, t)))
    P = np.einsum('bi,bj->ij', t, s) / len(s)
    return ((np.diag(P) - 1) ** 2).sum() + kappa * ((P**2).sum() - (np.diag(P) ** 2).sum())


def test_the_default_is_what_it_was_to_the_bit():
    "The heads are made from the same random numbers, stand under the same names, and give the same loss."
    task = make()
    torch.manual_seed(0)
    resnet, vit = make_model('micro_resnet'), make_model('micro_vit')
    taps = find_taps(vit, (1, 8, 8)), find_taps(resnet, (1, 8, 8))
    head = Decoupler(taps[0].width, taps[1].width)
    for a, b in ((task.student, vit), (task.trainable_module.heads, head)):
        assert list(a.state_dict()) == list(b.state_dict())
        assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    assert (
        task.needs == ('pooled',)
        and task.status == 'paper'
        and set(task(X, Y)) == {'loss', 'output', 'ce', 'rsd'}
    )
    features, projected = task.trainable_module.train()(X, None)
    torch.manual_seed(0)
    again = make(features='pooled').train()(X, Y)
    assert torch.equal(again['rsd'], 0.1 * rsd_loss(projected, task.answers(X).pooled))


@pytest.mark.parametrize('student', MICRO)
@pytest.mark.parametrize('features', ['logits', 'stages'])
def test_each_term_by_hand(features, student):
    task = make(student, features=features).train()
    out = task(X, Y)  # the batch norms of `train` use the batch, whatever they have counted
    with torch.no_grad():
        _, vectors = task.trainable_module(X, None)
    of_teacher = task.answers(X)
    if features == 'logits':
        assert out['rsd'].item() == pytest.approx(0.1 * slow(vectors, of_teacher.logits), rel=1e-3)
        assert task.needs == ('logits',) and of_teacher.pooled is None
        return
    assert len(vectors) == 5 and task.needs == ('pooled',)
    for name, v in zip(('rsd', 'stage_1', 'stage_2', 'stage_3', 'stage_4'), vectors):
        assert out[name].item() == pytest.approx(0.1 * slow(v, of_teacher.pooled), rel=1e-3)
    out['loss'].backward()
    assert all(p.grad is not None for p in task.trainable_module.parameters())
    assert task.status == 'reconstructed'


def test_logits_want_no_more_than_logits_and_stages_join_others():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert 'rsd' in make(teacher=plain, features='logits')(X, Y)
    with pytest.raises(ValueError, match='these methods would work'):
        make(teacher=plain, features='stages')
    torch.manual_seed(0)
    joined = create_task(
        'kd+rsd',
        'micro_vit',
        make_model('micro_resnet'),
        data=DATA,
        options_of=dict(rsd=dict(features='stages')),
    )
    assert {'rsd_rsd', 'rsd_stage_1', 'rsd_stage_4', 'kd_kd'} <= set(joined(X, Y))


def test_any_student_that_gives_logits_will_do_where_logits_are_all():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    task = make(plain, features='logits')
    out = task(X, Y)
    with torch.no_grad():
        _, vectors = task.trainable_module(X, None)
    assert out['rsd'].item() == pytest.approx(0.1 * slow(vectors, task.answers(X).logits), rel=1e-3)
    with pytest.raises(ValueError, match='taps'):
        make(plain)


class Masked(nn.Module):
    "A network that has no answer for one class."

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x).index_fill(1, torch.tensor([3]), -torch.inf)


@pytest.mark.parametrize('who', ['student', 'teacher'])
def test_a_masked_class_correlates_with_nothing(who):
    masked = Masked(make_model('micro_resnet'))
    task = make(features='logits', **{who: masked})
    with pytest.raises(ValueError, match=f'{who}: its logits of 1 classes, such as 3, are not finite'):
        task(X, Y)


def test_a_teacher_without_a_classifier_serves_pooled_features_and_stages():
    for features in ('pooled', 'stages'):
        assert make(teacher=make_model('micro_resnet', 0), features=features)(X, Y)['loss'].isfinite()


def test_other_features_are_refused():
    with pytest.raises(ValueError, match="features: expected one of pooled, logits, stages, got 'maps'"):
        make(features='maps')


def test_under_autocast_and_in_float64():
    for features in ('logits', 'stages'):
        with torch.autocast('cpu', torch.bfloat16):
            out = make(features=features)(X, Y)
        assert all(v.dtype == torch.float32 and v.isfinite() for k, v in out.items() if k not in ('output',))
        task = make(features=features).double()
        assert task(X.double(), Y)['loss'].dtype == torch.float64
