"""Charts as inline SVG and pictures as data URIs, for a page that needs nothing else.

Charts carry class names instead of colours (``c0`` ... for the lines of a legend), so that the
page's style sheet decides, light or dark. Every text that goes into one is escaped here.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

from harness.data import images

GRID = np.linspace(0, 1, 101)  # where curves are averaged
COLOURS = 10  # classes c0 to c9
#: Of each class a pattern of the line and a mark, so that neither colour nor print is needed.
DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 5", "1 4", "12 4", "9 3 2 3 2 3", "4 2", "14 3 3 3")
MARKS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",  # disc
    "M-3.6,-3.6h7.2v7.2h-7.2Z",  # square
    "M0,-4.8L4.5,3.4H-4.5Z",  # triangle
    "M0,-5L5,0L0,5L-5,0Z",  # diamond
    "M0,4.8L4.5,-3.4H-4.5Z",  # triangle upside down
    "M-1.4,-4.6h2.8v3.2h3.2v2.8h-3.2v3.2h-2.8v-3.2h-3.2v-2.8h3.2Z",  # plus
    "M0,-5L1.5,-1.6L5,-1.5L2.3,0.8L3.2,4.4L0,2.4L-3.2,4.4L-2.3,0.8L-5,-1.5L-1.5,-1.6Z",  # star
    "M-4.8,0L-2.4,-4.2H2.4L4.8,0L2.4,4.2H-2.4Z",  # hexagon
    "M-5,-2.2h10v4.4h-10Z",  # bar
    "M-2.2,-5h4.4v10h-4.4Z",  # post
)
EVERY = 25  # points of a curve from one mark to the next
THUMB = 192  # longest side of a picture in a page, pixels
HEATED = 128  # and of one under a map

#: dark violet, magenta, orange, pale yellow: even steps in lightness, told apart in any vision
HEAT = np.array([[26, 12, 66], [120, 28, 109], [207, 68, 70], [251, 155, 6], [252, 255, 164]])


@dataclass(frozen=True)
class Line:
    """One line of a chart, with the deviation drawn as bars or thinner lines of single runs."""

    name: str
    colour: int
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    std: NDArray[np.float64] | None = None
    runs: tuple[NDArray[np.float64], ...] = ()


def roc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """True positive rate at the false positive rates of ``GRID``, ties joined by straight lines."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    hits, alarms = np.cumsum(labels[order])[last], np.cumsum(~labels[order])[last]
    rates = np.concatenate([[0.0], alarms / alarms[-1]])
    # Where the curve is vertical its upper end counts: interp takes the last of equal abscissae.
    recall = np.concatenate([[0.0], hits / hits[-1]])
    return np.asarray(np.interp(GRID, rates, recall), dtype=np.float64)


