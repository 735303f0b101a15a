"""The run-length code of masks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conceptloom.evaluation.rle import from_rle, to_rle


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
