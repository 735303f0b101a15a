"""Masks as COCO files hold them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conceptloom.evaluation.rle import from_rle, from_segmentation, pycocotools, quietly, to_rle


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_mask_comes_back_bit_for_bit_through_json(share: float) -> None:
    mask = np.random.default_rng(0).random((17, 31)) < share
    np.testing.assert_array_equal(from_rle(json.loads(json.dumps(to_rle(mask)))), mask)


def test_a_known_mask_has_the_code_that_coco_publishes_for_it() -> None:
    # Column by column: two off, three on, one off.
    mask = np.array([[False, True], [False, True], [True, False]])
    assert to_rle(mask) == {"size": [3, 2], "counts": "231"}


@pytest.mark.parametrize("counts", ["2", "231231231", ""])
def test_a_code_of_another_length_than_the_mask_is_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="broken"):
        from_rle({"size": [3, 2], "counts": counts})


# pycocotools reads past the end of a code whose last number goes on, into whatever the memory holds: it gets none.
@pytest.mark.parametrize(
    "counts", ["P", "231P", "oooooo", "PPPPPPP0", "231\x00", "23 1", "231é", None, 231, ["2"]]
)
def test_a_code_that_breaks_off_within_a_number_is_refused_before_it_is_decoded(
    counts: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pycocotools("mask"), "decode", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="broken"):
        from_rle({"size": [3, 2], "counts": counts})


@pytest.mark.parametrize(
    "size", [None, 6, [6], [3, 2, 1], [3.0, 2], ["3", 2], [0, 6], [-3, -2], [60_000, 60_000], [10**400, 1]]
)
def test_a_code_of_no_size_or_of_gigabytes_is_refused_before_it_is_decoded(
    size: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pycocotools("mask"), "decode", lambda _: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match=r"size|broken"):
        from_rle({"size": size, "counts": "231"})


# Segmentations of annotations

SIZE = (20, 30)
TRIANGLE = [2.5, 1.0, 27.25, 3.5, 9.0, 18.75]
SQUARE = [20, 10, 26, 10, 26, 16, 20, 16]


def by_pycocotools(segmentation: object) -> npt.NDArray[np.bool_]:
    """What pycocotools itself makes of an annotation."""
    with quietly():
        coco = pycocotools("coco").COCO()
        coco.dataset = {"images": [{"id": 1, "height": 20, "width": 30}], "annotations": [], "categories": []}
        coco.createIndex()
        mask: npt.NDArray[np.bool_] = coco.annToMask({"image_id": 1, "segmentation": segmentation}) > 0
    return mask


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """How many pixels in turn are off and on, column by column, as COCO writes crowds."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    return ([0] if flat[0] else []) + np.diff([0, *changes.tolist(), flat.size]).tolist()


@pytest.mark.parametrize("polygons", [[TRIANGLE], [TRIANGLE, SQUARE], [SQUARE, [0, 0, 5, 0, 5, 5]]])
def test_polygons_are_drawn_as_pycocotools_draws_them(polygons: list[list[float]]) -> None:
    found = from_segmentation(polygons, SIZE)
    assert found.any()
    np.testing.assert_array_equal(found, by_pycocotools(polygons))


def test_polygons_of_one_object_are_united() -> None:
    parts = [from_segmentation([part], SIZE) for part in (TRIANGLE, SQUARE)]
    np.testing.assert_array_equal(from_segmentation([TRIANGLE, SQUARE], SIZE), parts[0] | parts[1])


def test_a_polygon_that_reaches_out_of_the_image_is_cut_off_at_its_edge() -> None:
    assert from_segmentation([[-10, -10, 50, -10, 50, 40, -10, 40]], SIZE).all()
    inside = np.zeros(SIZE, np.bool_)
    inside[:, :5] = True
    np.testing.assert_array_equal(from_segmentation([[-10, -5, 5, -5, 5, 30, -10, 30]], SIZE), inside)


def test_polygons_of_fewer_than_three_points_enclose_nothing() -> None:
    np.testing.assert_array_equal(
        from_segmentation([[1, 1, 9, 9], SQUARE, [4, 4], []], SIZE), from_segmentation([SQUARE], SIZE)
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_run_lengths_of_crowds_are_read_as_pycocotools_reads_them(share: float) -> None:
    mask = np.random.default_rng(1).random(SIZE) < share
    crowd = {"size": [20, 30], "counts": run_lengths(mask)}
    np.testing.assert_array_equal(from_segmentation(crowd, SIZE), mask)
    np.testing.assert_array_equal(by_pycocotools(crowd), mask)


def test_run_lengths_of_zero_are_allowed() -> None:
    mask = from_segmentation({"size": [20, 30], "counts": [5, 3, 0, 2, 590]}, SIZE)
    assert np.flatnonzero(mask.ravel(order="F")).tolist() == [5, 6, 7, 8, 9]


def test_a_run_length_code_is_read_too() -> None:
    mask = np.random.default_rng(2).random(SIZE) < 0.5
    np.testing.assert_array_equal(from_segmentation(to_rle(mask), SIZE), mask)


def sized(counts: Any, *size: Any) -> dict[str, Any]:
    return {"size": list(size or SIZE), "counts": counts}


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        3,
        "text",
        [],
        TRIANGLE,
        [[1, 1, 9, 9]],  # pycocotools would take it for a box
        [["a", "b", "c", "d", "e", "f"]],
        [[*TRIANGLE[:5], float("nan")]],  # ends the process inside pycocotools
        [[*TRIANGLE[:5], float("inf")]],
        [[*TRIANGLE[:5], 1e9]],
        [TRIANGLE, [SQUARE]],
        [TRIANGLE, None],
        sized([10, 20]),
        sized([10, 20, 571]),
        sized([10, -20, 610]),
        sized([10.0, 590.0]),
        sized([600], 30, 20),
        sized([100], 10, 10),
        sized(None),
        sized("zz"),
        {"counts": [600]},
        {"size": [20, 30]},
    ],
)
def test_a_broken_segmentation_is_refused(segmentation: Any) -> None:
    with pytest.raises(ValueError, match="broken"):
        from_segmentation(segmentation, SIZE)


def test_a_corner_further_away_than_numbers_go_is_refused() -> None:
    with pytest.raises(ValueError, match="broken polygon"):
        from_segmentation([[0, 0, 10**400, 0, 9, 9]], SIZE)
