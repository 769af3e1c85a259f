"""Whether W&B is on: what was asked for, and whether there is a key."""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from hvqray.atomic import expanded
from hvqray.errors import InputError, did_you_mean

WandbMode = Literal["online", "offline", "disabled"]
_MODES: tuple[WandbMode, ...] = ("online", "offline", "disabled")
_PUBLIC_SERVER = "https://api.wandb.ai"


def resolve_mode(requested: str | None) -> tuple[WandbMode, str | None]:
    """The mode, and a line for the user where W&B is off because there is no key.

    Without a request (`--wandb`, else WANDB_MODE) W&B is online where a key is configured. Raises InputError for an
    unknown mode, and for `online` without a key.
    """
    source = "--wandb"
    if requested is None and os.environ.get("WANDB_MODE"):
        requested, source = os.environ["WANDB_MODE"], "WANDB_MODE"
    if requested is None:
        if has_key():
            return "online", None
        return "disabled", "W&B is off: no key is configured (set WANDB_API_KEY, or use --wandb offline)"
    for mode in _MODES:
        if requested == mode:
            if mode == "online" and not has_key():
                raise InputError(
                    "online needs a key: set WANDB_API_KEY or run `wandb login`, or use --wandb offline",
                    source=source,
                )
            return mode, None
    raise InputError(f"{requested!r} is no mode{did_you_mean(requested, _MODES)}", source=source)


def has_key() -> bool:
    """Whether a key lies where wandb itself looks: the environment, or the netrc entry of the server."""
    return bool(
        os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or _netrc_has_key()
    )


def _netrc_has_key() -> bool:
    candidates = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    host = urlsplit(server()).netloc
    for candidate in candidates:
        try:
            entry = netrc.netrc(expanded(candidate)).authenticators(host)
        except (OSError, netrc.NetrcParseError):
            continue
        if entry and entry[2]:
            return True
    return False


def server() -> str:
    """The server's address: of the environment, of wandb's settings file, or the public one."""
    if os.environ.get("WANDB_BASE_URL"):
        return os.environ["WANDB_BASE_URL"]
    config_dir = expanded(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb")
    settings = configparser.ConfigParser()
    try:
        settings.read([config_dir / "settings", Path("wandb") / "settings"])
    except configparser.Error:
        return _PUBLIC_SERVER
    return settings.get("default", "base_url", fallback=_PUBLIC_SERVER)
