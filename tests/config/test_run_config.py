"""One run's configuration: read, written, hashed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.run_config import config_hash, load_run_config, run_config_yaml
from hvqray.config.sections import RunConfig
from hvqray.errors import InputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        "model: {name: squad, width: 64}\ndata: {validation: {from: synthetic}}\ntrain: {lr: 1e-4}\n"
    )
    return path


def test_loads_with_overrides(path: Path) -> None:
    run = load_run_config(path, ["train.epochs=3", "model.hierarchy=residual"])
    assert isinstance(run.model, SquadConfig)
    assert (run.model.width, run.model.hierarchy) == (64, "residual")
    assert (run.train.lr, run.train.epochs, run.data.validation.from_) == (1e-4, 3, "synthetic")


def test_an_empty_file_is_the_default_run(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("model:\n")
    assert load_run_config(tmp_path / "empty.yaml") == RunConfig()


def test_written_run_loads_as_the_same(path: Path, tmp_path: Path) -> None:
    run = load_run_config(path, ["data.root=/data", "train.gradient_clip=null", "resources.workers=2"])
    (tmp_path / "again.yaml").write_text(run_config_yaml(run))
    assert load_run_config(tmp_path / "again.yaml") == run


def test_data_root_is_made_absolute(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_run_config(path, ["data.root=x"]).data.root == str(tmp_path / "x")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.lrr=1", "--set: train.lrr: unknown key; did you mean 'lr'?"),
        ("trains.lr=1", "--set: trains.lr: unknown key; did you mean 'train'?"),
        ("model.num_heads=4", "--set: model.num_heads: unknown key"),
        ("model=hvq", "--set: model: is not a mapping"),
        ("model={name: hvq, width: 64, num_heads: 5}", "--set: model.num_heads: 5 does not divide width 64"),
    ],
)
def test_faults(path: Path, override: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        load_run_config(path, [override])
    assert told in str(caught.value)


def test_faults_of_the_file_name_the_file(path: Path) -> None:
    path.write_text("train: {lr: fast}\n")
    with pytest.raises(InputError, match=r'config\.yaml: train\.lr: "fast" is not a number'):
        load_run_config(path)
    path.write_text("parameters: {}\n")
    with pytest.raises(InputError, match=r"parameters: makes this a sweep file; run it with hvqray\.sweep"):
        load_run_config(path)


def test_hash_counts_everything_but_resources() -> None:
    run = RunConfig()
    assert len(config_hash(run)) == 12
    assert config_hash(RunConfig.model_validate({"resources": {"workers": 2}})) == config_hash(run)
    changes = [
        {"train": {"lr": 2e-3}},
        {"data": {"image_size": 64}},
        {"model": {"name": "squad"}},
        {"train": {"seed": 1}},
    ]
    hashes = {config_hash(RunConfig.model_validate(change)) for change in changes}
    assert len(hashes | {config_hash(run)}) == 5


def test_hash_does_not_depend_on_how_a_value_is_written() -> None:
    as_integer = RunConfig.model_validate(
        {"train": {"lr": 1, "gradient_clip": 1}, "model": {"name": "hvq", "ot_weight": 80}}
    )
    as_float = RunConfig.model_validate({"train": {"lr": 1.0}, "model": HvqConfig()})
    assert config_hash(as_integer) == config_hash(as_float)


def test_hash_is_the_same_in_another_process() -> None:
    code = "from hvqray.config.run_config import *; from hvqray.config.sections import *; print(config_hash(RunConfig()))"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert run.stdout.strip() == config_hash(RunConfig())


def test_a_file_of_weights_is_made_absolute(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def weights(text: str) -> str:
        return load_run_config(path, [f"data.backbone.weights={text}"]).data.backbone.weights

    assert weights("w/lite0.pth") == str(tmp_path / "w" / "lite0.pth")
    assert weights("/w/lite0.safetensors") == "/w/lite0.safetensors"
    assert [weights(name) for name in ("auto", "random", "bundeld")] == ["auto", "random", "bundeld"]


@pytest.mark.parametrize("root", ["123", "a #b", "null", "~x: y"])
def test_a_given_root_is_taken_as_it_is(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = load_run_config(path, ["data.root=/other"], data_root=root)
    assert run.data.root == str(tmp_path / root)
    assert run.data.validation.from_ == "synthetic", "the rest of the section stays"


def test_an_empty_root_is_no_folder(path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.root: is empty; name a folder"):
        load_run_config(path, data_root="")


def test_a_given_root_beside_data_that_are_no_mapping(path: Path) -> None:
    path.write_text("data: 5\n")
    with pytest.raises(InputError, match=r"config\.yaml: data: 5 is not a mapping"):
        load_run_config(path, data_root="x")


def test_options_without_effect_warn(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = load_run_config(path, ["model.codebook_size=512"], by_hand=True)
    told = 'model.codebook_size: has no effect where model.quantizer is "fsq"; remove it'
    assert [record.getMessage() for record in caplog.records] == [f"--set: {told}"]
    caplog.clear()
    path.write_text(run_config_yaml(run))
    load_run_config(path, by_hand=True)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {told}"]
    caplog.clear()
    load_run_config(path)  # as of a file that this package wrote: nobody is to mend that
    assert not caplog.records
    path.write_text(run_config_yaml(load_run_config(path, ["model.quantizer=vq"])))
    load_run_config(path, by_hand=True)
    assert not caplog.records


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("train.seed=-1", "--set: train.seed: -1 is out of range; must be at least 0"),
        ("resources.workers=17", "config.yaml: train.batch_size: 16 images cannot be shared by 17 workers"),
        ("resources.gpus_per_worker=2.5", "2.5 is neither a fraction of one GPU nor a whole number of them"),
    ],
)
def test_ranges(path: Path, override: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        load_run_config(path, [override])
    assert told in str(caught.value)
    load_run_config(path, ["resources.gpus_per_worker=2.0", "resources.workers=16"])


def test_paths_through_links_stay_what_they_are(tmp_path: Path) -> None:
    """`link/..` is the parent of the link's target; that of the text is another folder."""
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "sub")
    path = tmp_path / "run.yaml"
    path.write_text(f"data: {{root: {tmp_path}/link/../data}}\n")
    assert Path(str(load_run_config(path).data.root)).resolve() == tmp_path / "real" / "data"


@pytest.mark.parametrize("value", ["none", "synthetic"])
def test_the_name_of_a_field_in_python_is_no_key(tmp_path: Path, value: str) -> None:
    """What reads the key `from` of a sweep's file would not see that a search looked at the test images."""
    path = tmp_path / "run.yaml"
    path.write_text(f"data: {{validation: {{from_: {value}}}}}\n")
    with pytest.raises(InputError, match=r"data\.validation\.from_: .*did you mean 'from'"):
        load_run_config(path)
