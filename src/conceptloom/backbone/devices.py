"""Which device and which precision a base model runs in, resolved once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from conceptloom.errors import DeviceError

T = TypeVar("T")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(device: str) -> torch.device:
    """Device of a name: auto, cpu, cuda, cuda:N or mps. "auto" is CUDA where there is one, else the CPU.

    Raises:
        DeviceError: unknown name, or a device this machine lacks.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise DeviceError(f"unknown device '{device}': choose auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device '{device}' is not there: PyTorch sees {torch.cuda.device_count()} CUDA devices"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' is not there: it needs a Mac with Apple silicon")
    return torch.device(device)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Precision of the U-Net: auto, float32, bfloat16 or float16.

    "auto" is bfloat16 on a CUDA device that computes in it, else float32. On a CPU bfloat16 is automatic mixed
    precision: weights stay float32.

    Raises:
        DeviceError: unknown name, or a precision the device is not used in here.
    """
    if dtype == "auto":
        if device.type != "cuda":
            return torch.float32
        with torch.cuda.device(device):  # the current device is the one that is asked
            fits = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fits else torch.float32
    if dtype not in DTYPES:
        raise DeviceError(f"unknown dtype '{dtype}': choose auto, {', '.join(DTYPES)}")
    if dtype == "float16" and device.type != "cuda":
        raise DeviceError(f"float16 needs a CUDA device, not '{device}': choose float32 or bfloat16")
    if dtype == "bfloat16" and device.type == "mps":
        raise DeviceError("bfloat16 is not used on 'mps': choose float32")
    return DTYPES[dtype]


@contextmanager
def telling_of_memory(device: torch.device, doing: str, advice: str) -> Iterator[None]:
    """Raise `DeviceError` when memory runs out within: "'cuda' ran out of memory at `doing`: `advice`"."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DeviceError(f"'{device}' ran out of memory at {doing}: {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device's memory did not suffice."""
    if isinstance(error, RuntimeError):  # torch has a class of its own for CUDA only
        return "out of memory" in str(error) or "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError)


def with_less_memory(work: Callable[[], T], thrifty: Callable[[], T]) -> T:
    """`work()`; where its memory does not suffice, what it holds is let go of and `thrifty()` is done instead, once."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Out here, for the error holds on to everything that `work` had made.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return thrifty()
