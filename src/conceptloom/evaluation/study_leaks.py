"""Whether a study's folder tells its methods apart by more than pictures: by names, metadata, sizes, times or order."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import stats

from conceptloom.errors import RunError
from conceptloom.evaluation.study_key import IMAGES, STUDY, StudyKey

LONG_NAME = 6
"""Names of so many letters are looked for among pixels too; shorter ones turn up there by chance."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PLAIN_CHUNKS = (b"IHDR", b"IDAT", b"IEND")
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_PATH = re.compile(r"""(?:^|[\s"'(=])(?:~?(?:/[^\s/"']+){2,}|[A-Za-z]:[\\/]|\\\\\w)""")

_ID = re.compile(r"\w{1,64}", re.ASCII)


def leaks(folder: str | Path, names: Iterable[str]) -> list[str]:
    """What in a study's folder could tell who made an image, one line each; nothing where it is clean.

    Looked for are, in file names and in all bytes that are no pixels: the given names, as whole words in any case, and
    paths; anything in a PNG but pixels; files that the study does not name; times, rights and attributes of files that
    differ; two images of a trial that are not stored alike. A prompt that says one of the names as a plain word is
    reported too: both sides have it, so that one is harmless.

    Args:
        folder: as `export_study_bundle` writes it.
        names: of methods, folders, concepts: whatever must not be in there.
    """
    folder = Path(folder)
    banned = [name for name in names if name]
    paths = sorted(folder.rglob("*"))
    files = [path for path in paths if path.is_file()]
    found = []
    for path in (folder, *paths):
        inside = path.relative_to(folder).as_posix() if path != folder else folder.name
        found += [f"{inside}: named after '{name}'" for name in _said(inside, banned)]
        found += [f"{inside}: {what}" for what in _attributes(path)]
    found += _differences("modification time", [path.lstat().st_mtime_ns for path in (folder, *paths)])
    found += _differences("mode", [path.lstat().st_mode for path in files])
    for path in files:
        look = _study_findings if path == folder / STUDY else _image_findings
        found += [
            f"{path.relative_to(folder).as_posix()}: {what}" for what in look(path.read_bytes(), banned)
        ]
    return found + _structure(folder, files)


def refuse_leaks(folder: str | Path, names: Collection[str], prompts: Iterable[str]) -> None:
    """Let a study's folder pass in which `leaks` finds nothing but names that a prompt says as plain words.

    Args:
        folder: see `leaks`.
        names: see `leaks`.
        prompts: the words of all prompts.

    Raises:
        RunError: something else is found.
    """
    harmless = {f"{STUDY}: says '{name}'" for name in _said("\n".join(prompts), names)}
    if found := [line for line in leaks(folder, names) if line not in harmless]:
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        raise RunError(
            f"no study is written, for its folder would tell whose an image is ({' '.join(found[0].split())}{more}):"
            " write it to another disk; if that does not help, it is a fault of conceptloom"
        )


def order_tests(folder: str | Path, key: StudyKey) -> dict[str, float]:
    """Two-sided p values of: an order of the images knows nothing of the method.

    Rank-sum tests (Mann and Whitney 1947) of the images of both methods ordered by "name", "size", "time" (of
    modification) and "listing" (where `study.json` first names them), and a binomial test of "side", left or right,
    over comparisons. In a clean study each is below p with probability p at most.

    Args:
        folder: of the study.
        key: of the same study.
    """
    folder = Path(folder)
    study = json.loads((folder / STUDY).read_text(encoding="utf-8"))
    listed = list(dict.fromkeys(trial[side] for trial in _trials(study) for side in ("left", "right")))
    stat = {name: (folder / IMAGES / f"{name}.png").stat() for name in key.images}
    orders: dict[str, Callable[[str], float]] = {
        "name": sorted(key.images).index,
        "size": lambda name: stat[name].st_size,
        "time": lambda name: stat[name].st_mtime_ns,
        "listing": listed.index,
    }
    found = {what: _rank_sum(place, key) for what, place in orders.items()}
    sides = [trial.left for trial in key.trials.values() if trial.kind == "comparison"]
    found["side"] = float(stats.binomtest(sides.count("ours"), len(sides)).pvalue)
    return found


def _rank_sum(place: Callable[[str], float], key: StudyKey) -> float:
    ours, baseline = (
        [place(name) for name, image in key.images.items() if image.method == method]
        for method in ("ours", "baseline")
    )
    if len({*ours, *baseline}) == 1:
        return 1.0
    return float(stats.mannwhitneyu(ours, baseline).pvalue)


def _said(text: str, names: Collection[str]) -> list[str]:
    """Those names that are words of a text; digits and "_" part words, as in "gt_12"."""
    return [
        name
        for name in names
        if re.search(rf"(?<![^\W\d_]){re.escape(name)}(?![^\W\d_])", text, re.IGNORECASE)
    ]


