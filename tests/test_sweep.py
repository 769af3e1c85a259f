"""The sweep command before anything runs: every fault is one line and exit code 2, and nothing on disk changes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from fake_sweep import play
from small_images import SPACE, write_space

from hvqray import sweep
from hvqray.command_line import run_command
from hvqray.config.sweep_file import load_sweep
from hvqray.data import files
from hvqray.results.events import SweepListener
from hvqray.results.store import SweepStore
from hvqray.results.stored_trials import read_trials
from hvqray.training.epoch_report import MEAN
from hvqray.tuning import ray_runtime, session
from hvqray.tuning.per_class import class_sweeps


class Started(Exception):
    """The search would have begun."""


@pytest.fixture(autouse=True)
def dashboards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Two CPUs and no GPU instead of a cluster, no W&B key, and no search after the checks; for each start of Ray whether a
    dashboard was asked for."""
    dashboards: list[bool] = []

    @contextmanager
    def two_cpus(
        address: str | None, *, dashboard: bool, importing: Sequence[str]
    ) -> Iterator[list[dict[str, float]]]:
        dashboards.append(dashboard)
        yield [{"CPU": 2.0}]

    def start(*arguments: object) -> None:
        raise Started

    monkeypatch.setattr(ray_runtime, "ray_session", two_cpus)
    monkeypatch.setattr(session, "run_search", start)
    monkeypatch.setattr("hvqray.results.wandb_mode.has_key", lambda: False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield dashboards
    signal.signal(signal.SIGTERM, before)


class Command:
    """`hvqray sweep` in a folder of its own."""

    def __init__(self, folder: Path, images: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.out, self.folder = folder / "runs", folder / "runs" / "small"
        self.space = write_space(folder)
        self.images, self._cache, self._capsys = images, cache, capsys

    def __call__(self, *options: str, data: Path | None = None) -> int:
        arguments = [str(self.space), "--data", str(data or self.images), "--out", str(self.out)]
        return run_command(sweep.main, [*arguments, "--cache-dir", str(self._cache), *options])

    def fault(self, *options: str, data: Path | None = None) -> str:
        """The one line on stderr of a start that is refused and changes nothing on disk."""
        before = self._files()
        assert self(*options, data=data) == 2
        (line,) = self._capsys.readouterr().err.splitlines()
        assert self._files() == before
        return line.removeprefix("hvqray: error: ")

    def write(self, *replacements: tuple[str, str]) -> None:
        """The space file with some of its text replaced."""
        text = SPACE
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        self.space.write_text(text)

    def begin(self, *overrides: str) -> None:
        """Leave a folder as a sweep does that was stopped before its first trial."""
        SweepStore(self.folder, resume=False, selected_on_test=False).close()
        resolved = load_sweep(self.space, overrides, data_root=str(self.images))
        (self.folder / "sweep.yaml").write_text(resolved.to_yaml())

    def output(self) -> str:
        return self._capsys.readouterr().out

    def _files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.out.rglob("*") if path.is_file()}


@pytest.fixture
def command(
    tmp_path: Path, small_images: Path, shared_cache: Path, capsys: pytest.CaptureFixture[str]
) -> Command:
    return Command(tmp_path, small_images, shared_cache, capsys)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("width: 16", "widht: 16", "model.widht: unknown key; did you mean 'width'?"),
        ("run_cap: 3", "run_caps: 3", "run_caps: unknown key; did you mean 'run_cap'?"),
        (
            "model.codebook_size:",
            "model.codebok_size:",
            "parameters.model.codebok_size: unknown parameter; did you mean 'model.codebook_size'?",
        ),
        ("epochs: 2", "epochs: two", 'train.epochs: "two" is not an integer'),
        ("[4, 8]", "[4, many]", 'parameters.model.codebook_size: "many" is not an integer'),
        ("[4, 8]", "[0, 8]", "parameters.model.codebook_size: 0 is out of range; must be at least 1"),
        ("max: 1e-2", "max: 1e-4", "parameters.train.lr"),
        ("width: 16", "width: 12", "model.width: 12 is out of range; must be a multiple of 8"),
        ("val/image_auroc", "val/image_aurok", "metric.name: 'val/image_aurok' is no metric; did you mean"),
        ("val/image_auroc", "test/image_auroc", "is measured once, after the search; use 'val/image_auroc'"),
    ],
)
def test_faults_of_the_file(command: Command, old: str, new: str, told: str) -> None:
    command.write((old, new))
    line = command.fault()
    assert line.startswith(f"{command.space}: ")
    assert told in line
    assert not command.out.exists()


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("train.epoch=3", "--set: train.epoch: unknown key; did you mean 'epochs'?"),
        ("train.epochs=0", "--set: train.epochs: 0 is out of range; must be at least 1"),
        ("train.epochs", "--set"),
    ],
)
def test_faults_of_overrides(command: Command, option: str, told: str) -> None:
    assert told in command.fault("--set", option)
    assert not command.out.exists()


