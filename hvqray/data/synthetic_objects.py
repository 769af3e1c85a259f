"""Objects of the synthetic set: each function renders one image, with a defect (and its mask) or without."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from hvqray.data.rendering import (
    MASK_THRESHOLD,
    anywhere,
    blob,
    changed,
    grid,
    paint,
    random_point,
    random_stroke,
    shade,
    smooth_noise,
    smoothstep,
    surface,
)


def nut(rng: np.random.Generator, size: int, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A hexagonal steel nut on dark rubber, turned at random."""
    center = (size / 2 + rng.normal(0, 4), size / 2 + rng.normal(0, 4))
    turn, light = rng.uniform(0, np.pi / 3), rng.uniform(-0.5, 0.5)
    rubber = surface((0.13, 0.13, 0.14), 1 + 0.12 * smooth_noise(rng, size, 2))
    grain = 0.05 * smooth_noise(rng, size, (1.5, 9)) + 0.05 * smooth_noise(rng, size, 30)
    thread = rng.uniform(0, 2 * np.pi)
    x, y = grid(size, center, turn)
    radius, azimuth = np.hypot(x, y), np.arctan2(y, x)

    def render(bulge: np.ndarray | float, chip: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        sector = (azimuth % (np.pi / 3)) - np.pi / 6
        outside = np.maximum(radius * np.cos(sector) - 72, radius - 80) + bulge
        body = smoothstep(outside) * (1 - np.asarray(chip, np.float32))
        bevel = np.clip((radius - 66) / 14, 0, 1)
        facing = np.cos(azimuth + turn - light - 0.9)
        tone = 0.62 + 0.05 * np.cos(2 * (azimuth + turn - light)) + 0.22 * bevel * facing + grain
        image = paint(rubber * 0.75, smoothstep(outside - 6, 14.0) * 0.6, (0.03, 0.03, 0.03))
        image = paint(image, body, shade(np.full_like(image, (0.98, 0.97, 0.93)), tone))
        chamfer = 0.35 + 0.25 * np.cos(azimuth + turn - light + 2.2)
        image = paint(image, smoothstep(radius - 43, 1.5), shade(np.ones_like(image), chamfer))
        spiral = 0.22 + 0.10 * np.sin((radius - thread * azimuth.clip(-0.1, 0.1)) * 1.9 + azimuth)
        image = paint(image, smoothstep(radius - 38, 1.5), shade(np.ones_like(image), spiral))
        return paint(image, smoothstep(radius - 29, 1.5), rubber * 0.5), body

    image, body = render(0, 0)
    face = (body > 0.9) & (radius > 45)
    alpha = np.zeros((size, size), np.float32)
    if defect == "chip":
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(70, 78)
        spot = (center[0] + reach * np.cos(angle), center[1] + reach * np.sin(angle))
        after, _ = render(0, blob(rng, size, spot, rng.uniform(8, 14), 1.5))
        return after, changed(image, after, 0.05)
    if defect == "bent":
        swell = np.cos(azimuth - rng.uniform(-np.pi, np.pi))
        after, _ = render(rng.uniform(4, 8) * np.clip(swell - 0.75, 0, 1) * 4, 0)
        return after, changed(image, after, 0.05)
    if defect == "crack":
        angle = rng.uniform(0, 2 * np.pi)
        start = (center[0] + 44 * np.cos(angle), center[1] + 44 * np.sin(angle))
        alpha = random_stroke(rng, size, start, angle=angle, length=(20, 30), width=2.2, wiggle=0.2) * body
        image = paint(image, alpha, image * 0.3)
    elif defect == "rust":
        alpha = blob(rng, size, random_point(rng, face, 3), rng.uniform(6, 14), 4.0) * face
        strength = rng.uniform(0.45, 0.9) * np.clip(0.85 + 0.3 * smooth_noise(rng, size, 3), 0.4, 1)
        image = paint(image, alpha * strength, (0.45, 0.28, 0.16))
    elif defect == "scratch":
        start = random_point(rng, face, 8)
        alpha = random_stroke(rng, size, start, length=(18, 45), width=1.8, wiggle=0.05)
        alpha *= face
        image = paint(image, alpha, image * rng.choice([0.65, 1.4]))
    return image, alpha > MASK_THRESHOLD


def pill(rng: np.random.Generator, size: int, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A two-coloured capsule with an imprint, lit from one side."""
    center = (size / 2 + rng.normal(0, 5), size / 2 + rng.normal(0, 5))
    turn = rng.normal(0, 0.1)
    x, y = grid(size, center, turn)
    table = surface((0.80, 0.82, 0.84), 1 + 0.012 * smooth_noise(rng, size, 3))
    mottle = 0.012 * smooth_noise(rng, size, 2) + 0.02 * smooth_noise(rng, size, 18)
    speckle = np.clip(smooth_noise(rng, size, 1.8) - 2.6, 0, 0.4) * (x > 0)
    length, radius = 52, 36 + rng.normal(0, 0.5)
    outside = np.hypot(np.clip(np.abs(x) - length, 0, None), y) - radius
    body = smoothstep(outside, 1.5)
    red, cream = np.array([0.70, 0.16, 0.15], np.float32), np.array([0.93, 0.86, 0.70], np.float32)
    seam = rng.normal(0, 1.5)

    def render(imprint: np.ndarray, tint: np.ndarray | float = 1.0) -> np.ndarray:
        color = paint(np.broadcast_to(cream, table.shape), smoothstep(x - seam, 1.5), red)
        color = color * np.asarray(tint, np.float32)
        depth = np.sqrt(np.clip(1 - (np.clip(outside + radius, 0, radius) / radius) ** 2, 0, 1))
        tone = 0.55 + 0.5 * depth - 0.12 * y / radius + mottle - speckle
        color = shade(color, tone - 0.25 * np.exp(-(((x - seam) / 1.6) ** 2)))
        color = paint(color, imprint * 0.55, color * 0.45)
        gloss = np.exp(-(((y + 16) / 5) ** 2)) * smoothstep(np.abs(x) - length + 6, 20.0)
        shadow = smoothstep(np.hypot(np.clip(np.abs(x - 4) - length, 0, None), y - 6) - radius, 16.0)
        image = paint(paint(table, shadow * 0.45, table * 0.45), body, color)
        return paint(image, gloss * 0.35 * body, (1, 1, 1))

    normal_imprint = _imprint(x, y, 0.0, 0.0, "HV")
    image = render(normal_imprint)
    inside = outside < -4
    alpha = np.zeros((size, size), np.float32)
    if defect == "faulty_imprint":
        letters = str(rng.choice(["HV", "H", "V"]))
        offset = rng.choice([-1, 1], 2) * rng.uniform(4, 9, 2) * (letters == "HV")
        faulty = _imprint(x, y, offset[0], offset[1], letters)
        return render(faulty), np.abs(faulty - normal_imprint) > MASK_THRESHOLD
    if defect == "discoloured":
        half = smoothstep(x - seam, 3.0) if rng.random() < 0.5 else 1 - smoothstep(x - seam, 3.0)
        shift = 1 + half[..., None] * rng.choice([-1, 1]) * rng.uniform(0.12, 0.25) * np.array(
            [0.4, 1.0, 1.0]
        )
        return render(normal_imprint, shift), (half * body) > 0.5
    if defect == "crack":
        start = random_point(rng, inside, 8)
        alpha = random_stroke(rng, size, start, length=(18, 45), width=2, wiggle=0.3) * body
        image = paint(image, alpha, image * rng.uniform(0.35, 0.65))
    elif defect == "contamination":
        for _ in range(rng.integers(1, 5)):
            alpha = np.maximum(
                alpha, blob(rng, size, random_point(rng, inside), rng.uniform(2.5, 5.5), 1.5) * body
            )
        image = paint(image, alpha * rng.uniform(0.5, 0.9), rng.uniform(0.1, 0.35, 3))
    elif defect == "dent":
        spot = random_point(rng, inside, 12)
        alpha = blob(rng, size, spot, rng.uniform(7, 12), 2.0) * body
        dx, dy = grid(size, spot, 0)
        image = paint(image, alpha, shade(image, 1 + np.clip((dx + dy) * 0.035, -0.4, 0.4)))
    return image, alpha > MASK_THRESHOLD


def _imprint(x: np.ndarray, y: np.ndarray, dx: float, dy: float, letters: str) -> np.ndarray:
    """Alpha of an embossed H and V on the capsule's right half."""
    x, y = x - dx, y - dy
    strokes = []
    if "H" in letters:
        strokes += [np.maximum(np.abs(np.abs(x - 20) - 6) - 1.3, np.abs(y) - 10)]
        strokes += [np.maximum(np.abs(x - 20) - 6, np.abs(y) - 1.3)]
    if "V" in letters:
        strokes += [np.maximum(np.abs(np.abs(x - 42) - (10 - y) * 0.35) - 1.4, np.abs(y) - 10)]
    return smoothstep(np.minimum.reduce(strokes), 1.2)


_BOARD_GREEN, _TRACE_GREEN = (22, 88, 58), (40, 118, 78)


@dataclass
class _Board:
    """What is drawn on the circuit board; positions in its own pixels."""

    pads: dict[int, tuple[int, int]] = field(
        default_factory=lambda: dict(enumerate((x, y) for y in (52, 172) for x in range(52, 188, 17)))
    )
    """Number of each solder pad to its centre; the upper row has 0 to 7, the lower 8 to 15."""
    bridges: list[tuple[int, int]] = field(default_factory=list)
    cuts: list[tuple[int, int]] = field(default_factory=list)
    resistors: dict[int, float] = field(default_factory=lambda: {82: 0.0, 142: 0.0})
    """x of each chip resistor to its angle in degrees."""


def circuit(rng: np.random.Generator, size: int, defect: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A printed circuit: two rows of solder pads, a trace from each, two chip resistors."""
    shift, turn = rng.normal(0, 2.5, 2), rng.normal(0, 1.2)
    solder = rng.uniform(0.9, 1.06, 16)
    laminate = 0.035 * smooth_noise(rng, size, 1.7) + 0.02 * smooth_noise(rng, size, 50)

    def place(drawing: Image.Image) -> np.ndarray:
        move = (round(shift[0] * 3), round(shift[1] * 3))
        turned = drawing.rotate(turn, Image.Resampling.BILINEAR, translate=move, fillcolor=_BOARD_GREEN)
        return np.asarray(turned.resize((size, size), Image.Resampling.BOX))

    def render(board: _Board, scratch: np.ndarray | None = None) -> np.ndarray:
        drawing = place(_draw_board(board, solder))
        image = shade(drawing.astype(np.float32) / 255, 1 + laminate)
        return image if scratch is None else paint(image, scratch, (0.66, 0.47, 0.28))

    normal = _Board()
    image = render(normal)
    if defect is None:
        return image, np.zeros((size, size), bool)
    board, pick = _Board(), int(rng.integers(len(normal.pads)))
    scratch = None
    if defect == "missing_pad":
        del board.pads[pick]
    elif defect == "bridge":
        row, column = divmod(pick, 8)
        board.bridges.append(board.pads[row * 8 + min(column, 6)])
    elif defect == "open_trace":
        x, y = board.pads[pick]
        board.cuts.append((x, int((74 if y < 112 else 150) + rng.integers(-6, 7))))
    elif defect == "misplaced":
        which = int(rng.choice(list(board.resistors)))
        board.resistors[which] = float(rng.choice([-1, 1]) * rng.uniform(9, 35))
        if rng.random() < 0.3:
            del board.resistors[which]
    elif defect == "scratch":
        start = anywhere(rng, size, 45)
        scratch = random_stroke(rng, size, start, length=(25, 70), width=2, wiggle=0.06)
        scratch *= np.float32(rng.uniform(0.5, 0.95))
    after = render(board, scratch)
    return after, changed(image, after, 0.04)


def _draw_board(board: _Board, solder: np.ndarray) -> Image.Image:
    """Draws the board at three times its size, 224 x 224."""

    def scaled(*values: float) -> list[int]:
        return [round(value * 3) for value in values]

    image = Image.new("RGB", (672, 672), _BOARD_GREEN)
    draw = ImageDraw.Draw(image)
    for x in range(52, 188, 17):
        draw.line(scaled(x, 0, x, 92), fill=_TRACE_GREEN, width=15)
        draw.line(scaled(x, 132, x, 224), fill=_TRACE_GREEN, width=15)
    draw.rectangle(scaled(40, 89, 184, 95), fill=_TRACE_GREEN)
    draw.rectangle(scaled(40, 129, 184, 135), fill=_TRACE_GREEN)
    for x, y in board.cuts:
        draw.rectangle(scaled(x - 3.5, y - 4, x + 3.5, y + 4), fill=_BOARD_GREEN)
    for number, (x, y) in board.pads.items():
        tone = solder[number]
        draw.rounded_rectangle(scaled(x - 5.5, y - 12, x + 5.5, y + 12), 9, fill=_grey(172 * tone))
        draw.rounded_rectangle(scaled(x - 3, y - 9, x + 1, y + 5), 6, fill=_grey(222 * tone))
    for x, y in board.bridges:
        draw.ellipse(scaled(x + 1, y - 5, x + 16, y + 5), fill=_grey(186))
        draw.ellipse(scaled(x + 5, y - 3, x + 11, y), fill=_grey(225))
    for x, angle in board.resistors.items():
        part = Image.new("RGBA", (150, 84), (0, 0, 0, 0))
        part_draw = ImageDraw.Draw(part)
        part_draw.rectangle((9, 15, 141, 69), fill=(188, 188, 184, 255))
        part_draw.rectangle((36, 12, 114, 72), fill=(28, 27, 30, 255))
        for bar in (54, 75, 96):
            part_draw.rectangle((bar - 5, 30, bar + 5, 54), fill=(205, 205, 200, 255))
        part = part.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        image.paste(part, (x * 3 - part.width // 2, 112 * 3 - part.height // 2), part)
    return image


def _grey(value: float) -> tuple[int, int, int]:
    level = min(int(value), 255)
    return level, level, min(level + 3, 255)
