"""Ceilings and floors of image metrics, with a looker that knows the truth of composed scenes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from PIL import Image

from conceptloom.errors import DataError
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TrueConcept
from conceptloom.evaluation.builtin_sets import PLACES, builtin_benchmark
from conceptloom.evaluation.composed_answers import composed_answers
from conceptloom.evaluation.image_metrics import copy_similarity
from conceptloom.evaluation.image_references import prototypes, references
from conceptloom.evaluation.image_sanity import (
    REAL,
    WRONG,
    composed,
    identities,
    own_pictures,
    presence_threshold,
    sanity_rows,
    sanity_scores,
)
from conceptloom.evaluation.image_scores import ImageScore, score_pictures
from conceptloom.evaluation.image_view import ImageJudge
from conceptloom.judges.detector import GREY, Detections, Floats, Pixels
from conceptloom.pictures import Picture
from conceptloom.pictures.colour import rgb_to_lab
from conceptloom.scenes.composer import Scene
from conceptloom.scenes.sprites import ROLES, load_sprites
from tiny_judges import ColourFeatures, box_mask

PROMPTS = 5
SIDE = 96
SPRITES = tuple(sprite.key for role in ROLES for sprite in load_sprites(role))


class SmallLab:
    """A picture's embedding is itself, small, on grey, as differences from grey."""

    name = "small"

    def embed(self, pictures: Sequence[Pixels]) -> Floats:
        found = []
        for picture in pictures:
            height, width = picture.shape[:2]
            square = np.full((max(height, width),) * 2 + (3,), GREY, np.uint8)
            top, left = (len(square) - height) // 2, (len(square) - width) // 2
            square[top : top + height, left : left + width] = picture
            small = Image.fromarray(square).resize((6, 6), Image.Resampling.BOX)
            vector = (rgb_to_lab(np.asarray(small)) - rgb_to_lab(np.full(3, GREY, np.uint8))).reshape(-1)
            found.append(vector / max(float(np.linalg.norm(vector)), 1e-9))
        return np.asarray(found, np.float32)


class TrueLooker:
    """Knows what was composed."""

    def __init__(self, scenes: Sequence[Scene]) -> None:
        self._scenes = {scene.pixels.tobytes(): scene for scene in scenes}

    def detect(self, pixels: Pixels) -> Detections:
        things = self._scenes[pixels.tobytes()].objects
        scores = np.zeros((len(things), len(SPRITES)), np.float32)
        for row, thing in enumerate(things):
            scores[row, SPRITES.index(f"{thing.noun}/{thing.family}")] = 1
        boxes = np.asarray([thing.box for thing in things], np.float32)
        sure, no = np.ones(len(things), np.float32), np.zeros(len(things), np.bool_)
        return Detections(
            SPRITES, boxes, sure, scores, sure, sure, no, np.zeros((len(things), 1), np.float32)
        )

    def background(self, pixels: Pixels) -> dict[str, float]:
        return {word: float(word == self._scenes[pixels.tobytes()].background) for word in PLACES}


@cache
def benchmark() -> Benchmark:
    return builtin_benchmark("dev", 6, side_px=SIDE)


@cache
def scores() -> list[ImageScore]:
    made = benchmark()
    scenes = composed_answers(made, PROMPTS, 2, side_px=SIDE)
    looker = TrueLooker([scene for own in scenes.values() for scene in own.values()])
    features = SmallLab()
    found = {one.name: references(one, features, greyed=True) for one in made.sets}
    judge = ImageJudge(looker, features, prototypes(made, found), 0.5, 0.8)
    return sanity_scores(made, composed(made, PROMPTS, 2), found, judge)


@pytest.mark.parametrize(
    "metric",
    [
        "identity",
        "present",
        "SIM^I",
        "ACC^1",
        "ACC^3",
        "learned place likeness",
        "known thing",
        "relation true",
        "mixing",
        "mixing (released)",
        "SIM^C",
        "overall",
    ],
)
def test_real_pictures_are_above_those_of_the_wrong_things(metric: str) -> None:
    real, wrong = sanity_rows(scores())[metric]
    assert real is not None
    assert wrong is not None
    assert real.mean.value > wrong.mean.value


