"""The vector quantiser against plain loops over classes, tokens and codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from hvqray.quantizers.vq import VectorQuantizer

NUM_CLASSES, CODEBOOK_SIZE, DIM = 3, 5, 4


def alone(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over one rank."""
    return tensor


def make(seed: int = 0, **options: float) -> VectorQuantizer:
    torch.manual_seed(seed)
    return VectorQuantizer(NUM_CLASSES, CODEBOOK_SIZE, DIM, **options)


def tokens(num_images: int, *, seed: int = 1, num_tokens: int = 7) -> torch.Tensor:
    return torch.randn(num_images, num_tokens, DIM, generator=torch.Generator().manual_seed(seed))


def ema_by_loop(
    quantizer: VectorQuantizer, x: np.ndarray, classes: list[int], decay: float
) -> dict[str, np.ndarray]:
    """The formula of the docstring, token by token, in float64."""
    code = quantizer.codebook_MKD.double().numpy().copy()
    count = quantizer.ema_count_MK.double().numpy().copy()
    total = quantizer.ema_sum_MKD.double().numpy().copy()
    for y in sorted(set(classes)):
        n, s = np.zeros(CODEBOOK_SIZE), np.zeros((CODEBOOK_SIZE, DIM))
        for image, image_class in zip(x, classes, strict=True):
            if image_class == y:
                for token in image:
                    k = ((code[y] - token) ** 2).sum(-1).argmin()
                    n[k] += 1
                    s[k] += token
        count[y] = decay * count[y] + (1 - decay) * n
        total[y] = decay * total[y] + (1 - decay) * s
        size = count[y].sum()
        smoothed = size * (count[y] + 1e-5) / (size + CODEBOOK_SIZE * 1e-5)
        code[y] = total[y] / smoothed[:, None]
    return {"code": code, "count": count, "total": total}


def test_lookup_and_commitment_are_those_of_a_loop_over_tokens() -> None:
    quantizer, classes = make(), torch.tensor([2, 0, 2, 1])
    x = tokens(4)
    out = quantizer(x, classes)
    codebook = quantizer.codebook_MKD.double().numpy()
    for image, y in enumerate(classes.tolist()):
        for position in range(x.shape[1]):
            distance = ((codebook[y] - x[image, position].double().numpy()) ** 2).sum(-1)
            assert out.indices_BL[image, position] == distance.argmin()
            assert torch.equal(
                out.quantized_BLD[image, position], quantizer.codebook_MKD[y, distance.argmin()]
            )
    expected = ((out.quantized_BLD.double() - x.double()) ** 2).mean()
    assert out.commitment.item() == pytest.approx(expected.item(), rel=1e-6)


def test_gradient_passes_straight_through_and_commitment_pulls_towards_the_code() -> None:
    quantizer, classes = make(), torch.tensor([0, 1])
    x = tokens(2).requires_grad_()
    out = quantizer(x, classes)
    upstream = torch.randn(out.quantized_BLD.shape)
    (gradient,) = torch.autograd.grad(out.quantized_BLD, x, upstream, retain_graph=True)
    assert torch.equal(gradient, upstream)
    (gradient,) = torch.autograd.grad(out.commitment, x)
    torch.testing.assert_close(gradient, 2 * (x - out.quantized_BLD).detach() / x.numel())


