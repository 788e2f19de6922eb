from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.regad import World
from datasets.surfaces import Surfaces
from harness import config
from harness.execution.memory.cache import FeatureMemory
from harness.interface import Auxiliary, AuxiliaryCategory, Image, Queries, Support
from methods._learned.regad import (
    Head,
    Registered,
    Straighten,
    augmented,
    registration,
    rotation_scale,
    warped,
)
from methods._ops import maps as _maps
from methods.regad import Regad

SMALL = {"model": "resnet10t", "weights": "random:0"}


@pytest.fixture(scope="module")
def surfaces():
    return Surfaces(n_train=10, n_test=12, size=64)


def images(dataset, samples):
    opened = ((sample.image, dataset.open(sample.image)) for sample in samples)
    return tuple(Image(name, pixels) for name, pixels in opened)


def auxiliary(dataset, categories, shots=2, seed=0):
    worlds = (
        AuxiliaryCategory(
            name,
            name,
            images(dataset, dataset.train(name)),
            (),
            np.zeros(0, np.int64),
            lambda i: None,
        )
        for name in categories
    )
    return Auxiliary(tuple(worlds), shots, seed)


def method(**parameters):
    plain = {"encoder": SMALL, "size": 64, "epochs": 0, "batch": 6, "checkpointing": False}
    regad = Regad(**{**plain, **parameters})
    regad.setup("cpu", FeatureMemory(1 << 28))
    return regad


