"""Checkpoints: what is written is read back, and what is no checkpoint is refused without running its code."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from full_disk import files_of_at_most
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hvqray.config.data_sections import BackboneConfig, DataConfig
from hvqray.config.model_sections import HvqConfig, SquadConfig
from hvqray.config.run_config import load_run_config
from hvqray.config.sections import RunConfig, TrainConfig
from hvqray.errors import InputError
from hvqray.models.build import build_model
from hvqray.models.context import ModelContext
from hvqray.process_memory import peak_resident_bytes, restart_peak
from hvqray.training.checkpoint import (
    CONFIG_FILE,
    HEADER_KEY,
    METRICS_FILE,
    MODEL_FILE,
    RESUME_FILE,
    load_model,
    load_resume_state,
    remove_resume_state,
    save_model,
    save_resume_state,
    trial_folder,
    write_record,
)

CONTEXT = ModelContext(("bolt", "cloth"), 8, (4, 4), 32)
CPU = torch.device("cpu")
HVQ = HvqConfig(width=16, num_heads=2, feedforward_width=32, codebook_size=4, score_pool_size=4)
SQUAD = SquadConfig(name="squad", width=16, image_width=4, fsq_levels=[5, 5], score_pool_size=4)
RECORD = {"trial_id": "t0001", "epoch": 2, "selected_on_test": False, "metrics": {"val/image_auroc": None}}


def write(folder: Path, model: HvqConfig | SquadConfig = HVQ) -> torch.nn.Module:
    torch.manual_seed(1)
    built = build_model(model, CONTEXT)
    assert isinstance(built, torch.nn.Module)
    config = RunConfig(model=model, train=TrainConfig(seed=5, lr=2e-3))
    save_model(folder, built, config=config, context=CONTEXT, record=RECORD)
    return built


@pytest.mark.parametrize("model", [HVQ, SQUAD], ids=["hvq", "squad"])
@pytest.mark.parametrize("alone", [False, True], ids=["folder", "file alone"])
def test_round_trip(tmp_path: Path, model: HvqConfig | SquadConfig, alone: bool) -> None:
    saved = write(tmp_path / "run", model)
    path = tmp_path / "run"
    if alone:
        path = (path / MODEL_FILE).rename(tmp_path / "renamed.safetensors")
    loaded = load_model(path)
    assert loaded.context == CONTEXT
    assert loaded.config == RunConfig(model=model, train=TrainConfig(seed=5, lr=2e-3))
    assert loaded.metrics == RECORD
    assert not loaded.model.training
    state = loaded.model.state_dict()
    assert state.keys() == saved.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.state_dict().items())


@pytest.mark.parametrize("backbone", ["vit_small_patch16_224", "resnet18"])
def test_the_backbone_tells_whether_locations_are_patches(tmp_path: Path, backbone: str) -> None:
    data = DataConfig(backbone=BackboneConfig(name=backbone))
    context = replace(CONTEXT, grid_of_patches=backbone.startswith("vit"))
    model = build_model(HVQ, context)
    assert isinstance(model, torch.nn.Module)
    save_model(tmp_path, model, config=RunConfig(model=HVQ, data=data), context=context, record=RECORD)
    assert load_model(tmp_path).context == context
    with safe_open(
        tmp_path / MODEL_FILE, framework="pt"
    ) as file:  # as in checkpoints from before it was known
        stored = json.loads(file.metadata()[HEADER_KEY])["context"]
    assert set(stored) == {"class_names", "feature_channels", "grid_size", "image_size"}


def test_the_files_beside_the_weights_are_for_people(tmp_path: Path) -> None:
    write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {MODEL_FILE, CONFIG_FILE, METRICS_FILE}
    assert load_run_config(tmp_path / CONFIG_FILE) == load_model(tmp_path).config
    assert json.loads((tmp_path / METRICS_FILE).read_text()) == RECORD
    measured = {**RECORD, "metrics": {"test/image_auroc": 0.5}}
    write_record(tmp_path, measured)
    assert load_model(tmp_path).metrics == measured
    assert load_model(tmp_path / MODEL_FILE).metrics == RECORD


def test_nothing_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", tmp_path / "missing.safetensors"):
        with pytest.raises(InputError, match=r"no checkpoint there; give a folder with model\.safetensors"):
            load_model(path)


class Malicious:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('code was executed')",))


def other_weights(path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, path)


def header_changed(path: Path, **changes: Any) -> None:
    """The checkpoint with parts of its header replaced; None leaves them out."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()[HEADER_KEY])
    header = {key: value for key, value in {**header, **changes}.items() if value is not None}
    save_file(load_file(path), path, metadata={HEADER_KEY: json.dumps(header)})


