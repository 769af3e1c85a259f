"""What README.md and docs/ tell users to type exists, and what they point to is there."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from hvqray.__main__ import COMMANDS
from hvqray.config.sweep_file import load_sweep

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "sweeps" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def bash_lines(page: Path) -> list[str]:
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def command_lines() -> list[tuple[str, str]]:
    pattern = re.compile(r"(?:python -m hvqray\.|hvqray )(\w+) ?(.*)")
    found = []
    for page in PAGES:
        for line in bash_lines(page):
            match = pattern.search(line.partition(" # ")[0])
            if match and "pip install" not in line:
                found.append((match.group(1), match.group(2)))
    return found


def help_of(command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    module = importlib.import_module("hvqray.data.commands" if command == "data" else f"hvqray.{command}")
    subcommand = arguments[:1] if command == "data" else []
    with pytest.raises(SystemExit) as leaving:
        module.main([*subcommand, "--help"])
    assert leaving.value.code == 0
    return capsys.readouterr().out


def test_setup_is_two_commands_of_one_line_each() -> None:
    blocks = re.findall(r"```bash\n(.*?)\n```", (ROOT / "README.md").read_text(), re.DOTALL)
    setups = [block for block in blocks if "venv" in block]
    assert len(setups) == 2
    for setup in setups:
        assert "\n" not in setup
        assert setup.startswith("python3 -m venv .venv && ")
        assert subprocess.run(["bash", "-n", "-c", setup], check=False).returncode == 0
    assert setups[0].endswith(".venv/bin/python -m hvqray.sweep search_spaces/fsq.yaml")
    assert ".venv/bin/pytest" in setups[1]


@pytest.mark.parametrize(("command", "rest"), command_lines(), ids=lambda text: text[:60])
def test_commands_and_their_options_exist(
    command: str, rest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command in COMMANDS
    arguments = shlex.split(rest)
    options = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    explained = help_of(command, arguments, capsys)
    for option in options:
        assert re.search(rf"{option}\b", explained), f"{command} has no {option}"
    for space in (argument for argument in arguments if argument.startswith("search_spaces/")):
        assert (ROOT / space).is_file()
    for override in re.findall(r"--set (\S+)", rest):
        load_sweep(ROOT / "search_spaces" / "fsq.yaml", [override])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    for link in links:
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), link


def test_every_search_space_and_page_is_named_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for space in (ROOT / "search_spaces").glob("*.yaml"):
        assert f"search_spaces/{space.name}" in text
        load_sweep(space)
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in text
