"""The recipes in sweeps/paper/: they resolve to what they say, and their commands are right."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from hvqray import submit, sweep
from hvqray.config.model_sections import HvqConfig
from hvqray.config.sweep_file import load_sweep
from hvqray.data.backbone_layers import choose_layers

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "sweeps" / "paper"
RECIPES = sorted(path.stem for path in PAPER.glob("*.yaml"))
HVQ_OF_THE_PAPER = ["hvq_mvtec_ad", "hvq_visa", "hvq_mpdd", "hvq_btad"]


def file(name: str) -> Path:
    return PAPER / f"{name}.yaml"


@pytest.mark.parametrize("name", RECIPES)
def test_one_configuration_that_is_selected_on_test_unless_told_otherwise(name, caplog):
    loaded = load_sweep(file(name))
    run = loaded.base_run_config()
    assert [len(parameter.domain().samples()) for parameter in loaded.parameters.values()] == [1]
    assert run.data.validation.from_ == "none"
    assert run.data.layout in name or run.data.layout == "kolektor_sdd2"
    assert not caplog.messages  # no option without effect
    [override] = re.findall(r"(--set data\.validation.*)", file(name).read_text())
    _, validation, _, new_name = shlex.split(override)
    honest = load_sweep(file(name), [validation, new_name])
    assert honest.base_run_config().data.validation.from_ == "test"
    assert honest.name != loaded.name


@pytest.mark.parametrize("name", HVQ_OF_THE_PAPER)
def test_hvq_is_the_published_configuration(name):
    """Section 4 of arXiv 2310.14228 and its published configuration."""
    run = load_sweep(file(name)).base_run_config()
    model, train = run.model, run.train
    assert isinstance(model, HvqConfig)
    assert (model.width, model.codebook_size, model.hierarchy_depth) == (256, 512, 4)
    assert (model.num_heads, model.feedforward_width, model.dropout) == (8, 1024, 0.1)
    assert (model.standardize_features, model.map_distance, model.router) == (False, "l2", "oracle")
    assert (model.ot_weight, model.ot_levels, model.score_pool_size) == (80, [0], 16)
    assert model.score_top_fraction == 0
    assert (train.epochs, train.lr, train.schedule, train.weight_decay) == (1000, 1e-4, "step", 1e-4)
    assert (train.gradient_clip, train.batch_size, train.images_per_epoch) == (0.1, 16, None)
    assert (run.data.image_size, run.data.backbone.strides) == (224, [2, 4, 8, 16])


@pytest.mark.parametrize(
    "names", [HVQ_OF_THE_PAPER, [n for n in RECIPES if re.fullmatch("squad_[^_]+(_ad)?", n)]]
)
def test_one_method_s_recipes_differ_in_the_dataset_alone(names):
    assert len(names) >= 4
    runs = [load_sweep(file(name)).base_run_config() for name in names]
    first = runs[0].model_copy(update={"data": runs[0].data.model_copy(update={"layout": "auto"})})
    for run in runs:
        assert run.model_copy(update={"data": run.data.model_copy(update={"layout": "auto"})}) == first


@functools.cache
def network_without_values(name: str, image_size: int) -> Any:
    shape = {"img_size": image_size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    with torch.device("meta"):
        return timm.create_model(name, features_only=True, **shape)


@pytest.mark.parametrize("name", RECIPES)
def test_channels_and_grid_are_those_it_states(name):
    data = load_sweep(file(name)).base_run_config().data
    stated = re.search(r"(\d+) (?:channels )?on (\d+) x \d+|(\d+) x (\d+) patches", file(name).read_text())
    assert stated
    network = network_without_values(data.backbone.name, data.image_size)
    layers = choose_layers(network, data.backbone)
    assert data.image_size % layers.grid_stride == 0
    side = data.image_size // layers.grid_stride
    channels = [network.feature_info.info[layers.indices[group[0]]]["num_chs"] for group in layers.groups]
    assert side == int(stated[2] or stated[4])
    assert sum(channels) == (272 if "efficientnet" in data.backbone.name else 1536)
    assert stated[1] is None or sum(channels) == int(stated[1])


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_in_its_head_is_right(name, accepts):
    [line] = [line for line in file(name).read_text().splitlines() if "hvqray sweep" in line]
    _, _, *arguments = shlex.split(line.lstrip("# "))
    assert accepts(sweep.main, arguments)
    assert ROOT / arguments[0] == file(name)


def test_the_readme_names_every_recipe_and_its_commands_are_right(accepts):
    text = (PAPER / "README.md").read_text()
    assert set(re.findall(r"\((\w+)\.yaml\)", text)) == set(RECIPES)
    commands = [
        shlex.split(command)
        for command in re.findall(r"^    (hvqray .*)$", text.replace(" \\\n        ", " "), re.MULTILINE)
    ]
    assert len(commands) >= 4
    for _, which, *arguments in commands:
        assert accepts({"sweep": sweep, "submit": submit}[which].main, arguments)
        overrides = [value for flag, value in itertools.pairwise(arguments) if flag == "--set"]
        load_sweep(ROOT / arguments[0], overrides)
