"""The groups by which tables of masks and of images are split: by what is learned, and from what."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TrueConcept

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


def _has_styles(one: BenchmarkSet) -> bool:
    return len(one.subjects) > 1 and all(concept.family is not None for concept in one.subjects)


def _of_noun(noun: str) -> Member:
    return lambda _, concept: concept.kind == "subject" and concept.noun == noun


GROUPS: tuple[tuple[str, Member], ...] = (
    ("instances of known nouns", _of_split("instance")),
    ("novel nouns", _of_split("novel noun")),
    ("one picture", _subject(lambda one: one.num_pictures == 1)),
    ("two pictures", _subject(lambda one: one.num_pictures > 1)),
    ("a concept in both pictures", _subject(lambda one: one.shares_a_concept)),
    ("one subject learned", _entangled(1)),
    ("two subjects learned", _entangled(2)),
    ("three subjects learned", _entangled(3)),
    ("subjects of one style", _subject(lambda one: _has_styles(one) and not one.crosses_styles)),
    ("subjects of different styles", _subject(lambda one: _has_styles(one) and one.crosses_styles)),
    ("on a learned photograph", _learning("photo")),
    ("on a learned drawn scene", _learning("drawn")),
    ("on a learned pattern", _learning("pattern")),
    ("on a background not learned", _learning("none")),
    ("background: photograph", _place("photo")),
    ("background: drawn scene", _place("drawn")),
    ("background: pattern", _place("pattern")),
)
"""Those of every benchmark, each with its members: subjects alone, but for those of backgrounds."""


def groups_of(benchmark: Benchmark) -> tuple[tuple[str, Member], ...]:
    """`GROUPS`, and on `coco`, whose nouns are classes, one for each class."""
    if benchmark.name != "coco":
        return GROUPS
    nouns = sorted({concept.noun for one in benchmark.sets for concept in one.subjects})
    return (*GROUPS, *((f"class: {noun}", _of_noun(noun)) for noun in nouns))


def clusters(members: Iterable[tuple[str, TrueConcept]]) -> list[str]:
    """By what values of concepts are resampled, each given with its set: nouns; sets, where there is a single noun."""
    members = tuple(members)
    nouns = [concept.noun for _, concept in members]
    return nouns if len(set(nouns)) > 1 else [scene for scene, _ in members]
