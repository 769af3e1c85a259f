"""`hvqray.predict` where images cannot be read, and into a folder that holds earlier predictions."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_checkpoint import SMALL_SQUAD, write_checkpoint, write_dataset

from hvqray import predict
from hvqray.command_line import run_command
from hvqray.training import predict_images

SQUAD = {**SMALL_SQUAD, "router": "predicted"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unreadable")
    write_dataset(folder / "parts")
    write_checkpoint(folder / "squad", folder / "parts", folder / "cache", model=SQUAD)
    return folder


def run(place: Path, *images: Path, out: Path, code: int = 0) -> list[dict[str, str]]:
    arguments = [str(place / "squad"), *map(str, images), "--out", str(out)]
    assert run_command(predict.main, arguments) == code
    with (out / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_one_bad_image_costs_none_of_the_others(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predict_images, "BATCH_SIZE", 2)
    good = sorted((place / "parts" / "cloth" / "test" / "good").glob("*.png"))
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(good):
        shutil.copy(path, images / f"{number}.png")
    whole = run(place, images, out=tmp_path / "whole")
    capsys.readouterr()
    for number in (1, 2, 3):  # the second batch has none that can be read
        path = images / f"{number}.png"
        path.write_bytes(path.read_bytes()[:-100])
    rows = run(place, images, out=tmp_path / "out", code=2)
    kept = [whole[number] for number in (0, *range(4, len(whole)))]
    for name in ("image", "class_name"):
        assert [row[name] for row in rows] == [row[name] for row in kept]
    scores = [float(row["score"]) for row in rows]
    assert scores == pytest.approx([float(row["score"]) for row in kept], rel=1e-4)
    assert {row["map"] for row in rows} == {path.name for path in (tmp_path / "out").glob("*.png")}
    captured = capsys.readouterr()
    *named, last = (line for line in captured.err.splitlines() if line.startswith("hvqray: error: "))
    assert [line.split(": ")[2] for line in named] == [str(images / f"{number}.png") for number in (1, 2, 3)]
    assert (
        last
        == f"hvqray: error: 3 of {len(whole)} images could not be scored; {tmp_path / 'out'} has the others"
    )
    assert str(images / "0.png") in captured.out


def test_a_link_that_leads_to_itself_costs_no_other_image(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    shutil.copy(place / "parts" / "cloth" / "test" / "good" / "000.png", images / "0.png")
    (images / "1.png").symlink_to("1.png")
    (row,) = run(place, images, out=tmp_path / "out", code=2)
    assert row["image"] == str(images / "0.png")
    assert f"hvqray: error: {images / '1.png'}: not a readable image" in capsys.readouterr().err


def test_earlier_predictions_give_way_and_nothing_else(place: Path, tmp_path: Path) -> None:
    good = place / "parts" / "cloth" / "test" / "good"
    assert len(run(place, good, out=tmp_path)) > 1
    Image.new("L", (4, 4)).save(tmp_path / "0009_mine.png")
    (row,) = run(place, good / "003.png", out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.csv", row["map"], "0009_mine.png"}
    (tmp_path / "predictions.csv").write_text("image,map\na.png,0009_mine.png\n")
    run(place, good / "003.png", out=tmp_path)
    assert (tmp_path / "0009_mine.png").exists()


def test_earlier_maps_beside_the_images_are_no_images(place: Path, tmp_path: Path) -> None:
    for name in ("000.png", "001.png"):
        shutil.copy(place / "parts" / "cloth" / "test" / "good" / name, tmp_path)
    first = run(place, tmp_path, out=tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert len(written) == 5
    assert run(place, tmp_path, out=tmp_path) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == written
    # Named, they are: then they are not removed before they are drawn.
    (named,) = run(place, tmp_path / "0000_000.png", out=tmp_path)
    assert {"0000_000.png", named["map"]} <= {path.name for path in tmp_path.iterdir()}


def test_formats_of_a_folder_that_are_not_read_are_told_of(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.heic", "b.gif"):
        (tmp_path / "photos" / name).write_bytes(b"")
    arguments = [str(place / "squad"), str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    told = f"{tmp_path}/photos: 2 images in formats that are not read (a.heic, ...); save them as PNG"
    assert run_command(predict.main, arguments) == 2
    assert capsys.readouterr().err.splitlines() == [f"hvqray: error: {told}"]
    source = place / "parts" / "cloth" / "test" / "good" / "000.png"
    with Image.open(source) as image:
        image.save(tmp_path / "photos" / "c.webp", lossless=True)
    (row,) = run(place, tmp_path / "photos", out=tmp_path / "out")
    assert f"hvqray: warning: {told}" in capsys.readouterr().err.splitlines()
    (as_png,) = run(place, source, out=tmp_path / "png")
    assert float(row["score"]) == pytest.approx(float(as_png["score"]), rel=1e-4)


def test_what_a_user_must_know_of_the_files(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (2, 40, 40)).astype(np.uint16)
    values[:, 0, 0] = 4000
    one, other = map(Image.fromarray, values)
    one.save(tmp_path / "a.tif", save_all=True, append_images=[other])
    run(place, tmp_path / "a.tif", out=tmp_path / "out")
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert len(warnings) == 2
    assert (
        "largest value of the 16-bit grey images is 4000, so that they become at most 17 of 256"
        in warnings[0]
    )
    assert "the model was trained with data.bit_depth unset (16 bits)" in warnings[0]
    assert warnings[1].endswith(
        f"1 image has several pages, of which the first alone is read (first: {tmp_path}/a.tif); save each page as a file of its own"
    )
