"""Files that a stranger might leave where we read: pickles under any name, and safetensors that lie."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def pickle_of(canary: Path) -> bytes:
    """A pickle that makes the folder `canary` when it is loaded."""
    return f"cos\nmkdir\n(V{canary}\ntR.".encode()


def torch_archive(canary: Path) -> bytes:
    """The same as `torch.save` packs it: a zip archive around the pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle_of(canary))
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def disguises(canary: Path) -> dict[str, bytes]:
    """The pickle in every dress: bare, as torch's archive, and each of them after a sound safetensors file."""
    sound = safetensors_bytes({"a": floats(0, 2)}, b"\x00" * 8)
    bare, archive = pickle_of(canary), torch_archive(canary)
    return {"bare": bare, "archive": archive, "tail": sound + bare, "polyglot": sound + archive}


def safetensors_bytes(header: Mapping[str, Any] | bytes, data: bytes = b"") -> bytes:
    """A safetensors file with any header."""
    written = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + data


def floats(first_byte: int, count: int, dtype: str = "F32") -> dict[str, Any]:
    """The header's entry of a vector of 32-bit numbers."""
    return {"dtype": dtype, "shape": [count], "data_offsets": [first_byte, first_byte + 4 * count]}


ENTRY = json.dumps(floats(0, 2))
MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "short": b"\x00" * 7,
    "no header": b"\x00" * 8,
    "header longer than the file": (10**15).to_bytes(8, "little") + b"{}",
    "header of 2^64 bytes": b"\xff" * 8 + b"{}",
    "list": safetensors_bytes(b"[]"),
    "null": safetensors_bytes(b"null"),
    "utf-16": safetensors_bytes("{}".encode("utf-16")),
    "deep": safetensors_bytes(b'{"a":' * 100_000),
    "overlap": safetensors_bytes({"a": floats(0, 2), "b": floats(4, 2)}, b"\x00" * 12),
    "same place": safetensors_bytes({"a": floats(0, 2), "b": floats(0, 2)}, b"\x00" * 8),
    "gap": safetensors_bytes({"a": floats(0, 2), "b": floats(12, 2)}, b"\x00" * 20),
    "beyond the end": safetensors_bytes({"a": floats(0, 2)}, b"\x00" * 4),
    "bytes behind": safetensors_bytes({"a": floats(0, 2)}, b"\x00" * 12),
    "name twice": safetensors_bytes(f'{{"a": {ENTRY}, "a": {ENTRY}}}'.encode(), b"\x00" * 8),
    "shape overflows": safetensors_bytes(
        {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}}, b"\x00" * 8
    ),
    "shape negative": safetensors_bytes(
        {"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, b"\x00" * 8
    ),
    "size of another shape": safetensors_bytes(
        {"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"\x00" * 8
    ),
    "unknown dtype": safetensors_bytes({"a": floats(0, 2, "Q8")}, b"\x00" * 8),
    "dtype torch lacks": safetensors_bytes(
        {"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, b"\x00" * 3
    ),
    "nan": safetensors_bytes({"a": floats(0, 2)}, b"\x00" * 4 + b"\xff" * 4),
    "infinity": safetensors_bytes({"a": floats(0, 2)}, b"\x00\x00\x80\x7f" * 2),
}
"""Safetensors files, each wrong in one way, by what is wrong."""
