"""The concept set: everything learned, as data only, in a folder that other programs can read.

Layout (format version 1)::

    concept_set.json             concepts, base model, kind of weights, configuration, provenance
    learned_embeds.safetensors   one (n, D) float32 tensor per placeholder token
    weights.safetensors          low-rank factors or weight differences, where weights were trained
    masks/<picture>/<concept>.png   final masks, white = concept, picture size
    thumbnails/<concept>.png     a small picture of each concept, where there is one

Whoever saves may add files (metrics.jsonl, index.html, previews).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conceptloom.backbone.adapters import WeightsDelta
from conceptloom.backbone.model import Backbone
from conceptloom.concepts.concept import Concept
from conceptloom.concepts.storage import (
    RESTORE,
    add_file,
    inside,
    is_plain_name,
    previous_of,
    read_image,
    read_json,
    read_tensors,
    replace_folder,
    write_json,
    write_tensors,
)
from conceptloom.errors import ConceptSetError, PromptError
from conceptloom.pictures import write_png

FORMAT_VERSION = 1
DESCRIPTION = "concept_set.json"
EMBEDDINGS = "learned_embeds.safetensors"
WEIGHTS = "weights.safetensors"
MASKS = "masks"
THUMBNAILS = "thumbnails"
METRICS = "metrics.jsonl"
MAX_ALPHA = 1e6
RESERVED = frozenset({DESCRIPTION, EMBEDDINGS, WEIGHTS, MASKS, THUMBNAILS})


@dataclass(frozen=True)
class BaseModelRecord:
    """The base model a set was learned on; see `Backbone`."""

    name: str
    fingerprint: str
    version: str | None

    @classmethod
    def of(cls, backbone: Backbone) -> BaseModelRecord:
        """The record of a loaded base model."""
        return cls(backbone.name, backbone.fingerprint, backbone.version)


@dataclass(frozen=True, eq=False)
class ConceptSet:
    """Concepts learned together on one base model.

    Attributes:
        concepts: in the order of their rows.
        embeddings: rows of each concept by name, (n, D) float32 on the CPU.
        base: the base model they belong to.
        weights: what learning did to the base model's weights, or None.
        config: configuration of the learning run, plain data.
        provenance: versions, date, drift and whatever else is worth knowing, plain data.
        masks: final masks, (H, W) bool in picture size, by (picture, concept) name.
        thumbnails: small pictures (H, W, 3) uint8 by concept name; not every concept needs one.
        folder: where the set was loaded from, while it is as it was loaded.

    Raises:
        ConceptSetError: parts that do not fit each other, or values that are not finite.
    """

    concepts: tuple[Concept, ...]
    embeddings: Mapping[str, Tensor]
    base: BaseModelRecord
    weights: WeightsDelta | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    masks: Mapping[tuple[str, str], npt.NDArray[np.bool_]] = field(default_factory=dict)
    thumbnails: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    folder: Path | None = None

    def __post_init__(self) -> None:
        names = [concept.name for concept in self.concepts]
        if not names or len(set(names)) < len(names):
            raise ConceptSetError("a concept set needs concepts with different names: rename or merge them")
        if set(self.embeddings) != set(names):
            stray = ", ".join(sorted(set(self.embeddings) ^ set(names)))
            raise ConceptSetError(f"concepts and embeddings of the set do not match at {stray}: {RESTORE}")
        widths = {rows.shape[-1] for rows in self.embeddings.values() if rows.ndim == 2}
        for concept in self.concepts:
            _require_rows(concept, self.embeddings[concept.name], widths)
        for (picture, name), mask in self.masks.items():
            if name not in names or not is_plain_name(picture) or mask.dtype != np.bool_ or mask.ndim != 2:
                raise ConceptSetError(
                    f"the mask of '{name}' in '{picture}' is not a mask of a concept: {RESTORE}"
                )
        for name, thumbnail in self.thumbnails.items():
            if name not in names or thumbnail.dtype != np.uint8 or thumbnail.shape[2:] != (3,):
                raise ConceptSetError(
                    f"the thumbnail of '{name}' is not an 8-bit picture of a concept: {RESTORE}"
                )

    @property
    def placeholders(self) -> dict[str, int]:
        """Rows per placeholder token, in the order of `rows`; what `tokenize` takes."""
        return {concept.placeholder_token: concept.num_vectors for concept in self.concepts}

    def rows(self) -> Tensor:
        """All placeholder rows, (R, D) float32 on the CPU; what `encode_prompts` takes."""
        return torch.cat([self.embeddings[concept.name] for concept in self.concepts])

    @property
    def metrics(self) -> Path | None:
        """The learning run's `metrics.jsonl`, where the set was loaded with one."""
        if self.folder is None or not (self.folder / METRICS).is_file():
            return None
        return inside(self.folder, METRICS)

    def check_base(self, backbone: Backbone) -> None:
        """Raise `ConceptSetError` unless `backbone` is the model the set was learned on."""
        held = BaseModelRecord.of(backbone)
        if (held.fingerprint, held.version) != (self.base.fingerprint, self.base.version):
            raise ConceptSetError(
                f"the set was learned on {_model_title(self.base)}, not on {_model_title(held)}:"
                " use that base model or learn the set again"
            )
        if (width := self.rows().shape[1]) != backbone.embedding_dim:
            raise ConceptSetError(
                f"the set's rows have {width} numbers each, its base model's {backbone.embedding_dim}: {RESTORE}"
            )

    def with_concepts(
        self,
        concepts: Sequence[Concept],
        embeddings: Mapping[str, Tensor],
        masks: Mapping[tuple[str, str], npt.NDArray[np.bool_]] | None = None,
        thumbnails: Mapping[str, npt.NDArray[np.uint8]] | None = None,
    ) -> ConceptSet:
        """The set with concepts added, or replaced where the name is known; every other row is bitwise the same.

        A replaced concept keeps its place in the order, its masks in other pictures and its thumbnail unless new ones
        are given. Weights, configuration and provenance stay; `dataclasses.replace` changes them.
        """
        merged = {concept.name: concept for concept in (*self.concepts, *concepts)}
        return replace(
            self,
            concepts=tuple(merged.values()),
            embeddings={
                **self.embeddings,
                **{name: rows.detach().cpu().clone() for name, rows in embeddings.items()},
            },
            masks={**self.masks, **(masks or {})},
            thumbnails={**self.thumbnails, **(thumbnails or {})},
            folder=None,
        )

    def save(self, folder: str | Path, extras: Mapping[str, bytes | Path] | None = None) -> None:
        """Write the set; an earlier set in `folder` stays until the new one is complete.

        Args:
            folder: new, empty, or an earlier concept set. Files in it that the earlier set did not write stay.
            extras: further files and folders of the set by name ("metrics.jsonl", "index.html", "previews"): bytes,
                or a path to copy.

        Raises:
            ConceptSetError: the folder holds something else, or cannot be written.
        """
        target = _located(folder)
        own = _files_of_earlier_set(target)
        extras = extras or {}
        assert RESERVED.isdisjoint(extras), f"{sorted(RESERVED & set(extras))} are the set's own"
        assert all(map(is_plain_name, extras)), f"extras are files beside the set's own, not {sorted(extras)}"
        try:
            replace_folder(
                target, lambda fresh: self._write(fresh, extras), lambda path: path.name not in own
            )
        except OSError as error:
            raise ConceptSetError(
                f"the concept set '{target}' cannot be written ({error.strerror}): mend that and try again"
            ) from error

    @classmethod
    def load(cls, folder: str | Path) -> ConceptSet:
        """Read a set. Nothing in the folder is run, and nothing outside it is read: links out of it are refused.

        Raises:
            ConceptSetError: no set there, a newer format, or damaged files.
        """
        path = _located(folder)
        if not path.exists() and (previous_of(path) / DESCRIPTION).is_file():
            path = previous_of(path)  # saving was cut short between two renames
        if not (path / DESCRIPTION).is_file():
            raise ConceptSetError(
                f"'{path.name}' holds no {DESCRIPTION}: give the folder of a learned concept set"
            )
        told = read_json(inside(path, DESCRIPTION))
        version = told.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise ConceptSetError(
                f"the set has format {version}, this program reads {FORMAT_VERSION}: update conceptloom"
            )
        if version != FORMAT_VERSION:
            raise ConceptSetError(f"{DESCRIPTION} has format_version {version!r}: {RESTORE}")
        try:
            concepts = tuple(_concept_from(entry) for entry in _field(told, "concepts", list))
        except PromptError as error:
            raise ConceptSetError(f"{DESCRIPTION} names a concept that cannot be used ({error})") from error
        embeddings = read_tensors(inside(path, EMBEDDINGS))
        wanted = {concept.placeholder_token: concept.name for concept in concepts}
        if set(embeddings) != set(wanted):
            stray = ", ".join(sorted(set(embeddings) ^ set(wanted)))
            raise ConceptSetError(f"{EMBEDDINGS} and {DESCRIPTION} do not match at {stray}: {RESTORE}")
        return cls(
            concepts=concepts,
            embeddings={wanted[token]: rows for token, rows in embeddings.items()},
            base=_base_from(_field(told, "base", dict)),
            weights=_weights_from(told.get("weights"), path),
            config=_field(told, "config", dict),
            provenance=_field(told, "provenance", dict),
            masks={
                (picture, name): read_image(_png(path, MASKS, picture, name), "L") > 127
                for picture, names in _field(told, "masks", dict).items()
                for name in _names(names)
            },
            thumbnails={
                name: read_image(_png(path, THUMBNAILS, name), "RGB")
                for name in _names(told.get("thumbnails"))
            },
            folder=path,
        )

    def _write(self, folder: Path, extras: Mapping[str, bytes | Path]) -> None:
        pictures: dict[str, list[str]] = {}
        for (picture, name), mask in self.masks.items():
            pictures.setdefault(picture, []).append(name)
            write_png(folder / MASKS / picture / f"{name}.png", mask)
        for name, thumbnail in self.thumbnails.items():
            write_png(folder / THUMBNAILS / f"{name}.png", thumbnail)
        write_tensors(
            folder / EMBEDDINGS,
            {concept.placeholder_token: self.embeddings[concept.name] for concept in self.concepts},
        )
        if self.weights is not None:
            write_tensors(folder / WEIGHTS, self.weights.tensors)
        for name, source in extras.items():
            add_file(folder / name, source)
        description = {
            "format_version": FORMAT_VERSION,
            "concepts": [
                {
                    "name": concept.name,
                    "placeholder_token": concept.placeholder_token,
                    "kind": concept.kind,
                    "initializer": concept.initializer,
                    "num_vectors": concept.num_vectors,
                }
                for concept in self.concepts
            ],
            "base": {
                "name": self.base.name,
                "fingerprint": self.base.fingerprint,
                "version": self.base.version,
            },
            "weights": None
            if self.weights is None
            else {"kind": self.weights.kind, "rank": self.weights.rank, "alpha": self.weights.alpha},
            "config": self.config,
            "provenance": self.provenance,
            "masks": pictures,
            "thumbnails": list(self.thumbnails),
            "files": sorted({DESCRIPTION, *(path.name for path in folder.iterdir())}),
        }
        write_json(folder / DESCRIPTION, description)


