"""The data that a sweep's trials can have: where features are searched, several."""

from __future__ import annotations

from pydantic import ValidationError

from hvqray.config.conditions import contexts
from hvqray.config.data_sections import DataConfig
from hvqray.config.run_config import merged_sections
from hvqray.config.sweep_file import SweepFile

_PREFIX = "data."


def data_configs(sweep: SweepFile) -> list[DataConfig]:
    """The data of every combination of the searched fields of `data`, each once, that of the base configuration first.

    Without those that are no configuration: pairs of values were checked at load, triples fail their trials alone.
    """
    found = [sweep.base_run_config().data]
    for chosen in contexts(sweep.parameters, _deciding(sweep)):
        of_data = {name: value for name, value in chosen.items() if name.startswith(_PREFIX)}
        merged = merged_sections({"data": sweep.data}, of_data)["data"]
        try:
            config = DataConfig.model_validate(merged, strict=True)
        except ValidationError:
            continue
        if config not in found:
            found.append(config)
    return found


def _deciding(sweep: SweepFile) -> set[str]:
    """The searched fields of `data`, and whatever decides by a `when` whether they apply."""
    names = {name for name in sweep.parameters if name.startswith(_PREFIX)}
    # A condition names an earlier parameter, so that one pass from the last one to the first finds them all.
    for name in reversed(sweep.parameters):
        if name in names:
            names |= set(sweep.parameters[name].conditions)
    return names
