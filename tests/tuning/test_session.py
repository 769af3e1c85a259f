"""A sweep from its checks to its report, with the search itself left out; whole sweeps run in their own tests."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow.parquet as pq
import pytest
from fake_sweep import play, start_of
from rich.console import Console
from small_images import write_space

from hvqray import environment
from hvqray.config.data_sections import DataConfig
from hvqray.config.sweep_file import load_sweep
from hvqray.data.dataset import PreparedData
from hvqray.data.prepare import prepare_data
from hvqray.errors import InputError
from hvqray.results.confirm_store import read_confirm_runs
from hvqray.results.confirmation import ConfirmedConfiguration, Spread
from hvqray.results.events import TrialEnd, TrialStart
from hvqray.results.store import SweepStore
from hvqray.results.stored_trials import read_trials
from hvqray.training.checkpoint import MODEL_FILE, trial_folder
from hvqray.tuning import baseline_runs, confirm, runner, session, sweep_data
from hvqray.tuning.measured import measured_folder
from hvqray.tuning.resources import TrialResources
from hvqray.tuning.runner import run_search
from hvqray.tuning.session import SweepOptions, SweepSession
from hvqray.tuning.tune_run import SearchPlan

CLASSES = ("bolt", "cloth")
RESOURCES = TrialResources(workers=1, cpus_per_worker=1.0, gpus_per_worker=0.0, max_concurrent_trials=2)


@pytest.fixture
def images(small_images: Path) -> Path:
    return small_images


@pytest.fixture
def cache(shared_cache: Path) -> Path:
    return shared_cache


class Search:
    """Stands for the search and what follows: plays trials of given numbers, and writes down what is installed."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers
        self.plan: SearchPlan | None = None
        self.installed: list[tuple[str, str]] = []
        self.measured: list[str] = []

    def run(self, sweep: Any, plan: SearchPlan, store: SweepStore, listeners: Any) -> None:
        self.plan = plan
        for number in self._numbers:
            for listener in (store, *listeners):
                play(listener, number, classes=CLASSES)

    def measure(self, folder: Path, run_ids: Sequence[str], **options: Any) -> None:
        with pytest.raises(InputError, match="another process is running this sweep"):
            SweepStore(folder, resume=True, selected_on_test=False)
        self.measured += run_ids

    def install(self, folder: Path, trial_id: str, run_id: str, confirmed: Any, *, baselines: Any) -> None:
        self.installed.append((trial_id, run_id))


def begin(
    tmp_path: Path,
    images: Path,
    cache: Path,
    search: Search,
    monkeypatch: pytest.MonkeyPatch,
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
) -> SweepSession:
    monkeypatch.setattr(session, "run_search", search.run)
    monkeypatch.setattr(session, "measure_runs", search.measure)
    monkeypatch.setattr(session, "install_best", search.install)
    sweep = load_sweep(write_space(tmp_path), overrides, data_root=str(images))
    options = SweepOptions(
        out=tmp_path / "runs", resume=resume, wandb="disabled", time_budget_s=60.0, cache_dir=cache
    )
    return SweepSession(sweep, options, [{"CPU": 2.0}], Console(file=io.StringIO(), width=120))


def output_of(one: SweepSession) -> str:
    assert isinstance(one.console.file, io.StringIO)
    return one.console.file.getvalue()


