"""What the terminal, the report and W&B show of configurations that were confirmed over seeds."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import CLASSES, METRICS, OBJECTIVE, start_of, write_fake_sweep
from rich.console import Console
from wandb_files import new_sink

from hvqray.results import wandb_sink
from hvqray.results.confirm_store import ConfirmStore, read_confirm_runs
from hvqray.results.confirm_table import confirm_table, spread_lines
from hvqray.results.confirmation import (
    ConfirmedConfiguration,
    Spread,
    confirm_record,
    read_confirm_record,
)
from hvqray.results.events import TrialEnd, TrialStart
from hvqray.results.html_report import build_html_report
from hvqray.results.summary import print_summary
from hvqray.results.sweep_folder import read_best
from hvqray.training.epoch_report import EpochReport

SEEDS = (3, 4)


def spread(value: float, metric: str) -> Spread:
    interval: Any = "bootstrap over images and seeds" if metric.startswith("image") else "t over seeds"
    return Spread([value - 0.01, value + 0.01], value, 0.0141, value - 0.05, value + 0.02, interval)


def configuration(trial_id: str, value: float, *, failed: str | None = None) -> ConfirmedConfiguration:
    metrics = {OBJECTIVE: Spread([value, value], value, 0.0)}
    for index, metric in enumerate(METRICS):
        metrics[f"test/{metric}"] = spread(value - 0.001 * index, metric)
        metrics |= {f"test/{name}/{metric}": spread(value - 0.001 * index, metric) for name in CLASSES}
    metrics["test/road/pixel_ap"] = Spread([None, 0.5], None, None)
    return ConfirmedConfiguration(
        trial_id=trial_id,
        seeds=list(SEEDS),
        run_ids=[f"{trial_id}-s{seed}" for seed in SEEDS],
        metrics=metrics,
        failed={f"{trial_id}-s9": failed} if failed else {},
    )


CONFIRMED = [
    replace(
        configuration("t0005", 0.81),
        more={"test/image_auroc": (0.01, 0.11), "test/pixel_auroc": (-0.02, 0.12)},
    ),
    configuration("t0002", 0.87),
    ConfirmedConfiguration("t0001", [], [], {}, {"t0001-s3": "training <diverged>"}),
]


@pytest.fixture(scope="module", params=["test", "none"])
def sweep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose best model is a retraining of t0002, the second best of its search."""
    folder = write_fake_sweep(tmp_path_factory.mktemp("runs") / "one", validation=request.param)
    path = folder / "best" / "metrics.json"
    content = json.loads(path.read_text())
    content |= {"trial_id": "t0002", "run_id": "t0002-s4", "confirm": confirm_record(CONFIRMED)}
    path.write_text(json.dumps(content))
    return folder


def selected_on_test(folder: Path) -> bool:
    return bool(json.loads((folder / "best" / "metrics.json").read_text())["selected_on_test"])


def test_a_record_is_read_back() -> None:
    assert read_confirm_record(json.loads(json.dumps(confirm_record(CONFIRMED)))) == CONFIRMED


def test_a_table_has_a_row_a_class_and_the_mean_last() -> None:
    table = confirm_table(CONFIRMED[0])
    assert [name for name, _ in table.rows] == [*CLASSES, "mean"]
    assert all(len(spreads) == len(METRICS) for _, spreads in table.rows)
    assert table.rows[-1][1][0] == CONFIRMED[0].metrics["test/image_auroc"]
    assert confirm_table(CONFIRMED[2]).rows == []


def test_a_mean_that_misses_a_class_is_noted() -> None:
    """`road` has no pixel AP with the first seed."""
    noted = [note for note in confirm_table(CONFIRMED[0]).notes if "classes" in note]
    assert noted == ["seed 3: mean pixel AP over 3 of 4 classes"]
    metrics = {**CONFIRMED[0].metrics, "test/road/pixel_ap": Spread([None, None], None, None)}
    always = replace(CONFIRMED[0], metrics=metrics)
    noted = [note for note in confirm_table(always).notes if "classes" in note]
    assert noted == ["mean pixel AP over 3 of 4 classes"]


