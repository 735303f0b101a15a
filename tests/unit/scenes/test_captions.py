"""Captions: their stated frequencies, measured."""

from __future__ import annotations

import numpy as np
import pytest

from conceptloom.scenes.captions import (
    OVERLAPPING,
    STYLES,
    SYNONYMS,
    Mention,
    article,
    caption,
    phrase,
    vocabulary,
)

CAT = Mention("cat", "animal", "noto")
CAR = Mention("car", "vehicle", "twemoji")


def captions(count: int, relation: str | None = "riding") -> list[str]:
    return [caption([CAT, CAR], relation, "beach", np.random.default_rng(seed)) for seed in range(count)]


def share(texts: list[str], holds) -> float:
    return float(np.mean([holds(text) for text in texts]))


def test_a_tenth_of_captions_is_empty() -> None:
    assert share(captions(4000), lambda text: text == "") == pytest.approx(0.10, abs=0.02)


def test_the_background_is_named_in_seventy_percent() -> None:
    told = [text for text in captions(4000) if text]
    assert share(told, lambda text: "beach" in text) == pytest.approx(0.70, abs=0.03)


def test_the_style_of_a_named_sprite_is_said_in_sixty_percent() -> None:
    told = [caption([CAT], None, "beach", np.random.default_rng(seed)) for seed in range(4000)]
    assert share([text for text in told if text], lambda text: "noto" in text) == pytest.approx(
        0.60, abs=0.03
    )


def test_a_style_that_is_to_be_told_is_told_whenever_its_sprite_is_named() -> None:
    told = Mention("cat", "animal", "noto", style_is_told=True)
    texts = [caption([told, CAR], None, "beach", np.random.default_rng(seed)) for seed in range(1000)]
    named = [text for text in texts if any(word in text.split() for word in ("cat", "kitty", "animal"))]
    assert len(named) > 500
    assert all("noto" in text for text in named)


def test_a_style_that_is_to_be_told_stands_before_its_noun() -> None:
    told = Mention("cat", "animal", "noto", style_is_told=True)
    texts = [phrase(told, np.random.default_rng(seed)).split() for seed in range(500)]
    assert all(words[-2] == "noto" for words in texts)


def test_a_tenth_of_captions_that_are_not_loose_is_empty_too() -> None:
    texts = [caption([CAT], None, "beach", np.random.default_rng(seed), loose=False) for seed in range(4000)]
    assert share(texts, lambda text: text == "") == pytest.approx(0.10, abs=0.02)


def test_the_class_word_replaces_the_noun_in_a_tenth() -> None:
    told = [caption([CAT], None, "beach", np.random.default_rng(seed)) for seed in range(4000)]
    assert share([text for text in told if text], lambda text: "animal" in text) == pytest.approx(
        0.10, abs=0.02
    )


def test_order_says_nothing_when_no_relation_is_named() -> None:
    told = [text for text in captions(4000, None) if " and " in text and "cat" in text and "car" in text]
    assert share(told, lambda text: text.index("cat") < text.index("car")) == pytest.approx(0.5, abs=0.06)


def test_a_named_relation_keeps_its_subject_first() -> None:
    told = [text for text in captions(2000) if "riding" in text]
    first = [text.split("riding")[0] for text in told]
    assert all(any(word in text for word in ("cat", "kitty", "animal")) for text in first)


@pytest.mark.parametrize("relation", OVERLAPPING)
def test_a_clear_caption_of_two_tells_how_one_hides_the_other(relation: str) -> None:
    texts = [
        caption([CAT, CAR], relation, "beach", np.random.default_rng(seed), loose=False, clear=True)
        for seed in range(500)
    ]
    assert all(f" {relation} " in text for text in texts if text)


def test_a_clear_caption_of_two_apart_leaves_their_relation_out_in_thirty_percent() -> None:
    texts = [
        caption([CAT, CAR], "left of", "beach", np.random.default_rng(seed), loose=False, clear=True)
        for seed in range(3000)
    ]
    told = share([text for text in texts if text], lambda text: " left of " in text)
    assert told == pytest.approx(0.70, abs=0.03)


def test_a_clear_caption_of_one_ends_with_its_style_in_twenty_percent() -> None:
    told = Mention("cat", "animal", "noto", style_is_told=True)
    texts = [caption([told], None, "beach", np.random.default_rng(seed), clear=True) for seed in range(3000)]
    said = [text for text in texts if text]
    assert all(text.split().count("noto") == 1 for text in said)
    assert share(said, lambda text: text.endswith("in noto style")) == pytest.approx(0.20, abs=0.03)


def test_a_place_goes_without_article_in_thirty_percent_of_clear_captions() -> None:
    texts = [
        caption([CAT], None, "beach", np.random.default_rng(seed), loose=False, clear=True)
        for seed in range(3000)
    ]
    placed = [text for text in texts if "beach" in text and "background" not in text]
    bare = share(placed, lambda text: "a beach" not in text and "the beach" not in text)
    assert bare == pytest.approx(0.30, abs=0.03)


def test_a_synonym_replaces_the_noun_in_eight_percent_with_and_without_class_words() -> None:
    for with_class_words in (True, False):
        phrases = [
            phrase(CAT, np.random.default_rng(seed), with_class_words=with_class_words)
            for seed in range(4000)
        ]
        assert share(phrases, lambda text: "kitty" in text) == pytest.approx(0.08, abs=0.015)


def test_vowels_take_an() -> None:
    assert {article("apple", np.random.default_rng(seed)) for seed in range(60)} == {
        "apple",
        "the apple",
        "an apple",
    }


def test_the_vocabulary_covers_every_word_of_a_thousand_captions() -> None:
    known = set(vocabulary(["cat", "car"], ["animal", "vehicle"], ["beach"]))
    spoken = {word for text in captions(1000) for word in text.replace(",", " ").split()}
    assert spoken <= known


def test_every_family_has_a_style_word_of_its_own() -> None:
    assert len(set(STYLES.values())) == len(STYLES) == 7


def test_no_synonym_is_another_noun() -> None:
    from conceptloom.scenes.sprites import load_sprites

    everything = {sprite.noun for role in ("train", "dev", "test") for sprite in load_sprites(role)}
    assert everything.isdisjoint(SYNONYMS.values())
