"""A sweep's W&B report: the sweep's runs side by side, saved on the server or as a JSON file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import wandb
import wandb_workspaces.reports.v2 as wr

from hvqray.atomic import write_atomically
from hvqray.config.metric_names import MAD
from hvqray.errors import InputError
from hvqray.results import wording
from hvqray.results.class_table import ALL_LABELS, class_names, codebook_levels
from hvqray.results.confirm_table import confirmed_split, spread_lines
from hvqray.results.confirmation import NO_QUANTIZER
from hvqray.results.history import TrialRecord
from hvqray.results.stored_trials import read_info, read_trials
from hvqray.results.sweep_folder import SweepDescription, read_best, read_description
from hvqray.results.wandb_mode import server


def build_wandb_report(folder: Path, *, entity: str | None, project: str | None, out: Path | None) -> str:
    """Save the report of the sweep in `folder`, and return its address, or `out`.

    With `out` the report's specification, which names neither entity nor project, is written to that JSON file and nothing
    is sent. `entity` and `project` default to those of sweep.yaml, and the entity then to the key's own default. A report
    that was saved in the same project before is replaced. As of the runs (`WandbSink`), no hardware is told.

    Raises:
        InputError: `folder` is not a sweep's, a name is missing, or W&B does not take the report.
    """
    description = read_description(folder)
    entity, project = entity or description.entity, project or description.project
    if not project:
        raise InputError("missing: give --project NAME", source=str(folder / "sweep.yaml"), field="project")
    if not entity and out is None:
        entity = _default_entity()
    if not entity and out is None:
        raise InputError(
            "missing, and the key has no default one: give --entity NAME (your W&B user or team)",
            source=str(folder / "sweep.yaml"),
            field="entity",
        )
    report = wr.Report(
        entity=entity or "",  # without one, wandb-workspaces would ask the server
        project=project,
        title=f"{description.name}: hyperparameter sweep",
        description=description.description or "",
        width="fluid",
        blocks=_blocks(folder, description),
    )
    if out is None:
        return _save(report, folder / ".state" / "wandb-report.json")
    # Private, hence the exact version of wandb-workspaces among the dependencies: it has no public way to a file.
    write_atomically(out, report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=2))
    return str(out)


def _save(report: wr.Report, known: Path) -> str:
    """Save `report` on the server and return its address; `known` is the file that remembers its id.

    Raises:
        InputError: the server refuses, or is away.
    """
    host = urlsplit(server()).hostname  # alone, for an address may hold a password
    place = {"server": host, "entity": report.entity, "project": report.project}
    try:
        before = json.loads(known.read_text())
    except (FileNotFoundError, ValueError):
        before = {}
    same = {key: before.get(key) for key in place} == place
    if same:
        report.id = before["id"]
    try:
        report.save()
        address = report.url
    except Exception as error:  # of many kinds, as in `_default_entity`
        gone = f"; if the report was deleted there, remove {known}" if same else ""
        raise InputError(
            f"W&B does not take the report ({_reason(error)}); with WANDB_MODE=offline it is written to a file instead{gone}",
            field="--wandb",
        ) from None
    if known.parent.is_dir():  # it may be deleted, and is not begun anew for this
        write_atomically(known, json.dumps({**place, "id": report.id}) + "\n")
    return address


def _reason(error: Exception) -> str:
    """The kind and the text of what wandb raised, on one line, without what may be a key or a password."""
    text = re.sub(r"://[^/\s]*@", "://", " ".join(str(error).split()))
    text = re.sub(r"[\w-]{32,}", "…", text)
    return f"{type(error).__name__}: {text[:200]}"


def _default_entity() -> str | None:
    """The entity to which the configured key logs where none is named.

    Raises:
        InputError: the server does not tell.
    """
    try:
        return wandb.Api().default_entity
    except Exception as error:  # wandb raises many kinds, among them those of the libraries below it
        raise InputError(
            f"missing, and W&B does not tell the key's own ({_reason(error)}); give --entity NAME",
            field="entity",
        ) from None


def _blocks(folder: Path, description: SweepDescription) -> list:
    info = read_info(folder)
    trials = read_trials(folder)
    # Neither entity nor project: the report's own hold, and wandb-workspaces would ask the server for others.
    # Retraining runs would count twice in what is drawn of the search.
    runs = wr.Runset(
        name=description.name,
        filters=f"Group == {description.name!r} and Tags not in ['confirm', '{NO_QUANTIZER}']",
    )
    facts = [
        f"{description.dataset}, {description.image_size} px",
        f"val: from {description.validation}",
        f"seed {description.seed}",
        f"version {info.environment['code_version']}",
    ]
    blocks = [wr.P(text="; ".join(facts))]
    if description.selected_on_test:
        blocks.append(wr.P(text="Selected on test: the search looked at the test images."))
    best = read_best(folder)
    if best is not None:
        values = [
            f"{name} {wording.number(best.metrics.get(name))}"
            for name in (*description.goals, "test/image_auroc", f"test/{MAD}")
            if name != f"test/{MAD}" or name in best.metrics
        ]
        blocks.append(wr.P(text=f"Best model, {best.run_id}: {', '.join(values)}."))
        split = confirmed_split(best.confirmed)
        for each in best.confirmed:
            shown = "; ".join(
                f"{name} {', '.join(spread_lines(each.metrics.get(name)))}"
                for name in (f"{split}/image_auroc", f"{split}/{MAD}")
                if name != f"{split}/{MAD}" or name in each.metrics
            )
            seeds = ", ".join(map(str, each.seeds))
            blocks.append(wr.P(text=f"{each.trial_id} confirmed over seeds {seeds}: {shown}."))
    for heading, panels in _panels(description, trials):
        blocks += [wr.H2(text=heading), wr.PanelGrid(runsets=[runs], panels=panels)]
    return blocks


def _panels(description: SweepDescription, trials: list[TrialRecord]) -> list[tuple[str, list]]:
    metrics = {name: None for trial in trials for name in trial.metrics}
    params = list(dict.fromkeys(name for trial in trials for name in trial.params))
    objective = next(iter(description.goals))
    wide = wr.Layout(w=24, h=10)
    search: list = [
        wr.ScatterPlot(
            x=wr.Metric("CreatedTimestamp"),
            y=wr.SummaryMetric(name),
            title=f"{name} per trial",
            running_ymax=True,
        )
        if goal == "maximize"
        else wr.ScatterPlot(
            x=wr.Metric("CreatedTimestamp"),
            y=wr.SummaryMetric(name),
            title=f"{name} per trial",
            running_ymin=True,
        )
        for name, goal in description.goals.items()
    ]
    search.append(wr.ParameterImportancePlot(with_respect_to=objective))
    columns = [
        *(wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in params),
        *(wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(name)) for name in description.goals),
    ]
    search.append(wr.ParallelCoordinatesPlot(columns=columns, layout=wide))
    epochs = [wr.LinePlot(x="epoch", y=[name], title=name) for name in (*description.goals, "train/loss")]
    epochs += [
        wr.LinePlot(x="epoch", y=[f"codebook/{level}/use"], title=f"codebook use, level {level}")
        for level in codebook_levels(metrics)
    ]
    per_class: list = [
        wr.BarPlot(
            metrics=[f"val/{name}/{metric}" for name in class_names(metrics, "val")],
            title=f"{label} per class, on val",
            groupby_aggfunc="max",
        )
        for metric, label in ALL_LABELS.items()
        if f"val/{metric}" in metrics
    ]
    sections = [("The search", search), ("Over the epochs", epochs), ("Per class", per_class)]
    sections.append(("Anomaly maps", [wr.MediaBrowser(media_keys=["examples"], layout=wide)]))
    return [(heading, panels) for heading, panels in sections if panels]
