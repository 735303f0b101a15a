"""Hard cases: each set has the difficulty it is named for."""

from __future__ import annotations

from functools import cache

import numpy as np
from scipy import ndimage

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.builtin_sets import PLACE_NAME, builtin_benchmark, taught_nouns
from conceptloom.evaluation.hard_sets import CASES, case_of, hard_benchmark
from conceptloom.pictures.colour import rgb_to_lab
from conceptloom.scenes.sprites import load_sprites


@cache
def _benchmark() -> Benchmark:
    return hard_benchmark("dev", 3)


def _sets(case: str) -> list[BenchmarkSet]:
    return [one for one in _benchmark().sets if case_of(one.name).name == case]


def test_every_case_has_its_sets() -> None:
    assert {case.name: len(_sets(case.name)) for case in CASES} == {case.name: 3 for case in CASES}


def test_sets_hold_drawings_of_their_split_alone() -> None:
    dev = {(sprite.noun, sprite.family) for sprite in load_sprites("dev")}
    for one in _benchmark().sets:
        assert {(concept.noun, concept.family) for concept in one.subjects} <= dev


def test_true_masks_of_a_picture_are_disjoint_and_cover_it_where_the_place_is_learned() -> None:
    for one in _benchmark().sets:
        for picture in one.pictures:
            total = np.sum(list(picture.masks.values()), axis=0)
            assert total.max() == 1
            assert (total.min() == 1) == (PLACE_NAME in picture.masks)


def test_the_same_set_comes_whatever_is_asked_beside_it() -> None:
    alone = hard_benchmark("dev", 1, cases=[case for case in CASES if case.name == "overlap"])
    again = next(one for one in _benchmark().sets if one.name == alone.sets[0].name)
    np.testing.assert_array_equal(alone.sets[0].pictures[0].pixels, again.pictures[0].pixels)


def test_subjects_of_one_class_share_their_starting_word() -> None:
    for one in _sets("same-class"):
        assert len({concept.word for concept in one.subjects}) == 1
        assert len({concept.noun for concept in one.subjects}) == 2


def test_three_and_five_subjects_are_in_one_picture() -> None:
    assert {len(one.subjects) for one in _sets("three")} == {3}
    assert {len(one.subjects) for one in _sets("five")} == {5}


def test_a_tiny_subject_covers_under_3_percent_and_is_whole() -> None:
    for one in _sets("tiny"):
        tiny = one.pictures[0].masks[one.subjects[0].name]
        assert 0 < tiny.mean() < 0.03


def test_random_starts_have_no_word_and_class_words_are_the_classes() -> None:
    assert {concept.word for one in _sets("random") for concept in one.subjects} == {None}
    assert all(concept.word == concept.class_word for one in _sets("class-word") for concept in one.subjects)


def test_novel_nouns_were_never_taught() -> None:
    nouns = {concept.noun for one in _sets("novel") for concept in one.subjects}
    assert nouns
    assert not nouns & set(taught_nouns())


def test_a_loose_prompt_names_every_concept_of_its_picture() -> None:
    for one in _sets("loose"):
        (caption,) = one.captions.values()
        assert all(f"<{concept.name}>" in caption for concept in one.concepts)


def test_a_shared_subject_is_in_all_three_pictures() -> None:
    for one in _sets("shared"):
        assert one.num_pictures == len(one.pictures_with(one.subjects[0].name)) == 3


def test_overlapping_subjects_overlap_more_than_those_of_the_plain_case() -> None:
    def overlap(one: BenchmarkSet) -> float:
        boxes = []
        for concept in one.subjects:
            rows, columns = np.nonzero(one.pictures[0].masks[concept.name])
            boxes.append((rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
        (top, bottom, left, right), (t2, b2, l2, r2) = boxes
        shared = max(0, min(bottom, b2) - max(top, t2)) * max(0, min(right, r2) - max(left, l2))
        return float(shared / min((bottom - top) * (right - left), (b2 - t2) * (r2 - l2)))

    assert min(map(overlap, _sets("overlap"))) > 0.25
    assert np.mean([overlap(one) for one in _sets("two")]) < 0.25


def test_a_camouflaged_subject_has_nearly_the_colour_of_what_surrounds_it() -> None:
    def distance(one: BenchmarkSet) -> float:
        picture = one.pictures[0]
        mask = picture.masks[one.subjects[0].name]
        lab = rgb_to_lab(picture.pixels)
        around = ndimage.binary_dilation(mask, iterations=picture.pixels.shape[0] // 10) & ~mask
        return float(np.linalg.norm(lab[mask].mean(axis=0) - lab[around].mean(axis=0)))

    near, usual = ([distance(one) for one in _sets(case)] for case in ("camouflage", "two"))
    assert np.mean(near) < 0.5 * np.mean(usual)
    assert max(near) < 25


def test_no_picture_is_one_of_the_built_in_benchmark() -> None:
    known = {picture.pixels.tobytes() for one in builtin_benchmark("dev", 6).sets for picture in one.pictures}
    assert not known & {picture.pixels.tobytes() for one in _benchmark().sets for picture in one.pictures}
