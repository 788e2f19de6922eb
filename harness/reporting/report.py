"""A sweep's folder as tables for a terminal, Markdown, LaTeX, CSV, or one HTML page."""

from __future__ import annotations

from pathlib import Path

from harness.reporting import caveats, latex, text
from harness.results import aggregate, published
from harness.results.folder import reader

#: Files of a sweep's folder that a tracking server keeps, by the folder it shows them in.
KEPT = {
    "tables": ("results.csv", "summary.csv", "costs.csv", "timings.csv", "tasks.csv"),
    "config": ("sweep.yaml", "environment.json", "support.json", "notes.json"),
    "": ("failures.csv",),
}
PAGE = "report.html"
FORMATS = ("text", "markdown", "latex", "csv", "html")


def render(
    sweep_dir: Path | str | reader.SweepFolder, format: str, against: str | None = None
) -> str:
    """The report of a sweep.

    Parameters
    ----------
    sweep_dir : Path
        Folder with ``results.csv`` and what else a sweep leaves there; or what was read of one,
        as what intervals need is then made once for several formats.
    format : one of ``FORMATS``
        csv is the summary, or the comparison where there is one.
    against : "published" or None
        Set the means beside those that papers print.

    Raises
    ------
    ValueError
        When a file is damaged, or an argument is none of the choices.
    FileNotFoundError
        When the folder is not a sweep's.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if against not in (None, "published"):
        raise ValueError(f"against must be 'published', got {against!r}")
    sweep = sweep_dir
    if not isinstance(sweep, reader.SweepFolder):
        sweep = reader.load(Path(sweep))
    comparison = None
    if against:
        comparison = published.compare(sweep.summary, sweep.uses)
        comparison = published.withhold(comparison, sweep.results, sweep.uses)
    if format == "csv":
        frame = sweep.summary if comparison is None else comparison
        return aggregate.csv_text(caveats.noted(frame, sweep))
    if format == "html":
        from harness.reporting.page.html import page

        return page(sweep, comparison)
    writers = {"text": text.text, "markdown": text.markdown}
    return writers.get(format, latex.latex)(sweep, comparison)


def load() -> None:
    """Load what ``artifacts`` needs, before the work begins: at its end the checkout may be one
    that was updated meanwhile, and half of it would not fit the other.
    """
    from harness.reporting.page import curves, html  # noqa: F401
    from harness.reporting.page.templates import template

    for name in ("report.html.j2", "report.css.j2", "report.js"):
        template(name)


def artifacts(sweep: reader.SweepFolder) -> dict[str, bytes]:
    """What a tracking server keeps of a sweep, by path: page, curves, tables and configuration."""
    from harness.reporting.page import curves
    from harness.reporting.page.html import page

    drawn = curves.drawings(sweep)
    texts = {PAGE: page(sweep, None, drawn), **curves.files(sweep, drawn)}
    paths = [(Path(folder) / name, sweep.path / name) for folder in KEPT for name in KEPT[folder]]
    return {
        **{path: text.encode(errors="backslashreplace") for path, text in texts.items()},
        **{str(kept): path.read_bytes() for kept, path in paths if path.is_file()},
    }
