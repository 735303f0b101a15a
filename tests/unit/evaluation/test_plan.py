"""Which units an evaluation runs, and what each draws."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.reduction import ForkingPickler

import pytest

from conceptloom.evaluation.benchmark import PROMPT_KINDS, Benchmark
from conceptloom.evaluation.methods import FINDS_ONCE, METHODS, MethodName, method_config
from conceptloom.evaluation.plan import (
    FULL,
    MASKS,
    QUICK,
    SHOWN_PROMPT,
    SMOKE,
    Size,
    Task,
    comparison_plan,
    mask_task,
    whole_task,
)
from conceptloom.evaluation.units import UnitKey
from tiny_sets import tiny_benchmark_set

SIZE = Size(sets=4, seeds=3, image_sets=2, margin_sets=1, prompts=2, images=2, shown=5)
EVERY: tuple[MethodName, ...] = ("gt", "fixed", "paper", "inversion", "words")
ONE = tiny_benchmark_set()


def benchmark(count: int) -> Benchmark:
    return Benchmark("own", "dev", tuple(replace(ONE, name=f"set-{index}") for index in range(count)))


def keys(tasks: tuple[Task, ...]) -> list[UnitKey]:
    return [task.key for task in tasks]


def test_a_method_that_finds_masks_learns_every_set_at_every_seed_once() -> None:
    tasks = comparison_plan(benchmark(4), EVERY, SIZE)
    for method in ("fixed", "paper"):
        learned = [(key.set, key.seed) for key in keys(tasks) if key.method == method]
        assert sorted(learned) == [(f"set-{index}", seed) for index in range(4) for seed in range(3)]


def test_a_method_whose_masks_are_known_or_absent_learns_only_what_it_draws() -> None:
    tasks = comparison_plan(benchmark(4), EVERY, SIZE)
    for method in ("gt", "inversion", "words"):
        learned = [(key.set, key.seed) for key in keys(tasks) if key.method == method]
        assert learned == [("set-0", 0), ("set-1", 0)]


def test_the_first_sets_draw_by_every_method_at_the_first_seed() -> None:
    tasks = comparison_plan(benchmark(4), EVERY, SIZE)
    drawing = {task.key for task in tasks if task.images and task.key.seed == 0}
    assert drawing == {UnitKey(f"set-{index}", method, 0) for index in range(2) for method in EVERY}


def test_paper_alone_draws_at_a_second_seed_on_as_many_sets_as_the_margin_needs() -> None:
    tasks = comparison_plan(benchmark(4), EVERY, SIZE)
    assert [task.key for task in tasks if task.images and task.key.seed > 0] == [UnitKey("set-0", "paper", 1)]


@pytest.mark.parametrize(
    ("methods", "drawn"),
    [(("fixed", "refined"), ["refined"]), (("refined", "paper"), ["paper"]), (("gt", "fixed"), [])],
)
def test_refined_draws_at_a_second_seed_where_paper_is_not_compared(
    methods: tuple[MethodName, ...], drawn: list[str]
) -> None:
    tasks = comparison_plan(benchmark(4), methods, SIZE)
    assert [task.key.method for task in tasks if task.images and task.key.seed > 0] == drawn


def test_what_draws_comes_before_what_does_not() -> None:
    drawing = [task.images > 0 for task in comparison_plan(benchmark(4), EVERY, SIZE)]
    assert drawing == sorted(drawing, reverse=True)


def test_an_evaluation_stopped_after_one_set_has_compared_all_methods_on_it() -> None:
    tasks = comparison_plan(benchmark(4), EVERY, SIZE)
    assert [task.key.set for task in tasks[: len(EVERY)]] == ["set-0"] * len(EVERY)
    assert [task.key.method for task in tasks[: len(EVERY)]] == list(EVERY)


def test_no_unit_is_planned_twice() -> None:
    for size in (SIZE, SMOKE, replace(SMOKE, seeds=3, image_sets=2)):
        planned = keys(comparison_plan(benchmark(4), EVERY, size))
        assert len(set(planned)) == len(planned)


def test_a_set_draws_each_prompt_as_often_as_measured_and_the_shown_one_more_often() -> None:
    task = whole_task(ONE, "paper", 0, SIZE)
    assert SHOWN_PROMPT == 1
    assert task.draws == {0: 2, 1: 5}
    assert task.images == 7


def test_prompts_that_are_only_looked_at_are_drawn_by_their_numbers() -> None:
    one = replace(ONE, shown=ONE.prompts[:1])
    task = whole_task(one, "paper", 0, SIZE)
    assert task.draws == {0: 2, 1: 5, 2: 2}
    assert one.prompt(2) == ONE.prompts[0]


def test_a_set_of_fewer_prompts_draws_those_it_has() -> None:
    assert list(whole_task(ONE, "paper", 0, FULL).draws) == [0, 1]
    assert list(whole_task(replace(ONE, prompts=ONE.prompts[:1]), "paper", 0, FULL).draws) == [0]


@pytest.mark.parametrize("size", [SIZE, replace(SMOKE, seeds=2, image_sets=1)])
def test_every_task_can_be_sent_to_a_worker(size: Size) -> None:
    for task in comparison_plan(benchmark(4), METHODS, size):
        assert ForkingPickler.loads(ForkingPickler.dumps(task)) == task


@pytest.mark.parametrize("family", ["builtin", "sd"])
@pytest.mark.parametrize("size", [SIZE, replace(SMOKE, seeds=2, image_sets=1)])
def test_every_method_understands_the_switches_its_tasks_change(family: str, size: Size) -> None:
    for task in comparison_plan(benchmark(4), METHODS, size):
        if task.key.method != "words":
            method_config(family, task.key.method, task.key.seed, task.overrides)


def test_a_unit_for_masks_takes_all_steps_of_em_and_none_of_the_joint_stage() -> None:
    task = mask_task(ONE, "paper", 2, SIZE)
    config, whole = (method_config("builtin", "paper", 2, changed) for changed in (task.overrides, {}))
    assert task.key == UnitKey("one", "paper", 2, MASKS)
    assert (config.em_steps, config.joint_steps, task.images) == (whole.em_steps, 0, 0)


@pytest.mark.parametrize("method", sorted(FINDS_ONCE))
def test_masks_that_are_found_once_are_known_before_the_first_step(method: MethodName) -> None:
    config = method_config("builtin", method, 0, mask_task(ONE, method, 0, SIZE).overrides)
    assert (config.em_steps, config.joint_steps) == (0, 0)


def test_a_smoke_run_draws_a_prompt_of_each_kind_twice_and_our_method_again_on_one_set() -> None:
    one = replace(ONE, prompts=ONE.prompts * 10)
    tasks = comparison_plan(Benchmark("own", "dev", (one, replace(one, name="two"))), EVERY, SMOKE)
    assert [task.key for task in tasks if task.key.seed] == [UnitKey("one", "paper", 1, QUICK)]
    for task in tasks:
        assert list(task.draws) == list(range(len(PROMPT_KINDS)))
        assert min(task.draws.values()) == 2


def test_every_unit_of_a_smoke_run_is_short_and_says_so() -> None:
    tasks = comparison_plan(benchmark(4), METHODS, replace(SMOKE, seeds=2, image_sets=2))
    assert {task.key.variant for task in tasks} == {QUICK}
    for task in tasks:
        if task.key.method != "words":
            config = method_config("builtin", task.key.method, task.key.seed, task.overrides)
            assert config.em_steps + config.inversion_steps * (config.initializer == "inversion") <= 60
            assert config.joint_steps <= 20