def test_missing_data(command: Command, tmp_path: Path) -> None:
    line = command.fault(data=tmp_path / "nowhere")
    assert line == (
        f"--data: data.root: {tmp_path / 'nowhere'} is not a folder; give the folder that holds the class folders"
    )
    assert not command.out.exists()


@pytest.mark.parametrize("options", [(), ("--resume",), ("--per-class",), ("--per-class", "--resume")])
def test_results_into_a_link_that_leads_to_itself(
    command: Command, tmp_path: Path, options: tuple[str, ...]
) -> None:
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    line = command.fault("--out", str(circle), *options)
    assert line.startswith(f"--out {circle}{os.sep}")
    assert "cannot be written to" in line


def test_folders_of_a_user_that_is_none_are_names(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for option in ("--out", "--cache-dir"):
        with pytest.raises(Started):
            command(option, "~nobody-of-this-name/x")
    assert (tmp_path / "~nobody-of-this-name" / "x" / "small").is_dir()


def test_a_class_called_mean(command: Command, tmp_path: Path, small_images: Path) -> None:
    shutil.copytree(small_images, tmp_path / "parts")
    (tmp_path / "parts" / "bolt").rename(tmp_path / "parts" / "mean")
    line = command.fault(data=tmp_path / "parts")
    assert line.startswith(f"--data: data.root: {tmp_path / 'parts' / 'mean'} is a class called 'mean'")
    assert "rename the folder" in line
    assert files.MEAN == MEAN


def test_a_gpu_where_there_is_none(command: Command) -> None:
    line = command.fault("--set", "resources.gpus_per_worker=1")
    assert line == (
        "--set: resources.gpus_per_worker: 1 is demanded, but Ray has no GPU; set it to 0 or auto, or start Ray where GPUs are"
    )
    assert not command.folder.exists()


def test_more_workers_than_the_cluster_holds(command: Command) -> None:
    assert command.fault("--set", "resources.workers=3").startswith("--set: resources.workers: 3 workers")
    assert not command.folder.exists()


@pytest.mark.parametrize(
    "backbone", ["{name: resnet18, strides: [8, 16]}", "{weights: hub, strides: [8, 16]}"]
)
def test_a_backbone_that_needs_the_hub_without_one(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backbone: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    command.write(("{weights: random, strides: [8, 16]}", backbone))
    line = command.fault()
    assert line.startswith(f"{command.space}: data.backbone.weights: the weights of ")
    assert "cannot be reached; use weights: bundled" in line
    assert not command.out.exists()


def test_wandb_online_without_a_key(command: Command) -> None:
    line = command.fault("--wandb", "online")
    assert line == (
        "--wandb: online needs a key: set WANDB_API_KEY or run `wandb login`, or use --wandb offline"
    )
    assert not command.out.exists()


def test_a_metric_of_an_unknown_class(command: Command) -> None:
    command.write(("val/image_auroc", "val/bolts/image_auroc"))
    line = command.fault()
    assert line == (
        f"{command.space}: metric.name: 'val/bolts/image_auroc': the data have no class 'bolts'; did you mean 'bolt'?"
    )
    assert not command.out.exists()


def test_a_sweep_without_an_end(command: Command) -> None:
    command.write(("run_cap: 3\n", ""))
    assert command.fault() == (
        f"{command.space}: run_cap: is null, so the sweep would never end; give it, --num-trials or --time-budget"
    )
    for options in (("--num-trials", "2"), ("--time-budget", "1m")):
        shutil.rmtree(command.out, ignore_errors=True)
        with pytest.raises(Started):
            command(*options)


@pytest.mark.parametrize("method", ["grid", "brute_force", "BruteForceSampler"])
def test_a_grid_has_an_end_of_its_own(command: Command, method: str) -> None:
    command.write(
        ("run_cap: 3\n", ""),
        ("method: random", f"method: {method}"),
        ("{distribution: log_uniform_values, min: 1e-3, max: 1e-2}", "{values: [1e-3, 2e-3]}"),
    )
    assert command("--dry-run") == 0
    assert "4 trials" in command.output()


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("bayess", "'bayess' is no method; did you mean 'bayes'?"),
        ("cmaes", "cmaes: searches ranges of numbers only, but model.codebook_size lists values"),
        ("grid", "grid: train.lr has infinitely many values"),
    ],
)
def test_a_method_that_cannot_search_the_space(command: Command, method: str, told: str) -> None:
    command.write(("method: random", f"method: {method}"))
    line = command.fault()
    assert line.startswith(f"{command.space}: method: {told}")
    assert not command.out.exists()


