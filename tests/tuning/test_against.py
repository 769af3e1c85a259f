"""Sweeps of one class each held against others (sweeps of all classes: tests/test_baseline.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_sweep import write_fake_sweep

from hvqray.baseline import main
from hvqray.command_line import run_command
from hvqray.errors import InputError
from hvqray.results.history import DataRecord
from hvqray.training.measure import SCORES_FILE
from hvqray.tuning.against import hold_against

PARTS = ("nut", "pill")


def write_sweep(
    folder: Path,
    *classes: str,
    shift: float,
    num_images: int = 12,
    with_best: bool = True,
    suffix: str = "png",
) -> Path:
    """A sweep whose best model tells defects the better, the larger the shift."""
    images = DataRecord(
        list(classes), {"train": 4, "test": num_images}, splits=" ".join(classes), fingerprint="x"
    )
    write_fake_sweep(folder, num_trials=1, classes=classes, images=images, with_best=with_best)
    if not with_best:
        return folder
    labels = np.tile(np.arange(num_images) >= num_images // 2, len(classes))
    path = folder / "best" / "metrics.json"
    record = json.loads(path.read_text())
    for number, name in enumerate(classes):
        record["metrics"][f"test/{name}/image_auroc"] = 0.5 + shift / 10 + number / 100
    path.write_text(json.dumps(record))
    columns = {
        "class_name": np.repeat(classes, num_images),
        "defect": np.where(labels, "dent", "good"),
        "image": [f"{number:03d}.{suffix}" for _ in classes for number in range(num_images)],
        "group": np.arange(len(labels)),
        "is_anomalous": labels,
        "score": np.random.default_rng(0).normal(size=len(labels)) + shift * labels,
    }
    pq.write_table(pa.table(columns), folder / "best" / SCORES_FILE)
    return folder


def write_parts(folder: Path, *, shift: float, **options: Any) -> Path:
    for name in PARTS:
        write_sweep(folder / f"{folder.name}-{name}", name, shift=shift, **options)
    return folder


def baselines(folder: Path) -> dict[str, dict[str, Any]]:
    path = next(path for path in (folder / "metrics.json", folder / "best" / "metrics.json") if path.exists())
    return {each["name"]: each for each in json.loads(path.read_text())["baselines"]}


def test_class_by_class_and_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, other = write_parts(tmp_path / "hvq", shift=3.0), write_parts(tmp_path / "plain", shift=1.0)
    assert main([str(folder), "--against", str(other)]) == 0
    printed = capsys.readouterr().out
    assert "against sweep plain: image AUROC won by 0.2000" in printed
    assert printed.endswith(f"{folder / 'report.html'}\n")
    for name in PARTS:
        assert list(baselines(folder / f"hvq-{name}")) == ["sweep plain"]
        assert "sweep plain" in (folder / f"hvq-{name}" / "report.html").read_text()
    together = baselines(folder)["sweep plain"]
    assert together["metrics"]["test/image_auroc"] == pytest.approx(0.6)
    assert together["more"]["test/nut/image_auroc"]["low"] > -0.2
    assert set(together["more"]) >= {"test/image_auroc", "test/pill/image_auroc"}
    assert not (other / "metrics.json").exists(), "the other one is only read"


def test_a_sweep_of_all_classes_counts_for_each_by_its_figures_of_that_class(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "hvq", shift=3.0)
    other = write_sweep(tmp_path / "unified", *PARTS, "wood", shift=1.0)
    assert main([str(folder), "--against", str(other)]) == 0
    of_pill = baselines(folder / "hvq-pill")["sweep unified"]
    assert of_pill["metrics"]["test/image_auroc"] == of_pill["metrics"]["test/pill/image_auroc"] == 0.61
    assert not any("nut" in name or "wood" in name for name in of_pill["metrics"])
    assert set(of_pill["more"]) >= {"test/image_auroc", "test/pill/image_auroc"}
    assert baselines(folder)["sweep unified"]["metrics"]["test/image_auroc"] == pytest.approx(0.605)


def test_a_class_without_a_best_model_is_passed_over(tmp_path: Path) -> None:
    folder, other = write_parts(tmp_path / "hvq", shift=3.0), write_parts(tmp_path / "plain", shift=1.0)
    write_sweep(folder / "hvq-wood", "wood", shift=0.0, with_best=False)
    hold_against(folder, other)
    assert "sweep plain" in baselines(folder / "hvq-nut")


@pytest.mark.parametrize(
    ("swap", "other", "told"),
    [
        (False, "fewer", "fewer: has no sweep of the class 'pill'; search it there too"),
        (False, "bare", "bare-nut: has no best model"),
        (False, "unified", "unified: was measured on other images of nut than"),
        (
            False,
            "unscored",
            "test_scores.parquet: is missing, so nobody knows which images of test were measured",
        ),
        (True, "unified", "holds sweeps of one class each, and"),
        (False, "hvq", "is the sweep itself"),
        (False, "nothing", "sweep.yaml is missing"),
    ],
)
def test_what_does_not_go_together_changes_nothing(tmp_path: Path, swap: bool, other: str, told: str) -> None:
    folder = write_parts(tmp_path / "hvq", shift=3.0)
    write_sweep(tmp_path / "fewer" / "fewer-nut", "nut", shift=1.0)
    write_parts(tmp_path / "bare", shift=1.0, with_best=False)
    write_sweep(tmp_path / "unified", *PARTS, shift=1.0, num_images=10)
    (write_sweep(tmp_path / "unscored", *PARTS, shift=1.0) / "best" / SCORES_FILE).unlink()
    write_sweep(tmp_path / "renamed", *PARTS, shift=1.0, suffix="jpg")
    (tmp_path / "nothing").mkdir()
    before = (folder / "hvq-nut" / "best" / "metrics.json").read_bytes()
    pair = (tmp_path / other, folder) if swap else (folder, tmp_path / other)
    with pytest.raises(InputError, match=told):
        hold_against(*pair)
    assert (folder / "hvq-nut" / "best" / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("against", [[], ["--against", "{other}"]])
def test_without_any_best_model_there_is_nothing_to_hold_against(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], against: list[str]
) -> None:
    folder = write_parts(tmp_path / "hvq", shift=1.0, with_best=False)
    other = write_parts(tmp_path / "plain", shift=1.0)
    assert run_command(main, [str(folder), *(each.format(other=other) for each in against)]) == 2
    assert "hvq: has no best model to hold baselines against" in capsys.readouterr().err
