"""Templates of test prompts: their kinds, their order, and what they must not say."""

from __future__ import annotations

from collections import Counter

import pytest

from conceptloom.evaluation.benchmark import PROMPT_KINDS, TestPrompt, TrueConcept
from conceptloom.evaluation.prompt_templates import PROMPTS_PER_SET, KnownWords, makes_sense, prompts_for
from conceptloom.seeding import numpy_generator

PLACES = {f"place{index}": "on the {}" for index in range(12)}
THINGS = {
    **{f"beast{index}": "animal" for index in range(4)},
    **{f"tool{index}": "object" for index in range(4)},
    **{f"house{index}": "building" for index in range(4)},
}
KNOWN = KnownWords(PLACES, THINGS, ("ink", "clay", "chalk", "wool", "oil"))
PLACE = TrueConcept("there", "beach", "background", "beach", None, "place", "place")


def subject(name: str, class_word: str = "animal") -> TrueConcept:
    return TrueConcept(name, name, "subject", name, None, "instance", class_word)


CAT, DOG, EAR = subject("cat"), subject("dog"), subject("ear", "object")


def written(*concepts: TrueConcept, seed: int = 0, **rest) -> tuple[TestPrompt, ...]:
    return prompts_for(concepts, KNOWN, numpy_generator(seed, "prompts"), **rest)


CASTS = [(CAT,), (CAT, PLACE), (CAT, DOG), (CAT, DOG, PLACE), (CAT, DOG, EAR), (CAT, DOG, EAR, PLACE)]


@pytest.mark.parametrize("cast", CASTS)
def test_a_set_has_twenty_different_prompts(cast) -> None:
    for seed in range(20):
        prompts = written(*cast, seed=seed)
        assert len({prompt.text for prompt in prompts}) == PROMPTS_PER_SET == 20


def test_five_kinds_come_four_times_each_in_turn() -> None:
    kinds = [prompt.kind for prompt in written(CAT, DOG, PLACE)]
    assert kinds == [*PROMPT_KINDS] * 4


def test_known_things_take_the_place_of_interactions_where_there_is_one_subject() -> None:
    kinds = Counter(prompt.kind for prompt in written(CAT, PLACE))
    assert kinds == {"context": 4, "known": 8, "transfer": 4, "style": 4}


def test_contexts_take_the_place_of_transfers_where_no_place_is_learned() -> None:
    kinds = Counter(prompt.kind for prompt in written(CAT, DOG))
    assert kinds == {"context": 8, "interaction": 4, "known": 4, "style": 4}


def test_a_stranger_is_brought_to_the_learned_place_and_its_native() -> None:
    transfers = [
        prompt for prompt in written(CAT, DOG, PLACE, strangers=["dog"]) if prompt.kind == "transfer"
    ]
    assert transfers[0].text == "a photo of a <dog> on the <there>"
    assert transfers[1].asked == ("dog", "cat", "there")
    assert transfers[1].relation is not None
    assert all(prompt.asked_place == "there" for prompt in transfers)


def test_known_things_are_brought_to_the_learned_place_where_nobody_is_a_stranger() -> None:
    transfers = [prompt for prompt in written(CAT, DOG, PLACE) if prompt.kind == "transfer"]
    assert all(prompt.known for prompt in transfers)


def test_the_learned_place_is_used_beyond_the_transfers() -> None:
    elsewhere = [prompt for prompt in written(CAT, DOG, PLACE) if prompt.kind != "transfer"]
    assert sum(prompt.asked_place is not None for prompt in elsewhere) == 2


def test_every_subject_is_asked_for_alone_and_with_the_others() -> None:
    prompts = written(CAT, DOG, EAR, PLACE)
    asked = [frozenset(prompt.asked) - {"there"} for prompt in prompts]
    assert {frozenset({"cat"}), frozenset({"dog"}), frozenset({"ear"})} <= set(asked)
    assert frozenset({"cat", "dog", "ear"}) in asked


def test_the_places_of_the_pictures_are_no_new_contexts() -> None:
    homes = [f"place{index}" for index in range(4)]
    for seed in range(10):
        assert {prompt.place for prompt in written(CAT, DOG, seed=seed, homes=homes)}.isdisjoint(homes)


def test_the_styles_of_the_pictures_are_not_asked_for() -> None:
    for seed in range(10):
        styles = {prompt.style for prompt in written(CAT, DOG, seed=seed, own_styles=["ink"])}
        assert styles == {None, "clay", "chalk", "wool", "oil"}


def test_the_sets_own_nouns_are_no_known_things() -> None:
    own = TrueConcept("mine", "beast0", "subject", "tool1", None, "instance", "house2")
    for seed in range(10):
        known = {noun for prompt in written(own, DOG, PLACE, seed=seed) for noun in prompt.known}
        assert known.isdisjoint({"beast0", "tool1", "house2"})
        assert known


@pytest.mark.parametrize(
    ("relation", "subject_class", "thing_class", "makes"),
    [
        ("riding", "animal", "vehicle", True),
        ("riding", "animal", "fruit", False),
        ("riding", "building", "vehicle", False),
        ("holding", "person", "object", True),
        ("holding", "person", "building", False),
        ("facing", "fruit", "animal", False),
        ("left of", "fruit", "building", True),
    ],
)
def test_only_what_can_act_acts_on_what_can_bear_it(relation, subject_class, thing_class, makes) -> None:
    assert makes_sense(relation, subject_class, thing_class) is makes


def test_every_relation_asked_for_makes_sense() -> None:
    classes = {concept.name: concept.class_word for concept in (CAT, DOG, EAR)} | THINGS
    acted = Counter()
    for seed in range(30):
        for prompt in written(CAT, DOG, EAR, PLACE, seed=seed):
            if prompt.relation is not None:
                first, relation, second = prompt.relation
                assert makes_sense(relation, classes[first], classes[second])
                acted[relation] += 1
    assert {"holding", "riding", "facing"} <= set(acted)


def test_articles_fit_the_class_words() -> None:
    texts = {prompt.class_words_text({"ear": "ear", "cat": "cat"}) for prompt in written(EAR, CAT)}
    spoken = " ".join(texts)
    assert "an ear" in spoken
    assert "a cat" in spoken
    assert "a ear" not in spoken
    assert "an cat" not in spoken


def test_the_same_generator_writes_the_same_prompts() -> None:
    assert written(CAT, DOG, PLACE) == written(CAT, DOG, PLACE)
    assert written(CAT, DOG, PLACE) != written(CAT, DOG, PLACE, seed=1)
