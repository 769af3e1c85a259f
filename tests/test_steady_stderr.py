"""Lines on standard error that nobody reads any more end no work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, TextIO

import pytest

from hvqray.command_line import print_error
from hvqray.steady_stderr import say_on_stderr
from hvqray.tuning.ray_runtime import _tell_error
from hvqray.tuning.relay import Relay


@pytest.fixture
def broken_pipe() -> Iterator[TextIO]:
    """A pipe whose reader has left."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stream:
        yield stream


def lost_trial(_: Any) -> None:
    trial = SimpleNamespace(config={}, get_error=lambda: None, error_file=None)
    Relay(SimpleNamespace(), [], [], earlier={}).on_trial_recover(1, [], trial)


@pytest.mark.parametrize(
    "say", [say_on_stderr, print_error, lambda line: _tell_error({"lines": [line]}), lost_trial]
)
def test_a_reader_that_has_left_is_no_error(
    broken_pipe: TextIO, monkeypatch: pytest.MonkeyPatch, say: Any
) -> None:
    spec = SimpleNamespace(trial_id="t0000")
    monkeypatch.setattr("hvqray.tuning.relay.TrialSpec.from_config", lambda config: spec)
    monkeypatch.setattr(sys, "stderr", broken_pipe)
    for line in ("one", "two"):
        say(line)
    broken_pipe.write("and what comes later goes nowhere\n")


def test_without_a_standard_error_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    say_on_stderr("nowhere")


def test_what_is_read_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    say_on_stderr("one line")
    assert capsys.readouterr().err == "one line\n"
