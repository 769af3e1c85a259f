"""`python -m hvqray.train CONFIG.yaml`: one run of one configuration, or a sweep's trial again."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from hvqray.command_line import (
    DONE,
    FAILED,
    add_cache_option,
    add_set_option,
    argument_parser,
    print_error,
    run_command,
)
from hvqray.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from hvqray.config.sections import RunConfig
    from hvqray.training.epoch_report import EpochReport
    from hvqray.training.selection import Selection


logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code. Raises InputError for what the user can mend."""
    parser = argument_parser(
        "train", "Train one configuration in this process; the checkpoint goes to --out."
    )
    parser.add_argument(
        "config",
        metavar="CONFIG.yaml",
        nargs="?",
        help="sections model, data, train and resources of one run",
    )
    parser.add_argument(
        "--trial",
        metavar="SWEEP_DIR:TRIAL_ID",
        help="repeat a sweep's trial, such as runs/fsq:t0003, or its retraining, such as runs/fsq:t0003-s1 (default: none)",
    )
    parser.add_argument(
        "--data", metavar="ROOT", help="folder of the dataset (default: data.root of the configuration)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        default="runs/train",
        help="folder of the checkpoint; a run interrupted there goes on, a finished one is not trained again",
    )
    add_set_option(parser)
    parser.add_argument(
        "--metric",
        metavar="NAME",
        help="metric by which the epoch is chosen (default: the trial's, else val/image_auroc)",
    )
    parser.add_argument("--test", action="store_true", help="measure the chosen epoch on test when done")
    add_cache_option(parser)
    arguments = parser.parse_args(argv)
    if (arguments.config is None) == (arguments.trial is None):
        raise InputError("give either CONFIG.yaml or --trial SWEEP_DIR:TRIAL_ID")

    import torch

    from hvqray.config.metric_names import metric_name_fault
    from hvqray.training.selection import Selection

    if arguments.metric is not None and (fault := metric_name_fault(arguments.metric)):
        raise InputError(fault, field="--metric")
    selection = Selection(arguments.metric or "val/image_auroc")
    if arguments.trial is not None:
        config, selection = _config_of_trial(
            arguments.trial, arguments.overrides, arguments.data, arguments.metric
        )
        if config.resources.cpus_per_worker == "auto":
            # As in a sweep on CPUs: with other threads sums would differ in their last bits.
            torch.set_num_threads(1)
    else:
        from hvqray.config.run_config import load_run_config

        config = load_run_config(arguments.config, arguments.overrides, arguments.data, by_hand=True)
    try:
        _train(config, Path(arguments.out), selection, arguments.cache_dir, test=arguments.test)
    except FloatingPointError as error:  # the loss; no fault of the program, nor one to be seen beforehand
        print_error(f"{error}; lower train.lr, or set train.gradient_clip")
        return FAILED
    return DONE


def _config_of_trial(
    trial: str, overrides: list[str], data_root: str | None, metric: str | None
) -> tuple[RunConfig, Selection]:
    from hvqray.config.run_config import load_run_config
    from hvqray.results.sweep_folder import read_description
    from hvqray.training.checkpoint import CONFIG_FILE, trial_folder
    from hvqray.training.selection import Selection

    folder, colon, trial_id = trial.rpartition(":")
    if not colon:
        raise InputError("must be SWEEP_DIR:TRIAL_ID, such as runs/fsq:t0003", field=f"--trial {trial}")
    goals = read_description(Path(folder)).goals
    known = [path.name for path in trial_folder(Path(folder), "").glob("*") if (path / CONFIG_FILE).is_file()]
    if trial_id not in known:
        raise InputError(_why_not_there(Path(folder), trial_id, known), source=folder)
    config = load_run_config(trial_folder(Path(folder), trial_id) / CONFIG_FILE, overrides, data_root)
    name = metric or next(iter(goals))
    return config, Selection(name, goals.get(name, "maximize") == "maximize")


def _why_not_there(folder: Path, trial_id: str, known: list[str]) -> str:
    """Why a trial that is not among the `known` ones, whose configurations are there, cannot be repeated."""
    from hvqray.results.stored_trials import is_begun, read_trials

    ended = {trial.trial_id: trial for trial in read_trials(folder)} if is_begun(folder) else {}
    if trial_id in ended and ended[trial_id].error:
        return f"{trial_id} failed before its training began, so there is nothing to repeat: {ended[trial_id].error}"
    if trial_id in ended or not (folder / ".state").exists():
        return (
            f"the configuration of {trial_id} is no longer in .state; a trial's parameters are in trials.parquet, to set on another"
            " configuration, such as best/config.yaml"
        )
    return f"{trial_id} is no trial of this sweep{did_you_mean(trial_id, known)}"


