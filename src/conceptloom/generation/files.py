"""Images on disk: one PNG each with its provenance, and a contact sheet of them all.

A file that is already there is never replaced: a folder that holds one of the names to be written is refused before
anything is drawn.
"""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from conceptloom.errors import RunError
from conceptloom.generation.images import GeneratedImage
from conceptloom.pictures import contact_sheet, write_png
from conceptloom.runs import require_place

SHEET = "contact-sheet.png"
SHEET_IMAGES = 64
"""The contact sheet shows so many images of a prompt at most."""
SHEET_COLUMNS = 4
SLUG_LENGTH = 48


def save_images(
    images: Iterable[GeneratedImage], out: Path, names: Sequence[str], *, with_provenance: bool = True
) -> Iterator[tuple[Path, GeneratedImage]]:
    """Write images as they come and yield each with its path; after the last one the contact sheet is written.

    Every file appears whole or not at all.

    Args:
        images: in the order of `names`.
        out: folder; made where it is missing.
        names: file names, see `image_names`.
        with_provenance: put prompt, seed and all other provenance into the PNG's text chunks; else no text at all.

    Raises:
        RunError: a file of one of the names is there, or the folder cannot be used.
    """
    shown: dict[str, list[npt.NDArray[np.uint8]]] = {}
    require_free(out, names)
    for image, name in zip(images, names, strict=True):
        _write_new(out / name, image.pixels, provenance_text(image) if with_provenance else None)
        if image.index < SHEET_IMAGES:
            shown.setdefault(image.prompt, []).append(image.pixels)
        yield out / name, image
    _write_new(out / SHEET, captioned_sheet(shown), None)


def image_names(prompts: Sequence[str], seed: int, num: int) -> list[str]:
    """File names in the order of `generate_images`: "a-cat-on-beach-s0-003.png" is image 3 of seed 0.

    A name depends on prompt, seed and index alone, except that prompts with the same letters get a number.
    """
    slugs: list[str] = []
    for prompt in prompts:
        slug, count = slug_of(prompt), 1
        while (numbered := slug if count == 1 else f"{slug}-{count}") in slugs:
            count += 1
        slugs.append(numbered)
    return [f"{slug}-s{seed}-{index:03d}.png" for slug in slugs for index in range(num)]


def slug_of(prompt: str) -> str:
    """Letters and digits of a prompt, lower-case, joined by "-": 1 to 48 characters, safe as a file name."""
    letters = "".join(
        character if unicodedata.category(character)[0] in "LMN" else " "
        for character in unicodedata.normalize("NFKC", prompt).lower()
    )
    return "-".join(letters.split())[:SLUG_LENGTH].strip("-") or "image"


def require_free(out: Path, names: Sequence[str]) -> None:
    """Raise `RunError` where the folder could not be made or written to, or holds one of the names already."""
    try:
        out.lstat()
    except (FileNotFoundError, NotADirectoryError):
        require_place(out)
    except (OSError, ValueError) as error:  # a name of 300 letters, a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"the folder '{out}' cannot be made ({reason}): choose another one") from error
    else:
        if not out.is_dir() or not os.access(out, os.W_OK):
            raise RunError(f"'{out}' is no folder that can be written to: choose another one")
    for name in (SHEET, *names):
        _require_absent(out / name)


def free_folder(out: Path) -> Path:
    """`out` if it is missing or empty, else the first of "out-2", "out-3", ... that is."""
    count, candidate = 1, out
    while candidate.is_file() or (candidate.is_dir() and any(candidate.iterdir())):
        count += 1
        candidate = out.with_name(f"{out.name}-{count}")
    return candidate


def provenance_text(image: GeneratedImage) -> dict[str, str]:
    """PNG text chunks: two keywords that image viewers show, and everything as JSON under "conceptloom"."""
    return {
        "Software": f"conceptloom {image.provenance['software']['conceptloom']}",
        "Description": image.prompt,
        "conceptloom": json.dumps(image.provenance, ensure_ascii=False),
    }


def captioned_sheet(images: Mapping[str, Sequence[npt.NDArray[np.uint8]]]) -> npt.NDArray[np.uint8]:
    """One sheet (H, W, 3) of the images (h, w, 3) by prompt: a block per prompt, the prompt beneath it.

    Blocks of one or two images stand beside each other.
    """
    longest = max(len(pictures) for pictures in images.values())
    columns = max(SHEET_COLUMNS, math.isqrt(longest - 1) + 1)
    blocks = [contact_sheet(pictures, columns) for pictures in images.values()]
    return contact_sheet(blocks, max(1, SHEET_COLUMNS // longest), list(images))


def _write_new(path: Path, pixels: npt.NDArray[np.uint8], text: Mapping[str, str] | None) -> None:
    _require_absent(path)  # another run may have begun in the same folder meanwhile
    write_png(path, pixels, text)


def _require_absent(path: Path) -> None:
    if os.path.lexists(path):  # a link to nothing is a file of somebody's too
        raise RunError(
            f"'{path.parent}' holds '{path.name}' already, which is not replaced: choose another folder"
        )
