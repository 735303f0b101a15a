"""Which parts are things."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.masks.objectness import OBJECTNESS, Objectness, Weight, best_disjoint, part_features

SIDE = 8


def _cells(rows: slice, columns: slice) -> np.ndarray:
    cells = np.zeros((SIDE, SIDE), dtype=np.bool_)
    cells[rows, columns] = True
    return cells.ravel()


SQUARE = _cells(slice(2, 5), slice(2, 5))
"""3 x 3 cells that touch no border."""
STRIP = _cells(slice(0, 1), slice(0, SIDE))
"""The top row."""


def _features(**changes: np.ndarray) -> dict[str, np.ndarray]:
    cells = SIDE * SIDE
    inputs = {
        "parts": np.stack([SQUARE, STRIP]),
        "affinity": np.full((cells, cells), 1 / cells, dtype=np.float32),
        "colours": np.zeros((cells, 3), dtype=np.float32),
        "thing_errors": np.ones((2, cells), dtype=np.float32),
        "place_errors": np.ones((2, cells), dtype=np.float32),
    }
    return part_features(**{**inputs, **changes})


def test_size_is_the_logarithm_of_the_areas_share() -> None:
    np.testing.assert_allclose(_features()["size"], np.log([9 / 64, 8 / 64]))


def test_border_is_the_share_of_the_grids_border() -> None:
    np.testing.assert_allclose(_features()["border"], [0, 8 / 28])


def test_a_square_has_the_raggedness_of_its_perimeter_in_cells() -> None:
    """8 of 9 cells lie along the edge of a 3 x 3 square, all 8 along that of a strip."""
    np.testing.assert_allclose(_features()["raggedness"], [64 / (16 * 9), 64 / (16 * 8)])


def test_uniform_attention_leaks_as_chance_would_have_it_and_a_closed_part_not_at_all() -> None:
    np.testing.assert_allclose(_features()["leak"], [1, 1], rtol=1e-5)
    closed = np.where(SQUARE[:, None] == SQUARE[None], 1.0, 0.0)
    closed /= closed.sum(axis=1, keepdims=True)
    assert _features(affinity=closed.astype(np.float32))["leak"][0] == 0


def test_contrast_is_the_distance_in_lab_to_the_cells_around() -> None:
    colours = np.where(SQUARE[:, None], (50.0, 30.0, 40.0), (50.0, 0.0, 0.0)).astype(np.float32)
    np.testing.assert_allclose(_features(colours=colours)["contrast"][0], 50.0)


def test_word_says_by_how_many_deviations_the_best_thing_beats_the_average_word() -> None:
    errors = np.ones((2, SIDE * SIDE), dtype=np.float32)
    errors[1, SQUARE] = 0.6
    found = _features(thing_errors=errors)["word"]
    np.testing.assert_allclose(found[0], (0.9 - 0.6) / np.std([1, 0.6, 1, 1]), rtol=1e-5)


def test_words_that_all_explain_alike_say_nothing() -> None:
    assert (_features()["word"] == 0).all()


def test_objectness_is_a_quadratic_in_standardised_features() -> None:
    model = Objectness(0.5, {"size": Weight(mean=-2.0, spread=0.5, linear=0.1, square=-0.2)})
    np.testing.assert_allclose(model({"size": np.array([-2.0, -1.0])}), [0.5, 0.5 + 0.2 - 0.8])


def test_the_fitted_numbers_cover_every_feature() -> None:
    assert OBJECTNESS.weights.keys() == _features().keys()
    assert all(weight.spread > 0 for weight in OBJECTNESS.weights.values())


PARTS = np.stack([SQUARE, STRIP, SQUARE | STRIP, _cells(slice(6, 8), slice(6, 8))])


@pytest.mark.parametrize(
    ("scores", "least", "most", "expected"),
    [
        ((0.5, 0.4, 0.9, 0.6), 0.3, 4, [2, 3]),
        ((0.5, 0.4, 0.1, 0.6), 0.3, 4, [3, 0, 1]),
        ((0.5, 0.4, 0.1, 0.6), 0.3, 2, [3, 0]),
        ((0.5, 0.4, 0.1, 0.6), 0.45, 4, [3, 0]),
        ((0.1, 0.2, 0.1, 0.1), 0.45, 4, [1]),
    ],
)
def test_the_best_parts_that_share_no_cell_are_chosen_and_at_least_one(
    scores: tuple[float, ...], least: float, most: int, expected: list[int]
) -> None:
    assert best_disjoint(PARTS, np.array(scores), least, most) == expected
