"""Synthetic defects on photographs, for a validation split where no real defect may be looked at.

After the ideas of CutPaste (Li et al., CVPR 2021, arXiv 2104.04015, patches and scars of the image itself) and DRAEM
(Zavrtanik et al., ICCV 2021, arXiv 2108.07610, patches bounded by thresholded smooth noise).
"""

from __future__ import annotations

import numpy as np

from hvqray.data.rendering import MASK_THRESHOLD, anywhere, paint, smooth_noise, smoothstep, stroke

_MIN_PIXELS = 12
_MIN_DIFFERENCE = 8.0


def draw_synthetic_defect(image: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one defect on a square image: a pasted patch, a stain or a scratch, some subtle.

    `image` is (S, S, 3) uint8 and stays as it is. Returns the image (S, S, 3) uint8 and the mask (S, S) uint8 of 0
    and 1, which has a 1 and is 1 wherever the images differ. The same image and seed give the same defect.
    """
    rng = np.random.default_rng(seed)
    size = image.shape[0]
    before = image.astype(np.float32) / 255
    for attempt in range(20):
        center = anywhere(rng, size, size // 8)
        kind = rng.choice(["patch", "stain", "scratch"])
        # A defect that by chance resembles what lies below it is drawn again, stronger.
        strength = min(rng.uniform(0.3, 1.0) + 0.1 * attempt, 1.0)
        if kind == "scratch":
            length, width = size * rng.uniform(0.1, 0.4), max(size * rng.uniform(0.006, 0.015), 1.5)
            angle = rng.uniform(0, 2 * np.pi)
            alpha = stroke(
                rng, size, center, angle=angle, length=length, width=width, wiggle=rng.uniform(0.02, 0.3)
            )
            source = _recolor(rng, before, center)
        else:
            alpha = _patch_shape(rng, size, center)
            source = _elsewhere(rng, before) if kind == "patch" else _recolor(rng, before, center)
        mask = alpha > MASK_THRESHOLD
        after = paint(before, np.where(mask, alpha * np.float32(strength), 0), source)
        drawn = np.clip(np.round(after * 255), 0, 255).astype(np.uint8)
        difference = np.abs(drawn.astype(np.float32) - image).max(axis=2)
        if mask.sum() >= _MIN_PIXELS and difference[mask].mean() >= _MIN_DIFFERENCE:
            break
    return drawn, mask.astype(np.uint8)


def _patch_shape(rng: np.random.Generator, size: int, center: tuple[float, float]) -> np.ndarray:
    """Alpha of one connected patch with a ragged edge, 3 to 12 % of the side in radius."""
    from scipy import ndimage  # imported late: only who draws defects needs it

    radius = size * rng.uniform(0.03, 0.12)
    rows, columns = np.ogrid[:size, :size]
    distance = np.hypot(columns - center[0], rows - center[1]).astype(np.float32)
    alpha = smoothstep(distance + smooth_noise(rng, size, max(radius * 0.6, 3)) * radius * 0.3 - radius, 2.0)
    labels, count = ndimage.label(alpha > MASK_THRESHOLD)
    if count > 1:
        largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
        alpha = np.where(labels == largest, alpha, 0)
    return alpha


def _elsewhere(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image itself, shifted, flipped and a little brighter or darker."""
    size = image.shape[0]
    shift = rng.integers(size // 5, size - size // 5, 2)
    source = np.roll(image, shift, (0, 1))
    if rng.random() < 0.5:
        source = source.transpose(1, 0, 2)
    return source * np.float32(rng.uniform(0.8, 1.2))


def _recolor(rng: np.random.Generator, image: np.ndarray, center: tuple[float, float]) -> np.ndarray:
    """The image darkened, brightened or tinted, keeping its texture."""
    brightness = image[int(center[1]), int(center[0])].mean()
    factor = rng.uniform(0.25, 0.7) if brightness > 0.35 else rng.uniform(1.4, 2.2)
    tint = rng.uniform(0.85, 1.15, 3).astype(np.float32)
    return (image if brightness > 0.05 else image + np.float32(0.15)) * np.float32(factor) * tint
