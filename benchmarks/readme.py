"""The README's lines about speed, from the stored figures of this machine.

    python -m benchmarks.readme [--machine NAME]

They stand between two comments; a line whose figure nobody has measured is left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.figures import Figure, parsed

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
#: what is said, with the figures it quotes: group of the stored results, and name
LINES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "12 cells of PaDiM and PatchCore (three shots, two seeds, 200 queries) from a cold start: "
        "{} with local workers, {} on Ray",
        (("sweep", "12 cells, local"), ("sweep", "12 cells, Ray")),
    ),
    (
        "one more seed beside them, in the same storage: {}",
        (("sweep", "one more seed in a warm storage"),),
    ),
    (
        "the 12 cells beside anomalib in its kindest settings: {} as fast, {} where anomalib is "
        "given the harness's allocator",
        (
            ("peer", "anomalib / harness, 12 cells, as it comes"),
            ("peer", "anomalib / harness, 12 cells, allocator set"),
        ),
    ),
    (
        "60 cells (two categories, five seeds): {} as fast",
        (("peer", "anomalib / harness, 60 cells, as it comes"),),
    ),
    (
        "a picture with WinCLIP's windows (ViT-B/16+): {} as fast as anomalib, {} in bfloat16",
        (
            ("peer", "anomalib / harness, WinCLIP picture"),
            ("peer", "anomalib / harness, WinCLIP picture, bf16"),
        ),
    ),
    (
        "AUROC of a million scores: {} as fast as scikit-learn",
        (("metrics", "AUROC of 1e6 scores, scikit-learn / harness"),),
    ),
    (
        "AUPRO of 50 maps: {} as fast as anomalib",
        (("metrics beside anomalib", "AUPRO of 50 maps of 256 x 256, anomalib / harness"),),
    ),
)


def lines(own: Mapping[str, Any]) -> list[str]:
    """What there is to say of a machine, as a list in Markdown.

    Parameters
    ----------
    own : the machine's part of ``results.json``
    """
    groups = {name: parsed(one["figures"]) for name, one in own["groups"].items()}
    sentences = []
    for text, names in LINES:
        figures = [groups.get(group, {}).get(name) for group, name in names]
        if None not in figures:
            command = own["groups"][names[0][0]]["command"]
            values = [_shown(one) for one in figures if one is not None]
            sentences.append(f"- {text.format(*values)} (`{command}`)")
    name = own["machine"]["name"].rpartition(" (")[0]
    return [
        f"Measured on {name}, see [benchmarks/results.md](benchmarks/results.md):",
        "",
        *sentences,
    ]


def _shown(one: Figure) -> str:
    return f"{one.value:.3g} {one.unit}"


def filled(text: str, own: Mapping[str, Any]) -> str:
    """A README's text with its lines about speed.

    Raises
    ------
    ValueError
        The two comments are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"expected the lines {BEGIN} and {END}")
    return "\n".join([f"{before}{BEGIN}", *lines(own), f"{END}{after}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--machine", help="as results.md names it; default: this one")
    arguments = parser.parse_args()
    everything, name = record.stored(), arguments.machine or record.machine()["name"]
    if name not in everything:
        parser.error(f"nothing is stored of {name}; known: {', '.join(everything) or 'none'}")
    README.write_text(filled(README.read_text(encoding="utf-8"), everything[name]), "utf-8")


if __name__ == "__main__":
    main()
