"""A sweep as frames and figures, for notebooks: ``harness.results.load`` gives one.

Frames are tidy: one row for each cell, query or task, one column for each thing known of it.
Metrics are shares in 0..1, NaN where undefined. Figures are matplotlib's, in percent.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.results import aggregate, intervals, significance
from harness.results.metrics import METRICS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.results.folder.reader import SweepFolder

MARKERS = "osD^vP*X<>"


class Sweep:
    """A sweep's folder, read when asked.

    Parameters
    ----------
    folder : what ``reader.load`` gives
    """

    def __init__(self, folder: SweepFolder) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        return f"Sweep({self.folder.name!r}: {self.folder.counts})"

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row for each finished cell: its metrics, and its times where they are known."""
        results, timings = self.folder.results, self.folder.timings
        extra = [name for name in timings.columns if name not in (*results.columns, "key")]
        return results.merge(timings[[*aggregate.CELL, *extra]], on=aggregate.CELL, how="left")

    @cached_property
    def queries(self) -> pd.DataFrame:
        """One row for each query of each cell: query, label (0 normal, 1 anomalous), defect, group
        (what physical thing it shows, empty where unknown), score, and the method's named parts
        (``part.*``; NaN for methods without).

        Cells without a table of predictions are left out.
        """
        import pandas as pd

        tables = []
        for row in self.folder.results[aggregate.CELL].to_dict("records"):
            place = f"{row['method']}/{row['dataset']}/{row['category']}"
            path = self.folder.path / "predictions" / place / f"k{row['shots']}_s{row['seed']}.csv"
            if path.is_file():
                table = aggregate.read_csv(path, ["query", "label", "score"])
                tables.append(table.assign(**{str(k): v for k, v in row.items()}))
        if not tables:
            return pd.DataFrame(columns=[*aggregate.CELL, "query", "label", "defect", "score"])
        frame = pd.concat(tables, ignore_index=True)
        first = [*aggregate.CELL, "query", "label", "defect", "group", "score"]
        known = [name for name in first if name in frame]
        return frame[[*known, *(name for name in frame.columns if name not in first)]]

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """One row for each task that ran: kind, worker, seconds by stage; empty in old folders."""
        import pandas as pd

        path = Path(self.folder.path) / "tasks.csv"
        return aggregate.read_csv(path) if path.is_file() else pd.DataFrame()

    def summary(self, metric: str = "image_auroc") -> pd.DataFrame:
        """Mean of a metric for each method, dataset and number of shots, with its spread.

        Returns
        -------
        frame with the columns method, dataset, shots, mean, std, low, high, n_seeds
            ``std`` over seeds (ddof 1); ``low`` and ``high`` a 95 % interval over seeds and, for
            ``image_auroc`` and ``image_auprc``, over queries.

        Raises
        ------
        ValueError
            When there is no such metric.
        """
        import pandas as pd

        runs = self._runs(metric)
        rows = []
        for key, group in runs.frame.groupby(aggregate.GROUP):
            method, dataset, shots = str(key[0]), str(key[1]), int(str(key[2]))
            sure = runs.mean(method, dataset, shots)
            spread = float(group["value"].std())
            rows.append(
                (method, dataset, shots, sure.mean, spread, sure.low, sure.high, len(group))
            )
        columns = [*aggregate.GROUP, "mean", "std", "low", "high", "n_seeds"]
        return pd.DataFrame(rows, columns=columns)

    def compare(self, a: str, b: str, metric: str = "image_auroc") -> pd.DataFrame:
        """Method ``a`` minus ``b`` on the same supports and queries; ``significance.pairs_frame``.

        ``p_holm`` is corrected for all pairs of methods of the sweep, as in its report.

        Raises
        ------
        ValueError
            When there is no such method or metric.
        """
        runs = {metric: self._runs(metric)}
        return significance.paired_frame(self.folder.results, a, b, runs)

    def ranks(self, metric: str = "image_auroc") -> significance.Ranks | None:
        """Mean ranks of methods over datasets; None with fewer than three datasets."""
        return significance.ranks(self.folder.results, metric, self.folder.expected)

    def plot_shots(self, metric: str = "image_auroc") -> Figure:
        """A metric against the number of shots, one panel for each dataset, with 95 % intervals."""
        frame = self.summary(metric)
        datasets = sorted(set(frame["dataset"]))
        figure, panels = _panels(max(len(datasets), 1))
        for axes, dataset in zip(panels, datasets, strict=False):
            for i, method in enumerate(self.folder.methods):
                rows = frame[(frame["method"] == method) & (frame["dataset"] == dataset)]
                rows = rows.sort_values("shots")
                reach = [100 * (rows["mean"] - rows["low"]), 100 * (rows["high"] - rows["mean"])]
                style: dict[str, Any] = {"marker": MARKERS[i % len(MARKERS)], "capsize": 3}
                axes.errorbar(
                    rows["shots"],
                    100 * rows["mean"],
                    [r.fillna(0) for r in reach],
                    label=method,
                    **style,
                )
            axes.set(title=dataset, xlabel="shots", ylabel=f"{metric} %")
            axes.set_xticks(sorted(set(frame["shots"])))
        panels[0].legend()
        return figure

    def plot_scores(self, dataset: str, shots: int, bins: int = 30) -> Figure:
        """Scores of normal and anomalous queries, one panel for each method, all seeds together.

        Raises
        ------
        ValueError
            When there are no predictions for them.
        """
        queries = self.queries
        chosen = queries[(queries["dataset"] == dataset) & (queries["shots"] == shots)]
        methods = [name for name in self.folder.methods if name in set(chosen["method"])]
        if not methods:
            raise ValueError(f"no predictions for dataset {dataset!r} at {shots} shots")
        figure, panels = _panels(len(methods))
        for axes, method in zip(panels, methods, strict=True):
            rows = chosen[chosen["method"] == method]
            for label, name in ((0, "normal"), (1, "anomalous")):
                scores = rows.loc[rows["label"] == label, "score"]
                style: dict[str, Any] = {"alpha": 0.6, "hatch": "//" if label else None}
                axes.hist(scores, bins=bins, density=True, label=name, **style)
            axes.set(title=method, xlabel="score", yticks=[])
        panels[0].legend()
        return figure

    def _runs(self, metric: str) -> intervals.Runs:
        if metric in self.folder.runs:
            return self.folder.runs[metric]
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        folder = self.folder
        return intervals.runs(folder.results, folder.path, metric, folder.expected)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels side by side, drawn without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * count, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])