def test_a_true_looker_finds_every_known_thing_relation_and_place_in_real_pictures() -> None:
    rows = sanity_rows(scores())
    for metric in ("known thing", "known place right", "learned place right", "style kept", "style right"):
        real, _ = rows[metric]
        assert real is not None
        assert real.mean.value == 1.0


def test_real_pictures_are_no_copies_and_are_diverse() -> None:
    rows = sanity_rows(scores())
    copies, diverse = rows["copies"][0], rows["diversity"][0]
    assert copies is not None
    assert copies.mean.value == 0.0
    assert diverse is not None
    assert diverse.mean.value > 0.1


def test_every_real_picture_has_a_wrong_counterpart_of_the_same_prompt_where_both_sets_have_one() -> None:
    real = {(score.set, score.prompt, score.index) for score in scores() if score.method == REAL}
    wrong = {(score.set, score.prompt, score.index) for score in scores() if score.method == WRONG}
    assert wrong <= real
    assert len(wrong) > 0.8 * len(real)


# The sets' own pictures


def test_own_pictures_are_described_by_what_they_contain() -> None:
    answers = own_pictures(benchmark())
    assert answers["dev-003"].prompts[0].text == "a photo of a <cow> and a <gift> and a <bell> on a <place>"
    two = answers["dev-005"]
    assert [prompt.text for prompt in two.prompts] == [
        "a photo of a <book> and a <circus>",
        "a photo of a <book> on a <place>",
    ]
    assert two.own == {(0, 0): "dev-005-a", (1, 0): "dev-005-b"}


def test_a_shared_concept_is_judged_against_its_other_picture() -> None:
    made = Benchmark("builtin", "dev", (benchmark().sets[5], benchmark().sets[0]))
    features = SmallLab()
    found = {one.name: references(one, features, greyed=False) for one in made.sets}
    judge = ImageJudge(None, features, prototypes(made, found), 0.5, 0.8)
    answers = own_pictures(made)
    real = {
        (score.prompt, name): identity
        for score in sanity_scores(made, answers, found, judge)
        if score.method == REAL and score.set == "dev-005"
        for name, identity in score.identity.items()
    }
    both = found["dev-005"]
    for place, picture in answers["dev-005"].own.items():
        other = references(made.sets[0], features, greyed=False, without=picture)
        own = {place: answers["dev-005"].pictures[place]}
        against = [
            score_pictures(made.sets[0], own, answers["dev-005"].prompts, known, judge, REAL)[0].identity[
                "book"
            ]
            for known in (other, both)
        ]
        assert real[place[0], "book"] == against[0]
        assert against[0] != pytest.approx(against[1], abs=1e-3)


def coloured(name: str, noun: str, *colours: tuple[int, int, int]) -> BenchmarkSet:
    """A thing of one colour in each of its pictures, on black."""
    box = (10, 10, 30, 30)
    pictures = []
    for number, colour in enumerate(colours):
        pixels = np.zeros((40, 40, 3), np.uint8)
        pixels[box_mask(box)] = colour
        pictures.append(Picture(f"{name}{number}", None, pixels, {"thing": box_mask(box)}))
    concept = TrueConcept("thing", None, "subject", noun, None, "instance", "thing")
    contains = {picture.name: ("thing",) for picture in pictures}
    return BenchmarkSet(name, tuple(pictures), (concept,), contains, (), "none")


RED, GREEN, BROWN = (255, 0, 0), (0, 255, 0), (90, 120, 0)  # cosine of brown with red: .6


def own_scores(*sets: BenchmarkSet, with_itself: bool = False) -> dict[tuple[str, int, int], ImageScore]:
    """Scores of the sets' own pictures, by set, prompt and number."""
    made, features = Benchmark("own", "own", sets), ColourFeatures()
    found = {one.name: references(one, features, greyed=False) for one in sets}
    judge = ImageJudge(None, features, prototypes(made, found), 0.5, 0.8)
    told = sanity_scores(made, own_pictures(made), found, judge, with_itself=with_itself)
    return {(score.set, score.prompt, score.index): score for score in told if score.method == REAL}


def test_a_picture_that_alone_shows_a_thing_says_nothing_of_it() -> None:
    score = own_scores(coloured("a", "cat", RED), coloured("b", "dog", GREEN))["a", 0, 0]
    assert score.concepts == ()
    assert (score.composition, score.memorisation, score.overall) == (None, None, None)


