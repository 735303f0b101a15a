"""Reading and writing the files of a concept set: data only, and nothing in them is trusted."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from conceptloom.backbone import tensors as safe
from conceptloom.errors import ConceptSetError
from conceptloom.pictures.decoding import MAX_PIXELS
from conceptloom.runs import is_device_name, naming, sync, sync_files

MAX_JSON_BYTES = 64 * 2**20
MAX_IMAGE_PIXELS = {"L": MAX_PIXELS, "RGB": 2**22}
"""Of masks, which have their picture's size, and of thumbnails, by mode."""


def previous_of(folder: Path) -> Path:
    """Where the earlier content of `folder` waits while it is being replaced."""
    return folder.with_name(f".{folder.name}.previous")


def replace_folder(folder: Path, write: Callable[[Path], None], is_foreign: Callable[[Path], bool]) -> None:
    """Replace a folder as a whole: a reader, or a crash at any moment, finds the old content or the new one.

    Args:
        folder: the folder; its parents are made.
        write: fills an empty folder.
        is_foreign: which entries of the old folder are somebody else's and move over to the new one.

    Raises:
        OSError: the disk refuses; it names `folder`, which is as it was (the new one, with the earlier beside it, where
            only the parent's entries could not be flushed).
    """
    with naming(folder):
        _replace_folder(folder, write, is_foreign)


def remove_strays(folder: Path) -> None:
    """Remove what killed replacements of `folder` left beside it; nobody may be replacing it meanwhile."""
    for stray in folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}.tmp"):
        shutil.rmtree(stray, ignore_errors=True)


def _replace_folder(folder: Path, write: Callable[[Path], None], is_foreign: Callable[[Path], bool]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    previous = previous_of(folder)
    if previous.exists():  # an earlier replacement was cut short
        if folder.exists():
            _take_over(previous, folder, is_foreign)
        else:
            previous.rename(folder)
    fresh = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.tmp")
    try:
        fresh.mkdir()
        write(fresh)
        sync_files(fresh)
        if folder.exists():
            folder.rename(previous)
        fresh.rename(folder)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if previous.exists() and not folder.exists():
            previous.rename(folder)
        raise
    sync(folder.parent)  # before the earlier content goes
    if previous.exists():
        _take_over(previous, folder, is_foreign)


def _take_over(previous: Path, folder: Path, is_foreign: Callable[[Path], bool]) -> None:
    """Move what is somebody else's to the folder that took the place of `previous`, and remove the rest."""
    for entry in previous.iterdir():
        if is_foreign(entry) and not (folder / entry.name).exists():
            entry.rename(folder / entry.name)
    shutil.rmtree(previous)


def inside(folder: Path, *names: str) -> Path:
    """The file of a set's resolved folder; refuses one that a link leads out to.

    A hard link is the file itself, and cannot be told from it.
    """
    path = folder.joinpath(*names)
    try:
        is_inside = path.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):  # links in a circle
        is_inside = False
    if not is_inside:
        raise ConceptSetError(
            f"'{path.name}' of the concept set is a link out of its folder, which is not followed:"
            " put the file itself there"
        )
    return path


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object; `ConceptSetError` when it holds NaN, infinity or something that is no plain data."""
    try:
        data = (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise ConceptSetError(
            f"'{path.name}' can only hold finite plain data ({error}): mend config or provenance"
        ) from error
    path.write_bytes(data)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ConceptSetError(
                f"'{path.name}' is larger than {MAX_JSON_BYTES} bytes: it is no concept set's"
            )
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(value, dict):
        raise ConceptSetError(f"'{path.name}' of the concept set holds no JSON object: {RESTORE}")
    return value


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file. Raises `OSError` where the disk refuses."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # tells the system's error in words alone
        if (told := re.search(r"\(os error (\d+)\)", str(error))) is None:
            raise
        raise OSError(int(told[1]), os.strerror(int(told[1])), str(path)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file of finite floating-point tensors."""
    try:
        tensors = safe.read_tensors(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ConceptSetError(f"'{name}' in '{path.name}' holds no floating-point numbers: {RESTORE}")
    return tensors


def read_image(path: Path, mode: Literal["L", "RGB"]) -> npt.NDArray[np.uint8]:
    """Read a PNG as mode "L" (H, W) or "RGB" (H, W, 3)."""
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise FileNotFoundError("there is no such file")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=["PNG"])
        with image:
            if image.width * image.height > MAX_IMAGE_PIXELS[mode]:
                raise ConceptSetError(f"'{path.name}' of the concept set has too many pixels: {RESTORE}")
            return np.asarray(image.convert(mode))
    except ConceptSetError:
        raise
    except Exception as error:  # decoders raise whatever they trip over
        raise _unreadable(path, error) from error


def add_file(target: Path, source: bytes | Path) -> None:
    """Put bytes, or a copy of a file or folder, at `target`; links in the folder are left out."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        target.write_bytes(source)
    elif source.is_dir():
        # `shutil.copytree` would copy on where the disk refuses, and raise what has no errno.
        for path in source.rglob("*"):
            if path.is_file() and not path.is_symlink():
                add_file(target / path.relative_to(source), path)
    else:
        shutil.copyfile(source, target)


def is_plain_name(name: object) -> bool:
    """Whether `name` is one component of a path that stays inside its folder on every system."""
    if not isinstance(name, str) or name.rstrip(". ") != name or not name:
        return False
    try:
        length = len(name.encode())
    except UnicodeEncodeError:  # half a character
        return False
    if length > 255 or is_device_name(name):
        return False
    return not any(character in '/\\:*?"<>|' or ord(character) < 32 for character in name)


RESTORE = "restore the set from a copy or learn it again"


def _unreadable(path: Path, error: Exception) -> ConceptSetError:
    reason = getattr(error, "strerror", None) or str(error)[:200] or type(error).__name__
    return ConceptSetError(f"'{path.name}' of the concept set cannot be read ({reason}): {RESTORE}")


def refuse_constant(constant: str) -> NoReturn:
    """For `json.loads`, which else reads NaN and infinity."""
    raise ValueError(f"{constant} is no JSON")
