"""Segments on disk: one PNG a mask, all of them in one COCO file, and each picture with its masks laid over it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from conceptloom.concepts.storage import replace_folder
from conceptloom.errors import RunError
from conceptloom.learning.page import concept_colours
from conceptloom.learning.segment import Segment
from conceptloom.pictures import Picture, contact_sheet, overlay, write_png
from conceptloom.runs import expanded, require_elsewhere, require_place

COCO, MASKS, OVERLAYS = "masks.json", "masks", "overlays"
SHOWN_PX = 256
"""A picture's shorter side has at least so many pixels in its overlay."""
SHOWN_AT_MOST_PX = 1536
"""A picture's longer side has at most so many pixels in its overlay: masks of any size stay in their own files."""
SHOWN_COLUMNS = 4


def save_segments(segments: Sequence[Segment], pictures: Mapping[str, Picture], out: Path) -> None:
    """Write `masks/PICTURE/CONCEPT.png` (white = the concept), `overlays/PICTURE.png` and `masks.json`, all or nothing.

    Args:
        segments: what was found.
        pictures: by the names that the segments give.
        out: folder to make, or an empty one; a link to it stays a link.

    Raises:
        RunError: something is there already, or it is the folder one is in.
    """
    out = expanded(out)
    require_new(out)

    def write(folder: Path) -> None:
        for name, picture in pictures.items():
            own = [one for one in segments if one.picture == name]
            for one in own:
                write_png(folder / MASKS / name / f"{one.concept}.png", one.mask)
            write_png(folder / OVERLAYS / f"{name}.png", shown(picture.pixels, own))
        (folder / COCO).write_text(json.dumps(coco(segments, pictures)) + "\n", encoding="utf-8")

    replace_folder(out.resolve(), write, is_foreign=lambda _: False)


def require_new(out: Path) -> None:
    """Raise `RunError` where `out` holds something already or the folder one is in, or can't be made."""
    out = expanded(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RunError(f"{out} is there already and is not replaced: choose another folder, or delete it")
    require_elsewhere(out)
    require_place(out)


def shown(pixels: npt.NDArray[np.uint8], segments: Sequence[Segment]) -> npt.NDArray[np.uint8]:
    """The picture beside each of its masks, with names and confidences."""
    part = -(-max(pixels.shape[:2]) // SHOWN_AT_MOST_PX)  # large ones are shrunk by whole pixels
    small = np.asarray(Image.fromarray(pixels).reduce(part))
    times = -(-SHOWN_PX // min(small.shape[:2]))  # and small ones enlarged
    large = small.repeat(times, axis=0).repeat(times, axis=1)
    found = np.stack([one.mask[::part, ::part] for one in segments])
    masks = found.repeat(times, axis=1).repeat(times, axis=2)
    colours = list(concept_colours([one.concept for one in segments]).values())
    images, labels = [overlay(large, masks, colours)], ["all"]
    for one, mask, colour in zip(segments, masks, colours, strict=True):
        images.append(overlay(large, mask[None], [colour]))
        labels.append(f"<{one.concept}> {one.confidence:.2f}")
    return contact_sheet(images, columns=SHOWN_COLUMNS, labels=labels)


def coco(segments: Sequence[Segment], pictures: Mapping[str, Picture]) -> dict[str, Any]:
    """The segments as a COCO data set: categories are concepts, `score` is the confidence, masks are run lengths."""
    names = list(dict.fromkeys(one.concept for one in segments))
    numbers = {name: index for index, name in enumerate(pictures, start=1)}
    return {
        "images": [
            {
                "id": numbers[name],
                "file_name": name if picture.path is None else picture.path.name,
                "height": picture.size[0],
                "width": picture.size[1],
            }
            for name, picture in pictures.items()
        ],
        "categories": [{"id": index, "name": name} for index, name in enumerate(names, start=1)],
        "annotations": [
            {
                "id": index,
                "image_id": numbers[one.picture],
                "category_id": names.index(one.concept) + 1,
                "segmentation": {"size": list(one.mask.shape), "counts": run_lengths(one.mask)},
                "area": int(one.mask.sum()),
                "bbox": bounding_box(one.mask),
                "iscrowd": 1,  # what COCO calls a mask given by run lengths
                "score": round(one.confidence, 4),
            }
            for index, one in enumerate(segments, start=1)
        ],
    }


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run-length code of a mask (H, W): lengths down the columns, the first of zeros."""
    cells = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(cells[1:] != cells[:-1])
    return [int(length) for length in np.diff([0, *edges, mask.size])]


def bounding_box(mask: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's [left, top, width, height] of a mask (H, W), zeros where it is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
