"""The one look at `test`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from small_checkpoint import (
    CLASS_NAMES,
    SEVERAL_RULES,
    take_rules_that_test_would_not,
    write_checkpoint,
    write_dataset,
)

from hvqray.data.prepare import prepare_data
from hvqray.metrics import PIXEL_METRICS
from hvqray.training.checkpoint import CONFIG_FILE, MODEL_FILE, load_model
from hvqray.training.communicator import SingleProcess
from hvqray.training.evaluation import Evaluator
from hvqray.training.measure import PIXELS_FILE, SCORES_FILE, measure_on_test, read_test_scores

MODEL = {"name": "hvq", "width": 16, "num_heads": 2, "feedforward_width": 32, "codebook_size": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_dataset(root)
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def checkpoint(tmp_path: Path, root: Path, cache: Path) -> Path:
    return write_checkpoint(tmp_path / "best", root, cache, model=MODEL)


def said_of_selection(checkpoint: Path) -> bool:
    """What the metadata of the scores say."""
    said: bool = json.loads(pq.read_schema(checkpoint / SCORES_FILE).metadata[b"hvqray.selected_on_test"])
    return said


def test_test_metrics_join_those_of_val(checkpoint: Path, cache: Path) -> None:
    before = json.loads((checkpoint / "metrics.json").read_text())
    record = measure_on_test(checkpoint, device="cpu", cache_dir=cache)
    assert json.loads((checkpoint / "metrics.json").read_text()) == record
    found = record["metrics"]
    assert {name: found[name] for name in before["metrics"]} == before["metrics"]
    assert {**record, "metrics": None} == {**before, "metrics": None}
    loaded = load_model(checkpoint / MODEL_FILE)
    data = prepare_data(loaded.config.data, cache_dir=cache)
    expected = Evaluator(data.splits["test"], data.context, SingleProcess()).evaluate(
        loaded.model, pixel_metrics=True
    )
    expected = {name: value for name, value in expected.items() if name.startswith("test/")}
    assert {name: value for name, value in found.items() if name.startswith("test/")} == expected
    assert {f"test/{name}/pixel_aupro" for name in CLASS_NAMES} <= expected.keys()


def test_no_rule_is_chosen_on_test(tmp_path: Path, root: Path, cache: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "best", root, cache, model=MODEL | SEVERAL_RULES)
    expected = take_rules_that_test_would_not(checkpoint, cache_dir=cache)
    found = measure_on_test(checkpoint, device="cpu", cache_dir=cache)["metrics"]
    assert {name: value for name, value in found.items() if name.startswith("test/")} == {
        name: value for name, value in expected.items() if name.startswith("test/")
    }


def test_histograms_are_of_the_images_that_have_scores(checkpoint: Path, cache: Path) -> None:
    record = measure_on_test(checkpoint, device="cpu", cache_dir=cache)
    found = read_test_scores(checkpoint)
    assert set(found) == set(CLASS_NAMES)
    split = prepare_data(load_model(checkpoint).config.data, cache_dir=cache).splits["test"]
    for class_index, positions in split.by_class():
        images = found[CLASS_NAMES[class_index]]
        np.testing.assert_array_equal(images.is_anomalous_n, split.is_anomalous[positions])
        assert images.pixels is not None
        histograms = images.pixels.read()
        assert histograms is not None
        masks = split.masks(positions)
        np.testing.assert_array_equal(histograms.anomalous_nB.sum(axis=1), masks.sum(axis=(1, 2)))
        np.testing.assert_array_equal(histograms.normal_nB.sum(axis=1), (1 - masks).sum(axis=(1, 2)))
        for metric in PIXEL_METRICS:
            exact = record["metrics"][f"test/{CLASS_NAMES[class_index]}/{metric}"]
            assert images.pixels.exact[metric] == exact is not None
    (checkpoint / PIXELS_FILE).unlink()
    assert {images.pixels for images in read_test_scores(checkpoint).values()} == {None}


def test_example_maps_of_every_class_are_left(checkpoint: Path, cache: Path) -> None:
    measure_on_test(checkpoint, device="cpu", cache_dir=cache)
    assert said_of_selection(checkpoint) is False
    maps = list((checkpoint / "maps").glob("*_map.png"))
    assert {path.name.partition("_")[0] for path in maps} == set(CLASS_NAMES)


def test_where_val_is_test_the_numbers_are_the_same_ones(
    tmp_path: Path, root: Path, cache: Path, checkpoint: Path
) -> None:
    loaded = load_model(checkpoint)
    config = yaml.safe_load((checkpoint / CONFIG_FILE).read_text())
    config["data"]["validation"]["from"] = "none"
    from hvqray.config.sections import RunConfig
    from hvqray.training.checkpoint import save_model

    selected = tmp_path / "selected"
    save_model(
        selected,
        loaded.model,
        config=RunConfig.model_validate(config),
        context=loaded.context,
        record={**loaded.metrics, "selected_on_test": True, "metrics": {}},
    )
    record = measure_on_test(selected, device="cpu", cache_dir=cache)
    assert {name.partition("/")[0] for name in record["metrics"]} == {"test"}
    assert record["metrics"]["test/image_auroc"] is not None
    assert record["metrics"]["test/image_auroc.num_classes"] == len(CLASS_NAMES)
    assert record["selected_on_test"]
    assert said_of_selection(selected) is True