BROKEN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "truncated header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "truncated weights": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Malicious(), protocol=2)),
    "torch pickle": lambda path: torch.save(Malicious(), path),
    "weights of something else": other_weights,
    "no configuration": lambda path: header_changed(path, config=None),
    "no record": lambda path: header_changed(path, record=None),
    "configuration of another version": lambda path: header_changed(path, config={"model": {"name": "old"}}),
    "context of another version": lambda path: header_changed(path, context={"classes": ["bolt"]}),
    "context that is none": lambda path: header_changed(path, context=["bolt"]),
}


@pytest.mark.parametrize("flaw", BROKEN)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, flaw: str) -> None:
    write(tmp_path)
    path = tmp_path / MODEL_FILE
    BROKEN[flaw](path)
    for checkpoint in (path, tmp_path):
        with pytest.raises(InputError) as refused:
            load_model(checkpoint)
        message = str(refused.value)
        assert message.startswith(f"{path}: no checkpoint of this version (")
        assert message.endswith("; train it anew")
        assert "\n" not in message


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    context = {"class_names": ["bolt"], "feature_channels": 8, "grid_size": [4, 4], "image_size": 32}
    header_changed(tmp_path / MODEL_FILE, context=context)
    with pytest.raises(InputError, match="weights do not fit their configuration"):
        load_model(tmp_path)


def test_damaged_metrics_are_told(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / METRICS_FILE).write_text('{"trial_id": ')
    with pytest.raises(InputError, match=r"metrics\.json: is damaged .* remove it"):
        load_model(tmp_path)
    (tmp_path / METRICS_FILE).unlink()
    assert load_model(tmp_path).metrics == RECORD


def test_damaged_metrics_of_a_sweep_s_best_model_are_laid_out_again(tmp_path: Path) -> None:
    """The copy in the model is of before it was measured on `test` and confirmed."""
    write(tmp_path / "fsq" / "best")
    (tmp_path / "fsq" / "best" / METRICS_FILE).write_text("{")
    trial_folder(tmp_path / "fsq", "t0001").mkdir(parents=True)
    with pytest.raises(InputError) as refused:
        load_model(tmp_path / "fsq" / "best")
    assert "; repeat the sweep's command with --resume, which lays out best/ anew" in str(refused.value)
    shutil.rmtree(tmp_path / "fsq" / ".state")  # it cannot be resumed any more
    with pytest.raises(InputError, match="; remove it, the model carries a copy"):
        load_model(tmp_path / "fsq" / "best")


def test_a_failed_write_leaves_the_checkpoint_as_it_was(tmp_path: Path) -> None:
    saved = write(tmp_path)
    with files_of_at_most(8000), pytest.raises(OSError, match="File too large") as refused:
        write(tmp_path)
    assert (refused.value.errno, refused.value.filename) == (errno.EFBIG, str(tmp_path / MODEL_FILE))
    assert {path.name for path in tmp_path.iterdir()} == {MODEL_FILE, CONFIG_FILE, METRICS_FILE}
    assert load_model(tmp_path).model.state_dict().keys() == saved.state_dict().keys()


