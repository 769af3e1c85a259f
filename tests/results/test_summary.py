from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from fake_sweep import write_fake_sweep
from rich.console import Console

from hvqray.errors import InputError
from hvqray.results.html_report import build_html_report
from hvqray.results.summary import print_summary


def printed(folder: Path) -> str:
    out = io.StringIO()
    print_summary(Console(file=out, width=200), folder)
    return out.getvalue()


def test_trials_best_first_and_the_best_per_class(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one")
    text = printed(folder)
    order = [text.index(f" t000{number} ") for number in (5, 2, 1, 0, 3, 4)]
    assert order == sorted(order)
    assert "t0004 failed: RuntimeError: <b>out of memory</b>" in text
    best = json.loads((folder / "best" / "metrics.json").read_text())["metrics"]
    for split in ("val", "test"):
        assert f"t0005 on {split}" in text
        for name in ("cookie/image_auroc", "road/pixel_aupro", "image_f1max"):
            assert f"{best[f'{split}/{name}']:.4f}" in text
    assert "selected on test" not in text.lower()
    assert "parts, 224 px, seed 7; 0.1.0+gabc; 2 cores of a processor" in text


def test_selection_on_test_is_said(tmp_path: Path) -> None:
    text = printed(write_fake_sweep(tmp_path / "one", validation="none"))
    assert "t0005 on val (selected on test)" in text
    assert "Selected on test: the search looked at the test images" in text


def test_that_there_was_no_test_image_is_said(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one")
    told = "There is no test image: all figures are on val"
    assert told not in printed(folder)
    assert told not in build_html_report(folder).read_text()
    path = folder / "best" / "metrics.json"
    record = json.loads(path.read_text())
    val = {name: value for name, value in record["metrics"].items() if not name.startswith("test/")}
    padim = {"name": "padim", "settings": {}, "metrics": val}
    path.write_text(json.dumps({**record, "metrics": val, "baselines": [padim]}))
    assert told in printed(folder)
    page = build_html_report(folder).read_text()
    assert told in page
    assert "Measured on the same val images" in page


def test_without_a_completed_trial(tmp_path: Path) -> None:
    assert "There is no best model" in printed(write_fake_sweep(tmp_path / "one", with_best=False))


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sweep\.yaml is missing: not a sweep's folder"):
        printed(tmp_path)
