"""The training loop: reports, selection, resuming, and the same run on two ranks as on one."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from ray_head import unused_port
from tiny_data import tiny_data
from two_ranks import run_two_ranks

from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.sections import RunConfig, TrainConfig
from hvqray.errors import InputError
from hvqray.metrics import METRIC_NAMES
from hvqray.models import squad
from hvqray.models.build import build_model
from hvqray.models.interface import AnomalyModel
from hvqray.training import loop
from hvqray.training.checkpoint import MODEL_FILE, RESUME_FILE, load_model, load_resume_state
from hvqray.training.communicator import Communicator, ProcessGroup, SingleProcess
from hvqray.training.epoch_report import EpochReport
from hvqray.training.loop import run
from hvqray.training.selection import Selection

HVQ = HvqConfig(width=16, num_heads=2, feedforward_width=32, codebook_size=8, score_pool_size=4)
SQUAD = SquadConfig(
    name="squad", width=16, num_residual_blocks=1, image_width=4, fsq_levels=[5, 5], score_pool_size=4
)
TRAIN = TrainConfig(epochs=3, batch_size=6, lr=3e-3, precision="fp32")


def config(model: HvqConfig | SquadConfig = HVQ, **train: Any) -> RunConfig:
    return RunConfig(model=model, train=TRAIN.model_copy(update=train))


def reports(run_config: RunConfig, folder: Path, *, epochs: int | None = None) -> list[EpochReport]:
    """All reports, or those of the first `epochs`, after which the run is dropped as a stopped trial is."""
    generator = run(run_config, tiny_data(), folder=folder, communicator=SingleProcess())
    found = []
    for report in generator:
        found.append(report)
        if len(found) == epochs:
            generator.close()
    return found


def test_reports_count_epochs_and_carry_all_metrics(tmp_path: Path) -> None:
    found = reports(config(), tmp_path)
    assert [report.epoch for report in found] == [1, 2, 3]
    assert [report.is_last for report in found] == [False, False, True]
    last = found[-1].metrics
    assert last["train/loss"] is not None
    assert last["train/loss"] < found[0].metrics["train/loss"]
    for metric in (
        "image_auroc",
        "image_ap",
        "image_f1max",
        "pixel_auroc",
        "pixel_ap",
        "pixel_f1max",
        "pixel_aupro",
    ):
        values = [last[f"val/class{c}/{metric}"] for c in range(3)]
        assert last[f"val/{metric}"] == pytest.approx(sum(values) / 3)
    assert 0 < last["codebook/top/use"] <= 1
    assert {name for name in last if name.startswith("test/")} == set()


def test_the_model_of_one_run_is_gone_when_the_next_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[weakref.ref[object]] = []

    def remembered(*arguments: Any, **named: Any) -> AnomalyModel:
        assert not any(model() for model in models)
        model = build_model(*arguments, **named)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(loop, "build_model", remembered)
    gc.disable()  # in a process of many runs it seldom comes, as there are few objects
    try:
        for number in range(2):
            reports(config(epochs=1), tmp_path / str(number))
    finally:
        gc.enable()
    assert len(models) == 2


def test_the_chosen_epoch_is_the_best_on_val_and_its_weights_are_saved(tmp_path: Path) -> None:
    found = reports(config(epochs=4), tmp_path)
    values = [report.metrics["val/image_auroc"] for report in found]
    assert found[-1].best_epoch == 1 + values.index(max(values))
    assert found[-1].selected["val/image_auroc"] == max(values)
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["epoch"] == found[-1].best_epoch
    assert record["metrics"]["val/image_auroc"] == max(values)
    assert load_model(tmp_path).context == tiny_data().context


@pytest.mark.parametrize(("checkpoint", "chosen"), [("best", 1), ("last", 2)])
def test_the_weights_of_no_other_epoch_than_the_chosen_one_are_saved(
    tmp_path: Path, checkpoint: str, chosen: int
) -> None:
    undefined = Selection("val/undefined")  # nothing beats the first epoch by it
    options = {"folder": tmp_path, "communicator": SingleProcess(), "selection": undefined}
    weights = []
    for report in run(config(epochs=2, checkpoint=checkpoint), tiny_data(), **options):
        state = load_resume_state(tmp_path, device=torch.device("cpu"))
        assert state is not None
        weights.append(state["model"])
        assert report.best_epoch == min(report.epoch, chosen)
    saved = load_model(tmp_path).model.state_dict()
    for name in ("network.projection.weight", "network.top.codebook_MKD"):
        assert torch.equal(saved[name], weights[chosen - 1][name])
        assert not torch.equal(saved[name], weights[2 - chosen][name])


def test_checkpoint_last_takes_the_last_epoch(tmp_path: Path) -> None:
    found = reports(config(checkpoint="last"), tmp_path)
    assert found[-1].best_epoch == 3
    assert found[-1].selected["val/pixel_auroc"] == found[-1].metrics["val/pixel_auroc"]


@pytest.mark.parametrize(
    "model",
    [
        HVQ,
        SQUAD.model_copy(
            update={
                "map_distance": "local_mahalanobis",
                "feature_codes": 8,
                "map_code_weight": 2.0,
                "score_from": "codes",
            }
        ),
    ],
    ids=["hvq", "squad-local"],
)
def test_a_run_repeats_bit_for_bit_and_resumes_to_the_same_end(
    tmp_path: Path, model: HvqConfig | SquadConfig
) -> None:
    run_config = config(model)
    whole = reports(run_config, tmp_path / "whole")
    reports(run_config, tmp_path / "parts", epochs=1)
    rest = reports(run_config, tmp_path / "parts")
    assert [report.epoch for report in rest] == [1, 2, 3], "the last epoch before the stop is told again"
    assert rest[0].metrics == whole[0].metrics
    assert rest[-1].metrics == whole[-1].metrics
    assert rest[-1].selected == whole[-1].selected


def test_the_map_is_measured_on_as_many_normal_images_as_asked_for(tmp_path: Path) -> None:
    model = HVQ.model_copy(update={"map_distance": "local_mahalanobis"})
    few, many, most = (
        reports(config(model, epochs=1, calibration_images=number), tmp_path / str(number))[0].metrics
        for number in (2, None, 1000)
    )
    assert many == most, "more than there are is all"
    assert few["train/loss"] == many["train/loss"]
    assert few["val/pixel_auroc"] != many["val/pixel_auroc"]


@pytest.mark.parametrize(
    "model",
    [
        HVQ.model_copy(update={"map_distance": "mahalanobis", "router": "predicted"}),
        SQUAD.model_copy(update={"map_distance": "local_mahalanobis", "score_from": "coarse"}),
    ],
    ids=["hvq", "squad"],
)
def test_nothing_is_learned_or_measured_on_images_of_val_and_test(
    tmp_path: Path, model: HvqConfig | SquadConfig
) -> None:
    """Codebooks, prototypes, statistics of features, weights and normal errors: all are the same with other images there."""
    states = []
    for number in range(2):
        data = tiny_data()
        others = np.concatenate([data.splits[name].rows for name in ("val", "test")])
        for of_all in (data.splits["train"].all_features, data.splits["train"].all_images):
            of_all[others] += number * of_all[others[::-1]]
        folder = tmp_path / str(number)
        list(run(config(model, epochs=1), data, folder=folder, communicator=SingleProcess()))
        states.append(load_model(folder).model.state_dict())
    for name, tensor in states[0].items():
        assert torch.equal(states[1][name], tensor), name


def test_a_run_that_had_ended_says_so_again(tmp_path: Path) -> None:
    whole = reports(config(), tmp_path)
    (again,) = reports(config(), tmp_path)
    assert again.is_last
    assert again.metrics == whole[-1].metrics
    assert (tmp_path / RESUME_FILE).exists()


def test_losses_that_join_in_the_midst_of_an_epoch_are_means_over_their_steps(tmp_path: Path) -> None:
    """Of 28 images in batches of 7 the last two steps have an adversary: its weight, made constant, is told as it is."""
    model = SQUAD.model_copy(update={"discriminator_start": 0.5, "adversarial_weight": 1.0})
    with patch.object(squad, "adaptive_weight", lambda *gradients, **options: torch.tensor(3.0)):
        found = reports(config(model, epochs=1, batch_size=7), tmp_path)[0].metrics
    assert found["train/adversarial_weight"] == pytest.approx(3.0)
    assert found["train/discriminator_loss"] is not None


def test_evaluation_can_be_rare_but_the_last_epoch_is_measured(tmp_path: Path) -> None:
    found = reports(config(evaluate_every=2), tmp_path)
    assert ["val/image_auroc" in report.metrics for report in found] == [False, True, True]


def test_pixel_metrics_only_at_the_end(tmp_path: Path) -> None:
    found = reports(config(pixel_metrics="last", checkpoint="last"), tmp_path)
    assert ["val/pixel_auroc" in report.metrics for report in found] == [False, False, True]
    assert ["val/mad" in report.metrics for report in found] == [False, False, True]


@pytest.mark.parametrize("metric", ["val/mad", "val/class1/mad"])
def test_the_joint_metric_is_measured_at_every_evaluation_that_it_decides(
    tmp_path: Path, metric: str
) -> None:
    run_config = config(pixel_metrics="last", checkpoint="last", epochs=2)
    options = {"folder": tmp_path, "communicator": SingleProcess(), "selection": Selection(metric)}
    found = list(run(run_config, tiny_data(), **options))
    for report in found:
        seven = [report.metrics[f"val/class1/{name}"] for name in METRIC_NAMES]
        assert report.metrics["val/class1/mad"] == pytest.approx(sum(seven) / 7)


def test_divergence_is_an_error_that_names_the_epoch(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="diverged in epoch"):
        reports(config(lr=1e30, gradient_clip=None, epochs=5), tmp_path)


def test_divergence_in_the_last_step_is_seen_by_the_weights(tmp_path: Path) -> None:
    """The losses of that step were fine, and what is measured of the model after it would fail obscurely."""
    one_step = {"epochs": 1, "images_per_epoch": 7, "batch_size": 7, "warmup_fraction": 0.0}
    with pytest.raises(FloatingPointError, match="diverged in epoch 1: weights not finite"):
        reports(config(lr=1e30, gradient_clip=None, **one_step), tmp_path)


def test_a_run_that_was_killed_while_it_wrote_leaves_nothing_when_it_goes_on(tmp_path: Path) -> None:
    reports(config(), tmp_path, epochs=1)
    for name in (RESUME_FILE, MODEL_FILE):
        (tmp_path / f".{name}.43_li0mv").write_bytes(b"half of it")
    reports(config(), tmp_path, epochs=1)
    assert not list(tmp_path.glob(".*"))


def test_a_run_whose_state_is_damaged_starts_over_where_it_is_told_to(tmp_path: Path) -> None:
    whole = reports(config(), tmp_path, epochs=2)
    size = (tmp_path / RESUME_FILE).stat().st_size
    for damaged in (b"", bytes(size)):  # what a power cut leaves of a file
        (tmp_path / RESUME_FILE).write_bytes(damaged)
        with pytest.raises(InputError, match="remove it to start the run over"):
            reports(config(), tmp_path)
        again = run(config(), tiny_data(), folder=tmp_path, communicator=SingleProcess(), start_over=True)
        first, second = next(again), next(again)
        again.close()
        assert [first.metrics, second.metrics] == [report.metrics for report in whole]
        assert first.note == f"starts over: {tmp_path / RESUME_FILE} cannot be read as a run's state"
        assert second.note is None


def test_a_run_that_was_killed_before_its_example_maps_makes_them(tmp_path: Path) -> None:
    model = HVQ.model_copy(update={"map_distance": "local_mahalanobis"})
    reports(config(model, epochs=1), tmp_path)
    maps = {path.name: path.read_bytes() for path in (tmp_path / "maps").iterdir()}
    shutil.rmtree(tmp_path / "maps")
    reports(config(model, epochs=1), tmp_path)
    assert maps == {path.name: path.read_bytes() for path in (tmp_path / "maps").iterdir()}


@pytest.mark.parametrize("change", [{"fingerprint": "other"}, {"names": ("class0", "class2", "class1")}])
def test_an_interrupted_run_does_not_go_on_with_other_data(tmp_path: Path, change: dict[str, Any]) -> None:
    reports(config(), tmp_path, epochs=1)
    state = (tmp_path / RESUME_FILE).read_bytes()
    data = tiny_data()
    if names := change.pop("names", None):
        data = replace(data, context=replace(data.context, class_names=names))
    data = replace(data, **change)
    with pytest.raises(InputError, match=r"--out .*: holds a run on other data: their files have changed"):
        list(run(config(), data, folder=tmp_path, communicator=SingleProcess()))
    assert (tmp_path / RESUME_FILE).read_bytes() == state


def test_example_maps_are_left_for_every_class(tmp_path: Path) -> None:
    reports(config(epochs=1), tmp_path)
    names = {
        path.name.rpartition("_")[0].rpartition("_")[0] for path in (tmp_path / "maps").glob("*_map.png")
    }
    assert names == {"class0", "class1", "class2"}


def test_example_maps_are_those_of_the_best_epoch_with_an_adapted_backbone_too(tmp_path: Path) -> None:
    """The checkpoint then holds the backbone's statistics beside the model's weights."""
    data = replace(tiny_data(), batchnorm={"bn1.running_mean": np.ones(3, dtype=np.float32)})
    undefined = Selection("val/undefined")  # nothing beats the first epoch by it
    *_, last = run(config(epochs=2), data, folder=tmp_path, communicator=SingleProcess(), selection=undefined)
    assert (last.epoch, last.best_epoch) == (2, 1)
    assert len(list((tmp_path / "maps").rglob("*.png"))) > 0
    batchnorm = load_model(tmp_path).batchnorm
    assert batchnorm is not None
    np.testing.assert_array_equal(batchnorm["bn1.running_mean"], np.ones(3))


SHARED_CASES: dict[str, HvqConfig | SquadConfig] = {
    "hvq": HVQ,
    "hvq-revival-noise": HVQ.model_copy(
        update={"revive_dead_codes": True, "revive_after": 2, "feature_noise": 0.2}
    ),
    "squad": SQUAD,
}
AT_FIRST = "hvq-revival-noise"
"""The case that is run in fresh processes, and again after another one."""


def run_shared(case: str, folder: Path, communicator: Communicator) -> list[EpochReport]:
    # 14 + 9 + 5 images, shuffled, in batches of 7: the classes never split evenly, nor do the batches.
    run_config = config(SHARED_CASES[case], batch_size=7)
    return list(run(run_config, tiny_data(), folder=folder, communicator=communicator))


def _rank(rank: int, root: str) -> None:
    run_shared(AT_FIRST, Path(root, "first"), ProcessGroup("cpu"))
    for case in reversed(SHARED_CASES):
        found = run_shared(case, Path(root, case), ProcessGroup("cpu"))
        Path(root, case, f"rank{rank}.json").write_text(json.dumps([asdict(report) for report in found]))


@pytest.fixture(scope="module")
def on_two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per case, run by two ranks: one pair of processes for all, since starting them takes longest."""
    root = tmp_path_factory.mktemp("two")
    run_two_ranks(_rank, unused_port(), str(root))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("case", SHARED_CASES)
