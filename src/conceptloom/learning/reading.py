"""From the user's files to pictures with their masks and hints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from conceptloom.errors import PictureError
from conceptloom.learning.request import by_picture, concept_key, concepts_in, picture_key
from conceptloom.pictures import (
    Hint,
    Picture,
    box_hint,
    combined,
    load_break_a_scene,
    load_mask,
    load_mask_hint,
    load_picture,
    load_strokes,
)

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels."""


def read_pictures(
    pictures: Sequence[str | Path | Picture],
    concepts: Mapping[str, str | None],
    *,
    contains: Mapping[str, Sequence[str]] | None = None,
    prompts: Mapping[str, str] | None = None,
    masks: Mapping[tuple[str, str], str | Path] | None = None,
    boxes: Mapping[tuple[str, str], Box] | None = None,
    strokes: Mapping[tuple[str, str], str | Path] | None = None,
    masks_are_hints: bool = True,
) -> list[Picture]:
    """The pictures with what is said of them attached; arguments as for `learn`.

    Mask files become hints, or, for method gt, masks.

    Raises:
        ConceptloomError: a file that can't be used, or something said of no picture or concept.
    """
    names = [concept_key(name) for name in concepts]
    own_masks = {} if masks_are_hints else masks or {}
    loaded = _loaded(pictures, names, by_picture(contains), by_picture(prompts), own_masks)
    readers: list[tuple[str, tuple[str, str], Callable[[tuple[int, int]], Hint]]] = [
        *(
            ("mask", place, partial(load_mask_hint, path))
            for place, path in (masks or {}).items()
            if masks_are_hints
        ),
        *(("box", place, partial(box_hint, box)) for place, box in (boxes or {}).items()),
        *(("stroke", place, partial(load_strokes, path)) for place, path in (strokes or {}).items()),
    ]
    for what, (name, concept), read in readers:
        _add_hint(loaded, what, picture_key(name), concept_key(concept), read, names)
    return loaded


def _loaded(
    pictures: Sequence[str | Path | Picture],
    concepts: Sequence[str],
    contains: Mapping[str, Sequence[str]],
    prompts: Mapping[str, str],
    masks: Mapping[tuple[str, str], str | Path],
) -> list[Picture]:
    loaded = []
    for given in pictures:
        if isinstance(given, Picture):
            loaded.append(given)
        elif Path(given).is_dir():
            own_name = picture_key(Path(given).absolute().stem)
            masked = concepts_in(own_name, concepts, contains, prompts)
            loaded.append(load_break_a_scene(Path(given), masked))
        else:
            loaded.append(load_picture(Path(given)))
    for key, path in masks.items():
        name, concept = picture_key(key[0]), concept_key(key[1])
        index = _place(loaded, "mask", name, concept, concepts)
        given_masks = {**loaded[index].masks, concept: load_mask(Path(path), loaded[index].size)}
        loaded[index] = replace(loaded[index], masks=given_masks)
    return loaded


def _add_hint(
    pictures: list[Picture],
    what: str,
    name: str,
    concept: str,
    read: Callable[[tuple[int, int]], Hint],
    concepts: Sequence[str],
) -> None:
    """Put a hint for a concept into its picture, beside those it has."""
    index = _place(pictures, what, name, concept, [concept_key(name) for name in concepts])
    picture = pictures[index]
    try:
        hint = read(picture.size)
        if concept in picture.hints:
            hint = combined(picture.hints[concept], hint)
    except PictureError as error:
        raise PictureError(f"'{concept}' in '{name}': {error}") from None
    pictures[index] = replace(picture, hints={**picture.hints, concept: hint})


def _place(pictures: Sequence[Picture], what: str, name: str, concept: str, concepts: Sequence[str]) -> int:
    """Index of the picture called `name`; refuses what is given for no picture or concept of the run."""
    names = [picture_key(picture.name) for picture in pictures]
    if name not in names or concept not in concepts:
        raise PictureError(
            f"a {what} is given for '{concept}' in '{name}': expected one of the pictures"
            f" {', '.join(names)} and one of the concepts {', '.join(concepts)}"
        )
    return names.index(name)
