"""Textures of the synthetic set: each function renders one image, with a defect (and its mask) or without."""

from __future__ import annotations

import numpy as np

from hvqray.data.rendering import (
    MASK_THRESHOLD,
    anywhere,
    blob,
    changed,
    grid,
    paint,
    random_stroke,
    shade,
    smooth_noise,
    smoothstep,
    surface,
)


def fabric(rng: np.random.Generator, size: int, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Plain weave: warp and weft threads pass over each other in turn."""
    angle, phase = rng.normal(0, 0.035), rng.uniform(0, 40, 2)
    bend = smooth_noise(rng, size, 90) * 0.12, smooth_noise(rng, size, 90) * 0.12
    thickness = rng.uniform(0.9, 1.1, (2, 128))
    fuzz = smooth_noise(rng, size, 1.6) * 0.035

    def weave(slip: np.ndarray | float, gap: np.ndarray | float) -> np.ndarray:
        x, y = grid(size, (size / 2, size / 2), angle)
        u, v = x / 8 + phase[0] + 20 + bend[0] + slip, y / 8 + phase[1] + 20 + bend[1]
        i, j = np.floor(u).astype(int), np.floor(v).astype(int)
        warp_over = (i + j) % 2 == 0
        across = np.where(warp_over, u - i, v - j) - 0.5
        along = np.where(warp_over, v - j, u - i) - 0.5
        height = (1 - 2.6 * across**2) * (1 - 0.9 * along**2)
        height = height * np.where(warp_over, thickness[0][i % 128], thickness[1][j % 128])
        color = np.where(warp_over[..., None], (0.34, 0.42, 0.55), (0.66, 0.68, 0.70))
        color = np.where((~warp_over & (np.asarray(gap) > 0))[..., None], (0.16, 0.18, 0.23), color)
        return shade(color.astype(np.float32), height + fuzz)

    image, mask = weave(0, 0), np.zeros((size, size), bool)
    center = anywhere(rng, size, 30)
    if defect == "missing_thread":
        x, y = grid(size, center, angle)
        row = (np.abs(y + smooth_noise(rng, size, 60) * 0.4) < 4.5) & (np.abs(x) < rng.uniform(25, 70))
        after = weave(0, row)
        mask = row & changed(image, after)
        image = after
    elif defect == "misweave":
        area = blob(rng, size, center, rng.uniform(20, 36), 4.0)
        after = weave(area * rng.choice([-1, 1]) * rng.uniform(0.4, 0.6), 0)
        mask, image = area > MASK_THRESHOLD, after
    elif defect == "stain":
        alpha = blob(rng, size, center, rng.uniform(10, 26), 7.0)
        tint = rng.uniform(0.6, 0.85) * np.array([1.0, 0.96, 0.86], np.float32)
        mask, image = alpha > MASK_THRESHOLD, paint(image, alpha, image * tint)
    elif defect == "loose_thread":
        alpha = random_stroke(rng, size, center, length=(35, 80), width=3, wiggle=0.25)
        image = paint(image, 0.6 * np.roll(alpha, (2, 2), (0, 1)), image * 0.5)
        mask, image = alpha > MASK_THRESHOLD, paint(image, alpha, (0.74, 0.75, 0.76))
    return image, mask


def brushed_metal(rng: np.random.Generator, size: int, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Sheet steel with horizontal brush marks and a broad reflection."""
    y = np.linspace(-1, 1, size, dtype=np.float32)[:, None]
    lean = rng.normal(0, 0.12) * np.linspace(-1, 1, size, dtype=np.float32)[None]
    reflection = np.exp(-(((y + lean - rng.uniform(-0.6, 0.6)) / rng.uniform(0.5, 0.8)) ** 2))
    marks = 0.6 * smooth_noise(rng, size, (1.2, 45)) + 0.5 * smooth_noise(rng, size, (2.5, 110))
    marks += 0.3 * smooth_noise(rng, size, (1.0, 9))
    image = surface((0.50, 0.51, 0.53), 0.85 + 0.4 * reflection + 0.075 * marks)
    alpha = np.zeros((size, size), np.float32)
    center = anywhere(rng, size, 30)
    if defect == "scratch":
        angle = rng.choice([-1, 1]) * rng.uniform(0.35, 1.5)
        alpha = random_stroke(rng, size, center, angle=angle, length=(30, 90), width=(1.5, 3), wiggle=0.03)
        image = paint(image, 0.4 * np.roll(alpha, 1, 1), image * 0.8)
        image = paint(image, alpha, image * rng.uniform(1.06, 1.3))
    elif defect == "dent":
        radius = rng.uniform(9, 18)
        x, y = grid(size, center, rng.uniform(0, 2 * np.pi))
        bump = np.exp(-(x * x + y * y) / (2 * (radius / 1.8) ** 2))
        alpha = smoothstep(np.hypot(x, y) - radius, 2.0)
        image = shade(image, 1 + rng.uniform(0.1, 0.4) * bump * x / radius * 1.8)
    elif defect == "corrosion":
        alpha = blob(rng, size, center, rng.uniform(7, 18), 4.0)
        alpha *= np.clip(0.75 + 0.4 * smooth_noise(rng, size, 3), 0, 1)
        rust = surface((0.42, 0.27, 0.17), 1 + 0.15 * marks)
        return paint(image, alpha * rng.uniform(0.25, 0.9), rust), alpha > MASK_THRESHOLD
    elif defect == "rubbed":
        alpha = blob(rng, size, center, rng.uniform(16, 30), 5.0)
        other = smooth_noise(rng, size, (40, 1.2)) + 0.4 * smooth_noise(rng, size, 2)
        image = paint(image, alpha, shade(image, 1 + rng.uniform(0.02, 0.08) * other))
    return image, alpha > MASK_THRESHOLD


def wood(rng: np.random.Generator, size: int, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A planed board: growth rings cut lengthwise, dark pores along the grain."""
    x, y = grid(size, (size / 2 + rng.uniform(-60, 60), size / 2), rng.normal(0, 0.04))
    bow = 14 * smooth_noise(rng, size, (170, 90)) + 2.5 * smooth_noise(rng, size, (60, 12))
    rings = (np.abs(x + bow) + 300) / rng.uniform(13, 20)
    late = (rings % 1) ** 2.5
    pores = np.clip(smooth_noise(rng, size, (16, 1.1)) - 1.3, 0, 1)
    tone = 0.06 * smooth_noise(rng, size, (200, 30)) + 0.035 * smooth_noise(rng, size, (45, 1.4))
    light, dark = np.array([0.76, 0.57, 0.38], np.float32), np.array([0.54, 0.35, 0.20], np.float32)
    image = light + (0.65 * late)[..., None] * (dark - light)
    image = shade(image, 1 + tone - 0.35 * pores).astype(np.float32)
    alpha = np.zeros((size, size), np.float32)
    center = anywhere(rng, size, 28)
    if defect == "crack":
        angle = np.pi / 2 + rng.normal(0, 0.12)
        alpha = random_stroke(rng, size, center, angle=angle, length=(35, 90), width=(2, 3.5), wiggle=0.12)
        image = paint(image, alpha, image * rng.uniform(0.3, 0.6))
    elif defect == "scratch":
        angle = rng.choice([0, np.pi]) + rng.uniform(-0.7, 0.7)
        alpha = random_stroke(rng, size, center, angle=angle, length=(25, 80), width=(1.5, 3), wiggle=0.05)
        image = paint(image, alpha * rng.uniform(0.45, 0.8), (0.84, 0.70, 0.53))
    elif defect == "hole":
        radius = rng.uniform(3, 8)
        x, y = grid(size, center, 0)
        alpha = smoothstep(np.hypot(x, y) - radius, 1.5)
        image = paint(image, smoothstep(np.hypot(x, y) - radius - 1.5, 3.0), image * 0.7)
        image = paint(image, alpha, (0.15, 0.10, 0.07))
        return image, np.hypot(x, y) < radius + 1.5
    elif defect == "liquid":
        alpha = blob(rng, size, center, rng.uniform(12, 28), 3.0)
        rim = np.clip(1 - np.abs(alpha - 0.5) * 2, 0, 1)
        wet = image ** np.float32(rng.uniform(1.2, 1.6))
        image = paint(paint(image, alpha, wet), 0.3 * rim, image * 0.6)
    return image, alpha > MASK_THRESHOLD
