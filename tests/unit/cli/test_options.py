"""What the options of `conceptloom learn` are read as."""

from __future__ import annotations

from conceptloom.cli.options import parse_contains


def test_spaces_between_concept_names_do_not_count() -> None:
    assert parse_contains(["yard=cat, beach", "park= cat"]) == {"yard": ["cat", "beach"], "park": ["cat"]}
