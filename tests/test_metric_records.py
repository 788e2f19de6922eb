"""A metric is one record: whoever adds one has its column, mean, heading and definition."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness.results import metrics

#: Adds a metric of which less is better before anything else is imported, as an edit would.
NEW = """
import sys
from pathlib import Path
import numpy as np
from harness.results import metrics

def false_alarms(ranking):
    '''Share of normal scores above the lowest anomalous one.'''
    return float(ranking.above[0] / ranking.normals)

new = metrics.Metric("image_alarms", "alarms", false_alarms, "Alarms.", metrics.IMAGES,
                     higher_is_better=False)
metrics.RECORDS = {**metrics.RECORDS, new.name: new}
metrics.METRICS = tuple(metrics.RECORDS)

from harness.reporting import report, tables
from harness.results.aggregate import csv_text, results_frame, summary_frame
from harness.results.folder.reader import DEFINITIONS

scores = {"good": [0.1, 0.2, 0.8, 0.9], "poor": [0.1, 0.7, 0.6, 0.9]}
rows = [
    {"method": method, "dataset": "d", "category": "c", "shots": 2, "seed": seed, "n_normal": 2,
     "n_anomalous": 2, **metrics.evaluate([0, 0, 1, 1], values)}
    for method, values in scores.items() for seed in (0, 1)
]
frame = results_frame(rows)
assert frame["image_alarms"].tolist() == [0.0, 0.0, 0.5, 0.5], frame
summary = summary_frame(frame)
table = tables.headline(summary, metrics.family(metrics.IMAGES), ["good", "poor"], "Images")
column = 2 + metrics.family(metrics.IMAGES).index("image_alarms")
assert table.groups[-1] == ("alarms %", 1)
assert (0, column) in table.best and (1, column) not in table.best, table
assert DEFINITIONS["alarms"] == "Alarms."
folder = Path(sys.argv[1])
(folder / "results.csv").write_text(csv_text(frame))
assert "alarms %" in report.render(folder, "text")
old = frame.drop(columns="image_alarms")
(folder / "results.csv").write_text(csv_text(old))
text = report.render(folder, "text")
assert "AUROC %" in text and "alarms %" not in text, "a folder of before has no such column"

from harness.reporting import compare as shown, tables
from harness.reporting.mlflow import mlflow_runs
from harness.reporting.mlflow.lineage import curves
from harness.results import comparison, published
worse = frame.assign(image_alarms=frame["image_alarms"] + 0.25)
for name, rows in (("before", frame), ("after", worse)):
    (folder / name).mkdir()
    (folder / name / "results.csv").write_text(csv_text(rows))
folders = [folder / "before", folder / "after"]
(held,) = comparison.compare(folders, fail_below=1)
assert {c.metric for c in held.fallen} == {"image_alarms"}, held.fallen
assert "alarms %, differences in points" in shown.render([held], "text")
assert any("alarms 0.0 to 25.0" in line for line in shown.worse(held)), shown.worse(held)
(held,) = comparison.compare(folders[::-1], fail_below=1)
assert not held.fallen, "fewer alarms are no loss"

(folder / "papers").mkdir()
(folder / "papers/one.yaml").write_text(
    "{source: a paper, runs: 1, notes: '', results: [{method: good, dataset: d, shots: 2, "
    "image_alarms: [5.0, null]}]}")
beside = published.compare(summary, {}, folder / "papers")
beside = published.withhold(beside, frame, {})
assert "alarms" in str(tables.against(beside)), tables.against(beside)
assert beside["difference"].tolist() == [-0.05]

points = curves(summary.to_dict("records"), [])
key = next(key for key in points if key.method == "poor")
assert points[key][2]["image_alarms"] == 0.5, points
print("fine")
"""


def test_a_metric_is_one_entry_and_older_folders_stay_readable(tmp_path: Path) -> None:
    command = [sys.executable, "-c", NEW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr


def test_records_say_what_tables_and_readers_need() -> None:
    for name, metric in metrics.RECORDS.items():
        assert name == metric.name
        assert metric.pixels == name.startswith("pixel_")
        assert metric.definition.endswith(".")
        assert metric.family in (None, *metrics.FAMILIES)
    titles = [metric.title for metric in metrics.RECORDS.values()]
    assert len(set(titles)) == len(titles)
