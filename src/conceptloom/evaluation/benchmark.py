"""What is measured: sets of concepts in pictures with true masks, and the prompts their learned tokens must answer.

A benchmark is data and nothing else: where it came from (composed drawings, a COCO folder, the user's own pictures)
shows only in what the tables split by.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal, get_args

import numpy as np

from conceptloom.backbone import PLACEHOLDER, refuse_stray_brackets
from conceptloom.concepts import Concept, ConceptKind
from conceptloom.concepts.storage import is_plain_name
from conceptloom.errors import DataError
from conceptloom.pictures import Picture

ConceptSplit = Literal["instance", "novel noun", "place"]
PromptKind = Literal["context", "interaction", "known", "transfer", "style"]
PROMPT_KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
PlaceType = Literal["photo", "drawn", "pattern", "none"]
MAX_NAME_BYTES = 200
"""Of a set or picture: room for more in the names of files made from it."""
Relation = tuple[str, str, str]
"""(subject, relation, object); subject and object are names of learned concepts or nouns the base model knows."""


@dataclass(frozen=True)
class TrueConcept:
    """A concept of a benchmark and what is true of it.

    Attributes:
        name: its name in prompts; see `validate_concept_name`.
        word: initializer word, or None.
        kind: subject, background or pattern.
        noun: what it is, whether or not the base model was taught the word; tables are resampled by it.
        family: drawing style it belongs to, or None.
        split: "instance" (a new example of a noun the base model knows), "novel noun", or "place".
        class_word: rough class of the noun ("animal").

    Raises:
        PromptError: the name or kind cannot be used.
    """

    name: str
    word: str | None
    kind: ConceptKind
    noun: str
    family: str | None
    split: ConceptSplit
    class_word: str

    def __post_init__(self) -> None:
        Concept(self.name, self.kind, self.word)


@dataclass(frozen=True)
class TestPrompt:
    """A prompt for new pictures of learned concepts, with what a picture must show to answer it.

    Attributes:
        text: free text with placeholders, as "a <cat> riding a horse on the <shore>".
        kind: "context" (a place the base model knows), "interaction" (of learned concepts with each other), "known"
            (with a thing the base model knows), "transfer" (something on a learned place that was not there), or
            "style".
        asked: names of the learned concepts in the text, places too, in the text's order.
        place: where it is: the name of an asked concept, else a word the base model knows; None where not said.
        relation: what must hold between two of the things named, or None.
        known: nouns in the text that the base model knows.
        style: word for the asked style, or None.

    Raises:
        DataError: text and the other attributes disagree.
    """

    __test__: ClassVar[bool] = False  # no test case, whatever pytest makes of the name

    text: str
    kind: PromptKind
    asked: tuple[str, ...]
    place: str | None = None
    relation: Relation | None = None
    known: tuple[str, ...] = ()
    style: str | None = None

    def __post_init__(self) -> None:
        refuse_stray_brackets(self.text, "<name>")
        named = named_in(self.text)
        if named != self.asked:
            raise DataError(
                f"the test prompt '{self.text}' names {_listed(named)}, but asks for {_listed(self.asked)}:"
                " list each placeholder once, in the text's order"
            )
        spoken = self.class_words_text({})
        told = [*self.known, *(word for word in (self.place, self.style) if word is not None)]
        told += self.relation or ()
        for word in told:
            if word not in self.asked and word not in spoken:
                raise DataError(
                    f"the test prompt '{self.text}' does not say '{word}': use only words of its text"
                )

    @property
    def asked_place(self) -> str | None:
        """Name of the learned concept that is the place, None where the place is a known word or not said."""
        return self.place if self.place in self.asked else None

    def class_words_text(self, words: Mapping[str, str]) -> str:
        """The text with words in the placeholders' places, as "a cat riding a horse"; others stay as they are."""
        return PLACEHOLDER.sub(lambda match: words.get(_normal(match[1]), match[0]), self.text)


