"""What Tune's callbacks tell the listeners, in which order, and whose faults matter."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from hvqray.results.events import TrialEnd, TrialStart
from hvqray.results.history import Epochs
from hvqray.training.checkpoint import RESUME_FILE
from hvqray.training.epoch_report import EpochReport
from hvqray.tuning.relay import Relay
from hvqray.tuning.trial import ERROR_KEY, FULL_DISK_KEY, REPORT_KEY, TrialSpec

METRIC = "val/image_auroc"
START = TrialStart("t0000", 0, {}, {}, "hash", 0)


class Listener:
    """Writes down what it hears, and breaks where it is told to."""

    def __init__(
        self, name: str, heard: list[tuple[Any, ...]], breaks_at: str = "", number: int | None = None
    ) -> None:
        self._name, self._heard, self._breaks_at, self._number = name, heard, breaks_at, number

    def on_trial_start(self, event: TrialStart) -> None:
        self._hear("start", event.trial_id)

    def on_epoch(self, trial_id: str, report: EpochReport) -> None:
        self._hear("epoch", trial_id, report.epoch)

    def on_trial_end(self, event: TrialEnd) -> None:
        self._hear("end", event)

    def close(self) -> None:
        self._hear("close")

    def _hear(self, *what: Any) -> None:
        self._heard.append((self._name, *what))
        if what[0] == self._breaks_at:
            raise OSError("disk full") if self._number is None else OSError(self._number, "")


EARLIER: dict[str, Epochs] = {"t0009": {1: {METRIC: 0.4}, 2: {METRIC: 0.5}}, "t0008": {}}


def report_of(value: float | None, *, epoch: int = 1, is_last: bool = False) -> EpochReport:
    metrics = {METRIC: value}
    return EpochReport(epoch, 3, metrics, 2.0 * epoch, is_last, best_epoch=epoch, selected=metrics)


def result_of(report: EpochReport) -> dict[str, Any]:
    return {"epoch": report.epoch, "done": report.is_last, REPORT_KEY: json.dumps(asdict(report))}


OUT_OF_MEMORY = """Failure # 2 (occurred at 2026-11-23_19-21-00)
1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 63b9) was 22.42GB used / 23.54GB limit (0.952273)
OOM kill reason: Memory usage 24061308928B exceeded threshold of 24012687360B (95.0% of 25276514304B limit)
Refer to the documentation on how to address the out of memory issue: set the environment variable `RAY_x`.
"""
"""The first and the last lines of what Ray tells, as Tune writes it down."""


class TuneTrial:
    """What the relay sees of one of Tune's trials."""

    def __init__(self, folder: Path, trial_id: str = "t0000") -> None:
        self.folder = folder / trial_id
        self.folder.mkdir()
        (self.folder / RESUME_FILE).write_bytes(b"state")
        spec = TrialSpec(
            trial_id, {}, str(self.folder), METRIC, True, [METRIC], None, 1, 1.0, 0.0, str(folder)
        )
        self.config = spec.to_config()
        self.last_result: dict[str, Any] | None = None
        self.error: str | None = None
        self.error_file: str | None = None

    def get_error(self) -> str | None:
        return self.error

    def report(self, relay: Relay, report: EpochReport) -> None:
        self.last_result = result_of(report)
        relay.on_trial_result(report.epoch, [], self, self.last_result)

    @property
    def can_go_on(self) -> bool:
        return (self.folder / RESUME_FILE).exists()


def ends(heard: list[tuple[Any, ...]]) -> list[TrialEnd]:
    return [what[2] for what in heard if what[:2] == ("store", "end")]


def make_relay(heard: list[tuple[Any, ...]], **broken: str) -> Relay:
    store, *others = (Listener(name, heard, broken.get(name, "")) for name in ("store", "table", "sink"))
    return Relay(store, others, [METRIC], earlier=EARLIER)


