"""Search spaces that cannot be, and options without effect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hvqray.config.parameters import Range
from hvqray.config.sweep_file import load_sweep
from hvqray.errors import InputError

Write = Callable[..., Path]

FAULTS = [
    ("{model.codebok_size: {value: 8}}", "model.codebok_size: unknown parameter; did you mean 'model.codebook_size'?"),
    ("{lr: {min: 0.1, max: 1.0}}", "parameters.lr: unknown parameter"),
    ("{model: {value: 8}}", "parameters.model: unknown parameter"),
    ("{resources.workers: {values: [1, 2]}}", "resources cannot be searched"),
    ("{data.root: {values: [a, b]}}", "data.root cannot be searched: its values must be the same for all"),
    ("{data.validation.seed: {values: [1, 2]}}", "data.validation cannot be searched"),
    ("{model.hierarchy: {values: [residual]}}", "applies to no model here (model.name is hvq)"),
    ("{train.epochs: {values: [1, 2]}}\ntrain: {epochs: 3}", "train.epochs: is also fixed at 3"),
    ("{model.width: {values: [64, 100]}}", "parameters.model.width: 100 is out of range; must be a multiple of 8"),
    ("{model.width: {min: 64, max: 128}}", "parameters.model.width: 65 is out of range"),
    ("{model.width: {min: 8, max: 4096}}", "parameters.model.width: 9 is out of range"),
    ("{train.lr: {min: 0.0, max: 1.0}}", "parameters.train.lr: 0.0 is out of range; must be above 0"),
    ("{train.lr: {values: [0.1, '0.2']}}", 'parameters.train.lr: "0.2" is not a number'),
    ("{train.class_balance: {min: 0.5, max: 1.5}}", "parameters.train.class_balance: 1.5 is out of range"),
    ("{train.batch_size: {min: 1.0, max: 8.0}}", "parameters.train.batch_size: 1.0 is not an integer"),
    ("{model.fsq_levels: {values: [[8, 5], [8, 2]]}}", "parameters.model.fsq_levels: 2 is out of range; must be at least 3 (in [8, 2])"),
    ("{model.fsq_levels: {values: [8, 5]}}", "parameters.model.fsq_levels: 8 is not a list"),
    ("{model.quantizer: {min: 1, max: 2}}", "parameters.model.quantizer: 1 is not one of vq, fsq, none"),
    # Each value is valid beside the first of the other, but not every pair is.
    ("{model.width: {values: [48, 64]}, model.num_heads: {values: [8, 12, 16]}}", "num_heads: 12 does not divide width 64"),
    ("{model.hierarchy_depth: {values: [2, 1]}, model.ot_levels: {values: [[0], [0, 1]]}}", "must lie below hierarchy_depth 1"),
    ("{data.image_size: {values: [224, 32]}, model.score_pool_size: {values: [16, 64]}}", "parameters.model.score_pool_size: 64 exceeds data.image_size 32"),
    ("{data.image_size: {values: [224, 32]}, model.score_pool_size: {min: 16, max: 64}}", "64 exceeds data.image_size 32"),
    ("{train.batch_size: {values: [8, 4]}}\nresources: {workers: 8}", "parameters.train.batch_size: 4 images cannot be shared by 8 workers"),
    ("{train.lr: {values: [0.1, 0.2]}}\ntrain: {lr: {peak: 0.1}}", "parameters.train.lr: is also fixed at 0.1"),
    ("{data.backbone.name: {values: [a, b]}}\ndata: {backbone: 5}", "data.backbone: 5 is not a mapping"),
    ("{model.name: {values: [hvq, squad]}, model.num_heads: {values: [4, 8]}}", "squad has no such field; add `when: {model.name: hvq}`"),
    ("{model.name: {values: [hvq, 3]}}", "parameters.model.name: 3 is no model"),
    ("{train.lr: {value: 1, when: {train.epochs: 2}}}", "when: train.epochs is no parameter of this file"),
    ("{train.lr: {value: 1, when: {train.epochs: 2}}}\ntrain: {epochs: 2}", "train.epochs is fixed at 2; remove the condition"),
    ("{train.lr: {value: 1, when: {train.lr: 2}}}", "is the parameter itself"),
    ("{train.lr: {value: 1, when: {train.epochs: 2}}, train.epochs: {values: [1, 2]}}", "train.epochs comes later; move it above train.lr"),
    ("{train.epochs: {values: [1, 2]}, train.lr: {value: 1, when: {train.epochs: 3}}}", "train.epochs is never 3; it takes 1, 2"),
    ("{train.lr: {min: 0.1, max: 1.0}, train.epochs: {value: 1, when: {train.lr: 0.5}}}", "continuous range"),
    (
        "{train.epochs: {values: [1, 2]}, train.seed: {values: [1, 2], when: {train.epochs: 1}},"
        " train.lr: {value: 1, when: {train.epochs: 2, train.seed: 1}}}",
        "train.lr.when: never holds",
    ),
    ("{train: {parameters: {lr: {value: 1}}}, train.lr: {value: 2}}", "parameters.train.lr: appears twice"),
    ("{train: {parameters: {lr: {value: 1}}, when: {a: 1}}}", "'when' cannot stand beside nested parameters"),
    ("{train.lr: 1}", "parameters.train.lr: 1 is not a mapping; write {value: 1}"),
    ("{train.lr: {min: 3, max: 1}}", "parameters.train.lr: min 3 is not below max 1"),
    ("{train.lr: {maxx: 1}}", "parameters.train.lr.maxx: unknown key; did you mean 'max'?"),
    ("[train.lr]", "is not a mapping"),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "told"), FAULTS, ids=[told[:40] for _, told in FAULTS])
def test_faults(write: Write, parameters: str, told: str) -> None:
    path = write(parameters)
    with pytest.raises(InputError) as caught:
        load_sweep(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_logarithmic_range_of_an_integer_field_is_of_integers(write: Write) -> None:
    log = "distribution: log_uniform_values, min: 4, max: 64"
    sweep = load_sweep(write(f"{{train.batch_size: {{{log}}}, model.ot_weight: {{{log}}}}}"))
    assert sweep.parameters["train.batch_size"].domain() == Range(4, 64, log=True, step=1, integer=True)
    assert sweep.parameters["model.ot_weight"].domain() == Range(4.0, 64.0, log=True)


def test_values_are_checked_only_where_their_condition_holds(write: Write) -> None:
    parameters = "{model.hierarchy_depth: {values: [1, 2]}, model.ot_levels: {values: [[0], [1]]WHEN}}"
    load_sweep(write(parameters.replace("WHEN", ", when: {model.hierarchy_depth: 2}")))
    with pytest.raises(InputError, match="ot_levels"):
        load_sweep(write(parameters.replace("WHEN", "")))


WARNINGS = [
    ("{model.quantizer: {value: fsq}, train.lr: {value: 1}}\nmodel: {codebook_size: 8}", "model.codebook_size: has no effect where model.quantizer is \"fsq\"; remove it"),
    ("{train.lr: {value: 1}}\nmodel: {codebook_size: 8, quantizer: fsq}", "model.codebook_size: has no effect where model.quantizer is \"fsq\"; remove it"),
    ("{model.quantizer: {values: [vq, fsq]}, model.codebook_size: {values: [8, 16]}}", "parameters.model.codebook_size: has no effect where model.quantizer is \"fsq\"; add `when: {model.quantizer: vq}`"),
    ("{train.lr: {value: 1}}\nmodel: {revive_after: 8}", "model.revive_after: has no effect where model.revive_dead_codes is false"),
    ("{train.lr: {value: 1}}\nmodel: {name: squad, image_head: false, adversarial_weight: 1}", "model.adversarial_weight: has no effect where model.image_head is false"),
    ("{train.lr: {value: 1}}\nmodel: {map_distance: mahalanobis, map_shrinkage: 0.1}", "model.map_shrinkage: has no effect where model.map_distance is \"mahalanobis\""),
    ("{train.warmup_fraction: {values: [0.1, 0.2]}}\ntrain: {schedule: step}", "train.warmup_fraction: has no effect where train.schedule is \"step\""),
    ("{train.class_balance: {min: 0, max: 1}}", "parameters.train.class_balance: searches integers only; write min: 0.0"),
    ("{train.lr: {value: 1}}\nmodel: {map_distance: mahalanobis, feature_codes: 9}", 'model.feature_codes: has no effect where model.map_code_weight is 0.0 and model.score_from is "map"; remove it'),
    ("{model.score_from: {values: [fine, both]}}\nmodel: {map_distance: mahalanobis, feature_codes: 9}", 'model.feature_codes: has no effect where model.map_code_weight is 0.0 and model.score_from is "'),
    ("{model.score_from: {values: [fine, codes]}, model.feature_codes: {values: [8, 9]}}\nmodel: {map_distance: mahalanobis}", 'model.score_from is "fine"; add a `when` that names model.score_from'),
    ("{train.lr: {value: 1}}\nmodel: {map_distance: mahalanobis, map_coarse_weight: 0.5, map_from: fine}", 'model.map_coarse_weight: has no effect where model.map_from is "fine"; remove it'),
    ("{train.lr: {value: 1}}\nmodel: {map_distance: mahalanobis, feature_codes: 9, map_code_weight: 4.0, map_from: [fine], score_from: codes}", 'model.map_code_weight: has no effect where model.map_from is ["fine"]; remove it'),
    ("{train.lr: {value: 1}}\nconfirm: {seeds: [0, 1]}", "confirm.seeds: has no effect where confirm.top_k is 0; remove it"),
    ("{train.lr: {value: 1}}\ndata: {backbone: {name: vit_small_patch16_224, strides: [16]}}", 'data.backbone.strides: has no effect where data.backbone.name is "vit_small_patch16_224"; remove it'),
    ("{train.lr: {value: 1}}\ndata: {backbone: {name: vit_small_patch16_224, grid_stride: 8}}", 'data.backbone.grid_stride: has no effect where data.backbone.name is "vit_small_patch16_224"; remove it'),
    ("{data.backbone.name: {values: [resnet18, vit_small_patch14_dinov2]}, data.backbone.strides: {values: [[8], [16]]}}\ndata: {image_size: 224}", "parameters.data.backbone.strides: has no effect where data.backbone.name is \"vit_small_patch14_dinov2\"; add a `when` that names data.backbone.name"),
    ("{train.lr: {value: 1}}\nmodel: {ot_levels: [], ot_weight: 5.0}", "model.ot_weight: has no effect where model.ot_levels is []; remove it"),
    ("{train.lr: {value: 1}}\nmodel: {ot_levels: [1], ot_weight: 0}", "model.ot_levels: has no effect where model.ot_weight is 0.0; remove it"),
    ("{train.lr: {value: 1}}\ndata: {validation: {from: none, seed: 1}}", "data.validation.seed: has no effect"),
]  # fmt: skip


@pytest.mark.parametrize(("parameters", "told"), WARNINGS, ids=[told[:40] for _, told in WARNINGS])
def test_options_without_effect_warn(
    write: Write, caplog: pytest.LogCaptureFixture, parameters: str, told: str
) -> None:
    load_sweep(write(parameters))
    assert len(caplog.records) == 1
    assert told in caplog.text


def test_what_is_switched_off_needs_no_effect(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    off = "map_code_weight: 0.0, feature_codes: 0, score_from: fine, ot_weight: 0.0, revive_dead_codes: false"
    load_sweep(
        write("{train.lr: {value: 1}}", f"model: {{quantizer: fsq, map_distance: mahalanobis, {off}}}")
    )
    assert not caplog.records


def test_what_set_left_without_effect_is_not_to_be_removed_from_the_file(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    model = "model: {map_distance: mahalanobis, feature_codes: 9, map_code_weight: 4.0}"
    path = write("{train.lr: {value: 1}}", model)
    load_sweep(path, ["model.feature_codes=0"])
    (record,) = caplog.records
    assert (
        record.getMessage() == f"{path}: model.map_code_weight: has no effect where model.feature_codes is 0"
    )


def test_what_no_condition_can_say_is_not_warned_of(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    """Kept features have an effect by way of the map or of the score."""
    searched = "{model.score_from: {values: [fine, codes]}, model.map_code_weight: {values: [0.0, 4.0]}, model.feature_codes: {values: [8, 9]}}"
    load_sweep(write(f"{searched}\nmodel: {{map_distance: mahalanobis}}"))
    assert not caplog.records


@pytest.mark.parametrize("metric", ["val/pixel_ap", "val/mad", "val/cookie/mad"])
def test_pixel_metrics_that_decide_are_always_measured(
    write: Write, sweep_path: Path, caplog: pytest.LogCaptureFixture, metric: str
) -> None:
    pixel, stop = f"metric.name={metric}", "early_terminate={type: median}"
    load_sweep(sweep_path, [pixel, stop, "train.pixel_metrics=last", "train.checkpoint=last"])
    assert [record.getMessage() for record in caplog.records] == [
        f'--set: train.pixel_metrics: "last" has no effect, as {metric} decides and is measured at every evaluation;'
        " remove it"
    ]
    caplog.clear()
    searched = write("{train.pixel_metrics: {values: [last, always]}}", "train: {checkpoint: last}")
    load_sweep(searched, [pixel])
    assert f"parameters.train.pixel_metrics: has no effect, as {metric} decides" in caplog.text


def test_options_with_effect_somewhere_do_not_warn(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    load_sweep(
        write("{model.quantizer: {values: [vq, fsq]}}", "model: {codebook_size: 8, fsq_levels: [5, 5]}")
    )
    load_sweep(
        write(
            "{model.quantizer: {values: [vq, fsq]},"
            " model.codebook_size: {values: [8, 16], when: {model.quantizer: vq}}}"
        )
    )
    load_sweep(write("{model.ot_weight: {min: 0.0, max: 9.0}}", "model: {ot_levels: [1]}"))
    load_sweep(write("{model.ot_weight: {values: [0, 9]}}", "model: {ot_levels: [1]}"))
    swin = "data: {backbone: {name: swin_tiny_patch4_window7_224, strides: [8, 16]}}"
    load_sweep(write("{train.lr: {value: 1}}", swin, "confirm: {top_k: 1, seeds: [0, 1]}"))
    load_sweep(write("{train.lr: {value: 1}}", "train: {pixel_metrics: last, checkpoint: last}"))
    assert not caplog.records


def test_parameters_ruled_out_by_a_fixed_value_warn_once(
    sweep_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_sweep(sweep_path, ["model.name=squad"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{sweep_path}: parameters: model.router: never apply, as what their `when` names is fixed"
    ]
