"""The groups by which tables of masks and of images are split: by what is learned, and from what."""

from __future__ import annotations

from collections.abc import Callable

from conceptloom.evaluation.benchmark import BenchmarkSet, TrueConcept

Member = Callable[[BenchmarkSet, TrueConcept], bool]
"""Whether a concept of a set belongs to a group."""


def _subject(test: Callable[[BenchmarkSet], bool]) -> Member:
    return lambda one, concept: concept.kind == "subject" and test(one)


def _of_split(split: str) -> Member:
    return lambda _, concept: concept.split == split


def _learning(place_type: str) -> Member:
    return _subject(lambda one: one.place_type == place_type)


def _place(place_type: str) -> Member:
    return lambda one, concept: concept.kind != "subject" and one.place_type == place_type


def _entangled(count: int) -> Member:
    return _subject(lambda one: len(one.subjects) == count)


GROUPS: tuple[tuple[str, Member], ...] = (
    ("instances of known nouns", _of_split("instance")),
    ("novel nouns", _of_split("novel noun")),
    ("one picture", _subject(lambda one: one.num_pictures == 1)),
    ("two pictures", _subject(lambda one: one.num_pictures > 1)),
    ("a concept in both pictures", _subject(lambda one: one.shares_a_concept)),
    ("one subject learned", _entangled(1)),
    ("two subjects learned", _entangled(2)),
    ("three subjects learned", _entangled(3)),
    ("subjects of one style", _subject(lambda one: len(one.subjects) > 1 and not one.crosses_styles)),
    ("subjects of different styles", _subject(lambda one: one.crosses_styles)),
    ("on a learned photograph", _learning("photo")),
    ("on a learned drawn scene", _learning("drawn")),
    ("on a learned pattern", _learning("pattern")),
    ("on a background not learned", _learning("none")),
    ("background: photograph", _place("photo")),
    ("background: drawn scene", _place("drawn")),
    ("background: pattern", _place("pattern")),
)
"""Each with its members: subjects alone, but for those of backgrounds."""
