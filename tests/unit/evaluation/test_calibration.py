"""What a judge of images is calibrated to, and the numbers that ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conceptloom.errors import DataError
from conceptloom.evaluation import shipped as shipped_files
from conceptloom.evaluation.builtin_sets import builtin_benchmark
from conceptloom.evaluation.calibration import Calibration, calibrate_on_dev, shipped_calibration
from conceptloom.evaluation.image_findings import EXAMINER, judge_fingerprint, set_up_judge
from conceptloom.evaluation.image_references import prototypes, references
from conceptloom.evaluation.image_view import ImageJudge
from conceptloom.judges.detector import load_judge
from conceptloom.judges.features import load_feature_judge

KEY = "examiner-0123456789ab"
FIXED = Calibration(present_from=0.25, usual_identity=0.75)


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the shipped calibrations would lie."""
    monkeypatch.setattr(shipped_files, "files", lambda _: tmp_path)
    path = tmp_path / "data" / "judges" / "calibrations.json"
    path.parent.mkdir(parents=True)
    return path


def test_the_shipped_calibration_is_what_the_shipped_examiner_measures() -> None:
    benchmark = builtin_benchmark("dev", 2)
    features = load_feature_judge(EXAMINER)
    known = prototypes(
        benchmark, {one.name: references(one, features, greyed=True) for one in benchmark.sets}
    )
    judge = ImageJudge(load_judge(EXAMINER), features, known, 0.0, 1.0)
    found = calibrate_on_dev(judge, 128)
    told = shipped_calibration(judge_fingerprint(benchmark, EXAMINER, None), 128)
    assert told is not None
    assert told.model_dump() == pytest.approx(found.model_dump(), abs=2e-3)


def test_a_judge_whose_calibration_ships_judges_by_it(monkeypatch: pytest.MonkeyPatch, shipped: Path) -> None:
    benchmark = builtin_benchmark("dev", 2)
    key = judge_fingerprint(benchmark, EXAMINER, None)
    shipped.write_text(json.dumps({f"{key}/128": FIXED.model_dump()}), encoding="utf-8")
    judge = set_up_judge(benchmark).judge
    assert (judge.present_from, judge.usual_identity) == (0.25, 0.75)


def test_a_calibration_belongs_to_a_judge_and_a_size_of_pictures(shipped: Path) -> None:
    shipped.write_text(json.dumps({f"{KEY}/128": FIXED.model_dump()}), encoding="utf-8")
    assert shipped_calibration(KEY, 128) == FIXED
    assert shipped_calibration(KEY, 64) is None
    assert shipped_calibration("examiner-ba9876543210", 128) is None


def test_without_the_file_no_calibration_ships(shipped: Path) -> None:
    assert shipped_calibration(KEY, 128) is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": {"present_from": 0.2}}', '{"a": 1}'])
def test_a_damaged_file_of_calibrations_is_told(shipped: Path, text: str) -> None:
    shipped.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="damaged: reinstall"):
        shipped_calibration(KEY, 128)
