"""`hvqray.predict` on a checkpoint and image files."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full_disk import files_of_at_most
from PIL import Image
from small_checkpoint import HEIGHT, SMALL_HVQ, SMALL_SQUAD, WIDTH, write_checkpoint, write_dataset
from torch import Tensor

from hvqray import predict
from hvqray.command_line import run_command
from hvqray.data.backbones import Backbone
from hvqray.models.batch import Batch
from hvqray.models.interface import Prediction
from hvqray.training import prediction_files
from hvqray.training.checkpoint import LoadedModel


@dataclass
class Place:
    """Where the dataset and the checkpoints lie."""

    root: Path
    oracle: Path
    squad: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("predict")
    place = Place(folder / "parts", folder / "oracle", folder / "squad")
    write_dataset(place.root)
    write_checkpoint(place.oracle, place.root, folder / "cache", model=SMALL_HVQ)
    write_checkpoint(place.squad, place.root, folder / "cache", model=SMALL_SQUAD)
    return place


def run(checkpoint: Path, *arguments: str | Path, out: Path) -> list[dict[str, str]]:
    assert run_command(predict.main, [str(checkpoint), *map(str, arguments), "--out", str(out)]) == 0
    with (out / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("model", ["oracle", "squad"])
def test_scores_labels_and_maps(place: Place, tmp_path: Path, model: str) -> None:
    checkpoint = getattr(place, model)
    good = place.root / "bolt" / "test" / "good"
    rows = run(checkpoint, good, place.root / "cloth" / "test" / "scratch" / "003.png", out=tmp_path)
    assert [Path(row["image"]) for row in rows] == [
        *sorted(good.glob("*.png")),
        place.root / "cloth" / "test" / "scratch" / "003.png",
    ]
    assert [row["class_name"] for row in rows] == ["bolt"] * 6 + ["cloth"]
    recorded = json.loads((checkpoint / "metrics.json").read_text())["metrics"]
    for row in rows:
        threshold = recorded[f"val/{row['class_name']}/image_f1max.threshold"]
        assert float(row["threshold"]) == threshold
        assert row["label"] == ("anomalous" if float(row["score"]) >= threshold else "normal")
        with Image.open(tmp_path / row["map"]) as picture:
            assert picture.size == (WIDTH, HEIGHT)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted([*(row["map"] for row in rows), "predictions.csv"])


def test_progress_is_told_once(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(place.oracle, place.root / "bolt" / "test" / "good", out=tmp_path)
    assert capsys.readouterr().err.splitlines() == ["predicting (6)", "predicting: done"]


def test_predictions_do_not_depend_on_what_else_is_predicted(place: Place, tmp_path: Path) -> None:
    folders = [place.root / name / "test" / "scratch" for name in ("bolt", "cloth")]
    together = run(place.oracle, *folders, place.root / "bolt" / "test" / "good", out=tmp_path / "a")
    alone = run(place.oracle, folders[1] / "002.png", out=tmp_path / "b")[0]
    same = next(row for row in together if row["image"] == alone["image"])
    assert float(alone["score"]) == pytest.approx(float(same["score"]), rel=1e-4)


def test_the_class_can_be_given_and_matters(place: Place, tmp_path: Path) -> None:
    image = shutil.copy(place.root / "bolt" / "test" / "good" / "000.png", tmp_path / "photo.png")
    as_bolt = run(place.oracle, image, "--class", "bolt", out=tmp_path / "bolt")[0]
    as_cloth = run(place.oracle, image, "--class", "cloth", out=tmp_path / "cloth")[0]
    assert (as_bolt["class_name"], as_cloth["class_name"]) == ("bolt", "cloth")
    assert as_bolt["score"] != as_cloth["score"]


def test_a_model_that_needs_no_class_predicts_without_but_gives_no_label(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = shutil.copy(place.root / "bolt" / "test" / "good" / "000.png", tmp_path / "photo.png")
    row = run(place.squad, image, out=tmp_path / "out")[0]
    assert (row["class_name"], row["threshold"], row["label"]) == ("", "", "")
    assert np.isfinite(float(row["score"]))
    assert "1 of 1 images have no label" in capsys.readouterr().out


def test_a_class_that_the_model_recognises_gives_the_label(place: Place, tmp_path: Path) -> None:
    checkpoint = tmp_path / "predicted"
    write_checkpoint(checkpoint, place.root, tmp_path / "cache", model={**SMALL_SQUAD, "router": "predicted"})
    image = tmp_path / "unsorted" / "unnamed.png"
    image.parent.mkdir()
    shutil.copy(place.root / "cloth" / "test" / "good" / "000.png", image)
    named = (
        place.root / "bolt" / "test" / "good" / "001.png"
    )  # its folder says what it is, whatever it looks like
    rows = run(checkpoint, image, named, out=tmp_path / "out")
    assert [row["class_name"] for row in rows] == ["cloth", "bolt"]
    recorded = json.loads((checkpoint / "metrics.json").read_text())["metrics"]
    assert float(rows[0]["threshold"]) == recorded["val/cloth/image_f1max.threshold"]
    assert rows[0]["label"] in ("normal", "anomalous")


def test_selected_on_test_is_said(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = place.root / "bolt" / "test" / "good" / "000.png"
    assert run(place.oracle, image, out=tmp_path / "a")[0]["selected_on_test"] == "False"
    assert "selected on test" not in capsys.readouterr().out
    chosen = tmp_path / "chosen"
    shutil.copytree(place.oracle, chosen)
    record = json.loads((chosen / "metrics.json").read_text())
    (chosen / "metrics.json").write_text(json.dumps({**record, "selected_on_test": True}))
    assert run(chosen, image, out=tmp_path / "b")[0]["selected_on_test"] == "True"
    assert "selected on test: the model was chosen" in capsys.readouterr().out


def test_an_image_named_twice_is_predicted_once(place: Place, tmp_path: Path) -> None:
    folder = place.root / "bolt" / "test" / "good"
    assert len(run(place.oracle, folder, folder / "001.png", out=tmp_path)) == 6


def test_a_link_is_of_the_class_that_its_own_folder_says(place: Place, tmp_path: Path) -> None:
    store = place.root / "cloth" / "test" / "good" / "000.png"
    (tmp_path / "bolt").mkdir()
    (tmp_path / "bolt" / "link.png").symlink_to(store)
    (tmp_path / "unsorted.png").symlink_to(store)
    rows = run(place.squad, tmp_path / "bolt" / "link.png", tmp_path / "unsorted.png", out=tmp_path / "out")
    assert [row["class_name"] for row in rows] == ["bolt", ""]


def test_a_relative_path_is_of_the_folder_that_it_leads_to(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = place.root / "cloth" / "test" / "good" / "000.png"
    (tmp_path / "bolt").mkdir()
    shutil.copy(image, tmp_path / "unsorted.png")
    monkeypatch.chdir(tmp_path / "bolt")
    assert run(place.squad, "../unsorted.png", out=tmp_path / "a")[0]["class_name"] == ""
    monkeypatch.chdir(image.parent)
    assert run(place.squad, "000.png", out=tmp_path / "b")[0]["class_name"] == "cloth"


def test_images_of_very_long_names(place: Place, tmp_path: Path) -> None:
    image = place.root / "cloth" / "test" / "good" / "000.png"
    (tmp_path / "cloth").mkdir()
    stems = ["x" * 250 + "1", "x" * 250 + "2", "ü" * 125]
    for stem in stems:
        shutil.copy(image, tmp_path / "cloth" / f"{stem}.png")
    rows = run(place.oracle, tmp_path / "cloth", out=tmp_path / "out")
    assert sorted(Path(row["image"]).stem for row in rows) == sorted(stems)
    assert len({row["map"] for row in rows}) == 3
    assert all((tmp_path / "out" / row["map"]).is_file() for row in rows)


def test_what_is_no_file_is_no_image_of_a_folder(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "cloth"
    folder.mkdir()
    shutil.copy(place.root / "cloth" / "test" / "good" / "000.png", folder / "a.png")
    (folder / "dir.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    assert [Path(row["image"]).name for row in run(place.oracle, folder, out=tmp_path / "out")] == ["a.png"]


def test_the_scores_are_kept_where_a_map_cannot_be_drawn(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("no picture")

    monkeypatch.setattr(prediction_files, "overlay", fail)
    image = place.root / "cloth" / "test" / "good" / "000.png"
    with pytest.raises(OSError, match="no picture"):
        run(place.oracle, image, out=tmp_path)
    (row,) = csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines())
    assert np.isfinite(float(row["score"]))


def test_an_image_is_anomalous_from_the_threshold_on() -> None:
    labels = {
        score: prediction_files.Prediction(Path("a.png"), "bolt", score, 2.0).label
        for score in (1.9, 2.0, 2.1)
    }
    assert labels == {1.9: "normal", 2.0: "anomalous", 2.1: "anomalous"}


def test_maps_of_a_class_share_a_scale_that_reaches_beyond_the_threshold(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Normal images alone would else be drawn as if the worst of them were a defect."""
    scales = []

    def record(image: np.ndarray, map_HW: np.ndarray, *, low: float, high: float) -> Image.Image:
        scales.append((low, high))
        return Image.new("RGB", (WIDTH, HEIGHT))

    monkeypatch.setattr(prediction_files, "overlay", record)
    image = place.root / "cloth" / "test" / "good" / "000.png"
    thresholds = {"bolt": 5.0, "cloth": 1.0, None: None}
    found = [
        prediction_files.Prediction(image, name, 0.0, threshold)
        for name, threshold in thresholds.items()
        for _ in range(2)
    ]
    lowest = np.array([1, 2, -1, -2, 3, 4], np.float32)
    maps = [np.array([[low, low + 4]], np.float32).repeat(2, axis=0) for low in lowest]
    prediction_files.draw(found, maps, tmp_path)
    assert scales == [(1, 9)] * 2 + [(-2, 4)] * 2 + [(3, 8)] * 2


