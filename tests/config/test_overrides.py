"""`--set`: where a dotted key leads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hvqray.config.overrides import flatten_parameters, override_text, parse_override
from hvqray.config.parameters import Choice, Range
from hvqray.config.run_config import load_run_config
from hvqray.config.sweep_file import load_sweep
from hvqray.errors import InputError

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))


def test_parses_yaml_values() -> None:
    assert parse_override("train.lr=1e-3") == ("train.lr", 1e-3)
    assert parse_override("model.fsq_levels=[8, 5]") == ("model.fsq_levels", [8, 5])
    assert parse_override("description=a=b") == ("description", "a=b")


@pytest.mark.parametrize("text", ["train.lr", "=3", "train..lr=3", "train.lr=", "train.lr=[1"])
def test_malformed(text: str) -> None:
    with pytest.raises(InputError, match="--set"):
        parse_override(text)


def test_flattens_nested_parameters() -> None:
    nested = {
        "model": {"parameters": {"a": {"value": 1}, "b": {"parameters": {"c": {"value": 2}}}}},
        "d.e": {"value": 3},
    }
    flat = flatten_parameters(nested, source="x")
    assert flat == {"model.a": {"value": 1}, "model.b.c": {"value": 2}, "d.e": {"value": 3}}


@pytest.mark.parametrize(
    "entries",
    [
        {"model": {"parameters": {"a": {"value": 1}}}, "model.a": {"value": 2}},
        {"model.a": {"value": 2}, "model": {"parameters": {"a": {"value": 1}}}},
    ],
)
def test_a_parameter_that_appears_nested_too_is_refused(entries: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"^x: parameters\.model\.a: appears twice, once nested; keep one$"):
        flatten_parameters(entries, source="x")


def test_what_stands_beside_nested_parameters_is_refused_not_dropped() -> None:
    entry = {"parameters": {"lr": {"min": 0.1, "max": 1.0}}, "when": {"model.quantizer": "vq"}}
    with pytest.raises(
        InputError, match=r"^x: parameters\.train: 'when' cannot stand beside nested parameters"
    ):
        flatten_parameters({"train": entry}, source="x")


def test_sets_fixed_fields_and_other_keys(sweep_path: Path) -> None:
    sweep = load_sweep(
        sweep_path,
        [
            "train.epochs=2",
            "data.backbone.name=x",
            "metric.name=val/pixel_ap",
            "run_cap=3",
            "resources={workers: 2}",
        ],
    )
    assert sweep.train["epochs"] == 2
    assert sweep.data["backbone"] == {"name": "x"}
    assert sweep.metric[0].name == "val/pixel_ap"
    assert (sweep.run_cap, sweep.resources.workers) == (3, 2)


def test_fixes_a_searched_parameter_and_keeps_its_condition(sweep_path: Path) -> None:
    sweep = load_sweep(sweep_path, ["train.lr=1e-3", "model.router=predicted"])
    assert sweep.parameters["train.lr"].domain() == Choice((1e-3,))
    assert sweep.parameters["model.router"].domain() == Choice(("predicted",))
    assert sweep.parameters["model.router"].conditions == {"model.name": ["hvq"]}
    assert list(sweep.parameters) == list(load_sweep(sweep_path).parameters)


def test_changes_and_adds_parameters(sweep_path: Path) -> None:
    sweep = load_sweep(
        sweep_path,
        [
            "parameters.train.lr.min=1e-5",
            "parameters.train.batch_size.values=[8, 16]",
            "parameters.train.seed={min: 0, max: 9}",
            "parameters.model.router={values: [none, predicted], when: {model.name: hvq}}",
        ],
    )
    assert sweep.parameters["train.lr"].domain() == Range(1e-5, 3e-3, log=True)
    assert sweep.parameters["train.batch_size"].domain() == Choice((8, 16))
    assert sweep.parameters["train.seed"].domain() == Range(0, 9, step=1, integer=True)
    assert sweep.parameters["model.router"].domain() == Choice(("none", "predicted"))


def test_the_last_of_two_overrides_counts(sweep_path: Path) -> None:
    assert load_sweep(sweep_path, ["train.epochs=2", "train.epochs=3"]).train["epochs"] == 3


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trian.lr=1", "--set: trian.lr: unknown key; did you mean 'train'?"),
        (
            "parameters.train.lr=3",
            "--set: parameters.train.lr: 3 is not a parameter; write --set train.lr=3 to fix it",
        ),
        ("parameters.train.lr.mim=3", "did you mean 'min'?"),
        ("parameters.train.lr.min=1", "--set: parameters.train.lr: min 1 is not below max 0.003"),
        ("parameters.train.lrr.min=1", "--set: parameters.train.lrr"),
        ("train.epochs.x=1", "--set: train.epochs.x: train.epochs is not a mapping; set it as a whole"),
        ("run_cap.x=1", "--set: run_cap"),
        ("parameters=null", "--set: parameters: {} is too short"),
        ("parameters=5", "--set: parameters: 5 is not a mapping of keys to values"),
        ("parameters={train.lr: 5}", "--set: parameters.train.lr: 5 is not a mapping; write {value: 5}"),
        ("parameters.train={parameters: {lr: 5}}", "--set: parameters.train.lr: 5 is not a mapping"),
        ("parameters.min=5", "--set: parameters.min: names no parameter; write parameters.NAME.min"),
    ],
)
def test_faults(sweep_path: Path, override: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        load_sweep(sweep_path, ["run_cap=3", override] if override.startswith("run_cap") else [override])
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["/plain/path.pth", "123", "null", "a #b", "x: y", "[1", "", " x", "1e-3", "é 'q' \"d\"", [8, 5], 3],
)
def test_a_written_override_reads_as_its_value(value: object) -> None:
    assert parse_override(override_text("data.root", value)) == ("data.root", value)


def test_a_plain_text_needs_no_quotes() -> None:
    assert override_text("data.root", "/plain/path.pth") == "data.root=/plain/path.pth"


def test_parameters_set_as_a_whole_may_be_nested(sweep_path: Path) -> None:
    nested = "parameters={train: {parameters: {lr: {values: [0.1, 0.2]}, epochs: {values: [2, 3]}}}}"
    sweep = load_sweep(sweep_path, [nested, "parameters.train.lr.values=[0.3, 0.4]"])
    assert {name: one.values for name, one in sweep.parameters.items()} == {
        "train.lr": [0.3, 0.4],
        "train.epochs": [2, 3],
    }
    assert "epochs" not in sweep.train, "a field that was fixed in the file"
    group = "parameters.train={parameters: {seed: {values: [0, 1]}}}"
    assert load_sweep(sweep_path, [group]).parameters["train.seed"].values == [0, 1]


def test_after_no_parameters_some_may_be_added(sweep_path: Path) -> None:
    sweep = load_sweep(sweep_path, ["parameters=null", "parameters.train.seed.values=[1, 2]"])
    assert list(sweep.parameters) == ["train.seed"]


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_a_parameter_takes_the_place_of_a_fixed_value(path: Path) -> None:
    (fixed,) = {load_sweep(path).train["batch_size"]}
    for override in (
        "parameters.train.batch_size={values: [8, 32]}",
        "parameters.train.batch_size.values=[8, 32]",
    ):
        sweep = load_sweep(path, [override])
        assert sweep.parameters["train.batch_size"].values == [8, 32]
        assert "batch_size" not in sweep.train
        assert sweep.train["epochs"] == load_sweep(path).train["epochs"]
    again = load_sweep(path, [override, f"train.batch_size={fixed}"])
    assert again.parameters["train.batch_size"].domain() == Choice((fixed,))


def test_a_run_has_no_parameters(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("train: {lr: 0.1}\n")
    for override in ("parameters.train.lr.min=0.1", "parameters=5", "parameters={train.lr: {value: 1}}"):
        with pytest.raises(InputError, match=r"^--set: parameters.*: unknown key; known: data, model"):
            load_run_config(tmp_path / "run.yaml", [override])
