"""Metrics of images on hand-made cases with closed-form answers."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest

from conceptloom.evaluation.image_metrics import (
    COPY,
    UNMATCHED,
    copy_similarity,
    detect_and_compare,
    detect_and_compare_released,
    distances_to_others,
    is_nearest,
    leakage,
    match,
    matched_values,
    mean_cosine,
    prototype_rank,
    similarities,
    true_similarity,
    true_similarity_released,
)
from conceptloom.scenes.backgrounds import load_photos, photo_crop
from conceptloom.scenes.composer import SceneRules, compose
from conceptloom.scenes.sprites import load_sprites

AXES = np.eye(3)


def at(degrees: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The unit vector of an angle in the plane."""
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0.0])


# Matching and identity


def test_matching_is_the_best_of_all_one_to_one_ones() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        table = rng.normal(size=(3, 5))
        best = max(sum(table[row, column] for row, column in enumerate(p)) for p in permutations(range(5), 3))
        assert sum(matched_values(table, match(table))) == pytest.approx(best)


def test_a_candidate_goes_to_one_concept_though_two_like_it_best() -> None:
    assert match(np.array([[0.9, 0.1], [0.8, 0.7]])).tolist() == [0, 1]


def test_concepts_without_a_candidate_are_unmatched_and_score_zero() -> None:
    table = np.array([[0.2], [0.9]])
    assert match(table).tolist() == [UNMATCHED, 0]
    assert matched_values(table, match(table)) == [0.0, 0.9]


def test_without_candidates_nothing_is_matched() -> None:
    assert match(np.zeros((2, 0))).tolist() == [UNMATCHED, UNMATCHED]


def test_similarity_is_the_mean_over_a_concepts_reference_pictures() -> None:
    references = [np.stack([at(0), at(90)]), at(60)[None]]
    expected = [[(1 + 0) / 2], [0.5]]
    assert similarities(references, at(0)[None]) == pytest.approx(np.array(expected))


def test_similarities_with_no_candidate_have_no_column() -> None:
    assert similarities([AXES, AXES], np.zeros((0, 3))).shape == (2, 0)


# Detect-and-Compare


def test_references_alone_give_their_own_similarity() -> None:
    references = [np.stack([at(0), at(60)]), at(90)[None]]
    crossed = (0 + np.cos(np.radians(30))) / 2
    expected = np.array([[(1 + 1 + 0.5 + 0.5) / 4, crossed], [crossed, 1]])
    assert true_similarity_released(references) == pytest.approx(expected)


def test_without_self_pairs_a_concept_is_as_like_itself_as_its_pictures_are_or_as_is_usual() -> None:
    references = [np.stack([at(0), at(60)]), at(90)[None]]
    crossed = (0 + np.cos(np.radians(30))) / 2
    assert true_similarity(references, 0.7) == pytest.approx(np.array([[0.5, crossed], [crossed, 0.7]]))


def test_the_concepts_themselves_are_free_of_mixing_in_any_order() -> None:
    detected = np.array([[0.3, 0.9], [0.8, 0.3]])
    true = np.array([[0.8, 0.3], [0.3, 0.9]])
    assert detect_and_compare(detected, true) == pytest.approx(1.0)
    assert detect_and_compare_released(detected, true) == pytest.approx(1.0)


def test_a_wrong_count_scores_zero() -> None:
    true = np.array([[0.8, 0.3], [0.3, 0.9]])
    for count in (0, 1, 3):
        assert detect_and_compare(np.full((count, 2), 0.5), true) == 0.0
        assert detect_and_compare_released(np.full((count, 2), 0.5), true) == 0.0


def test_mixing_is_the_norm_of_the_differences_over_the_root_of_the_concepts() -> None:
    true = np.array([[1.0, 0.2], [0.2, 1.0]])
    detected = np.array([[1.0, 0.5], [0.6, 1.0]])
    assert detect_and_compare(detected, true) == pytest.approx(1 - np.sqrt((0.3**2 + 0.4**2) / 2))


def test_the_released_variant_takes_the_spectral_norm_without_normalising() -> None:
    true = np.array([[1.0, 0.2], [0.2, 1.0]])
    assert detect_and_compare_released(true - np.diag([0.1, 0.4]), true) == pytest.approx(1 - 0.4)


@pytest.mark.parametrize("count", [2, 3])
def test_things_that_are_like_no_concept_score_what_real_ones_lack_however_many(count: int) -> None:
    true = true_similarity([one[None] for one in AXES[:count]], 0.7)
    assert detect_and_compare(np.zeros((count, count)), true) == pytest.approx(1 - 0.7)
    assert detect_and_compare(0.7 * np.eye(count), true) == pytest.approx(1.0)


def test_a_wrong_subject_scores_below_a_real_one_that_is_half_mixed() -> None:
    true = true_similarity([AXES[:1], AXES[1:2]], 0.8)
    wrong, mixed = np.full((2, 2), 0.1), np.array([[0.6, 0.3], [0.3, 0.6]])
    assert detect_and_compare(wrong, true) < 0.35 < 0.6 < detect_and_compare(mixed, true)


def test_released_rows_are_taken_greedily_where_ours_are_taken_together() -> None:
    # The first concept takes the first thing (.9 over .8), which leaves the second with .1.
    detected = np.array([[0.9, 0.9], [0.8, 0.1]])
    true = np.array([[0.8, 0.1], [0.9, 0.9]])
    assert detect_and_compare(detected, true) == pytest.approx(1.0)
    greedy = np.linalg.norm(np.array([[0.9, 0.9], [0.8, 0.1]]) - true, ord=2)
    assert detect_and_compare_released(detected, true) == pytest.approx(1 - greedy)


