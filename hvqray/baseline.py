"""`python -m hvqray.baseline`: PaDiM and PatchCore on a dataset, or on the data of a sweep, beside its best model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from rich.console import Console

from hvqray.atomic import check_file, make_folder, write_atomically
from hvqray.baselines.measure import BaselineName, BaselineResult, ChosenBaseline, choose
from hvqray.baselines.stored import baseline_results
from hvqray.command_line import DONE, add_cache_option, argument_parser, run_command
from hvqray.config.data_sections import DataConfig
from hvqray.config.metric_names import class_fault, metric_name_fault
from hvqray.config.run_config import absolute_root, load_run_config
from hvqray.data.prepare import prepare_data
from hvqray.data.progress import progress_bar
from hvqray.environment import code_version, gpus_of, hardware
from hvqray.errors import InputError
from hvqray.results.baseline_table import BaselineRecord, print_baselines
from hvqray.results.class_table import class_table
from hvqray.results.html_report import build_html_report
from hvqray.results.joint_report import report_jointly
from hvqray.results.store import hold_sweep
from hvqray.results.stored_trials import class_sweep_folders
from hvqray.results.sweep_folder import read_best, read_description
from hvqray.results.terminal_table import results_table
from hvqray.tuning.against import check_best, class_sweeps_with_best, hold_against
from hvqray.tuning.baseline_records import write_baselines
from hvqray.tuning.baseline_runs import measure_baselines

NAMES: tuple[BaselineName, ...] = get_args(BaselineName)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the baselines, or take another sweep's best model for one, and print a table each; of a sweep, add them to
    best/metrics.json and report.html."""
    parser = argument_parser(
        "baseline",
        "PaDiM and PatchCore, one model a class, on the features and by the metrics of the models; or another sweep's best model.",
    )
    parser.add_argument(
        "source",
        metavar="SWEEP_DIR|CONFIG.yaml",
        type=Path,
        nargs="?",
        help="a sweep's folder (or one of sweeps of one class each), whose best model they are held against, or a run's configuration, whose data they take",
    )
    parser.add_argument(
        "--data",
        metavar="ROOT",
        help="folder of a dataset (default: data.root of the configuration, else the built-in synthetic set)",
    )
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="metric that their settings are chosen by (default: the sweep's, else val/image_auroc)",
    )
    parser.add_argument(
        "--against",
        metavar="SWEEP_DIR",
        type=Path,
        help="hold the sweep's best model against that of another sweep on the same images, in place of PaDiM and PatchCore (default: these)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE.json",
        type=Path,
        help="also write the metrics of all settings on val, and of the chosen ones on test, to FILE.json (default: no file)",
    )
    add_cache_option(parser)
    arguments = parser.parse_args(argv)
    if arguments.out is not None and arguments.out.suffix != ".json":
        raise InputError(f"--out {arguments.out}: must end in .json")
    if arguments.out is not None:
        check_file(arguments.out, option="--out")
    if arguments.source is not None and arguments.source.is_dir():
        if any(value is not None for value in (arguments.data, arguments.out, arguments.metric)):
            raise InputError("--data, --out and --metric do not go with a sweep's folder; leave them out")
        if arguments.against is None:
            _of_sweep(arguments.source, arguments.cache_dir)
        elif arguments.cache_dir is not None:
            raise InputError("--cache-dir does not go with --against, which reads no features; leave it out")
        else:
            hold_against(arguments.source, arguments.against)
        _tell(arguments.source)
    elif arguments.against is not None:
        given = "" if arguments.source is None else f", and {arguments.source} is no folder"
        raise InputError(f"--against holds one sweep against another{given}; give both folders, OUT/NAME")
    else:
        metric = "val/image_auroc" if arguments.metric is None else arguments.metric
        if fault := metric_name_fault(metric):
            raise InputError(fault, field="--metric")
        _of_data(arguments.source, arguments.data, metric, arguments.out, arguments.cache_dir)
    return DONE


