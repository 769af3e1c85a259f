"""16-bit files of cameras with fewer bits."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvqray.config.data_sections import BitDepth, DataConfig
from hvqray.config.sweep_file import load_sweep
from hvqray.data import commands
from hvqray.data.bit_depth import remarks
from hvqray.data.cache import CACHE_VARIABLE
from hvqray.data.dataset import PreparedData
from hvqray.data.images import load_image, read_image
from hvqray.data.masks import load_mask
from hvqray.data.prepare import prepare_data
from hvqray.errors import InputError

BACKBONE = {"name": "resnet18", "weights": "random", "strides": [8]}


def save_deep(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values.astype(np.uint16)).save(path)
    return path


def save_deep_colours(path: Path, values_HW3: np.ndarray) -> Path:
    """A PNG of three channels of 16 bits, which Pillow reads and does not write."""
    height, width, _ = values_HW3.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_HW3)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.fixture
def deep_root(mvtec_root: Path) -> Path:
    """All images of class `bolt` as a 10-bit camera writes them."""
    for seed, path in enumerate(sorted((mvtec_root / "bolt").glob("t*/*/*.png"))):
        values = np.random.default_rng(seed).integers(0, 1023, (32, 40))
        values[0, 0] = 1000
        save_deep(path, values)
    return mvtec_root


def prepare(root: Path, **fields: object) -> PreparedData:
    config = {"root": str(root), "image_size": 32, "backbone": BACKBONE} | fields
    return prepare_data(
        DataConfig.model_validate(config), cache_dir=root.parent / "cache", progress=lambda *_: None
    )


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_all_values_of_the_camera_become_all_grey_levels(tmp_path: Path, suffix: str, bits: BitDepth) -> None:
    side = 2 ** (bits // 2)
    values = np.arange(2**bits).reshape(side, side)
    path = save_deep(tmp_path / f"a{suffix}", values)
    image, largest = read_image(path, bit_depth=bits)
    np.testing.assert_array_equal(image, np.stack([np.floor(values / 2 ** (bits - 8))] * 3, axis=2))
    assert len(np.unique(image)) == 256
    assert largest == {"grey": 2**bits - 1}
    assert len(np.unique(load_image(path))) == round(2**bits / 257) + 1, "taken for 16 bits"


def test_without_it_values_are_divided_by_257_and_rounded(tmp_path: Path) -> None:
    values = np.arange(65536).reshape(256, 256)
    path = save_deep(tmp_path / "a.png", values)
    np.testing.assert_array_equal(load_image(path)[..., 0], np.round(values / 257))


def test_a_value_beyond_the_bits_is_told_and_not_clipped(tmp_path: Path) -> None:
    path = save_deep(tmp_path / "a.png", np.array([[0, 1024]]))
    with pytest.raises(
        InputError,
        match=r"a\.png: data\.bit_depth: 10 bits end at 1023, and the largest .* is 1024; raise it",
    ):
        load_image(path, bit_depth=10)
    assert load_image(path, bit_depth=12).max() == 64


def test_32_bit_integers_are_read_where_16_bits_hold_them(tmp_path: Path) -> None:
    for lowest, largest in ((0, 65535), (-1, 9), (0, 65536)):
        Image.fromarray(np.array([[lowest, largest]], np.int32)).save(tmp_path / "a.tif")
        if (lowest, largest) == (0, 65535):
            np.testing.assert_array_equal(load_image(tmp_path / "a.tif")[0, :, 0], [0, 255])
            continue
        with pytest.raises(InputError, match=rf"a\.tif: its values go from {lowest} to {largest}, .* save"):
            load_image(tmp_path / "a.tif")


def test_files_of_8_bits_and_masks_are_not_affected(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 90, 255]], np.uint8)).save(tmp_path / "a.png")
    image, largest = read_image(tmp_path / "a.png", bit_depth=10)
    np.testing.assert_array_equal(image[..., 0], [[0, 90, 255]])
    assert largest == {}
    mask = save_deep(tmp_path / "m.png", np.array([[0, 65535]]))
    np.testing.assert_array_equal(load_mask(mask), [[0, 1]])


def test_colours_of_16_bits_are_told_of(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, (8, 6, 3))
    values[0, 0] = 4095
    path = save_deep_colours(tmp_path / "a.png", values)
    image, largest = read_image(path)
    np.testing.assert_array_equal(image, values >> 8)
    assert largest == {"colour": 4095}
    with pytest.raises(InputError, match=r"a\.png: data\.bit_depth: 12 is for grey images"):
        load_image(path, bit_depth=12)


@pytest.mark.parametrize(
    ("largest", "bit_depth", "told"),
    [
        ({}, None, []),
        ({"grey": 2**14}, None, []),
        ({"grey": 2**14 - 1}, None, ["16383, so that they become at most 65 of 256 grey levels; .* to 14"]),
        ({"grey": 1023}, None, ["1023, so that they become at most 5 of 256 .* has 10 bits set it to 10"]),
        ({"grey": 1023}, 10, []),
        ({"grey": 1023}, 14, ["at most 16 of 256 grey levels; if the camera has 10 bits"]),
        ({"grey": 3000}, 12, []),
        ({}, 12, ["12 has no effect, as no image is a grey one of 16 bits; remove it"]),
        ({"grey": 200}, None, ["is 200, .* at most 2 of 256 grey levels; .* save them as 8 bits$"]),
        ({"grey": 200}, 10, ["at most 51 of 256 grey levels; .* save them as 8 bits$"]),
        ({"colour": 65535}, None, []),
        ({"colour": 4095}, None, ["colour images is at most 4095, .* at most 16 of 256 levels a channel"]),
    ],
)
def test_what_a_user_must_know(largest: dict, bit_depth: BitDepth | None, told: list[str]) -> None:
    lines = remarks({"bolt": largest, "cloth": largest}, bit_depth)
    assert len(lines) == len(told)
    for line, expected in zip(lines, told, strict=True):
        assert re.search(expected, line)
        assert "\n" not in line


def test_a_class_of_fewer_bits_than_the_others_is_told_of() -> None:
    full, twelve, eight = {"grey": 65535}, {"grey": 4000}, {"grey": 255}
    (line,) = remarks({"bolt": twelve, "nut": full}, None)
    assert line.startswith(
        "bolt: the largest value of the 16-bit grey images is 4000, that of other classes 65535"
    )
    assert "at most 17 of 256 grey levels; if they are of 12 bits search them by themselves" in line
    assert remarks({"bolt": {}, "nut": full}, None) == []
    one, other = remarks({"bolt": twelve, "cap": eight, "nut": full, "pill": {"grey": 3000}}, None)
    assert one.startswith("cap: ")
    assert one.endswith("if they are of 8 bits save them as 8 bits")
    assert other.startswith("bolt, pill: ")
    set_for_one, too_dark = remarks({"bolt": {"grey": 1000}, "nut": twelve}, None)
    assert set_for_one.endswith("set it to 12")
    assert too_dark.startswith("bolt: ")
    (line,) = remarks({"bolt": {"colour": 4095}, "nut": {"colour": 65535}}, None)
    assert line.startswith("bolt: the largest value of the 16-bit colour images is at most 4095")


def test_the_cache_knows_the_bits_and_says_what_was_found(
    deep_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unset = prepare(deep_root)
    for _ in ("built", "opened"):
        assert [line for line in caplog.messages if "data.bit_depth: the largest value" in line]
        caplog.clear()
        assert prepare(deep_root).fingerprint == unset.fingerprint
    caplog.clear()
    ten = prepare(deep_root, bit_depth=10)
    assert caplog.messages == []
    assert ten.fingerprint != unset.fingerprint
    bolt = np.flatnonzero(ten.splits["train"].class_index == 0)
    assert unset.splits["train"].images(bolt).max() <= 4
    assert ten.splits["train"].images(bolt).max() > 200
    save_deep(deep_root / "bolt/test/good/00.png", np.full((32, 40), 1024))
    with pytest.raises(InputError, match="the largest value of this image is"):
        prepare(deep_root, bit_depth=10)


def test_without_it_the_cache_is_the_one_that_it_was(mvtec_root: Path) -> None:
    """Unset, the key is made of what it was made of before the field was there."""
    from hvqray.data.digests import digest_texts, file_digests
    from hvqray.data.layouts import read_dataset
    from hvqray.data.tensors import images_key

    samples = read_dataset(mvtec_root).samples
    paths = [path for sample in samples for path in (sample.path, sample.mask_path) if path]
    digests = file_digests(paths, mvtec_root.parent / "memo.json")
    parts = ["2", "32"]
    parts += [f"{digests[s.path]} {digests[s.mask_path] if s.mask_path else '-'} None" for s in samples]
    cache_dir = mvtec_root.parent / "cache"
    keys = {
        bits: images_key(
            DataConfig.model_validate({"image_size": 32, "bit_depth": bits}),
            samples,
            cache_dir,
            lambda *_: None,
        )
        for bits in (None, 10, 12)
    }
    assert keys[None] == digest_texts(parts)
    assert len(set(keys.values())) == 3


@pytest.fixture
def run_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


@pytest.mark.usefixtures("run_data")
def test_check_and_describe_report_the_largest_value(
    deep_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, among in (("check", "all"), ("describe", "at most 16 a class")):
        assert commands.main([command, str(deep_root)]) == 0, "a warning is no fault"
        told = capsys.readouterr()
        assert f"16-bit images: largest value 1022 (grey), of {among}\n" in told.out
        (line,) = (line for line in told.err.splitlines() if "hvqray: warning:" in line)
        assert line.startswith("hvqray: warning: data.bit_depth: the largest value")
        assert line.endswith("set it to 10")
    assert commands.main(["check", str(deep_root), "--bit-depth", "10"]) == 0
    assert "warning" not in capsys.readouterr().err
    save_deep(deep_root / "bolt/test/good/00.png", np.full((32, 40), 5000))
    assert commands.main(["check", str(deep_root), "--bit-depth", "10"]) == 2
    assert "bolt/test/good/00.png: data.bit_depth: 10 bits end at 1023" in capsys.readouterr().out
    assert commands.main(["check", str(deep_root), "--bit-depth", "11"]) == 2
    assert "--bit-depth: 11 is not one of 10, 12, 14" in capsys.readouterr().err


def test_it_cannot_be_searched(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "method: random\nmetric: {name: val/image_auroc, goal: maximize}\nrun_cap: 2\n"
        "parameters: {data.bit_depth: {values: [10, 12]}}\n"
    )
    with pytest.raises(InputError, match=r"data\.bit_depth cannot be searched: its values are those of"):
        load_sweep(tmp_path / "space.yaml")
