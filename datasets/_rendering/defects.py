"""Kinds of damage drawn on a plane, each with its exact mask.

A defect changes colours only where its coverage is above zero; that is its mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datasets._rendering.base import (
    Colour,
    Field,
    Plane,
    bilinear_noise,
    coordinates,
    hsv,
    mix,
    step,
    turned,
)

LEAST = 0.12  # coverage below this is not drawn, so that every pixel of a mask really changes


@dataclass(frozen=True)
class Damage:
    """Colours with the defect, float32 (S, S, 3), and where it is, bool (S, S)."""

    colour: Colour
    mask: NDArray[np.bool_]


def _place(
    rng: np.random.Generator, region: NDArray[np.bool_], border: bool = False
) -> tuple[float, float]:
    """A point of the region (its outline if ``border``), in -1..1, away from the picture's rim."""
    size = region.shape[0]
    inside = region.copy()
    rim = max(1, size // 10)
    inside[:rim] = inside[-rim:] = False
    inside[:, :rim] = inside[:, -rim:] = False
    if border and not region.all():
        outline = inside & ~(
            np.roll(region, 2, 0)
            & np.roll(region, -2, 0)
            & np.roll(region, 2, 1)
            & np.roll(region, -2, 1)
        )
        inside = outline if outline.any() else inside
    at = np.flatnonzero(inside if inside.any() else region)
    k = int(at[rng.integers(len(at))])
    return (k // size + 0.5) / size * 2 - 1, (k % size + 0.5) / size * 2 - 1


def _blob(
    rng: np.random.Generator, size: int, at: tuple[float, float], radius: float, soft: float
) -> Field:
    """Coverage of an irregular spot: a disc whose radius varies with direction."""
    y, x = turned(size, rng.uniform(-np.pi, np.pi), *at)
    y = y * np.float32(rng.uniform(1.0, 1.8))
    theta = np.arctan2(y, x)
    r = np.full_like(y, radius)
    for k in range(2, 7):
        r += np.float32(radius * rng.uniform(-0.5, 0.5) / k) * np.cos(
            k * theta + np.float32(rng.uniform(0, 6.3))
        )
    return step(r - np.sqrt(y * y + x * x), 0.0, max(soft * radius, 2.5 / size))


def _strokes(size: int, points: NDArray[np.float64], width: float) -> Field:
    """Coverage of a polyline, points (n, 2) as (y, x), of a half width in -1..1 units."""
    y, x = coordinates(size)
    nearest = np.full((size, size), 9, dtype=np.float32)
    for (ay, ax), (by, bx) in zip(
        points[:-1].astype(np.float32), points[1:].astype(np.float32), strict=True
    ):
        dy, dx = by - ay, bx - ax
        py, px = y - ay, x - ax
        t = np.clip((py * dy + px * dx) / (dy * dy + dx * dx + np.float32(1e-9)), 0, 1)
        np.minimum(nearest, (py - t * dy) ** 2 + (px - t * dx) ** 2, out=nearest)
    return step(-np.sqrt(nearest), -width, 2.0 / size)


def _contrast(rng: np.random.Generator, plane: Plane, alpha: Field, amount: float) -> Colour:
    """A greyish colour clearly lighter or darker than what it covers."""
    around = plane.colour[alpha > 0.3] if (alpha > 0.3).any() else plane.colour.reshape(-1, 3)
    mean = around.mean(axis=0)
    lighter = mean.mean() < rng.uniform(0.3, 0.6)
    goal = mean + amount if lighter else mean - amount
    colour: Colour = np.clip(goal + rng.uniform(-0.04, 0.04, 3), 0.02, 0.98).astype(np.float32)
    return colour


def _blend(plane: Plane, paint: Colour, alpha: Field, bound: bool = True) -> Damage:
    """Lay ``paint`` over the plane; ``bound`` keeps it on the object."""
    alpha = alpha * plane.region if bound else alpha
    alpha = np.where(alpha < LEAST, 0, alpha).astype(np.float32)
    return Damage(mix(plane.colour, paint, alpha), alpha > 0)


def scratch(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """A thin, slightly bent line."""
    cy, cx = _place(rng, plane.region)
    angle, length, bow = rng.uniform(0, np.pi), rng.uniform(0.15, 0.5), rng.uniform(-0.1, 0.1)
    t = np.linspace(-1, 1, 9)
    along, across = t * length, bow * (1 - t * t)
    points = np.stack(
        [
            cy + along * np.sin(angle) + across * np.cos(angle),
            cx + along * np.cos(angle) - across * np.sin(angle),
        ],
        1,
    )
    alpha = _strokes(size, points, rng.uniform(0.010, 0.022))
    return _blend(
        plane,
        _contrast(rng, plane, alpha, rng.uniform(0.25, 0.5)),
        alpha * np.float32(rng.uniform(0.7, 1)),
    )


def crack(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """A dark jagged line that forks."""
    start = np.array(_place(rng, plane.region))
    heading = rng.uniform(0, 2 * np.pi)
    alpha = np.zeros((size, size), dtype=np.float32)
    width = rng.uniform(0.010, 0.02)
    for branch in range(int(rng.integers(1, 4))):
        turns = heading + np.cumsum(rng.uniform(-0.7, 0.7, 8)) + (branch and rng.uniform(-1.2, 1.2))
        steps = rng.uniform(0.05, 0.14, (8, 1)) * np.stack([np.sin(turns), np.cos(turns)], 1)
        points = np.concatenate([start[None], start + np.cumsum(steps, 0)])
        alpha = np.maximum(alpha, _strokes(size, points, width))
        start, width = points[int(rng.integers(1, 6))], width * 0.7
    dark = plane.colour[plane.region].mean(axis=0) * rng.uniform(0.05, 0.35)
    if plane.colour[plane.region].mean() < 0.25:  # a dark crack would not show
        dark = dark + rng.uniform(0.4, 0.6)
    return _blend(plane, dark.astype(np.float32), alpha)


def stain(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """A translucent spot of another colour."""
    alpha = _blob(
        rng, size, _place(rng, plane.region), rng.uniform(0.12, 0.32), rng.uniform(0.1, 0.5)
    )
    patch = 1 + 0.3 * bilinear_noise(rng, size, 10, 10)
    alpha = alpha * np.clip(np.float32(rng.uniform(0.45, 0.8)) * patch, 0.15, 0.9)
    tint = hsv(rng.random(), rng.uniform(0.2, 0.9), rng.uniform(0.08, 0.5))
    if plane.colour[plane.region].mean() < 0.3:
        tint = 1 - tint * 0.6
    return _blend(plane, tint.astype(np.float32), alpha)


def hole(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """A dark pit with a light rim."""
    at = _place(rng, plane.region)
    seed = int(rng.integers(2**31))
    radius = rng.uniform(0.06, 0.15)
    outer = _blob(np.random.default_rng(seed), size, at, radius * 1.35, 0.2)
    inner = _blob(np.random.default_rng(seed), size, at, radius, 0.3)
    mean = plane.colour[plane.region].mean(axis=0)
    deep = mean * 0.12 if mean.mean() > 0.22 else mean + 0.55
    paint = mix(np.clip(mean * 1.3 + 0.08, 0, 1), deep.astype(np.float32), inner)
    return _blend(plane, paint, np.maximum(outer * np.float32(0.7), inner))


def chip(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """A missing piece: what lies behind shows. At the outline of an object."""
    at = _place(rng, plane.region, border=True)
    y, x = turned(size, rng.uniform(-np.pi, np.pi), *at)
    reach = np.full_like(y, 9)
    for k in range(5):  # an irregular pentagon: breaks have straight sides
        a = k * 2 * np.pi / 5 + rng.uniform(-0.4, 0.4)
        np.minimum(
            reach,
            rng.uniform(0.1, 0.22) - y * np.float32(np.sin(a)) - x * np.float32(np.cos(a)),
            out=reach,
        )
    alpha = step(reach, 0.0, 2.5 / size)
    lip = step(reach, 0.0, 0.05) * (1 - step(reach, 0.03, 0.05))
    return _blend(plane, plane.behind * (1 - np.float32(0.4) * lip[..., None]), alpha)


def particle(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """Foreign matter lying on top: a few crumbs, or a fibre."""
    at = _place(rng, plane.region)
    paint = hsv(rng.random(), rng.uniform(0, 0.9), rng.uniform(0.1, 0.95))
    if rng.random() < 0.4:
        turns = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.uniform(-0.6, 0.6, 10))
        steps = rng.uniform(0.03, 0.09) * np.stack([np.sin(turns), np.cos(turns)], 1)
        alpha = _strokes(size, np.array(at) + np.cumsum(steps, 0), rng.uniform(0.012, 0.025))
        return _blend(plane, paint, alpha, bound=False)
    alpha = np.zeros((size, size), dtype=np.float32)
    for _ in range(int(rng.integers(1, 5))):
        spot = (at[0] + rng.normal(0, 0.08), at[1] + rng.normal(0, 0.08))
        alpha = np.maximum(alpha, _blob(rng, size, spot, rng.uniform(0.035, 0.09), 0.4))
    # crumbs are lit like bumps: brighter above, darker below
    shade = np.clip(1 + 6 * (np.roll(alpha, -1, 0) - alpha), 0.5, 1.5)
    return _blend(plane, paint * shade[..., None], alpha, bound=False)


def discolour(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """The surface keeps its pattern but has another hue or brightness."""
    alpha = _blob(
        rng, size, _place(rng, plane.region), rng.uniform(0.2, 0.4), rng.uniform(0.1, 0.4)
    )
    gain = 1 + rng.choice([-1, 1]) * rng.uniform(0.25, 0.5) + rng.uniform(-0.2, 0.2, 3)
    paint = np.clip(plane.colour * gain.astype(np.float32), 0, 1)
    return _blend(plane, paint, alpha)


def bend(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """The pattern or outline is pushed aside."""
    cy, cx = _place(rng, plane.region, border=True)
    radius = rng.uniform(0.2, 0.4)
    y, x = coordinates(size)
    d2 = ((y - np.float32(cy)) ** 2 + (x - np.float32(cx)) ** 2) / np.float32(radius**2)
    push = np.maximum(1 - d2, 0) ** 2 * np.float32(rng.uniform(0.3, 0.45) * radius)
    angle = rng.uniform(0, 2 * np.pi)
    at = [
        np.clip((c + push * np.float32(s) + 1) * np.float32(size / 2) - 0.5, 0, size - 1.001)
        for c, s in ((y, np.sin(angle)), (x, np.cos(angle)))
    ]
    i, j = (a.astype(np.intp) for a in at)
    f, g = ((a - a.astype(np.intp))[..., None] for a in at)
    c = plane.colour
    moved = (c[i, j] * (1 - f) + c[i + 1, j] * f) * (1 - g) + (
        c[i, j + 1] * (1 - f) + c[i + 1, j + 1] * f
    ) * g
    # A fold of a surface catches the light: lighter where the push grows, darker where it falls
    # off again. An object is told by its outline.
    slope = np.diff(push, axis=0, append=0) * np.float32(np.sin(angle))
    slope += np.diff(push, axis=1, append=0) * np.float32(np.cos(angle))
    fold = slope * np.float32(0.5 * plane.region.all() / max(float(np.abs(slope).max()), 1e-6))
    moved = np.clip(moved + (moved * 0.7 + 0.1) * fold[..., None], 0, 1)
    # the mask is what visibly changed: an even colour pushed aside stays as it was
    mask = np.abs(moved - c).max(axis=2) > 0.03
    return Damage(moved.astype(np.float32), mask & (push > 0))


def broken(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """A strip along the weave or outline that is out of place and dark at its ends."""
    cy, cx = _place(rng, plane.region)
    angle = rng.choice([0.0, np.pi / 2]) + rng.uniform(-0.06, 0.06)
    y, x = turned(size, angle, cy, cx)
    half_h, half_w = rng.uniform(0.02, 0.05), rng.uniform(0.12, 0.35)
    alpha = step(half_h - np.abs(y), 0.0, 2.5 / size) * step(half_w - np.abs(x), 0.0, 4 / size)
    shift = int(rng.integers(size // 24, size // 10)) * int(rng.choice([-1, 1]))
    moved = np.roll(plane.colour, shift, axis=0 if abs(np.sin(angle)) > 0.5 else 1)
    gap = step(np.abs(x), half_w * rng.uniform(0.3, 0.7), 0.05)
    tone = np.float32(rng.choice([0.35, 0.45, 1.5, 1.7]) if rng.random() < 0.8 else 0.2)
    return _blend(plane, np.clip(mix(moved, moved * tone, 1 - gap * np.float32(0.5)), 0, 1), alpha)


def dent(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """A smooth hollow or bump, seen by its light and shade."""
    at = _place(rng, plane.region)
    y, x = turned(size, rng.uniform(-0.5, 0.5), *at)
    radius = rng.uniform(0.12, 0.28)
    r = np.sqrt(y * y + x * x) / np.float32(radius)
    slope = (y + x) / np.float32(radius) * np.float32(rng.choice([-1, 1]) * rng.uniform(0.5, 0.8))
    level = 0.25 if plane.colour[plane.region].mean() < 0.25 else 0.0
    paint = np.clip(
        plane.colour * (1 + slope[..., None]) + np.float32(level) * slope[..., None], 0, 1
    )
    return _blend(plane, paint, step(1 - r, 0.15, 0.3))


def worn(rng: np.random.Generator, plane: Plane, size: int) -> Damage:
    """The pattern is rubbed off: its mean colour is left, paler."""
    at = _place(rng, plane.region)
    alpha = _blob(rng, size, at, rng.uniform(0.16, 0.34), 0.3)
    covered = plane.colour[(alpha > 0.5) & plane.region]
    mean = covered.mean(axis=0) if len(covered) else plane.colour.mean(axis=(0, 1))
    pale = (
        mean + (0.9 - mean) * rng.uniform(0.15, 0.5)
        if mean.mean() < 0.6
        else mean * rng.uniform(0.6, 0.8)
    )
    paint = pale * (1 + 0.08 * bilinear_noise(rng, size, 20, 20))[..., None]
    return _blend(plane, paint.astype(np.float32), alpha * np.float32(0.85))


#: kind of defect -> how it is drawn
DEFECTS: dict[str, Callable[[np.random.Generator, Plane, int], Damage]] = {
    "bend": bend,
    "broken": broken,
    "chip": chip,
    "crack": crack,
    "dent": dent,
    "discolour": discolour,
    "hole": hole,
    "particle": particle,
    "scratch": scratch,
    "stain": stain,
    "worn": worn,
}
