"""Building blocks of the procedural pictures: noise, cells, shapes, colours. All (S, S) float32."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]  # (S, S), of 32 bits where it is drawn with
Colour = NDArray[np.floating[Any]]  # (3,) or (S, S, 3), RGB in [0, 1]


@dataclass(frozen=True)
class Plane:
    """A drawn surface before light and noise.

    Attributes
    ----------
    colour : float32 (S, S, 3) in [0, 1]
    region : bool (S, S), the object; all True for a texture
    behind : float32 (S, S, 3), what shows where a piece is missing
    """

    colour: Colour
    region: NDArray[np.bool_]
    behind: Colour


@lru_cache(maxsize=8)
def coordinates(size: int) -> tuple[Field, Field]:
    """Vertical and horizontal position of each pixel's centre, (S, S), in -1..1."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size) * 2 - 1
    y, x = np.meshgrid(line, line, indexing="ij")
    y.setflags(write=False)
    x.setflags(write=False)
    return y, x


def turned(size: int, angle: float, cy: float = 0.0, cx: float = 0.0) -> tuple[Field, Field]:
    """Coordinates turned by ``angle`` (radians) around (cy, cx)."""
    y, x = coordinates(size)
    s, c = np.float32(np.sin(angle)), np.float32(np.cos(angle))
    y, x = y - np.float32(cy), x - np.float32(cx)
    return c * y - s * x, s * y + c * x


def bilinear_noise(rng: np.random.Generator, size: int, rows: int, cols: int) -> Field:
    """Value noise in -1..1 on a lattice of rows x cols cells, smoothly interpolated.

    Indexing and elementwise arithmetic only: a matrix product may differ in its last bits between
    numbers of threads.
    """
    lattice = rng.random((rows + 1, cols + 1), dtype=np.float32) * 2 - 1
    i, f = _lattice(size, rows)
    j, g = _lattice(size, cols)
    lines = lattice[i] + (lattice[i + 1] - lattice[i]) * f[:, None]
    return lines[:, j] + (lines[:, j + 1] - lines[:, j]) * g


@lru_cache(maxsize=256)
def _lattice(size: int, cells: int) -> tuple[NDArray[np.intp], Field]:
    at = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(cells / size)
    i = np.minimum(at.astype(np.intp), cells - 1)
    f = at - i
    return i, (f * f * (3 - 2 * f)).astype(np.float32)


def fractal(
    rng: np.random.Generator, size: int, cells: int, octaves: int, stretch: int = 1
) -> Field:
    """Octaves of noise, each twice as fine and half as strong; ``stretch`` lengthens sideways."""
    total = np.zeros((size, size), dtype=np.float32)
    for k in range(octaves):
        rows = min(cells * 2**k, size)
        total += np.float32(0.5**k) * bilinear_noise(rng, size, rows, max(1, rows // stretch))
    return total


def cells(
    rng: np.random.Generator, size: int, n: int, jitter: float = 0.9
) -> tuple[Field, Field, NDArray[np.intp]]:
    """Distances (in cells) to the two nearest of jittered points, and the id of the nearest."""
    oy = 0.5 + (rng.random((n + 2, n + 2), dtype=np.float32) - 0.5) * np.float32(jitter)
    ox = 0.5 + (rng.random((n + 2, n + 2), dtype=np.float32) - 0.5) * np.float32(jitter)
    at = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(n / size) + 1
    i = at.astype(np.intp)
    f = at - i
    first = np.full((size, size), 9, dtype=np.float32)
    second = first.copy()
    nearest = np.zeros((size, size), dtype=np.intp)
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            cell = np.ix_(i + a, i + b)
            d = (oy[cell] + (a - f)[:, None]) ** 2 + (ox[cell] + (b - f)[None, :]) ** 2
            closer = d < first
            np.minimum(second, np.maximum(d, first), out=second)
            nearest[closer] = ((i + a)[:, None] * (n + 2) + (i + b)[None, :])[closer]
            np.minimum(first, d, out=first)
    return np.sqrt(first), np.sqrt(second), nearest


def step(x: Field, edge: float, width: float) -> Field:
    """0 below ``edge``, 1 above, smooth over ``width``."""
    t = np.clip((x - np.float32(edge)) / np.float32(width) + np.float32(0.5), 0, 1)
    smooth: Field = (t * t * (3 - 2 * t)).astype(np.float32)
    return smooth


def wave(x: Field) -> Field:
    """Triangle-free cosine bump: 0 at integers, 1 halfway."""
    bump: Field = (0.5 - 0.5 * np.cos(x * np.float32(2 * np.pi))).astype(np.float32)
    return bump


def hsv(h: float, s: float, v: float) -> Colour:
    """An RGB colour from hue (any real, in turns), saturation and value."""
    return np.array(
        colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0), 1), min(max(v, 0), 1)), dtype=np.float32
    )


