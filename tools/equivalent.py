"""Changes that ``tools.mutate`` makes and that no test can notice, with why."""

from __future__ import annotations

#: module -> mutant, as "its line: change" -> why no test can tell it from the module
EQUIVALENT: dict[str, dict[str, str]] = {
    "harness/results/intervals.py": {
        'rows = list(group.itertuples(index=False, name="Row")): False -> True': "its fields are "
        "read by name",
    },
    "harness/results/evaluation.py": {
        "masks = [None if s.mask is None else np.ones((1, 1), np.bool_) for s in samples]: "
        "1 -> 2": "without maps nobody looks at what masks mark",
    },
    "harness/results/comparison.py": {
        'keys = measured[0].frame[["method", "dataset", "shots"]].drop_duplicates(): 0 -> 1': ""
        "what only one of both has is passed over",
    },
    "harness/results/folder/writer.py": {
        "_cell(row): _cell(row) -> pass": "whoever calls it has made the cell of the row before",
    },
    "harness/results/significance.py": {
        'beaten = dict.fromkeys([row[side] for row in rows for side in ("a", "b")], 0): 0 -> 1': ""
        "counts are only compared, and all start alike",
    },
    "harness/execution/schedule.py": {
        "self.load = 0.0: 0.0 -> 1.0": "loads are only compared, and all start alike",
        "after = max((self._rank.get(d, 0.0) for d in self._dependents.get(key, ())), default=0): "
        "0.0 -> 1.0": "whatever depends on a task was ranked before it",
        'best, chosen = (False, False, 0.0, 0.0), "": False -> True': "the first is always taken",
    },
    "harness/planning/costs.py": {
        "rows.append(tuple(map(sum, zip(*rows, strict=True))) if rows else (0.0,) * 5): 5 -> 6": (
            "a line that is too long is cut by its format"
        ),
        "rows.append(tuple(map(sum, zip(*rows, strict=True))) if rows else (0.0,) * 5): "
        "True -> False": "rows are equally long",
        "for name, (count, open_, *rest) in zip(names, rows, strict=True):: True -> False": (
            "there are as many names as rows"
        ),
        "for i, (m, v) in enumerate(zip(sweep.methods, methods, strict=True)): True -> False": (
            "values are made of the methods"
        ),
        "share = min(1.0, max((t.gpus for t in graph.tasks.values()), default=0.0)): 0.0 -> 1.0": (
            "without tasks there is nothing to share"
        ),
    },
    "harness/planning/inputs.py": {
        "for i, entry in zip(draft.datasets, draft.sweep.datasets, strict=True):: True -> False": (
            "a draft numbers each of its entries"
        ),
        "for i, m in zip(draft.methods, draft.sweep.methods, strict=True): True -> False": (
            "a draft numbers each of its entries"
        ),
        "entries = dict(zip(draft.auxiliary, draft.sweep.auxiliary, strict=True)): True -> False": (
            "a draft numbers each of its entries"
        ),
        "use for use, read in zip(READERS, (generate, personalize), strict=True) if name in read: "
        "True -> False": "two and two",
    },
    "harness/planning/training_data.py": {
        "for m, code in zip(sweep.methods, methods, strict=True):: True -> False": (
            "a method without code is a mistake, and told before"
        ),
        "stamps.learn([*(s.image for s in part), *masks]): stamps.learn([*(s.image for s in part), "
        "*masks]) -> pass": "what is not learnt many at a time is learnt one by one",
        "for key, s in zip(of_part, part, strict=True): True -> False": "keys are of these samples",
    },
    "harness/planning/listing.py": {
        **dict.fromkeys(
            (
                "stamps.learn(s.image for s in [*train, *test]): "
                "stamps.learn(s.image for s in [*train, *test]) -> pass",
                "stamps.learn(s.mask for s in queries if s.mask is not None): "
                "stamps.learn(s.mask for s in queries if s.mask is not None) -> pass",
            ),
            "what is not learnt many at a time is learnt one by one",
        ),
        "zip(references, masks, strict=True), key=lambda rm: (hashed(rm[0].sample.image), "
        "rm[0].key): True -> False": "there is one for each query",
    },
    "harness/planning/origins.py": {
        "for entry, code in zip(sweep.methods, inputs.methods, strict=True):: True -> False": (
            "inputs are of the sweep's methods"
        ),
    },
    "harness/planning/graph.py": {
        "break: break -> continue": "once all are drawn, each further turn does the same",
    },
}
