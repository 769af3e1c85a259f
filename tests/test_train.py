"""The train command: one run, a trial again, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fake_sweep import write_fake_sweep
from small_images import write_small_images, write_space

from hvqray import train
from hvqray.command_line import run_command
from hvqray.config.sweep_file import load_sweep, resolve_run_config
from hvqray.data.prepare import prepare_data
from hvqray.training import loop
from hvqray.training.checkpoint import (
    RESUME_FILE,
    load_model,
    remove_resume_state,
    save_config,
    trial_folder,
)
from hvqray.training.communicator import SingleProcess
from hvqray.training.epoch_report import EpochReport
from hvqray.training.selection import Selection

CONFIG = """\
model: {name: hvq, width: 16, num_heads: 2, feedforward_width: 32, hierarchy_depth: 1, score_pool_size: 4, codebook_size: 8}
data: {image_size: 64, backbone: {weights: random, strides: [8, 16]}}
train: {epochs: 2, batch_size: 4, precision: fp32}
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_images(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


class Command:
    """`hvqray train` on the small images."""

    def __init__(self, folder: Path, images: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.out = folder / "out"
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIG)
        self.images, self._cache, self._capsys = images, cache, capsys

    def __call__(self, *arguments: str) -> int:
        given = arguments if "--trial" in arguments else (str(self.config), *arguments)
        places = ["--data", str(self.images), "--out", str(self.out), "--cache-dir", str(self._cache)]
        return run_command(train.main, [*given, *places])

    def fault(self, *arguments: str) -> str:
        assert self(*arguments) == 2
        (line,) = self._capsys.readouterr().err.splitlines()
        return line.removeprefix("hvqray: error: ")

    def output(self) -> str:
        return self._capsys.readouterr().out


@pytest.fixture
def command(tmp_path: Path, images: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, images, cache, capsys)


@pytest.fixture
def sweep(tmp_path: Path, images: Path, cache: Path) -> Path:
    """A sweep's folder with one trial, t0003, as the trial actor leaves it."""
    space = write_space(tmp_path)
    resolved = load_sweep(space, ["metric.name=val/pixel_ap", "train.seed=4"], data_root=str(images))
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(resolved.to_yaml())
    config = resolve_run_config(resolved, {"model.codebook_size": 4, "train.lr": 5e-3})
    torch.set_num_threads(1)
    for _ in loop.run(
        config,
        prepare_data(config.data, cache_dir=cache),
        folder=trial_folder(folder, "t0003"),
        communicator=SingleProcess(),
        selection=Selection("val/pixel_ap"),
        trial_id="t0003",
    ):
        pass
    remove_resume_state(trial_folder(folder, "t0003"))
    return folder


def test_a_run_leaves_a_checkpoint_and_a_line_an_epoch(command: Command) -> None:
    assert command("--set", "train.lr=2e-3", "--test") == 0
    output = command.output()
    for epoch in (1, 2):
        pattern = (
            rf"epoch {epoch}/2: train/loss [\d.]+, val/image_auroc [\d.]+, val/pixel_auroc [\d.]+ \(\d+ s\)"
        )
        assert re.search(pattern, output)
    loaded = load_model(command.out)
    assert loaded.config.train.lr == 2e-3
    assert loaded.context.class_names == ("bolt", "cloth")
    measured = {name: value for name, value in loaded.metrics["metrics"].items() if name.startswith("test/")}
    assert f"test/image_auroc: {measured['test/image_auroc']:.4f}" in output
    assert "test/bolt/pixel_aupro" in measured
    assert not (command.out / RESUME_FILE).exists()
    assert list((command.out / "maps").glob("bolt_*_map.png"))


def test_data_are_taken_from_the_folder_as_it_is_named(command: Command, tmp_path: Path) -> None:
    """YAML would read another name, or none: then the synthetic set would be taken instead."""
    for name in ("123", "a #b", "null"):
        command.images = tmp_path / name
        assert command.fault().startswith(f"data.root: {tmp_path / name} is not a folder")


def test_without_test_the_test_split_is_not_looked_at(command: Command) -> None:
    assert command() == 0
    metrics = json.loads((command.out / "metrics.json").read_text())["metrics"]
    assert "val/image_auroc" in metrics
    assert not any(name.startswith("test/") for name in metrics)


def test_that_there_is_nothing_to_measure_on_test_is_said(command: Command) -> None:
    normal = command.out.with_name("normal")
    shutil.copytree(command.images, normal, ignore=shutil.ignore_patterns("test", "ground_truth"))
    command.images = normal
    assert command("--test", "--set", "data.validation.from=synthetic", "--set", "train.epochs=1") == 0
    assert "--test: there is no test image, so nothing is measured on test" in command.output()


def test_what_is_chosen_on_test_is_marked(command: Command) -> None:
    assert command("--test", "--set", "data.validation.from=none", "--set", "train.epochs=1") == 0
    lines = command.output().splitlines()
    said = lines.index("selected on test: data.validation.from is none, so val is the test split")
    assert said < next(number for number, line in enumerate(lines) if line.startswith("epoch 1/1"))
    measured = [line for line in lines if line.startswith("test/")]
    assert len(measured) >= 7
    assert all(re.match(r"test/\w+ \(selected on test\): ", line) for line in measured)


def test_a_line_says_over_how_many_classes_a_mean_was_taken() -> None:
    metrics = {"val/image_auroc": 0.9, "val/image_auroc.num_classes": 1.0, "train/loss": 1.5}
    metrics |= {"val/bolt/image_auroc": 0.9, "val/cloth/image_auroc": None, "val/pixel_auroc": 0.8}
    line = train._line(EpochReport(1, 2, metrics, 3.0), "val/image_auroc")
    assert line == (
        "epoch 1/2: train/loss 1.5000, val/image_auroc 0.9000 (over 1 of 2 classes), val/pixel_auroc 0.8000 (3 s)"
    )


def test_a_trial_repeats_bit_for_bit(command: Command, sweep: Path) -> None:
    torch.set_num_threads(2)
    try:
        assert command("--trial", f"{sweep}:t0003") == 0
        assert torch.get_num_threads() == 1, "as in the sweep"
    finally:
        torch.set_num_threads(1)
    first, again = load_model(trial_folder(sweep, "t0003")), load_model(command.out)
    assert again.metrics["metrics"] == first.metrics["metrics"]
    assert again.metrics["epoch"] == first.metrics["epoch"]
    assert again.config == first.config
    assert again.config.train.seed == 4
    again_state = again.model.state_dict()
    assert all(torch.equal(again_state[name], tensor) for name, tensor in first.model.state_dict().items())
    assert "val/pixel_ap" in command.output(), "the sweep's metric chooses the epoch"


def test_a_trial_with_another_seed_is_another_run(command: Command, sweep: Path) -> None:
    assert command("--trial", f"{sweep}:t0003", "--set", "train.seed=5") == 0
    first, again = load_model(trial_folder(sweep, "t0003")), load_model(command.out)
    assert again.config.train.seed == 5
    assert again.metrics["metrics"] != first.metrics["metrics"]


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_a_trial_s_epoch_is_chosen_by_the_sweep_s_goal(tmp_path: Path, images: Path, goal: str) -> None:
    wanted = ["metric.name=val/pixel_ap", f"metric.goal={goal}"]
    resolved = load_sweep(write_space(tmp_path), wanted, data_root=str(images))
    (tmp_path / "sweep.yaml").write_text(resolved.to_yaml())
    folder = trial_folder(tmp_path, "t0003")
    folder.mkdir(parents=True)
    save_config(folder, resolve_run_config(resolved, {"model.codebook_size": 4, "train.lr": 5e-3}))
    config, selection = train._config_of_trial(f"{tmp_path}:t0003", [], None, None)
    assert config.model.codebook_size == 4
    assert selection == loop.Selection("val/pixel_ap", goal == "maximize")
    _, by_another = train._config_of_trial(f"{tmp_path}:t0003", [], None, "val/image_ap")
    assert by_another == loop.Selection("val/image_ap", maximize=True)


def interrupted(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C after the first of two epochs."""
    whole = loop.run

    def stopped(*arguments: object, **options: object) -> Iterator[object]:
        epochs = whole(*arguments, **options)
        yield next(epochs)
        epochs.close()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "run", stopped)
        assert command() == 130
    assert (command.out / RESUME_FILE).exists()
    command.output()


def test_an_interrupted_run_goes_on_to_the_same_end(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command() == 0
    whole = json.loads((command.out / "metrics.json").read_text())
    shutil.rmtree(command.out)
    interrupted(command, monkeypatch)
    assert command() == 0
    assert "epoch 2/2" in command.output()
    assert json.loads((command.out / "metrics.json").read_text())["metrics"] == whole["metrics"]


def test_an_interrupted_run_is_not_mixed_with_another_one(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(command, monkeypatch)
    line = command.fault("--set", "train.lr=5e-3")
    assert line.startswith(f"--out {command.out}: holds an unfinished run of another configuration")
    assert command() == 0


def test_a_loss_that_diverges_is_one_line(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--set", "train.lr=1e30", "--set", "train.gradient_clip=null") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hvqray: error: training diverged in epoch ")
    assert line.endswith("not finite; lower train.lr, or set train.gradient_clip")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--set", "train.lrr=1"), "--set: train.lrr: unknown key; did you mean 'lr'?"),
        (("--set", "train.epochs=0"), "--set: train.epochs: 0 is out of range; must be at least 1"),
        (("--metric", "val/image_aurok"), "--metric: 'val/image_aurok' is no metric; did you mean"),
        (
            ("--metric", "val/bolts/image_ap"),
            "--metric val/bolts/image_ap: the data have no class 'bolts'; did you mean 'bolt'?",
        ),
        (("--trial", "runs"), "--trial runs: must be SWEEP_DIR:TRIAL_ID, such as runs/fsq:t0003"),
        (("--trial", "nowhere:t0000"), "nowhere: sweep.yaml is missing: not a sweep's folder (OUT/NAME)"),
    ],
)
def test_faults(command: Command, arguments: tuple[str, ...], told: str) -> None:
    assert command.fault(*arguments).startswith(told)
    assert not (command.out / RESUME_FILE).exists()


def test_an_unknown_trial(command: Command, sweep: Path) -> None:
    line = command.fault("--trial", f"{sweep}:t0004")
    assert line == f"{sweep}: t0004 is no trial of this sweep; did you mean 't0003'?"


def test_trials_whose_configurations_are_not_there(command: Command, tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "fake", num_trials=5, with_best=False)
    assert command.fault("--trial", f"{folder}:t0004").startswith(
        f"{folder}: t0004 failed before its training began, so there is nothing to repeat: RuntimeError: "
    )
    gone = f"{folder}: the configuration of t0001 is no longer in .state; a trial's parameters are in trials.parquet"
    assert command.fault("--trial", f"{folder}:t0001").startswith(gone)
    shutil.rmtree(folder / ".state")
    assert command.fault("--trial", f"{folder}:t0001").startswith(gone)


def test_configuration_or_trial(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], [str(command.config), "--trial", "runs/s:t0000"]):
        assert run_command(train.main, arguments) == 2
        assert capsys.readouterr().err == (
            "hvqray: error: give either CONFIG.yaml or --trial SWEEP_DIR:TRIAL_ID\n"
        )


def test_a_folder_that_cannot_be_written(command: Command) -> None:
    command.out.write_text("a file")
    assert command.fault().startswith(f"--out {command.out}: cannot be written to (")


def test_a_sweep_file_is_no_configuration(command: Command, tmp_path: Path) -> None:
    command.config = write_space(tmp_path)
    assert "parameters: makes this a sweep file; run it with hvqray.sweep" in command.fault()