def _train(config: RunConfig, out: Path, selection: Selection, cache_dir: Path | None, *, test: bool) -> None:
    import torch

    from hvqray.config.metric_names import class_fault
    from hvqray.data.objectives import check_objective
    from hvqray.data.prepare import prepare_data
    from hvqray.data.progress import progress_bar
    from hvqray.results.wording import VAL_IS_TEST
    from hvqray.training import loop
    from hvqray.training.checkpoint import remove_resume_state
    from hvqray.training.communicator import SingleProcess
    from hvqray.training.finished_run import check_data_of, find_finished_run
    from hvqray.training.measure import measure_on_test

    finished = find_finished_run(config, out, selection.metric)
    console = Console(highlight=False, markup=False, emoji=False)
    gpus, workers = config.resources.gpus_per_worker, config.resources.workers
    if gpus not in ("auto", 0) and not torch.cuda.is_available():
        raise InputError(
            f"{gpus} is demanded, but there is no GPU; set it to 0 or auto", field="resources.gpus_per_worker"
        )
    if workers > 1:
        logger.warning(
            "resources.workers: %d has no effect, as train runs in one process; sums over %d workers differ in their last bits",
            workers,
            workers,
        )
    device = "cuda" if torch.cuda.is_available() and gpus != 0 else "cpu"
    if config.resources.cpus_per_worker != "auto":
        torch.set_num_threads(max(1, int(config.resources.cpus_per_worker)))
    with progress_bar(console) as progress:
        data = prepare_data(config.data, cache_dir=cache_dir, device=device, progress=progress)
    if fault := class_fault(selection.metric, data.context.class_names):
        raise InputError(fault, field=f"--metric {selection.metric}")
    if config.train.checkpoint == "best":
        mend = ", or train.checkpoint: last, which needs no metric"
        check_objective(selection.metric, data, field="--metric", mend=mend)
    if data.selected_on_test:
        console.print(VAL_IS_TEST, markup=False, soft_wrap=True)
    if finished is not None:
        check_data_of(finished, data, out)
        console.print("this run is finished, so it is not trained again", markup=False)
    else:
        epochs = loop.run(config, data, folder=out, communicator=SingleProcess(device), selection=selection)
        with contextlib.closing(epochs):
            for report in epochs:
                console.print(_line(report, selection.metric), markup=False, soft_wrap=True)
    if test and not len(data.splits["test"]):
        console.print("--test: there is no test image, so nothing is measured on test", markup=False)
    elif test:
        mark = " (selected on test)" if data.selected_on_test else ""
        record = None if finished is None else finished.record
        if record is None or not any(name.startswith("test/") for name in record["metrics"]):
            record = measure_on_test(out, device=device, cache_dir=cache_dir)
        for name, value in record["metrics"].items():
            if name.startswith("test/") and name.count("/") == 1 and "." not in name:
                shown = "undefined" if value is None else _shown(record["metrics"], name)
                console.print(f"{name}{mark}: {shown}", markup=False)
    remove_resume_state(out)  # not before: whoever interrupts the measuring need not train again
    console.print(f"checkpoint: {out}", markup=False, soft_wrap=True)


def _line(report: EpochReport, metric: str) -> str:
    shown = {name: report.metrics.get(name) for name in ("train/loss", metric, "val/pixel_auroc")}
    values = ", ".join(
        f"{name} {_shown(report.metrics, name)}" for name, value in shown.items() if value is not None
    )
    return f"epoch {report.epoch}/{report.num_epochs}: {values} ({report.duration_s:.0f} s)"


def _shown(metrics: Mapping[str, float | None], name: str) -> str:
    """`0.9123`, `0.9123 (over 2 of 3 classes)` where a class does not count in the mean."""
    from hvqray.results.class_table import over_classes

    over = over_classes(metrics, name)
    return f"{metrics[name]:.4f}" + (f" ({over})" if over else "")


if __name__ == "__main__":
    sys.exit(run_command(main))
