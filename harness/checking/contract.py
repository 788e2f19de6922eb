"""The promises of a plug-in, executable: ``python -m harness check NAME|module:Class|file.py``.

A plug-in is run on small made-up images; each promise is reported as kept or broken, with what was
seen. Built-in plug-ins and those of others are held to the same.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from harness import config, plugins
from harness.checking.trial import Broken, Hands, Trial, textures
from harness.config.parameters import parameters
from harness.data.opening import open_dataset
from harness.errors import InputError, Problem, one_line, suggest
from harness.execution.memory.cache import read_image, read_mask
from harness.execution.process import seeding
from harness.interface import (
    Dataset,
    Generator,
    Image,
    Prediction,
    Support,
)

#: promises without which the ones that follow cannot be tried
NEEDED = (
    "gives finite float32 scores (N,), and maps (N, h, w) or none",
    "learns a support; its state is a dict of numpy arrays",
    "opens and has sorted categories",
)
#: pixels, pools, masks, records of features, states: whatever may be shared
LEAVES = "leaves all it is handed as it is"


def check(use: str, params: dict[str, Any] | None = None, data_root: str | None = None) -> int:
    """Check a plug-in and print what was found; 0 when all promises are kept, 1 when not.

    Parameters
    ----------
    use : name, module:Class or file
    params : of the plug-in
    data_root : folder that holds the datasets, for a dataset

    Raises
    ------
    InputError
        There is no such plug-in, or it cannot be built.
    """
    kind = kind_of(use)
    problems = config.check_plugin(kind, use, params or {}, use)
    if problems and kind != "dataset":
        raise InputError(*problems)
    parameters(plugins.find(kind, use), use)
    if kind == "method":
        promises = _method(use, params or {})
    elif kind == "generator":
        promises = _generator(use, params or {})
    else:
        try:
            open_dataset(use, params or {}, data_root).categories()
        except (ValueError, OSError) as error:
            raise InputError(Problem("", one_line(error))) from None
        promises = _dataset(use, params or {}, data_root)
    broken = 0
    for promise, test in promises:
        began = time.perf_counter()
        try:
            test()
            verdict, detail = "kept  ", ""
        except Broken as error:
            verdict, detail = "BROKEN", f": {one_line(error)}"
        except Exception as error:  # a plug-in may raise anything; where is what its author needs
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
            verdict, detail = "BROKEN", f": {type(error).__name__}: {one_line(error)} ({where})"
        broken += verdict == "BROKEN"
        print(f"{verdict} {promise}{detail}  [{time.perf_counter() - began:.1f} s]", flush=True)
        if broken and promise in NEEDED:
            print("the others were not tried: they build on this one")
            break
    print(f"{use}: {'all promises kept' if not broken else f'{broken} promises broken'}")
    return 1 if broken else 0


def kind_of(use: str, others: Sequence[str] = ()) -> str:
    """Which kind of plug-in a name stands for; ``others`` are suggested beside the known ones."""
    for kind in plugins.KINDS:
        if use in plugins.names(kind):
            return kind
    if ":" not in use and "." not in use:
        known = [*others, *(n for kind in plugins.KINDS for n in plugins.names(kind))]
        raise InputError(Problem("", f"no plug-in {use!r}.{suggest(use, known)}"))
    errors = []
    for kind in plugins.KINDS:
        try:
            plugins.find(kind, use)
            return kind
        except InputError as error:
            errors.append(error)
    raise errors[0]


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise Broken(message)


def _method(use: str, params: dict[str, Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    trial = Trial(use, params)
    seen: dict[str, Any] = {}

    def documented() -> None:
        doc = (type(trial.method).__doc__ or "").strip()
        _expect(bool(doc), "the class has no docstring")

    def keeps_parameters() -> None:
        known = parameters(type(trial.method))
        missing = [name for name in known if not hasattr(trial.method, name)]
        _expect(not missing, f"__init__ does not keep {', '.join(missing)} under its own name")

    def predicts() -> None:
        seen["method"] = trial.set_up()
        seen["first"] = trial.predict(seen["method"], trial.queries, trial.support)
        _expect(bool(np.isfinite(seen["first"].scores).all()), "scores are not all finite")
        maps = seen["first"].maps
        _expect(maps is None or bool(np.isfinite(maps).all()), "maps are not all finite")

    def same(a: Prediction, b: Prediction, what: str) -> None:
        gap = float(np.abs(a.scores - b.scores).max())
        exact = trial.method.deterministic
        scale = float(np.abs(a.scores).max()) or 1.0
        _expect(gap == 0 if exact else gap <= 1e-3 * scale, f"{what}: scores differ by {gap:.3g}")

    def repeats() -> None:
        again = trial.predict(trial.set_up(), trial.queries, trial.support)
        same(seen["first"], again, "a second object in the same state")

    def forgets() -> None:
        method = seen["method"]
        other = trial.supported(textures(trial.shots, 7, spots=True))
        trial.predict(method, trial.queries, other)
        same(seen["first"], trial.predict(method, trial.queries, trial.support), "after a refit")

    def each_alone() -> None:
        method = seen["method"]
        method.fit(trial.support)
        parts = [trial.ask(method, trial.queries[a:b]).scores for a, b in ((0, 1), (1, 4), (4, 10))]
        scores, whole = np.concatenate(parts), seen["first"].scores
        gap = float(np.abs(scores - whole).max())
        scale = float(np.abs(whole).max()) or 1.0
        _expect(gap <= 1e-4 * scale, f"scores depend on the other queries: by {gap:.3g}")

    def without_maps() -> None:
        unmapped = trial.predict(seen["method"], trial.queries, trial.support, maps=False)
        gap = float(np.abs(unmapped.scores - seen["first"].scores).max())
        scale = float(np.abs(unmapped.scores).max()) or 1.0
        _expect(gap <= 1e-4 * scale, f"scores differ by {gap:.3g} when no maps are asked for")

    def other_sizes() -> None:
        pixels = np.zeros((70, 120, 3), np.uint8)
        pixels[::7] = 200
        trial.ask(seen["method"], (Image("oblong", pixels), trial.queries[0]))

    yield "says in its docstring what it is", documented
    yield "keeps its parameters under their own names", keeps_parameters
    yield NEEDED[0], predicts
    yield "gives the same result for the same input and seed", repeats
    yield "forgets earlier supports when fitted anew", forgets
    yield "scores each query on its own", each_alone
    yield "gives the same scores when no maps are asked for", without_maps
    yield "takes images of any size, and of several sizes at once", other_sizes
    yield LEAVES, trial.hands.leaves


def _generator(use: str, params: dict[str, Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    imports = plugins.source(plugins.find("generator", use)).imports
    seeding.prepare(imports, 1)
    hands = Hands()
    support = Support(hands.images(textures(2, 1), "support image"), "striped cloth", 0)
    queries = hands.images(textures(2, 2) + textures(1, 3, spots=True), "query")
    seen: dict[str, Any] = {}

    def set_up() -> Generator:
        generator: Generator = config.build("generator", use, params)
        generator.setup("cpu", hands.features())
        return generator

    def customizes() -> None:
        generator = set_up()
        seeding.seed("1" * 32, imports)
        prior = generator.prepare("striped cloth", 0) if generator.prior else {}
        seeding.seed("2" * 32, imports)
        hands.value(prior, "what it prepared")
        seen["state"] = hands.value(generator.customize(support, prior), "the customized state")
        wrong = [n for n, a in seen["state"].items() if not isinstance(a, np.ndarray)]
        _expect(not wrong, f"the state must hold numpy arrays, not so: {', '.join(wrong)}")
        named = {*generator.generate_parameters, *generator.personalize_parameters}
        unknown = named - set(parameters(type(generator)))
        _expect(
            not unknown,
            "``generate_parameters`` and ``personalize_parameters`` name what is no parameter: "
            + ", ".join(sorted(unknown)),
        )

    def generates() -> None:
        generator = set_up()
        generator.load(seen["state"], support)
        seen["images"] = list(generator.generate(2, 5))
        shapes = [(i.shape, i.dtype.name) for i in seen["images"]]
        good = len(shapes) == 2 and all(s[-1] == 3 and d == "uint8" for s, d in shapes)
        _expect(good, f"expected two uint8 (H, W, 3), got {shapes}")

    def personalizes() -> None:
        generator = set_up()
        generator.load(seen["state"], support)
        seen["personal"] = generator.personalize(queries, 5)
        shape = seen["personal"].images.shape
        _expect(len(shape) == 4 and shape[0] == 3 and shape[3] == 3, f"got images {shape}")

    def repeats() -> None:
        generator = set_up()
        generator.load(seen["state"], support)
        same = all(map(np.array_equal, generator.generate(2, 5), seen["images"]))
        _expect(same or not generator.deterministic, "the same seed gave other images")

    def each_alone() -> None:
        generator = set_up()
        generator.load(seen["state"], support)
        alone = generator.personalize(queries[1:2], 5).images[0].astype(int)
        gap = int(np.abs(alone - seen["personal"].images[1]).max())
        _expect(gap <= 2, f"a query alone differs by up to {gap} grey levels")

    yield NEEDED[1], customizes
    yield "generates uint8 images from a state loaded in another object", generates
    yield "personalizes every query", personalizes
    yield "gives the same images for the same seed", repeats
    yield "personalizes each query on its own", each_alone
    yield LEAVES, hands.leaves


def _dataset(
    use: str, params: dict[str, Any], data_root: str | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    seen: dict[str, Any] = {}

    def opens() -> None:
        seen["data"] = open_dataset(use, params, data_root)
        seen["names"] = seen["data"].categories()
        _expect(bool(seen["names"]), "there are no categories")
        _expect(seen["names"] == sorted(set(seen["names"])), "categories are not sorted or unique")

    def lists() -> None:
        data: Dataset = seen["data"]
        again = open_dataset(use, params, data_root)
        for name in seen["names"]:
            train, test = data.train(name), data.test(name)
            _expect(bool(train), f"{name}: no training images below {data.root}")
            _expect(bool(test), f"{name}: no test images below {data.root}")
            _expect(all(s.label == 0 for s in train), f"{name}: an anomaly in the training split")
            for part in (train, test):
                names = [s.name for s in part]
                _expect(len(set(names)) == len(names), f"{name}: a sample is listed twice")
            both = {s.name for s in train} & {s.name for s in test}
            _expect(not both, f"{name}: {sorted(both)[:1]} is in both splits")
            _expect(again.test(name) == test, f"{name}: a second listing differs")
            _expect(again.train(name) == train, f"{name}: a second listing differs")

    def decodes() -> None:
        data: Dataset = seen["data"]
        for name in seen["names"][:3]:
            test = data.test(name)
            for sample in [*data.train(name)[:1], *test[:1], *test[-1:]]:
                shape = read_image(data, sample.image).shape
                _expect(bool(data.stamp(sample.image)), f"{sample.name} has no stamp")
                mask = read_mask(data, sample)
                same = mask is None or sample.box is not None or mask.shape == shape[:2]
                _expect(same, f"{sample.name}: image {shape}, mask {np.shape(mask)}")

    yield NEEDED[2], opens
    yield "lists normal training samples, disjoint from the test split, the same every time", lists
    yield "opens and stamps its sources; masks fit their images", decodes
