"""`model.quantizer` and `model.codebook_size` as lists, an entry for each level: what is taken, refused and warned of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hvqray.config.run_config import build_run_config, load_run_config, run_config_yaml
from hvqray.config.sweep_file import load_sweep
from hvqray.errors import InputError

Write = Callable[..., Path]

FAULTS = [
    ("{model.codebook_size: {values: [[64, 128, 128], [32, 64]]}}", "codebook_size: a list of 2 does not go with hierarchy_depth 2; give 3, for top, q1, q0"),
    ("{model.codebook_size: {value: []}}", "codebook_size: a list of 0 does not go with hierarchy_depth 2"),
    ("{model.quantizer: {values: [vq, [vq, vq]]}}", "quantizer: a list of 2 does not go with hierarchy_depth 2; give 3, for top, q1, q0"),
    # Of two searched, each value is right beside the first of the other.
    ("{model.hierarchy_depth: {values: [2, 3]}, model.codebook_size: {values: [64, [8, 8, 8]]}}", "codebook_size: a list of 3 does not go with hierarchy_depth 3; give 4, for top, q2, q1, q0; change one, or"),
    ("{model.hierarchy_depth: {min: 1, max: 3}, model.quantizer: {values: [vq, [fsq, vq, vq]]}}", "quantizer: a list of 3 does not go with hierarchy_depth 1; give 2, for top, q0; change one, or"),
    ("{model.codebook_size: {values: [[64, 0, 8]]}}", "parameters.model.codebook_size: 0 is out of range; must be at least 1 (in [64, 0, 8])"),
    ("{model.codebook_size: {values: [[64, 1.5, 8]]}}", "parameters.model.codebook_size: 1.5 is not an integer (in [64, 1.5, 8])"),
    ("{model.quantizer: {values: [[vq, none, vq]]}}", 'parameters.model.quantizer: "none" is not one of vq, fsq (in ["vq", "none", "vq"])'),
    ("{model.quantizer: {values: [[vq, vq, fsq]]}}", "ot_levels: [0] names q0, whose quantizer is fsq; name levels with vq, or []"),
    ("{model.quantizer: {value: [vq, fsq, vq]}, model.ot_levels: {values: [[0], [1]]}}", "ot_levels: [1] names q1, whose quantizer is fsq"),
    ("{model.name: {value: squad}, model.codebook_size: {values: [[64, 64]]}}", "parameters.model.codebook_size: [64, 64] is not an integer"),
    ("{model.name: {value: squad}, model.quantizer: {value: [vq, vq]}}", 'parameters.model.quantizer: ["vq", "vq"] is not one of vq, fsq, none'),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "told"), FAULTS, ids=[told[:60] for _, told in FAULTS])
def test_faults_are_told_in_one_line(write: Write, parameters: str, told: str) -> None:
    path = write(parameters)
    with pytest.raises(InputError) as caught:
        load_sweep(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_lists_are_values_of_a_search(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    sizes, kinds = [[64, 128, 128], [32, 64, 64], 48], [["vq", "fsq", "vq"], "vq"]
    sweep = load_sweep(
        write(f"{{model.codebook_size: {{values: {sizes}}}, model.quantizer: {{values: {kinds}}}}}")
    )
    assert not caplog.records
    assert sweep.parameters["model.codebook_size"].domain().samples() == sizes
    runs = [
        build_run_config({}, {"model.codebook_size": size, "model.quantizer": kind}).model
        for size, kind in ((sizes[0], kinds[0]), (48, "vq"))
    ]
    assert [run.codebook_sizes() for run in runs] == [[64, 128, 128], [48, 48, 48]]
    assert [run.quantizers() for run in runs] == [["vq", "fsq", "vq"], ["vq", "vq", "vq"]]


def test_ot_may_be_without_weight_at_any_level() -> None:
    build_run_config({}, {"model.quantizer": ["vq", "vq", "fsq"], "model.ot_weight": 0.0})
    build_run_config({}, {"model.quantizer": ["vq", "vq", "fsq"], "model.ot_levels": [1]})
    build_run_config({}, {"model.quantizer": ["fsq", "fsq", "fsq"]})


def test_a_written_configuration_reads_back(tmp_path: Path) -> None:
    config = build_run_config({}, {"model.quantizer": ["fsq", "vq", "vq"], "model.codebook_size": [8, 16, 4]})
    (tmp_path / "run.yaml").write_text(run_config_yaml(config))
    assert load_run_config(tmp_path / "run.yaml") == config
    changed = load_run_config(tmp_path / "run.yaml", ["model.codebook_size=[8, 16, 5]"])
    assert changed.model.codebook_size == [8, 16, 5]


WARNINGS = [
    ("quantizer: [vq, fsq, vq], fsq_levels: [5, 5], codebook_size: 64", None),
    ("quantizer: [vq, vq, vq], fsq_levels: [5, 5]", 'model.fsq_levels: has no effect where model.quantizer is ["vq", "vq", "vq"]; remove it'),
    ("quantizer: [fsq, fsq, fsq], codebook_size: [8, 8, 8]", 'model.codebook_size: has no effect where model.quantizer is ["fsq", "fsq", "fsq"]; remove it'),
]  # fmt: skip


@pytest.mark.parametrize(("model", "told"), WARNINGS)
def test_an_option_has_an_effect_where_some_level_has_its_quantizer(
    write: Write, caplog: pytest.LogCaptureFixture, model: str, told: str | None
) -> None:
    load_sweep(write("{train.lr: {value: 1}}", f"model: {{{model}}}"))
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == ([told] if told else [])


def test_the_mend_of_a_searched_list_names_no_single_value(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    kinds, sizes = "[[vq, fsq, vq], [fsq, fsq, fsq]]", "[8, 16]"
    load_sweep(write(f"{{model.quantizer: {{values: {kinds}}}, model.codebook_size: {{values: {sizes}}}}}"))
    (record,) = caplog.records
    assert record.getMessage().endswith("; add a `when` that names model.quantizer")


def test_without_a_quantizer_the_sizes_may_stay_a_list() -> None:
    """As the baseline `no_quantizer` changes the one field alone."""
    config = build_run_config({}, {"model.quantizer": "none", "model.codebook_size": [8, 16, 4]})
    assert config.model.quantizers() == ["none"] * 3
