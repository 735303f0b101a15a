"""From the user's files to pictures with their masks and hints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

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

MAX_TOTAL_PIXELS = 2**30
"""Of all pictures of a run together, which stay in memory while it learns: 3 GB."""


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
    return _with_doubts(loaded)


def load_pictures(
    given: Iterable[str | Path | Picture], read: Callable[[Path], Picture] = load_picture
) -> list[Picture]:
    """The pictures, files read by `read`.

    Raises:
        PictureError: a file can't be used, or they have more than `MAX_TOTAL_PIXELS` together.
    """
    loaded: list[Picture] = []
    pixels = 0
    for one in given:
        picture = one if isinstance(one, Picture) else read(Path(one))
        height, width = picture.size
        pixels += height * width
        if pixels > MAX_TOTAL_PIXELS:
            raise PictureError(
                f"{len(loaded) + 1} pictures, up to '{picture.name}', have {pixels >> 20} megapixels together:"
                f" at most {MAX_TOTAL_PIXELS >> 20} are kept in memory, save them smaller or give fewer"
            )
        loaded.append(picture)
    return loaded


def _loaded(
    pictures: Sequence[str | Path | Picture],
    concepts: Sequence[str],
    contains: Mapping[str, Sequence[str]],
    prompts: Mapping[str, str],
    masks: Mapping[tuple[str, str], str | Path],
) -> list[Picture]:
    def read(path: Path) -> Picture:
        if not path.is_dir():
            return load_picture(path)
        own_name = picture_key(path.absolute().stem)
        return load_break_a_scene(path, concepts_in(own_name, concepts, contains, prompts))

    loaded = load_pictures(pictures, read)
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


def _with_doubts(pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures with a note on what can be meant, but rarely is: the same picture twice, a mask inside out."""
    first: dict[bytes, str] = {}
    noted = []
    for picture in pictures:
        notes = []
        twin = first.setdefault(_fingerprint(picture.pixels), picture.name)
        if twin != picture.name:
            notes.append(f"has the same pixels as '{twin}', which so counts twice")
        shown = {**picture.masks} | {concept: hint.is_it for concept, hint in picture.hints.items()}
        notes += [
            f"has a mask of '{concept}' that is white along all four edges: right for a background, inverted for"
            " anything else"
            for concept, mask in shown.items()
            if mask[[0, -1]].all() and mask[:, [0, -1]].all()
        ]
        noted.append(replace(picture, notes=(*picture.notes, *notes)))
    return noted


def _fingerprint(pixels: npt.NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