def notes_on_intervals(**intervals: Any) -> list[str]:
    metrics = {
        f"test/{metric}": replace(spread(0.5, metric), interval=each) for metric, each in intervals.items()
    }
    metrics["val/image_auroc"] = Spread([0.5, 0.5], 0.5, 0.0)
    return confirm_table(replace(CONFIRMED[0], metrics=metrics)).notes


def test_what_intervals_say_is_told_of_the_metrics_that_have_them() -> None:
    both = "bootstrap over images and seeds"
    assert notes_on_intervals(image_auroc=both, image_ap=both, pixel_aupro=both) == [
        "Intervals of image and pixel metrics: bootstrap over test images and seeds."
    ]
    assert notes_on_intervals(image_auroc=both, pixel_auroc="t over seeds") == [
        "Intervals of image metrics: bootstrap over test images and seeds.",
        "Intervals of pixel metrics: Student's t over the seeds; they say nothing of other images.",
    ]
    assert notes_on_intervals(image_auroc=None, pixel_auroc="bootstrap over images") == [
        "Intervals of pixel metrics: bootstrap over test images; one seed says nothing of others."
    ]


def test_the_joint_metric_is_told_of_each_configuration() -> None:
    both = "bootstrap over images and seeds"
    assert notes_on_intervals(image_auroc=both, pixel_auroc="t over seeds", mad="t over seeds") == [
        "t0005: mean mAD on test 0.5000 ± 0.0141, 0.4500 to 0.5200.",
        "Intervals of image metrics: bootstrap over test images and seeds.",
        "Intervals of pixel metrics and mAD: Student's t over the seeds; they say nothing of other images.",
    ]


@pytest.mark.parametrize(
    ("shown", "lines"),
    [
        (Spread([0.5, 0.7], 0.6, 0.1414, 0.4, 0.9, "t over seeds"), ["0.6000 ± 0.1414", "0.4000 to 0.9000"]),
        (Spread([0.5, 0.5], 0.5, 0.00009), ["0.5000 ± 0.0001"]),
        (Spread([0.5], 0.5, None), ["0.5000"]),
        (Spread([None], None, None), ["-"]),
        (None, ["-"]),
    ],
)
def test_a_spread_in_words(shown: Spread | None, lines: list[str]) -> None:
    assert spread_lines(shown) == lines


def test_the_terminal_shows_all_configurations_and_the_best_one_per_class_in_80_columns(sweep: Path) -> None:
    out = io.StringIO()
    print_summary(Console(file=out, width=80), sweep)
    text = out.getvalue()
    mark = " (selected on test)" if selected_on_test(sweep) else ""
    assert f"t0002-s4 on val{mark}" in text
    (overview,) = re.findall(r"Confirmed on test.*?t0001 [^\n]*\n", text, flags=re.DOTALL)
    assert mark in overview
    assert re.search(r"t0005 +0\.8100 ± 0\.0000 +0\.8100 ± 0\.0141 +0\.8070 ± 0\.0141 +3, 4", overview)
    assert re.search(r"t0001 +- +- +- +all failed", overview)
    per_class = text.partition(f"t0002 confirmed on test{mark}")[2]
    for name in (*CLASSES, "mean"):
        assert re.search(rf"{name} +0\.8700 ± 0\.0141 +0\.8670 ± 0\.0141", per_class)
    assert per_class.count("0.8200 to 0.8900") == len(CLASSES) + 1
    assert "t over the seeds; they say nothing of other images" in text
    assert "t0001-s3 failed: training <diverged>" in text
    figures = per_class.partition("t0002 against")[0]
    table_lines = [line for line in figures.splitlines() if "±" in line or " to " in line]
    assert all(len(line) <= 80 for line in table_lines)


