"""Random draws in which everything comes once before anything comes again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

Card = TypeVar("Card")


def _anything(card: object) -> bool:
    return True


class Deck(Generic[Card]):
    """Cards in random order, shuffled anew when those left do not do.

    A card that was passed over comes before any of a later shuffle, as soon as it fits.
    """

    def __init__(self, cards: Sequence[Card], rng: np.random.Generator) -> None:
        self._cards, self._rng = tuple(cards), rng
        self._piles: list[list[Card]] = []

    def draw(
        self, fits: Callable[[Card], bool] = _anything, wish: Callable[[Card], bool] = _anything
    ) -> Card:
        """A card that fits from the oldest shuffle that has one, and of its those that meet the wish first.

        Raises ``ValueError`` when no card of the whole deck fits.
        """
        for pile in self._piles:
            fitting = [index for index, card in enumerate(pile) if fits(card)]
            if fitting:
                return pile.pop(next((index for index in fitting if wish(pile[index])), fitting[0]))
        if not any(fits(card) for card in self._cards):
            raise ValueError(f"none of {len(self._cards)} cards fits")
        self._piles = [pile for pile in self._piles if pile]
        self._piles.append([self._cards[index] for index in self._rng.permutation(len(self._cards))])
        return self.draw(fits, wish)
