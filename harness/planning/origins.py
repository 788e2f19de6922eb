"""What keys are made of, kept with a sweep's results, so that a plan can say why a task is new.

Parts of keys are recorded by what they belong to (a method, the queries of a category, ...), not
by task, of which there may be a million; and so is which cells there were: the seeds, and each
method's shots. ``planning.reasons`` compares a plan to them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.config.sweep import Sweep
from harness.errors import amount, redacted
from harness.keys import hashed
from harness.planning.graph import VERSION, Category, PlanInputs, shard_queries
from harness.tasks.kinds import Generate, Personalize

FILE = "keys.json"  # in a sweep's folder
FORM = "2"  # of the record: another one cannot be compared to

Origins = Mapping[str, Mapping[str, str]]  # what parts belong to -> part -> hash or value


def origins(sweep: Sweep, inputs: PlanInputs) -> dict[str, dict[str, str]]:
    """Parts of the keys of a sweep's tasks, by what they belong to."""
    whole: dict[str, dict[str, str]] = {"engine": {"version": str(VERSION)}}
    whole["sweep"] = {"seed": str(sweep.seed)}
    whole["cells"] = {"seeds": json.dumps(sweep.seeds)}
    whole["predictions"] = {"maps": str(sweep.maps), "gallery": str(sweep.gallery)}
    whole["evaluation"] = {f"source {name}": says for name, says in inputs.judges.items()}
    whole["evaluation"] |= {"size": str(sweep.evaluation_size)}
    for entry, code in zip(sweep.methods, inputs.methods, strict=True):
        parts = (part for read in code.parts.values() for part in read.items())
        whole[method(str(entry.label))] = dict(parts)
        per_seed = code.auxiliary_per_seed and entry.training == "per-seed"
        whole[cells_of(str(entry.label))] = {
            "shots": json.dumps(sweep.shots if entry.shots is None else entry.shots),
            "generator": entry.generator or "",
            "personalized": str(code.personalized),
            "training": ("per-seed" if per_seed else "once") if code.auxiliary else "",
        }
    for (label, dataset, name), (data, digest) in inputs.auxiliary.items():
        whole.setdefault(auxiliary_of(label), {})[f"{dataset}/{name}"] = data
        whole[f"auxiliary data {data}"] = {"images": digest}
    every = {*sweep.shots, *(k for m in sweep.methods for k in m.shots or ())}
    for name, code in inputs.generators.items():
        for reader in ("", Generate.kind, Personalize.kind):
            whole[generator(name, reader)] = dict(code.parts.get(reader, {}))
        added = sweep.generators[name].added
        whole[pool(name)] = {amount(shots, "shot"): str(added(shots)) for shots in every}
    for category in inputs.categories:
        name = f"{category.dataset}/{category.name}"
        whole[queries(name)] = {
            "images": hashed([r.key for r in category.queries]),
            "shard": str(sweep.shard),
            "shards": " ".join(shards(category, sweep.shard)),
            "masked": str(category.masked),
        }
        whole[truth(name)] = {"labels and masks": category.truth}
        whole[words(name)] = {"object name": category.object_name}
        for seed, drawn in category.supports.items():
            whole[support(name, seed)] = {
                amount(i, "shot"): hashed([r.key for r in drawn[:i]])[:8]
                for i in range(1, max(every) + 1)
            }
    shown = {group: _shown(parts) for group, parts in whole.items()}
    return {"record": {"form": FORM, "digest": hashed(shown)}, **shown}


def _shown(parts: Mapping[str, str]) -> dict[str, str]:
    """Parts without the secrets of their URIs, which a hash stands for."""
    shown = {part: redacted(value) for part, value in parts.items()}
    hidden = {part for part, value in parts.items() if shown[part] != value}
    return shown | {f"{part} in full": hashed(parts[part])[:8] for part in hidden}


def shards(category: Category, most: int) -> list[str]:
    """What each shard of a category holds, as eight digits."""
    return [hashed([r.key for r in part])[:8] for part in shard_queries(category, most)]


def method(label: str) -> str:
    """Group of a method's code, parameters and files."""
    return f"method {label}"


def cells_of(label: str) -> str:
    """Group of what a method was planned for."""
    return f"cells of {label}"


def auxiliary_of(label: str) -> str:
    """Group of the auxiliary data that a method has for each category."""
    return f"auxiliary data of {label}"


def generator(name: str, reader: str = "") -> str:
    """Group of a generator's code, or of parameters that one of its uses alone reads."""
    return f"generator {name}" + (f" ({reader})" if reader else "")


def pool(name: str) -> str:
    """Group of how many images a generator adds to supports."""
    return f"pool of {name}"


def queries(category: str) -> str:
    """Group of a category's queries; ``category`` is dataset/name, here and below."""
    return f"queries of {category}"


def truth(category: str) -> str:
    """Group of a category's labels and masks."""
    return f"truth of {category}"


def words(category: str) -> str:
    """Group of what a category is called in prompts."""
    return f"words of {category}"


def support(category: str, seed: int) -> str:
    """Group of a support, by its shots."""
    return f"support of {category}, seed {seed}"


def read(text: str) -> Origins:
    """Origins as a sweep's folder has them; empty where they are damaged or of another form."""
    try:
        whole: Any = json.loads(text)
        groups = {name: parts for name, parts in whole.items() if name != "record"}
        intact = whole["record"] == {"form": FORM, "digest": hashed(groups)}
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}
    return whole if intact else {}


def nearest(now: Origins, others: Mapping[str, Origins]) -> str:
    """Name of the origins that have most parts in common with these; "" where there are none."""
    mine = {(group, *part) for group, parts in now.items() for part in parts.items()}
    common = {
        name: sum((g, *part) in mine for g, parts in other.items() for part in parts.items())
        for name, other in others.items()
    }
    return max(common, key=common.__getitem__, default="")
