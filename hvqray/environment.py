"""What a reported number must carry: code version, hardware, library versions. Never host names or paths."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hvqray import __version__

if TYPE_CHECKING:
    import torch


DIRTY = ".dirty"
"""What the version of a checkout with uncommitted changes ends in: it is no other version when these change again."""


@functools.cache
def code_version() -> str:
    """`0.1.0`, or `0.1.0+gSHA` (`DIRTY` behind it with uncommitted changes) where the package lies in its git checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return __version__
    try:
        sha = _git(root, "rev-parse", "--short=10", "HEAD")
        dirty = DIRTY if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+g{sha}{dirty}"


def _git(root: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return result.stdout.strip()


def hardware(gpus: Iterable[str] = ()) -> str:
    """Processor, number of usable cores, and the GPUs that were used, such as `AMD EPYC, 2 cores; NVIDIA H100`.

    A machine may have others, which say nothing of a number: `gpus_of` and `all_gpus` name those meant.
    """
    return "; ".join([f"{_processor_name()}, {usable_cores()} cores", *gpus])


def gpus_of(device: str | torch.device) -> list[str]:
    """The name of the GPU that `device` is; none where it is the processor."""
    import torch

    return [torch.cuda.get_device_name(device)] if torch.device(device).type == "cuda" else []


def all_gpus() -> list[str]:
    """The names of all GPUs that this process sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a result depends on, as far as they are installed (training needs no Ray)."""
    versions = {}
    for name in ("torch", "timm", "ray", "optuna", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its container's quota."""
    from joblib import cpu_count  # knows both

    return int(cpu_count())


@functools.cache
def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
