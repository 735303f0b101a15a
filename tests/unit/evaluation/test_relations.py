"""Relations that boxes show: by hand, on composed scenes, and by chance."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.evaluation.relations import Box, relation_chance, relation_holds
from conceptloom.scenes.captions import RELATIONS
from conceptloom.scenes.composer import compose
from conceptloom.scenes.sprites import load_sprites

HERE: Box = (40, 40, 60, 60)


def moved(dx: float, dy: float, side: float = 20) -> Box:
    """A square whose centre is off that of `HERE` by so many pixels."""
    return (50 + dx - side / 2, 50 + dy - side / 2, 50 + dx + side / 2, 50 + dy + side / 2)


def relations_of(subject: Box, thing: Box = HERE) -> set[str]:
    return {relation for relation in RELATIONS if relation_holds(relation, subject, thing)}


def test_a_thing_at_the_left_is_left_of_next_to_and_maybe_facing() -> None:
    assert relations_of(moved(-21, 0)) == {"left of", "next to", "facing"}


def test_the_right_is_the_mirror_image_of_the_left() -> None:
    assert relations_of(moved(21, 0)) == {"right of", "next to", "facing"}


def test_neighbours_at_different_heights_do_not_face_each_other() -> None:
    assert relations_of(moved(-21, 6)) == {"left of", "next to"}


def test_what_is_far_off_is_at_a_side_but_not_next_to_it() -> None:
    assert relations_of(moved(-40, 0)) == {"left of"}


def test_a_thing_over_another_is_above_it() -> None:
    assert relations_of(moved(3, -22)) == {"above"}
    assert relations_of(moved(3, 22)) == set()


def test_a_thing_whose_feet_reach_into_the_other_rides_it() -> None:
    assert relations_of(moved(0, -14)) == {"riding"}


def test_what_overlaps_at_the_side_is_behind_when_higher_and_in_front_when_lower() -> None:
    assert relations_of(moved(12, -8)) == {"behind"}
    assert relations_of(moved(12, 8)) == {"in front of"}


def test_a_smaller_thing_at_the_side_is_held() -> None:
    assert "holding" in relations_of(HERE, moved(12, 1, side=12))
    assert "holding" not in relations_of(moved(12, 1, side=12), HERE)


def test_left_of_and_right_of_are_each_others_converse() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (moved(*rng.uniform(-40, 40, 2), side=rng.uniform(10, 30)) for _ in range(2))
        assert relation_holds("left of", a, b) == relation_holds("right of", b, a)
        assert relation_holds("behind", a, b) == relation_holds("in front of", b, a)


def test_rules_do_not_depend_on_the_scale() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        a, b = (moved(*rng.uniform(-30, 30, 2), side=rng.uniform(10, 30)) for _ in range(2))
        large_a, large_b = ((4 * c[0], 4 * c[1], 4 * c[2], 4 * c[3]) for c in (a, b))
        assert relations_of(a, b) == relations_of(large_a, large_b)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_rule_holds_in_the_scenes_of_its_relation(relation: str) -> None:
    sprites = load_sprites("dev")
    background = np.full((128, 128, 3), 200, np.uint8)
    rng = np.random.default_rng(3)
    held = []
    while len(held) < 60:
        first, second = rng.choice(len(sprites), 2, replace=False)
        scene = compose([sprites[first], sprites[second]], "", background, rng, relation=relation)
        if scene.relation is not None:
            held.append(relation_holds(relation, scene.objects[0].box, scene.objects[1].box))
    assert np.mean(held) >= 0.95


def test_boxes_without_area_and_unknown_words_are_refused() -> None:
    with pytest.raises(ValueError, match="without area"):
        relation_holds("above", (1, 1, 1, 5), HERE)
    with pytest.raises(ValueError, match="'under' is no relation"):
        relation_holds("under", HERE, HERE)


def test_chance_takes_subject_and_object_from_different_images() -> None:
    left, right = moved(-30, 0), moved(30, 0)
    # Subject left, object right in one image, the other way round in the next: across images both are on one side.
    assert relation_chance("left of", [(left, right), (right, left)]) == 0.0
    assert relation_chance("left of", [(left, right), (left, right)]) == 1.0


def test_chance_is_the_share_of_ordered_pairs() -> None:
    left, middle, right = moved(-30, 0), moved(0, 0), moved(30, 0)
    boxes = [(left, middle), (middle, right), (right, left)]
    pairs = [(boxes[i][0], boxes[j][1]) for i in range(3) for j in range(3) if i != j]
    expected = sum(relation_holds("left of", *pair) for pair in pairs) / 6
    assert relation_chance("left of", boxes) == pytest.approx(expected)
    assert expected == pytest.approx(1 / 6)


def test_one_image_has_no_chance_level() -> None:
    assert relation_chance("above", [(HERE, HERE)]) is None
