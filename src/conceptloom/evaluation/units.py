"""One unit of work, (set, method, seed): learn, draw, and keep everything that can be measured later.

A unit is a folder that appears only when it is complete, so a stopped evaluation goes on with the first unit that is
missing. Metrics are not in it: they are computed from it, and can be computed anew.
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from conceptloom.backbone import Backbone, family_of
from conceptloom.errors import DataError, DivergedError, PictureError
from conceptloom.evaluation.benchmark import BenchmarkSet
from conceptloom.evaluation.methods import MethodName, draw_class_words, learn_request, method_config
from conceptloom.evaluation.rle import from_rle, to_rle
from conceptloom.generation import generate_images
from conceptloom.learning import DriftMeasured, Finished, MasksUpdated, Progress, run
from conceptloom.pictures import load_picture, write_png
from conceptloom.runs import sync, sync_files, write_json_atomic

RECORD = "unit.json"


@dataclass(frozen=True)
class UnitKey:
    """Which unit: the set's name, the method, the seed of learning and drawing; `variant` names changed switches."""

    set: str
    method: MethodName
    seed: int
    variant: str = ""

    @property
    def folder_name(self) -> str:
        """Plain name of the unit's folder."""
        return "-".join([self.set, self.method, *([self.variant] if self.variant else []), f"s{self.seed}"])


@dataclass(frozen=True, eq=False)
class MaskRecord:
    """Masks of one picture after stage 2 (step 0) or an E-step, bool (K, side, side) in the model's square frame.

    `maps` (K, h, w) is the attention they were made from, each concept's maximum 255; None for true masks.
    """

    step: int
    picture: str
    concepts: tuple[str, ...]
    masks: npt.NDArray[np.bool_]
    maps: npt.NDArray[np.uint8] | None
    rescued: tuple[str, ...]
    collapsed: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class UnitResult:
    """What a unit left.

    Attributes:
        key: which unit.
        masks: in the order of the steps; empty for methods that find none.
        images: (H, W, 3) uint8 by (number of the prompt, number of the image).
        seconds: wall time of "learn" and "draw".
        drift: the base model's loss on its own images of other nouns, (before, after), or None.
        config: the learning configuration as plain data, None for the class words.
        base: version and fingerprint of the base model.
        diverged: why learning ended early and left nothing, in a line: its loss did not stay finite; else None.
    """

    key: UnitKey
    masks: tuple[MaskRecord, ...]
    images: Mapping[tuple[int, int], npt.NDArray[np.uint8]]
    seconds: Mapping[str, float]
    drift: tuple[float, float] | None = None
    config: Mapping[str, Any] | None = None
    base: Mapping[str, Any] = field(default_factory=dict)
    diverged: str | None = None

    @property
    def last_masks(self) -> tuple[MaskRecord, ...]:
        """The last record of every picture."""
        return tuple({record.picture: record for record in self.masks}.values())

    def masks_at(self, picture: str, step: int = -1) -> MaskRecord:
        """The record of one picture: the first with step 0, the last with -1."""
        return [record for record in self.masks if record.picture == picture][step]