def test_the_nearest_folder_says_the_class(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "cloth" / "sorted" / "bolt" / "new"
    folder.mkdir(parents=True)
    shutil.copy(place.root / "cloth" / "test" / "good" / "000.png", folder)
    assert run(place.squad, folder, out=tmp_path / "out")[0]["class_name"] == "bolt"


def test_a_disk_too_small_for_the_maps_is_told_before_the_model_runs(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict, "predict_images", None)
    image = place.root / "cloth" / "test" / "good" / "000.png"
    with files_of_at_most(64 * 64 * 4 - 1):
        assert run_command(predict.main, [str(place.oracle), str(image), "--out", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hvqray: error: {tmp_path}: File too large; ")


def test_an_image_that_a_map_might_overwrite_is_told_before_anything_is_written(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = place.root / "bolt" / "test" / "good" / "000.png"
    images = [Path(shutil.copy(photo, tmp_path / name)) for name in ("part.png", "0001_part.png")]
    before = images[1].read_bytes()
    given = [str(place.squad), *map(str, images), "--out"]
    assert run_command(predict.main, [*given, str(tmp_path / "x" / "..")]) == 2
    assert "0001_part.png: lies in --out and is called like a map there" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == sorted(images)
    assert images[1].read_bytes() == before
    assert run_command(predict.main, [*given, str(tmp_path / "out")]) == 0


def test_faults_of_the_user_are_one_line(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = Path(shutil.copy(place.root / "bolt" / "test" / "good" / "000.png", tmp_path / "photo.png"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "windows").mkdir()
    latin_1 = Path(shutil.copy(image, tmp_path / "windows" / os.fsdecode(b"\xe9000.png")))
    out = ["--out", str(tmp_path / "out")]
    for arguments, expected in (
        ([image], "give --class (bolt, cloth)"),
        ([image, "--class", "bold"], "did you mean 'bolt'?"),
        ([tmp_path / "nowhere.png", "--class", "bolt"], "nowhere.png: no such image or folder"),
        ([tmp_path / "empty", "--class", "bolt"], "empty: no image in this folder"),
        ([tmp_path / "broken.png", "--class", "bolt"], "broken.png"),
        ([tmp_path / "pipe.png", "--class", "bolt"], "pipe.png: is no file but a pipe or a device"),
        ([tmp_path / "windows", "--class", "bolt"], "\\xe9000.png: its name is not UTF-8"),
        ([latin_1, "--class", "bolt"], "\\xe9000.png: its name is not UTF-8"),
    ):
        assert run_command(predict.main, [str(place.oracle), *map(str, arguments), *out]) == 2
        captured = capsys.readouterr()
        error = captured.err.splitlines()[-1]
        assert error.startswith("hvqray: error: ")
        assert expected in error
        assert captured.out == ""
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize(
    ("beyond", "expected"),
    [
        ("features", "its features exceed the range of float16; leave it out, or train a model on another"),
        ("scores_B", "the model gives it no finite score and map; leave it out, or train the model anew"),
        ("maps_BHW", "the model gives it no finite score and map; leave it out, or train the model anew"),
    ],
)
def test_an_image_without_a_score_is_told_and_not_called_normal(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    beyond: str,
    expected: str,
) -> None:
    images = sorted((place.root / "bolt" / "test" / "good").glob("*.png"))[:3]
    really = predict.load_model

    def spoilt(*arguments: Any, **options: Any) -> LoadedModel:
        loaded = really(*arguments, **options)
        inner = loaded.model.predict

        def predicted(batch: Batch) -> Prediction:
            prediction = inner(batch)
            getattr(prediction, beyond)[1] = float("nan")
            return prediction

        monkeypatch.setattr(loaded.model, "predict", predicted)
        return loaded

    if beyond == "features":
        really_forward = Backbone.forward

        def forward(self: Backbone, images_B3SS: Tensor) -> Tensor:
            features_BChw = really_forward(self, images_B3SS)
            features_BChw[1, 0, 0, 0] = 65536
            return features_BChw

        monkeypatch.setattr(Backbone, "forward", forward)
    else:
        monkeypatch.setattr(predict, "load_model", spoilt)
    assert run_command(predict.main, [str(place.oracle), *map(str, images), "--out", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    line, last = (line for line in captured.err.splitlines() if line.startswith("hvqray: error: "))
    assert line.startswith(f"hvqray: error: {images[1]}: {expected}")
    assert last.startswith("hvqray: error: 1 of 3 images could not be scored")
    assert str(images[1]) not in captured.out
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [str(images[0]), str(images[2])]
    assert all(np.isfinite(float(row["score"])) for row in rows)


def test_a_folder_that_cannot_be_written(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    image = place.root / "cloth" / "test" / "good" / "000.png"
    assert run_command(predict.main, [str(place.oracle), str(image), "--out", "/proc/x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hvqray: error: --out /proc/x: cannot be written to (")


def test_images_of_a_10_bit_camera_are_read_as_the_model_was_trained(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = predict.load_model

    def of_ten_bits(*arguments: Any, **options: Any) -> LoadedModel:
        loaded = really(*arguments, **options)
        data = loaded.config.data.model_copy(update={"bit_depth": 10})
        return replace(loaded, config=loaded.config.model_copy(update={"data": data}))

    monkeypatch.setattr(predict, "load_model", of_ten_bits)
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH))
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "eight.png")
    Image.fromarray((4 * values + 3).astype(np.uint16)).save(tmp_path / "ten.png")
    scores, pictures = [], []
    for name in ("eight", "ten"):
        (row,) = run(place.oracle, tmp_path / f"{name}.png", "--class", "bolt", out=tmp_path / name)
        scores.append(row["score"])
        with Image.open(tmp_path / name / row["map"]) as picture:
            pictures.append(np.asarray(picture))
    assert scores[0] == scores[1]
    np.testing.assert_array_equal(*pictures)
    Image.fromarray(np.full((HEIGHT, WIDTH), 2000, np.uint16)).save(tmp_path / "twelve.png")
    beyond = [str(tmp_path / "twelve.png"), "--class", "bolt", "--out", str(tmp_path / "twelve")]
    assert run_command(predict.main, [str(place.oracle), *beyond]) == 2


def test_a_folder_in_the_place_of_the_csv_is_told_before_the_model_runs(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "predictions.csv").mkdir()
    monkeypatch.setattr(predict, "predict_images", None)
    image = place.root / "cloth" / "test" / "good" / "000.png"
    assert run_command(predict.main, [str(place.oracle), str(image), "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"hvqray: error: --out {tmp_path}/predictions.csv: cannot be written (it is a folder)"
    )