def mix(a: Colour, b: Colour, t: Field) -> Colour:
    """``a`` where t is 0, ``b`` where t is 1."""
    return (a + (b - a) * t[..., None]).astype(np.float32)


def relief(height: Field, strength: float) -> Field:
    """Shading of a height field: about 1, brighter on slopes that face the upper left."""
    shade = np.zeros_like(height)
    shade[1:] += height[1:] - height[:-1]
    shade[:, 1:] += height[:, 1:] - height[:, :-1]
    # steps between neighbouring pixels shrink with resolution
    return 1 + np.float32(strength * height.shape[0] / 128) * shade


def texture(colour: Colour, rng: np.random.Generator, under: Colour | None = None) -> Plane:
    """A plane filled by a texture; ``under`` is the colour below its surface."""
    size = colour.shape[0]
    below = np.array([0.75, 0.7, 0.62], dtype=np.float32) if under is None else under
    behind = below * (1 + 0.06 * bilinear_noise(rng, size, 24, 24))[..., None]
    region = np.ones((size, size), dtype=bool)
    return Plane(np.clip(colour, 0, 1).astype(np.float32), region, behind.astype(np.float32))


def thing(background: Colour, layers: list[tuple[Field, Colour]]) -> Plane:
    """Paint layers (coverage 0..1, colour) over a background; the object is where they cover."""
    colour = background
    cover = np.zeros(background.shape[:2], dtype=np.float32)
    for alpha, paint in layers:
        colour = mix(colour, paint, alpha)
        cover = np.maximum(cover, alpha)
    return Plane(np.clip(colour, 0, 1).astype(np.float32), cover > 0.5, background)


def backdrop(style: np.random.Generator, item: np.random.Generator, size: int) -> Colour:
    """A plain background: dark, light or coloured, with faint unevenness."""
    kind = style.integers(3)
    tint = style.random()
    value = (style.uniform(0.08, 0.25), style.uniform(0.75, 0.95), style.uniform(0.3, 0.65))[kind]
    base = hsv(tint, style.uniform(0.0, 0.08 if kind < 2 else 0.4), value)
    return (base * (1 + 0.05 * fractal(item, size, 3, 2))[..., None]).astype(np.float32)


def pose(item: np.random.Generator, size: int, spin: float = np.pi) -> tuple[Field, Field, float]:
    """Coordinates of an object laid down by hand: slightly off centre, turned up to ``spin``."""
    angle = item.uniform(-spin, spin)
    y, x = turned(size, angle, item.uniform(-0.06, 0.06), item.uniform(-0.06, 0.06))
    return y, x, angle


def edge(size: int) -> float:
    """Width of a soft edge: about 1.5 pixels."""
    return 3.0 / size


def disc(y: Field, x: Field, radius: float, cy: float = 0.0, cx: float = 0.0) -> Field:
    """Coverage of a disc."""
    d = np.sqrt((y - np.float32(cy)) ** 2 + (x - np.float32(cx)) ** 2)
    return step(-d, -radius, edge(y.shape[0]))


def box(y: Field, x: Field, half_h: float, half_w: float, corner: float = 0.02) -> Field:
    """Coverage of a rectangle with rounded corners."""
    qy = np.abs(y) - np.float32(half_h - corner)
    qx = np.abs(x) - np.float32(half_w - corner)
    d = np.sqrt(np.maximum(qy, 0) ** 2 + np.maximum(qx, 0) ** 2) + np.minimum(np.maximum(qy, qx), 0)
    return step(-d, -corner, edge(y.shape[0]))


def polygon(y: Field, x: Field, sides: int, radius: float) -> Field:
    """Coverage of a regular polygon of the given apothem."""
    angles = np.arange(sides) * (2 * np.pi / sides)
    d = np.full(y.shape, -9, dtype=np.float32)
    for a in angles:
        np.maximum(d, y * np.float32(np.sin(a)) + x * np.float32(np.cos(a)), out=d)
    return step(-d, -radius, edge(y.shape[0]))
