"""Notes the time of every optimisation step in any process that has this folder on PYTHONPATH.

Python imports a `sitecustomize` at its start, so Ray's workers write down their steps without a line of benchmark code in
the product. A thread waits for the process to import torch, which most of Ray's processes never do.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

POLL_S = 0.02


def _watch(log: str) -> None:
    while True:
        module = sys.modules.get("torch.optim.optimizer")
        if module is not None and hasattr(module, "register_optimizer_step_post_hook"):
            break
        time.sleep(POLL_S)

    def note(*_: Any) -> None:
        line = f"{time.time():.6f} {os.getpid()}\n".encode()
        # One write to a file opened for appending: lines of several processes do not mix.
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line)
        os.close(descriptor)

    module.register_optimizer_step_post_hook(note)


def _may_train() -> bool:
    """Not Ray's own services, which have enough threads; its workers are the exception."""
    program = " ".join(sys.orig_argv[1:3])
    return "/ray/" not in program or "default_worker.py" in program


if (path := os.environ.get("HVQRAY_STEP_CLOCK")) and _may_train():
    threading.Thread(target=_watch, args=(path,), daemon=True, name="step-clock").start()
