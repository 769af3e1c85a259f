"""Reading the published code's files: what they really hold, and what must not run."""

from __future__ import annotations

import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from hvqray.errors import InputError
from hvqray.models.published_file import read_published


class EasyDict(dict):
    """A dict with attributes, pickled under the name of the package that the published code uses."""

    __module__ = "easydict"

    def __init__(self, **entries: object) -> None:
        super().__init__(entries)
        self.__dict__.update(entries)


@pytest.fixture
def easydict(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("easydict")
    module.EasyDict = EasyDict
    monkeypatch.setitem(sys.modules, "easydict", module)


@pytest.mark.usefixtures("easydict")
def test_a_training_checkpoint_is_read_with_its_settings_and_numbers_thrown_away(tmp_path: Path) -> None:
    layers = [EasyDict(name="backbone", kwargs=EasyDict(pretrained=True, outlayers=[1, 2]))]
    weight = torch.randn(3, 2)
    content = {
        "epoch": 11,
        "arch": layers,
        "state_dict": {"module.a.weight": weight, "module.b": torch.zeros(2)},
        "best_metric": np.float64(0.98),
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0)}},
            "param_groups": [{"lr": 1e-4, "params": [0]}],
        },
    }
    torch.save(content, tmp_path / "ckpt.pth.tar")
    state = read_published(tmp_path / "ckpt.pth.tar")
    assert state.keys() == {"a.weight", "b"}
    assert torch.equal(state["a.weight"], weight)


@pytest.mark.usefixtures("easydict")
def test_the_old_format_and_numpy_s_old_names_are_read_too(tmp_path: Path) -> None:
    content = {"state_dict": {"a": torch.ones(2)}, "arch": EasyDict(x=1), "best_metric": np.float64(0.5)}
    file = tmp_path / "old.pth"
    torch.save(content, file, _use_new_zipfile_serialization=False)
    old = file.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"cnumpy.core.multiarray\n" in old
    file.write_bytes(old)
    assert torch.equal(read_published(file)["a"], torch.ones(2))


def test_a_bare_state_dict_is_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pth")
    assert read_published(tmp_path / "x.pth").keys() == {"a"}


class Attack:
    """Would leave a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def test_pickled_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "bad.pth"
    torch.save({"state_dict": {"a": torch.ones(1)}, "arch": Attack(mark)}, file)
    with pytest.raises(InputError) as raised:
        read_published(file)
    assert str(raised.value).startswith(
        f"{file}: holds pickled code, which is never run; save its state_dict"
    )
    assert not mark.exists()


def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("empty", "text", "cut", "list", "nested")}
    files["empty"].write_bytes(b"")
    files["text"].write_text("not a checkpoint\n")
    torch.save({"state_dict": {"a": torch.ones(999)}}, files["cut"])
    files["cut"].write_bytes(files["cut"].read_bytes()[:2000])
    torch.save([torch.ones(1)], files["list"])
    torch.save({"state_dict": {"a": 3}}, files["nested"])
    for name, file in files.items():
        with pytest.raises(InputError) as raised:
            read_published(file)
        message = str(raised.value)
        expected = "holds no state_dict" if name in ("list", "nested") else "cannot be read as a checkpoint"
        assert message.startswith(f"{file}: {expected}"), name
        assert "\n" not in message
    with pytest.raises(InputError, match="no such file; give the checkpoint"):
        read_published(tmp_path / "absent")


def test_the_stand_ins_are_known_inside_only(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "x.pth")
    read_published(tmp_path / "x.pth")
    torch.save({"a": np.float64(1)}, tmp_path / "y.pth")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "y.pth", weights_only=True)
