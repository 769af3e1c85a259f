"""Brushes of the synthetic images: noise, shapes with soft edges, and the camera.

Images are (S, S, 3) float32 in [0, 1]; an alpha is (S, S) float32 in [0, 1], the share of a shape in each pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Color = Sequence[float]

MASK_THRESHOLD = 0.3
"""A pixel belongs to a defect where its alpha is above this."""

_SUPERSAMPLING = 4


def smooth_noise(rng: np.random.Generator, size: int, scale: float | tuple[float, float]) -> np.ndarray:
    """(size, size) noise of zero mean and unit variance, whose bumps are about `scale` (or `scale_y, scale_x`) pixels."""
    scale_y, scale_x = scale if isinstance(scale, tuple) else (scale, scale)
    coarse = rng.standard_normal((int(size / scale_y) + 4, int(size / scale_x) + 4)).astype(np.float32)
    # The border of the coarse grid is cut off, so that no bump starts at the image's edge in every image alike.
    left, upper = rng.uniform(0.5, 1.5, 2)
    box = (left, upper, left + size / scale_x, upper + size / scale_y)
    noise = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC, box=box))
    return (noise - noise.mean()) / max(float(noise.std()), 1e-6)


def smoothstep(edge: np.ndarray, width: float = 1.0) -> np.ndarray:
    """Alpha of a shape from its signed distance (negative inside, pixels), with a soft edge of `width` pixels."""
    t = np.clip(0.5 - edge / width, 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def grid(size: int, center: tuple[float, float], angle: float) -> tuple[np.ndarray, np.ndarray]:
    """x and y of each pixel in a frame at `center` (x, y) that is turned by `angle` radians."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    x, y = x - np.float32(center[0]), y - np.float32(center[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def paint(image: np.ndarray, alpha: np.ndarray, color: Color | np.ndarray) -> np.ndarray:
    """Lays a colour, or another image, over `image`."""
    return image + alpha[..., None] * (np.asarray(color, np.float32) - image)


def shade(image: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Multiplies every channel by `factor` (S, S)."""
    return image * factor[..., None].astype(np.float32)


def surface(color: Color, factor: np.ndarray) -> np.ndarray:
    """(S, S, 3) of one colour times `factor` (S, S): its shading and grain."""
    return shade(np.broadcast_to(np.asarray(color, np.float32), (*factor.shape, 3)), factor)


def random_point(rng: np.random.Generator, region: np.ndarray, margin: int = 0) -> tuple[float, float]:
    """(x, y) of a pixel of the boolean `region`, at least `margin` pixels from its border where there are any."""
    if margin:
        from scipy import ndimage  # imported late, here and below: only who draws needs it

        padded = np.pad(region, 1)
        inner = ndimage.distance_transform_edt(padded)[1:-1, 1:-1] > margin
        region = inner if inner.any() else region
    rows, columns = np.nonzero(region)
    pick = rng.integers(len(rows))
    return float(columns[pick]), float(rows[pick])


def anywhere(rng: np.random.Generator, size: int, margin: int) -> tuple[float, float]:
    """(x, y) of a pixel of the square, at least `margin` pixels from its border."""
    return random_point(rng, np.ones((size, size), bool), margin)


def blob(
    rng: np.random.Generator, size: int, center: tuple[float, float], radius: float, edge: float = 2.0
) -> np.ndarray:
    """Alpha of an irregular round patch of about `radius` pixels."""
    x, y = grid(size, center, rng.uniform(0, np.pi))
    stretch = rng.uniform(0.75, 1.3)
    distance = np.hypot(x * stretch, y / stretch)
    wobble = smooth_noise(rng, size, max(radius * 0.7, 3)) * radius * 0.22
    return smoothstep(distance + wobble - radius, edge)


def stroke(
    rng: np.random.Generator,
    size: int,
    start: tuple[float, float],
    *,
    angle: float,
    length: float,
    width: float,
    wiggle: float,
) -> np.ndarray:
    """Alpha of a line from `start` in direction `angle` that strays by `wiggle` radians a step and thins at its ends."""
    num_steps = max(int(length / 3), 2)
    angles = angle + np.cumsum(rng.normal(0, wiggle, num_steps))
    steps = np.stack([np.cos(angles), np.sin(angles)], 1) * (length / num_steps)
    points = (np.cumsum(np.vstack([start, steps]), 0) + 0.5) * _SUPERSAMPLING
    canvas = Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    for step in range(num_steps):
        taper = 0.5 + 0.5 * np.sin(np.pi * (step + 0.5) / num_steps)
        line = [tuple(points[step]), tuple(points[step + 1])]
        draw.line(line, fill=255, width=max(round(width * taper * _SUPERSAMPLING), 1), joint="curve")
    small = canvas.reduce(_SUPERSAMPLING)
    return np.asarray(small, np.float32) / 255


def random_stroke(
    rng: np.random.Generator,
    size: int,
    start: tuple[float, float],
    *,
    angle: float | None = None,
    length: tuple[float, float],
    width: float | tuple[float, float],
    wiggle: float,
) -> np.ndarray:
    """A `stroke` of a length and width within ranges, in any direction unless `angle` says which."""
    if angle is None:
        angle = rng.uniform(0, 6.3)
    drawn_length = rng.uniform(*length)
    drawn_width = rng.uniform(*width) if isinstance(width, tuple) else width
    return stroke(rng, size, start, angle=angle, length=drawn_length, width=drawn_width, wiggle=wiggle)


def changed(before: np.ndarray, after: np.ndarray, threshold: float = 0.02) -> np.ndarray:
    """(S, S) bool: where two renderings of one scene differ, small gaps closed and holes filled."""
    from scipy import ndimage

    difference = np.abs(after - before).max(axis=2) > threshold
    return ndimage.binary_fill_holes(ndimage.binary_closing(difference, iterations=2) | difference)


def photograph(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Takes a picture: uneven lighting, exposure, white balance, focus and sensor noise; (S, S, 3) uint8."""
    from scipy import ndimage

    size = image.shape[0]
    x, y = grid(size, (size / 2, size / 2), rng.uniform(0, 2 * np.pi))
    light = 1 + rng.uniform(0, 0.16) * x / size - rng.uniform(0, 0.12) * (x * x + y * y) / (size * size)
    light = light + 0.015 * smooth_noise(rng, size, size / 3)
    image = shade(image, light * rng.uniform(0.92, 1.06)) * rng.uniform(0.985, 1.015, 3).astype(np.float32)
    image = ndimage.gaussian_filter(image, (sigma := rng.uniform(0.35, 0.75), sigma, 0))
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0.008, 0.018))
    return np.clip(np.round((image + noise) * 255), 0, 255).astype(np.uint8)
