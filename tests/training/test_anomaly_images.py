"""Pictures of anomaly maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluation_doubles import CONTEXT, SIZE, FeatureNormModel, make_split
from PIL import Image

from hvqray.data.dataset import Split
from hvqray.training.anomaly_images import overlay, save_examples
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import Evaluator


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def scores(split: Split) -> np.ndarray:
    """The model's score follows the strongest location but is not equal to its norm; ask the model itself."""
    import torch

    from hvqray.models.batch import Batch

    model = FeatureNormModel().eval()
    with torch.inference_mode():
        everything = np.arange(len(split))
        features = torch.from_numpy(split.features(everything)).float()
        return model.predict(Batch(features, torch.from_numpy(split.class_index))).scores_B.numpy()


def test_scores_that_are_known_are_not_predicted_again(tmp_path: Path) -> None:
    split = make_split(((3, 3), (2, 2), (2, 4)))
    evaluator, model = Evaluator(split, CONTEXT, SingleProcess()), FeatureNormModel()
    evaluator.evaluate(model, pixel_metrics=False)
    model.batch_sizes.clear()
    first = save_examples(model, split, CONTEXT, tmp_path / "a", scores_n=evaluator.scores_n)
    assert model.batch_sizes == [3, 3, 3], "two defects and a normal image of each class"
    second = save_examples(FeatureNormModel(), split, CONTEXT, tmp_path / "b")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_names_and_contents(tmp_path: Path) -> None:
    split = make_split(((4, 3), (0, 0), (3, 1)))
    files = save_examples(FeatureNormModel(), split, CONTEXT, tmp_path / "maps")
    stems = ["bolt_000", "bolt_001", "bolt_002", "pill_000", "pill_001"]
    expected = sorted(f"{stem}_{kind}.png" for stem in stems for kind in ("image", "mask", "map"))
    assert [file.name for file in files] == expected
    assert list(tmp_path.iterdir()) == [tmp_path / "maps"]
    score = scores(split)
    bolts = np.flatnonzero(split.class_index == 0)
    defects = bolts[split.is_anomalous[bolts]]
    most_anomalous = defects[np.argsort(-score[defects])][:2]
    normal = bolts[~split.is_anomalous[bolts]]
    median = normal[np.argsort(-score[normal])[2]]
    for i, position in enumerate([*most_anomalous, median]):
        one = np.array([position])
        image = read(tmp_path / "maps" / f"bolt_{i:03d}_image.png")
        np.testing.assert_array_equal(image, split.images(one)[0].transpose(1, 2, 0))
        mask = read(tmp_path / "maps" / f"bolt_{i:03d}_mask.png")
        np.testing.assert_array_equal(mask, split.masks(one)[0] * 255)
        assert read(tmp_path / "maps" / f"bolt_{i:03d}_map.png").shape == (SIZE, SIZE, 3)


def test_the_same_model_gives_the_same_files(tmp_path: Path) -> None:
    split = make_split(((4, 3), (2, 2), (3, 1)))
    first = save_examples(FeatureNormModel(), split, CONTEXT, tmp_path / "a", per_class=1)
    second = save_examples(FeatureNormModel(), split, CONTEXT, tmp_path / "b", per_class=1)
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_an_older_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    save_examples(FeatureNormModel(), make_split(((2, 2), (2, 2))), CONTEXT, folder)
    save_examples(FeatureNormModel(), make_split(((2, 2),)), CONTEXT, folder)
    assert {file.name.split("_")[0] for file in folder.iterdir()} == {"bolt"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_leaves_the_older_folder(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    before = save_examples(FeatureNormModel(), make_split(((2, 2),)), CONTEXT, folder)
    broken = FeatureNormModel()
    broken.predict = lambda batch: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        save_examples(broken, make_split(((2, 2),)), CONTEXT, folder)
    assert sorted(folder.iterdir()) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_no_picture_of_a_mask_that_is_missing(tmp_path: Path) -> None:
    files = save_examples(
        FeatureNormModel(), make_split(((1, 1),), unmasked=(0,)), CONTEXT, tmp_path / "maps"
    )
    assert [file.name for file in files] == [
        "bolt_000_image.png",
        "bolt_000_map.png",
        "bolt_001_image.png",
        "bolt_001_map.png",
        "bolt_001_mask.png",
    ]


def test_maps_that_are_not_finite_are_drawn_all_the_same(tmp_path: Path) -> None:
    split = make_split(((2, 2),))
    split.all_features[:] = np.nan
    assert len(save_examples(FeatureNormModel(), split, CONTEXT, tmp_path / "maps")) == 9


def test_overlay_grows_brighter_with_the_map_and_keeps_to_its_scale() -> None:
    ramp = np.tile(np.linspace(-1, 3, 64, dtype=np.float32), (4, 1))
    grey = np.full((3, 4, 64), 100, dtype=np.uint8)
    brightness = np.asarray(overlay(grey, ramp, low=0, high=2)).astype(float).mean((0, 2))
    assert (np.diff(brightness) >= 0).all()
    assert brightness[0] == brightness[15] < brightness[40] < brightness[48] == brightness[-1]


def test_overlay_of_a_constant_map_is_dark_and_nan_bright() -> None:
    grey = np.full((3, 2, 2), 100, dtype=np.uint8)
    constant = np.asarray(overlay(grey, np.ones((2, 2), dtype=np.float32), low=1, high=1))
    assert (constant <= 42).all()
    nan = np.asarray(overlay(grey, np.full((2, 2), np.nan, dtype=np.float32), low=0, high=1))
    assert nan.mean() > 150
