from __future__ import annotations

import pytest
import torch
from model_cases import hvq, make_batch, make_model, squad

from hvqray.models.image_score import ImageScore
from hvqray.models.map_ops import pooled_score


def test_each_route_has_the_share_that_was_chosen_for_it() -> None:
    maps_BHW = torch.randn(5, 12, 12, generator=torch.Generator().manual_seed(0))
    shares = [0.0, 0.1, 0.5]
    score = ImageScore(hvq(score_top_fraction=shares), num_routes=3)
    route_B = torch.tensor([0, 1, 2, 1, 0])
    score.choose([2, 0, 1])
    scores_B, candidates = score(maps_BHW, route_B)
    assert candidates is not None
    assert torch.equal(candidates.route_B, route_B)
    for i, share in enumerate(shares):
        torch.testing.assert_close(candidates.scores_BS[:, i], pooled_score(maps_BHW, 4, share))
    expected = [
        pooled_score(maps_BHW[i : i + 1], 4, [0.5, 0.0, 0.1][route]) for i, route in enumerate(route_B)
    ]
    torch.testing.assert_close(scores_B, torch.cat(expected))


def test_a_single_share_needs_no_choice_and_no_state() -> None:
    for share in (0.1, [0.1]):
        score = ImageScore(hvq(score_top_fraction=share), num_routes=3)
        assert not score.state_dict()
        scores_B, candidates = score(torch.rand(2, 8, 8), torch.tensor([0, 2]))
        assert scores_B.shape == (2,)
        assert candidates is None


@pytest.mark.parametrize("config", [hvq, squad])
def test_the_choice_is_part_of_the_checkpoint(config: object) -> None:
    one, other = (make_model(config(score_top_fraction=[0.0, 0.5], router="oracle"), seed=s) for s in (0, 1))  # type: ignore[operator]
    one.image_score.choose([1, 0, 1])
    other.load_state_dict(one.state_dict())  # type: ignore[attr-defined]
    assert other.image_score.chosen_R.tolist() == [1, 0, 1]
    assert torch.equal(one.predict(make_batch()).scores_B, other.predict(make_batch()).scores_B)
