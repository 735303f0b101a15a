"""Masks of COCO files, as plain JSON data, through pycocotools: polygons, run lengths, run-length codes."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from conceptloom.errors import ConfigError
from conceptloom.pictures.decoding import MAX_PIXELS

_CODE = re.compile("([P-o]{0,6}[0-O])*")
"""Numbers of up to seven characters, of which the last one differs from the others."""


def pycocotools(module: str) -> Any:
    """A module of pycocotools, "coco" or "mask".

    Raises ``ConfigError`` when it is not installed: it comes with the extra "evaluate".
    """
    try:
        return importlib.import_module(f"pycocotools.{module}")
    except ImportError:
        raise ConfigError(
            "benchmarks in COCO format need pycocotools: install conceptloom with its extra 'evaluate'"
        ) from None


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Lets pycocotools neither print nor warn of its own use of numpy."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def to_rle(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) as {"size": [H, W], "counts": text}."""
    code = pycocotools("mask").encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode()}


def from_rle(code: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """The mask (H, W) of such data. Raises ``ValueError`` for a broken code, or one of too many pixels."""
    coder = pycocotools("mask")
    _require_decodable(code)
    try:
        with quietly():
            mask = coder.decode(dict(code))
        # What ends too early leaves the rest of the mask as the memory was: only what encodes back is a mask.
        whole = mask.max() <= 1 and coder.encode(np.asfortranarray(mask))["counts"] == code["counts"].encode()
    except (ValueError, TypeError, OverflowError, MemoryError, KeyError):
        whole = False
    if not whole:
        raise ValueError("a broken run-length code")
    return np.ascontiguousarray(mask.astype(np.bool_))


def _require_decodable(code: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` for a code past whose end pycocotools would read, or that asks for much memory."""
    size, counts = code.get("size"), code.get("counts")
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError("a size that is none")
    if not all(isinstance(side, int) and 0 < side <= MAX_PIXELS for side in size):
        raise ValueError("a size that is none")
    if size[0] * size[1] > MAX_PIXELS or not isinstance(counts, str) or not _CODE.fullmatch(counts):
        raise ValueError("a broken run-length code")


def from_segmentation(segmentation: object, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The mask (H, W) of an annotation, whichever of COCO's three forms it has.

    Objects are polygons, of which those of fewer than three points enclose nothing; crowds are {"size", "counts"} with
    run lengths in a list; a text is `from_rle`'s. What pycocotools would crash on, or fill with what the memory held,
    it does not get to see.

    Args:
        segmentation: as the file holds it.
        size: (H, W) of the annotation's image.

    Raises:
        ValueError: a broken segmentation, or one of another size.
    """
    height, width = size
    if isinstance(segmentation, list):
        drawn: Any = [polygon for polygon in segmentation if _is_polygon(polygon, 2 * max(size))]
        whole = bool(drawn)
    elif isinstance(segmentation, dict) and segmentation.get("size") == [height, width]:
        if isinstance(segmentation.get("counts"), str):
            return from_rle(segmentation)
        drawn, whole = segmentation, _are_runs(segmentation.get("counts"), height * width)
    else:
        whole = False
    if not whole:
        raise ValueError("a broken segmentation")
    coder = pycocotools("mask")
    code = coder.frPyObjects(drawn, height, width)
    with quietly():
        mask = coder.decode(coder.merge(code) if isinstance(code, list) else code)
    return np.ascontiguousarray(mask.astype(np.bool_))


def _is_polygon(value: object, reach: int) -> bool:
    """Whether it encloses something; raises ``ValueError`` for what is no list of numbers within `reach` pixels."""
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError("a broken polygon") from error
    if not isinstance(value, list) or numbers.ndim != 1 or not (abs(numbers) <= reach).all():
        raise ValueError("a broken polygon")
    return len(numbers) >= 6


def _are_runs(counts: object, pixels: int) -> bool:
    return (
        isinstance(counts, list)
        and all(isinstance(count, int) and count >= 0 for count in counts)
        and sum(counts) == pixels
    )
