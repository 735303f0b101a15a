"""What options that several verbs share are read as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from conceptloom.cli import FAILED, build_app
from conceptloom.cli.options import parse_contains
from conceptloom.pictures import write_png


def test_spaces_between_concept_names_do_not_count() -> None:
    assert parse_contains(["yard=cat, beach", "park= cat"]) == {"yard": ["cat", "beach"], "park": ["cat"]}


@pytest.mark.parametrize("verb", ["learn", "segment", "discover"])
def test_a_cuda_device_is_chosen_by_its_number(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    write_png(tmp_path / "yard.png", np.full((64, 64, 3), 99, np.uint8))
    words = [] if verb == "discover" else ["--concept", "cat=cat"]
    out = ["--out", str(tmp_path / "out"), "--device", "cuda:7"]
    result = CliRunner().invoke(build_app(), [verb, str(tmp_path / "yard.png"), *words, *out])
    assert result.exit_code == FAILED
    assert result.stderr.splitlines()[-1].startswith(
        "error: device 'cuda:7' is not there: PyTorch sees 2 CUDA"
    )
