"""From an evaluation's images to a study's comparisons."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from conceptloom.errors import ConfigError
from conceptloom.evaluation.benchmark import BenchmarkSet, TestPrompt, TrueConcept
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.methods import MethodName
from conceptloom.evaluation.protocols import COCO, RANDOM, Protocol
from conceptloom.evaluation.study_export import UNMARKED, population, references_of, study_comparisons
from conceptloom.evaluation.units import UnitKey, UnitResult
from conceptloom.pictures import Picture

BENCHMARK = builtin_benchmark("dev", 3, side_px=32)


def colour(method: str, prompt: int, index: int) -> npt.NDArray[np.uint8]:
    return np.full((8, 8, 3), (200 if method == "paper" else 40, prompt, index), np.uint8)


def unit(
    one: BenchmarkSet, method: MethodName, prompts: tuple[int, ...] = (0, 1, 20), num: int = 2
) -> UnitResult:
    images = {(prompt, index): colour(method, prompt, index) for prompt in prompts for index in range(num)}
    return UnitResult(UnitKey(one.name, method, 0), (), images, {})


def units(method: MethodName) -> list[UnitResult]:
    return [unit(one, method) for one in BENCHMARK.sets]


def test_images_of_one_prompt_and_number_are_compared_and_shown_prompts_left_out() -> None:
    found = study_comparisons(BENCHMARK, units("paper"), units("fixed"), RANDOM, 0)
    assert len(found) == 3 * 2 * 2  # sets, measured prompts, images
    one = BENCHMARK.sets[0]
    comparison = next(c for c in found if c.pair.scene == one.name and c.pair.prompt == one.prompts[1].text)
    np.testing.assert_array_equal(comparison.ours, colour("paper", 1, comparison.pair.index))
    np.testing.assert_array_equal(comparison.baseline, colour("fixed", 1, comparison.pair.index))


def test_random_takes_ten_prompts_of_all_sets_together() -> None:
    many = tuple(range(10))
    ours, theirs = ([unit(one, method, many, 1) for one in BENCHMARK.sets] for method in ("paper", "fixed"))
    found = study_comparisons(BENCHMARK, ours, theirs, RANDOM, 0)
    assert len({(c.pair.scene, c.pair.prompt) for c in found}) == RANDOM.prompts_per_set


def coco_subjects(one: BenchmarkSet) -> dict[str, str]:
    """By prompt, which concept it counts for in the study `coco`."""
    every = tuple(range(len(one.prompts)))
    ours, theirs = (unit(one, method, every, 1) for method in ("paper", "fixed"))
    found = study_comparisons(BENCHMARK, [ours], [theirs], COCO, 0)
    return {c.pair.prompt: c.pair.subject for c in found}


def test_coco_counts_a_prompt_for_the_first_subject_it_asks_for() -> None:
    one = BENCHMARK.sets[0]
    subjects = [subject.name for subject in one.subjects]
    told = coco_subjects(one)
    assert len(told) == 20
    for prompt in one.prompts:
        named = [name for name in prompt.asked if name in subjects]
        assert not named or told[prompt.text] == named[0]


def test_coco_counts_prompts_for_the_place_alone_for_each_subject_in_turn() -> None:
    one = BENCHMARK.sets[0]
    told = coco_subjects(one)
    alone = [prompt.text for prompt in one.prompts if prompt.asked == ("place",)]
    assert len(alone) == 2
    assert [told[text] for text in alone] == ["tower", "dog"]


def test_a_population_has_the_protocols_prompts_and_images_and_follows_from_its_seed() -> None:
    small = replace(RANDOM, prompts_per_set=4, images_per_prompt=3)
    many = tuple(range(5))
    ours, theirs = ([unit(one, method, many, 5) for one in BENCHMARK.sets] for method in ("paper", "fixed"))
    populations = [
        [c.pair for c in study_comparisons(BENCHMARK, ours[::order], theirs, small, seed)]
        for seed, order in ((0, 1), (0, -1), (1, 1))
    ]
    prompts = Counter((pair.scene, pair.prompt) for pair in populations[0])
    assert list(prompts.values()) == [3] * 4
    assert populations[0] == populations[1]
    assert populations[0] != populations[2]


@pytest.mark.parametrize("protocol", [RANDOM, COCO])
def test_the_judge_is_given_the_very_images_that_the_study_is_made_from(protocol: Protocol) -> None:
    small = replace(protocol, prompts_per_set=3, images_per_prompt=2)
    every = tuple(range(len(BENCHMARK.sets[0].prompts)))
    ours, theirs = ([unit(one, method, every, 3) for one in BENCHMARK.sets] for method in ("paper", "fixed"))
    places = [(one.key.set, *where) for one in ours for where in one.images]
    numbers = {one.name: [prompt.text for prompt in one.prompts] for one in BENCHMARK.sets}
    expected = {
        (c.pair.scene, numbers[c.pair.scene].index(c.pair.prompt), c.pair.index)
        for c in study_comparisons(BENCHMARK, ours, theirs, small, 0)
    }
    assert population(BENCHMARK, places, small, 0) == expected


def test_images_beyond_those_of_a_protocol_are_looked_at_and_not_compared() -> None:
    few = replace(RANDOM, images_per_prompt=2)
    ours, theirs = ([unit(one, method, (0, 1), 5) for one in BENCHMARK.sets] for method in ("paper", "fixed"))
    found = study_comparisons(BENCHMARK, ours, theirs, few, 0)
    assert {c.pair.index for c in found} == {0, 1}


def test_every_concept_of_a_comparisons_prompt_has_a_reference() -> None:
    for found in study_comparisons(BENCHMARK, units("paper"), units("fixed"), RANDOM, 0):
        one = next(one for one in BENCHMARK.sets if one.name == found.pair.scene)
        prompt = next(prompt for prompt in one.prompts if prompt.text == found.pair.prompt)
        told = [(reference.name, reference.kind) for reference in found.references]
        assert told == [(name, one.concept(name).kind) for name in prompt.asked]


def test_an_image_without_a_counterpart_is_refused() -> None:
    with pytest.raises(ConfigError, match="no counterpart"):
        study_comparisons(BENCHMARK, units("paper"), units("fixed")[1:], RANDOM, 0)


def test_a_reference_darkens_all_but_its_concept() -> None:
    one = BENCHMARK.sets[0]
    name = one.subjects[0].name
    picture = one.pictures[0]
    (reference,) = references_of(one, TestPrompt(f"a <{name}>", "context", (name,)))
    mask = picture.masks[name]
    np.testing.assert_array_equal(reference.pixels[mask], picture.pixels[mask])
    np.testing.assert_array_equal(reference.pixels[~mask], np.rint(UNMARKED * picture.pixels[~mask]))


def test_a_reference_without_a_true_mask_is_the_picture() -> None:
    one = BENCHMARK.sets[0]
    bare = tuple(Picture(picture.name, None, picture.pixels) for picture in one.pictures)
    unmarked = BenchmarkSet(one.name, bare, one.concepts, one.contains, one.prompts, one.place_type)
    name = one.subjects[0].name
    (reference,) = references_of(unmarked, TestPrompt(f"a <{name}>", "context", (name,)))
    np.testing.assert_array_equal(reference.pixels, one.pictures[0].pixels)


@pytest.mark.parametrize("empty", [False, True])
def test_a_picture_with_a_true_mask_goes_before_one_without(empty: bool) -> None:
    cat = TrueConcept("cat", "cat", "subject", "cat", None, "instance", "animal")
    dark, light = (np.full((4, 4, 3), grey, np.uint8) for grey in (40, 200))
    mask = np.zeros((4, 4), np.bool_)
    first = Picture("first", None, dark, {"cat": mask} if empty else {})
    second = Picture("second", None, light, {"cat": ~mask})
    one = BenchmarkSet(
        "one", (first, second), (cat,), dict.fromkeys(("first", "second"), ("cat",)), (), "none"
    )
    (reference,) = references_of(one, TestPrompt("a <cat>", "context", ("cat",)))
    np.testing.assert_array_equal(reference.pixels, light)