def test_two_ranks_equal_one(tmp_path: Path, on_two_ranks: Path, case: str) -> None:
    single = run_shared(case, tmp_path, SingleProcess())
    # An adversary makes more of rounding from step to step.
    rounding = 1e-3 if case == "squad" else 5e-5
    ranks = [json.loads((on_two_ranks / case / f"rank{rank}.json").read_text()) for rank in range(2)]
    for one, two, other in zip(single, ranks[0], ranks[1], strict=True):
        assert two["metrics"] == other["metrics"]
        assert two["metrics"].keys() == one.metrics.keys()
        for name, value in one.metrics.items():
            assert two["metrics"][name] == pytest.approx(value, rel=rounding, abs=rounding), name
    state_one = load_model(tmp_path).model.state_dict()
    state_two = load_model(on_two_ranks / case).model.state_dict()
    for name, tensor in state_one.items():
        torch.testing.assert_close(
            state_two[name], tensor, rtol=rounding, atol=rounding, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.slow
def test_two_ranks_that_have_trained_before_give_what_they_give_at_first(on_two_ranks: Path) -> None:
    """To the last bit, as a worker group that goes on from trial to trial must."""
    first, later = (load_model(on_two_ranks / name) for name in ("first", AT_FIRST))
    assert later.metrics["metrics"] == first.metrics["metrics"]
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(later.model.state_dict()[name], tensor), name


class SeesNothing(SingleProcess):
    """A rank without the checkpoint that its peer has gone on from for three epochs."""

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value, 3]


def test_workers_that_see_different_checkpoints_say_so_instead_of_waiting(tmp_path: Path) -> None:
    message = r"--out: the workers find different checkpoints in .* \(epochs None, 3\); choose a folder"
    with pytest.raises(InputError, match=message):
        run_shared("hvq", tmp_path, SeesNothing())


def test_more_workers_than_images_a_step_is_refused(tmp_path: Path) -> None:
    communicator = SingleProcess()
    communicator.world_size = 8
    with pytest.raises(InputError, match="batch_size: 6 images a step cannot be shared by 8 workers"):
        run(config(), tiny_data(), folder=tmp_path, communicator=communicator)
