"""Devices and precisions by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from conceptloom.backbone.devices import resolve_device, resolve_dtype
from conceptloom.errors import DeviceError

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch sees two CUDA devices; the first, which is the current one, computes in bfloat16, the second does not."""
    current = [torch.device("cuda")]

    @contextmanager
    def as_current(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", as_current)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: current[-1].index != 1)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1"])
def test_a_device_that_is_there_is_the_one_of_its_name(name: str) -> None:
    assert resolve_device(name) == torch.device(name)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("abacus", "unknown device 'abacus'"),
        ("cpu:1", "unknown device 'cpu:1'"),
        ("cuda:one", "unknown device 'cuda:one'"),
        ("cuda:-1", "unknown device 'cuda:-1'"),
        ("cuda:2", "'cuda:2' is not there: PyTorch sees 2 CUDA devices"),
    ],
)
def test_a_device_that_is_not_there_is_refused(name: str, told: str) -> None:
    with pytest.raises(DeviceError, match=told):
        resolve_device(name)


@pytest.mark.usefixtures("two_gpus")
def test_auto_takes_cuda_and_bfloat16_where_they_are_there() -> None:
    assert (resolve_device("auto"), resolve_dtype("auto", CUDA)) == (CUDA, torch.bfloat16)


@pytest.mark.usefixtures("two_gpus")
def test_auto_takes_float32_on_a_device_that_lacks_bfloat16_beside_one_that_has_it() -> None:
    assert resolve_dtype("auto", torch.device("cuda:1")) == torch.float32


def test_auto_takes_the_cpu_and_float32_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (resolve_device("auto"), resolve_dtype("auto", CPU)) == (CPU, torch.float32)
    assert resolve_dtype("auto", MPS) == torch.float32


@pytest.mark.parametrize(
    ("dtype", "device"), [("float16", CPU), ("float16", MPS), ("bfloat16", MPS), ("float8", CUDA)]
)
def test_a_precision_that_a_device_is_not_used_in_is_refused(dtype: str, device: torch.device) -> None:
    with pytest.raises(DeviceError, match="choose"):
        resolve_dtype(dtype, device)