def test_everything_is_told_in_order_and_the_store_hears_it_first(tmp_path: Path) -> None:
    heard: list[tuple[Any, ...]] = []
    relay, trial = make_relay(heard), TuneTrial(tmp_path)
    relay.announce(START)
    trial.report(relay, report_of(0.5))
    trial.report(relay, report_of(0.75, epoch=2, is_last=True))
    assert trial.can_go_on
    relay.on_trial_complete(2, [], trial)
    end = TrialEnd("t0000", "COMPLETE", {METRIC: 0.75}, 2, 4.0, None, str(trial.folder), best_epoch=2)
    told = [("start", "t0000"), ("epoch", "t0000", 1), ("epoch", "t0000", 2), ("end", end)]
    assert heard == [(name, *what) for what in told for name in ("store", "table", "sink")]
    assert not trial.can_go_on


def test_what_a_run_notes_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relay, trial = make_relay([]), TuneTrial(tmp_path)
    trial.report(relay, replace(report_of(0.5), note="starts over"))
    trial.report(relay, report_of(0.6, epoch=2))
    assert capsys.readouterr().err == "hvqray: t0000 starts over\n"


def test_a_trial_is_worth_what_its_best_epoch_was(tmp_path: Path) -> None:
    heard: list[tuple[Any, ...]] = []
    relay, trial = make_relay(heard), TuneTrial(tmp_path)
    trial.report(relay, report_of(0.75))
    trial.report(
        relay,
        replace(report_of(0.5, epoch=2, is_last=True), best_epoch=1, selected={METRIC: 0.75}),
    )
    relay.on_trial_complete(2, [], trial)
    (end,) = ends(heard)
    assert (end.metrics, end.epochs, end.best_epoch) == ({METRIC: 0.75}, 2, 1)


def test_a_stopped_trial_is_worth_what_it_reached(tmp_path: Path) -> None:
    heard: list[tuple[Any, ...]] = []
    relay, trial = make_relay(heard), TuneTrial(tmp_path)
    trial.report(relay, report_of(0.5))
    relay.on_trial_complete(1, [], trial)
    (end,) = ends(heard)
    assert (end.state, end.metrics, end.epochs, end.error) == ("PRUNED", {METRIC: 0.5}, 1, None)


def test_a_failed_trial_says_why(tmp_path: Path) -> None:
    heard: list[tuple[Any, ...]] = []
    relay = make_relay(heard)
    broken, undefined, silent, silent_since = (
        TuneTrial(tmp_path, f"t{number:04d}") for number in (0, 1, 8, 9)
    )
    broken.report(relay, report_of(0.5))
    broken.last_result = {"done": True, ERROR_KEY: "FloatingPointError: training diverged in epoch 2"}
    undefined.report(relay, report_of(None, epoch=3, is_last=True))
    for trial in (broken, undefined, silent, silent_since):
        relay.on_trial_complete(3, [], trial)
    assert [end.state for end in ends(heard)] == ["FAIL"] * 4
    assert [end.error for end in ends(heard)] == [
        "FloatingPointError: training diverged in epoch 2",
        "no finite val/image_auroc after epoch 3",
        "stopped before its first epoch ended",
        "stopped before its next epoch ended",
    ]
    assert [end.epochs for end in ends(heard)] == [1, 3, 0, 2]
    assert ends(heard)[0].metrics == {METRIC: 0.5}


def test_a_full_disk_ends_the_sweep_and_no_trial(tmp_path: Path) -> None:
    heard: list[tuple[Any, ...]] = []
    relay, trial = make_relay(heard), TuneTrial(tmp_path)
    trial.report(relay, report_of(0.5))
    trial.last_result = {"done": True, FULL_DISK_KEY: json.dumps([errno.ENOSPC, "model.safetensors"])}
    relay.on_step_end(1, [])
    relay.on_trial_complete(1, [], trial)
    with pytest.raises(OSError, match=r"No space left on device: 'model.safetensors'") as raised:
        relay.on_step_end(1, [])
    assert raised.value.errno == errno.ENOSPC
    assert not ends(heard)
    assert trial.can_go_on