def test_what_the_best_configuration_has_more_is_told_of_those_that_it_was_compared_with(sweep: Path) -> None:
    out = io.StringIO()
    print_summary(Console(file=out, width=80), sweep)
    compared = [line for line in out.getvalue().splitlines() if line.startswith("t0002 against ")]
    mark = " (selected on test)" if selected_on_test(sweep) else ""
    assert len(compared) == 1
    assert compared[0].startswith(
        "t0002 against t0005: image AUROC won by 0.0600 (95 %: +0.0100 to +0.1100), "
        "pixel AUROC +0.0600 (95 %: -0.0200 to +0.1200, not decided), "
    )
    assert compared[0].endswith(f"(test, mean over the classes){mark}")
    html = build_html_report(sweep).read_text()
    (section,) = re.findall(r'<section id="confirmed">(.*?)</section>', html, flags=re.DOTALL)
    table = section.partition("What the configuration of trial t0002 has more or less")[2]
    assert '<th scope="row">t0005</th>' in table
    assert "t0001" not in table
    assert '<span class="won">+0.0600</span><br><span class="interval">+0.0100 to +0.1100</span>' in table
    assert '<span class="open">+0.0600</span><br><span class="interval">-0.0200 to +0.1200</span>' in table


def test_no_figure_of_a_confirmation_is_cut_in_60_columns(sweep: Path) -> None:
    out = io.StringIO()
    print_summary(Console(file=out, width=60), sweep)
    text = out.getvalue()
    assert "…" not in text
    overview, _, per_class = text.partition("Confirmed on test")[2].partition("t0002 confirmed on test")
    for figure in ("0.8100 ± 0.0000", "0.8100 ± 0.0141", "0.7600 to 0.8300", "0.8070 ± 0.0141", " 3, 4"):
        assert figure in overview
    for figure in ("0.8700 ± 0.0141", "0.8200 to 0.8900", "0.8670 ± 0.0141", "0.8640 ± 0.0141"):
        assert per_class.count(figure) == len(CLASSES) + 1


def test_the_report_has_a_table_a_configuration(sweep: Path) -> None:
    html = build_html_report(sweep).read_text()
    (section,) = re.findall(r'<section id="confirmed">(.*?)</section>', html, flags=re.DOTALL)
    assert section.count("<table") == 3
    assert (
        section.count('0.8700 ± 0.0141<br><span class="interval">0.8200 to 0.8900</span>') == len(CLASSES) + 1
    )
    assert "Trial t0002, seeds 3, 4; val/image_auroc 0.8700" in section
    assert "t0001-s3 failed: training &lt;diverged&gt;" in section
    assert ("selected on test" in section) is selected_on_test(sweep)
    assert "retrained as t0002-s4" in html


def test_a_report_without_confirmation_says_nothing_of_it(tmp_path: Path) -> None:
    assert 'id="confirmed"' not in build_html_report(write_fake_sweep(tmp_path / "one")).read_text()


def without_test(configuration: ConfirmedConfiguration) -> ConfirmedConfiguration:
    """As of a dataset that has no test image."""
    metrics = {
        name.replace("test/", "val/"): replace(each, low=None, high=None, interval=None)
        for name, each in configuration.metrics.items()
    }
    return replace(configuration, metrics=metrics, more={})


def test_without_test_images_the_confirmation_is_of_val_and_says_so(tmp_path: Path) -> None:
    folder = write_fake_sweep(tmp_path / "one")
    path = folder / "best" / "metrics.json"
    content = json.loads(path.read_text())
    confirmed = confirm_record([without_test(each) for each in CONFIRMED])
    content |= {"trial_id": "t0002", "run_id": "t0002-s4", "confirm": confirmed}
    content["metrics"] = {
        name: value for name, value in content["metrics"].items() if not name.startswith("test/")
    }
    path.write_text(json.dumps(content))
    out = io.StringIO()
    print_summary(Console(file=out, width=100), folder)
    assert re.search(r"Confirmed on val: mean ± std over seeds *\n", out.getvalue())
    assert re.search(r"t0005 +0\.8100 ± 0\.0141 +0\.8100 ± 0\.0141 +0\.8070 ± 0\.0141", out.getvalue())
    per_class = out.getvalue().partition("t0002 confirmed on val")[2]
    assert re.search(r"road +0\.8700 ± 0\.0141 +0\.8670 ± 0\.0141", per_class)
    assert "seed 3: mean pixel AP over 3 of 4 classes" in out.getvalue()
    html = build_html_report(folder).read_text()
    (section,) = re.findall(r'<section id="confirmed">(.*?)</section>', html, flags=re.DOTALL)
    assert section.count("0.8700 ± 0.0141") == len(CLASSES) + 2
    assert "on val" in section
    for text in (out.getvalue(), section, html.partition("<footer")[2]):
        assert "on test" not in text


