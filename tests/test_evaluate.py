"""`hvqray.evaluate` on a checkpoint and images on disk."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from small_checkpoint import (
    CLASS_NAMES,
    SEVERAL_RULES,
    SMALL_HVQ,
    take_rules_that_test_would_not,
    write_checkpoint,
    write_dataset,
)

from hvqray import evaluate, predict
from hvqray.command_line import run_command
from hvqray.config.data_sections import DataConfig
from hvqray.data.prepare import prepare_data
from hvqray.metrics import METRIC_NAMES
from hvqray.models.batch import Batch
from hvqray.models.interface import Prediction
from hvqray.training.checkpoint import LoadedModel, load_model


@dataclass
class Place:
    """Where the dataset, the cache and the checkpoint lie."""

    root: Path
    cache: Path
    checkpoint: Path

    def evaluate(self, *arguments: str | Path) -> int:
        texts = [str(argument) for argument in arguments]
        return run_command(evaluate.main, [str(self.checkpoint), "--cache-dir", str(self.cache), *texts])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("evaluate")
    place = Place(folder / "parts", folder / "cache", folder / "best")
    write_dataset(place.root)
    write_checkpoint(place.checkpoint, place.root, place.cache, model=SMALL_HVQ)
    return place


def test_image_metrics_are_those_of_the_scores_that_predict_gives(place: Place, tmp_path: Path) -> None:
    """Cached features and files read anew must lead to the same scores, and these to the metrics printed."""
    assert place.evaluate("--out", tmp_path / "val.json", "--split", "val") == 0
    assert place.evaluate("--out", tmp_path / "test.json", "--data", place.root) == 0
    results = {split: json.loads((tmp_path / f"{split}.json").read_text()) for split in ("val", "test")}
    folders = [str(place.root / name / "test" / kind) for name in CLASS_NAMES for kind in ("good", "scratch")]
    arguments = [str(place.checkpoint), *folders, "--out", str(tmp_path / "out")]
    assert run_command(predict.main, arguments) == 0
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    score = {Path(row["image"]): float(row["score"]) for row in rows}

    config = DataConfig.model_validate(
        {"root": str(place.root), "image_size": 64, "backbone": {"weights": "random"}}
    )
    data = prepare_data(config, cache_dir=place.cache)
    for split in ("val", "test"):
        for name in CLASS_NAMES:
            samples = [sample for sample in data.splits[split].samples if sample.class_name == name]
            labels = [sample.is_anomalous for sample in samples]
            scores = [score[sample.path] for sample in samples]
            metrics = results[split]["metrics"]
            assert metrics[f"{split}/{name}/image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
            assert metrics[f"{split}/{name}/image_ap"] == pytest.approx(
                average_precision_score(labels, scores)
            )


def test_val_is_what_training_measured(place: Place, tmp_path: Path) -> None:
    assert place.evaluate("--split", "val", "--out", tmp_path / "val.json") == 0
    result = json.loads((tmp_path / "val.json").read_text())
    recorded = json.loads((place.checkpoint / "metrics.json").read_text())["metrics"]
    assert result["metrics"] == pytest.approx(recorded)
    assert result["split"] == "val"
    assert result["dataset"] == "parts"
    assert result["image_size"] == 64
    assert result["selected_on_test"] is False
    assert {"seed", "code_version", "hardware"} <= result.keys()


def test_no_rule_is_chosen_on_the_images_that_are_measured(place: Place, tmp_path: Path) -> None:
    model = SMALL_HVQ | SEVERAL_RULES
    checkpoint = write_checkpoint(tmp_path / "best", place.root, place.cache, model=model)
    expected = take_rules_that_test_would_not(checkpoint, cache_dir=place.cache)
    own = Place(place.root, place.cache, checkpoint)
    assert own.evaluate("--out", tmp_path / "test.json") == 0
    assert json.loads((tmp_path / "test.json").read_text())["metrics"] == expected


def test_all_test_images_where_they_are_asked_for(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts, told = {}, {}
    for split in ("val", "test", "all"):
        assert place.evaluate("--split", split, "--out", tmp_path / f"{split}.json") == 0
        result = json.loads((tmp_path / f"{split}.json").read_text())
        assert result["split"] == split
        counts[split] = result["num_images"]
        told[split] = " ".join(capsys.readouterr().out.split())
    assert counts["all"] == counts["val"] + counts["test"] == len(list(place.root.glob("*/test/*/*")))
    assert f"{counts['test']} of the dataset's {counts['all']} test images (--split all" in told["test"]
    assert f"{counts['val']} of the dataset's {counts['all']} test images" in told["val"]
    assert f"all {counts['all']} test images, among them any that were val" in told["all"]


def test_csv_has_a_row_a_class_and_the_mean(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.evaluate("--out", tmp_path / "sub" / "test.csv") == 0
    rows = read_csv(tmp_path / "sub" / "test.csv")
    assert [row["class_name"] for row in rows] == [*CLASS_NAMES, "mean"]
    assert all(row["split"] == "test" for row in rows)
    for metric in (*METRIC_NAMES, "mad"):
        values = [float(row[metric]) for row in rows]
        assert values[2] == pytest.approx((values[0] + values[1]) / 2)
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*CLASS_NAMES, "mean", "test"))
    mad = np.mean([float(rows[2][metric]) for metric in METRIC_NAMES])
    assert float(rows[2]["mad"]) == pytest.approx(mad)
    assert f"mAD {mad:.4f}\n" in printed


def test_a_class_keeps_its_codebooks_where_others_are_absent(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(place.root / "cloth", tmp_path / "parts" / "cloth")
    shutil.copytree(place.root / "bolt", tmp_path / "parts" / "nut")
    assert place.evaluate("--data", tmp_path / "parts", "--out", tmp_path / "one.json") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "left out: nut (unknown to the model)" in printed
    assert "left out: bolt (not in" in printed
    assert place.evaluate("--out", tmp_path / "all.json") == 0
    one = json.loads((tmp_path / "one.json").read_text())["metrics"]
    everything = json.loads((tmp_path / "all.json").read_text())["metrics"]
    assert not any("bolt" in name or "nut" in name for name in one)
    for metric in METRIC_NAMES:
        assert one[f"test/cloth/{metric}"] == pytest.approx(everything[f"test/cloth/{metric}"])


def test_the_weights_file_alone_will_do(place: Place, tmp_path: Path) -> None:
    copied = shutil.copy(place.checkpoint / "model.safetensors", tmp_path / "model.safetensors")
    arguments = [str(copied), "--cache-dir", str(place.cache), "--out", str(tmp_path / "a.json")]
    assert run_command(evaluate.main, arguments) == 0
    assert place.evaluate("--out", tmp_path / "b.json") == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_faults_of_the_user_are_one_line(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "evaluate", None)  # all of these are told before any work
    (tmp_path / "dir.json").mkdir()
    (tmp_path / "empty" / "nut" / "test" / "good").mkdir(parents=True)
    for arguments, expected in (
        (["--out", "x.txt"], "x.txt: must end in .json or .csv"),
        (["--out", str(tmp_path / "dir.json")], "dir.json: cannot be written (it is a folder)"),
        (["--out", "/proc/nowhere/x.json"], "--out /proc/nowhere: cannot be written to ("),
        (["--data", str(tmp_path / "nowhere")], "nowhere"),
        (["--data", str(tmp_path / "empty")], "none of the model's classes (bolt, cloth)"),
    ):
        assert place.evaluate(*arguments) == 2
        captured = capsys.readouterr()
        assert expected in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    assert run_command(evaluate.main, [str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_computes_as_it_was_trained_and_measured(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """In the same precision, and on features that are rounded as those of the cache are."""
    seen: list[tuple[bool, bool]] = []

    def watched(*arguments: Any, **options: Any) -> LoadedModel:
        loaded = load_model(*arguments, **options)
        inner = loaded.model.predict

        def predicted(batch: Batch) -> Prediction:
            rounded = torch.equal(
                batch.features_BChw, batch.features_BChw.half().to(batch.features_BChw.dtype)
            )
            seen.append((torch.is_autocast_enabled("cpu"), rounded))
            return inner(batch)

        monkeypatch.setattr(loaded.model, "predict", predicted)
        train = loaded.config.train.model_copy(update={"precision": precision})
        return replace(loaded, config=loaded.config.model_copy(update={"train": train}))

    for command in (evaluate, predict):
        monkeypatch.setattr(command, "load_model", watched)
    assert place.evaluate("--split", "val") == 0
    num_evaluated = len(seen)
    images = place.root / "bolt" / "test" / "good"
    arguments = [str(place.checkpoint), str(images), "--out", str(tmp_path / "out")]
    assert run_command(predict.main, arguments) == 0
    assert len(seen) > num_evaluated > 0
    assert set(seen) == {(precision == "bf16", True)}


def test_what_is_said_of_the_figures_is_the_checkpoint_s_own(place: Place) -> None:
    loaded = load_model(place.checkpoint)
    train = loaded.config.train.model_copy(update={"seed": 5})
    other = replace(
        loaded,
        config=loaded.config.model_copy(update={"train": train}),
        metrics={**loaded.metrics, "selected_on_test": True},
    )
    for one, expected in ((loaded, (0, False)), (other, (5, True))):
        facts = evaluate.provenance(one, one.config.data, "val", torch.device("cpu"))
        assert (facts["seed"], facts["selected_on_test"]) == expected


def test_data_are_read_in_the_layout_that_is_named(place: Place) -> None:
    config, _ = evaluate.data_of(load_model(place.checkpoint), str(place.root), "mvtec_ad")
    assert (config.root, config.layout) == (str(place.root), "mvtec_ad")


def test_without_test_images_there_is_nothing_to_measure(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in CLASS_NAMES:
        shutil.copytree(place.root / name / "train", tmp_path / "normal" / name / "train")
    for split in ("test", "all"):
        assert place.evaluate("--data", tmp_path / "normal", "--split", split) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith(
            f"hvqray: error: --split: {split} has no images, so there is nothing to measure"
        )
