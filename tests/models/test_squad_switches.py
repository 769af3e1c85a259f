"""SQUAD's ablation switches: each changes its own part, leaves a model that trains, and can be searched over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from calibrated import calibrate
from model_cases import make_batch, make_model, squad, train_steps, training_batches

from hvqray.config.run_config import build_run_config
from hvqray.config.sections import TrainConfig
from hvqray.config.sweep_file import load_sweep
from hvqray.models.squad import SquadModel
from hvqray.models.squad_blocks import ResidualHierarchy, ResolutionHierarchy
from hvqray.training.communicator import SingleProcess
from hvqray.training.optimisation import ObjectiveTrainer

SWITCHES: list[dict[str, object]] = [
    {},
    {"discriminator": False},
    {"image_head": False},
    {"quantizer": "vq"},
    {"quantizer": "vq", "revive_dead_codes": True, "revive_after": 1, "codebook_init": "normal"},
    {"quantizer": "none"},
    {"hierarchy": "residual"},
    {"hierarchy": "residual", "quantizer": "vq", "discriminator": False},
    {"hierarchy": "residual", "image_head": False, "hierarchy_depth": 4},
]


def model_of(**fields: object) -> SquadModel:
    model = make_model(squad(discriminator_start=0.0, **fields))
    assert isinstance(model, SquadModel)
    return model


@pytest.mark.parametrize(
    "fields", SWITCHES, ids=lambda fields: " ".join(map(str, fields.values())) or "squad"
)
def test_a_switch_changes_its_part_and_the_model_learns(fields: dict[str, object]) -> None:
    model = model_of(**fields)
    has_image = fields.get("image_head", True)
    judges = has_image and fields.get("discriminator", True)
    quantizer = fields.get("quantizer", "fsq")

    assert model.needs_images == has_image
    assert [objective.name for objective in model.objectives] == ["generator", "discriminator"][: 1 + judges]
    residual = fields.get("hierarchy") == "residual"
    assert isinstance(model.generator.hierarchy, ResidualHierarchy if residual else ResolutionHierarchy)
    parts = {"feature_mse", "feature_cosine", "loss"}
    parts |= {"image_l1", "image_ssim"} if has_image else set()
    parts |= {"adversarial", "adversarial_weight"} if judges else set()
    parts |= {"commitment"} if quantizer == "vq" else set()
    assert model.objectives[0].loss(make_batch(), 0.5).keys() == parts
    components = ["cosine", "l2"] + ["image"] * has_image + ["discriminator"] * judges
    assert sorted(model.map_weights) == sorted(components)
    size = {"fsq": 60, "vq": 8}.get(quantizer)
    assert set(model.codebook_sizes().values()) == ({size} if size else set())

    before = {name: value.clone() for name, value in model.generator.named_buffers()}
    losses = train_steps(model, list(training_batches()), num_steps=12)
    assert min(losses[-3:]) < losses[0]
    moved = any(not torch.equal(value, before[name]) for name, value in model.generator.named_buffers())
    assert moved == (quantizer == "vq"), "only codebooks learned by averages are buffers that training moves"
    calibrate(model, training_batches)
    prediction = model.predict(make_batch(seed=70))
    assert prediction.maps_BHW.isfinite().all()
    assert prediction.codes.keys() == model.codebook_sizes().keys()


def test_each_objective_s_optimiser_moves_its_own_parameters_alone() -> None:
    model = model_of()
    config = TrainConfig(precision="fp32", lr=1e-2, schedule="constant", warmup_fraction=0.0)
    trainers = [ObjectiveTrainer(objective, config, SingleProcess()) for objective in model.objectives]
    owned = [{id(p) for group in t.optimizer.param_groups for p in group["params"]} for t in trainers]
    assert not owned[0] & owned[1]
    for trainer, mine in zip(trainers, owned, strict=True):
        before = {id(p): p.clone() for p in model.parameters()}
        trainer.step(make_batch(), progress=0.5, share=1.0)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[id(parameter)]) == (id(parameter) not in mine), name


def test_the_weight_adapts_to_the_sizes_of_the_two_gradients() -> None:
    """Ten times the image loss is answered by ten times the adversarial weight."""
    weights = []
    for scale in (0.1, 1.0):
        model = model_of(image_l1_weight=scale, image_ssim_weight=scale / 2)
        model.discriminator.eval()
        weights.append(model.objectives[0].loss(make_batch(), 0.5)["adversarial_weight"].item())
    assert weights[1] / weights[0] == pytest.approx(10, rel=0.01)


def test_parts_of_the_map_are_weighed_after_they_are_normalised() -> None:
    """On normal images every part deviates by 1, so that a weight means the same for each."""
    model = model_of(smoothing_sigma=0)
    calibrate(model, training_batches)
    model.eval()
    with torch.no_grad():
        raw, normal = [], []
        for batch in training_batches():
            components = model._components(batch)[0]
            raw.append(components)
            normal.append(model.component_map.normalize(components))
    spread = {name: torch.cat([part[name].flatten() for part in raw]).std().item() for name in raw[0]}
    assert max(spread.values()) > 3 * min(spread.values()), "unlike sizes before"
    for name in normal[0]:
        assert torch.cat([part[name].flatten() for part in normal]).std().item() == pytest.approx(1, rel=1e-3)


def test_every_switch_can_be_searched_over(tmp_path: Path) -> None:
    choices = {
        "image_head": [True, False],
        "discriminator": [True, False],
        "quantizer": ["fsq", "vq", "none"],
        "hierarchy": ["resolutions", "residual"],
        "adversarial_weight": [0.0, 0.1],
        "map_discriminator_weight": [0.0, 0.1],
        "revive_dead_codes": [True, False],
        "codebook_init": ["kmeans", "normal"],
    }
    lines = ["name: ablation", "method: random", "metric: {name: val/image_auroc, goal: maximize}"]
    lines += ["model: {name: squad}", "parameters:"]
    lines += [f"  model.{name}: {{values: {values}}}".replace("'", "") for name, values in choices.items()]
    file = tmp_path / "ablation.yaml"
    file.write_text("\n".join(lines).replace("True", "true").replace("False", "false") + "\n")
    assert load_sweep(file).parameters.keys() == {f"model.{name}" for name in choices}
    for name, values in choices.items():
        for value in values:
            config = build_run_config({"model": {"name": "squad"}}, {f"model.{name}": value})
            assert getattr(config.model, name) == value
