"""The share of images that becomes `val` depends on what they are taken from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hvqray.config.data_sections import ValidationConfig
from hvqray.config.run_config import config_hash, load_run_config, run_config_dict, run_config_yaml
from hvqray.config.sections import RunConfig
from hvqray.config.sweep_file import load_sweep, resolve_run_config


def run(**validation: Any) -> RunConfig:
    return RunConfig.model_validate({"data": {"validation": validation}})


@pytest.mark.parametrize(
    ("validation", "fraction"),
    [
        ({}, 0.5),
        ({"from": "test"}, 0.5),
        ({"from": "none"}, 0.5),
        ({"from": "synthetic"}, 0.2),
        ({"from": "synthetic", "fraction": None}, 0.2),
        ({"from": "synthetic", "fraction": 0.5}, 0.5),
        ({"fraction": 0.2}, 0.2),
    ],
)
def test_unset_it_is_a_fifth_of_training_images_and_half_of_test_images(
    validation: dict[str, Any], fraction: float
) -> None:
    assert ValidationConfig.model_validate(validation).fraction == fraction
    # Written out, so that neither a hash nor a file of another version depends on the default.
    assert run_config_dict(run(**validation))["data"]["validation"]["fraction"] == fraction


@pytest.mark.parametrize("source", ["test", "synthetic"])
def test_a_configuration_that_leaves_it_out_is_the_one_that_names_it(source: str, tmp_path: Path) -> None:
    share = {"test": 0.5, "synthetic": 0.2}[source]
    unset = run(**{"from": source})
    assert config_hash(unset) == config_hash(run(**{"from": source, "fraction": share}))
    (tmp_path / "run.yaml").write_text(run_config_yaml(unset))
    assert load_run_config(tmp_path / "run.yaml") == unset


def test_a_sweep_reads_back_as_it_was_begun(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "method: random\nmetric: {name: val/image_auroc, goal: maximize}\nrun_cap: 2\n"
        "parameters: {train.lr: {values: [1.0e-3, 2.0e-3]}}\ndata: {validation: {from: synthetic, fraction: null}}\n"
    )
    begun = load_sweep(tmp_path / "space.yaml")
    (tmp_path / "again.yaml").write_text(begun.to_yaml())
    resumed = load_sweep(tmp_path / "again.yaml")
    assert resumed.model_dump() == begun.model_dump()
    runs = [resolve_run_config(sweep, {"train.lr": 1e-3}) for sweep in (begun, resumed)]
    assert config_hash(runs[0]) == config_hash(runs[1])
    assert runs[0].data.validation.fraction == 0.2
