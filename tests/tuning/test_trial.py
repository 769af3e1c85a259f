"""The trial actor, driven by hand: one epoch a step, one trial after another, failures that stay with their trial."""

from __future__ import annotations

import errno
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import torch
from tiny_data import tiny_data

from hvqray.config.model_sections import HvqConfig
from hvqray.config.run_config import run_config_dict
from hvqray.config.sections import RunConfig, TrainConfig
from hvqray.errors import InputError
from hvqray.training.checkpoint import RESUME_FILE, load_model
from hvqray.training.epoch_report import EpochReport
from hvqray.training.failures import WorkersDied
from hvqray.tuning.trial import ERROR_KEY, FULL_DISK_KEY, WORTH_KEY, HvqrayTrial, TrialSpec, report_of

METRIC = "val/image_auroc"
MODEL = HvqConfig(
    width=16, num_heads=2, feedforward_width=32, hierarchy_depth=1, codebook_size=8, score_pool_size=4
)


@pytest.fixture(autouse=True)
def data_in_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("hvqray.data.prepare.prepare_data", lambda config, **options: tiny_data())
    threads = torch.get_num_threads()
    with warnings.catch_warnings():  # the actor silences its own process
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def start() -> Iterator[Any]:
    """Makes actors, and ends them."""
    actors: list[HvqrayTrial] = []

    def make(config: dict[str, str]) -> HvqrayTrial:
        actors.append(HvqrayTrial(config))
        return actors[-1]

    yield make
    for actor in actors:
        actor.stop()


def spec(
    folder: Path, trial_id: str = "t0000", *, objectives: tuple[str, ...] = (METRIC,), **train: Any
) -> TrialSpec:
    config = RunConfig(
        model=MODEL, train=TrainConfig(**{"epochs": 2, "batch_size": 7, "precision": "fp32", **train})
    )
    return TrialSpec(
        trial_id=trial_id,
        run=run_config_dict(config),
        folder=str(folder / trial_id),
        metric=METRIC,
        maximize=True,
        objectives=list(objectives),
        cache_dir=None,
        workers=1,
        cpus_per_worker=1.0,
        gpus_per_worker=0.0,
        train_storage=str(folder / "train"),
    )


def test_a_spec_travels_as_one_string(tmp_path: Path) -> None:
    sent = spec(tmp_path, objectives=(METRIC, "val/pixel_ap"))
    config = sent.to_config()
    assert all(isinstance(value, str) for value in config.values())
    assert TrialSpec.from_config(json.loads(json.dumps(config))) == sent


def test_a_step_is_an_epoch_and_the_last_one_says_so(tmp_path: Path, start: Any) -> None:
    actor = start(spec(tmp_path, objectives=(METRIC, "val/pixel_ap")).to_config())
    results = [actor.train(), actor.train()]
    assert [result["epoch"] for result in results] == [1, 2]
    assert [result["done"] for result in results] == [False, True]
    for result in results:
        report = report_of(result)
        assert report is not None
        assert {name: result[name] for name in (METRIC, "val/pixel_ap")} == {
            name: report.metrics[name] for name in (METRIC, "val/pixel_ap")
        }
    assert load_model(tmp_path / "t0000").metrics["trial_id"] == "t0000"


def test_an_actor_takes_the_next_trial_and_leaves_the_stopped_one_resumable(
    tmp_path: Path, start: Any
) -> None:
    actor = start(spec(tmp_path, "t0000").to_config())
    first = actor.train()
    actor.reset(spec(tmp_path, "t0001", seed=1, epochs=1).to_config())
    second = actor.train()
    assert (second["epoch"], second["done"]) == (1, True)
    assert load_model(tmp_path / "t0001").config.train.seed == 1
    assert (tmp_path / "t0000" / RESUME_FILE).exists()
    actor.reset(spec(tmp_path, "t0000").to_config())
    # Its last epoch is told again, with the time it took then, and it goes on after it.
    assert report_of(actor.train()) == report_of(first)
    assert actor.train()["epoch"] == 2


def test_a_trial_whose_state_is_damaged_starts_over(tmp_path: Path, start: Any) -> None:
    actor = start(spec(tmp_path).to_config())
    first = report_of(actor.train())
    actor.reset(spec(tmp_path, "t0001", seed=1).to_config())
    (tmp_path / "t0000" / RESUME_FILE).write_bytes(b"")
    actor.reset(spec(tmp_path).to_config())
    again = report_of(actor.train())
    assert again is not None
    assert first is not None
    assert (again.epoch, again.metrics) == (1, first.metrics)
    assert (again.note or "").startswith("starts over: ")


def test_every_epoch_tells_the_memory_of_its_own_trial(tmp_path: Path, start: Any) -> None:
    actor = start(spec(tmp_path).to_config())
    first = report_of(actor.train())
    ballast = bytearray(200_000_000)
    ballast[::4096] = b"1" * len(ballast[::4096])
    second = report_of(actor.train())
    del ballast
    actor.reset(spec(tmp_path, "t0001", epochs=1).to_config())
    next_trial = report_of(actor.train())
    peaks = [report.peak_memory_bytes for report in (first, second, next_trial) if report is not None]
    rss = psutil.Process().memory_info().rss
    assert peaks[1] - peaks[0] > 150_000_000
    assert rss / 2 < peaks[2] < peaks[1] - 100_000_000, "a reused process forgets the last trial's peak"
    assert (next_trial.peak_gpu_bytes, next_trial.gpu_limit_bytes) == (None, None)


