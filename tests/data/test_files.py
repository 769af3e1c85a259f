"""Which files are images, which folders count, and names that no result could hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hvqray.data.commands import main as data
from hvqray.data.files import check_name, dataset_root, image_files, inside, subfolders
from hvqray.data.layouts import read_dataset
from hvqray.errors import InputError

LATIN_1 = os.fsdecode(b"\xe9000.png")


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_images_are_files_or_links_to_files(tmp_path: Path) -> None:
    (tmp_path / "b.PNG").touch()
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.PNG")
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "folder.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    assert names(image_files(tmp_path)) == ["a.jpg", "b.PNG"]
    assert names(subfolders(tmp_path)) == ["folder.png", "link.png"]
    assert image_files(tmp_path / "nowhere") == subfolders(tmp_path / "b.PNG") == []


def test_a_link_that_leads_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    """Whoever opens it is told."""
    (tmp_path / "gone.png").symlink_to(tmp_path / "moved.png")
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    assert names(image_files(tmp_path)) == ["gone.png", "round.png"]
    assert subfolders(tmp_path) == []


def test_a_name_that_is_not_utf_8_is_refused_where_it_is_listed(tmp_path: Path) -> None:
    (tmp_path / "müller").mkdir()
    (tmp_path / "müller" / LATIN_1).touch()
    with pytest.raises(InputError) as refused:
        image_files(tmp_path / "müller")
    message = str(refused.value)
    assert message.startswith(rf"{tmp_path}/müller/\xe9000.png: its name is not UTF-8")
    assert "rename it" in message
    (tmp_path / os.fsdecode(b"\xe9")).mkdir()
    with pytest.raises(InputError, match="not UTF-8"):
        subfolders(tmp_path)
    with pytest.raises(InputError, match="not UTF-8"):
        dataset_root(tmp_path / os.fsdecode(b"\xe9"))
    with pytest.raises(InputError, match="not UTF-8"):
        inside(tmp_path, "train/\udce9.png", source=tmp_path / "1cls.csv")
    check_name(tmp_path / "Prüfstück 検査.png")


@pytest.mark.parametrize("part", ["train/good", "test/good", "test/cut", "ground_truth/cut"])
def test_a_dataset_with_such_a_name_is_refused_and_check_says_so(
    tmp_path: Path, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("train/good", "test/good", "test/cut", "ground_truth/cut"):
        (tmp_path / "parts" / "bolt" / folder).mkdir(parents=True)
        (tmp_path / "parts" / "bolt" / folder / "000.png").touch()
    (tmp_path / "parts" / "bolt" / part / LATIN_1).touch()
    with pytest.raises(InputError, match="not UTF-8"):
        read_dataset(tmp_path / "parts")
    assert data(["check", str(tmp_path / "parts")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hvqray: error: {tmp_path}/parts/bolt/{part}/\\xe9000.png: its name is not UTF-8")
