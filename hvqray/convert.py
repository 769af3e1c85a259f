"""`python -m hvqray.convert PUBLISHED.pth --out DIR`: a checkpoint of the published HVQ-Trans code, as one of this project.

The result is a checkpoint folder for evaluate, predict and export. docs/convert.md says what becomes of each tensor.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvqray.atomic import make_folder
from hvqray.command_line import DONE, add_set_option, argument_parser, run_command
from hvqray.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from hvqray.config.sections import RunConfig
    from hvqray.models.published_weights import PublishedLayout

MVTEC_CLASSES = (
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
)
"""The order in which the published code numbers its classes."""
BACKBONE_FILE = "backbone.safetensors"
GRID_STRIDE = 16
"""Pixels per cell of the published model's grid."""


def main(argv: Sequence[str] | None = None) -> int:
    """Convert and say what was made of it; returns the exit code. Raises InputError for what the user can mend."""
    parser = argument_parser(
        "convert", "Turn a checkpoint of the published HVQ-Trans code into one of hvqray."
    )
    parser.add_argument(
        "published", metavar="PUBLISHED.pth", type=Path, help="checkpoint that the published code saved"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder of the new checkpoint")
    parser.add_argument(
        "--classes",
        metavar="NAME",
        nargs="+",
        help="the classes in the order of the published code's labels (default: the 15 of MVTec AD, by name)",
    )
    parser.add_argument(
        "--data", metavar="ROOT", help="folder of the dataset, kept in the checkpoint (default: none)"
    )
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        default="tf_efficientnet_b4",
        help="timm's name of the backbone whose features the model was trained on",
    )
    add_set_option(parser)
    arguments = parser.parse_args(argv)

    from safetensors.torch import save_file

    from hvqray.config.overrides import override_text
    from hvqray.config.run_config import WEIGHTS, load_run_config
    from hvqray.models.published_file import read_published
    from hvqray.models.published_weights import BACKBONE_PREFIX, published_layout
    from hvqray.training.checkpoint import CONFIG_FILE, RESUME_FILE, save_config

    source = str(arguments.published)
    state = read_published(arguments.published)
    layout = published_layout(state, source=source)
    classes = class_order(arguments.classes, layout.num_classes)
    overrides = [override_text("data.backbone.name", arguments.backbone), *arguments.overrides]
    backbone = {
        name.removeprefix(BACKBONE_PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(BACKBONE_PREFIX)
    }
    make_folder(arguments.out, option="--out")
    # All is made aside and checked: a conversion that is refused changes nothing in a folder that holds a checkpoint.
    with tempfile.TemporaryDirectory(dir=arguments.out, prefix=".convert.") as name:
        aside = Path(name)
        save_config(aside, published_config(layout, classes))

        def configured(folder: Path) -> RunConfig:
            place = [override_text(WEIGHTS, str((folder / BACKBONE_FILE).absolute()))] if backbone else []
            return load_run_config(aside / CONFIG_FILE, [*overrides, *place], arguments.data)

        if backbone:
            save_file(backbone, aside / BACKBONE_FILE)
            check_backbone(configured(aside), layout, source=source)
        config = configured(arguments.out)
        save_converted(aside, state, layout, classes, config, source=source)
        # Last what begins a run with its weights, so that none begins with others.
        for path in sorted(aside.iterdir(), key=lambda path: path.name == RESUME_FILE):
            path.replace(arguments.out / path.name)
    weights = (
        f"backbone in {BACKBONE_FILE}" if backbone else f"backbone weights: {config.data.backbone.weights}"
    )
    sys.stdout.write(
        f"checkpoint: {arguments.out} ({layout.num_classes} classes, width {layout.width}; {weights})\n"
    )
    return DONE


def class_order(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """The class of each published label, in the order of the labels.

    Raises:
        InputError: not as many names as the checkpoint has classes, or a name twice.
    """
    given = tuple(names) if names is not None else MVTEC_CLASSES
    if len(given) != num_classes:
        what = f"{len(given)} named" if names is not None else "MVTec AD, the default, has 15 classes"
        raise InputError(
            f"{what}, but the checkpoint has {num_classes}; name them in the order of its labels",
            field="--classes",
        )
    if len(set(given)) != len(given):
        raise InputError(f"{' '.join(given)} names a class twice", field="--classes")
    return given


def published_config(layout: PublishedLayout, classes: Sequence[str]) -> RunConfig:
    """The published model, data and training as this project configures them."""
    from hvqray.config.data_sections import BackboneConfig, DataConfig
    from hvqray.config.sections import RunConfig, TrainConfig

    return RunConfig(
        model=layout.model_config(),
        data=DataConfig(
            classes=sorted(classes),
            backbone=BackboneConfig(padding="published"),
            image_size=GRID_STRIDE * layout.grid_size[0],
        ),
        train=TrainConfig(
            epochs=1000,
            batch_size=16,
            lr=1e-4,
            schedule="step",
            weight_decay=1e-4,
            gradient_clip=0.1,
            precision="fp32",
            evaluate_every=10,
        ),
    )


def check_backbone(config: RunConfig, layout: PublishedLayout, *, source: str) -> None:
    """Build the backbone from the weights that came with the model.

    Raises:
        InputError: it is not the backbone that `config` names, or gives other features than the model was trained on.
    """
    import torch

    from hvqray.data.backbones import load_backbone

    size = config.data.image_size
    backbone = load_backbone(config.data.backbone, size)
    channels = backbone(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape[1]
    if channels != layout.channels:
        raise InputError(
            f"its model reconstructs {layout.channels} channels, where {config.data.backbone.name!r} gives {channels};"
            " name its backbone with --backbone",
            source=source,
        )


def save_converted(
    folder: Path,
    state: Mapping[str, Tensor],
    layout: PublishedLayout,
    classes: Sequence[str],
    config: RunConfig,
    *,
    source: str,
) -> None:
    """Write the checkpoint, and the state from which `hvqray.train` goes on with its weights.

    Raises:
        InputError: `config` is that of another model than `layout`.
    """
    import torch

    from hvqray.environment import code_version, library_versions
    from hvqray.models.build import build_model
    from hvqray.models.context import ModelContext
    from hvqray.models.published_weights import converted_state
    from hvqray.training.checkpoint import save_model, save_resume_state
    from hvqray.training.communicator import SingleProcess
    from hvqray.training.optimisation import ObjectiveTrainer

    # The data's readers sort classes by name, and training goes by their indices.
    labels = sorted(range(len(classes)), key=lambda label: classes[label])
    context = ModelContext(
        class_names=tuple(classes[label] for label in labels),
        feature_channels=layout.channels,
        grid_size=layout.grid_size,
        image_size=config.data.image_size,
    )
    model = build_model(config.model, context)
    assert isinstance(model, torch.nn.Module)
    try:
        model.load_state_dict(converted_state(state, layout, labels=labels))
    except RuntimeError:
        raise InputError(
            "an override changes the shapes that the weights fix; leave it out", source=source, field="model"
        ) from None
    record = {
        "trial_id": None,
        "epoch": None,
        "selected_on_test": True,  # the published code keeps the checkpoint that is best on the test set
        "metrics": {},
        "converted_from": Path(source).name,
        "environment": {"code_version": code_version(), **library_versions()},
    }
    save_model(folder, model, config=config, context=context, record=record)
    trainers = [ObjectiveTrainer(objective, config.train, SingleProcess()) for objective in model.objectives]
    fresh: dict[str, Any] = {
        "epochs_done": 0,
        "best_epoch": None,
        "selected": {},
        "duration_s": 0.0,
        "metrics": {},
    }
    optimizers = [trainer.optimizer.state_dict() for trainer in trainers]
    save_resume_state(folder, {"model": model.state_dict(), "optimizers": optimizers, **fresh})


if __name__ == "__main__":
    sys.exit(run_command(main))
