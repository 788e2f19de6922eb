"""One-to-Normal's departures from the paper, against loops, and what synthetic defects decide."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import config
from harness.interface import Image, Support
from methods._o2n.branches import Comparison
from methods._o2n.defects import KINDS, damaged
from methods._o2n.fusion import CHOICES, STEPS, Weights, best_weights, discounted_weights, fused
from methods._o2n.rehearsal import acts
from methods.generators.dreambooth import DreamBooth
from tests.clip_fixtures import memory, pictures, write_config
from tests.o2n_fixtures import PERSONALIZED, QUERIES, REFERENCES, o2n, predict, support
from tests.tiny_base import save_tiny_base


def levels(seed: int, count: int) -> list[torch.Tensor]:
    """Two levels of unit vectors on unequal grids."""
    random = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(count, side, side, 6, generator=random) for side in (4, 2))
    return [torch.nn.functional.normalize(one.double(), dim=-1) for one in drawn]


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return 1 - float(a @ b)


def nearest(patch: torch.Tensor, bank: torch.Tensor) -> float:
    return min(apart(patch, other) for image in bank for row in image for other in row)


@pytest.mark.parametrize("against", ["query", "reconstruction", "excess", "bank"])
def test_every_comparison_equals_its_definition(against: str) -> None:
    queries, rebuilt, personalized, bank = (levels(seed, n) for seed, n in enumerate((2, 2, 2, 3)))
    branches = Comparison(against, "min").branches(queries, rebuilt, [personalized], bank)
    for level, (q, r, p, b) in enumerate(zip(queries, rebuilt, personalized, bank, strict=True)):
        for n, y, x in itertools.product(*map(range, q.shape[:3])):
            distance, floor = apart(q[n, y, x], p[n, y, x]), apart(q[n, y, x], r[n, y, x])
            normal = nearest(q[n, y, x], b)
            personal = {
                "query": distance,
                "reconstruction": apart(r[n, y, x], p[n, y, x]),
                "excess": distance - floor,
                "bank": normal - nearest(p[n, y, x], b),
            }[against]
            values = {
                "S_P": personal,
                "S_N": normal,
                "floor": floor,
                "S_min": min(distance, normal),
            }
            for name, value in values.items():
                assert float(branches[name][level][n, y, x]) == pytest.approx(value, abs=1e-9)


def test_min_is_a_bank_with_one_more_aligned_reference() -> None:
    """Where the bank looks at its own cell only, the personalized image is one more image of it."""
    queries, personalized, bank = levels(0, 1), levels(1, 1), levels(2, 3)
    comparison = Comparison(fusion="min", scope="same-cell")
    nearest = comparison.branches(queries, None, [personalized], bank)["S_min"]
    more = [torch.cat([b, p]) for b, p in zip(bank, personalized, strict=True)]
    expected = comparison.branches(queries, None, [personalized], more)["S_N"]
    for a, b in zip(nearest, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_an_unchanged_query_has_no_excess_and_comes_no_nearer() -> None:
    queries, bank = levels(0, 2), levels(1, 3)
    for against in ("reconstruction", "excess", "bank"):
        excess = Comparison(against).branches(queries, queries, [queries], bank)["S_P"]
        assert not any(level.any() for level in excess)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_config(tmp_path_factory.mktemp("o2n"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_base(tmp_path_factory.mktemp("o2n-switches"))


def test_min_takes_the_place_of_both_in_scores_and_maps(tiny: str) -> None:
    prediction = predict(o2n(tiny, fusion="min", alpha=2.0, beta=0.25))
    for whole, parts in (
        (prediction.scores, prediction.parts),
        (prediction.maps, prediction.part_maps),
    ):
        total = 2 * parts["S_min"] + 0.25 * parts["S_text"]
        np.testing.assert_allclose(whole, total, rtol=1e-6)
    assert (prediction.parts["S_min"] <= prediction.parts["S_N"] + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), fusion=st.sampled_from(["sum", "min"]))
def test_chosen_weights_are_the_least_among_the_best(seed: int, fusion: str) -> None:
    random = np.random.default_rng(seed)
    bad = np.arange(9) < random.integers(1, 9)
    names = ("S_P", "S_N", "S_text", "S_min")
    branches = {n: random.integers(0, 4, 9).astype(np.float32) for n in names}

    def area(weights: Weights) -> float:
        scores = fused(branches, weights, fusion)
        pairs = [(a > b) + 0.5 * (a == b) for a in scores[bad] for b in scores[~bad]]
        return float(np.mean(pairs))

    chosen = best_weights(branches, bad, fusion, margin=0.05)
    grid = [
        Weights(p, 1.0, t) for p in STEPS for t in STEPS if fusion == "sum" or p == 0
    ]  # S_P has no weight of its own in the minimum
    best = max(area(weights) for weights in grid)
    assert area(chosen) >= best - 0.05 - 1e-9
    for weights in grid:
        if weights.personal + weights.text < chosen.personal + chosen.text:
            assert area(weights) < best - 0.05


def test_a_branch_that_sees_nothing_gets_no_weight() -> None:
    bad = np.array([False, False, True, True, True])
    blind = np.zeros(5, np.float32)
    sees = np.array([0.1, 0.2, 0.3, 0.5, 0.4], np.float32)
    harmful = 1 - sees
    chosen = best_weights({"S_P": harmful, "S_N": sees, "S_text": blind}, bad, "sum", 0.05)
    assert chosen == Weights(0.0, 1.0, 0.0)
    chosen = best_weights({"S_P": sees, "S_N": blind, "S_text": blind}, bad, "sum", 0.05)
    assert chosen.personal > 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), fusion=st.sampled_from(["sum", "min"]))
def test_discounted_branches_count_for_their_share_of_the_nearest_patchs_spread(
    seed: int, fusion: str
) -> None:
    """In units of spread: a quarter of the lesser of 1 and d' over that of S_N; never below 0."""
    random = np.random.default_rng(seed)
    bad = np.arange(12) < 8
    names = ("S_P", "S_N", "S_text", "S_min")
    lifts = dict(zip(names, random.normal(1, 1, 4), strict=True))
    branches = {n: random.gamma(2, size=12) * random.gamma(2) + lifts[n] * bad for n in names}
    weights = discounted_weights(branches, bad, fusion, 0.25)

    def spread(name: str) -> float:
        groups = (branches[name][bad], branches[name][~bad])
        return float(np.mean([np.var(group, ddof=1) for group in groups]) ** 0.5)

    def prime(name: str) -> float:
        gap = branches[name][bad].mean() - branches[name][~bad].mean()
        return float(gap) / spread(name)

    own = "S_min" if fusion == "min" else "S_N"
    assert weights.normal == 1
    for name, weight in (("S_P", weights.personal), ("S_text", weights.text)):
        share = weight * spread(name) / spread(own)
        if prime(name) <= 0 or (name == "S_P" and fusion == "min"):
            assert weight == 0
        elif prime(own) <= prime(name):
            assert share == pytest.approx(0.25)
        else:
            assert share == pytest.approx(0.25 * prime(name) / prime(own))
    scaled = {**branches, "S_text": 5 * branches["S_text"] + 3}  # units mean nothing
    again = discounted_weights(scaled, bad, fusion, 0.25)
    assert again.text == pytest.approx(weights.text / 5)


