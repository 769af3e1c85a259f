"""Layers point one way, and what needs no Ray runs without it."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import hvqray

ROOT = Path(hvqray.__file__).parent

SHARED = {
    "hvqray",
    "hvqray.errors",
    "hvqray.atomic",
    "hvqray.environment",
    "hvqray.exact",
    "hvqray.full_disk",
    "hvqray.process_memory",
    "hvqray.quick_imports",
    "hvqray.steady_stderr",
}
"""What every layer may import; these import each other only."""

LAYERS: dict[str, set[str]] = {
    "quantizers": set(),
    "metrics": set(),
    "config": set(),
    "models": {"quantizers", "config"},
    "data": {"config", "models.context"},
    "training": {"config", "data", "models", "metrics"},
    "baselines": {"config", "data", "models", "metrics"},
    "results": {"config", "training.epoch_report"},
    "tuning": {"config", "data", "models", "metrics", "training", "baselines", "results"},
}
"""Layer to what it may import besides itself and `SHARED`, as docs/architecture.md has it."""

COMMAND_MODULES = {
    f"hvqray.data.{name}" for name in ("__main__", "cache_command", "command_options", "commands")
}
"""Commands that lie inside a layer."""

MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


@functools.cache
def imports(module: str) -> tuple[str, ...]:
    """Every module that a module imports, at its top or inside functions."""
    found: list[str] = []
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.append(name if name in MODULES or node.module == "ray" else node.module)
    return tuple(found)


def is_under(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def importers(package: str) -> set[str]:
    return {
        module.removeprefix("hvqray.")
        for module in MODULES
        if any(is_under(name, {package}) for name in imports(module))
    }


def test_the_modules_were_found() -> None:
    assert {"hvqray", "hvqray.sweep", "hvqray.training.ray_train", "hvqray.models"} <= MODULES.keys()
    assert {name.split(".")[1] for name, path in MODULES.items() if path.parent != ROOT} == LAYERS.keys()


def test_ray_is_imported_by_tuning_and_one_adapter_only() -> None:
    # `submit` names the types of a Ray job's client, without importing them when it runs.
    allowed = {"training.ray_train", "submit"}
    assert {name for name in importers("ray") if not name.startswith("tuning.")} == allowed
    assert importers("ray.train") == {"training.ray_train"}
    tune = importers("ray.tune")
    assert tune
    assert all(name.startswith("tuning.") for name in tune)


def test_wandb_is_imported_by_its_sink_with_its_runs_and_its_report_only() -> None:
    assert importers("wandb") == {"results.wandb_sink", "results.wandb_runs", "results.wandb_report"}
    assert importers("wandb_workspaces") == {"results.wandb_report"}


def test_optuna_is_imported_by_tuning_and_by_readers_of_the_study_only() -> None:
    outside = {name for name in importers("optuna") if not name.startswith("tuning.")}
    assert outside == {"results.html_report", "results.importances", "results.search_charts"}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_point_one_way(layer: str) -> None:
    allowed = {f"hvqray.{name}" for name in LAYERS[layer] | {layer}}
    for module in MODULES:
        if not is_under(module, {f"hvqray.{layer}"}) or module in COMMAND_MODULES:
            continue
        own = {name for name in imports(module) if is_under(name, {"hvqray"})}
        wrong = {name for name in own if name not in SHARED and not is_under(name, allowed)}
        assert not wrong, f"{module} imports {sorted(wrong)}"


@pytest.mark.parametrize("module", sorted(SHARED))
def test_what_all_share_imports_nothing_else(module: str) -> None:
    assert {name for name in imports(module) if is_under(name, {"hvqray"})} <= SHARED


def test_the_graph_of_layers_has_no_circle() -> None:
    def below(layer: str) -> set[str]:
        direct = {name.partition(".")[0] for name in LAYERS[layer] if "." not in name}
        return direct.union(*map(below, direct))

    assert all(layer not in below(layer) for layer in LAYERS)


def test_models_metrics_and_the_loop_run_without_ray_optuna_and_wandb() -> None:
    modules = [
        name
        for name in MODULES
        if is_under(name, {f"hvqray.{layer}" for layer in ("quantizers", "metrics", "models", "training")})
        and name != "hvqray.training.ray_train"
    ]
    assert "hvqray.training.loop" in modules
    program = "import sys\nfor name in ('ray', 'optuna', 'wandb'): sys.modules[name] = None\n"
    program += "".join(f"import {name}\n" for name in [*modules, "hvqray.train", "hvqray.evaluate"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_what_drives_a_sweep_does_not_import_timm() -> None:
    """It takes seconds, and only those who compute features need it: where they are cached nobody does."""
    program = "import sys, hvqray.tuning.session, hvqray.tuning.trial\nassert 'timm' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
