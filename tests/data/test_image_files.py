"""Opening image files of any size up to a limit of our own."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest
from PIL import Image

from hvqray.data import image_files
from hvqray.data.check import check_dataset
from hvqray.data.describe import describe_dataset
from hvqray.data.image_files import image_dimensions, open_image
from hvqray.data.images import load_image
from hvqray.data.layouts import read_dataset
from hvqray.data.masks import load_mask
from hvqray.errors import InputError


@pytest.fixture
def pillow_limit(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pillow warns above 100 pixels and refuses above 200."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    return 100


# A TIFF is held against Pillow's limit a second time when its pixels are read.
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".jpg"])
@pytest.mark.parametrize("side", [12, 40], ids=["warned of", "refused"])
def test_what_pillow_takes_for_an_attack_is_read(
    tmp_path: Path, pillow_limit: int, suffix: str, side: int
) -> None:
    path = tmp_path / f"plate{suffix}"
    Image.new("L", (side, side), 255).save(path)
    np.testing.assert_array_equal(load_image(path, 8), np.full((8, 8, 3), 255))
    assert load_mask(path).all()
    assert image_dimensions(path) == (side, side)
    assert pillow_limit == Image.MAX_IMAGE_PIXELS, "Pillow's own is as it was"


def test_the_last_of_several_threads_puts_pillows_limit_back(tmp_path: Path, pillow_limit: int) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    inside, first_is_out, limits = Barrier(2, timeout=30), Barrier(2, timeout=30), []

    def read(*, leaves_first: bool) -> None:
        with open_image(tmp_path / "a.png") as image:
            inside.wait()
            if not leaves_first:
                first_is_out.wait()
                limits.append(Image.MAX_IMAGE_PIXELS)
                image.load()
        if leaves_first:
            first_is_out.wait()

    threads = [Thread(target=read, kwargs={"leaves_first": first}) for first in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limits == [None], "still away while the second one reads"
    assert pillow_limit == Image.MAX_IMAGE_PIXELS


def test_a_faulty_file_leaves_pillows_limit_as_it_was(tmp_path: Path, pillow_limit: int) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png: not a readable image .*; replace or remove it"):
        load_image(tmp_path / "a.png")
    assert pillow_limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("load", [load_image, load_mask])
def test_above_our_limit_one_line_says_so(tmp_path: Path, load: object) -> None:
    path = tmp_path / "scan.tif"
    Image.new("1", (2**15, 2**13 + 1)).save(path, compression="group4")
    assert image_dimensions(path) == (32768, 8193)
    with pytest.raises(
        InputError, match=r"scan\.tif: 32768x8193 are 268 million pixels, .* scale it down or cut it"
    ):
        load(path)  # type: ignore[operator]


def test_a_large_image_is_a_fault_for_check_and_none_for_describe(
    mvtec_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mvtec_root / "bolt/train/good/00.png"
    Image.new("L", (60, 60)).save(path)
    monkeypatch.setattr(image_files, "MAX_PIXELS", 50 * 50)
    (fault,) = check_dataset(read_dataset(mvtec_root)).faults
    assert fault.startswith(f"{path}: 60x60 are")
    table, _ = describe_dataset(read_dataset(mvtec_root))
    assert list(table.columns[5].cells) == ["40x32 to 60x60 (2)", "40x32"]