@pytest.mark.parametrize("how", sorted(CHOICES))
def test_branches_without_spread_get_no_weight(how: str) -> None:
    """Nor do two normal pictures and one damaged one bring a division by nothing."""
    bad = np.array([False, False, True])
    flat, sees = np.ones(3, np.float32), np.array([0.1, 0.2, 0.9], np.float32)
    chosen = CHOICES[how]({"S_P": flat, "S_N": sees, "S_text": flat}, bad, "sum")
    assert chosen == Weights(0.0, 1.0, 0.0)
    chosen = CHOICES[how]({"S_P": flat, "S_N": flat, "S_text": sees}, bad, "sum")
    assert 0 < chosen.text < np.inf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 64, 3), (40, 90, 3), (16, 16, 3)])
def test_defects_change_what_their_mask_says_and_no_more(kind: str, shape: tuple) -> None:
    clean = np.random.default_rng(0).integers(60, 190, shape).astype(np.uint8)
    for seed in range(8):
        defective, mask = damaged(clean, kind, np.random.default_rng(seed))
        again, _ = damaged(clean, kind, np.random.default_rng(seed))
        assert np.array_equal(defective, again)
        assert defective.dtype == np.uint8
        assert defective.shape == shape
        assert mask.shape == shape[:2]
        assert 0 < mask.mean() < 0.4
        changed = (defective != clean).any(2)
        assert changed[mask].mean() > 0.5
        if kind != "blob":  # whose rim fades out
            assert not changed[~mask].any()
    with pytest.raises(ValueError, match="cutpaste, scar, blob"):
        damaged(clean, "crack", np.random.default_rng(0))


