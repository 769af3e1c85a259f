"""A search whose objective no trial could have is refused before any is started."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from small_images import write_space

from hvqray import train
from hvqray.command_line import run_command
from hvqray.config.sweep_file import SweepFile, load_sweep
from hvqray.errors import InputError
from hvqray.training import loop
from hvqray.tuning import session
from hvqray.tuning.per_class import class_sweeps
from hvqray.tuning.session import SweepOptions, SweepSession


@pytest.fixture
def images(tmp_path: Path, small_images: Path) -> Path:
    """`bolt` has no defective image."""
    root = tmp_path / "images"
    shutil.copytree(small_images, root)
    for folder in ("test/hole", "ground_truth"):
        shutil.rmtree(root / "bolt" / folder)
    return root


def sweep_of(tmp_path: Path, images: Path, *overrides: str) -> SweepFile:
    return load_sweep(write_space(tmp_path), overrides, data_root=str(images))


def begin(sweep: SweepFile, tmp_path: Path, cache: Path) -> SweepSession:
    options = SweepOptions(out=tmp_path / "runs", wandb="disabled", cache_dir=cache)
    return SweepSession(sweep, options, [{"CPU": 2.0}], Console(file=io.StringIO(), width=120))


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.classes=[bolt]"],
        ["metric.name=val/bolt/image_auroc"],
        [
            "metric=[{name: val/image_auroc, goal: maximize}, {name: val/bolt/pixel_ap, goal: maximize}]",
        ],
    ],
)
def test_no_trial_is_started(
    tmp_path: Path,
    images: Path,
    shared_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
) -> None:
    monkeypatch.setattr(session, "run_search", lambda *_: pytest.fail("a trial would be started"))
    one = begin(sweep_of(tmp_path, images, *overrides), tmp_path, shared_cache)
    for start in (one.run, one.describe):
        with pytest.raises(InputError, match=r"^metric\.name: .* where bolt has no defective image; add"):
            start()
    assert not one.folder.exists()


def test_one_class_that_has_it_is_enough(tmp_path: Path, images: Path, shared_cache: Path) -> None:
    begin(sweep_of(tmp_path, images), tmp_path, shared_cache).describe()


def test_one_model_a_class_is_refused_before_the_first(tmp_path: Path, images: Path) -> None:
    sweep = sweep_of(tmp_path, images)
    with pytest.raises(
        InputError,
        match=r"metric\.name: .* class 'bolt', which has no defective image in val; .* data\.classes$",
    ):
        class_sweeps(sweep, tmp_path / "runs", cache_dir=tmp_path)
    (cloth,) = class_sweeps(
        sweep_of(tmp_path, images, "data.classes=[cloth]"), tmp_path / "runs", cache_dir=tmp_path
    )
    assert cloth.name == "small-cloth"
    of_both = class_sweeps(
        sweep_of(tmp_path, images, "data.validation.from=synthetic"), tmp_path / "runs", cache_dir=tmp_path
    )
    assert [one.name for one in of_both] == ["small-bolt", "small-cloth"]


def test_train_refuses_where_the_metric_chooses_the_epoch(
    tmp_path: Path,
    images: Path,
    shared_cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Began(Exception):
        pass

    def run(*arguments: object, **options: object) -> None:
        raise Began

    monkeypatch.setattr(loop, "run", run)
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {name: hvq, score_pool_size: 4}\n"
        "data: {image_size: 64, classes: [bolt], backbone: {weights: random, strides: [8, 16]}}\n"
    )
    places = ["--data", str(images), "--out", str(tmp_path / "out"), "--cache-dir", str(shared_cache)]
    assert run_command(train.main, [str(config), *places]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "--metric: 'val/image_auroc' is undefined on val, where bolt has no defective image" in line
    assert line.endswith("or train.checkpoint: last, which needs no metric")
    with pytest.raises(Began):
        train.main([str(config), *places, "--set", "train.checkpoint=last"])
