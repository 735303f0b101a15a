"""Benchmarks on disk: plain COCO, which any tool reads, with the sets under one key more.

    images/0001-dev-000-a.png
    annotations.json    info, images, categories, annotations (masks as run-length codes) and `concept_sets`

A category is a noun with its class word as supercategory; an annotation is the true mask of one concept in one
picture. `concept_sets` names the concepts, says which annotation is which concept's, and holds the prompts.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from conceptloom.concepts.storage import is_plain_name, replace_folder
from conceptloom.errors import DataError
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, PlaceType, TestPrompt, TrueConcept
from conceptloom.evaluation.rle import from_rle, pycocotools, quietly, to_rle
from conceptloom.pictures import Picture, load_picture, write_png
from conceptloom.runs import write_json_atomic

FORMAT_VERSION = 1
ANNOTATIONS = "annotations.json"
IMAGES = "images"
MAX_JSON_BYTES = 64 * 2**20
"""Of a benchmark: its masks are run-length codes of some hundred bytes each."""

Mask = NDArray[np.bool_]


def open_coco(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The `pycocotools.coco.COCO` of an annotation file, opened without its chatter.

    Raises ``DataError`` when the file is absent, no JSON, or no COCO: every image, category and annotation needs an
    id of its own, and every annotation an image and a category that are there.
    """
    coco_class = pycocotools("coco").COCO
    try:
        if path.stat().st_size > max_bytes:
            raise DataError(f"{path} is larger than {max_bytes >> 20} MiB: give a COCO annotation file")
        with quietly():
            coco = coco_class(str(path))
        parts = {part: list(coco.dataset[part]) for part in ("images", "categories", "annotations")}
        for part, index in zip(parts, (coco.imgs, coco.cats, coco.anns), strict=True):
            if len(index) != len(parts[part]):
                raise DataError(f"two {part} in {path} have the same id: each needs its own")
        for entry in parts["annotations"]:
            if entry["image_id"] not in coco.imgs or entry["category_id"] not in coco.cats:
                raise DataError(
                    f"annotation {entry['id']!r} in {path} is of an image or category that is not in the file"
                )
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): give a COCO annotation file") from None
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        raise DataError(f"{path} is no COCO annotation file ({_reason(error)}): write it again") from None
    return coco


# Writing ----------------------------------------------------------------------------------------------------------


