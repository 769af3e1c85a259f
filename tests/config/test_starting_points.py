"""Points that a search tries first: what they may say, and what gives way to `--set`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvqray.config.sweep_file import load_sweep
from hvqray.errors import InputError

Write = Callable[..., Path]

PARAMETERS = """{
  model.name: {values: [hvq, squad]},
  model.fsq_levels: {values: [[8, 6, 5], [8, 5, 5, 5]]},
  model.router: {values: [oracle, none], when: {model.name: hvq}},
  model.hierarchy_depth: {min: 1, max: 3},
  model.width: {distribution: q_uniform, q: 32, min: 64, max: 128},
  train.lr: {distribution: log_uniform_values, min: 3e-4, max: 3e-3},
  train.seed: {value: 4}}"""
WHOLE = (
    "{model.name: hvq, model.fsq_levels: [8, 6, 5], model.router: none, model.hierarchy_depth: 2,"
    " model.width: 96, train.lr: 1e-3}"
)
PART = "{train.lr: 2e-3, model.name: squad, train.seed: 4}"


@pytest.fixture
def path(write: Write) -> Path:
    lines = ["points_to_evaluate:", f"  - {WHOLE}", f"  - {PART}", "model: {quantizer: fsq}", "run_cap: 9"]
    return write(PARAMETERS, *lines)


def points(path: Path, *overrides: str) -> list[dict[str, Any]]:
    return load_sweep(path, overrides).points_to_evaluate


def test_points_hold_the_values_of_what_is_searched_in_its_order(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, part = points(path)
    assert list(whole.items()) == [
        ("model.name", "hvq"),
        ("model.fsq_levels", [8, 6, 5]),
        ("model.router", "none"),
        ("model.hierarchy_depth", 2),
        ("model.width", 96),
        ("train.lr", 1e-3),
    ]
    assert isinstance(whole["model.hierarchy_depth"], int)
    assert list(part.items()) == [("model.name", "squad"), ("train.lr", 2e-3)]
    assert not caplog.records


def test_a_file_may_have_none(write: Write) -> None:
    assert points(write("{train.lr: {values: [1e-3]}}")) == []
    assert points(write("{train.lr: {values: [1e-3]}}", "points_to_evaluate:")) == []


def test_points_are_written_back(path: Path, tmp_path: Path) -> None:
    sweep = load_sweep(path, ["train.lr=1e-3"])
    (tmp_path / "again.yaml").write_text(sweep.to_yaml())
    again = load_sweep(tmp_path / "again.yaml", ["name=space"])
    assert again.points_to_evaluate == sweep.points_to_evaluate != []


def test_what_set_fixes_gives_way(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, part = points(path, "train.lr=1.5e-3")
    assert "train.lr" not in whole
    assert part == {"model.name": "squad"}
    assert len(points(path, "train.lr=2e-3", "model.name=squad")) == 0  # nothing is left to say
    assert [record.getMessage() for record in caplog.records if "points" in record.getMessage()] == [
        f"{path}: points_to_evaluate[0]: is left out, as model.name is fixed at another value"
    ]


def test_a_condition_that_set_changed_gives_way(write: Write) -> None:
    lines = ["points_to_evaluate:", "  - {model.router: none, train.lr: 1e-3}", "model: {quantizer: fsq}"]
    path = write(PARAMETERS, *lines)
    assert points(path, "model.name=hvq") == [{"model.router": "none", "train.lr": 1e-3}]
    assert points(path, "model.name=squad") == [{"train.lr": 1e-3}]
    assert points(path, "parameters.model.router.when={model.name: squad}", "model.name=hvq") == [
        {"train.lr": 1e-3}
    ]


def test_a_range_that_set_narrowed_leaves_the_value_to_the_sampler(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, part = points(path, "parameters.train.lr.max=1.5e-3")
    assert whole["train.lr"] == 1e-3
    assert part == {"model.name": "squad"}
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "points_to_evaluate[1].train.lr: is never 0.002 with --set (it takes 0.0003 to 0.0015): left to the sampler"
    )


def test_parameters_that_set_took_away_are_passed_over(path: Path) -> None:
    assert points(path, "parameters={train.lr: {min: 1e-4, max: 1e-2}}") == [
        {"train.lr": 1e-3},
        {"train.lr": 2e-3},
    ]


def test_more_points_than_trials_are_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_sweep(path, num_trials=1)
    (record,) = caplog.records
    told = "points_to_evaluate: the last 1 point of 2 are not tried, as there are no more trials"
    assert record.getMessage() == f"{path}: {told}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("3", "points_to_evaluate: 3 is not a list"),
        ("[3]", "points_to_evaluate[0]: 3 is not a mapping of keys to values"),
        ("[{}]", "points_to_evaluate[0]: is empty; name a parameter and its value, or remove it"),
        (f"[{PART}, {PART}]", "points_to_evaluate[1]: is there twice; keep one"),
        (
            "[{train.lrr: 1}]",
            "points_to_evaluate[0].train.lrr: is no parameter of this file; did you mean 'train.lr'?",
        ),
        (
            "[{train: {lr: 1e-3}}]",
            "points_to_evaluate[0].train: is no parameter of this file",
        ),
        (
            "[{train.lr: 1}]",
            "points_to_evaluate[0].train.lr: is never 1; it takes 0.0003 to 0.003; change it, or the parameter",
        ),
        ("[{train.lr: true}]", "points_to_evaluate[0].train.lr: is never true"),
        ("[{train.lr: fast}]", 'points_to_evaluate[0].train.lr: is never "fast"'),
        ("[{train.lr: .nan}]", "points_to_evaluate[0].train.lr: is never NaN"),
        (
            "[{model.fsq_levels: [8, 5]}]",
            "points_to_evaluate[0].model.fsq_levels: is never [8, 5]; it takes [8, 6, 5], [8, 5, 5, 5];",
        ),
        (
            "[{model.width: 80}]",
            "points_to_evaluate[0].model.width: is never 80; it takes 64 to 128 in steps of 32;",
        ),
        (
            "[{model.hierarchy_depth: 1.5}]",
            "points_to_evaluate[0].model.hierarchy_depth: is never 1.5; it takes 1 to 3;",
        ),
        (
            "[{train.seed: 5}]",
            "points_to_evaluate[0].train.seed: is 5, but the parameter is fixed at 4; remove one of the two",
        ),
        (
            "[{model.name: squad, model.router: none}]",
            'points_to_evaluate[0].model.router: does not apply where model.name is "squad"; remove it',
        ),
    ],
)
def test_faults(path: Path, given: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        points(path, f"points_to_evaluate={given}")
    assert str(caught.value).startswith(f"--set: {message}")


def test_points_of_the_command_line_do_not_give_way(path: Path) -> None:
    with pytest.raises(InputError, match=r"--set: points_to_evaluate\[0\]\.train\.lr: is 0\.002, but"):
        points(path, "train.lr=1e-3", "points_to_evaluate=[{train.lr: 2e-3}]")


def test_a_point_that_is_no_configuration_is_told_before_the_search(write: Write) -> None:
    """Of three values any two go together."""
    parameters = """{model.codebook_size: {values: [64, 4096]}, model.codebook_growth: {values: [1, 4]},
        model.hierarchy_depth: {values: [1, 4]}}"""
    largest = "model.codebook_size: 4096, model.codebook_growth: 4"
    path = write(parameters, f"points_to_evaluate: [{{{largest}, model.hierarchy_depth: 4}}]")
    with pytest.raises(InputError) as caught:
        load_sweep(path)
    assert str(caught.value).startswith(
        f"{path}: points_to_evaluate[0].model.codebook_growth: 4 makes 1048576 codes at q0, more than 65536; lower it"
    )
    assert len(points(path, f"points_to_evaluate=[{{{largest}}}]")) == 1  # the depth is still to be suggested


def test_what_cannot_apply_is_refused_however_deep_it_stands(write: Write) -> None:
    parameters = """{model.quantizer: {values: [vq, fsq]},
        model.revive_dead_codes: {values: [false, true], when: {model.quantizer: vq}},
        model.revive_after: {values: [20, 50], when: {model.revive_dead_codes: true}}}"""
    path = write(parameters)
    with pytest.raises(InputError) as caught:
        points(path, "points_to_evaluate=[{model.quantizer: fsq, model.revive_after: 50}]")
    field = "points_to_evaluate[0].model.revive_after"
    assert str(caught.value) == (
        f"--set: {field}: does not apply where model.revive_dead_codes does not either; remove it"
    )
    assert points(path, "points_to_evaluate=[{model.quantizer: vq, model.revive_after: 50}]") == [
        {"model.quantizer": "vq", "model.revive_after": 50}  # whether codes are revived is suggested
    ]


def test_files_of_weights_are_named_from_the_current_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "data.backbone.weights"
    path = write(f"{{{name}: {{values: [auto, ./w.pth]}}}}", f"points_to_evaluate: [{{{name}: ./w.pth}}]")
    assert points(path) == [{name: str(tmp_path / "w.pth")}]
