"""Masks alone: where concepts are in a picture, without learning anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from conceptloom.backbone import Backbone, applied_weights, family_of, load_backbone, telling_of_memory
from conceptloom.concepts import ConceptKind, ConceptSet
from conceptloom.errors import ConfigError
from conceptloom.learning.batches import Material
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.e_step import halves_of_initial_maps, masks_from, mean_of, same_things
from conceptloom.learning.initialise import starting_rows
from conceptloom.learning.presets import resolve_config
from conceptloom.learning.reading import Box, read_pictures
from conceptloom.learning.request import LearnRequest, build_request
from conceptloom.learning.trainer import prepare_material
from conceptloom.masks import iou
from conceptloom.pictures import Picture, unframe_mask


@dataclass(frozen=True, eq=False)
class Segment:
    """Where one concept is in one picture."""

    picture: str
    """Name of the picture: a file's stem."""
    concept: str
    mask: npt.NDArray[np.bool_]
    """(H, W) at the picture's size; nothing outside its centred square."""
    confidence: float
    """0..1: how alike the masks of two halves of the passes are (IoU), times the CRF's mean probability in the mask."""
    coincides_with: tuple[str, ...] = ()
    """Names of subjects of the picture whose words point at the same thing: one of the masks is likely wrong."""


@dataclass(frozen=True, eq=False)
class SegmentJob:
    """A checked request and the base model it runs on."""

    request: LearnRequest
    backbone: Backbone

    def segments(self) -> list[Segment]:
        """A segment for each concept in each picture, picture by picture."""
        request, backbone, start = self.request, self.backbone, self.request.start
        with (
            telling_of_memory(backbone.device, "finding masks", "free some or choose another device"),
            applied_weights(backbone, None if start is None else start.weights),
        ):
            material = prepare_material(request, backbone)
            rows = starting_rows(backbone, request.concepts, request.config, start)
            found: list[Segment] = []
            for index in range(len(material.examples)):
                found += _segments(material, rows, index, request.config)
        return found


def segment(
    pictures: Sequence[str | Path | Picture],
    concepts: Mapping[str, str | None] | None = None,
    *,
    concept_set: ConceptSet | str | Path | None = None,
    contains: Mapping[str, Sequence[str]] | None = None,
    prompts: Mapping[str, str] | None = None,
    masks: Mapping[tuple[str, str], str | Path] | None = None,
    boxes: Mapping[tuple[str, str], Box] | None = None,
    strokes: Mapping[tuple[str, str], str | Path] | None = None,
    kinds: Mapping[str, ConceptKind] | None = None,
    base_model: str | Path | Backbone = "builtin",
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> list[Segment]:
    """Find where concepts are in pictures, by the first masks of method `refined`: some seconds a picture.

    >>> segment(["cat-and-dog.jpg"], {"cat": "cat", "dog": "dog"})  # doctest: +SKIP

    Args:
        pictures, contains, prompts, kinds, base_model, seed, config, device, dtype: as for `learn`.
        concepts: word by concept name, as for `learn`; left out, all concepts of `concept_set`.
        concept_set: learned before; its words point better than plain ones, and names of its own are known.
        masks, boxes, strokes: hints as for `learn`, held while the rest is found.

    Returns:
        A segment for each concept in each picture, picture by picture.

    Raises:
        ConceptloomError: something given can't be used; the message says what, and what to do.
    """
    return prepare_segments(
        pictures,
        concepts,
        concept_set=concept_set,
        contains=contains,
        prompts=prompts,
        masks=masks,
        boxes=boxes,
        strokes=strokes,
        kinds=kinds,
        base_model=base_model,
        seed=seed,
        config=config,
        device=device,
        dtype=dtype,
    ).segments()


def prepare_segments(
    pictures: Sequence[str | Path | Picture],
    concepts: Mapping[str, str | None] | None = None,
    *,
    concept_set: ConceptSet | str | Path | None = None,
    contains: Mapping[str, Sequence[str]] | None = None,
    prompts: Mapping[str, str] | None = None,
    masks: Mapping[tuple[str, str], str | Path] | None = None,
    boxes: Mapping[tuple[str, str], Box] | None = None,
    strokes: Mapping[tuple[str, str], str | Path] | None = None,
    kinds: Mapping[str, ConceptKind] | None = None,
    base_model: str | Path | Backbone = "builtin",
    seed: int = 0,
    config: Mapping[str, Any] | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> SegmentJob:
    """Read pictures, load the base model and check the request; arguments as for `segment`."""
    start = ConceptSet.load(concept_set) if isinstance(concept_set, str | Path) else concept_set
    if concepts is None and start is not None:
        concepts = {concept.name: concept.initializer for concept in start.concepts}
    if not concepts:
        raise ConfigError("no concept to look for: name at least one, as --concept cat=cat, or give --set")
    loaded = read_pictures(
        pictures, concepts, contains=contains, prompts=prompts, masks=masks, boxes=boxes, strokes=strokes
    )
    backbone = base_model if isinstance(base_model, Backbone) else load_backbone(base_model, device, dtype)
    if start is not None:
        start.check_base(backbone)
    values = {"method": "refined", "seed": seed, "preview_every": 0, **(config or {})}
    request = build_request(
        loaded,
        concepts,
        resolve_config(family_of(backbone.version), values),
        contains=contains,
        prompts=prompts,
        kinds=kinds,
        backgrounds=backbone.backgrounds,
        start=start,
    )
    return SegmentJob(request, backbone)


def _segments(material: Material, rows: Tensor, picture: int, config: LearnConfig) -> Iterator[Segment]:
    """The segments of one picture, and how sure they are."""
    example = material.examples[picture]
    halves = halves_of_initial_maps(material, rows, picture, config)
    first, second = (masks_from(example, half, config, None).masks for half in halves)
    mean = mean_of(halves)
    whole = masks_from(example, mean, config, None)
    pairs = same_things(example, mean, config)
    for k, concept in enumerate(example.concepts):
        mask = whole.masks[k]
        sure = float(whole.probabilities[k][mask].mean()) if mask.any() else 0.0
        yield Segment(
            example.name,
            concept.name,
            unframe_mask(mask, example.picture_size),
            iou(first[k], second[k]) * sure,
            tuple(name for pair in pairs if concept.name in pair for name in pair if name != concept.name),
        )
