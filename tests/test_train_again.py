"""`hvqray.train` into a folder that holds a run already."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from small_images import write_small_images

from hvqray import train
from hvqray.command_line import run_command
from hvqray.training import measure
from hvqray.training.anomaly_images import EXAMPLES
from hvqray.training.checkpoint import CONFIG_FILE, METRICS_FILE, MODEL_FILE, RESUME_FILE

CONFIG = """\
model: {name: hvq, width: 16, num_heads: 2, feedforward_width: 32, hierarchy_depth: 1, score_pool_size: 4, codebook_size: 8}
data: {image_size: 64, backbone: {weights: random, strides: [8, 16]}}
train: {epochs: 1, batch_size: 4, precision: fp32}
"""
TRAINED = re.compile(r"^epoch 1/1", re.MULTILINE)


class Command:
    """`hvqray train` on the small images, once done."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.out, self.images = folder / "out", write_small_images(folder)
        self._config, self._cache, self._capsys = folder / "config.yaml", folder / "cache", capsys
        self._config.write_text(CONFIG)
        assert TRAINED.search(self("--set", "train.lr=2e-3"))

    def __call__(self, *arguments: str, code: int = 0) -> str:
        places = ["--data", str(self.images), "--out", str(self.out), "--cache-dir", str(self._cache)]
        assert run_command(train.main, [str(self._config), *arguments, *places]) == code
        captured = self._capsys.readouterr()
        return captured.out if code == 0 else captured.err.removeprefix("hvqray: error: ")

    def record(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.out / METRICS_FILE).read_text())
        return content


@pytest.fixture
def trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def test_a_finished_run_is_replaced_by_no_other(trained: Command) -> None:
    before = (trained.out / MODEL_FILE).read_bytes()
    for missing in (None, CONFIG_FILE, METRICS_FILE):
        if missing:
            (trained.out / missing).unlink()
        assert trained("--set", "train.lr=5e-3", code=2) == (
            f"--out {trained.out}: holds a finished run of another configuration; choose another folder, or remove this one\n"
        )
    by_another = trained("--set", "train.lr=2e-3", "--metric", "val/pixel_ap", code=2)
    assert "holds a finished run whose epoch is chosen by val/image_auroc;" in by_another
    image = next((trained.images / "bolt" / "train" / "good").glob("*.png"))
    image.write_bytes(next((trained.images / "cloth" / "train" / "good").glob("*.png")).read_bytes())
    assert "holds a run on other data" in trained("--set", "train.lr=2e-3", code=2)
    assert (trained.out / MODEL_FILE).read_bytes() == before


def test_a_finished_run_is_not_trained_again_but_measured_where_that_is_missing(trained: Command) -> None:
    record, before = trained.record(), (trained.out / MODEL_FILE).read_bytes()
    (trained.out / METRICS_FILE).unlink()  # the model carries a copy
    same = ("--set", "train.lr=2e-3", "--set", "resources.workers=1")
    output = trained(*same)
    assert "this run is finished, so it is not trained again" in output
    assert trained.record() == record
    output = trained(*same, "--test")
    assert not TRAINED.search(output)
    figures = re.findall(r"^test/.*", output, re.MULTILINE)
    assert len(figures) >= 7
    assert (trained.out / MODEL_FILE).read_bytes() == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "measure_on_test", None)
        assert re.findall(r"^test/.*", trained(*same, "--test"), re.MULTILINE) == figures


def test_a_run_without_its_model_is_trained_again(trained: Command) -> None:
    (trained.out / MODEL_FILE).rename(trained.out.with_name("gone"))
    assert "holds an unfinished run of another configuration" in trained("--set", "train.lr=5e-3", code=2)
    assert TRAINED.search(trained("--set", "train.lr=2e-3"))


def test_a_run_without_its_pictures_is_finished(trained: Command) -> None:
    shutil.rmtree(trained.out / EXAMPLES)
    assert "this run is finished" in trained("--set", "train.lr=2e-3")


def test_a_run_that_was_killed_in_its_first_epoch_is_trained_again(
    trained: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the model, before last.pt."""
    trained.out = trained.out.with_name("killed")
    two = ("--set", "train.epochs=2")
    with monkeypatch.context() as patch:
        patch.setattr("hvqray.training.loop._Run._save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained(*two)
    assert (trained.out / MODEL_FILE).exists()
    assert re.search(r"^epoch 1/2", trained(*two), re.MULTILINE)


def test_ctrl_c_in_the_measurement_costs_no_training(
    trained: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    trained.out = trained.out.with_name("other")
    with monkeypatch.context() as patch:
        patch.setattr(measure, "measure_on_test", interrupted)
        trained("--test", code=130)
    with monkeypatch.context() as patch:
        patch.setattr("hvqray.training.epoch_trainer.EpochTrainer.train", None)
        assert re.search(r"^test/image_auroc", trained("--test"), re.MULTILINE)
    assert not (trained.out / RESUME_FILE).exists()


def test_a_class_of_another_name_is_other_data(trained: Command) -> None:
    (trained.images / "cloth").rename(trained.images / "felt")  # same pixels in the same order
    assert "holds a run on other data" in trained("--set", "train.lr=2e-3", code=2)
