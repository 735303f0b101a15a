"""The neutral margin on disk, and where it may be measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conceptloom.errors import ConfigError, DataError
from conceptloom.evaluation import shipped as shipped_files
from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.forced_choice import Trial
from conceptloom.evaluation.margins import (
    Margin,
    kept_margin,
    load_margin,
    margin_key,
    measure_margin,
    save_margin,
    shipped_margin,
)
from mutations import json_like, value_or_refusal

SETS = builtin_benchmark("dev", 1).sets
KEY = margin_key("examiner-0123456789ab", "abcdefabcdef0123")
MARGIN = Margin(value=0.07, benchmark="builtin", split="dev", sets=10, pairs=200)
# Differences 1/4, 1/8 and 0, over two sets.
TRIALS = [Trial("a", "0", 0.5, 0.25), Trial("a", "1", 0.5, 0.625), Trial("b", "0", 0.5, 0.5)]


def plain(margin: Margin = MARGIN, **changes: Any) -> dict[str, Any]:
    return {**margin.model_dump(mode="json"), **changes}


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the shipped margins would lie."""
    monkeypatch.setattr(shipped_files, "files", lambda _: tmp_path)
    path = tmp_path / "data" / "judges" / "margins.json"
    path.parent.mkdir(parents=True)
    return path


# Measuring


def test_a_margin_is_the_median_difference_with_what_it_was_measured_on() -> None:
    found = measure_margin(Benchmark("builtin", "dev", SETS), TRIALS)
    assert found == Margin(value=0.125, benchmark="builtin", split="dev", sets=2, pairs=3)


def test_the_test_sets_measure_no_margin() -> None:
    assert measure_margin(Benchmark("builtin", "test", SETS), TRIALS) is None


@pytest.mark.parametrize(("name", "split"), [("coco", "val2017"), ("folder", "own"), ("folder", "dev")])
def test_a_benchmark_without_dev_measures_its_own_and_says_so(name: str, split: str) -> None:
    found = measure_margin(Benchmark(name, split, SETS), TRIALS)
    assert found is not None
    assert not found.is_of_dev
    assert found.where.endswith("the sets that are compared here")


def test_the_margin_of_short_runs_says_so_and_is_not_that_of_dev() -> None:
    found = MARGIN.model_copy(update={"smoke": True})
    assert not found.is_of_dev
    assert found.where.startswith("the short runs of builtin dev (10 sets, 200 pairs of images)")


def test_a_file_with_the_margin_of_short_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "margins.json"
    path.write_text(json.dumps({KEY: plain(smoke=True)}), encoding="utf-8")
    with pytest.raises(DataError, match="holds no margins of dev"):
        load_margin(KEY, path)


def test_without_a_second_seed_there_is_no_margin() -> None:
    assert measure_margin(Benchmark("builtin", "dev", SETS), []) is None


# What ships


def test_a_shipped_margin_belongs_to_a_judge_and_a_base_model(shipped: Path) -> None:
    shipped.write_text(json.dumps({KEY: plain()}), encoding="utf-8")
    assert shipped_margin(KEY) == MARGIN
    assert shipped_margin(margin_key("examiner-0123456789ab", "abcdefabcdef9999")) == MARGIN
    assert shipped_margin(margin_key("examiner-0123456789ab", "0123456789abcdef")) is None
    assert shipped_margin(margin_key("examiner-ba9876543210", "abcdefabcdef0123")) is None


def test_without_the_file_no_margin_ships(shipped: Path) -> None:
    assert shipped_margin(KEY) is None


BROKEN: dict[str, Any] = {
    "no object": [],
    "a number alone": {KEY: 0.07},
    "below zero": {KEY: plain(value=-0.1)},
    "no number": {KEY: plain(value="wide")},
    "not finite": {KEY: plain(value=float("nan"))},
    "without sets": {KEY: plain(sets=0)},
    "without its benchmark": {KEY: {"value": 0.07, "sets": 10, "pairs": 200}},
    "unknown key": {KEY: plain(code="x")},
    "of test": {KEY: plain(split="test")},
    "of other pictures": {KEY: plain(benchmark="folder")},
    "another entry of test": {KEY: plain(), "other/0": plain(split="test")},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_damaged_shipped_file_is_told(shipped: Path, case: str) -> None:
    shipped.write_text(json.dumps(BROKEN[case]), encoding="utf-8")
    with pytest.raises(DataError, match=r"shipped margins\.json is damaged"):
        shipped_margin(KEY)


# What an evaluation on dev leaves


def test_a_margin_that_was_left_is_read_back_exactly(tmp_path: Path) -> None:
    exact = MARGIN.model_copy(update={"value": 0.1 + 0.2})
    save_margin(KEY, exact, tmp_path / "margins.json")
    assert load_margin(KEY, tmp_path / "margins.json") == exact


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_margins_of_any_content_are_of_dev_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = data.draw(json_like({KEY: plain(), "other/0": plain()}))
    path = tmp_path_factory.getbasetemp() / "any-margins.json"
    margin = value_or_refusal(lambda path: load_margin(KEY, path), path, content)
    assert margin is None or (margin.is_of_dev and margin.value >= 0)


def test_what_is_left_can_ship_as_it_is(shipped: Path) -> None:
    save_margin(KEY, MARGIN, shipped)
    assert shipped_margin(KEY) == MARGIN


def test_a_margin_is_added_beside_those_of_other_judges(tmp_path: Path) -> None:
    path, other = tmp_path / "margins.json", MARGIN.model_copy(update={"value": 0.5})
    save_margin("clip-0/0", other, path)
    save_margin(KEY, MARGIN, path)
    assert (kept_margin(KEY, path), kept_margin("clip-0/0", path)) == (MARGIN, other)


def test_a_folder_without_the_file_or_the_judge_keeps_no_margin(tmp_path: Path) -> None:
    assert kept_margin(KEY, tmp_path / "margins.json") is None
    save_margin("clip-0/0", MARGIN, tmp_path / "margins.json")
    assert kept_margin(KEY, tmp_path / "margins.json") is None


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_of_an_evaluations_own_is_told_and_not_overwritten(tmp_path: Path, case: str) -> None:
    path = tmp_path / "margins.json"
    path.write_text(json.dumps(BROKEN[case]), encoding="utf-8")
    with pytest.raises(DataError, match="delete it, and they are measured again"):
        kept_margin(KEY, path)
    with pytest.raises(DataError, match="delete it, and they are measured again"):
        save_margin(KEY, MARGIN, path)
    assert path.read_text(encoding="utf-8") == json.dumps(BROKEN[case])


def test_a_file_of_another_judge_is_refused_in_a_line(tmp_path: Path) -> None:
    save_margin("examiner-ba9876543210/abcdefabcdef", MARGIN, tmp_path / "margins.json")
    with pytest.raises(ConfigError, match=f"no margin of judge and base model {KEY}") as caught:
        load_margin(KEY, tmp_path / "margins.json")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("case", [None, *BROKEN])
def test_a_file_that_is_absent_or_broken_or_of_other_sets_than_dev_is_refused(
    tmp_path: Path, case: str | None
) -> None:
    path = tmp_path / "margins.json"
    if case is not None:
        path.write_text(json.dumps(BROKEN[case]), encoding="utf-8")
    with pytest.raises(DataError, match="holds no margins of dev") as caught:
        load_margin(KEY, path)
    assert len(str(caught.value).splitlines()) == 1
