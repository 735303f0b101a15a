"""Safetensors files of strangers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conceptloom.backbone.tensors import read_header, read_tensors
from hostile import MALFORMED, floats, safetensors_bytes


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    saved = {
        "a": torch.tensor([[0.1, -1e30]]),
        "b": torch.tensor([1, 2], dtype=torch.uint8),
        "c": torch.zeros(0, 3),
        "d": torch.tensor([0.5], dtype=torch.bfloat16),
    }
    save_file(saved, tmp_path / "t.safetensors", metadata={"format": "pt"})
    loaded = read_tensors(tmp_path / "t.safetensors")
    assert loaded.keys() == saved.keys()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype
        for name, tensor in saved.items()
    )


def test_the_header_tells_dtypes_and_shapes(tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(safetensors_bytes({"a": floats(0, 2)}, b"\x00" * 8))
    assert read_header(tmp_path / "t.safetensors") == {"a": floats(0, 2)}


@pytest.mark.parametrize("wrong", MALFORMED)
def test_a_malformed_file_is_refused_as_a_value_error(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "t.safetensors").write_bytes(MALFORMED[wrong])
    with pytest.raises(ValueError, match=r"."):
        read_tensors(tmp_path / "t.safetensors")


@pytest.mark.parametrize(("dtype", "count"), [("F8_E4M3", 8), ("F8_E5M2", 8), ("C64", 1)])
def test_number_formats_whose_values_cannot_be_checked_are_refused(
    tmp_path: Path, dtype: str, count: int
) -> None:
    header = {"a": {"dtype": dtype, "shape": [count], "data_offsets": [0, 8]}}
    (tmp_path / "t.safetensors").write_bytes(safetensors_bytes(header, b"\x00" * 8))
    with pytest.raises(ValueError, match=r"'a' holds (float8|complex)"):
        read_tensors(tmp_path / "t.safetensors")


def test_a_header_of_more_than_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "t.safetensors").open("wb") as stream:
        stream.write((150_000_000).to_bytes(8, "little") + b"{")
        stream.truncate(200_000_000)
    with pytest.raises(ValueError, match="no safetensors"):
        read_tensors(tmp_path / "t.safetensors")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.safetensors")
    with pytest.raises(ValueError, match="no regular file"):
        read_tensors(tmp_path / "t.safetensors")