def precision_recall(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Precision at the recalls of ``GRID``: that of the first threshold which reaches the recall.

    Steps, not lines, so that the area is the average precision.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    hits = np.cumsum(labels[order])[last]
    called = np.flatnonzero(last) + 1
    reached = np.searchsorted(hits, np.ceil(GRID * hits[-1] - 1e-9).clip(1))
    return np.asarray((hits / called)[reached], dtype=np.float64)


def curves(lines: Sequence[Line], x_label: str, y_label: str, chance: float | None = None) -> str:
    """Curves in the unit square; chance is the diagonal (None) or a level line."""
    parts = [_frame(x_label, y_label)]
    start, end = (0.0, 1.0) if chance is None else (chance, chance)
    parts.append(f'<path class="chance" d="M{_at(0, start)}L{_at(1, end)}"/>')
    for line in lines:
        style = f"c{line.colour % COLOURS}"
        parts += [f'<path class="run {style}" d="{_path(line.x, run)}"/>' for run in line.runs]
        parts.append(
            f'<path class="line {style}" d="{_path(line.x, line.y)}">'
            f"<title>{escape(line.name)}</title></path>"
        )
        # Marks of different lines at different places: where curves meet they stay apart.
        for i in range(8 + 7 * (line.colour % 4), len(line.x) - 1, EVERY):
            parts.append(mark(line.colour, *_xy(_at(line.x[i], line.y[i])), 0.8))
    return _svg(parts, f"{y_label} over {x_label}")


def trend(lines: Sequence[Line], ticks: Sequence[str], y_label: str) -> str:
    """Means with deviations at a few places along x (0, 1, ...); y is scaled to what is there."""
    ends = [
        line.y + sign * (0.0 if line.std is None else np.nan_to_num(line.std))
        for line in lines
        for sign in (-1, 1)
    ]
    spread = np.concatenate([*ends, [np.nan]])
    if np.isnan(spread).all():
        return ""
    least, most = float(np.nanmin(spread)), float(np.nanmax(spread))
    step = 10 if most - least > 0.15 else 50  # ends on a tenth or a fiftieth
    low = max(0.0, min(math.floor(least * step) / step, 1 - 1 / step))
    high = min(1.0, max(math.ceil(most * step) / step, low + 1 / step))

    def place(i: float, value: float) -> str:
        return _at((i + 0.5) / len(ticks), min(max((value - low) / (high - low), 0), 1))

    marks = [low, (low + high) / 2, high]
    parts = [_frame("shots", y_label, [(0.5 + i) / len(ticks) for i in range(len(ticks))], ticks)]
    parts += [
        f'<text class="tick" x="34" y="{4 + 176 * (1 - i / 2):.0f}" dy="4" text-anchor="end">'
        f"{100 * mark:.3g}</text>"
        for i, mark in enumerate(marks)
    ]
    for number, line in enumerate(lines):
        style = f"c{line.colour % COLOURS}"
        aside = 0.03 * (number - (len(lines) - 1) / 2)  # bars beside each other
        defined = [i for i in range(len(line.x)) if not np.isnan(line.y[i])]
        joined = "L".join(place(line.x[i] + aside, line.y[i]) for i in defined)
        parts.append(f'<path class="line {style}" d="M{joined}"/>' if defined else "")
        for i in defined:
            std = 0.0 if line.std is None or np.isnan(line.std[i]) else float(line.std[i])
            ends_at = [place(line.x[i] + aside, line.y[i] + sign * std) for sign in (-1, 1)]
            caption = f"{line.name}: {100 * line.y[i]:.1f}"
            if line.std is not None and not np.isnan(line.std[i]):
                caption += f" ± {100 * std:.1f}"
            at = _xy(place(line.x[i] + aside, line.y[i]))
            parts.append(f'<path class="bar {style}" d="M{"L".join(ends_at)}"/>')
            parts.append(mark(line.colour, *at, title=caption))
    return _svg(parts, f"{y_label} over shots")


def histogram(normal: NDArray[np.float64], anomalous: NDArray[np.float64], bins: int = 30) -> str:
    """Two overlaid histograms, each of area one; the outer 0.5 % go into the outer bins."""
    low, high = np.percentile(np.concatenate([normal, anomalous]), [0.5, 99.5])
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    shares = [
        np.histogram(np.clip(part, edges[0], edges[-1]), edges)[0] / max(len(part), 1)
        for part in (normal, anomalous)
    ]
    top = max(float(share.max()) for share in shares) or 1.0
    parts = ['<rect class="ground" x="0" y="0" width="300" height="110"/>']
    for share, style in zip(shares, ("normal", "anomalous"), strict=True):
        steps = [f"M0,{110:.0f}"]
        for i, value in enumerate(share):
            y = 110 - 104 * value / top
            steps.append(f"L{300 * i / bins:.1f},{y:.1f}L{300 * (i + 1) / bins:.1f},{y:.1f}")
        parts.append(f'<path class="{style}" d="{"".join(steps)}L300,110Z"/>')
    marks = ((0, "start", edges[0]), (150, "middle", edges[bins // 2]), (300, "end", edges[-1]))
    for x, anchor, value in marks:
        label = f'<text class="tick" x="{x}" y="124" text-anchor="{anchor}">{value:.3g}</text>'
        parts.append(label)
    return (
        '<svg class="chart" viewBox="0 0 300 128" role="img" aria-label="scores">'
        f"{''.join(parts)}</svg>"
    )


def scatter(lines: Sequence[Line], labels: Sequence[Sequence[str]], y_label: str) -> str:
    """AUROC against a cost on a logarithmic axis: a mark with a label per point, joined by lines.

    Parameters
    ----------
    lines : x is the cost in milliseconds, above 0; y a share
    labels : of each line, a word for each of its points
    y_label : of what y is
    """
    every = np.concatenate([line.x for line in lines])
    values = np.concatenate([line.y for line in lines])
    if not every.size or np.isnan(values).all():
        return ""
    left = math.floor(math.log10(float(every.min())))
    right = max(left + 1, math.ceil(math.log10(float(every.max()))))
    low = max(0.0, math.floor(float(np.nanmin(values)) * 10) / 10)
    high = max(low + 0.1, math.ceil(float(np.nanmax(values)) * 10) / 10)
    decades = range(left, right + 1)
    places = [(d - left) / (right - left) for d in decades]
    parts = [
        _frame(
            "ms per query, all that was done for it",
            y_label,
            places,
            [f"{10.0**d:g}" for d in decades],
            False,
        )
    ]
    for i, value in enumerate((low, (low + high) / 2, high)):
        parts.append(
            f'<text class="tick" x="34" y="{180 - 88 * i}" dy="4" text-anchor="end">'
            f"{100 * value:.3g}</text>"
        )
    for line, words in zip(lines, labels, strict=True):
        style = f"c{line.colour % COLOURS}"
        at = [
            ((math.log10(x) - left) / (right - left), (y - low) / (high - low))
            for x, y in zip(line.x.tolist(), line.y.tolist(), strict=True)
            if not math.isnan(y)
        ]
        parts.append(f'<path class="line thin {style}" d="M{"L".join(_at(*p) for p in at)}"/>')
        for place, word, x, y in zip(at, words, line.x, line.y, strict=False):
            caption = f"{line.name}, {word}: {100 * y:.1f} % at {x:.3g} ms"
            px, py = _xy(_at(*place))
            parts.append(mark(line.colour, px, py, title=caption))
            parts.append(
                f'<text class="tick" x="{px + 6:.1f}" y="{py - 5:.1f}">{escape(word)}</text>'
            )
    return _svg(parts, f"{y_label} over milliseconds per query, by method and shots")


def mark(colour: int, x: float, y: float, size: float = 1.0, title: str = "") -> str:
    """The mark of a line's class at a place of a chart."""
    tooltip = f"<title>{escape(title)}</title>" if title else ""
    shape = MARKS[colour % COLOURS]
    return (
        f'<path class="dot c{colour % COLOURS}" d="{shape}" '
        f'transform="translate({x:.1f} {y:.1f}) scale({size:g})">{tooltip}</path>'
    )


def key(colour: int) -> str:
    """A line's entry in a legend: its pattern and its mark."""
    style = f"c{colour % COLOURS}"
    return (
        '<svg class="key" viewBox="0 0 30 12" width="30" height="12" aria-hidden="true">'
        f'<path class="line {style}" d="M0,6H30"/>{mark(colour, 15, 6)}</svg>'
    )


def picture(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None, side: int = THUMB
) -> str:
    """A picture as a data URI, at most ``side`` wide or high, with the outline of its mask."""
    small = images.resize(pixels, _fit(pixels.shape[:2], side))
    if mask is not None and mask.any():
        marked = images.resize_mask(mask, small.shape[:2])
        inner = marked.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                inner &= np.roll(marked, step, axis)
        small = np.array(small)
        small[marked & ~inner] = (0, 255, 140)
    return _uri(small)


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32], low: float, high: float) -> str:
    """A map over its picture as a data URI: clear at ``low``, covered at ``high``."""
    small = np.asarray(images.resize(pixels, _fit(pixels.shape[:2], HEATED)), dtype=np.float64)
    level = images.resize_maps(np.nan_to_num(heat, posinf=high, neginf=low)[None], small.shape[:2])
    share = np.clip((level[0] - low) / (high - low if high > low else 1.0), 0, 1)[..., None]
    steps = np.linspace(0, 1, len(HEAT))
    colour = np.stack([np.interp(share[..., 0], steps, HEAT[:, i]) for i in range(3)], -1)
    grey = small.mean(axis=2, keepdims=True) * 0.7 + 40
    cover = 0.25 + 0.6 * share
    return _uri((grey * (1 - cover) + colour * cover).astype(np.uint8))


def _fit(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _uri(pixels: NDArray[np.uint8]) -> str:
    """JPEG where it is a photograph, PNG where it is so small that blocks would show."""
    kind = "PNG" if max(pixels.shape[:2]) <= 64 else "JPEG"
    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, kind, **({"quality": 82} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _svg(parts: Sequence[str], label: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 260 222" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _frame(
    x_label: str,
    y_label: str,
    places: Sequence[float] = (0, 0.25, 0.5, 0.75, 1),
    ticks: Sequence[str] = ("0", "", "0.5", "", "1"),
    unit: bool = True,
) -> str:
    """Axes with grid lines and labels; in a ``unit`` square y has the ticks of x, too."""
    parts = ['<rect class="ground" x="40" y="4" width="216" height="176"/>']
    square = unit and len(places) == 5 and places[0] == 0
    for place, tick in zip(places, ticks, strict=True):
        x, y = 40 + 216 * place, 180 - 176 * place
        parts.append(f'<path class="grid" d="M{x:.0f},4V180"/>')
        side = "end" if place == 1 and len(tick) > 2 else "middle"  # it must not be cut off
        parts.append(
            f'<text class="tick" x="{x:.0f}" y="195" text-anchor="{side}">{escape(tick)}</text>'
        )
        if square:
            parts.append(f'<path class="grid" d="M40,{y:.0f}H256"/>')
            parts.append(
                f'<text class="tick" x="34" y="{y:.0f}" dy="4" text-anchor="end">{tick}</text>'
            )
    parts.append(
        f'<text class="axis" x="148" y="214" text-anchor="middle">{escape(x_label)}</text>'
    )
    parts.append(
        '<text class="axis" transform="translate(9 92) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _xy(point: str) -> tuple[float, float]:
    x, _, y = point.partition(",")
    return float(x), float(y)


def _at(x: float, y: float) -> str:
    """A point of the unit square in the chart's units."""
    return f"{40 + 216 * x:.1f},{180 - 176 * y:.1f}"


def _path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return "M" + "L".join(_at(a, b) for a, b in zip(x.tolist(), y.tolist(), strict=True))
