"""Units of evaluation, run on a tiny random model, kept on disk and read back."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conceptloom.backbone import Backbone
from conceptloom.errors import DataError
from conceptloom.evaluation.benchmark import BenchmarkSet
from conceptloom.evaluation.methods import MethodName
from conceptloom.evaluation.units import UnitKey, UnitResult, has_unit, load_unit, run_unit, save_unit
from conceptloom.generation import DEFAULTS
from tiny_sets import tiny_benchmark_set

QUICK: dict[str, Any] = {
    "em_steps": 4,
    "joint_steps": 1,
    "batch_size": 1,
    "mask_update_every": 2,
    "initial_timesteps": 2,
    "e_step_timesteps": 1,
    "prior_images": 1,
    "sample_steps": 1,
    "crf": {"iterations": 1},
}


@pytest.fixture(autouse=True)
def _quick(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path_factory.getbasetemp() / "evaluation-cache"))
    monkeypatch.setitem(DEFAULTS, "sd", replace(DEFAULTS["sd"], num_inference_steps=2))


@pytest.fixture(scope="module")
def one() -> BenchmarkSet:
    return tiny_benchmark_set()


def quick(method: MethodName) -> dict[str, Any]:
    """Overrides for a run of seconds; only `paper` may say when masks are updated."""
    return {key: value for key, value in QUICK.items() if method == "paper" or key != "mask_update_every"}


def finished(
    method: MethodName, one: BenchmarkSet, backbone: Backbone, scratch: Path, seed: int = 3, num: int = 2
) -> UnitResult:
    key = UnitKey("one", method, seed)
    *_, last = run_unit(
        key, one, backbone, scratch, draws={1: num, 0: num} if num else {}, overrides=quick(method)
    )
    assert isinstance(last, UnitResult)
    return last


@pytest.mark.parametrize("method", ["gt", "fixed", "paper", "inversion", "words"])
def test_every_method_draws_each_prompt_as_often_as_asked(
    method: MethodName, one: BenchmarkSet, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    result = finished(method, one, tiny_backbone, tmp_path / "scratch")
    assert list(result.images) == [(1, 0), (1, 1), (0, 0), (0, 1)]
    assert {pixels.shape for pixels in result.images.values()} == {(tiny_backbone.size,) * 2 + (3,)}


def test_paper_leaves_masks_of_stage_two_and_of_every_e_step(
    one: BenchmarkSet, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    result = finished("paper", one, tiny_backbone, tmp_path / "scratch", num=0)
    assert [record.step for record in result.masks] == [0, 2, 4]
    assert result.masks_at("first").step == 4
    assert result.masks_at("first", 0).concepts == ("pet", "place")


def test_inversion_leaves_no_masks(one: BenchmarkSet, tiny_backbone: Backbone, tmp_path: Path) -> None:
    assert finished("inversion", one, tiny_backbone, tmp_path / "scratch", num=0).masks == ()


def test_a_unit_read_back_is_the_unit_that_was_kept(
    one: BenchmarkSet, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    result = finished("paper", one, tiny_backbone, tmp_path / "scratch")
    save_unit(result, tmp_path / "units")
    again = load_unit(result.key, tmp_path / "units")
    assert (again.key, dict(again.seconds), again.drift) == (result.key, dict(result.seconds), result.drift)
    assert again.config == result.config
    for place, pixels in result.images.items():
        np.testing.assert_array_equal(again.images[place], pixels)
    for kept, read in zip(result.masks, again.masks, strict=True):
        np.testing.assert_array_equal(read.masks, kept.masks)
        assert (read.step, read.rescued, read.collapsed) == (kept.step, kept.rescued, kept.collapsed)


def test_the_scratch_folder_is_gone_after_a_unit(
    one: BenchmarkSet, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    finished("fixed", one, tiny_backbone, tmp_path / "scratch", num=0)
    assert not (tmp_path / "scratch").exists()


def test_a_unit_that_stops_halfway_is_not_there(
    one: BenchmarkSet, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    key = UnitKey("one", "fixed", 0)
    scratch = tmp_path / "scratch"
    events = run_unit(key, one, tiny_backbone, scratch, draws={0: 1}, overrides=quick("fixed"))
    next(iter(events))
    events.close()  # type: ignore[attr-defined]
    assert not has_unit(key, tmp_path / "units")
    assert not scratch.exists()


def test_a_run_whose_loss_does_not_stay_finite_is_kept_with_its_reason_and_done(
    one: BenchmarkSet, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = tiny_backbone.predict, itertools.count()

    def predict(*args: Any) -> Any:
        return original(*args) * (float("nan") if next(calls) >= QUICK["initial_timesteps"] else 1)

    monkeypatch.setattr(tiny_backbone, "predict", predict)
    key, scratch = UnitKey("one", "fixed", 0), tmp_path / "scratch"
    overrides = {**quick("fixed"), "em_steps": 8, "joint_steps": 0}
    *_, last = run_unit(key, one, tiny_backbone, scratch, draws={0: 1}, overrides=overrides)
    assert isinstance(last, UnitResult)
    save_unit(last, tmp_path / "units")
    assert has_unit(key, tmp_path / "units")
    again = load_unit(key, tmp_path / "units")
    assert again.diverged is not None
    assert again.diverged.startswith("the loss is no longer finite at EM step ")
    assert (again.masks, again.images) == ((), {})
    assert not scratch.exists()


def test_a_black_image_is_what_a_method_drew_and_ends_nothing(
    one: BenchmarkSet, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = tiny_backbone.size
    monkeypatch.setattr(
        tiny_backbone, "decode", lambda latents: np.zeros((len(latents), side, side, 3), np.uint8)
    )
    key, overrides = UnitKey("one", "fixed", 0), {**quick("fixed"), "train": "tokens"}
    *_, last = run_unit(key, one, tiny_backbone, tmp_path / "scratch", draws={0: 2}, overrides=overrides)
    assert isinstance(last, UnitResult)
    assert [int(pixels.max()) for pixels in last.images.values()] == [0, 0]


def test_a_damaged_unit_is_told_with_what_to_do(
    one: BenchmarkSet, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    result = finished("words", one, tiny_backbone, tmp_path / "scratch", num=1)
    folder = save_unit(result, tmp_path / "units")
    (folder / "unit.json").write_text('{"unit": {}', encoding="utf-8")
    with pytest.raises(DataError, match="delete the folder"):
        load_unit(result.key, tmp_path / "units")