def _of_sweep(folder: Path, cache_dir: Path | None) -> None:
    sweeps = [folder]
    if class_sweep_folders(folder):
        sweeps = [one.folder for one in class_sweeps_with_best(folder)]
    for sweep in sweeps:
        objective = next(iter(read_description(sweep).goals.items()))
        check_best(sweep)
        with hold_sweep(sweep):
            with progress_bar() as progress:
                results = measure_baselines(
                    sweep / "best", NAMES, objective, cache_dir=cache_dir, device=_device(), progress=progress
                )
            write_baselines(sweep / "best", results)
            build_html_report(sweep)


def _tell(folder: Path) -> None:
    """Print what the best model won and lost against each of its baselines; of sweeps of one class each what they come to together."""
    console = Console(highlight=False, markup=False, emoji=False)
    if class_sweep_folders(folder):
        sys.stdout.write(f"{report_jointly(console, folder)}\n")
        return
    best = read_best(folder)
    assert best is not None
    mark = " (selected on test)" if best.selected_on_test else ""
    print_baselines(console, *best.held_against_baselines(), best.baselines, mark=mark)
    sys.stdout.write(f"{folder / 'report.html'}\n")


def _of_data(
    source: Path | None, root: str | None, metric: str, out: Path | None, cache_dir: Path | None
) -> None:
    if source is None:
        config = DataConfig(root=None if root is None else absolute_root(root))
    else:
        config = load_run_config(source, data_root=root).data
    console = Console(markup=False, emoji=False)
    with progress_bar() as progress:
        data = prepare_data(config, cache_dir=cache_dir, device=_device(), progress=progress)
        if fault := class_fault(metric, data.context.class_names):
            raise InputError(fault, field=f"--metric {metric}")
        if not len(data.splits["val"]):
            raise InputError(
                "val has no images, by which a baseline's settings are chosen; add test images, or give a CONFIG.yaml in which this is synthetic",
                field="data.validation.from",
            )
        measured: list[BaselineResult] = []
        chosen: list[ChosenBaseline] = []
        for name in NAMES:
            results = baseline_results(name, data, cache_dir=cache_dir, device=_device(), progress=progress)
            measured += results
            chosen.append(choose(results, metric, "maximize"))
    dataset = Path(config.root).resolve().name if config.root else "synthetic"
    on = hardware(gpus_of(_device()))
    mark = " (selected on test)" if data.selected_on_test else ""
    for result in chosen:
        record = BaselineRecord(result.name, dict(result.settings), result.metrics)
        for split in ("val", "test"):
            results_of_split = class_table(result.metrics, split)
            if results_of_split is None:
                console.print(f"There is no image for {split}, so nothing is measured on it.")
                continue
            caption = (
                f"{dataset}, {config.image_size} px, {config.backbone.name}; hvqray {code_version()}, {on}"
            )
            console.print(
                results_table(results_of_split, f"{record.title} on {split}{mark}", caption=caption)
            )
            if results_of_split.note:
                console.print(results_of_split.note, markup=False, highlight=False, soft_wrap=True)
        for line in record.settings_lines():
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if out is not None:
        facts = {
            "dataset": dataset,
            "image_size": config.image_size,
            "backbone": config.backbone.name,
            "selected_on_test": data.selected_on_test,
            "chosen_by": metric,
            "code_version": code_version(),
            "hardware": on,
        }
        content = {**facts, "baselines": [*map(_setting, measured), *map(_chosen, chosen)]}
        make_folder(out.parent, option="--out")
        write_atomically(out, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _setting(result: BaselineResult) -> dict[str, Any]:
    """What is said of one setting: nothing of `test`, lest anybody choose on it."""
    metrics = {name: value for name, value in result.metrics.items() if name.startswith("val/")}
    return {"name": result.name, "settings": result.settings, "metrics": metrics, "chosen": False}


def _chosen(result: ChosenBaseline) -> dict[str, Any]:
    return {"name": result.name, "settings": result.settings, "metrics": result.metrics, "chosen": True}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


if __name__ == "__main__":
    sys.exit(run_command(main))