def run_unit(
    key: UnitKey,
    one: BenchmarkSet,
    backbone: Backbone,
    scratch: Path,
    *,
    draws: Mapping[int, int] = MappingProxyType({}),
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[Progress | UnitResult]:
    """Learn `one` by the key's method and draw images of its prompts; ends with the `UnitResult`.

    A run whose loss does not stay finite leaves a unit that says so, and a blank image is kept as a black one: that is
    what the method gives on the set, and running it again would give the same.

    Args:
        key: which unit.
        one: the set.
        backbone: the base model; it is as before afterwards.
        scratch: folder for the run's own files; emptied before and removed after.
        draws: how many images of which of the set's prompts, by their numbers (`BenchmarkSet.prompt`).
        overrides: changed switches of `LearnConfig`.
    """
    base = {"version": backbone.version, "fingerprint": backbone.fingerprint}
    begun = time.perf_counter()
    if key.method == "words":
        drawn = {
            (prompt, index): pixels
            for prompt, num in draws.items()
            for index, pixels in enumerate(draw_class_words(backbone, one.prompt(prompt), one, num, key.seed))
        }
        seconds = {"learn": 0.0, "draw": time.perf_counter() - begun}
        yield UnitResult(key, (), drawn, seconds, base=base)
        return
    config = method_config(family_of(backbone.version), key.method, key.seed, overrides)
    shutil.rmtree(scratch, ignore_errors=True)
    masks: list[MaskRecord] = []
    drift: tuple[float, float] | None = None
    finished: Finished | None = None
    try:
        for event in run(learn_request(one, backbone, config), backbone, scratch):
            match event:
                case MasksUpdated():
                    masks.append(_mask_record(event))
                case DriftMeasured():
                    drift = (event.before, event.after)
                case Finished():
                    finished = event
            yield event
    except DivergedError as error:
        seconds = {"learn": time.perf_counter() - begun, "draw": 0.0}
        plain = config.model_dump(mode="json")
        yield UnitResult(key, (), {}, seconds, config=plain, base=base, diverged=str(error))
        return
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    assert finished is not None
    learned = time.perf_counter()
    concept_set = finished.concept_set
    images = {
        (prompt, index): image.pixels
        for prompt, num in draws.items()
        for index, image in enumerate(
            generate_images(
                backbone, concept_set, [one.prompt(prompt).text], num=num, seed=key.seed, keep_blank=True
            )
        )
    }
    seconds = {"learn": learned - begun, "draw": time.perf_counter() - learned}
    kept = () if key.method == "inversion" else tuple(masks)
    yield UnitResult(key, kept, images, seconds, drift, config.model_dump(mode="json"), base)


def save_unit(result: UnitResult, root: Path) -> Path:
    """Write a unit's folder under `root`; it appears under its name when all of it is on the disk."""
    folder = root / result.key.folder_name
    part = root / f".{result.key.folder_name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for (prompt, index), pixels in result.images.items():
        write_png(part / _image_name(prompt, index), pixels, None)
    key = result.key
    record = {
        "unit": {"set": key.set, "method": key.method, "seed": key.seed, "variant": key.variant},
        "base": dict(result.base),
        "seconds": dict(result.seconds),
        "drift": result.drift,
        "config": result.config,
        "diverged": result.diverged,
        "images": [list(place) for place in result.images],
        "masks": [
            {
                "step": one.step,
                "picture": one.picture,
                "concepts": list(one.concepts),
                "rle": [to_rle(mask) for mask in one.masks],
                "maps": None if one.maps is None else _packed(one.maps),
                "rescued": list(one.rescued),
                "collapsed": list(one.collapsed),
            }
            for one in result.masks
        ],
    }
    write_json_atomic(part / RECORD, record)
    sync_files(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    sync(root)
    return folder


def has_unit(key: UnitKey, root: Path) -> bool:
    """Whether the unit is done."""
    return (root / key.folder_name / RECORD).is_file()


def load_unit(key: UnitKey, root: Path) -> UnitResult:
    """Read a unit back. Raises `DataError` when it is missing or damaged."""
    folder = root / key.folder_name
    try:
        record = read_record(folder / RECORD)
        masks = tuple(one.masks() for one in record.masks)
        images = {
            place: load_picture(folder / _image_name(*place)).pixels for place in dict.fromkeys(record.images)
        }
    except (OSError, ValueError, PictureError) as error:
        raise DataError(
            f"the unit in {folder} cannot be read ({type(error).__name__}: {error}): delete the folder and run"
            " the evaluation again"
        ) from error
    if record.unit != key:
        raise DataError(
            f"the folder {folder} holds another unit, {record.unit.folder_name}: delete it and run again"
        )
    seconds = record.seconds.model_dump()
    return UnitResult(key, masks, images, seconds, record.drift, record.config, record.base, record.diverged)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _Seconds(_Part):
    learn: float = Field(ge=0)
    draw: float = Field(ge=0)


class _Maps(_Part):
    shape: tuple[int, int, int]
    bytes: str


class _Masks(_Part):
    step: int
    picture: str
    concepts: tuple[str, ...]
    rle: tuple[dict[str, Any], ...]
    maps: _Maps | None
    rescued: tuple[str, ...]
    collapsed: tuple[str, ...]

    def masks(self) -> MaskRecord:
        """The record with its masks decoded. Raises `ValueError` where they are broken or do not fit."""
        masks = np.stack([from_rle(code) for code in self.rle])
        maps = None if self.maps is None else _unpacked(self.maps)
        if len(masks) != len(self.concepts) or (maps is not None and len(maps) != len(masks)):
            raise ValueError(f"{len(masks)} masks of {len(self.concepts)} concepts")
        return MaskRecord(self.step, self.picture, self.concepts, masks, maps, self.rescued, self.collapsed)


class UnitRecord(_Part):
    """What `RECORD` says of a unit, as plain data."""

    unit: UnitKey
    base: dict[str, Any]
    seconds: _Seconds
    drift: tuple[float, float] | None
    config: dict[str, Any] | None
    images: tuple[tuple[int, int], ...]
    masks: tuple[_Masks, ...]
    diverged: str | None = None


def read_record(path: Path) -> UnitRecord:
    """What a `RECORD` file says. Raises ``OSError`` and ``ValueError`` where it is missing or damaged."""
    return UnitRecord.model_validate_json(path.read_bytes())


def _mask_record(event: MasksUpdated) -> MaskRecord:
    step = 0 if event.stage == "masks" else event.step
    maps = None
    if event.maps is not None:
        highest = np.maximum(event.maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
        maps = np.rint(255 * event.maps / highest).astype(np.uint8)
    return MaskRecord(
        step, event.picture, event.concepts, event.masks.copy(), maps, event.rescued, event.collapsed
    )


def _packed(maps: npt.NDArray[np.uint8]) -> dict[str, Any]:
    return {"shape": list(maps.shape), "bytes": base64.b64encode(maps.tobytes()).decode("ascii")}


def _unpacked(packed: _Maps) -> npt.NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(packed.bytes), np.uint8).reshape(packed.shape)


def _image_name(prompt: int, index: int) -> str:
    return f"p{int(prompt):02d}-i{int(index):02d}.png"
