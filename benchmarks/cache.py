"""The feature cache: what building it costs, and reading it against decoding and the backbone in every epoch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.measure import Limits, Work, count_flops, devices, interleave, print_table, quick_flag
from hvqray.config.data_sections import BackboneConfig, DataConfig
from hvqray.data.backbones import load_backbone
from hvqray.data.dataset import Split
from hvqray.data.prepare import prepare_data
from hvqray.training.batches import make_batch

BACKBONES = ("tf_efficientnet_lite0", "tf_efficientnet_b4")
NUM_IMAGES, PHOTO_SIDE, IMAGE_SIZE = 48, 900, 224
"""MVTec AD's photographs are 700 to 1024 pixels wide."""
BATCH = 16
HEADER = (
    "backbone", "naive s/image and epoch", "build s/image", "read s/image", "naive / build", "naive / read", "build, of the fp32 rate", "read, of the copy rate",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    quick = quick_flag("cache: PIL and timm in every epoch against building and reading the cache", argv)
    num_images, side, rounds = (8, 96, 1) if quick else (NUM_IMAGES, PHOTO_SIDE, 5)
    size = 64 if quick else IMAGE_SIZE
    with tempfile.TemporaryDirectory() as folder:
        photographs = _write_photographs(Path(folder) / "photographs", num_images, side)
        for device in devices():
            limits = Limits(device, quick=quick)
            rows = []
            for name in BACKBONES[: 1 if quick else 2]:
                row, line = _measure(name, size, photographs, device, limits, rounds=rounds)
                rows.append(row)
            print(f"{device}, {line}\n")
            print_table(HEADER, rows)


def _measure(
    name: str, size: int, photographs: Path, device: str, limits: Limits, *, rounds: int
) -> tuple[list[object], str]:
    # val is the test part; it is small, and what is read here is train.
    config = DataConfig.model_validate(
        {"root": str(photographs), "image_size": size, "backbone": {"name": name, "weights": "random"}}
    )
    paths = sorted(photographs.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as kept:
        split = prepare_data(config, cache_dir=Path(kept), device=device).splits["train"]

        def build() -> None:
            with tempfile.TemporaryDirectory() as empty:
                prepare_data(config, cache_dir=Path(empty), device=device)

        works: dict[str, Work] = {
            "naive": _naive_epoch(name, size, paths, device),
            "build": build,
            "read": lambda: _read(split, device),
        }
        measured = interleave(works | limits.works, rounds=rounds, device=device)
    backbone = load_backbone(BackboneConfig(name=name, weights="random"), size)
    flops = count_flops(lambda: backbone(torch.zeros(1, 3, size, size, dtype=torch.uint8))) * len(paths)
    # Read as float16, copied out of the map, widened to float32: 2 + 2 + 2 + 4 bytes a value.
    read_bytes = 10 * int(np.prod(split.all_features.shape[1:])) * len(split)
    per_image = {"naive": len(paths), "build": len(paths), "read": len(split)}
    seconds = {work: measured.seconds(work) / count for work, count in per_image.items()}
    return [
        name,
        *seconds.values(),
        measured.ratio("naive", "build"),
        f"{seconds['naive'] / seconds['read']:.0f}",
        measured.share_of_rate("build", flops, "limit fp32", limits.flops),
        measured.share_of_rate("read", read_bytes, "limit copy", limits.copied_bytes),
    ], limits.describe(measured)


def _naive_epoch(name: str, size: int, paths: list[Path], device: str) -> Callable[[], None]:
    """Decode, resize and run timm's extractor as it comes, in eval mode, on every image."""
    network = timm.create_model(name, features_only=True, out_indices=(0, 1, 2, 3)).eval().to(device)

    @torch.no_grad()
    def epoch() -> None:
        for start in range(0, len(paths), BATCH):
            arrays = []
            for path in paths[start : start + BATCH]:
                with Image.open(path) as image:
                    arrays.append(
                        np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
                    )
            images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
            stages = network(images)
            grid = stages[-1].shape[2:]
            torch.cat([F.interpolate(x, grid, mode="bilinear", align_corners=True) for x in stages], dim=1)

    return epoch


def _read(split: Split, device: str) -> None:
    """One epoch in shuffled batches, as training reads them."""
    order = np.random.default_rng(0).permutation(len(split))
    for start in range(0, len(order), BATCH):
        make_batch(split, order[start : start + BATCH], device=device, images=False)


def _write_photographs(root: Path, num_images: int, side: int) -> Path:
    """Smooth colour noise as JPEG, which decodes like photographs, in the MVTec AD layout."""
    rng = np.random.default_rng(0)
    for number in range(num_images):
        part = root / "part" / ("test" if number % 4 == 0 else "train") / "good"
        part.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(part / f"{number:03d}.jpg", quality=95)
    return root


if __name__ == "__main__":
    main()
