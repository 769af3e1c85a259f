"""Sweeps of one class each, side by side."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_sweep import METRICS, write_fake_sweep
from rich.console import Console

from hvqray.errors import InputError
from hvqray.results.confirmation import ConfirmedConfiguration, Spread, confirm_record
from hvqray.results.joint import joint_metrics, read_joint
from hvqray.results.joint_intervals import mean_interval, more_in_the_mean
from hvqray.results.joint_report import build_joint_report, print_joint
from hvqray.results.stored_trials import class_sweep_folders
from hvqray.results.sweep_folder import read_best

CLASSES = ("nut 2", "nut 10", "pill")


def sweep_folder(folder: Path, class_name: str) -> Path:
    return folder / f"parts-{class_name.replace(' ', '_')}"


def add_baselines(folder: Path, **settings: str) -> None:
    path = folder / "best" / "metrics.json"
    record = json.loads(path.read_text())
    lower = {name: value - 0.1 for name, value in record["metrics"].items() if name.startswith("test/")}
    test = next(name for name in lower if name.count("/") == 2 and name.endswith("image_auroc"))
    more = {test: {"low": 0.04, "high": 0.22}, "test/image_auroc": {"low": 0.0, "high": 0.3}}
    record["baselines"] = [
        {"name": name, "settings": {"score": "maximum", "smoothing": value}, "metrics": lower, "more": more}
        for name, value in settings.items()
    ]
    path.write_text(json.dumps(record))


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for name in CLASSES:
        write_fake_sweep(sweep_folder(tmp_path, name), num_trials=1, classes=(name,))
    return tmp_path


def test_each_class_has_the_figures_of_its_own_sweep_and_the_mean_is_theirs(parts: Path) -> None:
    joint = read_joint(parts)
    assert [one.class_name for one in joint.sweeps] == list(CLASSES), "in natural order"
    for split in ("val", "test"):
        for metric in METRICS:
            values = []
            for name in CLASSES:
                best = read_best(sweep_folder(parts, name))
                assert best is not None
                values.append(best.metrics[f"{split}/{metric}"])
                assert joint.metrics[f"{split}/{name}/{metric}"] == values[-1]
            assert joint.metrics[f"{split}/{metric}"] == pytest.approx(np.mean(values))


def test_what_is_undefined_for_a_class_is_not_in_the_mean() -> None:
    metrics = joint_metrics(
        {
            "nut": {"test/nut/pixel_ap": 0.5, "test/pixel_ap": 0.5, "codebook/q0/use": 1.0},
            "pill": {"test/pill/pixel_ap": None, "test/pixel_ap": None},
        }
    )
    assert metrics == {
        "test/nut/pixel_ap": 0.5,
        "test/pill/pixel_ap": None,
        "test/pixel_ap": 0.5,
        "test/pixel_ap.num_classes": 1.0,
    }
    assert joint_metrics({"pill": {"test/pill/pixel_ap": None}})["test/pixel_ap"] is None
    assert joint_metrics({"nut": {"val/nut/mad": 0.5}, "pill": {"val/pill/mad": 0.75}})["val/mad"] == 0.625


def test_a_baseline_counts_where_every_class_has_it(parts: Path) -> None:
    for name in CLASSES:
        others = {} if name == "pill" else {"patchcore": "0"}
        add_baselines(sweep_folder(parts, name), padim="4" if name == "pill" else "0", **others)
    joint = read_joint(parts)
    (padim,) = joint.baselines
    assert padim.name == "padim"
    assert padim.settings == {"score": "maximum"}, "only what all classes agree in"
    assert padim.metrics["test/image_auroc"] == pytest.approx(joint.metrics["test/image_auroc"] - 0.1)
    low, high = padim.more.pop("test/image_auroc")
    # Three classes that won .1 each, by .06 less or .12 more: 3 ** .5 * .06 / 3 and 3 ** .5 * .12 / 3.
    assert (low, high) == pytest.approx((0.1 - 0.06 / 3**0.5, 0.1 + 0.12 / 3**0.5))
    assert padim.more == {f"test/{name}/image_auroc": (0.04, 0.22) for name in CLASSES}


def test_what_was_won_in_a_class_s_own_sweep_on_the_mean_is_not_told_of_all(parts: Path) -> None:
    for name in CLASSES:
        add_baselines(sweep_folder(parts, name), padim="0")
    path = sweep_folder(parts, "pill") / "best" / "metrics.json"
    record = json.loads(path.read_text())
    del record["baselines"][0]["more"]["test/pill/image_auroc"]
    path.write_text(json.dumps(record))
    (padim,) = read_joint(parts).baselines
    assert set(padim.more) == {f"test/{name}/image_auroc" for name in CLASSES[:2]}


def test_means_over_other_classes_are_not_compared() -> None:
    both = {"test/nut/pixel_ap": 0.5, "test/pill/pixel_ap": 0.25}
    one = {"test/nut/pixel_ap": 0.75, "test/pill/pixel_ap": None}
    more = {"test/nut/pixel_ap": (0.125, 0.375)}
    for best, baseline in ((one, both), (both, one)):
        assert more_in_the_mean(best, baseline, more, ["nut", "pill"]) == {}
    of_nut = {"test/nut/pixel_ap": 0.5, "test/pill/pixel_ap": None}
    found = more_in_the_mean(one, of_nut, more, ["nut", "pill"])
    assert found == {"test/pixel_ap": pytest.approx((0.125, 0.375))}


def confirm(parts: Path, *, over: str = "bootstrap over images and seeds", **intervals: Any) -> None:
    """Give classes the interval (mean, low, high) of the image AUROC over two seeds, and their best model a seed."""
    for name, (mean, low, high) in intervals.items():
        path = sweep_folder(parts, name.replace("_", " ")) / "best" / "metrics.json"
        record = json.loads(path.read_text())
        spread = Spread([mean, mean], mean, 0.0, low, high, over if low is not None else None)  # type: ignore[arg-type]
        metrics = {f"test/{name.replace('_', ' ')}/image_auroc": spread}
        confirmed = ConfirmedConfiguration(record["trial_id"], [0, 1], ["a-s0", "a-s1"], metrics, {})
        path.write_text(json.dumps(record | {"run_id": "a-s1", "confirm": confirm_record([confirmed])}))


def test_the_mean_has_an_interval_where_all_classes_have_one_over_the_same(parts: Path) -> None:
    assert read_joint(parts).intervals == {}, "nothing was confirmed"
    of_classes = {"nut_2": (0.9, 0.86, 0.93), "nut_10": (1.0, 0.88, 1.0), "pill": (0.8, 0.77, 0.84)}
    confirm(parts, **of_classes)
    build_joint_report(parts, read_joint(parts))
    told = json.loads((parts / "metrics.json").read_text())
    assert told["metrics"]["test/image_auroc"] == pytest.approx(0.9)
    mean = told["intervals"].pop("test/image_auroc")
    # (.04, .12, .03) below and (.03, 0, .04) above.
    assert mean["low"] == pytest.approx(0.9 - 0.13 / 3)
    assert mean["high"] == pytest.approx(0.9 + 0.05 / 3)
    assert mean["interval"] == "bootstrap over images and seeds"
    assert {name: each["low"] for name, each in told["intervals"].items()} == {
        f"test/{name.replace('_', ' ')}/image_auroc": low for name, (_, low, _) in of_classes.items()
    }
    line = (
        "95 % intervals of the means on test: image AUROC 0.8567 to 0.9167 (bootstrap over images and seeds)"
    )
    assert line in (parts / "report.html").read_text()
    console = Console(width=200, record=True, file=io.StringIO())
    print_joint(console, read_joint(parts))
    assert line in console.export_text()

    confirm(parts, over="t over seeds", pill=(0.8, 0.77, 0.84))
    assert "test/image_auroc" not in read_joint(parts).intervals, "one of them tells of other seeds only"
    confirm(parts, pill=(0.8, None, None))
    assert set(read_joint(parts).intervals) == {f"test/{name}/image_auroc" for name in CLASSES[:2]}
    build_joint_report(parts, read_joint(parts))
    assert "intervals of the means" not in (parts / "report.html").read_text()


def test_that_there_was_no_test_image_is_said(parts: Path) -> None:
    told = "There is no test image: all figures are on val"
    for before in (True, False):
        console = Console(width=200, record=True, file=io.StringIO())
        print_joint(console, read_joint(parts))
        build_joint_report(parts, read_joint(parts))
        assert (told in console.export_text()) == (told in (parts / "report.html").read_text()) != before
        for path in parts.glob("*/best/metrics.json"):
            record = json.loads(path.read_text())
            metrics = {
                name: value for name, value in record["metrics"].items() if not name.startswith("test/")
            }
            path.write_text(json.dumps({**record, "metrics": metrics}))


def test_a_class_in_which_a_metric_is_undefined_is_neither_in_the_mean_nor_in_its_interval(
    parts: Path,
) -> None:
    confirm(parts, nut_2=(0.9, 0.86, 0.93), nut_10=(1.0, 0.88, 1.0), pill=(None, None, None))
    found = read_joint(parts).intervals["test/image_auroc"]
    assert found.low == pytest.approx(0.95 - np.hypot(0.04, 0.12) / 2)


def test_an_interval_of_a_mean_holds_it_as_often_as_those_of_its_parts() -> None:
    """Means of 20 to 80 draws of skewed distributions, each with the interval of its standard error."""
    rng = np.random.default_rng(0)
    num_draws = (20, 40, 60, 80)
    held = 0
    for _ in range(1000):
        draws = {str(n): rng.exponential(n / 20, size=n) for n in num_draws}
        values = {name: float(each.mean()) for name, each in draws.items()}
        halves = {name: 1.96 * each.std(ddof=1) / len(each) ** 0.5 for name, each in draws.items()}
        interval = mean_interval(
            values, {name: (values[name] - half, values[name] + half) for name, half in halves.items()}
        )
        assert interval is not None
        held += interval[0] <= np.mean(num_draws) / 20 <= interval[1]
    assert 0.9 < held / 1000 < 0.97
    assert mean_interval({}, {}) is None


def test_settings_of_the_classes_stand_side_by_side(parts: Path) -> None:
    for name in CLASSES:
        add_baselines(sweep_folder(parts, name), padim="0")
        path = sweep_folder(parts, name) / "best" / "metrics.json"
        record = json.loads(path.read_text())
        record["baselines"][0]["settings"] = {name: {"smoothing": len(name)}}
        path.write_text(json.dumps(record))
    (padim,) = read_joint(parts).baselines
    assert padim.settings == {name: {"smoothing": len(name)} for name in CLASSES}


def test_a_class_without_a_result_is_named_and_not_in_the_means(parts: Path) -> None:
    write_fake_sweep(sweep_folder(parts, "wood"), num_trials=1, classes=("wood",), with_best=False)
    without = read_joint(parts)
    assert without.missing == ["wood"]
    build_joint_report(parts, read_joint(parts))
    assert "Without a completed trial: wood" in (parts / "report.html").read_text()
    console = Console(width=100, record=True, file=io.StringIO())
    print_joint(console, read_joint(parts))
    assert "without a completed trial: wood; the means are over the others" in console.export_text()


def test_the_report_has_all_classes_and_links_to_theirs(parts: Path) -> None:
    for name in CLASSES:
        add_baselines(sweep_folder(parts, name), padim="0")
    html = build_joint_report(parts, read_joint(parts)).read_text()
    for name in CLASSES:
        assert f'href="{sweep_folder(parts, name).name}/report.html"' in html
    assert "PaDiM (score maximum, smoothing 0)" in html
    assert html.count("data:image/png") == 3 * 2 * len(CLASSES)
    assert "http" not in html.replace("http-equiv", "")
    assert html.count("<caption") == html.count("<table") == 5, "val, test, the sweeps, and PaDiM twice"
    rows = 4 * len(CLASSES) + 3 + 1
    assert html.count('<th scope="row">') == rows, "each class, three means, and what was won over PaDiM"
    assert html.count("<th ") == html.count("<th scope=") == rows + 4 * 8 + 4
    assert "<h2>In short</h2>" in html
    assert "/secret" not in html
    content = json.loads((parts / "metrics.json").read_text())
    assert content["metrics"] == read_joint(parts).metrics
    assert content["classes"]["pill"]["folder"] == "parts-pill"
    assert content["classes"]["pill"]["params"]["model.quantizer"] == "vq"


def test_the_table_of_the_sweeps_is_whole_on_a_narrow_terminal(tmp_path: Path) -> None:
    name = "a class whose name is much longer than others"
    write_fake_sweep(sweep_folder(tmp_path, name), num_trials=1, classes=(name,))
    console = Console(width=60, file=io.StringIO(), record=True)
    print_joint(console, read_joint(tmp_path))
    text = console.export_text()
    assert "…" not in text
    table = text.partition("t0000: ")[0]
    assert "t0000" in table


def test_selected_on_test_is_said(tmp_path: Path) -> None:
    write_fake_sweep(tmp_path / "parts-nut", num_trials=1, classes=("nut",), validation="none")
    assert read_joint(tmp_path).selected_on_test
    write_fake_sweep(tmp_path / "parts-pill", num_trials=1, classes=("pill",))
    assert read_joint(tmp_path).selected_on_test, "where one class is, the mean is"
    assert "Selected on test" in build_joint_report(tmp_path, read_joint(tmp_path)).read_text()


def test_other_folders_are_refused(parts: Path, tmp_path: Path) -> None:
    assert len(class_sweep_folders(parts)) == len(CLASSES)
    assert not class_sweep_folders(sweep_folder(parts, "pill"))
    (parts / "sweep.yaml").touch()
    assert not class_sweep_folders(parts), "a sweep's own folder, whatever lies in it"
    (parts / "sweep.yaml").unlink()
    write_fake_sweep(parts / "again", num_trials=1, classes=("pill",))
    with pytest.raises(InputError, match="again and parts-pill are both of the class 'pill'"):
        read_joint(parts)
    write_fake_sweep(parts / "again2", num_trials=1)
    with pytest.raises(InputError, match=r"again2/sweep\.yaml: data\.classes: is no sweep of one class"):
        read_joint(parts)
