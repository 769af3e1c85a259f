"""The sweep file: what it means, what it refuses, and that it can be written back."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.parameters import Range
from hvqray.config.sections import RunConfig, TrainConfig
from hvqray.config.sweep_file import SweepFile, check_metric_classes, load_sweep, resolve_run_config
from hvqray.errors import InputError

SPACES = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
Write = Callable[..., Path]


def test_reads_every_part(sweep_path: Path) -> None:
    sweep = load_sweep(sweep_path)
    assert (sweep.name, sweep.project, sweep.method, sweep.run_cap) == ("space", "hvqray", "bayes", None)
    assert [(metric.name, metric.goal) for metric in sweep.metric] == [("val/image_auroc", "maximize")]
    assert list(sweep.parameters) == ["model.name", "model.fsq_levels", "model.router", "train.lr"]
    assert pickle.loads(pickle.dumps(sweep)) == sweep


def test_resolves_a_trial(sweep_path: Path) -> None:
    sweep = load_sweep(sweep_path)
    params = {"model.name": "hvq", "model.fsq_levels": [8, 6, 5], "model.router": "none", "train.lr": 1e-3}
    run = resolve_run_config(sweep, params)
    assert isinstance(run.model, HvqConfig)
    assert (run.model.quantizer, run.model.fsq_levels, run.model.router) == ("fsq", [8, 6, 5], "none")
    assert (run.train.lr, run.train.epochs) == (1e-3, 8)
    assert isinstance(resolve_run_config(sweep, {"model.name": "squad"}).model, SquadConfig)
    with pytest.raises(InputError, match=r"train\.lrr: unknown key; did you mean 'lr'"):
        resolve_run_config(sweep, {"train.lrr": 1})


def test_data_backbone_can_be_searched(write: Write) -> None:
    sweep = load_sweep(write("{data.backbone.name: {values: [a, b]}, data.image_size: {values: [64, 96]}}"))
    run = resolve_run_config(sweep, {"data.backbone.name": "b", "data.image_size": 96})
    assert (run.data.backbone.name, run.data.image_size) == ("b", 96)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_shipped_spaces_load_without_a_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep = load_sweep(path)
    assert not caplog.records
    # A few features are all tried; what they are good for, each of the other spaces has to learn.
    assert sweep.method == ("grid" if path.stem == "features" else "bayes")
    assert [metric.name for metric in sweep.metric] == ["val/mad"]
    assert sweep.early_terminate is not None
    assert isinstance(sweep.base_run_config(), RunConfig)


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_written_sweep_loads_as_the_same(path: Path, tmp_path: Path) -> None:
    sweep = load_sweep(path, ["resources.workers=2", "confirm.top_k=1", "train.seed=3"], 4, "some/data")
    (tmp_path / "sweep.yaml").write_text(sweep.to_yaml())
    again = load_sweep(tmp_path / "sweep.yaml")
    assert again == sweep
    assert again.to_yaml() == sweep.to_yaml()
    assert (again.name, again.run_cap, again.resources.workers) == (path.stem, 4, 2)


def test_all_that_can_be_said_is_written(write: Write, tmp_path: Path) -> None:
    """What sweep.yaml lacked would have changed when the sweep is resumed, which would be refused."""
    parameters = "{model.quantizer: {values: [vq, fsq]}, model.codebook_size: {min: 4, max: 64, when: {model.quantizer: vq}}}"
    keys = {
        "description": "'a: b'",
        "project": "parts",
        "entity": "team",
        "metric": "{name: val/mad, goal: minimize, target: 0.25}",
        "early_terminate": "{type: hyperband, max_iter: 9, s: 1, eta: 2}",
        "run_cap": "7",
        "points_to_evaluate": "[{model.quantizer: fsq}]",
        "baselines": "[patchcore]",
        "confirm": "{top_k: 1, seeds: [3, 4]}",
        "resources": "{workers: 2}",
        "model": "{width: 32}",
        "data": "{image_size: 64}",
        "train": "{seed: 5, epochs: 9}",
    }
    overrides = [f"{key}={value}" for key, value in keys.items()]
    sweep = load_sweep(write(parameters), overrides)
    assert sweep.model_fields_set >= keys.keys()
    (tmp_path / "again.yaml").write_text(sweep.to_yaml())
    assert load_sweep(tmp_path / "again.yaml").model_dump() == sweep.model_dump()


def test_a_logarithmic_range_between_integers_is_of_integers_where_the_field_is(write: Write) -> None:
    ends = "{distribution: log_uniform_values, min: 4, max: 64}"
    sweep = load_sweep(write(f"{{model.codebook_size: {ends}, train.lr: {ends}}}"))
    assert sweep.parameters["model.codebook_size"].domain() == Range(4, 64, log=True, step=1, integer=True)
    assert sweep.parameters["train.lr"].domain() == Range(4.0, 64.0, log=True)


def test_data_root_is_relative_to_the_current_directory(
    sweep_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    expected = str(tmp_path / "elsewhere" / "mvtec")
    assert load_sweep(sweep_path, ["data.root=mvtec"]).data["root"] == expected
    assert load_sweep(sweep_path, ["data.root=other"], data_root="mvtec").data["root"] == expected


def test_max_epochs(sweep_path: Path, write: Write) -> None:
    assert load_sweep(sweep_path).max_epochs() == 8
    assert load_sweep(write("{train.epochs: {values: [2, 9, 5]}}")).max_epochs() == 9
    assert load_sweep(write("{train.epochs: {min: 2, max: 200}}")).max_epochs() == 200


FAULTS = [
    (["model.codebok_size=3"], "--set: model.codebok_size: unknown key; did you mean 'codebook_size'?"),
    (["train.epoch=3"], "--set: train.epoch: unknown key; did you mean 'epochs'?"),
    (["train.epochs=8.0"], "--set: train.epochs: 8.0 is not an integer"),
    (["train.epochs='8'"], '--set: train.epochs: "8" is not an integer'),
    (["train.epochs=true"], "--set: train.epochs: true is not an integer"),
    (["train.epochs=0"], "--set: train.epochs: 0 is out of range; must be at least 1"),
    (["train.precision=fp16"], '--set: train.precision: "fp16" is not one of auto, fp32, bf16; did you mean'),
    (["train=3"], "--set: train: 3 is not a mapping"),
    (["model.width=100"], "--set: model.width: 100 is out of range; must be a multiple of 8"),
    (
        ["data.validation.from=train"],
        '--set: data.validation.from: "train" is not one of test, synthetic, none',
    ),
    (["resources.workers=0"], "--set: resources.workers: 0 is out of range"),
    (["resources.cpus_per_worker=many"], '--set: resources.cpus_per_worker: "many" is not a number; or'),
    (["confirm.seeds=[1, 1]"], "--set: confirm.seeds: [1, 1] names a seed twice; keep one"),
    (["model.name=hvqq"], """--set: parameters.model.name: "hvqq" is no model; did you mean 'hvq'?"""),
    (["model.name=[hvq]"], '--set: parameters.model.name: ["hvq"] is no model'),
    (
        ["model.dropout=0.1"],
        "--set: model.dropout: squad, which model.name may be, has no such field; move it",
    ),
    (["metric.name=val/loss"], "--set: metric.name: 'val/loss' is no metric"),
    (["metric.name=val/image_aurok"], "did you mean 'val/image_auroc'?"),
    (["metric.name=val/cookie/pixel_aupr"], "did you mean 'val/cookie/pixel_aupro'?"),
    (["metric.name=test/image_auroc"], "is measured once, after the search; use 'val/image_auroc'"),
    (["metric.goal=max"], '--set: metric.goal: "max" is not one of maximize, minimize'),
    (["metric={name: val/image_ap}"], "--set: metric.goal: is missing; add it"),
    (["metric=[]"], "--set: metric: [] is too short"),
    (["metric=[{name: val/image_ap, goal: maximize}, {name: val/pixel_ap, goal: Max}]"], "metric[1].goal"),
    (["name=a/b"], '--set: name: "a/b" cannot name a folder'),
    (
        ["name=_a"],
        "\"_a\" cannot name a folder; use up to 100 letters, digits, '.', '_', '-', the first a letter or digit",
    ),
    (["run_cap=0"], "--set: run_cap: 0 is out of range"),
    (["method=3"], "--set: method: 3 is not text"),
    (["early_terminate={type: hyperbend}"], "did you mean 'hyperband'?"),
    (["early_terminate={type: hyperband}"], "give either min_iter, or both max_iter and s"),
    (["early_terminate={type: hyperband, s: 2}"], "max_iter, which is missing"),
    (
        ["early_terminate={type: hyperband, max_iter: 8, s: 700}"],
        "s 700 is too many rungs for eta 3; lower it",
    ),
    (["early_terminate={type: hyperband, min_iter: 2, eta: 1}"], "early_terminate.eta: 1 is out of range"),
    (["early_terminate={type: hyperband, min_iter: 20}"], "epoch 20, lies beyond the 8 epochs of a trial"),
    (["early_terminate={type: median, eta: 3}"], "early_terminate.eta: unknown key"),
    (
        ["early_terminate={type: hyperband, min_iter: 8}"],
        "--set: early_terminate: can stop no trial before its last epoch, 8: the first rung is epoch 8",
    ),
    (
        ["early_terminate={type: median, min_iter: 2}", "train.evaluate_every=8"],
        "and train.evaluate_every is 8; lower min_iter or evaluate_every",
    ),
    (["early_terminate={type: median, min_iter: 6}", "train.evaluate_every=5"], "can stop no trial"),
    (["early_terminate={type: hyperband, max_iter: 24, s: 1}"], "the first rung is epoch 8"),
    (["train.pixel_metrics=last"], "leaves the epoch that checkpoint 'best' keeps unmeasured; use 'always'"),
    (
        ["model.score_pool_size=300"],
        "--set: model.score_pool_size: 300 exceeds data.image_size 224; lower it",
    ),
    (["train.seed=-1"], "--set: train.seed: -1 is out of range; must be at least 0"),
    (["train.seed=2147483648"], "2147483648 is out of range; must be below 2147483648"),
    (["parameters.train.seed={values: [0, -1]}"], "--set: parameters.train.seed: -1 is out of range"),
    (["data.validation.seed=-1"], "--set: data.validation.seed: -1 is out of range"),
    (["confirm.seeds=[0, 4294967296]"], "--set: confirm.seeds[1]: 4294967296 is out of range"),
    (["data.backbone.strides=[8, 9]"], "--set: data.backbone.strides[1]: 9 is not one of"),
    (
        ["data.backbone.strides=[8, 8, 16]"],
        "--set: data.backbone.strides: [8, 8, 16] names a stride twice; keep",
    ),
    (["data.classes=[a, a]"], "--set: data.classes: ['a', 'a'] names a class twice; keep one"),
    (
        ["model.name=hvq", "model.ot_levels=[0, 0]"],
        "--set: model.ot_levels: [0, 0] names a level twice; keep one",
    ),
    (["metric.target=95"], "--set: metric.target: 95 is out of range; must be at most 1"),
    (["metric.target=.nan"], "--set: metric.target: NaN is"),
    (
        ["resources.workers=8", "train.batch_size=4"],
        "--set: train.batch_size: 4 images cannot be shared by 8 workers; raise it or lower resources.workers",
    ),
    (["resources.gpus_per_worker=1.5"], "--set: resources.gpus_per_worker: 1.5 is neither a fraction of one"),
    (["data=5"], "--set: data: 5 is not a mapping"),
]


@pytest.mark.parametrize(
    ("overrides", "told"), FAULTS, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_faults(sweep_path: Path, overrides: list[str], told: str) -> None:
    with pytest.raises(InputError) as caught:
        load_sweep(sweep_path, overrides)
    assert told in str(caught.value)


def test_early_stopping_that_can_stop_a_trial(sweep_path: Path) -> None:
    for rule, every in (("median, min_iter: 7", 1), ("hyperband, min_iter: 4", 7), ("median", 4)):
        load_sweep(sweep_path, [f"early_terminate={{type: {rule}}}", f"train.evaluate_every={every}"])
    some_trial = "parameters.train.evaluate_every={values: [8, 2]}"
    load_sweep(sweep_path, ["early_terminate={type: median}", some_trial])
    longest_trial = "parameters.train.epochs={values: [2, 16]}"
    load_sweep(sweep_path, ["early_terminate={type: median, min_iter: 8}", longest_trial])


def test_trials_that_keep_the_number_of_epochs_count_for_early_stopping(write: Write) -> None:
    def load(parameters: str, rule: str) -> SweepFile:
        both = f"{{train.schedule: {{values: [step, cosine]}}, {parameters}}}"
        return load_sweep(write(both, f"early_terminate: {rule}"))

    hyperband = "{type: hyperband, min_iter: 4}"
    of_step = load("train.epochs: {values: [2, 3], when: {train.schedule: step}}", hyperband)
    assert of_step.max_epochs() == TrainConfig().epochs == 8
    with pytest.raises(InputError, match="beyond the 3 epochs"):
        load("train.epochs: {values: [2, 3], when: {train.schedule: [step, cosine]}}", hyperband)
    rarely = load("train.evaluate_every: {value: 8, when: {train.schedule: step}}", "{type: median}")
    assert rarely.min_evaluate_every() == TrainConfig().evaluate_every == 1


def test_data_that_are_no_mapping_beside_a_given_root(write: Write) -> None:
    path = write("{train.lr: {value: 1}}", "data: 5")
    with pytest.raises(InputError) as caught:
        load_sweep(path, data_root="x")
    assert str(caught.value) == f"{path}: data: 5 is not a mapping of keys to values"


def test_faults_of_the_file_name_the_file(write: Write) -> None:
    path = write("{train.lr: {value: 1}}", "train: {epoch: 3}")
    with pytest.raises(InputError) as caught:
        load_sweep(path)
    assert str(caught.value) == f"{path}: train.epoch: unknown key; did you mean 'epochs'?"


def test_top_level_faults(write: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="paramters: unknown key; did you mean 'parameters'"):
        load_sweep(write("{train.lr: {value: 1}}", "paramters: {}"))
    with pytest.raises(InputError, match="program: has no meaning here"):
        load_sweep(write("{train.lr: {value: 1}}", "program: train.py"))
    (tmp_path / "bare.yaml").write_text("method: bayes\nparameters: {train.lr: {value: 1}}\n")
    with pytest.raises(InputError, match="metric: is missing"):
        load_sweep(tmp_path / "bare.yaml")
    with pytest.raises(InputError, match=r"parameters: .* is too short"):
        load_sweep(write("{}"))


def test_a_section_left_empty_keeps_its_defaults(write: Write) -> None:
    assert load_sweep(write("{train.lr: {value: 1}}", "data:", "resources:")).data == {}


def test_number_of_trials(sweep_path: Path) -> None:
    assert load_sweep(sweep_path, ["run_cap=5"], num_trials=3).run_cap == 3
    with pytest.raises(InputError, match="--num-trials: 0 is out of range"):
        load_sweep(sweep_path, num_trials=0)


def test_a_metric_without_its_goal(write: Write) -> None:
    with pytest.raises(InputError) as refused:
        load_sweep(write("{train.lr: {value: 1}}"), ["metric=val/mad"])
    assert str(refused.value).endswith(
        'metric: "val/mad" lacks its goal; write {name: val/mad, goal: maximize}, or minimize'
    )


def test_several_metrics(write: Write) -> None:
    two = "metric=[{name: val/image_auroc, goal: maximize}, {name: val/cookie/pixel_aupro, goal: maximize}]"
    path = write("{train.lr: {value: 1}}")
    assert len(load_sweep(path, [two]).metric) == 2
    with pytest.raises(InputError, match="cannot rank trials by several metrics"):
        load_sweep(path, [two, "early_terminate={type: hyperband, min_iter: 2}"])
    with pytest.raises(InputError, match="target needs a single metric"):
        load_sweep(path, [two.replace("maximize}]", "maximize, target: 0.9}]")])
    with pytest.raises(InputError, match="listed twice"):
        load_sweep(path, [two.replace("cookie/pixel_aupro", "image_auroc")])


def test_classes_of_metrics(write: Write) -> None:
    sweep = load_sweep(write("{train.lr: {value: 1}}"), ["metric.name=val/cookies/image_ap"])
    check_metric_classes(sweep, ["cookies", "road"])
    with pytest.raises(InputError, match="no class 'cookies'; did you mean 'cookie'"):
        check_metric_classes(sweep, ["cookie", "road"])
    check_metric_classes(load_sweep(write("{train.lr: {value: 1}}")), [])


def test_files_of_weights_are_relative_to_the_current_directory(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        "{data.backbone.weights: {values: [auto, a.pth, /b.pth]},"
        " train.lr: {value: 0.01, when: {data.backbone.weights: [auto, a.pth]}}}"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    a, weights = str(tmp_path / "elsewhere" / "a.pth"), "data.backbone.weights"
    parameters = load_sweep(path).parameters
    assert parameters[weights].values == ["auto", a, "/b.pth"]
    assert parameters["train.lr"].when == {weights: ["auto", a]}
    assert load_sweep(path, [f"{weights}=a.pth"]).parameters[weights].value == a
    fixed = load_sweep(write("{train.lr: {values: [0.01, 0.1]}}"), [f"{weights}=a.pth"])
    assert fixed.data["backbone"]["weights"] == a
