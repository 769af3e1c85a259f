"""Says when trials wait for room on a cluster that others use too, of which Ray by itself says nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.util import placement_group_table

from hvqray.errors import counted, shortened
from hvqray.results.wording import duration
from hvqray.steady_stderr import say_on_stderr
from hvqray.tuning.resources import TrialResources, trials_on

PATIENCE_S = 60.0
"""How long what a trial needs may be wanting before that is said."""
AGAIN_S = 1800.0
"""How long until it is said again of the same wait."""
LOOK_EVERY_S = 10.0
_WAITING = ("PENDING", "RESCHEDULING")


class RoomWatch:
    """Tells on stderr what this job waits for, once it has waited for a minute, and then rarely.

    Whatever trials need is reserved as placement groups: what waits is a group that was asked for and has not been granted.
    `resources` are those of each `what`.
    """

    def __init__(self, resources: TrialResources, what: str = "trial") -> None:
        self._resources, self._what = resources, what
        self._since: dict[str, float] = {}
        self._say_at = 0.0
        self._broken = False

    def look(self) -> None:
        """Ask the cluster, which takes about a millisecond; to be called every `LOOK_EVERY_S`, and not while nothing can wait."""
        if self._broken:
            return
        try:
            self._look(time.monotonic())
        except Exception as error:  # no reason to end a sweep
            self._broken = True
            reason = str(error).strip().partition("\n")[0]
            say_on_stderr(f"hvqray: whether there is room is told no more: {reason}")

    def nothing_waits(self) -> None:
        """A wait that begins later is another one."""
        self._since, self._say_at = {}, 0.0

    def _look(self, now: float) -> None:
        groups = _own_groups()
        waiting = [name for name, group in groups.items() if group["state"] in _WAITING]
        if not waiting:
            self.nothing_waits()
            return
        self._since = {name: self._since.get(name, now) for name in waiting}
        waited_s = now - min(self._since.values())
        if waited_s < PATIENCE_S or now < self._say_at:
            return
        running = sum(
            group["state"] == "CREATED" and _is_of_workers(group, self._resources.workers)
            for group in groups.values()
        )
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        free = ray.available_resources()
        if wanting := what_is_wanting(self._resources, nodes, free, running, what=self._what):
            self._say_at = now + AGAIN_S
            say_on_stderr(f"hvqray: waiting for room for {duration(waited_s)}: {wanting}")


class TrialsInWait(tune.Callback):
    """Has the `RoomWatch` look while some trial has not begun.

    It looks between two steps of Tune's own, in its thread, so that nothing of it is left to end when the sweep is interrupted.
    """

    def __init__(self, resources: TrialResources) -> None:
        self._watch = RoomWatch(resources)
        self._in_train = resources.workers > 1
        self._without_report: set[str] = set()
        self._look_at = time.monotonic() + LOOK_EVERY_S

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._without_report.add(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._without_report.discard(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._without_report.discard(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._without_report.discard(trial.trial_id)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_EVERY_S
        # To Tune a trial runs whose workers Ray Train waits for.
        if (self._in_train and self._without_report) or any(trial.status == "PENDING" for trial in trials):
            self._watch.look()
        else:
            self._watch.nothing_waits()


def what_is_wanting(
    resources: TrialResources,
    nodes: Sequence[Mapping[str, float]],
    free: Mapping[str, float],
    running: int,
    *,
    what: str = "trial",
) -> str | None:
    """What another `what` needs and the cluster lacks; None where the `running` ones of the sweep are all that the `nodes` hold."""
    fitting = trials_on(nodes, resources)
    if fitting and running >= fitting:
        return None
    wanted = resources.of_worker
    needs = " and ".join(_amount(name, amount) for name, amount in wanted.items())
    needs = f"{resources.workers} workers with {needs} each" if resources.workers > 1 else needs
    one = f"another {what}" if running else f"a {what}"
    if not fitting:
        have = shortened(
            [" and ".join(_amount(name, node.get(name, 0)) for name in wanted) for node in nodes]
        )
        return (
            f"{one} needs {needs}, for which the whole cluster is too small now ({have}); it starts once nodes with room join, or stop"
            " the sweep and --resume it with smaller resources"
        )
    are_free = " and ".join(
        _amount(name, free.get(name, 0), of=sum(node.get(name, 0) for node in nodes)) for name in wanted
    )
    enough = all(free.get(name, 0) >= amount * resources.workers for name, amount in wanted.items())
    apart = ", but not together where they are needed" if enough else ""
    others = f"; running: {counted(running, what)}" if running else ""
    return f"{one} needs {needs}; in the cluster {are_free} are free{apart}{others}"


def _own_groups() -> dict[str, dict[str, Any]]:
    """The placement groups of this job, by their ids, each of which ends with the id of its job."""
    job = ray.get_runtime_context().get_job_id()
    return {name: group for name, group in placement_group_table().items() if name.endswith(job)}


def _is_of_workers(group: Mapping[str, Any], workers: int) -> bool:
    """Whether it is the workers' group of a trial, and not that of the actor that minds them."""
    bundles = list(group["bundles"].values())
    return len(bundles) == workers and all("CPU" in bundle for bundle in bundles)


def _amount(name: str, amount: float, *, of: float | None = None) -> str:
    """`1 CPU`, `0.5 of 8 CPUs`, `1.5 GB of memory`."""
    unit, noun, plural = (1e9, "GB of memory", "") if name == "memory" else (1, name, "s")
    last = amount if of is None else of
    figures = [
        f"{round(each / unit, 1 if name == 'memory' else 4):g}" for each in (amount, of) if each is not None
    ]
    return f"{' of '.join(figures)} {noun}{'' if last == 1 else plural}"
