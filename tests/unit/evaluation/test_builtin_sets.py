"""The built-in benchmark: its design, its pictures, and words the built-in model knows."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from importlib.resources import files

import numpy as np
import pytest

from conceptloom.errors import DataError
from conceptloom.evaluation.benchmark import PROMPT_KINDS, Benchmark
from conceptloom.evaluation.builtin_sets import (
    MIN_COVER,
    PLACE_NAME,
    PLACES,
    builtin_benchmark,
    builtin_words,
    design,
    taught_nouns,
)
from conceptloom.learning import build_request, resolve_config
from conceptloom.scenes.backgrounds import DRAWN, PATTERNS, load_photos
from conceptloom.scenes.captions import STYLES
from conceptloom.scenes.sprites import load_sprites

SIDE = 48


@cache
def made(split: str = "dev") -> Benchmark:
    """As many sets as use every drawing of the split at least once."""
    return builtin_benchmark(split, {"dev": 40, "test": 63}[split], side_px=SIDE)


# Design


def test_a_third_of_the_sets_span_two_pictures_and_a_tenth_share_a_concept() -> None:
    designs = [design(index) for index in range(300)]
    assert sum(one.in_b > 0 for one in designs) == 100
    assert sum(one.shares for one in designs) == 30
    assert all(one.in_b > 0 for one in designs if one.shares)


def test_sets_of_one_picture_have_one_two_and_three_subjects_equally_often() -> None:
    counts = Counter(one.subjects for one in map(design, range(90)) if not one.in_b)
    assert counts == {1: 20, 2: 20, 3: 20}


def test_patterns_drawn_scenes_and_no_place_come_as_often_as_planned() -> None:
    types = Counter(design(index).place_type for index in range(30))
    assert types == {"photo": 19, "pattern": 6, "drawn": 3, "none": 2}


def test_every_two_picture_set_learns_a_place() -> None:
    assert all(design(index).place_type != "none" for index in range(2, 300, 3))


def test_the_first_four_sets_span_a_pattern_two_pictures_and_three_subjects() -> None:
    designs = [design(index) for index in range(4)]
    assert {one.subjects for one in designs} == {1, 2, 3}
    assert any(one.in_b for one in designs)
    assert any(one.place_type == "pattern" for one in designs)


def test_sets_are_as_designed() -> None:
    for index, one in enumerate(made().sets):
        plan = design(index)
        assert len(one.subjects) == plan.subjects
        assert one.num_pictures == 1 + (plan.in_b > 0)
        assert one.shares_a_concept == plan.shares
        assert one.place_type == plan.place_type
        assert (one.place is None) == (plan.place_type == "none")


def test_picture_a_shows_subjects_alone_and_picture_b_one_in_the_learned_place() -> None:
    for one in made().sets:
        if one.num_pictures == 2:
            a, b = (one.contains[picture.name] for picture in one.pictures)
            assert PLACE_NAME not in a
            assert len(b) == 2
            assert b[-1] == PLACE_NAME


def test_even_sets_cross_styles_and_odd_ones_keep_to_one() -> None:
    several = [(index, one) for index, one in enumerate(made().sets) if len(one.subjects) > 1]
    agree = [one.crosses_styles == (index % 2 == 0) for index, one in several]
    assert np.mean(agree) > 0.9  # the last drawings of a deck must do


# What a set follows from


def test_the_first_sets_of_a_larger_benchmark_are_those_of_a_smaller_one() -> None:
    for few, many in zip(builtin_benchmark("dev", 4, side_px=SIDE).sets, made().sets, strict=False):
        assert few.concepts == many.concepts
        assert few.prompts == many.prompts
        for one, other in zip(few.pictures, many.pictures, strict=True):
            assert np.array_equal(one.pixels, other.pixels)
            assert all(np.array_equal(one.masks[name], other.masks[name]) for name in other.masks)


def test_another_seed_gives_other_sets_of_the_same_design() -> None:
    other = builtin_benchmark("dev", 4, seed=1, side_px=SIDE).sets
    assert [one.place_type for one in other] == [one.place_type for one in made().sets[:4]]
    assert [one.nouns for one in other] != [one.nouns for one in made().sets[:4]]


@pytest.mark.parametrize("split", ["dev", "test"])
def test_no_drawing_comes_again_before_all_others_came(split) -> None:
    role = {sprite.key for sprite in load_sprites(split)}
    used: list[str] = []
    for one in made(split).sets:
        used += [f"{concept.noun}/{concept.family}" for concept in one.subjects]
    assert set(used) <= role
    assert len(used) > len(role)
    assert set(used[: len(role)]) == role
    assert max(Counter(used).values()) == 2


def test_photographed_places_are_the_splits_own() -> None:
    for split in ("dev", "test"):
        labels = {photo.label for photo in load_photos(split)}
        places = {one.place.noun for one in made(split).sets if one.place_type == "photo" and one.place}
        assert places <= labels


# Concepts


def test_a_novel_noun_starts_from_its_class_word_and_an_instance_from_its_noun() -> None:
    concepts = [concept for _, concept in made("test").concepts if concept.split != "place"]
    for concept in concepts:
        assert (concept.split == "instance") == (concept.noun in taught_nouns())
        assert concept.word == (concept.noun if concept.split == "instance" else concept.class_word)
    assert {concept.split for concept in concepts} == {"instance", "novel noun"}


def test_neither_nouns_nor_starting_words_come_twice_in_a_set() -> None:
    for one in made("test").sets:
        words = [concept.word for concept in one.concepts]
        assert len(set(words)) == len(words)


def test_patterns_are_patterns_and_drawn_scenes_are_none() -> None:
    for one in made().sets:
        if one.place is not None and one.place_type != "photo":
            assert one.place.noun in DRAWN
            assert (one.place.noun in PATTERNS) == (one.place_type == "pattern")


# Pictures


def test_a_learned_place_is_all_that_its_pictures_subjects_leave() -> None:
    for one in made().sets:
        for picture in one.pictures:
            masks = np.stack(list(picture.masks.values())).sum(axis=0)
            assert masks.max() == 1
            if PLACE_NAME in picture.masks:
                assert masks.min() == 1


def test_no_subject_is_too_small_to_be_seen() -> None:
    areas = [
        picture.masks[name].mean()
        for one in made().sets
        for picture in one.pictures
        for name in one.contains[picture.name]
        if name != PLACE_NAME
    ]
    assert np.mean(np.array(areas) >= MIN_COVER) > 0.95
    assert min(areas) > MIN_COVER / 2  # a thin drawing
    assert np.median(areas) > 0.04


def test_pictures_have_the_side_asked_for() -> None:
    assert {picture.size for one in made().sets for picture in one.pictures} == {(SIDE, SIDE)}


# Prompts


def test_every_word_of_every_prompt_is_whole_in_the_built_in_vocabulary() -> None:
    path = files("conceptloom") / "data" / "builtin" / "tokenizer" / "vocab.json"
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    spoken = {
        word
        for split in ("dev", "test")
        for one in made(split).sets
        for prompt in one.prompts
        for word in prompt.class_words_text(one.class_words).split()
    }
    assert spoken
    assert {word for word in spoken if f"{word}</w>" not in vocabulary} == set()


def test_every_known_place_is_a_background_the_built_in_model_names() -> None:
    path = files("conceptloom") / "data" / "builtin" / "conceptloom.json"
    assert set(PLACES) <= set(json.loads(path.read_text(encoding="utf-8"))["backgrounds"])


def test_every_set_has_twenty_different_prompts_of_which_ten_show_all_its_kinds() -> None:
    for one in made().sets:
        assert len({prompt.text for prompt in one.prompts}) == len(one.prompts) == 20
        kinds = {prompt.kind for prompt in one.prompts}
        assert {prompt.kind for prompt in one.prompts[:5]} == kinds
        if len(one.subjects) > 1 and one.place is not None:
            assert kinds == set(PROMPT_KINDS)


def test_known_things_are_taught_nouns_that_are_not_the_sets() -> None:
    for one in made("test").sets:
        known = {noun for prompt in one.prompts for noun in prompt.known}
        assert known <= set(taught_nouns())
        assert known.isdisjoint(one.nouns)


def test_no_prompt_asks_for_the_style_of_a_drawing_in_its_set() -> None:
    for one in made().sets:
        own = {STYLES[concept.family] for concept in one.subjects}
        assert own.isdisjoint({prompt.style for prompt in one.prompts})


def test_no_context_is_a_place_of_its_pictures() -> None:
    for one in made().sets:
        if one.place is not None:
            contexts = {prompt.place for prompt in one.prompts if prompt.asked_place is None}
            assert one.place.noun not in contexts


def test_what_picture_a_shows_is_brought_to_the_place_of_picture_b() -> None:
    for one in made().sets:
        if one.num_pictures == 2:
            in_b = one.contains[one.pictures[1].name]
            first = next(prompt for prompt in one.prompts if prompt.kind == "transfer")
            assert first.asked[1:] == (PLACE_NAME,)
            assert first.asked[0] not in in_b


def test_styles_asked_for_are_the_captions_styles() -> None:
    assert set(builtin_words().styles) == set(STYLES.values())


# Use


def test_every_set_makes_a_learning_request_with_true_masks() -> None:
    config = resolve_config("builtin", {"method": "gt"})
    for one in made().sets:
        request = build_request(
            one.pictures, one.words, config, contains=one.contains, kinds=one.kinds, prompts=one.captions
        )
        assert len(request.concepts) == len(one.concepts)


def test_fewer_than_one_set_is_refused() -> None:
    with pytest.raises(DataError, match="holds no set"):
        builtin_benchmark("dev", 0)


def test_sets_of_two_pictures_alone_show_a_subject_of_picture_b_in_its_own_place() -> None:
    for one in made("dev").sets:
        assert len(one.shown) == (one.num_pictures == 2)
        for prompt in one.shown:
            assert prompt.place == "place"
            assert prompt.asked[0] in one.contains[one.pictures[1].name]