@pytest.mark.parametrize("breaks_at", ["epoch", "end"])
def test_a_disk_that_has_no_room_for_the_store_ends_the_sweep_likewise(
    tmp_path: Path, breaks_at: str
) -> None:
    heard: list[tuple[Any, ...]] = []
    store = Listener("store", heard, breaks_at, errno.ENOSPC)
    relay, trial = Relay(store, [], [METRIC], earlier={}), TuneTrial(tmp_path)
    trial.report(relay, report_of(0.5, is_last=True))
    relay.on_trial_complete(1, [], trial)
    with pytest.raises(OSError, match="No space left on device"):
        relay.on_step_end(1, [])
    assert trial.can_go_on


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            "Traceback:\n  File x\nray.exceptions.ActorDiedError: the actor died\n\n",
            "ray.exceptions.ActorDiedError: the actor died",
        ),
        (None, "its process died"),
        ("x" * 2000, "x" * 500),
    ],
)
def test_a_crashed_trial_has_one_line_even_where_its_last_result_was_good(
    tmp_path: Path, error: str | None, line: str
) -> None:
    heard: list[tuple[Any, ...]] = []
    relay, trial = make_relay(heard), TuneTrial(tmp_path)
    trial.report(relay, report_of(0.5))
    trial.error = error
    relay.on_trial_error(1, [], trial)
    (end,) = ends(heard)
    assert (end.state, end.error) == ("FAIL", line)


def test_a_trial_whose_node_ran_out_of_memory_says_so(tmp_path: Path) -> None:
    lost = "Failure # 1 (occurred at 10:00)\nan actor died\n"
    file = tmp_path / "error.txt"
    told = [
        (None, "its process died"),
        (
            lost + OUT_OF_MEMORY,
            "its node ran out of memory (22.42GB of 23.54GB in use), so Ray ended its process;"
            " lower resources.max_concurrent_trials",
        ),
        (OUT_OF_MEMORY + lost, "its process died"),
    ]
    for number, (text, line) in enumerate(told):
        heard: list[tuple[Any, ...]] = []
        relay, trial = make_relay(heard), TuneTrial(tmp_path, f"t{number:04d}")
        trial.error_file = str(file)
        if text:
            file.write_text(text)
        relay.on_trial_error(1, [], trial)
        (end,) = ends(heard)
        assert (end.state, end.error) == ("FAIL", line)


def test_a_trial_that_starts_again_is_told_in_one_line_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[tuple[Any, ...]] = []
    relay, trial = make_relay(heard), TuneTrial(tmp_path)
    trial.report(relay, report_of(0.5))
    trial.error = "Traceback:\n  File x\nWorkersDied: the actor died"
    relay.on_trial_recover(1, [], trial)
    assert capsys.readouterr().err == (
        "hvqray: t0000 starts again from its last checkpoint: WorkersDied: the actor died\n"
    )
    assert not ends(heard)
    assert trial.can_go_on


def test_results_without_a_report_are_no_epochs(tmp_path: Path) -> None:
    heard: list[tuple[Any, ...]] = []
    relay, trial = make_relay(heard), TuneTrial(tmp_path)
    relay.on_trial_result(1, [], trial, {"done": True, ERROR_KEY: "ValueError: no"})
    assert heard == []


def test_a_listener_that_breaks_is_switched_off_and_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[tuple[Any, ...]] = []
    relay, trial = make_relay(heard, table="epoch"), TuneTrial(tmp_path)
    relay.announce(START)
    for epoch in (1, 2, 3):
        trial.report(relay, report_of(0.5, epoch=epoch, is_last=epoch == 3))
    relay.on_trial_complete(3, [], trial)
    assert [what[1] for what in heard if what[0] == "table"] == ["start", "epoch"]
    for name in ("store", "sink"):
        assert [what[1] for what in heard if what[0] == name] == ["start", "epoch", "epoch", "epoch", "end"]
    assert capsys.readouterr().err == "hvqray: Listener failed and is switched off: disk full\n"


@pytest.mark.parametrize("where", ["start", "epoch", "end"])
def test_a_fault_of_the_store_ends_the_sweep_and_the_trial_can_go_on(tmp_path: Path, where: str) -> None:
    heard: list[tuple[Any, ...]] = []
    relay, trial = make_relay(heard, store=where), TuneTrial(tmp_path)

    def tell_everything() -> None:
        relay.announce(START)
        trial.report(relay, report_of(0.5, is_last=True))
        relay.on_trial_complete(1, [], trial)

    with pytest.raises(OSError, match="disk full"):
        tell_everything()
    assert heard[-1][:2] == ("store", where)
    assert trial.can_go_on
