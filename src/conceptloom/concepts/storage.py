"""Reading and writing the files of a concept set: data only, and nothing in them is trusted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from conceptloom.errors import ConceptSetError

MAX_JSON_BYTES = 64 * 2**20
MAX_IMAGE_PIXELS = 2**28


def previous_of(folder: Path) -> Path:
    """Where the earlier content of `folder` waits while it is being replaced."""
    return folder.with_name(f".{folder.name}.previous")


def replace_folder(folder: Path, write: Callable[[Path], None], is_foreign: Callable[[Path], bool]) -> None:
    """Replace a folder as a whole: a reader, or a crash at any moment, finds the old content or the new one.

    Args:
        folder: the folder; its parents are made.
        write: fills an empty folder.
        is_foreign: which entries of the old folder are somebody else's and move over to the new one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    previous = previous_of(folder)
    if previous.exists():  # an earlier replacement was cut short
        if folder.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(folder)
    fresh = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.tmp")
    try:
        fresh.mkdir()
        write(fresh)
        _flush(fresh)
        if folder.exists():
            folder.rename(previous)
        fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        raise
    if previous.exists():
        for entry in previous.iterdir():
            if is_foreign(entry) and not (folder / entry.name).exists():
                entry.rename(folder / entry.name)
        shutil.rmtree(previous)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object; `ConceptSetError` when it holds NaN, infinity or something that is no plain data."""
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConceptSetError(
            f"'{path.name}' can only hold finite plain data ({error}): mend config or provenance"
        ) from error
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ConceptSetError(
                f"'{path.name}' is larger than {MAX_JSON_BYTES} bytes: it is no concept set's"
            )
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise ConceptSetError(
            f"'{path.name}' of the concept set cannot be read ({_reason(error)}): {RESTORE}"
        ) from error
    if not isinstance(value, dict):
        raise ConceptSetError(f"'{path.name}' of the concept set holds no JSON object: {RESTORE}")
    return value


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of finite floating-point tensors."""
    try:
        tensors = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise ConceptSetError(
            f"'{path.name}' of the concept set cannot be read ({_reason(error)}): {RESTORE}"
        ) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise ConceptSetError(
                f"'{name}' in '{path.name}' holds values that are not finite numbers: {RESTORE}"
            )
    return tensors


def read_image(path: Path, mode: str) -> npt.NDArray[np.uint8]:
    """Read a PNG as mode "L" (H, W) or "RGB" (H, W, 3)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=["PNG"])
        with image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise ConceptSetError(f"'{path.name}' of the concept set has too many pixels: {RESTORE}")
            return np.asarray(image.convert(mode))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ConceptSetError(
            f"'{path.name}' of the concept set cannot be read ({_reason(error)}): {RESTORE}"
        ) from error


def add_file(target: Path, source: bytes | Path) -> None:
    """Put bytes, or a copy of a file or folder, at `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        target.write_bytes(source)
    elif source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)


def is_plain_name(name: object) -> bool:
    """Whether `name` is one component of a path that stays inside its folder on every system."""
    if not isinstance(name, str) or name in (".", "..", "") or len(name.encode(errors="replace")) > 255:
        return False
    return not any(character in "/\\:" or ord(character) < 32 for character in name)


RESTORE = "restore the set from a copy or learn it again"


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _flush(folder: Path) -> None:
    """Make sure that what was written is on the disk before the rename that publishes it."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file, contextlib.suppress(OSError):
                os.fsync(file.fileno())
