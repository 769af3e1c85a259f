"""What a reported number carries."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import hvqray
from hvqray import environment


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout of one commit, which takes this one's place."""
    package = tmp_path / "hvqray"
    package.mkdir()
    (package / "environment.py").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "hvqray"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    monkeypatch.setattr(environment, "__file__", str(package / "environment.py"))
    return tmp_path


def code_version() -> str:
    return environment.code_version.__wrapped__()


def test_the_version_names_the_commit_and_whether_it_was_changed(checkout: Path) -> None:
    clean = code_version()
    sha = subprocess.check_output(["git", "-C", str(checkout), "rev-parse", "HEAD"], text=True).strip()
    assert re.fullmatch(re.escape(hvqray.__version__) + r"\+g[0-9a-f]{10}", clean)
    assert clean.endswith(sha[:10])
    (checkout / "notes.txt").write_text("not the code")
    assert code_version() == clean
    (checkout / "hvqray" / "environment.py").write_text("# changed")
    assert code_version() == f"{clean}.dirty"


def test_without_a_checkout_or_git_it_is_the_release(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: Any, **options: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", missing)
    assert code_version() == hvqray.__version__
    (checkout / ".git").rename(checkout / "gone")
    monkeypatch.undo()
    monkeypatch.setattr(environment, "__file__", str(checkout / "hvqray" / "environment.py"))
    assert code_version() == hvqray.__version__


def test_hardware_names_processor_and_cores_but_no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    text = environment.hardware()
    assert re.fullmatch(r".+, 3 cores", text)
    assert platform.node() not in text


def test_hardware_names_the_gpus_that_were_used_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {torch.device(device).index}")
    assert environment.gpus_of("cpu") == []
    assert environment.gpus_of(torch.device("cuda:1")) == ["GPU 1"]
    assert environment.all_gpus() == ["GPU 0", "GPU 1"]
    assert "GPU" not in environment.hardware(environment.gpus_of("cpu"))
    assert environment.hardware(environment.gpus_of("cuda:1")).endswith(" cores; GPU 1")


def test_library_versions() -> None:
    versions = environment.library_versions()
    assert {"torch", "ray", "optuna", "numpy", "timm"} == versions.keys()
    assert versions["optuna"] == importlib.metadata.version("optuna")
