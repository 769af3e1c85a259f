from __future__ import annotations

import pytest
import torch
from model_cases import hvq, make_batch, make_model, squad

from hvqray.models.image_score import ImageScore
from hvqray.models.map_ops import top_means
from hvqray.models.route_choice import RouteChoice

SOURCES = ["coarse", "both"]
LOCAL = {"map_distance": "local_mahalanobis", "router": "oracle"}


def test_there_is_a_rule_for_every_source_and_share() -> None:
    maps_BUHW = torch.randn(5, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    shares = [0.0, 0.1, 0.5]
    config = hvq(map_distance="mahalanobis", score_from=SOURCES, score_top_fraction=shares)
    score = ImageScore(config, num_routes=3)
    scores_BS = score(maps_BUHW)
    assert score.rules == [(source, share) for source in SOURCES for share in shares]
    for rule, (source, share) in enumerate(score.rules):
        expected = top_means(maps_BUHW[:, SOURCES.index(source)], [share])[:, 0]
        torch.testing.assert_close(scores_BS[:, rule], expected)


def test_each_route_has_what_was_chosen_for_it() -> None:
    values_BS, route_B = torch.rand(5, 3), torch.tensor([0, 1, 2, 1, 0])
    maps_BAHW = torch.rand(5, 3, 4, 4)
    choice = RouteChoice(3, num_routes=3)
    choice.choose([2, 0, 1])
    chosen = torch.tensor([2, 0, 1])[route_B]
    assert torch.equal(choice.pick(values_BS, route_B), values_BS[torch.arange(5), chosen])
    assert torch.equal(choice.pick(maps_BAHW, route_B), maps_BAHW[torch.arange(5), chosen])


def test_a_single_rule_needs_no_choice_and_no_state() -> None:
    for share in (0.1, [0.1]):
        score = ImageScore(hvq(score_top_fraction=share), num_routes=3)
        assert not score.state_dict()
        prediction = make_model(hvq(score_top_fraction=share)).predict(make_batch())
        assert prediction.candidates is None


@pytest.mark.parametrize("config", [hvq, squad])
def test_the_choice_is_part_of_the_checkpoint(config: object) -> None:
    fields = {
        "map_norm_weight": [0.0, 2.0],
        "feature_codes": 4,
        "map_code_weight": 4.0,
        "score_from": ["fine", "codes"],
        "score_top_fraction": [0.0, 0.5],
    }
    one, other = (make_model(config(**LOCAL, **fields), seed=s) for s in (0, 1))  # type: ignore[operator]
    before = one.predict(make_batch())
    one.image_score.choose([1, 0, 3])
    one.map_choice.choose([1, 1, 1])
    after = one.predict(make_batch())
    assert not torch.equal(before.maps_BHW, after.maps_BHW)
    assert not torch.equal(before.scores_B, after.scores_B)
    other.load_state_dict(one.state_dict())  # type: ignore[attr-defined]
    found = other.predict(make_batch())
    assert torch.equal(found.scores_B, after.scores_B)
    assert torch.equal(found.maps_BHW, after.maps_BHW)


@pytest.mark.parametrize("config", [hvq, squad])
def test_each_alternative_is_what_a_model_of_that_alone_says(config: object) -> None:
    batch, weights, sources = make_batch(), [0.0, 2.0], ["fine", "coarse", "both", "codes"]
    codes = {"feature_codes": 4, "map_code_weight": [1.0, 3.0]}
    several = make_model(config(**LOCAL, **codes, map_norm_weight=weights, score_from=sources))  # type: ignore[operator]
    candidates = several.predict(batch).candidates
    assert candidates is not None
    pairs = [(of_norm, of_codes) for of_norm in weights for of_codes in (1.0, 3.0)]
    for number, (of_norm, of_codes) in enumerate(pairs):
        for rule, source in enumerate(sources):
            codes = {"feature_codes": 4, "map_norm_weight": of_norm, "map_code_weight": of_codes}
            alone = make_model(config(**LOCAL, **codes, score_from=source)).predict(batch)  # type: ignore[operator]
            torch.testing.assert_close(candidates.maps_BAHW[:, number], alone.maps_BHW)
            torch.testing.assert_close(candidates.scores_BS[:, rule], alone.scores_B)


@pytest.mark.parametrize("config", [hvq, squad])
def test_maps_of_several_parts_are_what_models_of_these_parts_say(config: object) -> None:
    """Of errors alone, of features or patches too, and whole."""
    batch, codes = make_batch(), {"feature_codes": 4, "map_code_weight": 3.0}
    whole = codes | {"map_coarse_weight": 0.5}
    alone = [{}, codes, codes | {"map_from": "patches"}, whole]
    fields = {"map_from": ["fine", "codes", "patches", "all"], "score_from": "fine"}
    candidates = make_model(config(**LOCAL, **whole, **fields)).predict(batch).candidates  # type: ignore[operator]
    assert candidates is not None
    assert candidates.maps_BAHW.shape[1] == len(alone)
    for number, parts in enumerate(alone):
        expected = make_model(config(**LOCAL, **parts, score_from="fine")).predict(batch)  # type: ignore[operator]
        torch.testing.assert_close(candidates.maps_BAHW[:, number], expected.maps_BHW)