def _require_rows(concept: Concept, rows: Tensor, widths: set[int]) -> None:
    if rows.ndim != 2 or rows.shape[0] != concept.num_vectors or len(widths) != 1:
        raise ConceptSetError(
            f"the rows of {concept.placeholder_token} have shape {tuple(rows.shape)}, expected"
            f" ({concept.num_vectors}, D) with one D for all concepts: {RESTORE}"
        )
    if rows.dtype != torch.float32 or not bool(rows.isfinite().all()):
        raise ConceptSetError(
            f"the rows of {concept.placeholder_token} are not finite float32 numbers: {RESTORE}"
        )


def _model_title(base: BaseModelRecord) -> str:
    return f"'{base.name}' ({base.version or base.fingerprint[:12]})"


def _located(folder: str | Path) -> Path:
    """A set's folder itself: a link to it is followed, so that it stays a link."""
    try:
        path = Path(folder).expanduser().resolve()
        path.exists()  # a name of 300 letters fails here
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConceptSetError(
            f"'{folder}' is no usable path ({reason}): give the folder of a concept set"
        ) from error
    return path


def _files_of_earlier_set(folder: Path) -> frozenset[str]:
    """Names of the entries in `folder` that an earlier set wrote; refuses a folder that is something else."""
    if folder.is_file():
        raise ConceptSetError(f"'{folder.name}' is a file: choose a new folder for the set")
    if not folder.exists() or not any(folder.iterdir()):
        return frozenset()
    if not (folder / DESCRIPTION).is_file():
        raise ConceptSetError(
            f"'{folder.name}' holds files that are no concept set: choose a new or empty folder"
        )
    files = read_json(inside(folder, DESCRIPTION)).get("files")
    named = files if isinstance(files, list) else ()
    return RESERVED | frozenset(name for name in named if isinstance(name, str))


