"""COCO's run-length code of masks, as plain JSON data, through pycocotools."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from conceptloom.errors import ConfigError


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
    """The mask (H, W) of such data. Raises ``ValueError`` for a broken code."""
    coder = pycocotools("mask")
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