def blobs(count=2, side=48):
    """Smooth maps, which interpolation keeps."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, (side, side), mode="bicubic")


@pytest.mark.parametrize(
    "parameters", [[0.3, 1.0, 1.0], [0.0, 0.8, 1.2], [-0.5, 1.1, 0.9], [0.2, 1.3, 1.25]]
)
def test_a_warp_and_its_inverse_are_the_identity_inside(parameters):
    matrix = rotation_scale(torch.tensor([parameters])).expand(2, 2, 2)
    maps = blobs()
    forth = warped(maps, matrix)
    back = warped(forth, torch.linalg.inv(matrix))
    inside = slice(14, 34)
    kept = (back - maps)[..., inside, inside].abs().max()
    moved = (forth - maps)[..., inside, inside].abs().max()
    assert kept < 0.03 < 5 * 0.03 < moved


def test_warp_reads_at_the_matrix_times_the_position():
    # A quarter turn is exact on the grid: what is at the bottom is found at the right.
    maps = blobs()
    turned = warped(maps, rotation_scale(torch.tensor([[torch.pi / 2, 1.0, 1.0]])).expand(2, 2, 2))
    torch.testing.assert_close(turned, maps.rot90(1, (2, 3)), rtol=0, atol=1e-4)
    half = warped(maps, rotation_scale(torch.tensor([[0.0, 0.5, 0.5]])).expand(2, 2, 2))
    centre = F.interpolate(maps[..., 12:36, 12:36], (48, 48), mode="bilinear")
    torch.testing.assert_close(half[..., 4:44, 4:44], centre[..., 4:44, 4:44], rtol=0, atol=1e-4)


def test_a_new_transformer_does_nothing():
    maps = blobs(side=16)
    straightened, matrix = Straighten(3, 16).eval()(maps)
    torch.testing.assert_close(straightened, maps, rtol=0, atol=1e-5)
    torch.testing.assert_close(matrix, torch.eye(2).expand(2, 2, 2))


class Fixed(torch.nn.Module):
    """A transformer that always does the same."""

    def __init__(self, parameters):
        super().__init__()
        self.matrix = rotation_scale(torch.tensor([parameters]))

    def forward(self, x):
        matrix = self.matrix.expand(len(x), 2, 2)
        return warped(x, matrix), matrix


def test_levels_are_put_back_where_they_came_from():
    # Stages that do nothing: every level, put back, is the picture itself, whatever was turned.
    network = Registered("resnet10t", "random:0", 64, normalise=False)
    network.stages = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    turns = ([0.3, 0.9, 1.1], [-0.5, 1.0, 0.9], [0.4, 1.1, 1.0])
    network.straighten = torch.nn.ModuleList(Fixed(list(turn)) for turn in turns)
    maps = blobs()
    for level in network.levels(maps):
        inside = (level.permute(0, 3, 1, 2) - maps)[..., 16:32, 16:32]
        assert inside.abs().max() < 0.05
    assert (network(maps) - maps)[..., 16:32, 16:32].abs().max() > 0.1


@pytest.mark.parametrize(
    ("model", "channels"), [("resnet18", (64, 128, 256)), ("tf_efficientnet_lite0", (24, 40, 112))]
)
def test_stages_are_the_encoders(model, channels):
    from methods._encoders.cnn import build

    network = Registered(model, "random:0", 64, normalise=True).eval()
    pictures = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        levels = network.levels(pictures)
        plain, (mean, std) = build(model, "random:0")
        normalised = (pictures - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[
            :, None, None
        ]
        stages = plain.forward_intermediates(normalised, indices=[1, 2, 3], intermediates_only=True)
    assert tuple(level.shape[3] for level in levels) == channels
    for level, stage in zip(levels, stages, strict=True):
        torch.testing.assert_close(level.permute(0, 3, 1, 2), stage, rtol=1e-4, atol=1e-4)


def test_registration_is_the_papers_loss_and_passes_no_gradient_to_what_is_predicted():
    rng = np.random.default_rng(0)
    parts = [torch.tensor(rng.normal(size=(2, 5, 3, 3)), requires_grad=True) for _ in range(4)]
    predicted, other, predicted_back, one = parts
    cosines = []
    for a, b in ((predicted, other), (predicted_back, one)):
        a, b = a.detach().numpy(), b.detach().numpy()
        for n in range(2):
            for i in range(3):
                for j in range(3):
                    u, v = a[n, :, i, j], b[n, :, i, j]
                    cosines.append(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
    loss = registration(*parts)
    assert loss.item() == pytest.approx(-np.mean(cosines))
    loss.backward()
    assert predicted.grad.abs().sum() > 0
    assert predicted_back.grad.abs().sum() > 0
    assert other.grad is None
    assert one.grad is None


def test_head_is_symmetric():
    head = Head(7).eval()
    one, other = torch.rand(2, 4, 7, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(head(one, other), head(other, one))
    assert -1 <= head(one, other).item() <= 1


def test_augmentation_makes_22_versions():
    pictures = blobs(side=40)
    versions = augmented(pictures).unflatten(0, (22, 2))
    torch.testing.assert_close(versions[0], pictures)
    # Shifts of 0.1 and 0.2 of half a side are whole pixels here: 2 and 4.
    torch.testing.assert_close(versions[9][..., :38, :38], pictures[..., 2:, 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        versions[16][..., 4:, 4:], pictures[..., :36, :36], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(versions[17], pictures.flip(3))
    torch.testing.assert_close(versions[18][:, 0], versions[18][:, 2])
    for quarter in (1, 2, 3):
        torch.testing.assert_close(versions[18 + quarter], pictures.rot90(quarter, (2, 3)))
    for i in range(22):  # all differ
        for j in range(i):
            assert (versions[i] - versions[j]).abs().max() > 1e-3
    # Turning by 45 degrees and back leaves the centre.
    back = warped(
        versions[7], rotation_scale(torch.tensor([[-torch.pi / 4, 1, 1]])).expand(2, 2, 2)
    )
    assert (back - pictures)[..., 12:28, 12:28].abs().max() < 0.05


def test_maps_are_dense_mahalanobis_distances_to_the_augmented_support(surfaces):
    ours = method(sigma=1.0)
    ours.load(ours.train(auxiliary(surfaces, ["bolt"])))
    support, queries = (images(surfaces, surfaces.train("grid")[i : i + 2]) for i in (0, 2))
    ours.fit(Support(support))
    prediction = ours.predict(Queries(queries))

    def vectors(pictures):
        levels = [level.double() for level in ours._levels(pictures)]
        side = levels[0].shape[1]
        return torch.cat(
            [
                level.repeat_interleave(side // level.shape[1], 1).repeat_interleave(
                    side // level.shape[1], 2
                )
                for level in levels
            ],
            3,
        ).numpy()

    normal, query = vectors(augmented(ours._pictures(support))), vectors(ours._pictures(queries))
    distances = ours._gaussians.distances(ours._levels(ours._pictures(queries)))
    for i, j in ((0, 0), (3, 14), (8, 8), (15, 2)):
        covariance = np.cov(normal[:, i, j], rowvar=False)
        inverse = np.linalg.inv(covariance + 0.01 * np.eye(len(covariance)))
        delta = query[:, i, j] - normal[:, i, j].mean(0)
        expected = np.einsum("nd,de,ne->n", delta, inverse, delta) ** 0.5
        np.testing.assert_allclose(distances[:, i, j], expected, rtol=1e-4)
    smoothed = _maps.smooth(distances, 64, 1.0)
    np.testing.assert_allclose(prediction.maps, smoothed, rtol=1e-4)
    np.testing.assert_allclose(prediction.scores, smoothed.amax((1, 2)), rtol=1e-4)


def test_training_lowers_the_loss_and_repeats(surfaces):
    training = auxiliary(surfaces, ["bolt", "wood"])
    trained = method(epochs=4, learning_rate=0.02, batch=5)
    state = trained.train(training)
    losses = state["losses"]
    assert losses.shape == (4,)
    assert losses[-1] < losses[0] - 0.1
    again = method(epochs=4, learning_rate=0.02, batch=5).train(training)
    assert all(np.array_equal(state[name], again[name]) for name in state)
    start = method().train(training)  # the stages are trained, not the transformers alone
    name = "network.stages.1.0.0.downsample.1.weight"
    assert np.abs(state[name] - start[name]).max() > 1e-3
    assert np.abs(state["network.straighten.0.fc.2.weight"]).max() > 0


def test_training_beats_no_training_on_categories_never_seen():
    # Each seed has weights, styles and pictures of its own, and nothing was chosen on these. Two
    # thirds of the gain are the statistics of batch normalisation: see `benchmarks.regad`.
    differences = []
    for seed in range(60, 65):
        world = World(Surfaces(n_train=16, n_test=40, size=64, seed=seed), shots=1)
        training = world.auxiliary(["bolt", "bottle_top", "circuit"])
        aurocs = []
        for epochs in (0, 4):
            ours = method(
                encoder={"model": "test_resnet", "weights": f"random:{seed}"},
                epochs=epochs,
                learning_rate=0.05,
                transformers=0.0,
                batch=8,
                sigma=1.0,
            )
            ours.load(ours.train(training))
            aurocs.append(np.mean(world.aurocs(ours, ["capsule", "washer", "wood"])))
        differences.append(aurocs[1] - aurocs[0])
    assert np.mean(differences) > 0.02, differences


def test_transformers_learn_at_their_own_rate(surfaces):
    training = auxiliary(surfaces, ["bolt"])
    start = method().train(training)
    still = method(epochs=2, learning_rate=0.02, transformers=0.0).train(training)
    # Their statistics follow the features, their weights stay, and the stages' do not.
    for name, tensor in start.items():
        if name.startswith("network.straighten") and name.endswith((".weight", ".bias")):
            np.testing.assert_array_equal(still[name], tensor)
    name = "network.stages.1.0.0.downsample.1.weight"
    assert np.abs(still[name] - start[name]).max() > 1e-4


@pytest.mark.parametrize("scale", [1e30, float("inf"), float("nan")])
def test_a_transformer_that_diverged_is_an_error_and_no_crash(scale):
    transformer = Straighten(3, 16).eval()
    with torch.no_grad():
        transformer.fc[2].bias[1] = scale
    with pytest.raises(ValueError, match=r"training diverged.*smaller learning_rate"):
        transformer(blobs(side=16))


def test_training_that_diverges_says_so(surfaces):
    with pytest.raises(ValueError, match=r"regad: training diverged"):
        method(epochs=20, learning_rate=30.0).train(auxiliary(surfaces, ["bolt"]))


def test_a_picture_is_never_among_its_own_supports(surfaces):
    ours = method(batch=4)
    training = auxiliary(surfaces, ["bolt", "wood"], shots=9)
    rng = np.random.default_rng(0)
    sizes = []
    for queries, supports in ours._batches(training, rng):
        same = (queries[:, None] - supports).abs().flatten(2).amax(2) == 0
        assert not same.any()
        sizes.append(len(queries))
    assert sorted(sizes) == [2, 2, 4, 4, 4, 4]  # of ten pictures in each of two categories
    few = list(ours._batches(auxiliary(surfaces, ["bolt"], shots=12), rng))
    assert few[0][1].shape[1] == 12
    ours.steps = 2
    assert len(list(ours._batches(training, rng))) == 2


def test_a_saved_state_scores_the_same_elsewhere_without_the_weights(surfaces):
    trained = method(epochs=2, steps=1, learning_rate=0.01)
    state = trained.train(auxiliary(surfaces, ["bolt", "wood"]))
    other = method(encoder={"model": "resnet10t", "weights": "not/here.pt"})
    support = Support(images(surfaces, surfaces.train("grid")[:2]))
    queries = Queries(images(surfaces, surfaces.test("grid")), maps=False)
    scores = []
    for one in (trained, other):
        one.load({name: array.copy() for name, array in state.items()})
        one.fit(support)
        scores.append(one.predict(queries).scores)
    np.testing.assert_array_equal(*scores)
    plain = method()  # another state is another feature space
    plain.load(plain.train(auxiliary(surfaces, ["bolt"])))
    assert plain._space != other._space


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"size": 32}, "size: expected"),
        ({"epochs": -1}, "epochs: expected"),
        ({"batch": 0}, "batch: expected"),
        ({"ridge": 0.0}, "ridge: expected"),
        ({"transformers": -1.0}, "transformers: expected"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        config.build("method", "regad", parameters)


def test_other_networks_and_lone_pictures_are_named(surfaces):
    with pytest.raises(ValueError, match="must be a ResNet or an EfficientNet, got convnext_atto"):
        Registered("convnext_atto", "random:0", 64, normalise=False)
    lone = AuxiliaryCategory(
        "one", "one", images(surfaces, surfaces.train("bolt")[:1]), (), np.zeros(0, int), id
    )
    with pytest.raises(ValueError, match="category one has 1 normal images to train on"):
        method(epochs=1).train(Auxiliary((lone,), 2, 0))
