"""The user's own benchmark: a folder of folders, each a set of pictures with a ``set.json``.

    mine/garden/set.json
    mine/garden/porch.jpg, park.jpg
    mine/garden/masks/porch/lawn.png     masks/PICTURE/CONCEPT.png, optional: <lawn> in porch.jpg, white = concept

    {
      "concepts": {"cat": {"word": "cat"}, "bench": {}, "lawn": {"word": "grass", "kind": "background"}},
      "contains": {"porch": ["cat", "lawn"], "park": ["bench"]},
      "captions": {"porch": "a photo of <cat> asleep on <lawn>"},
      "prompts": [
        {"text": "a <cat> on a <bench>", "kind": "interaction", "relation": ["cat", "on", "bench"]},
        {"text": "a <cat> on the <lawn> in watercolor style", "kind": "style", "place": "lawn", "style": "watercolor"}
      ]
    }

A set may instead be a folder of Break-A-Scene's: ``img.jpg`` with ``mask0.png``, ``mask1.png``, ... of its subjects in
the order of "concepts". A background without a mask of its own is what the other concepts' masks leave of a picture,
where they all have one.

The whole folder may instead be a benchmark in COCO format (`coco_format`), as every evaluation on drawings or COCO
leaves one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conceptloom.concepts import ConceptKind, validate_concept_name
from conceptloom.errors import DataError
from conceptloom.evaluation.benchmark import (
    Benchmark,
    BenchmarkSet,
    PlaceType,
    PromptKind,
    Relation,
    TestPrompt,
    TrueConcept,
    named_in,
)
from conceptloom.evaluation.builtin_sets import PLACES
from conceptloom.evaluation.coco_format import ANNOTATIONS, load_benchmark, refuse_entry
from conceptloom.evaluation.prompt_templates import at_place
from conceptloom.learning.phrases import split_prompt
from conceptloom.learning.request import concept_key, picture_key
from conceptloom.pictures import Picture, load_break_a_scene, load_mask, load_picture

NAME = "folder"
SPLIT = "own"
DESCRIPTION = "set.json"
MASKS = "masks"
BREAK_A_SCENE = ("img.jpg", "mask0.png")
"""Files by which that layout is known."""
MAX_JSON_BYTES = 2**20
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _ConceptEntry(_Entry):
    word: Annotated[str, Field(min_length=1)] | None = None
    """Initializer word."""
    kind: ConceptKind = "subject"
    noun: str | None = None
    """What it is, where that is not the word (or, without one, the name)."""
    class_word: str | None = None


class _PromptEntry(_Entry):
    text: str
    kind: PromptKind = "context"
    place: str | None = None
    relation: Relation | None = None
    known: tuple[str, ...] = ()
    style: str | None = None


class _SetEntry(_Entry):
    concepts: Annotated[dict[str, _ConceptEntry], Field(min_length=1)]
    contains: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = {}
    captions: dict[str, str] = {}
    prompts: Annotated[tuple[_PromptEntry, ...], Field(min_length=1)]
    place_type: PlaceType | None = None
    """None: a photograph where a background is among the concepts."""


def folder_benchmark(folder: str | Path) -> Benchmark:
    """Read the user's sets, in the order of their folders' names; their concepts are instances.

    A picture contains what "contains" says, else what its caption names, else all concepts. Of pictures with nothing in
    common the background's subject is drawn in it, to be looked at (`BenchmarkSet.shown`). A folder in COCO format is
    read as `load_benchmark` does.

    Raises:
        ConfigError: pycocotools, which COCO format takes, is absent.
        DataError: no set, a ``set.json`` that cannot be used, pictures and names that do not fit, a set without
            prompts.
        PictureError: a picture or mask cannot be used.
        PromptError: a concept's name, a caption or a prompt cannot be used.
    """
    folder = Path(folder)
    if (folder / ANNOTATIONS).is_file():
        sets = load_benchmark(folder).sets
        if silent := next((one.name for one in sets if not one.prompts), None):
            raise DataError(f"set '{silent}' in {folder / ANNOTATIONS} has no prompts: give one or more")
        return Benchmark(NAME, SPLIT, sets)
    try:
        entries = sorted(path for path in folder.iterdir() if (path / DESCRIPTION).is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({error.strerror}): give a folder of sets") from None
    if not entries:
        raise DataError(f"{folder} holds no set: put each in a folder of its own with a {DESCRIPTION}")
    return Benchmark(NAME, SPLIT, tuple(read_set(path) for path in entries))


def read_set(folder: Path) -> BenchmarkSet:
    """One set of a folder benchmark; raises as `folder_benchmark`."""
    told = _read_description(folder / DESCRIPTION)
    concepts = tuple(_concept(name, entry) for name, entry in told.concepts.items())
    names = [concept.name for concept in concepts]
    captions = {picture_key(picture): text for picture, text in told.captions.items()}
    said = {
        picture_key(picture): [concept_key(name) for name in contained]
        for picture, contained in told.contains.items()
    }
    if all((folder / name).is_file() for name in BREAK_A_SCENE):
        subjects = [concept.name for concept in concepts if concept.kind != "background"]
        pictures: Sequence[Picture] = [load_break_a_scene(folder, subjects)]
    else:
        pictures = _load_pictures(folder)
    known = [picture.name for picture in pictures]
    for picture_name in (*said, *captions):
        if picture_name not in known:
            raise DataError(
                f"{folder / DESCRIPTION} names the picture '{picture_name}', but there are {', '.join(known)}:"
                " write names without extension"
            )
    contains = {name: _contained(name, names, said, captions, folder / DESCRIPTION) for name in known}
    backgrounds = [concept.name for concept in concepts if concept.kind == "background"]
    one = BenchmarkSet(
        name=folder.absolute().name,
        pictures=tuple(
            _with_background(_with_masks(picture, folder, contains[picture.name]), contains, backgrounds)
            for picture in pictures
        ),
        concepts=concepts,
        contains=contains,
        prompts=tuple(_prompt(entry) for entry in told.prompts),
        place_type=told.place_type or ("photo" if backgrounds else "none"),
        captions=captions,
    )
    return replace(one, shown=_at_home(one))


def _at_home(one: BenchmarkSet) -> tuple[TestPrompt, ...]:
    """The first subject that is in the place's picture, there, for sets of two pictures with nothing in common: a
    column of the paper's Fig. 1.
    """
    if one.place is None or one.num_pictures < 2 or one.shares_a_concept:
        return ()
    (home,) = one.pictures_with(one.place.name)
    natives = [subject for subject in one.subjects if subject.name in one.contains[home.name]]
    return tuple(at_place(subject, one.place, PLACES) for subject in natives[:1])


def _contained(
    picture: str,
    names: Sequence[str],
    said: Mapping[str, list[str]],
    captions: Mapping[str, str],
    where: Path,
) -> tuple[str, ...]:
    """Names of the concepts in a picture, in the order of the set's."""
    mentioned = list(split_prompt(captions[picture]).concepts) if picture in captions else None
    contained = said.get(picture, names if mentioned is None else mentioned)
    if stray := [name for name in (*contained, *(mentioned or ())) if name not in names]:
        raise DataError(
            f"{where} says that '{picture}' contains '{stray[0]}', but its concepts are {', '.join(names)}"
        )
    if mentioned is not None and set(mentioned) != set(contained):
        differing = sorted(set(mentioned) ^ set(contained))[0]
        raise DataError(
            f"{where}: 'contains' and the caption of '{picture}' disagree about <{differing}>:"
            " name the same concepts in both"
        )
    return tuple(name for name in names if name in contained)


