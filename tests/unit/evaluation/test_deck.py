"""Draws in which everything comes once before anything comes again."""

from __future__ import annotations

from collections import Counter

import pytest

from conceptloom.evaluation.deck import Deck
from conceptloom.seeding import numpy_generator


def deck(cards: int = 10, seed: int = 0) -> Deck[int]:
    return Deck(range(cards), numpy_generator(seed, "deck"))


def test_every_card_comes_once_before_any_comes_again() -> None:
    cards = deck()
    for _ in range(5):
        assert sorted(cards.draw() for _ in range(10)) == list(range(10))


def test_another_seed_gives_another_order() -> None:
    orders = {tuple(cards.draw() for _ in range(10)) for cards in (deck(seed=seed) for seed in range(5))}
    assert len(orders) == 5


def test_a_card_passed_over_is_the_first_to_come_when_it_fits() -> None:
    reference, cards = deck(), deck()
    first, second = reference.draw(), reference.draw()
    assert cards.draw(fits=lambda card: card != first) == second
    assert cards.draw() == first


def test_a_wish_gives_way_when_no_card_left_meets_it() -> None:
    cards = deck(3)
    drawn = [cards.draw(wish=lambda card: card == 1) for _ in range(3)]
    assert drawn[0] == 1
    assert Counter(drawn) == Counter(range(3))


def test_a_card_that_must_fit_is_fetched_from_the_next_shuffle() -> None:
    cards = deck(3)
    assert [cards.draw(fits=lambda card: card == 1) for _ in range(3)] == [1, 1, 1]


def test_what_no_card_fits_is_an_error() -> None:
    with pytest.raises(ValueError, match="none of 10 cards fits"):
        deck().draw(fits=lambda card: card > 10)


def test_what_is_left_of_an_older_shuffle_comes_before_a_newer_one_whatever_is_wished() -> None:
    cards = deck(4)
    first = [cards.draw() for _ in range(3)]
    (last,) = set(range(4)) - set(first)
    newer = cards.draw(fits=lambda card: card != last)
    assert cards.draw(wish=lambda card: card not in (last, newer)) == last
