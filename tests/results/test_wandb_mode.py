from __future__ import annotations

from pathlib import Path

import pytest

from hvqray.errors import InputError
from hvqray.results.wandb_mode import resolve_mode


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (
        "WANDB_API_KEY",
        "WANDB_IDENTITY_TOKEN_FILE",
        "WANDB_MODE",
        "WANDB_BASE_URL",
        "WANDB_CONFIG_DIR",
        "NETRC",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def test_without_a_key_it_is_off_and_one_line_says_so() -> None:
    mode, line = resolve_mode(None)
    assert mode == "disabled"
    assert line is not None
    assert "W&B is off" in line
    assert "\n" not in line


def test_a_request_is_followed() -> None:
    assert resolve_mode("offline") == ("offline", None)
    assert resolve_mode("disabled") == ("disabled", None)


def test_online_without_a_key_is_an_error() -> None:
    with pytest.raises(InputError, match="--wandb: online needs a key: set WANDB_API_KEY"):
        resolve_mode("online")


def test_an_unknown_mode_is_an_error() -> None:
    with pytest.raises(InputError, match="'ofline' is no mode; did you mean 'offline'"):
        resolve_mode("ofline")


def test_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolve_mode(None) == ("offline", None)
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(InputError, match=r"^WANDB_MODE: online needs a key"):
        resolve_mode(None)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert resolve_mode(None) == ("online", None)
    assert resolve_mode("disabled") == ("disabled", None)


def test_a_key_in_netrc_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert resolve_mode(None) == ("online", None)
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert resolve_mode(None)[0] == "disabled"
    monkeypatch.delenv("WANDB_BASE_URL")
    (tmp_path / ".config" / "wandb").mkdir(parents=True)
    (tmp_path / ".config" / "wandb" / "settings").write_text(
        "[default]\nbase_url = https://wandb.example.org\n"
    )
    assert resolve_mode(None)[0] == "disabled"
