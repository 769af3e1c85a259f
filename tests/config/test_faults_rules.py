"""A rule over several fields of a section names one of them, and so where that was given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hvqray.config.run_config import load_run_config
from hvqray.config.sweep_file import load_sweep
from hvqray.errors import InputError


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.num_heads=3", "model.num_heads: 3 does not divide width 128"),
        ("train.pixel_metrics=last", "train.pixel_metrics: 'last' leaves the epoch"),
        ("data.validation.group=(", "data.validation.group: '(' is no regular expression"),
        ("train.batch_size=1", "train.batch_size: 1 images cannot be shared by 2 workers"),
    ],
)
def test_what_was_set_is_not_blamed_on_the_file(tmp_path: Path, override: str, told: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: hvq}\nresources: {workers: 2}\n")
    with pytest.raises(InputError) as caught:
        load_run_config(path, [override])
    assert str(caught.value).startswith(f"--set: {told}")


def test_what_the_file_says_is_the_file_s(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("model: {name: hvq, num_heads: 3}\n")
    with pytest.raises(InputError, match=r"c\.yaml: model\.num_heads: 3 does not divide width 128"):
        load_run_config(path, ["train.epochs=3"])


def test_parameters_that_do_not_go_together_are_told_with_a_mend(write: Callable[[str], Path]) -> None:
    with pytest.raises(InputError) as caught:
        load_sweep(write("{model.width: {values: [48, 64]}, model.num_heads: {values: [8, 12]}}"))
    assert caught.value.field == "parameters.model.num_heads"
    assert caught.value.message == (
        "12 does not divide width 64; change one, or make one parameter depend on the other with `when`"
    )


def test_fixed_fields_that_do_not_go_together_are_no_parameters(write: Callable[[str], Path]) -> None:
    with pytest.raises(InputError) as caught:
        load_sweep(write("{train.lr: {values: [0.1, 0.2]}}\nmodel: {width: 64, num_heads: 12}"))
    assert (caught.value.field, caught.value.message) == ("model.num_heads", "12 does not divide width 64")


def test_a_parameter_s_own_rule_names_its_key(write: Callable[[str], Path]) -> None:
    with pytest.raises(InputError) as caught:
        load_sweep(write("{train.lr: {values: []}}"))
    assert (caught.value.field, caught.value.message) == (
        "parameters.train.lr.values",
        "is empty; list at least one value",
    )
