"""Texture families the micro models are trained on. Style fixes the kind, item the piece."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datasets._rendering.base import (
    Colour,
    Field,
    Plane,
    bilinear_noise,
    cells,
    edge,
    fractal,
    hsv,
    mix,
    relief,
    step,
    texture,
    turned,
    wave,
)

Rng = np.random.Generator


def _tilt(style: Rng, item: Rng, size: int, n: float) -> tuple[Field, Field]:
    """Coordinates in periods, ``n`` over the picture: the style's angle, the item's offset."""
    angle = style.choice([0.0, 0.0, np.pi / 4, np.pi / 2]) + style.uniform(-0.05, 0.05)
    y, x = turned(size, angle + item.normal(0, 0.015))
    return y * np.float32(n / 2) + np.float32(item.random() * 8 + 64), x * np.float32(
        n / 2
    ) + np.float32(item.random() * 8 + 64)


def _paint(style: Rng, s: tuple[float, float], v: tuple[float, float]) -> Colour:
    return hsv(style.random(), style.uniform(*s), style.uniform(*v))


def _lit(colour: Colour, light: Field) -> Colour:
    return (colour * light[..., None]).astype(np.float32)


def fabric(style: Rng, item: Rng, size: int) -> Plane:
    """Plain weave: warp and weft pass over each other in turn."""
    warp, weft = _paint(style, (0.1, 0.7), (0.35, 0.9)), _paint(style, (0.1, 0.7), (0.35, 0.9))
    y, x = _tilt(style, item, size, style.uniform(9, 20))
    y = y + 0.1 * bilinear_noise(item, size, 5, 5)
    over = ((np.floor(y) + np.floor(x)) % 2 == 0).astype(np.float32)
    ridge = np.where(over > 0, wave(x) * (0.6 + 0.4 * wave(y)), wave(y) * (0.6 + 0.4 * wave(x)))
    return texture(
        _lit(mix(weft, warp, over), 0.55 + 0.5 * ridge + 0.05 * fractal(item, size, 4, 2)), item
    )


def denim(style: Rng, item: Rng, size: int) -> Plane:
    """Twill: diagonal ribs."""
    base = hsv(style.uniform(0.55, 0.65), style.uniform(0.3, 0.7), style.uniform(0.35, 0.7))
    y, x = _tilt(style, item, size, style.uniform(12, 20))
    rib = wave(x + y * style.uniform(0.6, 1.4))
    speck = bilinear_noise(item, size, 48, 16)
    return texture(
        _lit(base, 0.75 + 0.35 * rib + 0.1 * speck + 0.08 * fractal(item, size, 3, 2)), item
    )


def knit(style: Rng, item: Rng, size: int) -> Plane:
    """Columns of V-shaped stitches."""
    base = _paint(style, (0.1, 0.8), (0.4, 0.9))
    y, x = _tilt(style, item, size, style.uniform(7, 13))
    v = np.abs(x % 1 - 0.5)
    stitch = wave(y * 1.3 + v * 1.6)
    valley = step(v, 0.04, 0.12) * step(0.5 - v, 0.04, 0.12)
    light = 0.5 + 0.35 * stitch + 0.25 * valley + 0.05 * fractal(item, size, 4, 2)
    return texture(_lit(base, light), item)


def brushed_metal(style: Rng, item: Rng, size: int) -> Plane:
    """Fine parallel streaks."""
    base = _paint(style, (0.0, 0.15), (0.5, 0.8))
    streaks = bilinear_noise(item, size, size // 2, 2) + 0.6 * bilinear_noise(
        item, size, size // 4, 3
    )
    if style.random() < 0.5:
        streaks = streaks.T
    sheen = 0.12 * bilinear_noise(item, size, 1, 3)
    return texture(_lit(base, 1 + 0.09 * streaks + sheen), item, under=base * 0.4)


def tiles(style: Rng, item: Rng, size: int) -> Plane:
    """Square tiles with joints, tones varying from tile to tile."""
    base, joint = _paint(style, (0.0, 0.6), (0.5, 0.95)), _paint(style, (0, 0.1), (0.25, 0.85))
    y, x = _tilt(style, item, size, style.uniform(2.5, 6))
    if style.random() < 0.4:
        x = x + 0.5 * (np.floor(y) % 2)
    tone = item.random((16, 16), dtype=np.float32)[
        np.floor(y).astype(int) % 16, np.floor(x).astype(int) % 16
    ]
    rim = np.minimum(0.5 - np.abs(y % 1 - 0.5), 0.5 - np.abs(x % 1 - 0.5))
    flat = step(rim, 0.06, 0.06)
    light = (0.92 + 0.14 * tone + 0.05 * fractal(item, size, 4, 3)) * relief(flat, 0.25)
    return texture(mix(joint, _lit(base, light), flat), item, under=joint * 0.8)


def bricks(style: Rng, item: Rng, size: int) -> Plane:
    """A brick wall in running bond."""
    base = hsv(style.uniform(-0.02, 0.09), style.uniform(0.35, 0.7), style.uniform(0.4, 0.75))
    joint = _paint(style, (0, 0.1), (0.5, 0.85))
    y, x = _tilt(style, item, size, style.uniform(3, 6))
    y, x = y * 2, x + 0.5 * (np.floor(y * 2) % 2)
    tone = item.random((16, 16), dtype=np.float32)[
        np.floor(y).astype(int) % 16, np.floor(x).astype(int) % 16
    ]
    rim = np.minimum((0.5 - np.abs(y % 1 - 0.5)) / 2, 0.5 - np.abs(x % 1 - 0.5))
    flat = step(rim + 0.01 * bilinear_noise(item, size, 24, 24), 0.045, 0.04)
    light = (0.8 + 0.35 * tone + 0.12 * fractal(item, size, 6, 3)) * relief(flat, 0.2)
    return texture(mix(joint, _lit(base, light), flat), item, under=base * 0.5)


def concrete(style: Rng, item: Rng, size: int) -> Plane:
    """Grey, cloudy, with small pores."""
    base = _paint(style, (0, 0.1), (0.45, 0.75))
    first, _, nearest = cells(item, size, int(style.integers(8, 16)), 1.0)
    big = item.random(400, dtype=np.float32)[nearest % 400]
    pore = (1 - step(first, 0.14, 0.1)) * (big > 0.6)
    light = 1 + 0.13 * fractal(item, size, 3, 5) - 0.4 * pore
    return texture(_lit(base, light), item, under=base * 0.5)


def terrazzo(style: Rng, item: Rng, size: int) -> Plane:
    """Coloured stone chips set in a matrix."""
    matrix = _paint(style, (0, 0.2), (0.55, 0.95))
    palette = np.stack([_paint(style, (0.1, 0.6), (0.25, 0.85)) for _ in range(4)])
    n = int(style.integers(6, 13))
    first, second, nearest = cells(item, size, n, 1.0)
    stone = palette[item.integers(0, 4, (n + 2) ** 2)][nearest]
    cover = step(second - first, style.uniform(0.12, 0.3), 0.12)
    colour = matrix + (stone - matrix) * cover[..., None]
    return texture(_lit(colour, 1 + 0.05 * fractal(item, size, 4, 3)), item)


def corrugated(style: Rng, item: Rng, size: int) -> Plane:
    """Parallel ridges of sheet metal."""
    base = _paint(style, (0, 0.6), (0.45, 0.85))
    y, _ = _tilt(style, item, size, style.uniform(4, 11))
    ridge = wave(y) ** np.float32(style.uniform(0.6, 2))
    light = 0.55 + 0.5 * ridge + 0.06 * fractal(item, size, 4, 3, 2)
    return texture(_lit(base, light), item, under=base * 0.3)


def perforated(style: Rng, item: Rng, size: int) -> Plane:
    """A plate with rows of round holes."""
    base, deep = _paint(style, (0, 0.4), (0.5, 0.85)), _paint(style, (0, 0.3), (0.03, 0.2))
    n = style.uniform(5, 10)
    y, x = _tilt(style, item, size, n)
    if style.random() < 0.5:
        x = x + 0.5 * (np.floor(y) % 2)
    r = np.sqrt((y % 1 - 0.5) ** 2 + (x % 1 - 0.5) ** 2)
    plate = step(r, style.uniform(0.22, 0.34), edge(size) * n / 2)
    light = (1 + 0.07 * fractal(item, size, 3, 3)) * relief(plate, 0.15)
    return texture(mix(deep, _lit(base, light), plate), item, under=deep)


def honeycomb(style: Rng, item: Rng, size: int) -> Plane:
    """Hexagonal cells with thin walls."""
    wall, floor = _paint(style, (0.2, 0.8), (0.55, 0.95)), _paint(style, (0.2, 0.8), (0.15, 0.5))
    y, x = _tilt(style, item, size, style.uniform(5, 9))
    s = np.float32(np.sqrt(3))
    best = np.full_like(y, 9)
    for oy, ox in ((0.0, 0.0), (0.5, 0.5)):  # two rectangular lattices make a hexagonal one
        fy = np.abs((y / s + oy) % 1 - 0.5) * s
        fx = np.abs((x + ox) % 1 - 0.5)
        np.minimum(best, np.maximum(fx, fx * 0.5 + fy * s / 2), out=best)
    rim = step(best, 0.40, 0.08)
    light = 1 + 0.06 * fractal(item, size, 4, 3) - 0.25 * step(best, 0.2, 0.4) * (1 - rim)
    return texture(_lit(mix(floor, wall, rim), light), item)


def sand(style: Rng, item: Rng, size: int) -> Plane:
    """Wind ripples with grain."""
    base = hsv(style.uniform(0.07, 0.13), style.uniform(0.2, 0.5), style.uniform(0.6, 0.9))
    y, _ = _tilt(style, item, size, style.uniform(3, 8))
    ripple = wave(y + 0.5 * fractal(item, size, 3, 2)) ** 2
    grain = bilinear_noise(item, size, 48, 48)
    return texture(_lit(base, 0.78 + 0.25 * ripple + 0.07 * grain), item)


def cork(style: Rng, item: Rng, size: int) -> Plane:
    """Pressed granules in browns."""
    base = hsv(style.uniform(0.06, 0.1), style.uniform(0.35, 0.6), style.uniform(0.5, 0.8))
    n = int(style.integers(11, 19))
    first, second, nearest = cells(item, size, n, 1.0)
    tone = 0.75 + 0.4 * item.random((n + 2) ** 2, dtype=np.float32)[nearest]
    light = tone * (0.8 + 0.2 * step(second - first, 0.1, 0.15)) + 0.06 * fractal(item, size, 6, 2)
    return texture(_lit(base, light), item, under=base * 0.4)


def wicker(style: Rng, item: Rng, size: int) -> Plane:
    """Basket weave: pairs of strands, crossing."""
    base = hsv(style.uniform(0.05, 0.13), style.uniform(0.3, 0.7), style.uniform(0.5, 0.85))
    y, x = _tilt(style, item, size, style.uniform(4, 8))
    over = (np.floor(y) + np.floor(x)) % 2 == 0
    along, across = np.where(over, y, x), np.where(over, x, y)
    light = (
        0.4 + 0.35 * wave(along) ** 0.7 + 0.3 * wave(across * 3) + 0.06 * fractal(item, size, 5, 2)
    )
    return texture(_lit(base, light), item, under=base * 0.2)


def checker_plate(style: Rng, item: Rng, size: int) -> Plane:
    """Steel plate with raised lozenges, turned from one to the next."""
    base = _paint(style, (0, 0.12), (0.4, 0.7))
    y, x = _tilt(style, item, size, style.uniform(4, 8))
    flip = np.where((np.floor(y) + np.floor(x)) % 2 == 0, 1.0, -1.0).astype(np.float32)
    fy, fx = y % 1 - 0.5, (x % 1 - 0.5) * flip
    a, b = (fy + fx) * np.float32(0.7071), (fy - fx) * np.float32(0.7071)
    bump = step(-np.sqrt((a / 0.48) ** 2 + (b / 0.16) ** 2), -0.9, 0.4)
    light = (1 + 0.1 * fractal(item, size, 4, 3)) * relief(bump, 0.5) + 0.12 * bump
    return texture(_lit(base, light), item, under=base * 0.3)


def paper(style: Rng, item: Rng, size: int) -> Plane:
    """Nearly even, faint fibres and clouds."""
    base = _paint(style, (0, 0.3), (0.65, 0.97))
    light = 1 + 0.035 * fractal(item, size, 4, 4) + 0.02 * bilinear_noise(item, size, 40, 12)
    return texture(_lit(base, light), item, under=base * 0.5)


def plaster(style: Rng, item: Rng, size: int) -> Plane:
    """A rough coat lit from the side."""
    base = _paint(style, (0, 0.4), (0.6, 0.9))
    height = fractal(item, size, int(style.integers(6, 14)), 3)
    return texture(_lit(base, relief(height, style.uniform(0.25, 0.6))), item, under=base * 0.5)


def rubber_mat(style: Rng, item: Rng, size: int) -> Plane:
    """Round studs on a dark mat."""
    base = _paint(style, (0, 0.5), (0.2, 0.5))
    n = style.uniform(4, 8)
    y, x = _tilt(style, item, size, n)
    r = np.sqrt((y % 1 - 0.5) ** 2 + (x % 1 - 0.5) ** 2)
    stud = step(-r, -style.uniform(0.24, 0.36), 0.12)
    light = (0.85 + 0.3 * stud + 0.07 * fractal(item, size, 4, 3)) * relief(stud, 0.35)
    return texture(_lit(base, light), item, under=base * 0.4 + 0.3)


def sponge(style: Rng, item: Rng, size: int) -> Plane:
    """Foam: a light body with dark pores of all sizes."""
    base = hsv(style.uniform(0.05, 0.2), style.uniform(0.3, 0.8), style.uniform(0.65, 0.95))
    first, second, _ = cells(item, size, int(style.integers(9, 15)), 1.0)
    fine, _, _ = cells(item, size, 22, 1.0)
    wall = step(second - first, 0.1, 0.3)
    light = 1.0 - 0.4 * wall * step(-first, -0.42, 0.3) - 0.15 * step(-fine, -0.3, 0.2)
    return texture(_lit(base, light), item, under=base * 0.4)


def roof(style: Rng, item: Rng, size: int) -> Plane:
    """Overlapping scales of roof shingles."""
    base = _paint(style, (0.1, 0.6), (0.35, 0.75))
    y, x = _tilt(style, item, size, style.uniform(4, 8))
    best = np.zeros_like(y)
    tone = item.random((16, 16), dtype=np.float32)
    light = np.full_like(y, 0.5)
    for k in (1, 0):  # the upper row hides the lower
        row = np.floor(y) + k
        fx = (x + 0.5 * (row % 2)) % 1 - 0.5
        column = np.floor(x + 0.5 * (row % 2))
        drop = y - row + 1
        inside = step(0.95 - np.sqrt(np.maximum(drop - 0.5, 0) ** 2 * 2 + fx * fx * 2.4), 0.3, 0.08)
        shade = (
            0.7
            + 0.3 * np.clip(drop, 0, 1)
            + 0.2 * tone[row.astype(int) % 16, column.astype(int) % 16]
        )
        light = light + (shade - light) * inside
        best = np.maximum(best, inside)
    return texture(_lit(base, light + 0.05 * fractal(item, size, 5, 2)), item, under=base * 0.3)


def striped_cloth(style: Rng, item: Rng, size: int) -> Plane:
    """Coloured stripes of several widths on fine cloth."""
    palette = np.stack([_paint(style, (0.1, 0.8), (0.3, 0.95)) for _ in range(3)])
    order = style.integers(0, 3, 8)
    n = style.uniform(5, 10)
    y, x = _tilt(style, item, size, n)
    at = y + 0.04 * bilinear_noise(item, size, 4, 4)
    now, following = (palette[order[(np.floor(at).astype(int) + k) % 8]] for k in (0, 1))
    blend = step(at % 1, 0.95, edge(size) * n)
    colour = now + (following - now) * blend[..., None]
    light = 0.9 + 0.1 * wave(x * 3) + 0.06 * fractal(item, size, 4, 2)
    return texture(_lit(colour, light), item)


FAMILIES: dict[str, tuple[Callable[[Rng, Rng, int], Plane], str]] = {
    "bricks": (bricks, "brick wall"),
    "brushed_metal": (brushed_metal, "brushed metal"),
    "checker_plate": (checker_plate, "steel plate"),
    "concrete": (concrete, "concrete"),
    "cork": (cork, "cork"),
    "corrugated": (corrugated, "corrugated sheet"),
    "denim": (denim, "denim"),
    "fabric": (fabric, "woven fabric"),
    "honeycomb": (honeycomb, "honeycomb"),
    "knit": (knit, "knitted wool"),
    "paper": (paper, "paper"),
    "perforated": (perforated, "perforated plate"),
    "plaster": (plaster, "plaster"),
    "roof": (roof, "roof shingles"),
    "rubber_mat": (rubber_mat, "rubber mat"),
    "sand": (sand, "sand"),
    "sponge": (sponge, "sponge"),
    "striped_cloth": (striped_cloth, "striped cloth"),
    "terrazzo": (terrazzo, "terrazzo"),
    "tiles": (tiles, "ceramic tiles"),
    "wicker": (wicker, "wicker"),
}