def test_one_thing_drawn_twice_is_mixing_though_each_is_like_a_concept() -> None:
    true = true_similarity([AXES[:1], AXES[1:2]], 0.8)
    twice = np.array([[0.8, 0.0], [0.5, 0.0]])
    assert detect_and_compare(twice, true) == pytest.approx(1 - np.sqrt((0.5**2 + 0.8**2) / 2))
    assert detect_and_compare(0.8 * np.eye(2), true) == 1.0


def test_mixing_is_never_below_a_wrong_count() -> None:
    assert detect_and_compare(-np.eye(2), np.eye(2)) == 0.0


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        detect_and_compare(np.ones((2, 3)), np.eye(2))
    with pytest.raises(ValueError, match="expected"):
        detect_and_compare_released(np.ones((2, 2)), np.ones((2, 3)))


# Leakage


def test_leakage_is_each_matched_regions_likeness_to_every_reference() -> None:
    candidates = np.stack([at(90), at(30)])
    table = leakage(similarities([at(0)[None], at(90)[None]], candidates), np.array([1, 0]))
    assert table == pytest.approx(np.array([[np.cos(np.radians(30)), 0.5], [0.0, 1.0]]))


def test_an_unmatched_concept_leaks_nothing_that_is_known() -> None:
    table = leakage(np.array([[0.4], [0.9]]), np.array([UNMATCHED, 0]))
    assert np.isnan(table[0]).all()
    assert table[1].tolist() == [0.4, 0.9]


# ConceptExpress


def test_mean_cosine_is_over_all_pairs() -> None:
    assert mean_cosine(np.stack([at(0), at(60)]), np.stack([at(0), at(90)])) == pytest.approx(
        (1 + 0 + 0.5 + np.cos(np.radians(30))) / 4
    )
    with pytest.raises(ValueError, match="expected some"):
        mean_cosine(np.zeros((0, 3)), AXES)


def test_a_prototype_ranks_after_all_that_are_nearer() -> None:
    prototypes = np.stack([at(0), at(40), at(90)])
    assert [prototype_rank(at(35), prototypes, own) for own in range(3)] == [1, 0, 2]


def test_a_tie_counts_against_the_concept() -> None:
    assert prototype_rank(at(0), np.stack([at(0), at(0)]), 0) == 1


def test_right_is_what_is_within_the_nearest_k_and_what_is_missing_is_wrong() -> None:
    ranks = [0, 1, 2, 3, None]
    assert [is_nearest(rank, 1) for rank in ranks] == [True, False, False, False, False]
    assert [is_nearest(rank, 3) for rank in ranks] == [True, True, True, False, False]


# Diversity


def test_diversity_is_the_mean_distance_over_all_pairs() -> None:
    images = np.stack([at(0), at(60), at(180)])
    pairs = [1 - float(a @ b) for a, b in combinations(images, 2)]
    assert np.mean([d for d in distances_to_others(images) if d is not None]) == pytest.approx(np.mean(pairs))


def test_the_same_image_twice_has_no_diversity() -> None:
    assert distances_to_others(np.stack([at(10), at(10)])) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_a_single_image_has_no_diversity_to_speak_of() -> None:
    assert distances_to_others(at(0)[None]) == [None]


# Memorisation


def noise(seed: int, shape: tuple[int, int] = (32, 32)) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def test_a_picture_is_a_copy_of_itself_and_of_its_mirror_image() -> None:
    picture = noise(0)
    assert copy_similarity(picture, [noise(1), picture]) == pytest.approx(1.0)
    assert copy_similarity(picture, [picture[:, ::-1]]) == pytest.approx(1.0)


def test_unrelated_noise_is_no_copy() -> None:
    assert abs(copy_similarity(noise(0), [noise(1)])) < 0.1


def test_a_copy_of_another_size_is_still_one() -> None:
    small = noise(0)
    assert copy_similarity(np.kron(small, np.ones((4, 4, 1), np.uint8)), [small]) > COPY


def test_a_flat_picture_is_like_nothing() -> None:
    flat = np.full((32, 32, 3), 90, np.uint8)
    assert copy_similarity(flat, [flat, noise(0)]) == 0.0


def test_a_copy_needs_something_to_be_a_copy_of() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        copy_similarity(noise(0), [])


def test_two_compositions_on_one_background_are_seldom_called_copies_and_a_noisy_copy_is() -> None:
    rng = np.random.default_rng(0)
    sprites, photos, rules = load_sprites("dev"), load_photos("dev"), SceneRules(smallest=0.24)
    others, copies = [], []
    for _ in range(60):
        chosen = [sprites[int(index)] for index in rng.choice(len(sprites), 2, replace=False)]
        background = photo_crop(photos[int(rng.integers(len(photos)))], rng, 128)
        first, second = (compose(chosen, "", background, rng, rules).pixels for _ in range(2))
        noisy = np.clip(first + rng.normal(0, 12, first.shape), 0, 255).astype(np.uint8)
        others.append(copy_similarity(second, [first]))
        copies.append(copy_similarity(noisy, [first]))
    assert np.mean(np.array(others) >= COPY) <= 0.02
    assert np.mean(np.array(copies) >= COPY) >= 0.98
