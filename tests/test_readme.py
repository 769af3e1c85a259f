"""What the pages tell users to type is taken by the commands, and what they point to is there.

Nothing that is told is run: every command line goes through its command's own parser, which stops it there.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hvqray.__main__ import COMMANDS
from hvqray.config.sections import RunConfig
from hvqray.config.sweep_file import load_sweep

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "sweeps" / "README.md",
    ROOT / "sweeps" / "paper" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
SPACES = [
    *sorted((ROOT / "search_spaces").glob("*.yaml")),
    *sorted((ROOT / "sweeps").glob("ablation/*.yaml")),
]
COMMAND = re.compile(r"(?:python -m hvqray\.|(?:^|[\s`])hvqray )(\w+) ?(.*)")
PLACEHOLDERS = {"SPACE.yaml": "search_spaces/hvq.yaml"}
"""What stands for a file that this project has several of."""


class Taken(Exception):
    """Ends a command once its arguments are parsed."""


@pytest.fixture
def takes(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], argparse.Namespace]:
    """Parses the arguments of a command; fails the test where the command refuses them."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_leave(parser: argparse.ArgumentParser, *given: Any) -> Any:
        raise Taken(parse(parser, *given))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_leave)

    def taken(command: str, rest: str) -> argparse.Namespace:
        assert command in COMMANDS
        with pytest.raises(Taken) as leaving:
            _module_of(command).main(shlex.split(rest))
        return leaving.value.args[0]

    return taken


def _module_of(command: str) -> Any:
    return importlib.import_module("hvqray.data.commands" if command == "data" else f"hvqray.{command}")


def bash_lines(page: Path) -> list[str]:
    """The command lines of a page's code blocks, without remarks."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.partition(" #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def block_commands() -> list[tuple[str, str]]:
    found = [COMMAND.search(line) for page in PAGES for line in bash_lines(page) if "pip install" not in line]
    return [match.groups() for match in found if match]


def head_commands() -> list[tuple[str, str]]:
    """Those in the remarks on top of the search spaces."""
    found = [COMMAND.search(line.strip("# ").partition(" #")[0]) for line in _remarks()]
    return [match.groups() for match in found if match]


def _remarks() -> Iterator[str]:
    for space in SPACES:
        yield from (line for line in space.read_text().splitlines() if line.startswith("#   python"))


def inline_commands() -> list[tuple[str, str]]:
    """Those that are named in running text and in tables: they need not be whole."""
    texts = [re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL) for page in PAGES]
    spans = [span for text in texts for span in re.findall(r"`([^`\n]+)`", text)]
    found = [COMMAND.match(span) for span in spans]
    return sorted({match.groups() for match in found if match and match[1] in COMMANDS})


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


def test_the_check_of_commands_tells_faults(takes, capsys) -> None:
    assert takes("sweep", "search_spaces/fsq.yaml --num-trials 3").num_trials == 3
    for wrong in ("search_spaces/fsq.yaml --num-trial 3", "", "search_spaces/fsq.yaml --num-trials few"):
        with pytest.raises(SystemExit):
            takes("sweep", wrong)
    assert capsys.readouterr().err


@pytest.mark.parametrize(("command", "rest"), block_commands() + head_commands(), ids=lambda text: text[:60])
def test_commands_are_taken(command: str, rest: str, takes: Callable[..., argparse.Namespace]) -> None:
    arguments = takes(command, rest)
    if command in ("sweep", "submit"):
        space = ROOT / PLACEHOLDERS.get(arguments.space, arguments.space)
        load_sweep(space, arguments.overrides)


def test_commands_of_every_kind_were_found() -> None:
    assert {command for command, _ in block_commands()} == COMMANDS.keys()
    assert len(head_commands()) >= len(SPACES)


@pytest.mark.parametrize(("command", "rest"), inline_commands(), ids=lambda text: text[:60])
def test_options_named_in_the_text_exist(command: str, rest: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = shlex.split(rest)
    with pytest.raises(SystemExit) as leaving:
        _module_of(command).main([*(arguments[:1] if command == "data" else []), "--help"])
    assert leaving.value.code == 0
    explained = capsys.readouterr().out
    for option in (argument.partition("=")[0] for argument in arguments if argument.startswith("--")):
        assert re.search(rf"{option}\b", explained), f"{command} has no {option}"


def test_modules_run_by_the_benchmarks_page_exist() -> None:
    modules = [
        module
        for line in bash_lines(ROOT / "benchmarks" / "README.md")
        for module in re.findall(r"python -m (\S+)", line)
    ]
    assert modules
    for module in modules:
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: "/".join(page.parts[-2:]))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text())
    for link in links:
        if not link.startswith(("http://", "https://")):
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: "/".join(page.parts[-2:]))
def test_dotted_fields_exist(page: Path) -> None:
    sections = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    known = {f"{name}.{key}" for name, section in sections.items() for key in _keys(section)}
    for section, field in re.findall(
        r"[` ](model|data|train|resources)\.(\w+)(?=[`=: .,])", page.read_text()
    ):
        if field not in ("safetensors", "onnx"):  # of file names
            assert f"{section}.{field}" in known, f"{section}.{field}"


def _keys(section: Any) -> set[str]:
    models = getattr(section, "__args__", (section,))
    return {key for model in models if hasattr(model, "model_fields") for key in model.model_fields}


def test_every_search_space_and_page_is_named_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for space in (ROOT / "search_spaces").glob("*.yaml"):
        assert f"search_spaces/{space.name}" in text
        load_sweep(space)
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in text
    for command in COMMANDS:
        assert f"hvqray.{command} " in text, command
