"""Names of users' files and classes are printed as they are: `[v2]` is no style of Rich's, and `:boom:` no picture."""

from __future__ import annotations

import ast
import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

import hvqray
from hvqray.data import commands
from hvqray.data.progress import progress_bar

ROOT = Path(hvqray.__file__).parent
CLASS = "widget [v2] :boom:"


def test_no_console_reads_markup() -> None:
    calls = [
        (path, node)
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("Console", "TextColumn")
    ]
    assert len(calls) > 5
    for path, call in calls:
        off = {keyword.arg for keyword in call.keywords if ast.unparse(keyword.value) == "False"}
        needed = {"markup", "emoji"} if ast.unparse(call.func) == "Console" else {"markup"}
        assert needed <= off, f"{path.relative_to(ROOT)}:{call.lineno}"


@pytest.fixture
def bracketed(tmp_path: Path, small_images: Path) -> Path:
    """A dataset whose class has a name in brackets, in a folder whose name would end a style that none began."""
    root = tmp_path / "x[" / "set]"
    shutil.copytree(small_images / "bolt", root / CLASS)
    return root


def test_datasets_and_caches_are_shown_by_their_names(
    bracketed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "c[" / "d]"
    assert commands.main(["describe", str(bracketed), "--cache-dir", str(cache)]) == 0
    output = capsys.readouterr().out
    assert f" {CLASS} " in output
    assert "x[/set](mvtec_ad)" in "".join(output.split()), "the title, which a long path folds"
    assert commands.main(["cache", "--list", "--cache-dir", str(cache)]) == 0
    assert "c[/d]" in "".join(capsys.readouterr().out.split())


def test_a_bar_is_named_as_it_is() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, markup=False, emoji=False)
    with progress_bar(console) as progress:
        progress("measuring [/x]", 1, 2)
    assert isinstance(console.file, io.StringIO)
    assert "measuring [/x]" in console.file.getvalue()