def test_one_seed_is_named_where_it_stands_for_the_mean(sweep: Path) -> None:
    best = read_best(sweep)
    assert best is not None
    assert best.held_against_baselines()[0] == "t0002 (mean over 2 seeds)"
    (one,) = (each for each in best.confirmed if each.trial_id == "t0002")
    alone = replace(best, confirmed=[replace(one, seeds=[4], run_ids=["t0002-s4"])])
    assert alone.held_against_baselines()[0] == "t0002 (seed 4)"


def start(run_id: str, *, confirms: str | None = "t0002") -> TrialStart:
    return TrialStart(run_id, 2, {"train.seed": 3}, start_of(2).config, "hash", 3, confirms=confirms)


def test_the_journal_of_the_runs_keeps_them_apart_from_the_trials(tmp_path: Path) -> None:
    store = ConfirmStore(tmp_path, code_version="1.0")
    store.on_trial_start(start("t0002-s3"))
    store.on_epoch("t0002-s3", EpochReport(1, 2, {OBJECTIVE: 0.5}, 1.0))
    store.close()
    assert read_confirm_runs(tmp_path) == {}
    store = ConfirmStore(tmp_path, code_version="1.1")
    store.on_trial_start(start("t0002-s3"))
    store.on_trial_end(TrialEnd("t0002-s3", "COMPLETE", {OBJECTIVE: 0.75}, 2, 4.0))
    store.close()
    (run,) = read_confirm_runs(tmp_path).values()
    assert (run.trial_id, run.seed, run.metrics, run.code_version) == (
        "t0002-s3",
        3,
        {OBJECTIVE: 0.75},
        "1.1",
    )
    assert {path.name for path in tmp_path.iterdir()} == {".state"}


class Run:
    """Stands for a W&B run."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings, self.summary, self.finished = settings, {}, None

    def define_metric(self, *names: Any, **more: Any) -> None: ...

    def log(self, content: Any) -> None: ...

    def finish(self, exit_code: int) -> None:
        self.finished = exit_code


def test_retraining_runs_are_tagged_and_get_their_own_results_on_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: dict[str, Run] = {}

    def init(**settings: Any) -> Run:
        assert settings["name"] not in runs, "no run is opened twice"
        return runs.setdefault(settings["name"], Run(settings))

    monkeypatch.setattr(wandb_sink.wandb, "init", init)
    said: list[str] = []
    sink = new_sink(tmp_path, said)
    sink.on_trial_start(start("t0002", confirms=None))
    sink.on_trial_end(TrialEnd("t0002", "COMPLETE", {OBJECTIVE: 0.5}, 2, 4.0))
    for run_id, state in (("t0002-s3", "COMPLETE"), ("t0002-s4", "COMPLETE"), ("t0002-s9", "FAIL")):
        sink.on_trial_start(start(run_id))
        sink.on_trial_end(TrialEnd(run_id, state, {OBJECTIVE: 0.6}, 2, 4.0, error="no"))  # type: ignore[arg-type]
    sink.log_confirmed(CONFIRMED)
    sink.close()
    assert said == []
    assert {name: run.settings["tags"] for name, run in runs.items()} == {
        "t0002": ["search"],
        "t0002-s3": ["confirm", "t0002"],
        "t0002-s4": ["confirm", "t0002"],
        "t0002-s9": ["confirm", "t0002"],
    }
    found = {name: run.summary.get("test/image_auroc") for name, run in runs.items()}
    assert found == pytest.approx({"t0002": None, "t0002-s3": 0.86, "t0002-s4": 0.88, "t0002-s9": None})
    assert {name: run.finished for name, run in runs.items()} == {
        "t0002": 0,
        "t0002-s3": 0,
        "t0002-s4": 0,
        "t0002-s9": 1,
    }