def _read_description(path: Path) -> _SetEntry:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise DataError(f"{path} is larger than {MAX_JSON_BYTES >> 20} MiB: give a set's description")
        value: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give a set's description") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no valid JSON ({' '.join(str(error).split())}): mend it") from None
    try:
        return _SetEntry.model_validate(value)
    except ValidationError as error:
        refuse_entry(error, str(path))


def _concept(name: str, entry: _ConceptEntry) -> TrueConcept:
    noun = entry.noun or entry.word or name
    return TrueConcept(
        name=validate_concept_name(name),
        word=entry.word,
        kind=entry.kind,
        noun=noun,
        family=None,
        split="place" if entry.kind == "background" else "instance",
        class_word=entry.class_word or noun,
    )


def _prompt(entry: _PromptEntry) -> TestPrompt:
    return TestPrompt(asked=named_in(entry.text), **entry.model_dump())


def _load_pictures(folder: Path) -> list[Picture]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no picture: put PNG, JPEG or WebP files beside {DESCRIPTION}")
    return [load_picture(path) for path in files]


def _with_masks(picture: Picture, folder: Path, contained: Sequence[str]) -> Picture:
    """The picture with the masks that its folder of masks holds."""
    masks = dict(picture.masks)
    place = folder / MASKS / picture.name
    for path in sorted(place.glob("*.png")):
        name = concept_key(path.stem)
        if name not in contained:
            raise DataError(
                f"{path} is no mask of a concept in '{picture.name}', which contains {', '.join(contained)}: rename it"
            )
        masks[name] = load_mask(path, picture.size)
    return replace(picture, masks=masks)


def _with_background(
    picture: Picture, contains: dict[str, tuple[str, ...]], backgrounds: Sequence[str]
) -> Picture:
    """The picture with the complement of its masks as the one background that has none of its own."""
    unmasked = [name for name in contains[picture.name] if name not in picture.masks]
    if len(unmasked) != 1 or unmasked[0] not in backgrounds or not picture.masks:
        return picture
    rest = ~np.any(list(picture.masks.values()), axis=0)
    return replace(picture, masks={**picture.masks, unmasked[0]: rest})
