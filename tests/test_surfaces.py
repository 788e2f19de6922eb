from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets._rendering.defects import DEFECTS
from datasets._rendering.render import EVALUATION, TRAINING, render
from datasets.surfaces import Surfaces
from harness import config

ROOT = Path(__file__).parents[1]
#: pixels of one defective image of every category, to be had again in another process
DIGEST = """
import hashlib
from datasets.surfaces import Surfaces
d = Surfaces(n_test=24, seed=3)
h = hashlib.sha256()
for c in d.categories():
    for s in (d.train(c)[1], d.test(c)[-1]):
        h.update(d.open(s.image).tobytes())
    h.update(d.open(d.test(c)[-1].mask).tobytes())
print(h.hexdigest())
"""


def test_it_promises_enough_categories_and_defects_none_of_them_trained_on():
    assert len(EVALUATION) >= 8
    assert len(DEFECTS) >= 6
    assert not EVALUATION.keys() & TRAINING.keys()
    words = {words for _, words in EVALUATION.values()}
    assert not words & {words for _, words in TRAINING.values()}


@pytest.mark.parametrize("category", EVALUATION)
def test_masks_are_exact_and_clean_counterparts_identical_outside(category):
    data = Surfaces(n_train=1, n_test=2 * len(DEFECTS), seed=5)
    damaged = [sample for sample in data.test(category) if sample.label]
    assert [sample.defect for sample in damaged] == list(DEFECTS)
    for sample in damaged:
        pixels, mask = data.open(sample.image), data.open(sample.mask)
        clean = data.open(data.clean(sample).image)
        assert pixels.shape == (128, 128, 3)
        assert pixels.dtype == np.uint8
        assert mask.shape == (128, 128)
        changed = (pixels != clean).any(axis=2)
        assert not changed[mask == 0].any(), "a defect leaks out of its mask"
        assert changed[mask > 0].mean() > 0.95, "the mask covers what did not change"
        difference = np.abs(pixels[mask > 0].astype(float) - clean[mask > 0]).mean()
        assert difference > 8, f"{sample.defect} cannot be seen"
        assert 0.0005 < (mask > 0).mean() < 0.25


@given(
    seed=st.integers(0, 2**31 - 1),
    index=st.integers(0, 10**6),
    family=st.sampled_from([*EVALUATION, *TRAINING]),
    defect=st.sampled_from(list(DEFECTS)),
    size=st.sampled_from([32, 64, 128]),
)
@settings(max_examples=60, deadline=None)
def test_any_seed_draws_a_defect_inside_its_mask(seed, index, family, defect, size):
    drawn = render(family, (seed,), (seed, index), size, defect)
    again = render(family, (seed,), (seed, index), size, defect)
    assert (drawn.pixels == again.pixels).all()
    assert drawn.mask.any()
    assert (drawn.pixels == drawn.clean)[~drawn.mask].all()
    assert (render(family, (seed,), (seed, index), size).pixels == drawn.clean).all()


def test_pixels_are_the_same_in_another_process():
    command = [sys.executable, "-c", DIGEST]
    digests = {
        subprocess.run(
            command,
            cwd=ROOT,
            env={"OMP_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    local = hashlib.sha256()
    data = Surfaces(n_test=24, seed=3)
    for category in data.categories():
        for sample in (data.train(category)[1], data.test(category)[-1]):
            local.update(data.open(sample.image).tobytes())
        local.update(data.open(data.test(category)[-1].mask).tobytes())
    assert digests == {local.hexdigest() + "\n"}


def test_images_differ_from_each_other_and_with_the_seed():
    data, other = Surfaces(), Surfaces(seed=1)
    for category in data.categories():
        samples = [*data.train(category)[:4], *data.test(category)[:4]]
        assert len({data.open(sample.image).tobytes() for sample in samples}) == 8
        first = samples[0].image
        assert (data.open(first) != other.open(first)).any()
        assert data.stamp(first) != other.stamp(first)


def test_sizes_of_the_splits():
    data = Surfaces(n_train=7, n_test=9, size=64, categories=["wood", "bolt", "wood"])
    assert data.categories() == ["bolt", "wood"]
    assert len(data.train("wood")) == 7
    labels = [sample.label for sample in data.test("wood")]
    assert (labels.count(0), labels.count(1)) == (5, 4)
    assert data.open(data.train("wood")[0].image).shape == (64, 64, 3)
    assert not {s.image for s in data.train("wood")} & {s.image for s in data.test("wood")}
    assert data.clean(data.train("wood")[0]) == data.train("wood")[0]
    assert data.object_name("bottle_top") == "bottle top"


def test_a_smaller_picture_shows_the_same_thing():
    large = render("washer", (0,), (0, 1), 256).pixels
    small = render("washer", (0,), (0, 1), 64).pixels
    means = large.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(means - small).mean() < 8


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_train": 0}, "n_train: expected"),
        ({"n_test": 1}, "n_test: expected"),
        ({"size": 16}, "size: expected"),
        ({"seed": -1}, "seed: expected"),
        ({"size": 128.5}, "size: expected"),
        ({"categories": ["woood"]}, "Did you mean 'wood'"),
    ],
)
def test_bad_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        config.build("dataset", "surfaces", parameters)


@pytest.mark.parametrize("source", ["wood/train/good", "wood/what/good/1", "wood/test/dust/1"])
def test_unknown_sources_are_named(source):
    with pytest.raises(FileNotFoundError, match="surfaces has no source"):
        Surfaces().open(source)


def test_rendering_is_quick():
    data = Surfaces()
    sources = [s.image for c in data.categories() for s in data.test(c)[28:36]]
    data.open(sources[0])
    start = time.process_time()
    for source in sources:
        data.open(source)
    assert (time.process_time() - start) / len(sources) < 0.03
