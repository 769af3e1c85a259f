"""Fixtures that several test folders share."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

INDUSTRIAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "industrial"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors gain nothing from threads, and tests may run beside each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def industrial() -> Path:
    """The real photographs, where they lie beside the checkout."""
    if not INDUSTRIAL.is_dir():
        pytest.skip(f"the real photographs are not there ({INDUSTRIAL.name})")
    return INDUSTRIAL


@pytest.fixture
def free_port() -> int:
    """A port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