def test_a_trial_that_shares_a_gpu_is_bounded_before_anything_is_on_it(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def prepare(config: Any, **options: Any) -> None:
        told.append(options["device"])
        raise InputError("that is enough")

    monkeypatch.setattr("hvqray.tuning.trial.bound_slot", lambda *slot: told.append(slot))
    monkeypatch.setattr("hvqray.data.prepare.prepare_data", prepare)
    config = TrialSpec(**{**spec(tmp_path).__dict__, "gpus_per_worker": 0.25}).to_config()
    start(config).step()
    assert told == [(torch.device("cuda"), 0.25), "cuda"]


def test_a_failing_trial_ends_in_one_line_and_the_next_one_works(tmp_path: Path, start: Any) -> None:
    actor = start(spec(tmp_path, lr=1e30, gradient_clip=None, epochs=5).to_config())
    result: dict[str, Any] = {}
    for _ in range(5):
        result = actor.train()
        if result["done"]:
            break
    assert result[ERROR_KEY].startswith("FloatingPointError: training diverged in epoch")
    assert METRIC not in result
    assert report_of(result) is None
    actor.reset(spec(tmp_path, "t0001", epochs=1).to_config())
    assert report_of(actor.train()) is not None


def test_a_fault_of_the_user_is_a_line_too(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(*_: Any, **__: Any) -> None:
        raise InputError("cannot be read;\nreplace it", source="a.png")

    monkeypatch.setattr("hvqray.data.prepare.prepare_data", unreadable)
    result = start(spec(tmp_path).to_config()).train()
    assert result["done"]
    assert result[ERROR_KEY] == "a.png: cannot be read; replace it"


def test_parameters_that_do_not_go_together_fail_the_trial_in_one_line(tmp_path: Path, start: Any) -> None:
    refused = spec(tmp_path)
    refused.run["model"]["num_heads"] = 3
    result = start(refused.to_config()).train()
    assert result["done"]
    assert result[ERROR_KEY] == "model.num_heads: 3 does not divide width 16"
    assert report_of(result) is None


@pytest.mark.parametrize(
    ("error", "is_raised"),
    [
        (WorkersDied("rank 1 was killed"), True),
        (torch.AcceleratorError("device-side assert"), True),
        (torch.OutOfMemoryError("out of memory"), False),
        (ValueError("a\nb"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_a_new_process_can_mend_is_raised(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, is_raised: bool
) -> None:
    def broken(*arguments: Any, **options: Any) -> Iterator[Any]:
        raise error
        yield

    monkeypatch.setattr("hvqray.training.loop.run", broken)
    actor = start(spec(tmp_path).to_config())
    if is_raised:
        with pytest.raises(type(error)):
            actor.step()
    else:
        message = " ".join(str(error).split())
        assert actor.step() == {"done": True, ERROR_KEY: f"{type(error).__name__}: {message}"}


def test_a_disk_that_takes_no_more_is_no_fault_of_the_trial(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any, **options: Any) -> Iterator[Any]:
        raise RuntimeError("cannot be written") from OSError(
            errno.ENOSPC, "No space left", "model.safetensors"
        )
        yield

    monkeypatch.setattr("hvqray.training.loop.run", full)
    result = start(spec(tmp_path).to_config()).step()
    assert result == {"done": True, FULL_DISK_KEY: json.dumps([errno.ENOSPC, "model.safetensors"])}


@pytest.mark.parametrize(("kept", "expected"), [("best", [0.6, None, 0.6]), ("last", [0.6, None, 0.5])])
def test_a_trial_is_judged_by_the_epoch_that_it_keeps(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch, kept: str, expected: list[float | None]
) -> None:
    def reports(*_: Any, **__: Any) -> Iterator[EpochReport]:
        for epoch, value in enumerate((0.6, None, 0.5), start=1):
            selected = 0.6 if kept == "best" or epoch < 3 else 0.5
            yield EpochReport(epoch, 3, {METRIC: value}, 0.0, is_last=epoch == 3, selected={METRIC: selected})

    monkeypatch.setattr("hvqray.training.loop.run", reports)
    actor = start(spec(tmp_path).to_config())
    results = [actor.step() for _ in range(3)]
    assert [result.get(WORTH_KEY) for result in results] == expected
    assert [result.get(METRIC) for result in results] == [0.6, None, 0.5]


def test_an_undefined_objective_is_left_out_of_the_result(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor = start(spec(tmp_path, objectives=(METRIC, "val/class9/pixel_ap")).to_config())
    result = actor.step()
    assert METRIC in result
    assert "val/class9/pixel_ap" not in result


class Group:
    """Stands for a worker group: runs nothing, counts what is asked of it."""

    made: ClassVar[list[Group]] = []

    def __init__(self, *, workers: int, cpus: float, gpus: float, memory: int, storage: Path) -> None:
        self.workers, self.memory, self.is_alive, self.jobs, self.closed = workers, memory, True, [], False
        Group.made.append(self)

    def run(self, job: Any) -> Iterator[Any]:
        self.jobs.append(job.trial_id)
        raise WorkersDied("gone")
        yield

    def close(self) -> None:
        self.closed = True


def test_several_workers_are_one_group_that_outlives_trials_but_not_its_death(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hvqray.training.ray_train.WorkerGroup", Group)
    monkeypatch.setattr(Group, "made", [])
    configs = []
    for number in range(3):
        one = spec(tmp_path, f"t{number:04d}")
        configs.append(TrialSpec(**{**one.__dict__, "workers": 2, "memory_per_worker": 5}).to_config())
    actor = start(configs[0])
    for number, config in enumerate(configs):
        actor.reset_config(config)
        if number == 2:
            Group.made[0].is_alive = False
        with pytest.raises(WorkersDied):
            actor.step()
    assert [group.jobs for group in Group.made] == [["t0000", "t0001"], ["t0002"]]
    assert all((group.workers, group.memory) == (2, 5) for group in Group.made)
    actor.cleanup()
    assert Group.made[1].closed
