"""The makers' verbs."""

from __future__ import annotations

import importlib.util

import pytest
from typer.testing import CliRunner

from conceptloom.cli import build_app


@pytest.mark.parametrize("verb", [["sprites"], ["build"], ["resume"], ["export", "model"], ["judges"]])
def test_a_makers_verb_without_its_extra_says_what_to_install(
    verb: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(build_app(), ["basemodel", *verb])
    assert result.exit_code == 2
    assert "extra 'train'" in result.stderr