def test_a_sweep_ends_with_its_best_trial_and_a_report(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(0, 1, 2)
    one = begin(tmp_path, images, cache, search, monkeypatch)
    assert one.run()
    assert search.installed == [("t0002", "t0002")]
    assert search.measured == ["t0002"]
    assert search.plan is not None
    assert (search.plan.num_trials, search.plan.time_budget_s) == (3, 60.0)
    assert search.plan.resources.max_concurrent_trials == 2
    assert {"sweep.yaml", "trials.parquet", "metrics.parquet", "report.html"} <= {
        path.name for path in one.folder.iterdir()
    }
    output = output_of(one)
    assert "3 trials; 2 trials at once, each 1 worker with 1 CPU" in output
    assert "measuring the best trial, t0002, on test" in output
    assert f"report: {one.folder / 'report.html'}" in output


def test_fixed_fields_that_hold_with_the_parameters_only(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """98 pixels are no multiple of the default backbone's 16, nor are maps measured at the end those of the best epoch."""
    prepared: list[tuple[str, bool]] = []

    def prepare(config: DataConfig, **options: Any) -> PreparedData:
        prepared.append((config.backbone.name, options["remarks"]))
        values = {"image_size": 64, "backbone": {"weights": "random", "strides": [8, 16]}}
        return prepare_data(DataConfig.model_validate({"root": config.root, **values}), **options)

    monkeypatch.setattr(sweep_data, "prepare_data", prepare)
    overrides = [
        "data.image_size=98",
        "parameters.data.backbone.name={values: [vit_small_patch14_dinov2, vit_small_patch14_reg4_dinov2]}",
        "data.backbone.weights=random",
        "train.pixel_metrics=last",
        "parameters.train.checkpoint={value: last}",
        "parameters.train.seed={value: 3}",
    ]
    search = Search(0)
    assert begin(tmp_path, images, cache, search, monkeypatch, overrides=overrides).run()
    assert prepared == [("vit_small_patch14_dinov2", True), ("vit_small_patch14_reg4_dinov2", False)], (
        "no default one"
    )
    assert search.plan is not None
    assert search.plan.seed == 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            ["parameters.data.backbone.name={values: [resnet18, resnet99]}"],
            "data.backbone.name: timm has no backbone 'resnet99'",
        ),
        (
            ["parameters.data.backbone.weights={values: [random, none.pth]}", "data.backbone.name=resnet18"],
            "none.pth does not exist",
        ),
    ],
)
def test_a_backbone_that_only_some_trials_would_have_is_refused_before_the_first(
    tmp_path: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: list[str],
    told: str,
) -> None:
    search = Search(0)
    one = begin(
        tmp_path,
        images,
        tmp_path / "cache",
        search,
        monkeypatch,
        overrides=["data.backbone.weights=random", *changes],
    )
    with pytest.raises(InputError, match=re.escape(told)):
        one.run()
    assert search.plan is None
    assert not one.folder.exists()
    assert not list(tmp_path.glob("cache/features-*")), "no work is done for a search that is refused"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.classes=[pipe]", "pipe"),
        ("data.validation={from: test, group: '(none)'}", "data.validation.group"),
    ],
)
def test_data_at_fault_are_told_before_any_backbone_of_a_search_is_built(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, change: str, told: str
) -> None:
    overrides = [
        "data.backbone.weights=random",
        "parameters.data.backbone.name={values: [resnet18, resnet34]}",
        change,
    ]
    one = begin(tmp_path, images, tmp_path / "cache", Search(0), monkeypatch, overrides=overrides)
    with pytest.raises(InputError, match=re.escape(told)):
        one.run()
    assert "checking backbones" not in output_of(one)


