"""What a reported number must carry: code version, hardware, library versions. Never host names or paths."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from hvqray import __version__


@functools.cache
def code_version() -> str:
    """`0.1.0`, or `0.1.0+gSHA` (`.dirty` with uncommitted changes) where the package lies in its git checkout."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return __version__
    try:
        sha = _git(root, "rev-parse", "--short=10", "HEAD")
        dirty = ".dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__}+g{sha}{dirty}"


def _git(root: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return result.stdout.strip()


@functools.cache
def hardware() -> str:
    """Processor, number of usable cores, and GPUs, such as `AMD EPYC, 2 cores`."""
    import torch

    parts = [f"{_processor_name()}, {usable_cores()} cores"]
    if torch.cuda.is_available():
        parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return "; ".join(parts)


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


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