def test_a_checkpoint_is_written_without_another_copy_in_memory(tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.register_buffer("matrices", torch.ones(2**24))
    restart_peak()
    before = peak_resident_bytes()
    save_model(tmp_path, model, config=RunConfig(), context=CONTEXT, record={})
    after = peak_resident_bytes()
    assert (tmp_path / MODEL_FILE).stat().st_size > 4 * 2**24
    if before is None or after is None:
        pytest.skip("only Linux tells")
    assert after - before < 2**24


def test_resume_state_round_trip(tmp_path: Path) -> None:
    assert load_resume_state(tmp_path, device=CPU) is None
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.sum().backward()
    optimizer.step()
    state = {
        "model": {"weight": torch.arange(3)},
        "optimizers": [optimizer.state_dict()],
        "epochs_done": 2,
        "best_epoch": None,
        "selected": {"val/image_auroc": None, "val/image_ap": 0.5},
        "duration_s": 1.5,
    }
    save_resume_state(tmp_path / "run", state)
    loaded = load_resume_state(tmp_path / "run", device=CPU)
    assert loaded is not None
    assert torch.equal(loaded.pop("model")["weight"], torch.arange(3))
    (optimizer_state,) = loaded.pop("optimizers")
    assert torch.equal(optimizer_state["state"][0]["exp_avg"], optimizer.state[parameter]["exp_avg"])
    assert loaded == {name: state[name] for name in loaded}
    remove_resume_state(tmp_path / "run")
    remove_resume_state(tmp_path / "run")
    assert load_resume_state(tmp_path / "run", device=CPU) is None


def test_a_checkpoint_is_on_the_disk_before_it_takes_the_place_of_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave the new name with no content."""
    flushed: set[int] = set()
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        flushed.add(os.fstat(descriptor).st_ino)

    def replacing(source: Path, target: Path) -> None:
        assert os.stat(source).st_ino in flushed, target
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replacing)
    write(tmp_path)
    save_resume_state(tmp_path, {"model": torch.zeros(100_000)})
    assert flushed == {path.stat().st_ino for path in tmp_path.iterdir()}


def test_with_the_resume_state_goes_what_writers_that_were_killed_have_left(tmp_path: Path) -> None:
    write(tmp_path)
    for name in (MODEL_FILE, CONFIG_FILE, METRICS_FILE, RESUME_FILE):
        (tmp_path / f".{name}.43_li0mv").write_bytes(b"half of it")
    remove_resume_state(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {MODEL_FILE, CONFIG_FILE, METRICS_FILE}


def test_a_resume_state_that_the_disk_refuses_is_told_as_that(tmp_path: Path) -> None:
    save_resume_state(tmp_path, {"epochs_done": 1})
    with files_of_at_most(8000), pytest.raises(OSError, match="File too large") as refused:
        save_resume_state(tmp_path, {"epochs_done": 2, "model": torch.zeros(50_000)})
    assert (refused.value.errno, refused.value.filename) == (errno.EFBIG, str(tmp_path / RESUME_FILE))
    assert load_resume_state(tmp_path, device=CPU) == {"epochs_done": 1}
    assert [path.name for path in tmp_path.iterdir()] == [RESUME_FILE]


@pytest.mark.parametrize("flaw", ["empty", "text", "pickle", "torch pickle", "truncated weights"])
def test_a_damaged_resume_state_is_refused_and_never_executed(tmp_path: Path, flaw: str) -> None:
    path = tmp_path / RESUME_FILE
    save_resume_state(tmp_path, {"model": {"weight": torch.zeros(100)}})
    BROKEN[flaw](path)
    with pytest.raises(InputError) as refused:
        load_resume_state(tmp_path, device=CPU)
    message = str(refused.value)
    assert message.startswith(f"{path}: cannot be read as a run's state")
    assert message.endswith("remove it to start the run over")


def test_where_a_trial_keeps_its_checkpoint() -> None:
    assert trial_folder(Path("runs/s"), "t0003") == Path("runs/s/.state/trials/t0003")
