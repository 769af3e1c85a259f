"""From a configuration to arrays."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from layout_copies import write_visa
from PIL import Image

from hvqray.config.data_sections import BackboneConfig, DataConfig
from hvqray.data import tensors
from hvqray.data.backbones import Backbone, load_backbone
from hvqray.data.cache import cache_entries
from hvqray.data.dataset import PreparedData
from hvqray.data.images import load_image
from hvqray.data.layouts import read_dataset
from hvqray.data.masks import load_mask
from hvqray.data.prepare import LastPrepared, prepare_data
from hvqray.errors import InputError

BACKBONE = {"name": "resnet18", "weights": "random", "strides": [4, 8]}


def config(root: Path, **fields: Any) -> DataConfig:
    return DataConfig.model_validate({"root": str(root), "image_size": 32, "backbone": BACKBONE} | fields)


def prepare(root: Path, **fields: Any) -> PreparedData:
    return prepare_data(config(root, **fields), cache_dir=root.parent / "cache")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that were decoded."""
    paths: list[Path] = []
    load_sample = tensors.load_sample

    def record(sample: Any, image_size: int, bit_depth: Any) -> Any:
        paths.append(sample.path)
        return load_sample(sample, image_size, bit_depth)

    monkeypatch.setattr(tensors, "load_sample", record)
    return paths


def test_rows_are_the_files(mvtec_root: Path) -> None:
    data = prepare(mvtec_root)
    backbone = load_backbone(BackboneConfig.model_validate(BACKBONE), 32)
    assert data.context.class_names == ("bolt", "cloth")
    assert (data.context.feature_channels, data.context.grid_size, data.context.image_size) == (
        192,
        (2, 2),
        32,
    )
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 10, "val": 10, "test": 10}
    for split in data.splits.values():
        for position, sample in enumerate(split.samples):
            index = np.array([position])
            image = load_image(sample.path, 32).transpose(2, 0, 1)
            np.testing.assert_array_equal(split.images(index)[0], image)
            mask = load_mask(sample.mask_path, 32) if sample.mask_path else np.zeros((32, 32))
            np.testing.assert_array_equal(split.masks(index)[0], mask)
            features = backbone(torch.from_numpy(image.copy())[None])[0].half().numpy()
            np.testing.assert_allclose(split.features(index)[0], features, rtol=2e-3, atol=2e-3)
            assert split.class_index[position] == data.context.class_names.index(sample.class_name)
            assert split.is_anomalous[position] == (sample.defect != "good")
        assert split.has_mask.all()
    assert not data.splits["train"].is_anomalous.any()
    assert data.splits["test"].masks(np.arange(10)).any()
    assert data.batchnorm is None