@dataclass(frozen=True, eq=False)
class BenchmarkSet:
    """Concepts that are learned together from one picture or more, and the prompts for them.

    Attributes:
        name: unique in the benchmark; a plain file name.
        pictures: with true masks by concept name; where a mask is absent nothing is measured against it.
        concepts: in the order of their placeholders.
        contains: names of the concepts in a picture, by picture name.
        prompts: test prompts, so ordered that the first of them cover the kinds.
        place_type: what the learned place is: a photograph, a drawn scene, a pattern; "none" where none is learned.
        captions: the user's own prompt of a picture by its name; pictures left out have none.
        shown: further prompts, for figures alone: nothing is measured on them.

    Raises:
        DataError: the parts do not fit each other.
    """

    name: str
    pictures: tuple[Picture, ...]
    concepts: tuple[TrueConcept, ...]
    contains: Mapping[str, tuple[str, ...]]
    prompts: tuple[TestPrompt, ...]
    place_type: PlaceType
    captions: Mapping[str, str] = field(default_factory=dict)
    shown: tuple[TestPrompt, ...] = ()

    def __post_init__(self) -> None:
        names = [concept.name for concept in self.concepts]
        pictures = [picture.name for picture in self.pictures]
        _require_plain("set", [self.name], self.name)
        _require_plain("picture", pictures, self.name)
        _require_distinct("concept", names, self.name)
        _require_distinct("picture", pictures, self.name)
        if sorted(self.contains) != sorted(pictures):
            raise DataError(
                f"set '{self.name}' says what {_listed(self.contains)} contain, but its pictures are"
                f" {_listed(pictures)}: say it of each picture"
            )
        if stray := set(self.captions) - set(pictures):
            raise DataError(f"set '{self.name}' has a caption of no picture: {_listed(sorted(stray))}")
        for picture in self.pictures:
            self._require_fitting(picture, names)
        if absent := [name for name in names if name not in set().union(*self.contains.values())]:
            raise DataError(f"concept '{absent[0]}' of set '{self.name}' is in none of its pictures: add it")
        for prompt in (*self.prompts, *self.shown):
            if stray := set(prompt.asked) - set(names):
                raise DataError(
                    f"a prompt of set '{self.name}' names {_listed(sorted(stray))}, which it does not learn:"
                    f" it knows {_listed(names)}"
                )

    def _require_fitting(self, picture: Picture, names: list[str]) -> None:
        contained = self.contains[picture.name]
        _require_distinct("concept", list(contained), self.name)
        if stray := set(contained) - set(names):
            raise DataError(
                f"picture '{picture.name}' of set '{self.name}' contains {_listed(sorted(stray))},"
                f" but the set's concepts are {_listed(names)}"
            )
        if stray := set(picture.masks) - set(contained):
            raise DataError(
                f"picture '{picture.name}' of set '{self.name}' has a mask of {_listed(sorted(stray))},"
                " which it does not contain"
            )

    def concept(self, name: str) -> TrueConcept:
        """The concept called `name`."""
        return next(concept for concept in self.concepts if concept.name == name)

    def prompt(self, number: int) -> TestPrompt:
        """The prompt of a number: `prompts` first, then `shown`."""
        return (*self.prompts, *self.shown)[number]

    @property
    def words(self) -> dict[str, str | None]:
        """Initializer words by concept name, as `learning.build_request` takes them."""
        return {concept.name: concept.word for concept in self.concepts}

    @property
    def kinds(self) -> dict[str, ConceptKind]:
        """Kinds by concept name, as `learning.build_request` takes them."""
        return {concept.name: concept.kind for concept in self.concepts}

    @property
    def class_words(self) -> dict[str, str]:
        """The best word the base model has for each concept: its initializer word, else its class word."""
        return {concept.name: concept.word or concept.class_word for concept in self.concepts}

    @property
    def subjects(self) -> tuple[TrueConcept, ...]:
        """Its concepts but for the places."""
        return tuple(concept for concept in self.concepts if concept.split != "place")

    @property
    def place(self) -> TrueConcept | None:
        """The learned place (the first, where there are several), or None."""
        return next((concept for concept in self.concepts if concept.split == "place"), None)

    @property
    def num_pictures(self) -> int:
        """How many pictures it is learned from."""
        return len(self.pictures)

    @property
    def shares_a_concept(self) -> bool:
        """Whether a concept is in more than one picture."""
        return any(len(self.pictures_with(concept.name)) > 1 for concept in self.concepts)

    @property
    def crosses_styles(self) -> bool:
        """Whether two subjects belong to different drawing styles."""
        return len({concept.family for concept in self.subjects}) > 1

    @property
    def nouns(self) -> tuple[str, ...]:
        """Its concepts' nouns, each once, sorted: what the set has in common with other sets."""
        return tuple(sorted({concept.noun for concept in self.concepts}))

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of what runs learn from and are measured by, by "pictures", "masks" and "words" (all else)."""
        words = {
            "concepts": [asdict(concept) for concept in self.concepts],
            "contains": {name: list(contained) for name, contained in self.contains.items()},
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "shown": [asdict(prompt) for prompt in self.shown],
            "captions": dict(self.captions),
            "place_type": self.place_type,
        }
        pictures, masks = hashlib.sha256(), hashlib.sha256()
        for picture in self.pictures:
            pictures.update(f"{picture.name} {picture.size}".encode())
            pictures.update(np.ascontiguousarray(picture.pixels).tobytes())
            for name, mask in sorted(picture.masks.items()):
                masks.update(f"{picture.name} {name} {mask.shape}".encode())
                masks.update(np.ascontiguousarray(mask).tobytes())
        return {
            "pictures": pictures.hexdigest(),
            "masks": masks.hexdigest(),
            "words": hashlib.sha256(json.dumps(words).encode()).hexdigest(),
        }

    def pictures_with(self, name: str) -> tuple[Picture, ...]:
        """The pictures that contain the concept."""
        return tuple(picture for picture in self.pictures if name in self.contains[picture.name])


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Sets measured alike.

    Attributes:
        name: "builtin", "coco", "folder" or what a stored one was called.
        split: which part of the source the sets are from: "dev", "test", "val2017", "own".
        sets: with different names.

    Raises:
        DataError: no set, or two of one name.
    """

    name: str
    split: str
    sets: tuple[BenchmarkSet, ...]

    def __post_init__(self) -> None:
        if not self.sets:
            raise DataError(f"benchmark '{self.name}' holds no set: give at least one")
        _require_distinct("set", [one.name for one in self.sets], self.name)

    @property
    def concepts(self) -> tuple[tuple[BenchmarkSet, TrueConcept], ...]:
        """Every concept with its set, in order."""
        return tuple((one, concept) for one in self.sets for concept in one.concepts)

    def by_noun(self) -> dict[str, tuple[tuple[str, str], ...]]:
        """(set, concept) names by noun: the clusters in which concepts are resampled, as one noun comes in several
        drawings.
        """
        clusters: dict[str, tuple[tuple[str, str], ...]] = {}
        for one, concept in self.concepts:
            clusters[concept.noun] = (*clusters.get(concept.noun, ()), (one.name, concept.name))
        return clusters


def named_in(text: str) -> tuple[str, ...]:
    """Names of the placeholders in `text`, each once, in order of first mention."""
    return tuple(dict.fromkeys(_normal(name) for name in PLACEHOLDER.findall(text)))


def _normal(name: str) -> str:
    return unicodedata.normalize("NFKC", name).lower()


def _require_plain(what: str, names: list[str], where: str) -> None:
    for name in names:
        if not is_plain_name(name) or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
            raise DataError(f"{what} name {name[:64]!r} in '{where[:64]}' cannot be a file name: rename it")


def _require_distinct(what: str, names: list[str], where: str) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"two {what}s of '{where}' are called '{twice}': rename one")


def _listed(names: Mapping[str, object] | tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"
