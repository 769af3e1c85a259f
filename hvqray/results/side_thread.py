"""Work that a sweep can do without, on a thread of its own behind a bounded queue: neither slowness nor faults come through."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Task = Callable[[], object]


class SideThread:
    """Does tasks one after the other; what they raise is told once, in one line that `what` begins.

    A task that finds `queue_size` others waiting is dropped. A daemon: the process does not wait for it at its end.
    """

    def __init__(self, what: str, *, tell: Callable[[str], None], queue_size: int = 10_000) -> None:
        self._what, self._tell = what, tell
        self._told = False
        self._off = False
        self._tasks: queue.Queue[Task | None] = queue.Queue(queue_size)
        self._thread = threading.Thread(target=self._work, name=what, daemon=True)
        self._thread.start()

    def put(self, task: Task) -> None:
        """Have `task` done after those that wait."""
        if self._off:
            return
        try:
            self._tasks.put_nowait(task)
        except queue.Full:
            self._tell_once("too slow to keep up; some of its log is missing")

    def give_up(self) -> None:
        """Do no more tasks, not even those that wait."""
        self._off = True

    def finish(self, timeout_s: float) -> bool:
        """End once all is done; where `timeout_s` is not enough, say so and give up. False where it has given up."""
        try:
            self._tasks.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self.give_up()
            self._tell_once(f"not everything was sent within {timeout_s:.0f} s", goes_on=False)
        return not self._off

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._off:
                continue
            try:
                task()
            except Exception as error:  # it must never stop a sweep, whatever it raises
                self._tell_once(f"{type(error).__name__}: {error}")

    def _tell_once(self, fault: str, *, goes_on: bool = True) -> None:
        if not self._told:
            self._told = True
            rest = "the sweep goes on; its results" if goes_on else "the results"
            line = " ".join(fault.split())[:300]
            self._tell(f"{self._what}: {line} ({rest} on disk are complete)")
