"""The built-in synthetic set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hvqray.data.check import check_dataset
from hvqray.data.images import image_dimensions
from hvqray.data.mvtec import read_mvtec
from hvqray.data.rendering import photograph
from hvqray.data.synthetic import PRODUCTS, write_synthetic


def tiny(folder: Path, seed: int = 0) -> Path:
    return write_synthetic(folder, seed, num_train=2, num_test_good=1, num_test_defect=5)


def test_layout_counts_and_no_fault(tmp_path: Path) -> None:
    dataset = read_mvtec(tiny(tmp_path / "set"))
    assert len(dataset.class_names) >= 6
    for name in dataset.class_names:
        samples = [sample for sample in dataset.samples if sample.class_name == name]
        assert sum(sample.part == "train" for sample in samples) == 2
        assert sum(sample.is_anomalous for sample in samples) == 5
        assert len({sample.defect for sample in samples if sample.is_anomalous}) >= 3
    assert check_dataset(dataset).faults == []
    assert {image_dimensions(sample.path) for sample in dataset.samples} == {(224, 224)}


@pytest.fixture
def two_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hvqray.data.synthetic.PRODUCTS", {name: PRODUCTS[name] for name in ("nut", "wood")})


@pytest.mark.usefixtures("two_products")
def test_seed_decides_every_pixel(tmp_path: Path) -> None:
    def contents(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.png"))}

    first, again, other = (contents(tiny(tmp_path / f"{i}", seed)) for i, seed in enumerate((0, 0, 1)))
    assert first == again
    assert first.keys() == other.keys()
    images = [name for name in first if "ground_truth" not in name]
    assert len({first[name] for name in images}) == len(images)
    assert all(first[name] != other[name] for name in images)


@pytest.mark.parametrize(
    ("name", "defect"), [(name, defect) for name, product in PRODUCTS.items() for defect in product.defects]
)
def test_mask_is_where_the_defect_changed_the_image(name: str, defect: str) -> None:
    """The same scene without the defect is drawn from the same seed; pixels must differ inside the mask, not outside."""
    render = PRODUCTS[name].render
    shown = 0
    for seed in range(4):
        normal, _ = render(np.random.default_rng(seed), 224, None)
        defective, mask = render(np.random.default_rng(seed), 224, defect)
        if mask.sum() < 20:
            continue
        difference = np.abs(defective - normal).max(axis=2)
        shown += difference[mask].mean() > 0.015
        assert mask.mean() < 0.2
        # Soft edges and shadows of a defect fall outside its mask, faintly.
        assert difference[~mask].mean() < 0.05 * difference[mask].mean()
    assert shown >= 2


@pytest.mark.usefixtures("two_products")
def test_interrupted_writing_leaves_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def fail_at_tenth(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise KeyboardInterrupt
        return photograph(rng, image)

    monkeypatch.setattr("hvqray.data.synthetic.photograph", fail_at_tenth)
    with pytest.raises(KeyboardInterrupt):
        tiny(tmp_path / "set")
    assert not (tmp_path / "set").exists()
    tiny(tmp_path / "set")
    assert len(read_mvtec(tmp_path / "set").samples) == 8 * 2
    assert not list(tmp_path.glob(".set.part-*"))


@pytest.mark.usefixtures("two_products")
def test_written_once(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "set")
    images = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")}
    assert images
    assert tiny(tmp_path / "set") == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.*")} == images
