"""Labels as they are in life: unequal classes, hard answers, and targets that are none."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from ofa_learn.checkpoints import Stopped
from ofa_learn.data import Splits, balanced_order, digits, split
from ofa_learn.models import make_model
from ofa_learn.tasks import all_methods, create_task
from ofa_learn.training import fit

DATA = split(digits(), train=200)
QUIET = dict(device='cpu', progress=False)
ALL = sorted(all_methods())


def unequal(rare=2, of=20):
    "The digits with few images of 5 to 9 among the training images."
    labels = DATA.train.labels
    rows = [(labels == c).nonzero()[: rare if c > 4 else of, 0] for c in range(10)]
    return Splits(DATA.train.take(torch.cat(rows)), DATA.valid, DATA.test, DATA.norm)


@pytest.fixture(autouse=True)
def no_noise():
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='rsd: a batch')
        yield


@pytest.mark.parametrize('n', [5, 37, 110, 300])
@pytest.mark.parametrize('sizes', [[20] * 5 + [2] * 5, [1, 50], [7], [3, 3, 3], [1, 2, 4, 8, 16, 32]])
def test_every_class_comes_equally_often(n, sizes):
    "In each epoch and over all of them up to one, and each image of a class as often as its others."
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes)) * 2  # 0, 2, 4: gaps
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    seen = torch.zeros(len(labels), dtype=torch.int64)
    for epoch in range(6):
        rows = balanced_order(labels, n, 3, epoch)
        assert len(rows) == n
        assert torch.equal(rows, balanced_order(labels, n, 3, epoch))
        seen += rows.bincount(minlength=len(labels))
        counts = labels[rows].bincount(minlength=2 * len(sizes))[::2]
        assert counts.max() - counts.min() <= 1
    for c in labels.unique():
        assert seen[labels == c].max() - seen[labels == c].min() <= 1
    total = torch.stack([seen[labels == c].sum() for c in labels.unique()])
    assert total.max() - total.min() <= 1


def test_orders_differ_by_seed_and_epoch():
    labels = torch.arange(100) % 10
    orders = [balanced_order(labels, 100, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(orders) for b in orders[:i])
    assert all(
        torch.equal(order.sort()[0], torch.arange(100)) for order in orders
    )  # equal already: once each


def test_images_without_a_label_keep_their_share():
    labels = torch.tensor([0] * 30 + [1] * 10 + [-1] * 60)
    counts = (labels[balanced_order(labels, 100, 0, 4)] + 1).bincount().tolist()
    assert counts == [60, 20, 20]
    nobody = torch.full((10,), -1)
    assert balanced_order(nobody, 10, 0, 0).sort()[0].tolist() == list(range(10))


@pytest.mark.parametrize('method', [*ALL, 'ofa+kd'])
def test_every_method_trains_on_a_balanced_order(method):
    data = unequal(rare=1, of=12)
    data = Splits(data.train, data.valid.take(torch.arange(20)), data.test, data.norm)
    task = create_task(method, 'micro_vit', make_model('micro_resnet'), data=data)
    (row,) = fit(task, data, 1, batch_size=13, balanced=True, **QUIET)
    assert all(torch.isfinite(torch.tensor(v)) for v in row['parts'].values())


def weights_of(task):
    return torch.cat([p.detach().flatten() for p in task.student.parameters()])


def test_a_balanced_run_is_resumed_to_the_bit(tmp_path):
    data = unequal()

    def train(**how):
        torch.manual_seed(0)
        task = create_task('kd', 'micro_vit', make_model('micro_resnet'), data=data)
        fit(task, data, 3, **dict(QUIET, batch_size=10, balanced=True) | how)
        return weights_of(task)

    def stop(done):
        if done > 1.4:
            raise KeyboardInterrupt

    whole = train()
    with pytest.raises((Stopped, KeyboardInterrupt)):
        train(out=tmp_path, on_step=stop, save_seconds=0.0001)
    assert torch.equal(whole, train(out=tmp_path, resume=True))
    with pytest.raises(ValueError, match='balanced: True → False'):
        train(out=tmp_path, resume=True, balanced=False)


def test_what_cannot_be_balanced_says_so():
    x, y = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    own = TensorDataset(x, y)
    task = create_task('labels', 'micro_vit', input_size=(1, 8, 8), num_classes=10)
    fit(task, (own, own), 1, balanced=True, **QUIET)
    with pytest.raises(ValueError, match='balanced: the train part is a DataLoader, which has an order'):
        fit(task, (DataLoader(own, 8), own), 1, balanced=True, **QUIET)
    with pytest.raises(ValueError, match='balanced: the labels of the train part are not known'):
        fit(task, ([(a, int(b)) for a, b in own], own), 1, balanced=True, **QUIET)
    with pytest.raises(TypeError, match="balanced: expected True or False, got 'yes'"):
        fit(task, (own, own), 1, balanced='yes', **QUIET)