def test_a_picture_that_alone_shows_a_thing_is_compared_with_itself_where_that_is_asked_for() -> None:
    both = coloured("a", "cat", RED), coloured("b", "dog", GREEN)
    assert own_scores(*both, with_itself=True)["a", 0, 0].identity == {"thing": pytest.approx(1.0)}


def test_what_one_of_two_pictures_shows_alone_leaves_out_what_is_of_both_its_things() -> None:
    sets = [benchmark().sets[5], benchmark().sets[0]]
    scores = own_scores(*sets)
    first, second = scores["dev-005", 0, 0], scores["dev-005", 1, 0]
    assert list(first.identity) == list(second.identity) == ["book"]
    assert (first.mixing, first.mixing_released, first.overall) == (None, None, None)
    assert first.composition is not None
    assert (second.place_likeness, second.overall) == (None, None)


def test_pictures_of_the_same_things_answer_one_prompt_and_are_compared_with_each_other() -> None:
    scores = own_scores(coloured("a", "cat", RED, BROWN), coloured("b", "dog", GREEN))
    for index in range(2):
        score = scores["a", 0, index]
        assert score.distance == pytest.approx(0.4)
        assert score.identity == {"thing": pytest.approx(0.6)}
        assert score.composition == pytest.approx(0.6)
    assert scores["b", 0, 0].distance is None


def test_whether_a_real_picture_is_a_copy_is_asked_of_the_others() -> None:
    one = coloured("a", "cat", RED, BROWN)
    first, second = (picture.pixels for picture in one.pictures)
    found = own_scores(one, coloured("b", "dog", GREEN))["a", 0, 0].memorisation
    assert found == copy_similarity(first, [second]) < 0.99


def test_a_real_picture_is_no_part_of_the_prototype_it_is_told_by() -> None:
    scores = own_scores(coloured("a", "cat", RED, GREEN), coloured("b", "dog", BROWN))
    (thing,) = scores["a", 0, 0].concepts
    assert (
        thing.rank == 1
    )  # red is nearer to brown (.6) than to green (0), but not than to red and green (.7)


def test_a_set_without_a_stranger_is_refused() -> None:
    one = benchmark().sets[0]
    twin = BenchmarkSet("twin", one.pictures, one.concepts, one.contains, one.prompts, one.place_type)
    made, features = Benchmark("own", "own", (one, twin)), SmallLab()
    found = {each.name: references(each, features, greyed=False) for each in made.sets}
    judge = ImageJudge(None, features, prototypes(made, found), 0.5, 0.8)
    with pytest.raises(DataError, match="shares a subject"):
        sanity_scores(made, own_pictures(made), found, judge)


# The threshold


def test_the_threshold_lies_halfway_between_groups_that_do_not_overlap() -> None:
    assert presence_threshold([0.8, 0.9, 0.95], [0.1, 0.5, 0.6]) == pytest.approx(0.7)


def test_at_the_threshold_as_many_are_missed_as_taken_for_others() -> None:
    rng = np.random.default_rng(0)
    real, wrong = rng.normal(0.7, 0.1, 4000), rng.normal(0.4, 0.1, 4000)
    cut = presence_threshold(real.tolist(), wrong.tolist())
    assert abs((real < cut).mean() - (wrong >= cut).mean()) <= 1 / 4000
    assert cut == pytest.approx(0.55, abs=0.01)


def test_equal_rates_do_not_depend_on_how_many_there_are_of_each() -> None:
    assert presence_threshold([0.4, 0.8] * 10, [0.2, 0.6]) == presence_threshold([0.4, 0.8], [0.2, 0.6])


def test_identical_values_leave_no_choice() -> None:
    assert presence_threshold([0.5], [0.5]) == 0.5


def test_a_threshold_needs_both_groups() -> None:
    with pytest.raises(ValueError, match="expected some of each"):
        presence_threshold([], [0.5])


def test_restyled_pictures_say_nothing_of_presence() -> None:
    styled = [score for score in scores() if score.kind == "style"]
    assert styled
    assert identities(styled, REAL) == []


def test_the_threshold_of_real_and_wrong_pictures_lies_between_them() -> None:
    real, wrong = identities(scores(), REAL), identities(scores(), WRONG)
    assert np.mean(wrong) < presence_threshold(real, wrong) < np.mean(real)