def test_acts_go_round_images_and_kinds_and_depend_on_keys_alone() -> None:
    images = pictures(2)
    played = acts(images, 5)
    assert [act.damaged for act in played] == [False] * 2 + [True] * 5
    assert [act.source for act in played] == [0, 1, 0, 1, 0, 1, 0]
    assert len({act.image.key for act in played}) == len(played)
    for act, again in zip(played, acts(images, 5), strict=True):
        assert np.array_equal(act.image.pixels, again.image.pixels)
        assert act.damaged != np.array_equal(act.image.pixels, images[act.source].pixels)


def customized(base: str, features, cell: Support, **params) -> tuple[DreamBooth, Support]:
    params = {"base": base, "tune": "lora", "rank": 2, "prompts": 1, "steps": 4, **params}
    generator = DreamBooth(**params, train_steps=1, copies=1, prior_images=0)
    generator.setup("cpu", features)
    state = generator.customize(cell, {})
    generator.load(state, cell)
    return generator, Support(cell.images, cell.object_name, cell.seed, cell.pool, state)


@pytest.mark.parametrize("how", sorted(CHOICES))
def test_chosen_weights_are_those_of_a_loop_over_the_support(
    tiny: str, base: str, how: str
) -> None:
    """Every image and damaged copy predicted by a method that has the other images as its bank."""
    features = memory()
    params = {"base": base, "tune": "lora", "rank": 2, "prompts": 1, "steps": 4}
    images = pictures(3, seed=40)
    cell = support(references=images, pool=images)
    generator, cell = customized(base, features, cell)
    method = o2n(tiny, features, weights=how, personalizer=params, rehearsals=6)
    prediction = predict(method, cell=cell)

    ordered = sorted(images, key=lambda image: image.key)
    played = acts(ordered, 6)
    rebuilt = generator.personalize([act.image for act in played], cell.seed).images
    plain = o2n(tiny, features)
    parts: dict[str, list[float]] = {}
    for act, pixels in zip(played, rebuilt, strict=True):
        others = tuple(image for image in ordered if image is not ordered[act.source])
        alone = predict(
            plain,
            [act.image],
            [Image(f"p/{act.image.key}", pixels)],
            support(references=others, pool=others),
        )
        for name, values in alone.parts.items():
            parts.setdefault(name, []).append(float(values[0]))
    branches = {name: np.array(values, np.float32) for name, values in parts.items()}
    weights = CHOICES[how](branches, np.array([act.damaged for act in played]), "sum")
    np.testing.assert_allclose(
        prediction.scores, fused(prediction.parts, weights, "sum"), rtol=1e-5
    )


def test_one_shot_and_plain_supports(tiny: str, base: str) -> None:
    params = {"base": base, "tune": "lora", "rank": 2, "prompts": 1, "steps": 4}
    method = o2n(tiny, weights="synthetic", personalizer=params, alpha=0.5, beta=0.25)
    single = support(references=REFERENCES[:1])
    prediction = predict(
        method, QUERIES, PERSONALIZED, single
    )  # nothing to leave out: fixed weights
    total = (
        prediction.parts["S_P"] + 0.5 * prediction.parts["S_N"] + 0.25 * prediction.parts["S_text"]
    )
    np.testing.assert_allclose(prediction.scores, total, rtol=1e-6)
    with pytest.raises(ValueError, match="customizes a model"):
        predict(method)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"against": "excess"}, "against: excess needs `autoencoder`"),
        ({"weights": "synthetic"}, "belong together"),
        ({"personalizer": {"base": "micro"}}, "belong together"),
        ({"fusion": "max"}, "fusion: expected one of sum, min"),
        ({"weights": "best"}, "weights: expected one of fixed, synthetic, discounted"),
        ({"rehearsals": 0, "weights": "fixed"}, "rehearsals"),
        (
            {"weights": "synthetic", "personalizer": {"strength": 2}},
            "personalizer: strength: Input should be less than or equal to 1",
        ),
    ],
)
def test_wrong_switches_are_refused(parameters: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        config.build("method", "o2n", parameters)


def test_files_name_the_personalizers_base(tiny: str, base: str) -> None:
    params = {"base": base, "tune": "lora"}
    method = o2n(tiny, weights="synthetic", personalizer=params)
    assert any(Path(base) in path.parents for path in method.files())


def test_checking_a_config_that_names_it_loads_no_torch(tmp_path: Path) -> None:
    config = tmp_path / "one.yaml"
    config.write_text(
        "name: one\ndatasets: [{use: surfaces}]\nmethods: [{use: o2n, generator: d, params: "
        "{text: class-token, weights: synthetic, personalizer: {base: micro}}}]\n"
        "generators: {d: {use: dreambooth}}\nshots: [2]\nseeds: [0]\n"
    )
    code = (
        "import sys; from pathlib import Path; from harness import config; "
        "config.load(Path(sys.argv[1])); print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