def test_updates_are_those_of_a_loop_over_classes_and_tokens() -> None:
    quantizer = make(decay=0.9)
    classes = [2, 0, 2]
    for step in range(4):
        x = tokens(3, seed=step)
        expected = ema_by_loop(quantizer, x.double().numpy(), classes, decay=0.9)
        quantizer(x, torch.tensor(classes))
        quantizer.update(alone)
        np.testing.assert_allclose(quantizer.ema_count_MK, expected["count"], rtol=1e-5)
        np.testing.assert_allclose(quantizer.ema_sum_MKD, expected["total"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(quantizer.codebook_MKD, expected["code"], rtol=1e-4, atol=1e-6)


def test_few_counts_of_many_codes_are_smoothed_as_in_the_loop() -> None:
    """Where a class's counts are hardly more than K eps, that term of the smoothing is no rounding."""
    quantizer = make(decay=0.9999)
    quantizer.ema_count_MK.fill_(1e-5)
    quantizer.ema_sum_MKD.mul_(1e-5)
    x = tokens(1, num_tokens=1)
    expected = ema_by_loop(quantizer, x.double().numpy(), [1], decay=0.9999)
    quantizer(x, torch.tensor([1]))
    quantizer.update(alone)
    np.testing.assert_allclose(quantizer.codebook_MKD[1], expected["code"][1], rtol=1e-4)
    assert quantizer.codebook_MKD[1].norm() < 0.9 * expected["total"][1].max() / 1e-5


def test_lookup_comes_before_the_update() -> None:
    quantizer, x, classes = make(decay=0.0), tokens(2), torch.tensor([0, 1])
    before = quantizer.codebook_MKD.clone()
    first, second = quantizer(x, classes), quantizer(x, classes)
    assert torch.equal(quantizer.codebook_MKD, before)
    assert torch.equal(first.quantized_BLD, second.quantized_BLD)


def test_absent_class_is_untouched() -> None:
    quantizer = make()
    # Its codes stay as well where they are not what its averages make of them, as those of a published checkpoint.
    quantizer.ema_count_MK.uniform_(0.5, 2, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer(tokens(2), torch.tensor([1, 1]))
    quantizer.update(alone)
    for name, value in quantizer.state_dict().items():
        assert torch.equal(value[[0, 2]], before[name][[0, 2]]), name
        assert not torch.equal(value[1], before[name][1]), name


def test_eval_mode_gathers_nothing() -> None:
    quantizer = make().eval()
    before = quantizer.codebook_MKD.clone()
    quantizer(tokens(2), torch.tensor([0, 1]))
    quantizer.update(alone)
    assert torch.equal(quantizer.codebook_MKD, before)


@pytest.mark.parametrize("revive_after", [None, 2])
def test_two_ranks_with_unevenly_split_classes_learn_the_codebooks_of_one(revive_after: int | None) -> None:
    classes = torch.tensor([0, 0, 0, 1, 0, 1])  # class 2 is absent, class 1 on the second rank only
    parts = [slice(0, 3), slice(3, 6)]
    one = make(decay=0.8, revive_after=revive_after)
    ranks = [make(decay=0.8, revive_after=revive_after) for _ in parts]
    for step in range(6):
        x = 0.1 * tokens(6, seed=step) + 2  # far from most codes, so that some of them die
        one(x, classes)
        one.update(alone)
        for quantizer, part in zip(ranks, parts, strict=True):
            quantizer(x[part], classes[part])
        total = ranks[0].statistics_S + ranks[1].statistics_S
        for quantizer in ranks:
            quantizer.update(lambda statistics, total=total: statistics.copy_(total))
        for name, value in one.state_dict().items():
            torch.testing.assert_close(ranks[0].state_dict()[name], value, rtol=1e-4, atol=1e-5)
            assert torch.equal(ranks[0].state_dict()[name], ranks[1].state_dict()[name]), name


@pytest.mark.parametrize("decay", [0.99, 0.9])
def test_an_unchosen_code_keeps_its_place_until_its_count_decays_to_the_smoothing(decay: float) -> None:
    """Its count is decay^t from a start of 1: 0.05 after 300 steps of 0.99, far below eps = 1e-5 after 110 of 0.9."""
    quantizer = make(decay=decay)
    # Far away, so that codes that shrink towards 0 are not the nearest.
    x = 10 * (quantizer.codebook_MKD[0, 3] + 0.01 * tokens(1)).expand(4, -1, -1)
    start_KD, others = quantizer.codebook_MKD[0].clone(), [0, 1, 2, 4]
    for step in range(1, 301):
        indices_BL = quantizer(x, torch.zeros(4, dtype=torch.int64)).indices_BL
        assert (indices_BL == 3).all()
        quantizer.update(alone)
        count = decay**step
        kept = count / (count + 1e-5)  # of [S (N + eps) / (S + K eps)] against N; S >= 5 here
        torch.testing.assert_close(
            quantizer.codebook_MKD[0, others], kept * start_KD[others], rtol=2e-3, atol=1e-6
        )
    assert quantizer.used_MK[0].tolist() == [False, False, False, True, False]
    assert (kept > 0.999) == (decay == 0.99)
    assert (kept < 1e-6) == (decay == 0.9)


def test_a_code_counts_as_used_from_the_step_on_that_chose_it() -> None:
    quantizer, zero = make(), torch.zeros(1, dtype=torch.int64)
    for code, used in ((3, [3]), (0, [0, 3]), (3, [0, 3])):
        quantizer(quantizer.codebook_MKD[:1, [code]].clone(), zero)
        quantizer.update(alone)
        assert quantizer.used_MK[0].nonzero().flatten().tolist() == used


def test_dead_code_splits_the_busiest() -> None:
    torch.manual_seed(0)
    quantizer = VectorQuantizer(1, 3, 2, decay=0.5, revive_after=3)
    quantizer.codebook_MKD.copy_(torch.tensor([[[0.0, 0.0], [10.0, 0.0], [-99.0, 0.0]]]))
    quantizer.ema_sum_MKD.copy_(quantizer.codebook_MKD)
    busy = torch.tensor([[9.0, -1.0], [9.0, 1.0], [11.0, 1.0], [11.0, 3.0]])
    x = torch.cat([busy, torch.zeros(1, 2)])[None]
    zero = torch.zeros(1, dtype=torch.int64)
    for _ in range(2):
        quantizer(x, zero)
        quantizer.update(alone)
    assert quantizer.codebook_MKD[0, 2, 0] < -90
    source_before = quantizer.ema_count_MK[0, 1].item()
    quantizer(x, zero)
    quantizer.update(alone)
    torch.testing.assert_close(quantizer.codebook_MKD[0, 2], busy.mean(0))
    half = (0.5 * source_before + 0.5 * 4) / 2
    assert quantizer.ema_count_MK[0, 1:].tolist() == pytest.approx([half, half])
    # The codes of source and split agree with their averages, so the next step goes on from where they are.
    averages = quantizer.ema_sum_MKD / quantizer.ema_count_MK[..., None]
    torch.testing.assert_close(averages[0, 1:], quantizer.codebook_MKD[0, 1:], rtol=1e-4, atol=1e-4)
    assert quantizer.steps_unused_MK[0, 2] == 0


def test_a_code_that_one_token_chose_is_not_split() -> None:
    """Split, it would be two codes of one token."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(1, 3, 2, decay=0.5, revive_after=1)
    quantizer.codebook_MKD.copy_(torch.tensor([[[0.0, 0.0], [10.0, 0.0], [-99.0, 0.0]]]))
    quantizer.ema_sum_MKD.copy_(quantizer.codebook_MKD)
    quantizer(torch.tensor([[[1.0, 0.0], [9.0, 0.0]]]), torch.zeros(1, dtype=torch.int64))
    quantizer.update(alone)
    assert quantizer.codebook_MKD[0, 2, 0] < -90
    assert quantizer.ema_count_MK[0].tolist() == [1, 1, 0.5]
    assert quantizer.steps_unused_MK[0].tolist() == [0, 0, 1]


def test_revival_brings_dead_codes_into_use() -> None:
    points, _ = make_blobs(400, n_features=8, centers=16, random_state=0)
    x = torch.from_numpy(points).float()[None] + 50  # far from every code: at first one code takes all
    zero = torch.zeros(1, dtype=torch.int64)
    use = {}
    for revive_after in (None, 5):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(1, 16, 8, decay=0.5, revive_after=revive_after)
        for _ in range(100):
            quantizer(x, zero)
            quantizer.update(alone)
        use[revive_after] = len(quantizer.eval()(x, zero).indices_BL.unique())
    assert use[None] <= 4
    assert use[5] >= 12


def test_kmeans_start_finds_separate_clusters() -> None:
    points, _ = make_blobs([50, 30, 20, 10, 90], n_features=DIM, cluster_std=0.01, random_state=3)
    quantizer = make()
    others = quantizer.codebook_MKD[[0, 2]].clone()
    x = torch.from_numpy(points).float()
    quantizer.start_from_tokens({1: x}, seed=0)
    assert torch.equal(quantizer.codebook_MKD[[0, 2]], others)
    assert quantizer.used_MK[1].all()
    codes = quantizer.codebook_MKD[1].double().numpy()
    indices = quantizer.eval()(x[None], torch.tensor([1])).indices_BL[0].numpy()
    for k in range(CODEBOOK_SIZE):
        np.testing.assert_allclose(codes[k], points[indices == k].mean(0), atol=1e-3)
        share = (indices == k).mean() * CODEBOOK_SIZE
        assert quantizer.ema_count_MK[1, k].item() == pytest.approx(share, rel=1e-4)
    torch.testing.assert_close(
        quantizer.ema_sum_MKD[1], quantizer.codebook_MKD[1] * quantizer.ema_count_MK[1, :, None]
    )


def test_kmeans_start_is_repeatable() -> None:
    books = []
    for _ in range(2):
        quantizer = make()
        quantizer.start_from_tokens({0: tokens(1, num_tokens=60)[0]}, seed=4)
        books.append(quantizer.codebook_MKD)
    assert torch.equal(books[0], books[1])


def test_kmeans_start_with_fewer_tokens_than_codes_leaves_the_rest_unused() -> None:
    quantizer = make()
    before = quantizer.codebook_MKD[0].clone()
    x = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [1.0, 0, 0, 0]])
    quantizer.start_from_tokens({0: x}, seed=0)
    assert quantizer.used_MK[0].tolist() == [True, True, False, False, False]
    assert torch.equal(quantizer.codebook_MKD[0, 2:], before[2:])
    torch.testing.assert_close(quantizer.eval()(x[None], torch.tensor([0])).quantized_BLD[0], x)
    quantizer.train()(x[None], torch.tensor([0]))
    quantizer.update(alone)
    torch.testing.assert_close(quantizer.codebook_MKD[0, 2:], before[2:], rtol=1e-4, atol=0)


def transport_cost_in_float64(x: np.ndarray, codes: np.ndarray, used: np.ndarray) -> np.ndarray:
    costs = []
    for token in x:
        logits = np.array([token @ c / len(codes) for c in codes[used]])
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        cosine = np.array([token @ c / (np.linalg.norm(token) * np.linalg.norm(c)) for c in codes[used]])
        costs.append(((1 - cosine) * p).sum())
    return np.array(costs)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_transport_cost_is_the_formula_over_used_codes(scale: float) -> None:
    """At the larger scale, exponentials without the maximum taken off would overflow."""
    quantizer = make()
    quantizer.codebook_MKD.mul_(scale)
    quantizer.used_MK.copy_(torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]).bool())
    x, classes = scale * tokens(3), [2, 0, 1]
    cost = quantizer.transport_cost(x, torch.tensor(classes))
    for image, y in enumerate(classes):
        codes, used = quantizer.codebook_MKD[y].double().numpy(), quantizer.used_MK[y].numpy()
        expected = transport_cost_in_float64(x[image].double().numpy(), codes, used)
        np.testing.assert_allclose(cost[image], expected, atol=2e-5)


def test_codes_no_longer_used_take_no_part_in_the_transport_cost() -> None:
    """From the count on below which the smoothing takes more than 1 % of a code's length."""
    quantizer, x = make(), tokens(1)
    quantizer.used_MK.fill_(True)
    quantizer.ema_count_MK[0] = torch.tensor([1.0, 9.9e-4, 1.1e-3, 0.0, 5.0])
    cost_L = quantizer.transport_cost(x, torch.tensor([0]))[0]
    living = np.array([True, False, True, False, True])
    codes = quantizer.codebook_MKD[0].double().numpy()
    expected = transport_cost_in_float64(x[0].double().numpy(), codes, living)
    np.testing.assert_allclose(cost_L, expected, atol=2e-5)


def test_transport_cost_is_finite_where_nothing_was_used_yet_and_for_zero_tokens() -> None:
    quantizer = make()
    cost = quantizer.transport_cost(torch.zeros(1, 2, DIM), torch.tensor([0]))
    assert cost.tolist() == [[1.0, 1.0]]
    assert quantizer.transport_cost(tokens(1), torch.tensor([0])).isfinite().all()


def test_a_zero_code_in_use_has_a_cosine_of_zero() -> None:
    quantizer, x = make(), tokens(1)
    quantizer.used_MK[0, :2] = True
    quantizer.codebook_MKD[0, 0] = 0
    token_LD, code_D = x[0], quantizer.codebook_MKD[0, 1]
    share_L = torch.sigmoid(token_LD @ code_D / CODEBOOK_SIZE)
    expected = 1 - share_L * torch.cosine_similarity(token_LD, code_D[None], dim=1)
    torch.testing.assert_close(quantizer.transport_cost(x, torch.tensor([0]))[0], expected)


def test_autocast_changes_nothing() -> None:
    plain, mixed = make(), make()
    x, classes = tokens(3), torch.tensor([0, 1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        out = mixed(x, classes)
        cost = mixed.transport_cost(x, classes)
    expected = plain(x, classes)
    assert torch.equal(out.quantized_BLD, expected.quantized_BLD)
    assert torch.equal(out.commitment, expected.commitment)
    assert torch.equal(mixed.statistics_S, plain.statistics_S)
    assert torch.equal(cost, plain.transport_cost(x, classes))


def test_a_step_never_waits_for_the_device() -> None:
    """Fake tensors have no values, so that whatever asks for one (`.item()`, a mask as index) fails."""
    with FakeTensorMode():
        quantizer = VectorQuantizer(NUM_CLASSES, CODEBOOK_SIZE, DIM, revive_after=3)
        x, classes = torch.empty(2, 7, DIM), torch.empty(2, dtype=torch.int64)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        quantizer(x, classes)
        quantizer.update(alone)
        assert quantizer.transport_cost(x, classes).shape == (2, 7)