def _attributes(path: Path) -> Iterator[str]:
    if path.is_symlink():
        yield f"a link to '{os.readlink(path)}'"
    elif hasattr(os, "listxattr"):
        yield from (f"has the attribute '{name}'" for name in os.listxattr(path) if name.startswith("user."))


def _differences(what: str, values: Sequence[int]) -> list[str]:
    return [f"files differ in their {what}"] if len(set(values)) > 1 else []


def _study_findings(data: bytes, names: Collection[str]) -> Iterator[str]:
    try:
        texts = [data.decode(), *_strings(json.loads(data))]  # names may be escaped in the file itself
    except (ValueError, RecursionError) as error:
        yield f"cannot be read ({error})"
        return
    yield from (f"says '{name}'" for name in _said("\n".join(texts), names))
    for text in texts[1:]:
        if _PATH.search(text):
            yield f"holds a path: '{text}'"
        if re.search(r"<[^<>\s]+>", text):
            yield f"holds a placeholder: '{text}'"


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield name
            yield from _strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)


def _image_findings(data: bytes, names: Collection[str]) -> Iterator[str]:
    chunks, rest = _png_chunks(data)
    if not chunks:
        yield "no PNG file"
        yield from (f"says '{name}'" for name in _said(data.decode("latin-1"), names))
        return
    for kind, content in chunks:
        if kind not in _PLAIN_CHUNKS:
            yield f"holds a {kind.decode('latin-1')} chunk of {len(content)} bytes beside its pixels"
    if rest:
        yield f"goes on for {len(rest)} bytes after its end"
    stream = zlib.decompressobj()
    try:
        scanlines = stream.decompress(b"".join(content for kind, content in chunks if kind == b"IDAT"))
        extra = len(scanlines) - _scanline_bytes(chunks[0][1]) + len(stream.unused_data)
        pixels = np.asarray(Image.open(io.BytesIO(data), formats=["PNG"])).tobytes()
    except (zlib.error, struct.error, KeyError, OSError, SyntaxError):
        yield "is no picture of 8 bits a channel"
        return
    if extra:
        yield f"holds {extra} bytes beside its pixels in the same stream"
    around = b"\n".join([rest, *(kind + content for kind, content in chunks if kind != b"IDAT")])
    everything = (data + scanlines + pixels).lower()
    for name in names:
        anywhere = len(name) >= LONG_NAME and name.lower().encode() in everything
        if anywhere or _said(around.decode("latin-1"), [name]):
            yield f"says '{name}'"


def _png_chunks(data: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Type and content of every chunk up to IEND, and what comes after it; no chunks where it is no PNG file."""
    if not data.startswith(_SIGNATURE):
        return [], data
    chunks, at = [], len(_SIGNATURE)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
        if chunks[-1][0] == b"IEND":
            break
    return chunks, data[at:]


def _scanline_bytes(header: bytes) -> int:
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", header)
    return int(height * (1 + width * _CHANNELS[colour] * {8: 1}[depth]))


def _structure(folder: Path, files: Collection[Path]) -> list[str]:
    """Files that no trial names, images that are not there, and trials whose images are not stored alike."""
    try:
        trials = list(_trials(json.loads((folder / STUDY).read_bytes())))
        named = {name for trial in trials for name in (trial["left"], trial["right"], *trial["references"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return [f"{STUDY}: cannot be read as a study ({type(error).__name__}: {error})"]
    if strange := sorted({repr(name) for name in named if not _ID.fullmatch(str(name))}):
        return [f"{STUDY}: names an image {strange[0]}, which is no id"]
    wanted = {folder / IMAGES / f"{name}.png" for name in named} | {folder / STUDY}
    found = [
        f"{path.relative_to(folder).as_posix()}: no trial names it" for path in sorted({*files} - wanted)
    ]
    found += [f"{path.relative_to(folder).as_posix()}: is not there" for path in sorted(wanted - {*files})]
    for trial in trials:
        sides = [folder / IMAGES / f"{trial[side]}.png" for side in ("left", "right")]
        if set(sides) <= {*files} and _stored(sides[0]) != _stored(sides[1]):
            found.append(
                f"{STUDY}: the images of trial {trial['id']} differ in size or in how they are stored"
            )
    return found


def _stored(path: Path) -> tuple[int, list[tuple[bytes, int]], bytes, bytes]:
    """Length of a file and of its chunks, its PNG header, and the zlib header, which tells the level."""
    data = path.read_bytes()
    chunks, _ = _png_chunks(data)
    header = chunks[0][1] if chunks else b""
    stream = b"".join(content for kind, content in chunks if kind == b"IDAT")
    return len(data), [(kind, len(content)) for kind, content in chunks], header, stream[:2]


def _trials(study: Any) -> Iterator[Any]:
    for person in study["people"]:
        yield from person["trials"]
