"""Which images an epoch takes."""

from __future__ import annotations

import numpy as np
import pytest

from hvqray.training.sampling import batches, class_quotas, epoch_indices, num_batches, rank_rows

CLASSES = np.repeat([0, 1, 3], [40, 10, 4])


def draw(epoch: int, *, total: int | None = None, balance: float = 0.0, seed: int = 0) -> np.ndarray:
    return epoch_indices(CLASSES, epoch=epoch, seed=seed, images_per_epoch=total, class_balance=balance)


def test_a_plain_epoch_is_a_permutation_that_differs_by_epoch_and_seed() -> None:
    first = draw(0)
    assert sorted(first) == list(range(len(CLASSES)))
    assert not np.array_equal(first, draw(1))
    assert not np.array_equal(first, draw(0, seed=1))
    assert np.array_equal(first, draw(0))


def test_no_image_comes_again_before_all_of_its_class_came() -> None:
    times = np.zeros(len(CLASSES), dtype=int)
    for epoch in range(20):
        np.add.at(times, draw(epoch, total=9, balance=1.0), 1)
        for c in (0, 1, 3):
            of_class = times[c == CLASSES]
            assert of_class.sum() == 3 * (epoch + 1)
            assert of_class.max() - of_class.min() <= 1


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("total", [600, 16, 3])
def test_quotas_sum_up_and_follow_the_power_of_the_counts(balance: float, total: int) -> None:
    counts = np.array([756, 500, 0, 97, 31])
    quotas = class_quotas(counts, total=total, class_balance=balance, num_epochs=400)
    shares = np.array([0 if n == 0 else n ** (1 - balance) for n in counts])
    exact = total * shares / shares.sum()
    assert (quotas.sum(axis=1) == total).all()
    assert (quotas[:, 2] == 0).all()
    assert np.abs(quotas - exact).max() < 1
    # Over the epochs nobody loses by the rounding, not even a class with less than an image an epoch.
    assert np.abs(quotas.mean(axis=0) - exact).max() < 0.02


def test_quotas_of_whole_shares_are_these_in_every_epoch() -> None:
    counts = np.array([7, 1, 0, 3, 10])
    quotas = class_quotas(counts, total=21, class_balance=0.0, num_epochs=1000)
    assert (quotas == counts).all()


def test_a_class_too_small_for_an_image_an_epoch_comes_all_the_same() -> None:
    classes = np.repeat([0, 1, 2, 3], [756, 300, 297, 31])
    seen = [
        classes[epoch_indices(classes, epoch=epoch, seed=0, images_per_epoch=16, class_balance=0.0)]
        for epoch in range(20)
    ]
    assert 5 <= sum(int((one == 3).sum()) for one in seen) <= 9  # 20 * 16 * 31 / 1384 = 7.2


def test_batches_drop_the_incomplete_last_one_but_never_all() -> None:
    assert [len(batch) for batch in batches(np.arange(10), batch_size=4)] == [4, 4]
    assert [len(batch) for batch in batches(np.arange(3), batch_size=4)] == [3]
    assert (num_batches(10, batch_size=4), num_batches(3, batch_size=4)) == (2, 1)


@pytest.mark.parametrize(("rows", "world"), [(16, 3), (7, 2), (5, 5), (16, 1)])
def test_ranks_share_a_batch_without_gap_or_overlap(rows: int, world: int) -> None:
    parts = [rank_rows(rows, rank=rank, world_size=world) for rank in range(world)]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(rows))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
