"""Object families the micro models are trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from datasets._rendering.base import (
    Colour,
    Field,
    Plane,
    backdrop,
    box,
    disc,
    edge,
    fractal,
    hsv,
    mix,
    polygon,
    pose,
    step,
    thing,
    wave,
)

Rng = np.random.Generator


def _metal(style: Rng) -> Colour:
    return hsv(style.uniform(0.05, 0.65), style.uniform(0, 0.45), style.uniform(0.45, 0.85))


def _plastic(style: Rng) -> Colour:
    return hsv(style.random(), style.uniform(0.3, 0.9), style.uniform(0.3, 0.95))


def _lit(colour: Colour, light: Field) -> Colour:
    return np.clip(colour * light[..., None], 0, 1).astype(np.float32)


def gear(style: Rng, item: Rng, size: int) -> Plane:
    """A toothed wheel with a bore."""
    y, x, _ = pose(item, size)
    r, theta = np.sqrt(y * y + x * x), np.arctan2(y, x)
    teeth = int(style.integers(9, 22))
    tooth = step(np.cos(theta * teeth), 0.0, 0.8) * np.float32(style.uniform(0.07, 0.12))
    body = step(np.float32(style.uniform(0.58, 0.68)) + tooth - r, 0.0, edge(size))
    bore = disc(y, x, style.uniform(0.12, 0.28))
    light = 0.9 + 0.2 * np.cos(2 * theta) * step(r, 0.2, 0.4) + 0.06 * fractal(item, size, 5, 3)
    hub = 1 - 0.2 * step(-np.abs(r - 0.42), -0.03, 0.04)
    return thing(
        backdrop(style, item, size), [(body * (1 - bore), _lit(_metal(style), light * hub))]
    )


def coin(style: Rng, item: Rng, size: int) -> Plane:
    """A disc with a raised rim and a star."""
    y, x, _ = pose(item, size)
    r, theta = np.sqrt(y * y + x * x), np.arctan2(y, x)
    radius = style.uniform(0.6, 0.78)
    points = int(style.integers(4, 8))
    star = step(radius * (0.42 + 0.16 * np.cos(theta * points)) - r, 0.0, 0.04)
    rim = step(r, radius * 0.88, 0.04)
    beads = wave(theta * np.float32(36 / 6.2832)) * step(r, radius * 0.78, 0.02) * (1 - rim)
    light = (
        0.75 + 0.25 * star + 0.2 * rim + 0.12 * beads + 0.12 * y + 0.05 * fractal(item, size, 5, 3)
    )
    return thing(backdrop(style, item, size), [(disc(y, x, radius), _lit(_metal(style), light))])


def button(style: Rng, item: Rng, size: int) -> Plane:
    """A round button with two or four holes."""
    ground = backdrop(style, item, size)
    y, x, _ = pose(item, size)
    r = np.sqrt(y * y + x * x)
    radius, hole, gap = (
        style.uniform(0.55, 0.75),
        style.uniform(0.06, 0.1),
        style.uniform(0.13, 0.2),
    )
    holes = np.zeros_like(y)
    for a in range(0, 4, int(style.integers(1, 3))):
        holes = np.maximum(
            holes,
            disc(
                y, x, hole, gap * np.sin(a * np.pi / 2 + 0.78), gap * np.cos(a * np.pi / 2 + 0.78)
            ),
        )
    light = 0.85 + 0.2 * wave((r / radius) ** 2 * 1.5) - 0.1 * x + 0.05 * fractal(item, size, 4, 3)
    return thing(ground, [(disc(y, x, radius) * (1 - holes), _lit(_plastic(style), light))])


def tablet(style: Rng, item: Rng, size: int) -> Plane:
    """A white or coloured tablet with a score line."""
    y, x, _ = pose(item, size)
    base = hsv(style.random(), style.uniform(0, 0.45), style.uniform(0.75, 0.98))
    a, b = style.uniform(0.45, 0.6), style.uniform(0.5, 0.75)
    d = np.sqrt((y / np.float32(a)) ** 2 + (x / np.float32(b)) ** 2)
    line = step(-np.abs(x), -0.02, 0.03) * step(0.85 - d, 0.0, 0.1)
    light = (
        1.0 - 0.35 * step(d, 0.85, 0.35) - 0.25 * line - 0.06 * y + 0.04 * fractal(item, size, 8, 3)
    )
    return thing(backdrop(style, item, size), [(step(1 - d, 0.0, 0.04), _lit(base, light))])


def biscuit(style: Rng, item: Rng, size: int) -> Plane:
    """A baked disc with a wavy rim and docking holes."""
    y, x, _ = pose(item, size)
    base = hsv(style.uniform(0.07, 0.11), style.uniform(0.45, 0.7), style.uniform(0.65, 0.9))
    r, theta = np.sqrt(y * y + x * x), np.arctan2(y, x)
    radius = style.uniform(0.6, 0.75)
    rim = radius + np.float32(0.03) * np.cos(theta * int(style.integers(10, 24)))
    n = style.uniform(3.5, 5.5)
    py, px = (y * n + 0.5) % 1 - 0.5, (x * n + 0.5) % 1 - 0.5
    dots = step(-np.sqrt(py * py + px * px), -0.16, 0.12) * step(radius * 0.8 - r, 0.0, 0.05)
    light = 1 - 0.35 * step(r, radius * 0.97, 0.3) - 0.45 * dots + 0.09 * fractal(item, size, 5, 4)
    return thing(backdrop(style, item, size), [(step(rim - r, 0.0, edge(size)), _lit(base, light))])


def bearing(style: Rng, item: Rng, size: int) -> Plane:
    """Two rings with balls between."""
    ground = backdrop(style, item, size)
    y, x, _ = pose(item, size)
    r, theta = np.sqrt(y * y + x * x), np.arctan2(y, x)
    steel, dark = _metal(style), hsv(0.6, 0.1, style.uniform(0.12, 0.25))
    outer, bore = style.uniform(0.68, 0.78), style.uniform(0.2, 0.28)
    track = (outer + bore) / 2
    balls = int(style.integers(7, 12))
    phase = (theta * np.float32(balls / 6.2832)) % 1 - 0.5
    across = phase * np.float32(6.2832 * track / balls)
    ball_r = np.float32(0.1)
    ball = step(ball_r - np.sqrt(across**2 + (r - np.float32(track)) ** 2), 0.0, edge(size))
    light = 0.85 + 0.25 * np.cos(2 * theta) + 0.04 * fractal(item, size, 4, 2)
    ring = disc(y, x, outer) * (1 - disc(y, x, bore))
    groove = step(0.12 - np.abs(r - np.float32(track)), 0.0, 0.03)
    shine = 0.95 + 0.4 * step(
        -np.abs(across + 0.03) - np.abs(r - np.float32(track + 0.02)), -0.04, 0.05
    )
    layers = [
        (ring, _lit(steel, light)),
        (groove, np.broadcast_to(dark, ground.shape)),
        (ball, _lit(steel, shine)),
    ]
    return thing(ground, layers)


def gasket(style: Rng, item: Rng, size: int) -> Plane:
    """A flat frame with bolt holes in its corners."""
    y, x, _ = pose(item, size)
    h, w, wall = style.uniform(0.45, 0.6), style.uniform(0.5, 0.68), style.uniform(0.13, 0.22)
    frame = box(y, x, h, w, 0.18) * (1 - box(y, x, h - wall, w - wall, 0.08))
    for sy in (-1, 1):
        for sx in (-1, 1):
            frame = frame * (
                1 - disc(y, x, wall * 0.28, sy * (h - wall * 0.62), sx * (w - wall * 0.62))
            )
    light = 0.95 + 0.08 * fractal(item, size, 6, 3)
    return thing(backdrop(style, item, size), [(frame, _lit(_plastic(style) * 0.8, light))])


def cable(style: Rng, item: Rng, size: int) -> Plane:
    """A cut cable: sheath with three insulated cores of copper strands."""
    ground = backdrop(style, item, size)
    y, x, _ = pose(item, size)
    sheath = style.uniform(0.66, 0.78)
    layers = [
        (
            disc(y, x, sheath),
            _lit(
                hsv(style.random(), 0.1, style.uniform(0.3, 0.8)),
                1 + 0.05 * fractal(item, size, 4, 2),
            ),
        ),
        (disc(y, x, sheath - 0.06), np.broadcast_to(hsv(0.1, 0.1, 0.25), ground.shape)),
    ]
    copper = hsv(0.06, style.uniform(0.5, 0.8), style.uniform(0.65, 0.9))
    for k in range(3):
        a = k * 2.0944
        cy, cx = 0.34 * np.sin(a), 0.34 * np.cos(a)
        layers.append((disc(y, x, 0.27, cy, cx), _lit(_plastic(style), 1 - 0.1 * y)))
        strands = wave((y - np.float32(cy)) * 9) * wave((x - np.float32(cx)) * 9)
        layers.append((disc(y, x, 0.17, cy, cx), _lit(copper, 0.55 + 0.5 * strands)))
    return thing(ground, layers)


def connector(style: Rng, item: Rng, size: int) -> Plane:
    """A plastic housing with rows of metal pins."""
    ground = backdrop(style, item, size)
    y, x, _ = pose(item, size, spin=0.4)
    h, w = style.uniform(0.3, 0.42), style.uniform(0.55, 0.75)
    columns = int(style.integers(3, 7))
    light = 0.9 + 0.1 * step(-y, 0.0, 0.5) + 0.04 * fractal(item, size, 4, 2)
    layers = [(box(y, x, h, w, 0.06), _lit(_plastic(style) * 0.7, light))]
    layers.append((box(y, x, h - 0.08, w - 0.08, 0.04), _lit(hsv(0.6, 0.1, 0.13), light)))
    pin = _metal(style)
    for row in (-1, 1):
        for k in range(columns):
            cx = (k - (columns - 1) / 2) * 2 * (w - 0.16) / columns
            cy = row * (h - 0.08) / 2
            cover = box(y - np.float32(cy), x - np.float32(cx), 0.06, 0.05, 0.01)
            layers.append((cover, _lit(pin, 1.1 - 2 * np.abs(x - np.float32(cx)))))
    return thing(ground, layers)


def dial(style: Rng, item: Rng, size: int) -> Plane:
    """A gauge with ticks and a hand."""
    ground = backdrop(style, item, size)
    y, x, _ = pose(item, size, spin=0.2)
    r, theta = np.sqrt(y * y + x * x), np.arctan2(y, x)
    radius = style.uniform(0.66, 0.78)
    ink = hsv(style.random(), style.uniform(0, 0.9), 0.2)
    face = np.broadcast_to(hsv(style.random(), 0.06, style.uniform(0.8, 0.97)), ground.shape)
    ticks = step(wave(theta * np.float32(style.integers(8, 20) / 6.2832)), 0.86, 0.1)
    ticks = ticks * step(r, radius * 0.68, 0.03) * step(radius * 0.84 - r, 0.0, 0.03)
    a = style.uniform(0, 6.28) + item.normal(0, 0.15)
    along, across = (
        y * np.float32(np.sin(a)) + x * np.float32(np.cos(a)),
        y * np.float32(np.cos(a)) - x * np.float32(np.sin(a)),
    )
    hand = (
        step(0.03 - np.abs(across), 0.0, 0.02)
        * step(along, -0.08, 0.02)
        * step(radius * 0.65 - along, 0.0, 0.02)
    )
    layers = [
        (disc(y, x, radius), _lit(_metal(style), 0.9 - 0.2 * y)),
        (disc(y, x, radius * 0.88), face),
    ]
    layers += [(ticks * disc(y, x, radius), np.broadcast_to(ink, ground.shape))]
    layers += [
        (hand, np.broadcast_to(_plastic(style) * 0.8, ground.shape)),
        (disc(y, x, 0.07), _lit(ink, 1 - y)),
    ]
    return thing(ground, layers)


def key(style: Rng, item: Rng, size: int) -> Plane:
    """A flat key: round bow, straight blade, notches."""
    y, x, _ = pose(item, size, spin=0.7)
    bow = disc(y, x, style.uniform(0.24, 0.32), 0.0, -0.42) * (1 - disc(y, x, 0.09, 0.0, -0.5))
    blade = box(y, x - np.float32(0.2), 0.1, 0.52, 0.03)
    depth = style.uniform(0.0, 0.1, 8)
    at = np.clip((x + 0.0) * 11, 0, 7.99).astype(int)
    cut = step(y - (0.1 - depth[at]).astype(np.float32), 0.0, edge(size))
    blade = blade * (1 - cut * (x > 0))
    light = 0.95 + 0.15 * np.cos(6 * y) - 0.25 * step(-np.abs(y + 0.02), -0.02, 0.03) * (x > -0.1)
    cover = np.maximum(bow, blade)
    return thing(
        backdrop(style, item, size),
        [(cover, _lit(_metal(style), light + 0.05 * fractal(item, size, 5, 3)))],
    )


def dice(style: Rng, item: Rng, size: int) -> Plane:
    """The face of a die."""
    ground = backdrop(style, item, size)
    y, x, _ = pose(item, size)
    half = style.uniform(0.48, 0.6)
    spots = int(style.integers(1, 7))
    layout = {1: "5", 2: "19", 3: "159", 4: "1379", 5: "13579", 6: "134679"}[spots]
    light = 0.95 - 0.1 * (y + x) + 0.03 * fractal(item, size, 4, 2)
    layers = [(box(y, x, half, half, 0.12), _lit(_plastic(style), light))]
    ink = np.broadcast_to(hsv(0, 0, style.choice([0.08, 0.95])), ground.shape)
    for digit in layout:
        row, column = divmod(int(digit) - 1, 3)
        layers.append(
            (disc(y, x, half * 0.17, (row - 1) * half * 0.55, (column - 1) * half * 0.55), ink)
        )
    return thing(ground, layers)


def plate(style: Rng, item: Rng, size: int) -> Plane:
    """A dish with a coloured band on its rim."""
    ground = backdrop(style, item, size)
    y, x, _ = pose(item, size)
    r = np.sqrt(y * y + x * x)
    radius = style.uniform(0.7, 0.82)
    china = hsv(style.random(), style.uniform(0, 0.12), style.uniform(0.8, 0.97))
    well = (
        1
        - 0.18 * step(-np.abs(r - radius * 0.6), -0.04, 0.08)
        + 0.08 * y
        + 0.02 * fractal(item, size, 4, 2)
    )
    band = step(-np.abs(r - np.float32(radius * style.uniform(0.82, 0.92))), -0.03, 0.03)
    theta = np.arctan2(y, x)
    if style.random() < 0.5:
        band = band * step(wave(theta * np.float32(style.integers(8, 20) / 6.2832)), 0.4, 0.3)
    return thing(ground, [(disc(y, x, radius), mix(_lit(china, well), _plastic(style), band))])


def tyre(style: Rng, item: Rng, size: int) -> Plane:
    """A wheel: dark tyre with tread, spoked rim."""
    ground = backdrop(style, item, size)
    y, x, _ = pose(item, size)
    r, theta = np.sqrt(y * y + x * x), np.arctan2(y, x)
    radius, rim = style.uniform(0.7, 0.82), style.uniform(0.4, 0.52)
    tread = 1 + 0.35 * wave(theta * np.float32(style.integers(24, 40) / 6.2832)) * step(
        r, radius * 0.88, 0.04
    )
    spokes = step(np.cos(theta * int(style.integers(3, 8))), style.uniform(-0.2, 0.5), 0.4)
    hub = disc(y, x, rim * 0.3)
    metal = _metal(style)
    rubber = _lit(
        hsv(0.6, 0.1, style.uniform(0.16, 0.28)), tread * (1 + 0.06 * fractal(item, size, 5, 2))
    )
    layers = [(disc(y, x, radius), rubber)]
    layers += [
        (disc(y, x, rim), _lit(metal, 0.3 + 0 * y)),
        (disc(y, x, rim) * spokes, _lit(metal, 1 - 0.2 * y)),
    ]
    layers += [
        (disc(y, x, rim) * step(r, rim * 0.85, 0.03), _lit(metal, 0.9 + 0 * y)),
        (hub, _lit(metal, 0.8 - x)),
    ]
    return thing(ground, layers)


def part(style: Rng, item: Rng, size: int) -> Plane:
    """A machined part nobody has a name for: a random outline with random cut-outs and bosses."""
    ground = backdrop(style, item, size)
    y, x, _ = pose(item, size)
    r, theta = np.sqrt(y * y + x * x), np.arctan2(y, x)
    outline = (
        polygon(y, x, int(style.integers(3, 9)), style.uniform(0.5, 0.62)),
        box(y, x, style.uniform(0.3, 0.6), style.uniform(0.45, 0.7), style.uniform(0.02, 0.2)),
        step(
            style.uniform(0.5, 0.6) * (1 + 0.15 * np.cos(theta * int(style.integers(2, 6)))) - r,
            0.0,
            edge(size),
        ),
    )[style.integers(3)]
    base = _metal(style) if style.random() < 0.5 else _plastic(style)
    light = 0.9 + 0.15 * wave(r * style.uniform(1, 5)) + 0.1 * y + 0.06 * fractal(item, size, 5, 3)
    layers = [(outline, _lit(base, light))]
    for _ in range(int(style.integers(1, 5))):
        cy, cx = style.uniform(-0.35, 0.35, 2)
        if style.random() < 0.5:
            boss = disc(y, x, style.uniform(0.06, 0.16), cy, cx)
        else:
            boss = box(
                y - np.float32(cy),
                x - np.float32(cx),
                style.uniform(0.04, 0.15),
                style.uniform(0.04, 0.2),
            )
        tone = style.choice([0.25, 0.6, 1.3])
        layers.append((boss * outline, _lit(base * tone, 1 - 0.1 * x)))
    return thing(ground, layers)


FAMILIES: dict[str, tuple[Callable[[Rng, Rng, int], Plane], str]] = {
    "bearing": (bearing, "ball bearing"),
    "biscuit": (biscuit, "biscuit"),
    "button": (button, "button"),
    "cable": (cable, "cable"),
    "coin": (coin, "coin"),
    "connector": (connector, "connector"),
    "dial": (dial, "dial"),
    "dice": (dice, "dice"),
    "gasket": (gasket, "gasket"),
    "gear": (gear, "gear"),
    "key": (key, "key"),
    "part": (part, "machine part"),
    "plate": (plate, "plate"),
    "tablet": (tablet, "tablet"),
    "tyre": (tyre, "wheel"),
}