def test_resume_without_a_sweep(command: Command) -> None:
    line = command.fault("--resume")
    assert line == f"{command.folder}: holds no sweep to resume; leave out --resume to start it"
    assert not command.out.exists()


def test_a_folder_that_holds_a_sweep_is_not_overwritten(command: Command) -> None:
    command.begin()
    expected = f"{command.folder}: already holds a sweep; add --resume to go on with it, or choose another name with --set name=NAME"
    assert command.fault() == expected
    assert command.fault("--dry-run") == expected


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (("parameters.train.lr.max=5e-3",), "parameters"),
        (("metric.name=val/image_ap",), "metric"),
        (("train.epochs=3", "method=bayes"), "method, train"),
    ],
)
def test_resume_with_another_search(command: Command, overrides: Sequence[str], changed: str) -> None:
    command.begin()
    options = [text for override in overrides for text in ("--set", override)]
    line = command.fault("--resume", *options)
    assert line.startswith(f"{command.folder / 'sweep.yaml'}: {changed} differ")
    # A shipped space may have changed, which takes nobody's changes back.
    command.space.write_text((command.folder / "sweep.yaml").read_text())
    with pytest.raises(Started):
        command("--resume")


def test_resume_with_more_trials_and_other_resources_goes_on(command: Command) -> None:
    command.begin()
    with pytest.raises(Started):
        command("--resume", "--num-trials", "9", "--set", "resources.max_concurrent_trials=1")


def test_a_study_without_its_journal_is_not_mixed_with_a_new_search(command: Command) -> None:
    command.folder.mkdir(parents=True)
    (command.folder / "study.db").write_bytes(b"")
    assert "is left of another search" in command.fault()


def test_a_folder_that_cannot_be_written(command: Command) -> None:
    command.out.write_text("a file")
    line = command.fault()
    assert line == f"--out {command.folder}: cannot be written to (Not a directory); name another folder"


def test_after_a_refused_start_the_mended_one_begins(command: Command) -> None:
    command.fault("--set", "resources.gpus_per_worker=1")
    with pytest.raises(Started):
        command()
    assert (command.folder / "sweep.yaml").is_file()


def test_dry_run_says_what_would_run_and_leaves_nothing(command: Command) -> None:
    assert command("--dry-run", "--wandb", "disabled") == 0
    output = command.output()
    assert "3 trials; 2 trials at once, each 1 worker with 1 CPU" in output
    assert "classes: bolt, cloth" in output
    assert "train: 16 images, 0 with a defect" in output
    assert f"results would go to {command.folder}" in output
    assert not command.out.exists()


def test_a_dry_run_shows_names_in_brackets_as_they_are(command: Command, tmp_path: Path) -> None:
    shutil.copytree(command.images / "bolt", tmp_path / "data" / "widget [v2]")
    out = tmp_path / "o[old]"
    assert command("--dry-run", "--out", str(out), data=tmp_path / "data") == 0
    output = command.output()
    assert "classes: widget [v2]\n" in output
    assert f"results would go to {out / 'small'}\n" in output


def test_the_home_may_be_named_by_a_tilde(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command("--dry-run", "--out", "~/elsewhere") == 0
    assert f"results would go to {tmp_path / 'elsewhere' / 'small'}" in command.output()


def test_per_class_dry_run_says_what_would_run_for_each(command: Command) -> None:
    assert command("--per-class", "--dry-run", "--wandb", "disabled") == 0
    output = command.output()
    for name in ("bolt", "cloth"):
        assert f"classes: {name}\n" in output
        assert f"results would go to {command.folder / f'small-{name}'}" in output
    assert not command.out.exists()


def test_per_class_takes_the_classes_that_are_named(command: Command) -> None:
    assert command("--per-class", "--dry-run", "--set", "data.classes=[cloth]") == 0
    assert "small-bolt" not in command.output()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ("--set", "metric.name=val/bolt/image_auroc"),
            "metric.name: 'val/bolt/image_auroc' is of one class, and --per-class searches each by its own",
        ),
        (("--resume",), "small-bolt: holds no sweep to resume; leave out --resume to start it"),
    ],
)
def test_per_class_faults(command: Command, options: Sequence[str], told: str) -> None:
    assert told in command.fault("--per-class", *options)


def test_per_class_of_a_class_that_cannot_name_a_folder(
    command: Command, tmp_path: Path, small_images: Path
) -> None:
    data = tmp_path / "parts"
    shutil.copytree(small_images, data)
    (data / "bolt").rename(data / "bolt (M8)")
    told = command.fault("--per-class", data=data)
    assert told.startswith("--per-class: the class 'bolt (M8)' cannot name a folder")


