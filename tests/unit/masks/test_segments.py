"""Parts from self-attention."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.masks.segments import MIN_CELLS, part_tree


def _planted(parts: np.ndarray, noise: float = 0.2) -> np.ndarray:
    """Affinity of a grid whose cells look mostly at their own part."""
    flat = parts.ravel()
    affinity = (flat[:, None] == flat[None]).astype(np.float32) + noise * np.random.default_rng(0).random(
        (flat.size, flat.size), dtype=np.float32
    )
    return affinity / affinity.sum(axis=1, keepdims=True)


def _three_parts() -> np.ndarray:
    parts = np.zeros((8, 8), dtype=np.int64)
    parts[1:4, 1:4], parts[4:7, 3:7] = 1, 2
    return parts


def _random_affinity() -> np.ndarray:
    affinity = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    return affinity / affinity.sum(axis=1, keepdims=True)


def test_planted_parts_are_among_those_found() -> None:
    parts = _three_parts()
    found = {tuple(part) for part in part_tree(_planted(parts), 3)}
    assert {tuple((parts == number).ravel()) for number in range(3)} <= found


def test_two_halves_are_the_coarsest_cut() -> None:
    parts = part_tree(_random_affinity(), 2)
    assert len(parts) == 2
    assert (parts.sum(axis=0) == 1).all()


def test_any_two_parts_are_nested_or_disjoint() -> None:
    parts = part_tree(_random_affinity(), 12)
    for one in parts:
        for other in parts:
            both = (one & other).sum()
            assert both in (0, one.sum(), other.sum())


def test_a_finer_tree_holds_the_coarser_one() -> None:
    coarse, fine = ({tuple(part) for part in part_tree(_random_affinity(), most)} for most in (4, 12))
    assert coarse < fine


def test_no_part_is_smaller_than_three_cells() -> None:
    assert part_tree(_random_affinity(), 64).sum(axis=1).min() == MIN_CELLS


def test_an_affinity_of_no_square_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(15, 15\)"):
        part_tree(np.ones((15, 15), dtype=np.float32), 2)