def write_benchmark(benchmark: Benchmark, folder: str | Path) -> None:
    """Write the benchmark as a COCO folder; an earlier one there is replaced as a whole.

    Raises ``DataError`` when the folder holds something else, ``ConfigError`` without pycocotools, and ``OSError``
    where the disk refuses.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file: choose a folder for the benchmark")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ANNOTATIONS).is_file():
        raise DataError(f"{folder} holds files that are no benchmark: choose a new or empty folder")
    plain = _as_coco(benchmark)
    pictures = [picture for one in benchmark.sets for picture in one.pictures]

    def write(fresh: Path) -> None:
        for picture, entry in zip(pictures, plain["images"], strict=True):
            write_png(fresh / IMAGES / entry["file_name"], picture.pixels)
        write_json_atomic(fresh / ANNOTATIONS, plain)

    replace_folder(folder.absolute(), write, lambda path: path.name not in (ANNOTATIONS, IMAGES))


def _as_coco(benchmark: Benchmark) -> dict[str, Any]:
    categories: dict[tuple[str, str], int] = {}
    for _, concept in benchmark.concepts:
        categories.setdefault((concept.noun, concept.class_word), len(categories) + 1)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    sets = []
    for one in benchmark.sets:
        pictures = []
        for picture in one.pictures:
            image_id = len(images) + 1
            height, width = picture.size
            file_name = f"{image_id:04d}-{picture.name}.png"
            images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})
            contains: dict[str, int | None] = {}
            for name in one.contains[picture.name]:
                contains[name] = None
                if name in picture.masks:
                    concept = one.concept(name)
                    contains[name] = len(annotations) + 1
                    annotations.append(
                        {
                            "id": contains[name],
                            "image_id": image_id,
                            "category_id": categories[concept.noun, concept.class_word],
                            **_segmentation(picture.masks[name]),
                            "iscrowd": 0,
                        }
                    )
            pictures.append(
                _PictureEntry(
                    image_id=image_id,
                    name=picture.name,
                    caption=one.captions.get(picture.name),
                    contains=contains,
                )
            )
        sets.append(
            _SetEntry(
                name=one.name,
                place_type=one.place_type,
                concepts=one.concepts,
                pictures=tuple(pictures),
                prompts=one.prompts,
                shown=one.shown,
            )
        )
    told = _ConceptSets(
        format_version=FORMAT_VERSION, name=benchmark.name, split=benchmark.split, sets=tuple(sets)
    )
    return {
        "info": {"description": f"Conceptloom benchmark {benchmark.name}, split {benchmark.split}"},
        "images": images,
        "categories": [
            {"id": number, "name": noun, "supercategory": class_word}
            for (noun, class_word), number in categories.items()
        ],
        "annotations": annotations,
        "concept_sets": told.model_dump(mode="json"),
    }


def _segmentation(mask: Mask) -> dict[str, Any]:
    code = to_rle(mask)
    coder = pycocotools("mask")
    return {
        "segmentation": code,
        "area": int(coder.area(code)),
        "bbox": [float(number) for number in coder.toBbox(code)],
    }


# Reading ----------------------------------------------------------------------------------------------------------


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class _PictureEntry(_Entry):
    image_id: int
    name: str
    caption: str | None = None
    contains: dict[str, int | None]
    """Annotation by concept name, None where there is no mask."""


class _SetEntry(_Entry):
    name: str
    place_type: PlaceType
    concepts: Annotated[tuple[TrueConcept, ...], Field(min_length=1)]
    pictures: Annotated[tuple[_PictureEntry, ...], Field(min_length=1)]
    prompts: tuple[TestPrompt, ...]
    shown: tuple[TestPrompt, ...] = ()


class _ConceptSets(_Entry):
    format_version: int
    name: str
    split: str
    sets: tuple[_SetEntry, ...]


class _ImageEntry(BaseModel):
    file_name: str
    width: int
    height: int


class _Code(_Entry):
    size: tuple[int, int]
    counts: str


def load_benchmark(folder: str | Path) -> Benchmark:
    """Read a benchmark that `write_benchmark` wrote, whoever passed it on: nothing in the folder is trusted.

    Raises:
        DataError: with what is wrong: no benchmark, a file missing, an annotation of an unknown image, a broken
            mask, a path that leads out of the folder, an unknown key or value, parts that do not fit.
        PictureError: an image is damaged.
        PromptError: a concept's name cannot be used.
        ConfigError: pycocotools is absent.
    """
    folder = Path(folder)
    coco = open_coco(folder / ANNOTATIONS)
    told = coco.dataset.get("concept_sets")
    if not isinstance(told, dict):
        raise DataError(f"{folder / ANNOTATIONS} holds no concept sets: it is plain COCO, not a benchmark")
    if (found := told.get("format_version")) != FORMAT_VERSION:
        raise DataError(
            f"{folder} is a benchmark of format {reprlib.repr(found)}, not {FORMAT_VERSION}: make it again"
        )
    told = _parsed(_ConceptSets, told, "concept_sets", folder)
    sets = tuple(_set_from(coco, entry, folder) for entry in told.sets)
    return Benchmark(told.name, told.split, sets)


def _set_from(coco: Any, entry: _SetEntry, folder: Path) -> BenchmarkSet:
    return BenchmarkSet(
        name=entry.name,
        pictures=tuple(_picture_from(coco, picture, folder) for picture in entry.pictures),
        concepts=entry.concepts,
        contains={picture.name: tuple(picture.contains) for picture in entry.pictures},
        prompts=entry.prompts,
        place_type=entry.place_type,
        captions={picture.name: picture.caption for picture in entry.pictures if picture.caption is not None},
        shown=entry.shown,
    )


def _picture_from(coco: Any, entry: _PictureEntry, folder: Path) -> Picture:
    if entry.image_id not in coco.imgs:
        raise DataError(f"picture '{entry.name}' is image {entry.image_id}, which is not in {ANNOTATIONS}")
    image = _parsed(_ImageEntry, coco.imgs[entry.image_id], f"image {entry.image_id}", folder)
    loaded = load_picture(image_path(folder / IMAGES, image.file_name))
    pixels = loaded.pixels
    if pixels.shape[:2] != (image.height, image.width):
        raise DataError(
            f"{image.file_name} is {pixels.shape[1]} x {pixels.shape[0]} px, {ANNOTATIONS} says"
            f" {image.width} x {image.height}: restore the file"
        )
    masks = {}
    for name, number in entry.contains.items():
        if number is not None:
            if number not in coco.anns or coco.anns[number]["image_id"] != entry.image_id:
                raise DataError(
                    f"the mask of '{name}' in '{entry.name}' is annotation {number}, which is not of its image"
                )
            masks[name] = _mask_from(coco.anns[number], pixels.shape[:2], folder)
    return Picture(entry.name, loaded.path, pixels, masks, notes=loaded.notes)


def image_path(folder: Path, file_name: object) -> Path:
    """Where an image of an annotation file is; refuses names that lead out of `folder`, and files that are absent."""
    if not is_plain_name(file_name):
        raise DataError(f"the image {str(file_name)[:64]!r} is no plain file name inside {folder}: rename it")
    path = folder / str(file_name)
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link to itself
        is_inside = False
    if not is_inside:
        raise DataError(f"the image {path} leads out of its folder: put the file itself there")
    if not path.is_file():
        raise DataError(f"the image {path} is missing: restore it")
    return path


def _mask_from(annotation: Mapping[str, Any], size: tuple[int, ...], folder: Path) -> Mask:
    where = f"the segmentation of annotation {annotation['id']}"
    code = _parsed(_Code, annotation.get("segmentation"), where, folder)
    if code.size != size:
        raise DataError(f"{where} is of {code.size} px (H, W), its image of {size}: write the mask again")
    try:
        return from_rle(code.model_dump())
    except ValueError:
        raise DataError(
            f"{where} is a broken run-length code: write the mask again with pycocotools"
        ) from None


def _parsed(model: type[Any], value: object, where: str, folder: Path) -> Any:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        refuse_entry(error, f"{where} in {folder / ANNOTATIONS}")


def refuse_entry(error: ValidationError, where: str) -> NoReturn:
    """Raise ``DataError`` with the first thing pydantic found wrong, in one line."""
    first, *others = error.errors(include_url=False, include_input=False, include_context=False)
    path = ".".join(str(part) for part in first["loc"])
    more = f"; {len(others)} more wrong" if others else ""
    at = f" at '{path}'" if path else ""
    raise DataError(f"{where}{at}: {' '.join(first['msg'].split())}{more}") from None


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
