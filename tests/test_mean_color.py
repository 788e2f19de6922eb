from __future__ import annotations

import numpy as np
import pytest

from harness.interface import Image, Queries, Support
from methods.mean_color import MeanColor, cell_means


class Direct:
    """Features without memory."""

    def get_or_compute(self, space, images, compute, batch=1):
        return list(compute(images))

    def get_or_create(self, name, compute):
        return compute()


def flat(key, color, side=16):
    return Image(key, np.full((side, side, 3), color, np.uint8))


def fitted(grid, *supports):
    method = MeanColor(grid=grid)
    method.setup("cpu", Direct())
    method.fit(Support(supports))
    return method


def test_cell_means_equals_a_loop_on_sides_that_do_not_divide():
    pixels = np.random.default_rng(0).integers(0, 256, (17, 23, 3), dtype=np.uint8)
    rows, columns = [0, 4, 8, 12, 17], [0, 5, 11, 17, 23]
    for i in range(4):
        for j in range(4):
            cell = pixels[rows[i] : rows[i + 1], columns[j] : columns[j + 1]] / 255
            np.testing.assert_allclose(
                cell_means(pixels, 4)[i, j], cell.mean((0, 1)), rtol=1e-6, atol=1e-7
            )


def test_score_is_the_distance_to_the_nearest_support():
    method = fitted(2, flat("a", (0, 0, 0)), flat("b", (255, 0, 0)))
    prediction = method.predict(Queries((flat("q", (255, 51, 0)), flat("r", (0, 0, 0)))))
    np.testing.assert_allclose(prediction.scores, [0.2, 0.0], atol=1e-6)
    assert prediction.scores.dtype == np.float32
    assert prediction.maps.shape == (2, 2, 2)


def test_a_spot_shows_in_its_cell_only():
    spotted = np.zeros((16, 16, 3), np.uint8)
    spotted[0:4, 12:16] = 255
    prediction = fitted(4, flat("a", (0, 0, 0))).predict(Queries((Image("q", spotted),)))
    assert np.argwhere(prediction.maps[0] > 0).tolist() == [[0, 3]]


def test_maps_only_when_asked():
    method = fitted(2, flat("a", (0, 0, 0)))
    assert method.predict(Queries((flat("q", (9, 9, 9)),), maps=False)).maps is None


def test_generated_images_count_as_normal():
    method = MeanColor(grid=2)
    method.setup("cpu", Direct())
    support = flat("a", (0, 0, 0))
    method.fit(Support((support,), pool=(support, flat("g", (100, 0, 0)))))
    assert method.predict(Queries((flat("q", (100, 0, 0)),))).scores[0] == 0


def test_a_small_image_is_named():
    with pytest.raises(ValueError, match="4 x 4 image has no 8 x 8 cells"):
        cell_means(np.zeros((4, 4, 3), np.uint8), 8)
