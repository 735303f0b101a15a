"""Scores of images painted by hand, of which the judges say what they were told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TestPrompt, TrueConcept
from conceptloom.evaluation.candidates import Looker
from conceptloom.evaluation.image_references import prototypes, references
from conceptloom.evaluation.image_scores import ImageScore, score_images, score_pictures
from conceptloom.evaluation.image_view import ImageJudge
from conceptloom.evaluation.units import UnitKey, UnitResult
from conceptloom.judges.detector import Judge, Pixels
from conceptloom.judges.features import BuiltinFeatures, FeatureJudge
from conceptloom.judges.networks import NetworkConfig, Thresholds, Vocabulary, build_network
from conceptloom.pictures import Picture
from tiny_judges import SPRITES, ColourFeatures, ColourTexts, PlantedLooker, box_mask, paint

LEFT, RIGHT, UP = (2, 14, 12, 24), (25, 14, 35, 24), (25, 1, 35, 11)
CAT = TrueConcept("cat", "cat", "subject", "cat", "noto", "instance", "animal")
DOG = TrueConcept("dog", "dog", "subject", "dog", "noto", "novel noun", "animal")
SHORE = TrueConcept("shore", "beach", "background", "beach", None, "place", "place")
OWN = Picture(
    "own",
    None,
    paint(("red", (5, 5, 20, 20)), ("green", (22, 10, 38, 26)), behind="blue"),
    {"cat": box_mask((5, 5, 20, 20)), "dog": box_mask((22, 10, 38, 26))},
)
PLAIN = TestPrompt("a <cat>", "context", ("cat",))
PAIR = TestPrompt(
    "a <cat> left of a <dog>", "interaction", ("cat", "dog"), relation=("cat", "left of", "dog")
)
RIDE = TestPrompt(
    "a <cat> left of a horse in the forest",
    "known",
    ("cat",),
    "forest",
    ("cat", "left of", "horse"),
    ("horse",),
)
SHORELINE = TestPrompt("a horse on the <shore>", "transfer", ("shore",), "shore", known=("horse",))
STYLED = TestPrompt("a <cat> in fluent style", "style", ("cat",), style="fluent")


def one_set() -> BenchmarkSet:
    return BenchmarkSet("one", (OWN,), (CAT, DOG, SHORE), {"own": ("cat", "dog", "shore")}, (), "photo")


def judged(
    prompt: TestPrompt,
    *images: Pixels,
    looker: Looker | None,
    features: FeatureJudge | None = None,
    one: BenchmarkSet | None = None,
    present_from: float = 0.8,
    usual: float = 1.0,
) -> list[ImageScore]:
    one, features = one or one_set(), features or ColourFeatures()
    found = references(one, features, greyed=looker is not None)
    judge = ImageJudge(
        looker, features, prototypes(Benchmark("own", "own", (one,)), {one.name: found}), present_from, usual
    )
    return score_pictures(
        one, {(0, i): image for i, image in enumerate(images)}, [prompt], found, judge, "paper"
    )


def score(prompt: TestPrompt, image: Pixels, looker: Looker | None, **more: object) -> ImageScore:
    return judged(prompt, image, looker=looker, **more)[0]  # type: ignore[arg-type]


@pytest.fixture
def looker() -> PlantedLooker:
    return PlantedLooker()


# Identity, presence, leakage, accuracy


def test_a_subject_that_looks_like_its_reference_has_identity_one(looker: PlantedLooker) -> None:
    image = looker.tell(paint(("red", LEFT)), ("cat/noto", LEFT, 0.9))
    (cat,) = score(PLAIN, image, looker).concepts
    assert (cat.identity, cat.present, cat.rank) == (pytest.approx(1.0), True, 0)
    assert cat.leakage == {"dog": pytest.approx(0.0)}


def test_a_mixture_of_two_subjects_leaks(looker: PlantedLooker) -> None:
    image = looker.tell(paint(("yellow", LEFT)), ("cat/noto", LEFT, 0.9))
    (cat,) = score(PLAIN, image, looker).concepts
    assert cat.identity == pytest.approx(np.sqrt(0.5))
    assert cat.leakage == {"dog": pytest.approx(np.sqrt(0.5))}
    assert not cat.present


def test_an_image_of_the_other_subject_is_ranked_wrong(looker: PlantedLooker) -> None:
    image = looker.tell(paint(("green", LEFT)), ("dog/noto", LEFT, 0.9))
    assert score(PLAIN, image, looker).concepts[0].rank == 1


def test_nothing_detected_is_nothing_there(looker: PlantedLooker) -> None:
    (cat,) = score(PLAIN, paint(("red", LEFT)), looker, present_from=0.0).concepts
    assert (cat.identity, cat.present, cat.rank, cat.leakage) == (0.0, False, None, {})
    assert cat.style_kept is False


def test_one_thing_cannot_stand_for_two_subjects(looker: PlantedLooker) -> None:
    image = looker.tell(paint(("red", LEFT)), ("cat/noto", LEFT, 0.9))
    assert score(PAIR, image, looker).identity == {"cat": pytest.approx(1.0), "dog": 0.0}


def test_presence_is_by_the_given_threshold(looker: PlantedLooker) -> None:
    image = looker.tell(paint(("yellow", LEFT)), ("cat/noto", LEFT, 0.9))
    assert score(PLAIN, image, looker, present_from=0.7).present == {"cat": True}
    assert score(PLAIN, image, looker, present_from=0.71).present == {"cat": False}


# Known things


def test_a_known_thing_is_as_sure_as_its_own_detection(looker: PlantedLooker) -> None:
    image = looker.tell(
        paint(("red", LEFT), ("blue", RIGHT)), ("cat/noto", LEFT, 0.9), ("horse/noto", RIGHT, 0.6)
    )
    # horse/noto and horse/fluent together
    assert score(RIDE, image, looker).known == {"horse": pytest.approx(0.6 + 0.1)}


def test_a_known_thing_is_not_found_in_what_stands_for_a_subject(looker: PlantedLooker) -> None:
    image = looker.tell(paint(("red", LEFT)), ("horse/noto", LEFT, 0.8))
    found = score(RIDE, image, looker)
    assert found.identity == {"cat": pytest.approx(1.0)}
    assert found.known == {"horse": 0.0}


def test_things_the_looker_has_no_word_for_are_not_judged(looker: PlantedLooker) -> None:
    prompt = TestPrompt(
        "a <cat> left of a lamp", "known", ("cat",), None, ("cat", "left of", "lamp"), ("lamp",)
    )
    image = looker.tell(paint(("red", LEFT)), ("cat/noto", LEFT, 0.9))
    found = score(prompt, image, looker)
    assert (found.known, found.relation, found.overall) == ({}, None, pytest.approx(1.0))


# Relations


def test_a_relation_is_true_of_the_boxes_of_what_was_found(looker: PlantedLooker) -> None:
    right = looker.tell(
        paint(("red", LEFT), ("green", RIGHT)), ("cat/noto", LEFT, 0.9), ("dog/noto", RIGHT, 0.9)
    )
    wrong = looker.tell(
        paint(("green", LEFT), ("red", RIGHT)), ("dog/noto", LEFT, 0.9), ("cat/noto", RIGHT, 0.9)
    )
    truths = [found.relation for found in judged(PAIR, right, wrong, looker=looker)]
    assert [truth.holds for truth in truths if truth] == [True, False]
    assert [truth.boxes for truth in truths if truth] == [(LEFT, RIGHT), (RIGHT, LEFT)]


def test_a_relation_to_a_missing_thing_is_false(looker: PlantedLooker) -> None:
    image = looker.tell(paint(("red", LEFT)), ("cat/noto", LEFT, 0.9))
    for prompt in (PAIR, RIDE):
        truth = score(prompt, image, looker).relation
        assert truth is not None
        assert (truth.holds, truth.boxes) == (False, None)


def test_a_subject_below_the_threshold_is_missing_to_a_relation(looker: PlantedLooker) -> None:
    image = looker.tell(
        paint(("yellow", LEFT), ("green", RIGHT)), ("cat/noto", LEFT, 0.9), ("dog/noto", RIGHT, 0.9)
    )
    for threshold, holds in ((0.6, True), (0.8, False)):
        truth = score(PAIR, image, looker, present_from=threshold).relation
        assert truth is not None
        assert truth.holds is holds


def test_a_known_thing_must_be_called_by_its_name_to_be_related_to(looker: PlantedLooker) -> None:
    for sprite, holds in (("horse/noto", True), ("dog/noto", False)):
        image = looker.tell(
            paint(("red", LEFT), ("blue", RIGHT)), ("cat/noto", LEFT, 0.9), (sprite, RIGHT, 0.9)
        )
        truth = score(RIDE, image, looker).relation
        assert truth is not None
        assert truth.holds is holds


def test_where_no_relation_is_asked_for_none_is_judged(looker: PlantedLooker) -> None:
    image = looker.tell(paint(("red", LEFT)), ("cat/noto", LEFT, 0.9))
    assert score(PLAIN, image, looker).relation is None


def test_a_relation_that_boxes_cannot_show_is_not_judged(looker: PlantedLooker) -> None:
    prompt = TestPrompt(
        "a <cat> hugging a <dog>", "interaction", ("cat", "dog"), None, ("cat", "hugging", "dog")
    )
    assert score(prompt, paint(("red", LEFT)), looker).relation is None


# Places


def test_a_known_place_is_right_where_its_word_is_the_likeliest(looker: PlantedLooker) -> None:
    right = looker.tell(paint(("red", LEFT)), ("cat/noto", LEFT, 0.9), forest=0.7, beach=0.3)
    wrong = looker.tell(paint(("red", RIGHT)), ("cat/noto", RIGHT, 0.9), forest=0.2, beach=0.8)
    scores = judged(RIDE, right, wrong, looker=looker)
    assert [found.place_right for found in scores] == [True, False]
    assert [found.place_likeness for found in scores] == [None, None]


def test_a_learned_place_is_right_by_its_noun_and_like_its_reference(looker: PlantedLooker) -> None:
    image = looker.tell(paint(("red", LEFT), behind="blue"), ("horse/noto", LEFT, 0.9), beach=0.6, forest=0.4)
    found = score(SHORELINE, image, looker)
    assert (found.place, found.place_right, found.place_likeness) == (SHORE, True, pytest.approx(1.0))


def test_another_place_is_unlike_the_reference(looker: PlantedLooker) -> None:
    image = looker.tell(
        paint(("red", LEFT), behind="green"), ("horse/noto", LEFT, 0.9), beach=0.1, forest=0.9
    )
    found = score(SHORELINE, image, looker)
    assert (found.place_right, found.place_likeness) == (False, pytest.approx(0.0))


def test_a_place_is_not_judged_where_none_is_asked_for_or_the_looker_has_no_word(
    looker: PlantedLooker,
) -> None:
    image = looker.tell(paint(("red", LEFT)), ("cat/noto", LEFT, 0.9))
    elsewhere = TestPrompt("a <cat> in the attic", "context", ("cat",), "attic")
    assert [score(prompt, image, looker).place_right for prompt in (PLAIN, elsewhere)] == [None, None]


# Style


def test_style_is_kept_where_the_likeliest_family_is_the_concepts_own(looker: PlantedLooker) -> None:
    for sprite, kept in (("cat/noto", True), ("cat/fluent", False)):
        image = looker.tell(paint(("red", LEFT)), (sprite, LEFT, 0.9))
        (cat,) = score(PLAIN, image, looker).concepts
        assert (cat.style_kept, cat.style_right) == (kept, None)


def test_an_asked_style_is_right_where_the_likeliest_family_is_the_asked_one(looker: PlantedLooker) -> None:
    for sprite, right in (("cat/noto", False), ("cat/fluent", True)):
        image = looker.tell(paint(("red", LEFT)), (sprite, LEFT, 0.9))
        (cat,) = score(STYLED, image, looker).concepts
        assert (cat.style_kept, cat.style_right) == (None, right)


def test_a_concept_of_no_family_keeps_no_style(looker: PlantedLooker) -> None:
    one = replace(one_set(), concepts=(replace(CAT, family=None), DOG, SHORE))
    image = looker.tell(paint(("red", LEFT)), ("cat/noto", LEFT, 0.9))
    assert score(PLAIN, image, looker, one=one).concepts[0].style_kept is None


# Mixing


def test_two_subjects_as_they_are_do_not_mix(looker: PlantedLooker) -> None:
    image = looker.tell(
        paint(("green", LEFT), ("red", RIGHT)), ("dog/noto", LEFT, 0.9), ("cat/noto", RIGHT, 0.9)
    )
    found = score(PAIR, image, looker)
    assert (found.mixing, found.mixing_released) == (pytest.approx(1.0), pytest.approx(1.0))


def test_the_same_subject_twice_is_mixing(looker: PlantedLooker) -> None:
    image = looker.tell(
        paint(("red", LEFT), ("red", RIGHT)), ("cat/noto", LEFT, 0.9), ("cat/noto", RIGHT, 0.9)
    )
    # One cat too many is 1 like a cat where it should be 0, and 0 like a dog where .8 is usual.
    assert score(PAIR, image, looker, usual=0.8).mixing == pytest.approx(
        1 - np.sqrt((0.2**2 + 0.8**2 + 1**2) / 2)
    )


def test_wrong_subjects_in_the_right_number_are_mixing(looker: PlantedLooker) -> None:
    image = looker.tell(
        paint(("blue", LEFT), ("blue", RIGHT)), ("horse/noto", LEFT, 0.9), ("horse/noto", RIGHT, 0.9)
    )
    assert score(PAIR, image, looker, usual=0.7).mixing == pytest.approx(0.3)


def test_a_thing_too_many_or_too_few_is_a_wrong_count(looker: PlantedLooker) -> None:
    pair = (("cat/noto", LEFT, 0.9), ("dog/noto", RIGHT, 0.9))
    many = looker.tell(paint(("red", LEFT), ("green", RIGHT), ("green", UP)), *pair, ("dog/noto", UP, 0.9))
    few = looker.tell(paint(("red", LEFT)), pair[0])
    assert [found.mixing for found in judged(PAIR, many, few, looker=looker)] == [0.0, 0.0]


def test_a_known_thing_that_was_asked_for_is_not_one_too_many(looker: PlantedLooker) -> None:
    prompt = TestPrompt("a <cat> and a <dog> and a horse", "known", ("cat", "dog"), known=("horse",))
    image = looker.tell(
        paint(("red", LEFT), ("green", RIGHT), ("blue", UP)),
        ("cat/noto", LEFT, 0.9),
        ("dog/noto", RIGHT, 0.9),
        ("horse/noto", UP, 0.9),
    )
    assert score(prompt, image, looker).mixing == pytest.approx(1.0)


def test_a_single_subject_cannot_mix(looker: PlantedLooker) -> None:
    found = score(PLAIN, looker.tell(paint(("red", LEFT)), ("cat/noto", LEFT, 0.9)), looker)
    assert (found.mixing, found.mixing_released) == (None, None)


# The whole image


def test_composition_is_the_likeness_of_whole_pictures_where_all_subjects_are_asked_for() -> None:
    looker, features = PlantedLooker(), ColourFeatures()
    image = paint(("red", LEFT))
    whole = float(features.embed([image])[0] @ features.embed([OWN.pixels])[0])
    assert score(PAIR, image, looker).composition == pytest.approx(whole)
    assert score(PLAIN, image, looker).composition is None


def test_text_likeness_speaks_class_words_and_needs_a_judge_of_texts(looker: PlantedLooker) -> None:
    one = replace(one_set(), concepts=(replace(CAT, word="red"), DOG, SHORE))
    image = paint(("red", LEFT))
    assert score(PLAIN, image, looker, one=one, features=ColourTexts()).text == pytest.approx(1.0)
    assert score(PLAIN, image, looker, one=one).text is None


def test_distances_are_to_the_other_images_of_the_prompt(looker: PlantedLooker) -> None:
    images = [paint((colour, LEFT)) for colour in ("red", "red", "green")]
    assert [found.distance for found in judged(PLAIN, *images, looker=looker)] == pytest.approx(
        [0.5, 0.5, 1.0]
    )
    assert score(PLAIN, images[0], looker).distance is None


def test_the_learned_picture_itself_is_remembered(looker: PlantedLooker) -> None:
    assert score(PAIR, OWN.pixels[:, ::-1].copy(), looker).memorisation == pytest.approx(1.0)
    assert score(PAIR, paint(("red", UP)), looker).memorisation < 0.9


# The one score


def test_overall_is_the_plain_mean_of_the_checklist(looker: PlantedLooker) -> None:
    image = looker.tell(
        paint(("yellow", LEFT), ("blue", RIGHT)),
        ("cat/noto", LEFT, 0.9),
        ("horse/noto", RIGHT, 0.6),
        forest=0.8,
        beach=0.2,
    )
    items = [np.sqrt(0.5), 0.7, 0.8, 1.0]  # identity, horse, forest, left of
    assert score(RIDE, image, looker, present_from=0.5).overall == pytest.approx(np.mean(items))


def test_an_asked_style_is_on_the_checklist_by_its_probability(looker: PlantedLooker) -> None:
    image = looker.tell(paint(("red", LEFT)), ("cat/fluent", LEFT, 0.6))
    assert score(STYLED, image, looker).overall == pytest.approx((1.0 + 0.7) / 2)  # and horse/fluent


def test_an_empty_image_scores_what_its_background_is_worth(looker: PlantedLooker) -> None:
    image = looker.tell(paint(), forest=0.9, beach=0.1)
    assert score(RIDE, image, looker).overall == pytest.approx((0 + 0 + 0.9 + 0) / 4)


def test_overall_is_within_zero_and_one_for_noise() -> None:
    looker, rng = PlantedLooker(), np.random.default_rng(0)
    for prompt in (PLAIN, PAIR, RIDE, SHORELINE, STYLED):
        for _ in range(5):
            image = rng.integers(0, 256, (40, 40, 3), np.uint8)
            sprites = [SPRITES[index] for index in rng.integers(0, len(SPRITES), 3)]
            seen = [
                (sprite, box, float(rng.random()))
                for sprite, box in zip(sprites, (LEFT, RIGHT, UP), strict=True)
            ]
            overall = score(prompt, looker.tell(image, *seen), looker).overall
            assert overall is not None
            assert 0 <= overall <= 1


def test_only_a_prompt_for_one_subject_as_it_is_and_nothing_else_is_single(looker: PlantedLooker) -> None:
    image = paint(("red", LEFT))
    for judge in (looker, None):
        prompts = (PLAIN, STYLED, PAIR, RIDE, SHORELINE)
        single = [score(prompt, image, judge).is_single for prompt in prompts]
        assert single == [True, False, False, False, False]


# Without a detector


def test_without_a_looker_windows_find_subjects_and_named_things_are_none() -> None:
    image = paint(("red", (0, 0, 13, 13)), ("green", (27, 27, 40, 40)), behind="blue")
    found = score(PAIR, image, None)
    assert found.identity == {"cat": pytest.approx(1.0), "dog": pytest.approx(1.0)}
    assert (found.known, found.relation, found.place_right) == ({}, None, None)
    assert [one.style_kept for one in found.concepts] == [None, None]
    assert found.mixing == pytest.approx(1.0)
    assert found.overall == pytest.approx(1.0)


def test_without_a_looker_a_known_thing_leaves_mixing_open() -> None:
    prompt = TestPrompt("a <cat> and a <dog> and a horse", "known", ("cat", "dog"), known=("horse",))
    assert score(prompt, paint(("red", LEFT)), None).mixing is None


def test_without_a_looker_a_learned_place_counts_by_its_likeness() -> None:
    found = score(SHORELINE, OWN.pixels, None)
    assert (found.place_right, found.place_likeness, found.overall) == (
        None,
        pytest.approx(1.0),
        pytest.approx(1.0),
    )


def test_an_image_of_which_nothing_can_be_told_has_no_score() -> None:
    prompt = TestPrompt("a horse in the forest", "known", (), "forest", known=("horse",))
    assert score(prompt, paint(behind="blue"), None).overall is None


# Units


def test_a_units_scores_know_where_they_come_from(looker: PlantedLooker) -> None:
    one, features = one_set(), ColourFeatures()
    found = references(one, features, greyed=True)
    judge = ImageJudge(
        looker, features, prototypes(Benchmark("own", "own", (one,)), {"one": found}), 0.5, 1.0
    )
    images = {(prompt, index): paint(("red", LEFT)) for prompt in (0, 1, 2) for index in (0, 1, 2)}
    result = UnitResult(UnitKey("one", "fixed", 3, "quick"), (), images, {})
    scores = score_images(one, result, (PLAIN, PAIR), found, judge, num_images=2)
    assert [(found.prompt, found.index) for found in scores] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [found.kind for found in scores] == ["context", "context", "interaction", "interaction"]
    first = scores[0]
    assert (first.set, first.method, first.variant, first.seed) == ("one", "fixed", "quick", 3)


def test_a_judge_of_random_weights_looks_at_an_image_in_every_way() -> None:
    words = Vocabulary(SPRITES, ("beach", "forest"))
    config = NetworkConfig(
        "residual", (16, 16, 16), (1, 1, 1), neck=16, points=3, hidden=24, embedding=8, side_px=64
    )
    network = Judge(build_network(config, words, 0), Thresholds(object=0.0, known=0.0))
    features = BuiltinFeatures("examiner", network)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for prompt in (PAIR, RIDE, SHORELINE, STYLED):
        found = score(prompt, image, network, features=features, present_from=-1.0)
        assert found.overall is not None
        assert 0 <= found.overall <= 1
        assert all(one.present for one in found.concepts)