def test_second_time_only_opens(
    mvtec_root: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(mvtec_root)
    decoded.clear()
    monkeypatch.setattr(
        "hvqray.data.backbones.load_backbone", lambda *_: pytest.fail("the backbone was loaded")
    )
    second = prepare(mvtec_root)
    assert decoded == []
    assert first.fingerprint == second.fingerprint
    assert not second.splits["train"].all_features.flags.owndata


def test_same_content_elsewhere_shares_the_cache(mvtec_root: Path, decoded: list[Path]) -> None:
    first = prepare(mvtec_root)
    copy = mvtec_root.with_name("copy")
    shutil.copytree(mvtec_root, copy)
    decoded.clear()
    assert prepare(copy).fingerprint == first.fingerprint
    assert decoded == []


@pytest.mark.parametrize(
    "fields",
    [
        {"image_size": 48},
        {"classes": ["bolt"]},
        {"backbone": BACKBONE | {"strides": [8]}},
        {"backbone": BACKBONE | {"grid_stride": 8}},
        {"backbone": BACKBONE | {"name": "resnet10t"}},
        {"adapt_batchnorm": True},
        {"validation": {"from": "synthetic"}},
    ],
)
def test_what_changes_the_features_changes_the_fingerprint(mvtec_root: Path, fields: dict[str, Any]) -> None:
    first, second = prepare(mvtec_root), prepare(mvtec_root, **fields)
    assert first.fingerprint != second.fingerprint
    assert first.splits["train"].all_features is not second.splits["train"].all_features


def test_changed_pixel_or_mask_changes_the_fingerprint(mvtec_root: Path) -> None:
    fingerprints = [prepare(mvtec_root).fingerprint]
    for path in ("bolt/train/good/00.png", "cloth/ground_truth/cut/00_mask.png"):
        with Image.open(mvtec_root / path) as image:
            pixels = np.array(image)
        pixels[0, 0] ^= 255
        Image.fromarray(pixels).save(mvtec_root / path)
        fingerprints.append(prepare(mvtec_root).fingerprint)
    assert len(set(fingerprints)) == 3


def test_masks_read_by_another_rule_are_cached_by_themselves(mvtec_root: Path) -> None:
    """VisA as published and a copy of it in the layout of MVTec AD have the same files."""
    samples = read_dataset(mvtec_root).samples
    by_value = [replace(sample, mask_is_nonzero=sample.is_anomalous) for sample in samples]
    cache_dir = mvtec_root.parent / "cache"
    keys = {
        tensors.images_key(config(mvtec_root), given, cache_dir, lambda *_: None)
        for given in (samples, by_value)
    }
    assert len(keys) == 2


def test_split_alone_shares_images_and_features(mvtec_root: Path) -> None:
    prepare(mvtec_root)
    prepare(mvtec_root, validation={"from": "test", "seed": 7})
    none = prepare(mvtec_root, validation={"from": "none"})
    assert len(cache_entries(mvtec_root.parent / "cache")) == 2
    assert none.selected_on_test
    np.testing.assert_array_equal(none.splits["val"].rows, none.splits["test"].rows)


def test_synthetic_validation(mvtec_root: Path) -> None:
    data = prepare(mvtec_root, validation={"from": "synthetic"})
    val = data.splits["val"]
    masks = val.masks(np.arange(len(val)))
    assert 0 < val.is_anomalous.sum() < len(val)
    np.testing.assert_array_equal(masks.any(axis=(1, 2)), val.is_anomalous)
    assert val.has_mask.all()
    assert len(data.splits["test"]) == 20


def test_adapted_batchnorm_is_given_for_new_images(mvtec_root: Path) -> None:
    data = prepare(mvtec_root, adapt_batchnorm=True)
    split = data.splits["test"]
    backbone = load_backbone(BackboneConfig.model_validate(BACKBONE), 32, batchnorm=data.batchnorm)
    features = backbone(torch.from_numpy(split.images(np.arange(4))))
    np.testing.assert_allclose(split.features(np.arange(4)), features.half().numpy(), rtol=5e-3, atol=5e-3)


def test_batch_statistics_are_those_of_the_training_images_alone(mvtec_root: Path) -> None:
    def statistics(cache: str) -> dict[str, np.ndarray]:
        data = prepare_data(config(mvtec_root, adapt_batchnorm=True), cache_dir=mvtec_root.parent / cache)
        assert data.batchnorm is not None
        return data.batchnorm

    before = statistics("before")
    for path in mvtec_root.glob("*/test/*/*.png"):
        Image.new("RGB", (40, 32), (255, 0, 0)).save(path)
    after = statistics("other test images")
    assert all(np.array_equal(after[name], value) for name, value in before.items())
    Image.new("RGB", (40, 32), (255, 0, 0)).save(mvtec_root / "bolt" / "train" / "good" / "00.png")
    after = statistics("another training image")
    assert not any(np.array_equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(("num_train", "used"), [(64, 64), (65, 64), (1, 1)])
def test_batch_statistics_are_taken_of_batches_that_mix_the_classes(num_train: int, used: int) -> None:
    """The classes lie one after the other; a last batch of one image has no variance on the smallest grids."""
    rows = np.arange(100, 100 + num_train)
    images = np.arange(256, dtype=np.uint8)[:, None, None, None]
    batches = [batch.flatten().numpy() for batch in tensors._shuffled_batches(images, rows, lambda *_: None)]
    assert len(set(np.concatenate(batches).tolist()) & set(rows.tolist())) == used
    assert sum(map(len, batches)) == used
    if num_train > 1:
        assert all({True, False} == set((batch < 100 + num_train // 2).tolist()) for batch in batches)


def test_missing_masks_are_recorded(mvtec_root: Path) -> None:
    shutil.rmtree(mvtec_root / "bolt" / "ground_truth" / "dent")
    data = prepare(mvtec_root, validation={"from": "none"})
    test = data.splits["test"]
    expected = [not (s.class_name == "bolt" and s.defect == "dent") for s in test.samples]
    np.testing.assert_array_equal(test.has_mask, expected)
    assert not test.masks(np.flatnonzero(~test.has_mask)).any()


def test_unreadable_image_is_named_and_nothing_is_cached(mvtec_root: Path) -> None:
    (mvtec_root / "cloth" / "test" / "good" / "01.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"cloth/test/good/01\.png: not a readable image"):
        prepare(mvtec_root)
    assert cache_entries(mvtec_root.parent / "cache") == []


def test_weights_are_missed_before_any_work(mvtec_root: Path, decoded: list[Path]) -> None:
    with pytest.raises(InputError, match="does not exist"):
        prepare(mvtec_root, backbone=BACKBONE | {"weights": "/nowhere/w.pth"})
    assert decoded == []


def test_limit_clears_other_entries(mvtec_root: Path) -> None:
    cache_dir = mvtec_root.parent / "cache"
    prepare(mvtec_root, image_size=48)
    data = prepare_data(config(mvtec_root), cache_dir=cache_dir, cache_limit_bytes=1)
    entries = cache_entries(cache_dir)
    assert len(entries) == 2
    assert all(entry.in_use and "32 px" in entry.description for entry in entries)
    assert len(data.splits["train"]) == 10


def test_progress_is_told(mvtec_root: Path) -> None:
    told: dict[str, tuple[int, int]] = {}
    prepare_data(
        config(mvtec_root),
        cache_dir=mvtec_root.parent / "cache",
        progress=lambda description, done, total: told.update({description: (done, total)}),
    )
    assert told["decoding images"] == told["computing features (resnet18)"] == (30, 30)


def test_synthetic_set_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path, seed: int, *, progress: Any) -> Path:
        from hvqray.data.synthetic import write_synthetic

        return write_synthetic(
            folder, seed, num_train=1, num_test_good=2, num_test_defect=4, progress=progress
        )

    monkeypatch.setattr("hvqray.data.prepare.write_synthetic", write)
    fields = {"classes": ["nut"], "image_size": 32, "backbone": BACKBONE}
    data = prepare_data(DataConfig.model_validate(fields), cache_dir=tmp_path, cache_limit_bytes=1)
    assert data.context.class_names == ("nut",)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 1, "val": 3, "test": 3}
    (kept,) = (entry for entry in cache_entries(tmp_path) if entry.is_synthetic_set)
    assert list(kept.path.glob("nut/train/good/*.png")), "what is trained on is not cleared"


def test_a_published_layout_through_the_configuration(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_visa(tmp_path / "set")
    data = prepare_data(
        config(tmp_path / "set", layout="visa", validation={"from": "none"}),
        cache_dir=tmp_path / "cache",
        progress=lambda *_: None,
    )
    test = data.splits["test"]
    shares = test.masks(np.arange(len(test))).mean(axis=(1, 2))
    np.testing.assert_array_equal(shares, np.where(test.is_anomalous, 0.25, 0))
    assert test.has_mask.all()
    assert any("class pcb1 has 3 train good" in message for message in caplog.messages)


@pytest.mark.slow
def test_real_photographs(industrial: Path, tmp_path: Path) -> None:
    data = prepare_data(config(industrial, classes=["cookie", "road"], image_size=64), cache_dir=tmp_path)
    assert len(data.splits["train"]) == 31 + 97
    assert len(data.splits["val"]) + len(data.splits["test"]) == 14 + 32 + 36 + 159
    assert all(split.has_mask.all() for split in data.splits.values())


@pytest.mark.parametrize(("name", "expected"), [("vit_tiny_patch16_224", True), ("resnet18", False)])
def test_the_data_tell_whether_locations_are_patches(mvtec_root: Path, name: str, expected: bool) -> None:
    data = prepare(mvtec_root, backbone=BACKBONE | {"name": name})
    assert data.context.grid_of_patches is expected


def test_features_that_float16_does_not_hold_are_refused_with_a_mend(
    mvtec_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "forward", lambda self, images: torch.full((len(images), 1, 2, 2), 65536.0))
    with pytest.raises(InputError) as caught:
        prepare(mvtec_root)
    assert str(caught.value) == (
        "data.backbone.name: features of 'resnet18' exceed the range of float16; choose another backbone, or other"
        " data.backbone.strides or data.backbone.blocks"
    )


def test_the_next_run_on_the_same_data_is_given_them_again(tmp_path: Path) -> None:
    root, last = tmp_path / "data", LastPrepared()
    write_visa(root)

    def prepared(**fields: Any) -> PreparedData:
        return last.prepare(config(root, **fields), cache_dir=tmp_path / "cache", device="cpu")

    first = prepared()
    assert prepared() is first
    assert prepared(image_size=64).context.image_size == 64
    with pytest.raises(InputError):
        prepared(classes=["unknown"])
    again = prepared()
    assert again is not first
    assert again.fingerprint == first.fingerprint


def test_the_start_of_a_run_says_what_masks_and_formats_cost(
    mvtec_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When the cache is built and when it is opened again; trials, which tell no progress, say nothing."""
    for number in range(3):
        dot = np.zeros((32, 40), np.uint8)
        dot[31, 2] = 255  # between two columns that the nearest pixel takes
        Image.fromarray(dot).save(mvtec_root / f"bolt/ground_truth/cut/{number:02d}_mask.png")
    Image.new("L", (40, 32)).save(mvtec_root / "cloth/ground_truth/dent/01_mask.png")
    (mvtec_root / "cloth/train/good/a.gif").write_bytes(b"")
    for _ in ("built", "opened"):
        data = prepare_data(
            config(mvtec_root), cache_dir=mvtec_root.parent / "cache", progress=lambda *_: None
        )
        assert [line.replace(f"{mvtec_root}/", "") for line in caplog.messages] == [
            f"{mvtec_root}: 1 image in a format that is not read (cloth/train/good/a.gif); save it as PNG",
            "the mask of 1 defect image is empty (first: cloth/ground_truth/dent/01_mask.png); mark the defects",
            "bolt: the masks of 3 of 6 defect images are smaller than a pixel at data.image_size 32; raise it",
        ]
        caplog.clear()
    small = [
        split.masks(np.array([row]))[0]
        for split in (data.splits["val"], data.splits["test"])
        for row, sample in enumerate(split.samples)
        if sample.class_name == "bolt" and sample.defect == "cut"
    ]
    assert len(small) == 3
    for mask in small:
        assert [tuple(place) for place in np.argwhere(mask)] == [(31, 1), (31, 2)]
    prepare(mvtec_root)
    assert caplog.messages == []
