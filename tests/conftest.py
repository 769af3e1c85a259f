"""Fixtures that several test folders share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ray_head import RayHead, ray_head, unused_port
from small_images import write_small_images

INDUSTRIAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "industrial"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, whole sweeps before all: at the end one process would run them while the others idle."""
    ray, slow = ({item.path for item in items if item.get_closest_marker(mark)} for mark in ("ray", "slow"))
    items.sort(key=lambda item: (item.path not in ray, item.path not in slow))


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
    return unused_port()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where a shell runs the tests in the background and has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """One Ray cluster for all tests that need a running one; starting it takes some ten seconds."""
    with ray_head(tmp_path_factory.mktemp("ray") / "start.log") as head:
        yield head


@pytest.fixture(scope="session")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset on disk; read only."""
    return write_small_images(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature cache that tests share, since its content depends on nothing but the data."""
    return tmp_path_factory.mktemp("cache")
