"""What an evaluation will take: from finished units, else from timing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conceptloom.backbone import Backbone
from conceptloom.evaluation import cost
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.cost import (
    UnitCost,
    estimate_tasks,
    finished_costs,
    image_seconds,
    plan_seconds,
    typical_set,
)
from conceptloom.evaluation.plan import Task
from conceptloom.evaluation.units import UnitKey, UnitResult, save_unit
from conceptloom.generation import DEFAULTS
from conceptloom.learning import Estimate, LearnRequest
from tiny_sets import tiny_benchmark_set

ONE = tiny_benchmark_set()
BENCHMARK = Benchmark("own", "dev", (ONE,))


def task(method: str, images: int = 0, *, seed: int = 0, variant: str = "", **overrides: Any) -> Task:
    return Task(UnitKey("one", method, seed, variant), {0: images} if images else {}, overrides)  # type: ignore[arg-type]


def finished(root: Path, which: Task, learn: float, draw: float) -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    images = {(0, index): pixels for index in range(which.images)}
    save_unit(UnitResult(which.key, (), images, {"learn": learn, "draw": draw}), root)


@pytest.fixture
def estimated(monkeypatch: pytest.MonkeyPatch) -> list[LearnRequest]:
    """The requests whose learning was estimated, each at its EM steps in seconds."""
    asked: list[LearnRequest] = []

    def fake(request: LearnRequest, backbone: Backbone) -> Estimate:
        asked.append(request)
        return Estimate({"em": float(request.config.em_steps)}, 0, 0)

    monkeypatch.setattr(cost, "estimate", fake)
    return asked


def no_timing(backbone: Backbone) -> float:
    raise AssertionError("drawing is timed though finished units tell")


def test_work_is_shared_by_the_workers() -> None:
    tasks = [task("paper", seed=seed) for seed in range(4)]
    seconds = {one.key: 30.0 for one in tasks}
    assert [plan_seconds(tasks, seconds, workers) for workers in (1, 2, 4)] == [120.0, 60.0, 30.0]


def test_no_number_of_workers_ends_before_the_longest_unit() -> None:
    long, short = task("paper"), task("fixed")
    assert plan_seconds([long, short], {long.key: 100.0, short.key: 10.0}, 8) == 100.0


def test_nothing_to_run_takes_no_time() -> None:
    assert plan_seconds([], {}) == 0.0


def test_finished_units_cost_their_medians_by_method_and_variant(tmp_path: Path) -> None:
    for seed, (learn, draw) in enumerate([(10.0, 4.0), (20.0, 8.0), (90.0, 100.0)]):
        finished(tmp_path, task("paper", 4, seed=seed), learn, draw)
    finished(tmp_path, task("paper", variant="masks"), 5.0, 0.0)
    assert finished_costs(tmp_path) == {
        ("paper", ""): UnitCost(20.0, 2.0),
        ("paper", "masks"): UnitCost(5.0, None),
    }


def test_a_unit_that_cannot_be_read_or_is_not_whole_tells_nothing(tmp_path: Path) -> None:
    finished(tmp_path, task("paper"), 10.0, 0.0)
    for name, text in {"damaged": "{", "old": '{"unit": {}}', ".half.part": ""}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "unit.json").write_text(text, encoding="utf-8")
    (tmp_path / ".half.part" / "unit.json").write_text(
        json.dumps(
            {"unit": {"method": "gt", "variant": ""}, "seconds": {"learn": 1, "draw": 1}, "images": []}
        ),
        encoding="utf-8",
    )
    assert finished_costs(tmp_path) == {("paper", ""): UnitCost(10.0, None)}


def test_a_run_that_ended_early_tells_nothing_of_what_a_whole_one_takes(tmp_path: Path) -> None:
    finished(tmp_path, task("paper"), 10.0, 0.0)
    early = UnitResult(UnitKey("one", "paper", 7), (), {}, {"learn": 1.0, "draw": 0.0}, diverged="not finite")
    save_unit(early, tmp_path)
    assert finished_costs(tmp_path) == {("paper", ""): UnitCost(10.0, None)}


def test_a_task_takes_what_finished_units_of_its_kind_took_by_its_own_number_of_images(
    tmp_path: Path,
    tiny_backbone: Backbone,
    estimated: list[LearnRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "image_seconds", no_timing)
    finished(tmp_path, task("paper", 2), 10.0, 6.0)
    more = task("paper", 5, seed=1)
    assert estimate_tasks([more], BENCHMARK, tiny_backbone, tmp_path) == {more.key: 25.0}
    assert estimated == []


def test_an_unknown_kind_is_estimated_once_and_its_images_take_what_others_took(
    tmp_path: Path,
    tiny_backbone: Backbone,
    estimated: list[LearnRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "image_seconds", no_timing)
    finished(tmp_path, task("paper", 2), 10.0, 6.0)
    tasks = [task("fixed", 2, seed=seed, em_steps=30) for seed in range(3)]
    tasks.append(task("fixed", variant="other", em_steps=7))
    told = estimate_tasks(tasks, BENCHMARK, tiny_backbone, tmp_path)
    assert list(told.values()) == [36.0, 36.0, 36.0, 7.0]
    assert [request.config.em_steps for request in estimated] == [30, 7]


def test_class_words_are_drawn_and_not_learned(
    tmp_path: Path,
    tiny_backbone: Backbone,
    estimated: list[LearnRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cost, "image_seconds", lambda backbone: 0.5)
    words = task("words", 6)
    assert estimate_tasks([words], BENCHMARK, tiny_backbone, tmp_path / "none") == {words.key: 3.0}
    assert estimated == []


def test_learning_is_estimated_with_a_workers_threads_and_the_callers_come_back(
    tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, seen = torch.get_num_threads(), []

    def fake(request: LearnRequest, backbone: Backbone) -> Estimate:
        seen.append(torch.get_num_threads())
        return Estimate({"em": 1.0}, 0, 0)

    monkeypatch.setattr(cost, "estimate", fake)
    estimate_tasks([task("fixed")], BENCHMARK, tiny_backbone, tmp_path, threads=before + 1)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_nothing_to_run_is_estimated_without_a_set(tmp_path: Path, tiny_backbone: Backbone) -> None:
    assert estimate_tasks([], BENCHMARK, tiny_backbone, tmp_path) == {}


def test_the_learners_own_estimate_is_asked_for_a_task(
    tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path / "cache"))
    short, long = (
        task("fixed", em_steps=10, joint_steps=0),
        task("fixed", seed=1, em_steps=1000, joint_steps=0),
    )
    told = estimate_tasks([short, long], BENCHMARK, tiny_backbone, tmp_path / "units")
    assert 0 < told[short.key] < told[long.key]


def test_the_typical_set_is_of_middling_size() -> None:
    def of(name: str, concepts: Sequence[int]) -> BenchmarkSet:
        kept = tuple(ONE.concepts[index] for index in concepts)
        names = tuple(concept.name for concept in kept)
        picture = replace(
            ONE.pictures[0], masks={key: mask for key, mask in ONE.pictures[0].masks.items() if key in names}
        )
        return replace(
            ONE, name=name, pictures=(picture,), concepts=kept, contains={"first": names}, prompts=()
        )

    two_pictures = replace(
        ONE,
        name="large",
        pictures=(ONE.pictures[0], replace(ONE.pictures[0], name="second")),
        contains={"first": ("pet", "place"), "second": ("pet", "place")},
    )
    assert typical_set([two_pictures, of("small", [0]), of("middling", [0, 1])]).name == "middling"


def test_an_image_takes_all_its_steps_and_its_share_of_a_batchs_decoding(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(DEFAULTS["sd"], num_inference_steps=20, batch_size=4)
    monkeypatch.setitem(DEFAULTS, "sd", settings)
    # Step and decoding in turn; the first round warms up, and one of the others meets a hiccup.
    clock = _clock([(100.0, 100.0), (2.0, 8.0), (50.0, 8.0), (2.0, 80.0)])
    monkeypatch.setattr(cost, "perf_counter", lambda: next(clock))
    assert image_seconds(tiny_backbone) == pytest.approx((20 * 2.0 + 8.0) / 4)


def _clock(rounds: list[tuple[float, float]]) -> Iterator[float]:
    """What a clock reads at a round's begin, after its step, and after its decoding."""
    now = 0.0
    for step, decoding in rounds:
        yield now
        now += step
        yield now
        now += decoding
        yield now


@pytest.mark.parametrize(
    "damage",
    ["[" * 100_000, '{"unit": 1}', '{"seconds": {"learn": 1e999, "draw": 0}}', '{"images": [[0]]}', "\x00"],
)
def test_a_unit_that_cannot_be_read_tells_no_cost(damage: str, tmp_path: Path) -> None:
    finished(tmp_path, task("paper"), 8.0, 0.0)
    finished(tmp_path, task("fixed"), 4.0, 0.0)
    path = tmp_path / task("paper").key.folder_name / "unit.json"
    told = json.loads(path.read_text())
    try:
        path.write_text(json.dumps({**told, **json.loads(damage)}).replace("Infinity", "1e999"))
    except (ValueError, RecursionError):
        path.write_text(damage)
    assert finished_costs(tmp_path) == {("fixed", ""): UnitCost(4.0, None)}
