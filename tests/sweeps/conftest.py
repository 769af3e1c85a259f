"""What the tests of recipes share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hvqray import submit
from hvqray.command_line import run_command
from hvqray.errors import InputError


@pytest.fixture
def accepts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., bool]:
    """Whether a command takes these arguments: True if it comes as far as reading the space file."""

    def far_enough(*given: object) -> None:
        raise InputError("far enough")

    monkeypatch.setattr("hvqray.config.sweep_file.load_sweep", far_enough)
    monkeypatch.setattr(submit, "load_sweep", far_enough)

    def check(main: Any, arguments: list[str]) -> bool:
        try:
            run_command(main, arguments)
        except SystemExit:
            return False
        return "far enough" in capsys.readouterr().err

    return check
