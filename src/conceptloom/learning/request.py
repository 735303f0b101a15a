"""What a run is asked to learn: pictures, which concepts are in each, the user's prompts, the configuration."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from conceptloom.backbone import Backbone, dropped_tokens
from conceptloom.concepts import Concept, ConceptKind, ConceptSet, validate_concept_name
from conceptloom.errors import ConfigError, PictureError, PromptError
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.phrases import split_prompt, subset_prompt
from conceptloom.pictures import Picture, require_picture_name

_Value = TypeVar("_Value")


@dataclass(frozen=True, eq=False)
class LearningPicture:
    """One picture, the names of the concepts in it (in the order they were declared), the user's prompt or None."""

    picture: Picture
    concepts: tuple[str, ...]
    prompt: str | None = None


@dataclass(frozen=True, eq=False)
class LearnRequest:
    """Input of a run. `start` is the set to learn further from; of its concepts not named here rows and masks stay as
    they are.
    """

    pictures: tuple[LearningPicture, ...]
    concepts: tuple[Concept, ...]
    config: LearnConfig
    start: ConceptSet | None = None

    def concept(self, name: str) -> Concept:
        """The concept called `name`."""
        return next(concept for concept in self.concepts if concept.name == name)

    @property
    def left_alone(self) -> tuple[Concept, ...]:
        """Concepts of the starting set that are not learned further."""
        named = {concept.name for concept in self.concepts}
        known = () if self.start is None else self.start.concepts
        return tuple(concept for concept in known if concept.name not in named)

    @property
    def class_words(self) -> tuple[str | None, ...]:
        """Initializer words of all concepts whose images the weights make, those of the starting set included."""
        return tuple(concept.initializer for concept in (*self.concepts, *self.left_alone))

    def full_prompt(self, entry: LearningPicture) -> str:
        """Prompt that names every concept of a picture: the user's own, or the template."""
        own = None if entry.prompt is None else split_prompt(entry.prompt)
        return subset_prompt(own, [self.concept(name) for name in entry.concepts])

    @property
    def own_texts(self) -> tuple[str, ...]:
        """Words and prompts that the user gave."""
        words = [concept.initializer for concept in self.concepts]
        prompts = [entry.prompt for entry in self.pictures]
        return tuple(text for text in (*words, *prompts) if text is not None)

    def dropped_tokens(self, backbone: Backbone) -> dict[str, int]:
        """By prompt that the user gave, how many tokens at its end are not read; see `backbone.dropped_tokens`."""
        prompts = [entry.prompt for entry in self.pictures if entry.prompt is not None]
        return dropped_tokens(backbone, prompts, self.placeholders)

    @property
    def placeholders(self) -> dict[str, int]:
        """Rows per placeholder token, in the order of the rows."""
        return {concept.placeholder_token: concept.num_vectors for concept in self.concepts}

    @cached_property
    def _start_weights(self) -> str | None:
        """One SHA-256 of the weights that the starting set brings; None where it brings none."""
        if self.start is None or self.start.weights is None:
            return None
        weights = self.start.weights
        digest = hashlib.sha256(f"{weights.kind} {weights.rank} {weights.alpha}".encode())
        for name, tensor in sorted(weights.tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def description(self) -> dict[str, Any]:
        """Everything that decides the result, as plain data with pictures, embeddings and weights by their SHA-256."""
        start = None
        if self.start is not None:
            start = {name: _sha256(rows.numpy()) for name, rows in sorted(self.start.embeddings.items())}
        return {
            "start_weights": self._start_weights,
            "config": self.config.model_dump(mode="json"),
            "concepts": {
                concept.name: {
                    "kind": concept.kind,
                    "initializer": concept.initializer,
                    "num_vectors": concept.num_vectors,
                }
                for concept in self.concepts
            },
            "pictures": {
                entry.picture.name: {
                    "pixels": _sha256(entry.picture.pixels),
                    "concepts": list(entry.concepts),
                    "prompt": entry.prompt,
                    "masks": {
                        name: _sha256(mask)
                        for name, mask in entry.picture.masks.items()
                        if self.config.method == "gt"
                    },
                    "hints": {
                        name: [_sha256(hint.is_it), _sha256(hint.is_not)]
                        for name, hint in entry.picture.hints.items()
                    },
                }
                for entry in self.pictures
            },
            "start": start,
        }


def build_request(
    pictures: Sequence[Picture],
    concepts: Mapping[str, str | None],
    config: LearnConfig,
    *,
    contains: Mapping[str, Sequence[str]] | None = None,
    prompts: Mapping[str, str] | None = None,
    kinds: Mapping[str, ConceptKind] | None = None,
    backgrounds: Collection[str] = (),
    start: ConceptSet | None = None,
) -> LearnRequest:
    """Check what the user gave and complete it.

    Names are compared in Unicode's normal form (see `picture_key`, `concept_key`): some systems type and store
    "café" as five characters.

    Args:
        pictures: the pictures, masks attached where the user gave them.
        concepts: initializer word (or None) by concept name, in the order of declaration.
        config: the run's configuration.
        contains: names of the concepts in a picture, by picture name; a picture left out contains the concepts of
            its prompt, or all concepts when it has none.
        prompts: the user's own prompt by picture name.
        kinds: kind by concept name; left out, a word among `backgrounds` makes a background, any other a subject.
        backgrounds: words the base model knows as backgrounds.
        start: set to learn further from or to add concepts to.

    Raises:
        ConfigError, PictureError, PromptError: with what is wrong and how to mend it.
    """
    contains, prompts = by_picture(contains), by_picture(prompts)
    kinds = {concept_key(name): kind for name, kind in (kinds or {}).items()}
    concepts = {validate_concept_name(name): word for name, word in concepts.items()}
    pictures = [_with_comparable_names(picture) for picture in pictures]
    if not pictures:
        raise PictureError("no picture to learn from: give at least one")
    if not concepts:
        raise ConfigError("no concept to learn: name at least one, as --concept cat=cat")
    names = [picture.name for picture in pictures]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PictureError(
            f"two pictures are called '{twice}': rename one, names without extension must differ"
        )
    for name in names:
        require_picture_name(name, name)
    _known("picture", [*contains, *prompts], names)
    _known("concept", kinds, list(concepts))

    declared = tuple(
        _declare(name, word, kinds.get(name), backgrounds, config.num_vectors, start)
        for name, word in concepts.items()
    )
    entries = tuple(
        LearningPicture(
            picture, concepts_in(picture.name, list(concepts), contains, prompts), prompts.get(picture.name)
        )
        for picture in pictures
    )
    unplaced = [name for name in concepts if all(name not in entry.concepts for entry in entries)]
    if unplaced:
        raise ConfigError(
            f"concept '{unplaced[0]}' is in no picture: add it to one with --in PICTURE={unplaced[0]}"
        )
    for entry in entries:
        stray = next((name for name in entry.picture.hints if name not in entry.concepts), None)
        if stray is not None:
            raise PictureError(
                f"a hint is given for '{stray}' in '{entry.picture.name}', which is said not to contain it:"
                f" add it with --in {entry.picture.name}=... or leave the hint out"
            )
    if config.method == "gt":
        for entry in entries:
            for name in entry.concepts:
                if name not in entry.picture.masks:
                    raise PictureError(
                        f"method gt needs a mask of '{name}' in '{entry.picture.name}':"
                        f" give --mask {entry.picture.name}:{name}=FILE or choose another method"
                    )
    return LearnRequest(entries, declared, config, start)


def picture_key(name: str) -> str:
    """A picture's name in Unicode's NFC form, in which names of pictures are compared."""
    return unicodedata.normalize("NFC", name)


def concept_key(name: str) -> str:
    """A concept's name in Unicode's NFKC form, in which names of concepts are compared."""
    return unicodedata.normalize("NFKC", name)


def by_picture(given: Mapping[str, _Value] | None) -> dict[str, _Value]:
    """`given` with its pictures' names as `picture_key` has them."""
    return {picture_key(name): value for name, value in (given or {}).items()}


def concepts_in(
    picture: str,
    declared: Sequence[str],
    contains: Mapping[str, Sequence[str]],
    prompts: Mapping[str, str],
) -> tuple[str, ...]:
    """Names of the concepts in a picture, as declared: those it is said to contain, else its prompt's, else all.

    Args:
        picture: the picture's name, a key of `contains` and `prompts` where it is in them.
        declared: names of all concepts.
        contains: names of the concepts in a picture, by picture name.
        prompts: the user's own prompt by picture name.

    Raises `PromptError` for a concept that is not declared and where both disagree, `ConfigError` where none is left.
    """
    contained = [concept_key(name) for name in contains[picture]] if picture in contains else None
    mentioned = split_prompt(prompts[picture]).concepts if picture in prompts else None
    _known("concept", [*(contained or ()), *(mentioned or ())], declared)
    chosen = contained if contained is not None else mentioned if mentioned is not None else declared
    if not chosen:
        raise ConfigError(f"picture '{picture}' contains no concept: name at least one after --in {picture}=")
    if mentioned is not None and set(mentioned) != set(chosen):
        differing = sorted(set(mentioned) ^ set(chosen))[0]
        raise PromptError(
            f"the prompt of '{picture}' and --in disagree about <{differing}>: name the same concepts in both"
        )
    return tuple(name for name in declared if name in chosen)


def _declare(
    name: str,
    word: str | None,
    kind: ConceptKind | None,
    backgrounds: Collection[str],
    num_vectors: int,
    start: ConceptSet | None,
) -> Concept:
    if word is not None:
        word = " ".join(word.lower().split())
        if not word:
            raise PromptError(
                f"the initializer word of '{name}' is empty: write {name}=WORD or leave '=' out"
            )
        if set(word) & set("<>"):
            raise PromptError(
                f"the initializer word of '{name}' is '{word}': give a word the base model knows,"
                " without angle brackets"
            )
    known = None if start is None else {concept.name: concept for concept in start.concepts}.get(name)
    if known is not None:
        return Concept(name, kind or known.kind, word or known.initializer, known.num_vectors)
    if kind is None:
        kind = "background" if word is not None and word in backgrounds else "subject"
    return Concept(name, kind, word, num_vectors)


def _with_comparable_names(picture: Picture) -> Picture:
    masks = {concept_key(name): mask for name, mask in picture.masks.items()}
    hints = {concept_key(name): hint for name, hint in picture.hints.items()}
    return replace(picture, name=picture_key(picture.name), masks=masks, hints=hints)


def _known(noun: str, given: Collection[str], known: Sequence[str]) -> None:
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        error = PictureError if noun == "picture" else PromptError
        raise error(f"there is no {noun} '{unknown}': expected one of {', '.join(known)}")


def _sha256(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
