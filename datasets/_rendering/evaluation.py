"""The families of the ``surfaces`` dataset: five textures, five objects. Never trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datasets._rendering.base import (
    Plane,
    backdrop,
    bilinear_noise,
    box,
    cells,
    disc,
    edge,
    fractal,
    hsv,
    mix,
    polygon,
    pose,
    relief,
    step,
    texture,
    thing,
    turned,
    wave,
)

Rng = np.random.Generator


def carpet(style: Rng, item: Rng, size: int) -> Plane:
    """Tufts in two tones, in soft rows."""
    base, other = (
        hsv(style.random(), style.uniform(0.1, 0.6), style.uniform(0.3, 0.7)) for _ in "ab"
    )
    n = int(style.integers(14, 22))
    first, _, nearest = cells(item, size, n, 0.8)
    tone = item.random((n + 2) ** 2, dtype=np.float32)[nearest]
    colour = mix(base, mix(base, other, np.ones_like(first) * 0.6), step(tone, 0.5, 0.9))
    y, _ = turned(size, item.normal(0, 0.02))
    rows = 0.06 * wave(y * n / 2)
    light = 1.1 - 0.3 * np.minimum(first, 1.0) ** 2 + rows + 0.08 * fractal(item, size, 3, 3)
    return texture(colour * light[..., None], item, under=base * 0.3 + 0.5)


def leather(style: Rng, item: Rng, size: int) -> Plane:
    """Pebbles parted by creases."""
    base = hsv(style.uniform(0.02, 0.1), style.uniform(0.3, 0.75), style.uniform(0.25, 0.65))
    n = int(style.integers(11, 18))
    first, second, _ = cells(item, size, n, 1.0)
    crease = step(second - first, 0.12, 0.3)
    light = 0.78 + 0.22 * crease + 0.1 * fractal(item, size, 3, 3)
    return texture(base * (light * relief(crease, 0.12))[..., None], item, under=base * 0.5 + 0.4)


def wood(style: Rng, item: Rng, size: int) -> Plane:
    """Growth rings of a plank cut lengthwise, with fine fibres."""
    light = hsv(style.uniform(0.06, 0.1), style.uniform(0.35, 0.6), style.uniform(0.6, 0.85))
    dark = light * np.array([0.72, 0.64, 0.56], dtype=np.float32)
    y, x = turned(size, style.uniform(-0.03, 0.03) + item.normal(0, 0.02))
    bow = item.uniform(-0.5, 0.5) * x * x + 0.35 * bilinear_noise(item, size, 3, 2)
    rings = (y + bow * 0.6) * style.uniform(3.0, 5.0) + item.uniform(0, 9)
    grain = (rings % 1.0) ** 2  # early wood fades into late wood, then a sharp edge
    fibre = bilinear_noise(item, size, size // 2, 5)
    colour = mix(light, dark, np.clip(step(grain, 0.55, 0.9) * 0.8 + 0.1 * fibre, 0, 1))
    return texture(
        colour * (1 + 0.05 * fractal(item, size, 3, 2))[..., None], item, under=dark * 0.5
    )


def marble(style: Rng, item: Rng, size: int) -> Plane:
    """Veins through a cloudy stone."""
    base = hsv(style.random(), style.uniform(0.02, 0.15), style.uniform(0.75, 0.92))
    vein = base * hsv(style.random(), style.uniform(0.05, 0.4), style.uniform(0.45, 0.7))
    y, x = turned(size, style.uniform(0, np.pi) + item.normal(0, 0.1))
    warp = fractal(item, size, 4, 4)
    lines = np.abs(
        np.sin((x + 0.2 * y + 0.35 * warp) * np.float32(style.uniform(3, 6)) + item.uniform(0, 6))
    )
    thin = np.abs(fractal(item, size, 3, 4))
    t = (1 - step(lines, 0.12, 0.5)) * 0.6 + (1 - step(thin, 0.03, 0.12)) * 0.5
    cloud = 1 + 0.06 * fractal(item, size, 3, 3)
    return texture(mix(base, vein, np.clip(t, 0, 1)) * cloud[..., None], item, under=base * 0.55)


def grid(style: Rng, item: Rng, size: int) -> Plane:
    """A wire mesh in front of a dark room."""
    wire = hsv(style.random(), style.uniform(0.0, 0.25), style.uniform(0.6, 0.85))
    room = hsv(style.random(), style.uniform(0, 0.3), style.uniform(0.08, 0.2))
    n = style.uniform(4.0, 7.0)
    y, x = turned(size, style.uniform(0, np.pi / 2) + item.normal(0, 0.02))
    y, x = (
        (y + 0.01 * bilinear_noise(item, size, 5, 5)) * n + item.uniform(0, 1),
        x * n + item.uniform(0, 1),
    )
    half = style.uniform(0.13, 0.2)
    soft = edge(size) * n
    dy, dx = np.abs(y % 1 - 0.5), np.abs(x % 1 - 0.5)
    over = wave((np.floor(y) + np.floor(x)) / 2) > 0.5  # which wire passes in front
    round_y, round_x = 1 - 0.5 * (dy / half) ** 2, 1 - 0.5 * (dx / half) ** 2
    cover_y, cover_x = step(-dy, -half, soft), step(-dx, -half, soft)
    tone = np.where(over & (cover_y > 0.5) | (cover_x < 0.5), round_y, round_x)
    cover = np.maximum(cover_y, cover_x)
    ground = room * (1 + 0.2 * bilinear_noise(item, size, 3, 3))[..., None]
    return texture(mix(ground, wire * np.clip(tone, 0.3, 1)[..., None], cover), item, under=room)


def bolt(style: Rng, item: Rng, size: int) -> Plane:
    """A hexagon bolt seen from above: flange, head, stamped centre."""
    ground = backdrop(style, item, size)
    steel = hsv(style.uniform(0.05, 0.65), style.uniform(0, 0.35), style.uniform(0.5, 0.75))
    y, x, _ = pose(item, size)
    head = style.uniform(0.42, 0.5)
    r = np.sqrt(y * y + x * x)
    turn = 1 + 0.06 * np.sin(r * style.uniform(60, 90)) + 0.05 * fractal(item, size, 4, 3)
    facet = polygon(y, x, 6, head)
    dome = step(-r, -head * 0.86, 0.06)
    stamp = np.abs(r - head * 0.45) < 0.05
    side = 0.55 + 0.18 * np.sign(np.sin(3 * np.arctan2(y, x)))
    flange = disc(y, x, style.uniform(0.68, 0.76))
    centre = np.clip(1.05 - 0.12 * stamp + 0.15 * y, 0, 1.3) * turn
    return thing(
        ground,
        [
            (flange, steel * (0.55 * turn + 0.12 * x)[..., None]),
            (facet, steel * side[..., None]),
            (facet * dome, steel * centre[..., None]),
        ],
    )


def washer(style: Rng, item: Rng, size: int) -> Plane:
    """A flat ring with turned grooves."""
    ground = backdrop(style, item, size)
    metal = hsv(style.uniform(0.05, 0.15), style.uniform(0.05, 0.55), style.uniform(0.55, 0.8))
    y, x, _ = pose(item, size)
    outer, inner = style.uniform(0.66, 0.78), style.uniform(0.26, 0.38)
    r = np.sqrt(y * y + x * x)
    groove = 1 + 0.08 * np.sin(r * style.uniform(70, 110) + item.uniform(0, 6))
    glint = 1 + 0.22 * np.cos(2 * np.arctan2(y, x)) + 0.06 * fractal(item, size, 4, 3)
    bevel = 0.75 + 0.25 * step(outer - r, 0.05, 0.06) * step(r - inner, 0.05, 0.06)
    ring = disc(y, x, outer) * (1 - disc(y, x, inner))
    return thing(ground, [(ring, metal * (groove * glint * bevel)[..., None])])


def bottle_top(style: Rng, item: Rng, size: int) -> Plane:
    """A bottle seen from above: body, shoulder rings, dark mouth."""
    ground = backdrop(style, item, size)
    glass = hsv(style.random(), style.uniform(0.4, 0.8), style.uniform(0.3, 0.6))
    y, x, _ = pose(item, size)
    r = np.sqrt(y * y + x * x)
    mouth, lip, body = (
        style.uniform(0.26, 0.32),
        style.uniform(0.42, 0.5),
        style.uniform(0.72, 0.82),
    )
    theta = np.arctan2(y, x)
    shine = 0.8 + 0.35 * np.cos(theta * 2 + item.uniform(-0.3, 0.3)) * step(r, lip, 0.2)
    shoulder = glass * (shine * (0.8 + 0.3 * wave((r - lip) / (body - lip) * 1.5)))[..., None]
    edge_of_lip = (
        np.clip(glass * 1.4 + 0.25, 0, 1)
        * (0.8 + 0.25 * wave((r - mouth) / (lip - mouth)))[..., None]
    )
    inside = glass * (0.12 + 0.15 * r + 0.03 * fractal(item, size, 4, 2))[..., None]
    return thing(
        ground,
        [(disc(y, x, body), shoulder), (disc(y, x, lip), edge_of_lip), (disc(y, x, mouth), inside)],
    )


def capsule(style: Rng, item: Rng, size: int) -> Plane:
    """A two-coloured medicine capsule, printed, with a highlight."""
    ground = backdrop(style, item, size)
    left, right = (
        hsv(style.random(), style.uniform(0.3, 0.85), style.uniform(0.5, 0.95)) for _ in "ab"
    )
    y, x, _ = pose(item, size, spin=0.6)
    half, radius = style.uniform(0.42, 0.5), style.uniform(0.26, 0.34)
    d = np.sqrt(np.maximum(np.abs(x) - half, 0) ** 2 + y * y)
    body = step(-d, -radius, edge(size))
    round_light = (
        1.05 - 0.5 * (d / radius) ** 2 + 0.35 * step(-np.abs(y + radius * 0.45), -0.05, 0.1)
    )
    seam = np.float32(item.normal(0, 0.01))
    colour = mix(left, right, step(x, float(seam), edge(size)))
    band = 1 - 0.2 * step(-np.abs(x - seam - 0.04), -0.012, 0.03)
    stroke = style.random(6)
    letters = np.zeros_like(x)
    for k in range(6):  # a printed word: short upright bars of fixed heights
        at = -half + 0.1 + 0.06 * k
        letters = np.maximum(
            letters, box(y, x - np.float32(at), 0.04 + 0.06 * stroke[k], 0.014, 0.005)
        )
    colour = mix(
        colour * (round_light * band)[..., None],
        colour * np.float32(0.25),
        letters * np.float32(0.8),
    )
    return thing(ground, [(body, colour)])


def circuit(style: Rng, item: Rng, size: int) -> Plane:
    """A board with traces, pads and chips: the same layout on every item."""
    board = hsv(style.uniform(0.28, 0.62), style.uniform(0.5, 0.8), style.uniform(0.2, 0.4))
    copper = np.clip(board * 1.6 + 0.06, 0, 1)
    y, x = turned(size, item.normal(0, 0.015), item.normal(0, 0.02), item.normal(0, 0.02))
    colour = board * (1 + 0.08 * fractal(item, size, 4, 3))[..., None]
    n = 9
    ahead = style.integers(0, 4, (n, n))
    gy, gx = (y + 1) * n / 2, (x + 1) * n / 2
    i, j = (np.clip(g, 0, n - 1).astype(np.intp) for g in (gy, gx))
    fy, fx = gy - i - 0.5, gx - j - 0.5
    kind = ahead[i, j]
    soft = edge(size) * n / 2
    trace = np.where(kind == 0, np.abs(fy), np.where(kind == 1, np.abs(fx), np.abs(fx + fy)))
    colour = mix(colour, copper, step(-trace, -0.14, soft) * (kind < 3))
    spot = np.sqrt(fy * fy + fx * fx)
    solder = np.array([0.78, 0.76, 0.7], dtype=np.float32) * (1 - 0.4 * fy)[..., None]
    colour = mix(colour, solder, step(-spot, -0.3, soft) * (kind == 3))
    for _ in range(3):
        cy, cx = (np.float32(v) for v in style.uniform(-0.6, 0.6, 2))
        h, w = style.uniform(0.12, 0.22), style.uniform(0.14, 0.3)
        pins = box(y - cy, x - cx, h + 0.06, w - 0.02) * step(wave((x - cx) * 9), 0.45, 0.3)
        colour = mix(colour, np.array([0.8, 0.8, 0.78], dtype=np.float32), pins)
        chip = 0.13 + 0.05 * step(-(y - cy) - (x - cx), 0.0, 0.3)
        chip = np.repeat(chip[..., None], 3, axis=2)
        colour = mix(colour, chip, box(y - cy, x - cx, h, w))
        dot = disc(y - cy, x - cx, 0.03, -h + 0.06, -w + 0.06)
        colour = mix(colour, np.array([0.5, 0.5, 0.5], dtype=np.float32), dot)
    return texture(colour, item, under=board * 0.3)


FAMILIES: dict[str, tuple[Callable[[Rng, Rng, int], Plane], str]] = {
    "bolt": (bolt, "bolt"),
    "bottle_top": (bottle_top, "bottle top"),
    "capsule": (capsule, "capsule"),
    "carpet": (carpet, "carpet"),
    "circuit": (circuit, "circuit board"),
    "grid": (grid, "wire grid"),
    "leather": (leather, "leather"),
    "marble": (marble, "marble"),
    "washer": (washer, "washer"),
    "wood": (wood, "wood"),
}
