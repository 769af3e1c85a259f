"""The process's memory, held against what psutil and the kernel's accounting say."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hvqray import process_memory
from hvqray.process_memory import peak_resident_bytes, resident_bytes, restart_peak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")

BALLAST_BYTES = 96 * 10**6


def hold_and_let_go() -> None:
    ballast = bytearray(BALLAST_BYTES)
    ballast[::4096] = b"1" * len(ballast[::4096])


def test_resident_memory_is_what_psutil_says() -> None:
    assert resident_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)


def test_the_peak_holds_what_is_gone_until_it_begins_anew() -> None:
    restart_peak()  # what earlier tests freed and this process keeps would hold the ballast
    before = resident_bytes()
    assert before is not None
    hold_and_let_go()
    peak = peak_resident_bytes()
    assert peak is not None
    assert (
        before + 0.9 * BALLAST_BYTES
        < peak
        <= 1.05 * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    restart_peak()
    peak_after = peak_resident_bytes()
    assert peak_after is not None
    assert peak_after < peak - 0.7 * BALLAST_BYTES


def test_freed_memory_is_kept_for_the_next_arrays_and_given_back_for_a_new_peak() -> None:
    """In a process of its own, as it holds for good."""
    program = """
import resource, sys
from hvqray.process_memory import keep_freed_memory, resident_bytes, restart_peak

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        ballast = bytearray(%d)
        ballast[::4096] = b"1" * len(ballast[::4096])
        del ballast
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

as_it_comes = faults(10)
keep_freed_memory()
faults(1)
kept, held = faults(10), resident_bytes()
restart_peak()
print(as_it_comes, kept, held - resident_bytes())
"""
    printed = subprocess.run(
        [sys.executable, "-c", program % BALLAST_BYTES], capture_output=True, text=True, check=True
    ).stdout
    as_it_comes, kept, given_back = map(int, printed.split())
    if platform.libc_ver()[0] != "glibc":
        return
    assert as_it_comes > 5 * BALLAST_BYTES / 4096
    assert kept < 0.1 * as_it_comes
    assert given_back > 0.7 * BALLAST_BYTES


def test_where_the_kernel_refuses_the_peak_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_memory, "_CLEAR_REFS", tmp_path)
    hold_and_let_go()
    peak = peak_resident_bytes()
    restart_peak()
    assert peak_resident_bytes() == pytest.approx(peak, rel=0.01)


def test_unknown_where_there_is_no_linux_to_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process_memory, "_STATUS", tmp_path / "status")
    assert resident_bytes() is None
    assert peak_resident_bytes() is None
    (tmp_path / "status").write_text("Name:\tpython\nVmRSS:\t    12 kB\n")
    assert resident_bytes() == 12 * 1024
    assert peak_resident_bytes() is None