def test_one_model_for_all_and_one_a_class_do_not_share_a_folder(command: Command) -> None:
    command.begin()
    assert "holds a sweep of one model for all classes" in command.fault("--per-class")
    shutil.rmtree(command.folder)
    of_class = command.folder / "small-bolt"
    SweepStore(of_class, resume=False, selected_on_test=False).close()
    (of_class / "sweep.yaml").write_text("metric: []")
    assert "small: holds sweeps of one class each; choose another name" in command.fault()


def test_per_class_resumes_what_was_begun_and_begins_the_rest(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[str, bool]] = []

    def run(self: session.SweepSession) -> bool:
        found.append((self.folder.name, self.options.resume))
        return self.sweep.name != "small-cloth"

    resolved = load_sweep(command.space, data_root=str(command.images))
    (bolt, _) = class_sweeps(resolved, command.folder, cache_dir=None)
    SweepStore(command.folder / bolt.name, resume=False, selected_on_test=False).close()
    (command.folder / bolt.name / "sweep.yaml").write_text(bolt.to_yaml())
    monkeypatch.setattr(session.SweepSession, "run", run)
    assert command("--per-class", "--resume") == 1, "a class has no completed trial"
    assert found == [("small-bolt", True), ("small-cloth", False)]


def test_only_groups_of_workers_need_ray_s_dashboard(command: Command, dashboards: list[bool]) -> None:
    """Without it they cannot be stopped; for all others it would only make Ray's start longer."""
    for workers in (1, 2):
        assert command("--dry-run", "--set", f"resources.workers={workers}") == 0
    assert dashboards == [False, True]


@pytest.mark.parametrize(("mode", "imported"), [("disabled", False), ("offline", True)])
def test_wandb_is_imported_while_ray_starts_where_it_is_wanted(
    command: Command, monkeypatch: pytest.MonkeyPatch, mode: str, imported: bool
) -> None:
    asked: list[str] = []

    def start(address: str | None, *, dashboard: bool, importing: Sequence[str]) -> None:
        asked.extend(importing)
        raise Started

    monkeypatch.setattr(ray_runtime, "ray_session", start)
    with pytest.raises(Started):
        command("--wandb", mode)
    assert "torch" in asked
    assert ("wandb" in asked) == imported


def test_without_a_completed_trial_it_ends_with_1(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def search(sweep: object, plan: object, store: SweepStore, listeners: Sequence[SweepListener]) -> None:
        for listener in (store, *listeners):
            play(listener, 4, classes=("bolt", "cloth"))  # fails

    monkeypatch.setattr(session, "run_search", search)
    assert command() == 1


def test_where_nobody_reads_its_output_it_goes_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def search(sweep: object, plan: object, store: SweepStore, listeners: Sequence[SweepListener]) -> None:
        for listener in (store, *listeners):
            play(listener, 4, classes=("bolt", "cloth"))  # fails, so that nothing comes after

    monkeypatch.setattr(session, "run_search", search)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert command() == 1
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "standard output" in line]
    assert told == "hvqray: standard output takes no more (Broken pipe); going on without it"
    assert [trial.trial_id for trial in read_trials(command.folder)] == ["t0004"]
    assert (command.folder / "report.html").is_file()


def test_resume_on_changed_data(command: Command, tmp_path: Path) -> None:
    data = tmp_path / "parts"
    shutil.copytree(command.images, data)
    with pytest.raises(Started):
        command(data=data)
    (data / "cloth").rename(data / "leather")
    for options in (("--resume",), ("--resume", "--dry-run")):
        assert command.fault(*options, data=data).startswith(
            f"{command.folder}: the data differ from what the sweep was begun with (class cloth no longer there; class leather new)"
        )
    (data / "leather").rename(data / "cloth")
    with pytest.raises(Started):
        command("--resume", data=data)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is missing, and without it the search cannot go on; restore it, or search anew"),
        (b"", "holds no study, and without it the search cannot go on; restore it, or search anew"),
        (
            bytes(range(256)) * 16,
            "cannot be read (file is not a database); restore it, or search anew under another name",
        ),
    ],
)
def test_resume_without_its_study(command: Command, content: bytes | None, told: str) -> None:
    command.begin()
    with closing(SweepStore(command.folder, resume=True, selected_on_test=False)) as store:
        play(store, 0)
    if content is not None:
        (command.folder / "study.db").write_bytes(content)
    assert command.fault("--resume").startswith(f"{command.folder / 'study.db'}: {told}")


def test_interrupted_it_says_how_to_go_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "run_search", interrupt)
    assert command() == 130
    assert capsys.readouterr().err == (
        f"hvqray: interrupted; finished trials are in {command.folder}; go on with --resume\n"
    )
    assert load_sweep(command.folder / "sweep.yaml").name == "small"