def _field(told: Mapping[str, Any], key: str, kind: type) -> Any:
    value = told.get(key)
    if not isinstance(value, kind):
        raise ConceptSetError(f"{DESCRIPTION} lacks a proper '{key}': {RESTORE}")
    return value


def _concept_from(entry: object) -> Concept:
    if not isinstance(entry, dict):
        raise ConceptSetError(f"{DESCRIPTION} lacks a proper 'concepts': {RESTORE}")
    name, kind = _field(entry, "name", str), _field(entry, "kind", str)
    initializer = entry.get("initializer")
    if initializer is not None and not isinstance(initializer, str):
        raise ConceptSetError(f"{DESCRIPTION} lacks a proper 'initializer': {RESTORE}")
    return Concept(name, kind, initializer, _field(entry, "num_vectors", int))


def _base_from(entry: Mapping[str, Any]) -> BaseModelRecord:
    version = entry.get("version")
    if version is not None and not isinstance(version, str):
        raise ConceptSetError(f"{DESCRIPTION} lacks a proper 'version' of the base model: {RESTORE}")
    return BaseModelRecord(_field(entry, "name", str), _field(entry, "fingerprint", str), version)


def _weights_from(entry: object, folder: Path) -> WeightsDelta | None:
    if entry is None:
        return None
    if not isinstance(entry, dict) or entry.get("kind") not in ("lora", "kv", "full"):
        raise ConceptSetError(f"{DESCRIPTION} lacks a proper 'weights': {RESTORE}")
    rank, alpha = entry.get("rank"), entry.get("alpha")
    if entry["kind"] != "lora":
        return WeightsDelta(entry["kind"], read_tensors(inside(folder, WEIGHTS)))
    if (
        not isinstance(rank, int)
        or not isinstance(alpha, int | float)
        or rank < 1
        or not abs(alpha) < MAX_ALPHA
    ):
        raise ConceptSetError(f"{DESCRIPTION} lacks a proper rank or alpha of the LoRA: {RESTORE}")
    factors = read_tensors(inside(folder, WEIGHTS))
    # The rank decides what memory is taken before the factors are looked at.
    if not factors or not all(_is_factor(name, tensor, rank) for name, tensor in factors.items()):
        raise ConceptSetError(f"{WEIGHTS} holds no factors of rank {rank}, as {DESCRIPTION} says: {RESTORE}")
    return WeightsDelta("lora", factors, rank, float(alpha))


def _is_factor(name: str, tensor: Tensor, rank: int) -> bool:
    axis = 0 if name.endswith(".lora_A.weight") else 1
    return (
        name.endswith((".lora_A.weight", ".lora_B.weight"))
        and tensor.ndim == 2
        and tensor.shape[axis] == rank
    )


def _names(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ConceptSetError(f"{DESCRIPTION} lacks proper lists of masks and thumbnails: {RESTORE}")
    return value


def _png(folder: Path, kind: str, *names: object) -> Path:
    """Path of a mask or thumbnail; refuses names that lead out of the folder."""
    for name in names:
        if not is_plain_name(name):
            raise ConceptSetError(
                f"{DESCRIPTION} names the file {str(name)[:64]!r}, which is no plain name: {RESTORE}"
            )
    *folders, stem = map(str, names)
    return inside(folder, kind, *folders, f"{stem}.png")
