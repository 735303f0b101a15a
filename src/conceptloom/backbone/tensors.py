"""Safetensors files whoever wrote them: nothing in them is taken on trust, and none of it is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

MAX_HEADER_BYTES = 100_000_000
"""As many as the library reads."""
METADATA = "__metadata__"


def read_header(path: Path) -> dict[str, Any]:
    """Dtype, shape and place of each tensor by name, and the metadata where there are any.

    Raises:
        ValueError: no regular file (opening a pipe would wait for ever); no safetensors; tensors that overlap, leave
            gaps or reach beyond the file; a name that comes twice, of which readers would choose different ones.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise ValueError("there is no such file" if not path.exists() else "it is no regular file")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError("it is no safetensors file, or cut short")
        header = file.read(length)
    try:
        with safe_open(path, framework="pt"):
            table: dict[str, Any] = json.loads(header, object_pairs_hook=_distinct)
            return table
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, by name, on the CPU.

    Raises:
        ValueError: as `read_header`; a number format that torch does not have; numbers that are not finite.
        OSError: it cannot be read.
    """
    read_header(path)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    for name, tensor in tensors.items():
        require_finite(name, tensor)
    return tensors


def require_finite(name: str, tensor: Tensor) -> None:
    """Raise `ValueError` where a tensor of floating-point numbers holds NaN or infinity."""
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.numel() == 0:
        return
    if (
        tensor.element_size() < 2 or tensor.is_complex()
    ):  # of eight bits and fewer, for which torch can do little
        raise ValueError(f"'{name}' holds {str(tensor.dtype).removeprefix('torch.')} numbers")
    if not all(extreme.isfinite() for extreme in tensor.aminmax()):  # NaN is both
        raise ValueError(f"'{name}' holds values that are not finite numbers")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("its header names a tensor twice")
    return table
