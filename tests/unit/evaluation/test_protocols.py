"""Who is shown what: numbers of the named protocols, and the balance of people, pairs, sides and checks."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptloom.errors import ConfigError
from conceptloom.evaluation.protocols import (
    CHECK_SHARE,
    CHECKS,
    COCO,
    PROTOCOLS,
    RANDOM,
    Pair,
    Protocol,
    Showing,
    Stimulus,
    check_count,
    draw_pairs,
    matched_pairs,
    plan_showings,
    shown_pairs,
)


def pairs_of(scenes: int, prompts: int, images: int) -> list[Pair]:
    return [
        Pair(f"scene {scene}", f"<cat{scene}>", f"a <cat{scene}> at place {prompt}", 0, index)
        for scene in range(scenes)
        for prompt in range(prompts)
        for index in range(images)
    ]


def comparisons_of(plan: tuple[tuple[Showing, ...], ...]) -> list[list[Showing]]:
    return [[showing for showing in own if showing.kind == "comparison"] for own in plan]


def small(people: int, pairs_per_person: int, people_per_pair: int) -> Protocol:
    return replace(RANDOM, people=people, pairs_per_person=pairs_per_person, people_per_pair=people_per_pair)


def spread(counts: Counter) -> int:
    return max(counts.values()) - min(counts.values())


# The named protocols and their pairs ------------------------------------------------------------------------------


def test_the_named_protocols_have_the_papers_numbers() -> None:
    numbers = {
        name: (one.concepts, one.prompts_per_set, one.images_per_prompt, one.people)
        for name, one in PROTOCOLS.items()
    }
    assert numbers == {"random": (None, 10, 6, 11), "coco": (120, 20, 8, 17)}


def test_random_draws_six_images_of_each_of_ten_prompts() -> None:
    drawn = draw_pairs(pairs_of(8, 5, 9), RANDOM, seed=0)
    assert Counter(Counter((pair.scene, pair.prompt) for pair in drawn).values()) == {6: 10}


def test_coco_draws_eight_images_of_each_of_twenty_prompts_of_each_of_120_concepts() -> None:
    drawn = draw_pairs(pairs_of(125, 22, 9), COCO, seed=0)
    assert len(drawn) == len(set(drawn)) == 19_200
    assert Counter(Counter(pair.subject for pair in drawn).values()) == {160: 120}
    assert Counter(Counter((pair.subject, pair.prompt) for pair in drawn).values()) == {8: 2400}


def test_where_there_are_fewer_all_are_drawn() -> None:
    pairs = pairs_of(3, 4, 2)
    assert draw_pairs(pairs, COCO, seed=0) == tuple(sorted(pairs))


def test_the_same_words_in_two_scenes_are_two_prompts() -> None:
    pairs = [Pair(scene, "<cat>", "a <cat>", 0, index) for scene in "ab" for index in range(6)]
    assert len(draw_pairs(pairs, RANDOM, seed=0)) == 12


@pytest.mark.parametrize("protocol", [RANDOM, COCO])
def test_draws_depend_on_the_seed_and_not_on_the_order_of_pairs(protocol: Protocol) -> None:
    pairs = pairs_of(130, 21, 1)
    for draw in (draw_pairs, shown_pairs):
        assert draw(pairs, protocol, 3) == draw(pairs[::-1], protocol, 3)
        assert draw(pairs, protocol, 3) != draw(pairs, protocol, 4)


def test_an_image_without_its_counterpart_is_named_and_refused() -> None:
    pairs = pairs_of(2, 2, 2)
    assert matched_pairs(pairs, pairs[::-1]) == tuple(sorted(pairs))
    with pytest.raises(
        ConfigError, match=r"1 images.*'a <cat1> at place 1'.*ours has and the baseline lacks"
    ):
        matched_pairs(pairs, pairs[:-1])
    with pytest.raises(ConfigError, match="the baseline has and ours lacks"):
        matched_pairs(pairs[:-1], pairs)


def test_people_see_every_subject_alike() -> None:
    shown = shown_pairs(pairs_of(120, 20, 8), COCO, seed=0)
    assert len(shown) == 17 * 60 // 3
    counts = Counter(pair.subject for pair in shown)
    assert len(counts) == 120
    assert spread(counts) <= 1


# Plans ------------------------------------------------------------------------------------------------------------


def test_in_random_everybody_compares_all_sixty_pairs() -> None:
    pairs = draw_pairs(pairs_of(10, 10, 6), RANDOM, seed=0)
    own = comparisons_of(plan_showings(pairs, RANDOM, seed=0))
    assert len(own) == 11
    assert all({showing.pair for showing in showings} == set(pairs) for showings in own)


def test_in_coco_every_pair_shown_is_compared_by_three_people() -> None:
    own = comparisons_of(plan_showings(pairs_of(120, 20, 2), COCO, seed=0))
    assert [len(showings) for showings in own] == [60] * 17
    assert Counter(Counter(showing.pair for showings in own for showing in showings).values()) == {3: 340}


def test_in_coco_nobodys_pairs_are_all_of_few_subjects() -> None:
    own = comparisons_of(plan_showings(pairs_of(120, 20, 2), COCO, seed=0))
    assert min(len({showing.pair.subject for showing in showings}) for showings in own) >= 50


@settings(max_examples=60, deadline=None)
@given(
    scenes=st.integers(1, 4),
    prompts=st.integers(1, 5),
    people=st.integers(1, 7),
    each=st.integers(1, 12),
    per_pair=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_people_pairs_and_sides_are_balanced_within_one(
    scenes: int, prompts: int, people: int, each: int, per_pair: int, seed: int
) -> None:
    plan = plan_showings(pairs_of(scenes, prompts, 1), small(people, each, per_pair), seed)
    own = comparisons_of(plan)
    assert len({len(showings) for showings in own}) == 1
    assert all(len({showing.pair for showing in showings}) == len(showings) for showings in own)
    everything = [(person, showing) for person, showings in enumerate(own) for showing in showings]
    assert spread(Counter(showing.pair for _, showing in everything)) <= 1
    lead: dict[str, Counter] = {"person": Counter(), "pair": Counter(), "all": Counter()}
    for person, showing in everything:
        sign = 1 if showing.left == Stimulus("ours") else -1
        lead["person"][person] += sign
        lead["pair"][showing.pair] += sign
        lead["all"]["all"] += sign
    assert all(abs(value) <= 1 for counts in lead.values() for value in counts.values())


def test_a_comparison_shows_both_methods_as_they_are() -> None:
    for showings in comparisons_of(plan_showings(pairs_of(3, 4, 1), small(3, 10, 3), 0)):
        assert all(
            {showing.left, showing.right} == {Stimulus("ours"), Stimulus("baseline")} for showing in showings
        )


def test_sides_are_no_pattern_that_a_person_could_follow() -> None:
    """Runs test over many people: alternating, or constant, sides would have far more, or fewer, changes than half."""
    own = comparisons_of(plan_showings(pairs_of(10, 10, 6), small(11, 60, 11), seed=0))
    changes = [a.left != b.left for showings in own for a, b in itertools.pairwise(showings)]
    assert np.mean(changes) == pytest.approx(0.5, abs=0.08)


def test_a_plan_depends_on_the_seed_and_not_on_the_order_of_pairs() -> None:
    pairs = pairs_of(4, 5, 2)
    assert plan_showings(pairs, COCO, 1) == plan_showings(pairs[::-1], COCO, 1)
    assert plan_showings(pairs, COCO, 1) != plan_showings(pairs, COCO, 2)


def test_the_pairs_that_are_shown_make_the_same_plan_as_the_population() -> None:
    pairs = pairs_of(30, 20, 1)
    assert plan_showings(pairs, COCO, 1) == plan_showings(shown_pairs(pairs, COCO, 1), COCO, 1)


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ConfigError, match="no pairs"):
        plan_showings([], RANDOM, 0)


# Attention checks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("comparisons", "checks"), [(1, 3), (27, 3), (28, 6), (54, 6), (60, 9), (120, 15)])
def test_there_are_as_few_checks_as_the_share_allows(comparisons: int, checks: int) -> None:
    assert check_count(comparisons) == checks
    assert checks / (comparisons + checks) >= CHECK_SHARE
    assert checks == len(CHECKS) or (checks - 3) / (comparisons + checks - 3) < CHECK_SHARE


@pytest.mark.parametrize("protocol", [RANDOM, COCO])
def test_everybody_meets_every_kind_of_check_equally_often(protocol: Protocol) -> None:
    for showings in plan_showings(pairs_of(20, 20, 2), protocol, 0):
        kinds = Counter(showing.kind for showing in showings)
        assert kinds == {"comparison": 60, "identical": 3, "degraded": 3, "repeat": 3}


def test_an_identical_check_shows_one_image_twice() -> None:
    shown = [
        one for own in plan_showings(pairs_of(20, 5, 1), RANDOM, 0) for one in own if one.kind == "identical"
    ]
    assert all(one.left == one.right and not one.left.degraded for one in shown)
    assert spread(Counter(one.left.method for one in shown)) <= 1


def test_a_degraded_check_shows_an_image_beside_its_spoiled_copy_on_either_side_of_either_method() -> None:
    shown = [
        one for own in plan_showings(pairs_of(20, 5, 1), RANDOM, 0) for one in own if one.kind == "degraded"
    ]
    assert all(one.left.method == one.right.method for one in shown)
    assert all(one.left.degraded != one.right.degraded for one in shown)
    assert spread(Counter(one.left.method for one in shown)) <= 1
    assert spread(Counter(one.left.degraded for one in shown)) <= 1


def test_a_repeat_exchanges_the_sides_of_a_comparison_long_before_it() -> None:
    for own in plan_showings(pairs_of(20, 5, 1), RANDOM, 0):
        for place, repeat in enumerate(own):
            if repeat.kind == "repeat":
                first = Showing(repeat.pair, "comparison", repeat.right, repeat.left)
                between = own[own.index(first) + 1 : place]
                assert sum(one.kind == "comparison" for one in between) >= 20


def test_a_check_can_come_anywhere() -> None:
    places = [
        place / (len(own) - 1)
        for seed in range(5)
        for own in plan_showings(pairs_of(20, 5, 1), RANDOM, seed)
        for place, one in enumerate(own)
        if one.kind in ("identical", "degraded")
    ]
    assert np.histogram(places, 5, (0, 1))[0].min() > 0.12 * len(places)
