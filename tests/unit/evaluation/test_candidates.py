"""Where concepts may be in an image: windows, and what a detector finds."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.evaluation.candidates import WINDOW_SHARES, find_candidates, windows
from tiny_judges import ColourFeatures, PlantedLooker, paint

LEFT, RIGHT = (2, 10, 12, 20), (25, 10, 35, 20)


@pytest.mark.parametrize("size", [(60, 60), (60, 120), (97, 64)])
def test_windows_are_squares_inside_the_picture_at_three_scales(size: tuple[int, int]) -> None:
    boxes = windows(size)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides[:, 0] == sides[:, 1]).all()
    assert set(sides[:, 0]) == {round(share * min(size)) for share in WINDOW_SHARES}
    assert (boxes >= 0).all()
    assert (boxes <= [size[1], size[0], size[1], size[0]]).all()


def test_windows_of_a_scale_overlap_by_half_and_reach_every_edge() -> None:
    boxes = windows((60, 60))
    halves = boxes[boxes[:, 2] - boxes[:, 0] == 30]
    assert sorted(map(tuple, halves[:, :2].tolist())) == [(x, y) for x in (0, 15, 30) for y in (0, 15, 30)]


def test_neighbouring_windows_never_overlap_by_less_than_half() -> None:
    for length in (50, 64, 97, 128):
        boxes = windows((length, 2 * length))
        for side in set((boxes[:, 2] - boxes[:, 0]).tolist()):
            lefts = np.unique(boxes[boxes[:, 2] - boxes[:, 0] == side][:, 0])
            assert np.diff(lefts).max() <= side / 2 + 1  # rounded to pixels


def test_candidates_are_what_the_looker_detects() -> None:
    looker = PlantedLooker()
    image = paint(("red", LEFT), ("green", RIGHT))
    looker.tell(image, ("cat/noto", LEFT, 0.9), ("dog/noto", RIGHT, 0.8))
    found = find_candidates(image, looker, ColourFeatures())
    assert found.box(1) == RIGHT
    assert found.embeddings == pytest.approx(np.array([[1, 0, 0], [0, 1, 0]]))
    assert found.whole == pytest.approx(np.array([1, 1, 0]) / np.sqrt(2))


def test_what_is_behind_is_seen_without_what_is_detected() -> None:
    looker = PlantedLooker()
    image = looker.tell(paint(("red", LEFT), behind="blue"), ("cat/noto", LEFT, 0.9))
    assert find_candidates(image, looker, ColourFeatures()).behind == pytest.approx(np.array([0, 0, 1]))


def test_without_detections_there_are_no_candidates() -> None:
    found = find_candidates(paint(behind="blue"), PlantedLooker(), ColourFeatures())
    assert found.embeddings.shape == (0, 3)
    assert found.behind == pytest.approx(found.whole)


def test_detections_without_area_are_dropped() -> None:
    looker = PlantedLooker()
    image = paint(("red", LEFT))
    looker.tell(image, ("dog/noto", (5, 5, 5, 9), 0.9), ("cat/noto", LEFT, 0.8))
    found = find_candidates(image, looker, ColourFeatures())
    assert found.detections is not None
    assert (len(found.boxes), found.detections.names()) == (1, ("cat/noto",))


def test_without_a_looker_windows_are_candidates_and_one_of_them_fits() -> None:
    image = paint(("red", (0, 0, 13, 13)), behind="blue")
    found = find_candidates(image, None, ColourFeatures())
    assert found.detections is None
    assert len(found.boxes) == len(windows((40, 40)))
    assert found.embeddings[:, 0].max() == pytest.approx(1.0)