def test_features_of_what_is_searched_are_computed_ahead_but_for_more_than_there_are_trials(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entries(number: int, *, dry: bool = False) -> int:
        cache = tmp_path / f"cache{number}{dry}"
        overrides = [
            "data.backbone.weights=random",
            "data.backbone.name=resnet18",
            "parameters.data.backbone.grid_stride={values: [32, 16, 8]}",
            f"run_cap={number}",
            f"name=of{number}",
        ]
        one = begin(tmp_path, images, cache, Search(0), monkeypatch, overrides=overrides)
        if dry:
            one.describe()
        else:
            assert one.run()
        assert "checking backbones (2)\nchecking backbones: done\n" in output_of(one), "it can take minutes"
        return len(list(cache.glob("features-*")))

    assert entries(3) == 3
    assert entries(2) == 1
    assert entries(3, dry=True) == 1


def test_example_maps_go_when_wandb_has_read_them(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = begin(tmp_path, images, cache, Search(0, 1), monkeypatch)
    maps = [trial_folder(one.folder, trial_id) / "maps" for trial_id in ("t0000", "t0001")]
    for each in maps:
        each.mkdir(parents=True)
    (maps[1].parent / MODEL_FILE).write_bytes(b"weights")
    found: list[bool] = []
    sink = Mock(close=lambda **_: found.extend(each.exists() for each in maps))
    monkeypatch.setattr(one, "_wandb_sink", lambda *_: sink)
    assert one.run()
    assert found == [True, True]
    assert [each.exists() for each in maps] == [False, True]


def test_a_best_model_without_a_quantizer_is_not_trained_again_without_one(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*arguments: Any, **options: Any) -> ConfirmedConfiguration:
        trained.append(arguments)
        return without

    without = ConfirmedConfiguration("t0002-no-quantizer", [], [], {}, {"t0002-no-quantizer": "it diverged"})
    trained: list[Any] = []
    monkeypatch.setattr(baseline_runs, "measure_baselines", lambda *arguments, **options: [])
    monkeypatch.setattr(baseline_runs, "write_baselines", lambda *arguments: None)
    monkeypatch.setattr(baseline_runs, "train_without_quantizer", train)
    for quantizer, times in (("none", 0), ("fsq", 1)):
        (tmp_path / quantizer).mkdir()
        config = {"model": {"name": "hvq", "quantizer": quantizer}}
        start = TrialStart("t0002", 2, {}, config, "hash", seed=0)
        monkeypatch.setattr(baseline_runs, "read_starts", lambda folder, start=start: {"t0002": start})
        one = begin(
            tmp_path / quantizer,
            images,
            cache,
            Search(2),
            monkeypatch,
            overrides=["baselines=[no_quantizer]"],
        )
        sink = Mock()
        monkeypatch.setattr(one, "_wandb_sink", lambda *_, sink=sink: sink)
        assert one.run()
        assert len(trained) == times
        told_wandb = [call.args[0] for call in sink.log_confirmed.call_args_list]
        assert told_wandb == [[without]] * times, "W&B is given the results of the runs"
        assert ("t0002 has no quantiser" in output_of(one)) == (quantizer == "none")
        told = (
            "t0002-no-quantizer failed, so there is nothing without a quantiser to compare with: it diverged"
        )
        assert (told in output_of(one)) == bool(times)


def test_without_a_completed_trial_it_says_no_and_still_reports(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(3, 4)  # pruned, failed
    one = begin(tmp_path, images, cache, search, monkeypatch)
    assert not one.run()
    assert search.installed == []
    assert (one.folder / "report.html").is_file()


def test_an_interrupted_search_leaves_finished_trials_and_can_be_resumed(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Search(0)
    one = begin(tmp_path, images, cache, search, monkeypatch)

    def interrupted(*arguments: Any) -> None:
        search.run(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "run_search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert [trial.trial_id for trial in read_trials(one.folder)] == ["t0000"]
    again = begin(tmp_path, images, cache, Search(1), monkeypatch, resume=True)
    assert again.run()
    assert [trial.trial_id for trial in read_trials(one.folder)] == ["t0000", "t0001"]


@pytest.mark.parametrize(
    ("run_cap", "told"),
    [
        (3, "time is over; --resume goes on with what was cut off: t0001\n"),
        (
            1,
            "the number of trials, 1, is reached; --resume with a larger --num-trials goes on with what was cut off: t0001\n",
        ),
    ],
)
def test_why_trials_were_cut_off_is_said(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, run_cap: int, told: str
) -> None:
    search = Search(0)
    one = begin(tmp_path, images, cache, search, monkeypatch, overrides=[f"run_cap={run_cap}"])

    def cut_off(sweep: Any, plan: SearchPlan, store: SweepStore, listeners: Any) -> None:
        search.run(sweep, plan, store, listeners)
        store.on_trial_start(start_of(1))

    monkeypatch.setattr(session, "run_search", cut_off)
    assert one.run()
    assert told in output_of(one)


def test_a_second_sweep_that_is_refused_leaves_the_first_ones_file(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were checked before either began, which takes as long as Ray's start and the cache."""
    search = Search(0)
    first = begin(tmp_path, images, cache, search, monkeypatch)
    second = begin(tmp_path, images, cache, search, monkeypatch, overrides=["train.epochs=7"])
    refused: list[str] = []

    def while_it_runs(*arguments: Any) -> None:
        search.run(*arguments)
        monkeypatch.setattr(session, "run_search", search.run)
        with pytest.raises(InputError) as error:
            second.run()
        refused.append(str(error.value))

    monkeypatch.setattr(session, "run_search", while_it_runs)
    assert first.run()
    assert "another process is running this sweep" in refused[0]
    assert (first.folder / "sweep.yaml").read_text() == first.sweep.to_yaml() != second.sweep.to_yaml()


@pytest.mark.parametrize("error", [InputError("is another folder"), KeyboardInterrupt()])
def test_a_folder_that_nodes_do_not_share_is_not_left(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    one = begin(tmp_path, images, cache, Search(), monkeypatch)
    data = one._prepare(1)
    monkeypatch.setattr(one, "_prepare", lambda most_ahead: data)
    one.nodes = [{"CPU": 2.0}, {"CPU": 2.0}]
    monkeypatch.setattr(session, "check_shared", Mock(side_effect=error))
    with pytest.raises(type(error)):
        one.run()
    assert not (tmp_path / "runs").exists()
    one.folder.mkdir(parents=True)
    with pytest.raises(type(error)):
        one.run()
    assert one.folder.exists(), "it was there before"


def test_choosing_on_test_is_said(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = begin(tmp_path, images, cache, Search(0), monkeypatch, overrides=["data.validation.from=none"])
    one.describe()
    assert "selected on test: data.validation.from is none" in output_of(one)
    one.run()
    assert output_of(one).count("selected on test: data.validation.from is none") == 2
    assert json.loads(pq.read_schema(one.folder / "trials.parquet").metadata[b"hvqray.selected_on_test"])


class Retraining:
    """Stands for the retraining runs: plays each, those of given ids failing."""

    def __init__(self, *failing: str) -> None:
        self._failing = failing
        self.trained: list[str] = []

    def run(self, sweep: Any, plan: SearchPlan, starts: Any, store: Any, listeners: Any) -> None:
        ended = read_confirm_runs(plan.folder)
        for start in (start for start in starts if start.trial_id not in ended):
            self.trained.append(start.trial_id)
            state: Any = "FAIL" if start.trial_id in self._failing else "COMPLETE"
            # The second best configuration of the search turns out to be the better one.
            metrics = {"val/image_auroc": 0.5 + 0.1 * start.seed - 0.01 * start.number}
            for listener in (store, *listeners):
                listener.on_trial_start(start)
                listener.on_trial_end(TrialEnd(start.trial_id, state, metrics, 2, 1.0, error="it diverged"))


def confirming(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, *failing: str
) -> tuple[SweepSession, Search, Retraining]:
    """A sweep whose search and retraining are played, and whose test images are not looked at."""
    search, retraining = Search(0, 1, 2), Retraining(*failing)
    overrides = ["confirm.top_k=2", "confirm.seeds=[1, 2]"]
    one = begin(tmp_path, images, cache, search, monkeypatch, overrides=overrides)
    monkeypatch.setattr(session, "run_confirmation", retraining.run)
    monkeypatch.setattr(confirm, "_with_seed", lambda start, seed: retrained(start, seed))
    monkeypatch.setattr(session, "confirmed_configuration", played_configuration)
    return one, search, retraining


def retrained(start: TrialStart, seed: int) -> TrialStart:
    return replace(
        start,
        trial_id=f"{start.trial_id}-s{seed}",
        seed=seed,
        confirms=start.trial_id,
        config_hash=f"{start.trial_id} {seed}",
    )


def played_configuration(folder: Path, trial_id: str, starts: Sequence[TrialStart]) -> ConfirmedConfiguration:
    runs = read_confirm_runs(folder)
    ended = [runs[start.trial_id] for start in starts]
    complete = [run for run in ended if run.state == "COMPLETE"]
    values = [run.metrics["val/image_auroc"] for run in complete]
    return ConfirmedConfiguration(
        trial_id=trial_id,
        seeds=[run.seed for run in complete],
        run_ids=[run.trial_id for run in complete],
        metrics={"val/image_auroc": Spread(values, sum(map(float, values)) / len(values), 0.1)},
        failed={run.trial_id: run.error or "" for run in ended if run.state == "FAIL"},
    )


def test_the_best_configurations_are_retrained_and_the_best_of_them_is_installed(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, search, retraining = confirming(tmp_path, images, cache, monkeypatch)
    assert one.run()
    runs = ["t0002-s1", "t0002-s2", "t0000-s1", "t0000-s2"]
    assert retraining.trained == search.measured == runs
    assert search.installed == [("t0000", "t0000-s2")]
    assert [trial.trial_id for trial in read_trials(one.folder)] == ["t0000", "t0001", "t0002"]
    output = output_of(one)
    assert "3 trials, then the 2 best configurations over 2 seeds" in output
    assert "confirming t0002, t0000 with seeds 1, 2: 4 runs" in output
    assert "4/4 runs ended" in output
    assert "measuring 4 runs on test" in output


def test_a_trial_that_stands_for_a_run_is_not_trained_again(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_over(
        folder: Path, runs: Sequence[TrialStart], listeners: Any, *, code_version: str
    ) -> dict[str, str]:
        asked.append((folder, code_version))
        for listener in listeners:
            listener.on_trial_start(runs[0])
            listener.on_trial_end(TrialEnd(runs[0].trial_id, "COMPLETE", {"val/image_auroc": 0.9}, 2, 1.0))
        return {runs[0].trial_id: "t0002"}

    asked: list[tuple[Path, str]] = []
    one, search, retraining = confirming(tmp_path, images, cache, monkeypatch)
    monkeypatch.setattr(session, "take_over", take_over)
    sink = Mock()
    monkeypatch.setattr(one, "_wandb_sink", lambda *_: sink)
    assert one.run()
    assert asked == [(one.folder, environment.code_version())]
    assert "t0002-s1 is t0002, which was trained with this seed" in output_of(one)
    assert "4/4 runs ended" in output_of(one)
    assert retraining.trained == ["t0002-s2", "t0000-s1", "t0000-s2"]
    assert search.measured == ["t0002-s1", *retraining.trained]
    assert sink.on_trial_end.call_args_list[3].args[0].trial_id == "t0002-s1", "after the search's three"


def test_runs_that_were_measured_are_not_measured_again(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, search, _ = confirming(tmp_path, images, cache, monkeypatch)
    for run_id in ("t0002-s1", "t0002-s2", "t0000-s1"):
        measured_folder(one.folder, run_id).mkdir(parents=True)
    assert one.run()
    assert search.measured == ["t0000-s2"]
    assert "measuring 1 run on test" in output_of(one)


def test_where_no_configuration_is_confirmed_the_best_trial_counts(
    tmp_path: Path, images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, search, _ = confirming(tmp_path, images, cache, monkeypatch, "t0002-s1", "t0000-s2")
    assert one.run()
    assert search.measured == ["t0002-s2", "t0000-s1", "t0002"]
    assert search.installed == [("t0002", "t0002")]
    assert "no configuration was trained on all seeds, so the best trial of the search counts" in output_of(
        one
    )


@pytest.mark.parametrize(
    ("failing", "of", "seeds"), [((), "t0000", [1, 2]), (("t0002-s1", "t0000-s2"), "t0002", None)]
)
def test_without_a_quantizer_it_is_trained_with_the_seeds_of_what_it_is_held_against(
    tmp_path: Path,
    images: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    failing: Sequence[str],
    of: str,
    seeds: list[int] | None,
) -> None:
    asked: list[tuple[str, list[int] | None]] = []

    def train(
        sweep: Any, plan: Any, trial_id: str, *, seeds: list[int] | None, **options: Any
    ) -> ConfirmedConfiguration:
        asked.append((trial_id, seeds))
        return ConfirmedConfiguration("none", [], [], {}, {"none": "it diverged"})

    one, _, _ = confirming(tmp_path, images, cache, monkeypatch, *failing)
    one.sweep = one.sweep.model_copy(update={"baselines": ["no_quantizer"]})
    start = TrialStart(of, 0, {}, {"model": {"quantizer": "vq"}}, "hash", seed=0)
    monkeypatch.setattr(baseline_runs, "read_starts", lambda folder: {of: start})
    monkeypatch.setattr(baseline_runs, "measure_baselines", lambda *arguments, **options: [])
    monkeypatch.setattr(baseline_runs, "write_baselines", lambda *arguments: None)
    monkeypatch.setattr(baseline_runs, "train_without_quantizer", train)
    assert one.run()
    assert asked == [(of, seeds)]


@pytest.mark.parametrize("num_trials", [1, 2, 3])
def test_a_resumed_sweep_with_enough_trials_runs_no_more(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, num_trials: int
) -> None:
    def started(*arguments: Any, **options: Any) -> None:
        raise AssertionError("more trials than asked for")

    monkeypatch.setattr(runner, "run_on_tune", started)
    sweep = load_sweep(write_space(tmp_path), data_root=str(images))
    folder = tmp_path / "runs" / "small"
    store = SweepStore(folder, resume=False, selected_on_test=False)
    for number in range(3):
        play(store, number, classes=CLASSES)
    plan = SearchPlan(folder, num_trials, RESOURCES, None, None, seed=0)
    run_search(sweep, plan, store, [])
    store.close()
    assert len(read_trials(folder)) == 3


def test_what_the_data_tell_of_a_trial_s_memory_bounds_how_many_run_at_once(
    tmp_path: Path, images: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = []
    for number, override in enumerate(["max_concurrent_trials=auto", "max_concurrent_trials=2"]):
        (tmp_path / str(number)).mkdir()
        space = write_space(tmp_path / str(number))
        sweep = load_sweep(space, [f"resources.{override}"], data_root=str(images))
        options = SweepOptions(out=tmp_path / "runs", wandb="disabled", cache_dir=cache)
        nodes = [{"CPU": 2.0, "memory": 2e9}]
        one = SweepSession(sweep, options, nodes, Console(file=io.StringIO(), width=200))
        one.describe()
        told.append(output_of(one))
    assert "3 trials; 1 trial at once, each 1 worker with 1 CPU and 1.1 GB of memory" in told[0]
    assert "3 trials; 2 trials at once, each 1 worker with 1 CPU\n" in told[1]
    idle, warning = caplog.messages
    assert idle.startswith(
        "resources.cpus_per_worker: memory holds 1 trial at once, so 1 of 2 cores stay idle; 2 would"
    )
    assert warning.startswith("resources.max_concurrent_trials: 2 at once may not fit into memory")
