"""Numbers that papers print, from the tables in ``conf/published``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import plugins
from harness.errors import InputError
from harness.results.metrics import RECORDS

if TYPE_CHECKING:
    import pandas as pd

TABLES = Path(__file__).resolve().parents[2] / "conf" / "published"
#: to be said wherever the two are side by side
CAVEAT = (
    "Theirs come from the papers' models and supports, ours from this sweep's. AUPRC moves with "
    "the prevalence: compare it only where the queries are the papers' whole test set."
)
WITHHELD = "‡"
TOLERANCE = 0.005  # of prevalences that count as equal
COLUMNS = ["source", "table", "method", "dataset", "shots", "metric", "mean", "std"]


def read(folder: Path = TABLES) -> pd.DataFrame:
    """Every published number, one row each.

    Parameters
    ----------
    folder : Path
        Of YAML files with the keys source, runs, notes and results; a result has method, dataset,
        shots, and [mean, standard deviation] in percent under the name of a metric.

    Returns
    -------
    frame with ``COLUMNS``
        ``mean`` and ``std`` in 0..1, NaN where not printed; ``table`` is the file's stem.

    Raises
    ------
    ValueError
        When a file does not have this form; names the file.
    FileNotFoundError
        When there is no table at all.
    """
    import pandas as pd
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where it is built
    rows: list[dict[str, Any]] = []
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no tables of published results (*.yaml)")
    for path in paths:
        try:
            table = yaml.load(path.read_text(encoding="utf-8"), loader)
            for result in table["results"]:
                key = {name: result[name] for name in ("method", "dataset", "shots")}
                key |= {"source": table["source"], "table": path.stem}
                for metric in RECORDS:
                    if metric in result:
                        mean, std = result[metric]
                        rows.append(
                            key | {"metric": metric, "mean": _share(mean), "std": _share(std)}
                        )
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path}: not a table of published results: {reason}") from error
    return pd.DataFrame(rows, columns=COLUMNS)


def compare(summary: pd.DataFrame, uses: dict[str, str], folder: Path = TABLES) -> pd.DataFrame:
    """A sweep's means beside the printed ones of the same dataset, shots and method.

    Parameters
    ----------
    summary : frame of ``harness.results.aggregate.summary_frame``
    uses : label of a method or dataset in the sweep -> name of its plug-in
        A label that is printed somewhere is compared with that, any other with its plug-in's name.
    folder : Path
        See ``read``.

    Returns
    -------
    frame with the columns method, dataset, shots, metric, ours, ours_std, printed_as, published,
    published_std, difference, table, source
        All shares in 0..1; ``difference`` is ours minus theirs. A number that several tables of a
        paper repeat is there once.
    """
    import pandas as pd

    printed = read(folder)
    known = {name: set(printed[name]) for name in ("method", "dataset")}
    rows = []
    for row in summary.to_dict("records"):
        name, dataset = (
            row[kind] if row[kind] in known[kind] else uses.get(row[kind], row[kind])
            for kind in ("method", "dataset")
        )
        match = printed[
            (printed["method"] == name)
            & (printed["dataset"] == dataset)
            & (printed["shots"] == row["shots"])
        ]
        for other in match.to_dict("records"):
            ours = float(row[f"{other['metric']}_mean"])
            if math.isnan(ours):
                continue
            rows.append(
                {
                    **{key: row[key] for key in ("method", "dataset", "shots")},
                    "metric": other["metric"],
                    "ours": ours,
                    "ours_std": row[f"{other['metric']}_std"],
                    "printed_as": name,
                    "published": other["mean"],
                    "published_std": other["std"],
                    "difference": ours - other["mean"],
                    **{key: other[key] for key in ("table", "source")},
                }
            )
    columns = "method dataset shots metric ours ours_std printed_as published published_std"
    frame = pd.DataFrame(rows, columns=[*columns.split(), "difference", "table", "source"])
    frame = frame.sort_values(["dataset", "shots", "method", "table", "metric"])
    again = [*columns.split()[:4], "published", "paper"]  # an ablation repeats its headline row
    frame["paper"] = frame["table"].str.partition("_")[0] if len(frame) else ""
    return frame.drop_duplicates(again).drop(columns="paper").reset_index(drop=True)


def withhold(comparison: pd.DataFrame, results: pd.DataFrame, uses: dict[str, str]) -> pd.DataFrame:
    """The comparison without differences where the metric moves with the prevalence, as AUPRC
    does, and that is not the paper's.

    The paper's is that of the official counts, which the dataset's plug-in knows (``counts``).

    Parameters
    ----------
    comparison : frame of ``compare``
    results : frame of results, of which ours are means
    uses : label of a dataset in the sweep -> name of its plug-in

    Returns
    -------
    the frame with a column ``withheld``: why there is no difference, "" where there is one
    """
    reasons = {
        dataset: _prevalences(group, uses.get(str(dataset), str(dataset)))
        for dataset, group in results.groupby("dataset")
    }
    withheld = [
        reasons.get(row["dataset"], "") if RECORDS[row["metric"]].prevalence else ""
        for row in comparison.to_dict("records")
    ]
    frame = comparison.assign(withheld=withheld)
    frame["difference"] = frame["difference"].where(frame["withheld"] == "")
    return frame


def withheld(comparison: pd.DataFrame) -> list[str]:
    """A line for each dataset and metric that cannot be compared."""
    rows = comparison[comparison["withheld"] != ""].drop_duplicates(["dataset", "metric"])
    return [
        f"{WITHHELD} {row['dataset']}: {RECORDS[row['metric']].title} is not compared, "
        f"{row['withheld']}"
        for row in rows.to_dict("records")
    ]


def _prevalences(results: pd.DataFrame, use: str) -> str:
    """How the prevalence of a dataset's queries differs from that of its official counts."""
    try:
        official = plugins.find("dataset", use).counts
    except InputError:  # a plug-in that is not here says nothing
        return ""
    if not official:
        return ""
    per = results.drop_duplicates("category").set_index("category")
    ours = per["n_anomalous"] / (per["n_normal"] + per["n_anomalous"])
    theirs = {name: bad / (good + bad) for name, (_, good, bad) in official.items()}
    mean = sum(theirs.values()) / len(theirs)
    apart = [abs(share - theirs.get(str(name), mean)) for name, share in ours.items()]
    if max([*apart, abs(float(ours.mean()) - mean)]) <= TOLERANCE:
        return ""
    return f"prevalence {ours.mean():.3f} here and {mean:.3f} in the paper's test set"


def _share(percent: float | None) -> float:
    return math.nan if percent is None else float(percent) / 100
