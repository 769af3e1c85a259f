from __future__ import annotations

import dataclasses

import pytest
from fake_sweep import start_of

from hvqray.results.sweep_folder import BestResult
from hvqray.results.wandb_content import example_stems, model_digest, run_config, run_tags


@pytest.mark.parametrize("validation", ["test", "none"])
def test_every_run_says_whether_it_is_selected_on_test(validation: str) -> None:
    config = {**start_of(0).config, "data": {"validation": {"from": validation}}}
    shown = run_config(dataclasses.replace(start_of(0), config=config))
    assert shown["selected_on_test"] is (validation == "none")


@pytest.mark.parametrize(
    ("run_id", "confirms", "tags"),
    [
        ("t0004", None, ["search"]),
        ("t0004-s1", "t0004", ["confirm", "t0004"]),
        ("t0004-s1-no-quantizer", "t0004", ["no_quantizer", "t0004"]),
        ("t0004-no-quantizer", "t0004", ["no_quantizer", "t0004"]),
    ],
)
def test_a_baseline_has_a_tag_of_its_own(run_id: str, confirms: str | None, tags: list[str]) -> None:
    assert run_tags(dataclasses.replace(start_of(4), trial_id=run_id, confirms=confirms)) == tags


@pytest.mark.parametrize(
    ("num_classes", "per_class", "shown"), [(1, 30, [16]), (2, 30, [8, 8]), (6, 6, [3] * 4 + [2] * 2)]
)
def test_classes_share_the_examples(num_classes: int, per_class: int, shown: list[int]) -> None:
    stems = [f"metal_nut{name}_{number:03d}" for name in range(num_classes) for number in range(per_class)]
    found = example_stems(reversed(stems))
    assert [
        sum(stem.startswith(f"metal_nut{name}_") for stem in found) for name in range(num_classes)
    ] == shown
    assert found == sorted(found)


def test_no_class_is_without_an_example() -> None:
    stems = [f"part{name:02d}_{number:03d}" for name in range(20) for number in range(3)]
    assert example_stems(stems) == stems[::3]
    few = ["bolt_000", *(f"nut_{number:03d}" for number in range(30))]
    assert example_stems(few) == few[:16], "what one class lacks the others have"
    assert example_stems([]) == []


def test_models_are_told_apart() -> None:
    best = BestResult("t0004", "t0004-s1", False, {"val/mad": 0.5, "test/mad": None}, {}, [], epoch=3)
    changed = [
        dataclasses.replace(best, run_id="t0004-s2"),
        dataclasses.replace(best, epoch=2),
        dataclasses.replace(best, metrics={"val/mad": 0.5, "test/mad": 0.25}),
    ]
    assert len({model_digest(each) for each in (best, *changed)}) == 4
    assert model_digest(dataclasses.replace(best, environment={"torch": "3"})) == model_digest(best)
