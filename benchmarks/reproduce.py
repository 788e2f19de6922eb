"""What of the papers was run, and where: the status table of docs/reproduce.md, from results files.

    python -m benchmarks.reproduce [STORAGE ...]         prints the table
    python -m benchmarks.reproduce STORAGE ... --write   and puts it into docs/reproduce.md

A row counts the cells that a storage holds of a config under the config's own name, and says on
which machine and commit. What no storage holds was not run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from harness import config, plugins
from harness.config.sweep import DatasetEntry, Sweep
from harness.results.folder import reader

HOME = Path(__file__).resolve().parents[1]
PAGE = HOME / "docs" / "reproduce.md"
BEGIN, END = "<!-- status: begin -->", "<!-- status: end -->"


class Result(NamedTuple):
    """A published result: what it is, and the configs that make it, in full and small."""

    name: str
    full: str
    micro: str


RESULTS = (
    Result("O2N Table 1: industrial", "table1", "table1_micro"),
    Result("O2N Table 2: medical", "table2", "table2_micro"),
    Result("O2N Table 3: semantic", "table3", "table3_micro"),
    Result("O2N Tables 1 to 3 in one sweep", "full", "demo"),
    Result("O2N Table 4: branches", "table4", "o2n_micro_branches"),
    Result("O2N Table 5: prompts or none", "table5", "table5_micro"),
    Result("O2N Figure 4: generated references", "figure4", "figure4_micro"),
    Result("O2N prompt counts 1, 3, 5, 10", "prompts", "prompts_micro"),
    Result("O2N inference time", "inference_time", "inference_time_micro"),
    Result("O2N text branch by class token", "class_token", "o2n_micro"),
    Result("O2N ablations", "ablations", "ablations_micro"),
    Result("RegAD leave-one-out", "regad_leave_one_out", "regad_leave_one_out_micro"),
    Result("ADP Table 1: shots", "adp_table1", "adp_micro"),
    Result("ADP Table 2: concepts", "adp_table2", "adp_micro"),
)


def load(name: str) -> Sweep:
    """The sweep of ``conf/<name>.yaml``."""
    return config.load(HOME / "conf" / f"{name}.yaml")


def categories(entry: DatasetEntry) -> int:
    """How many categories of a dataset are tested, by its own official numbers."""
    if entry.categories is not None:
        return len(entry.categories)
    cls = plugins.find("dataset", entry.use)
    return len(cls.counts) or 1


def cells(sweep: Sweep) -> int:
    """Cells of a sweep, without a look at the data."""
    shots = sum(len(m.shots if m.shots is not None else sweep.shots) for m in sweep.methods)
    return sum(map(categories, sweep.datasets)) * shots * len(sweep.seeds)


def status(name: str, storages: list[Path]) -> str:
    """Where a config was run and how far; "never run" where no storage knows of it."""
    sweep = load(name)
    whole, runs = cells(sweep), []
    for storage in storages:
        folder = storage / sweep.name
        if not (folder / "results.csv").is_file():
            continue
        swept = reader.load(folder)
        if swept.results.empty:
            continue
        where = str(swept.environment.get("processor") or swept.environment.get("system", "?"))
        sha, dirty, _ = str(swept.environment.get("commit") or "").partition("-dirty")
        commit = (sha[:10] or "an unknown commit") + ", modified" * bool(dirty)
        done = f"{len(swept.results):,} of {whole:,} cells"
        failed = f", {len(swept.failed)} failed" if len(swept.failed) else ""
        runs.append(f"{done}{failed} on {where} at {commit}")
    return "; ".join(runs) or "never run"


def table(storages: list[Path]) -> list[str]:
    """Lines of the status table in Markdown."""
    lines = [
        "| result | full size | cells | status | small twin | cells | status |",
        "|---|---|--:|---|---|--:|---|",
    ]
    for result in RESULTS:
        row = [result.name]
        for name in (result.full, result.micro):
            row += [f"`conf/{name}.yaml`", f"{cells(load(name)):,}", status(name, storages)]
        lines.append(f"| {' | '.join(row)} |")
    return lines


def written(page: str, lines: list[str]) -> str:
    """The page with its status table replaced.

    Raises
    ------
    ValueError
        When the page has no place for it.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected a line {BEGIN} and a line {END} in the page")
    return "\n".join([before + begin, *lines, end + after])


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("storages", type=Path, nargs="*", metavar="STORAGE")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(HOME)}")
    arguments = parser.parse_args()
    lines = table(arguments.storages)
    print("\n".join(lines))
    if arguments.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), lines), encoding="utf-8")


if __name__ == "__main__":
    main()
