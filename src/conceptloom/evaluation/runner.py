"""Running a plan's tasks: what is done stays done, workers side by side, one event per finished unit.

A worker holds the base model and computes on its own share of the cores: on a CPU two units at a time on one thread
each take less time than one after the other on two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from conceptloom.backbone import Backbone, load_backbone
from conceptloom.errors import RunError
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.plan import Task
from conceptloom.evaluation.units import UnitKey, UnitResult, has_unit, run_unit, save_unit

SCRATCH = "scratch"


@dataclass(frozen=True)
class BaseModel:
    """Which base model to load, as `load_backbone` takes it."""

    name: str
    device: str = "auto"
    dtype: str = "auto"

    def load(self) -> Backbone:
        """Load it."""
        return load_backbone(self.name, self.device, self.dtype)


@dataclass(frozen=True)
class UnitDone:
    """One unit was finished, `done` of `total` in this run, after so many seconds of work."""

    key: UnitKey
    done: int
    total: int
    seconds: float


def missing_tasks(tasks: Sequence[Task], units: Path) -> tuple[Task, ...]:
    """The tasks whose units are not in the folder yet, in order, each key once."""
    missing = {task.key: task for task in tasks if not has_unit(task.key, units)}
    return tuple(missing.values())


def worker_count(device: torch.device) -> int:
    """One worker per core on a CPU, one in all on anything else."""
    return (
        (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        if (device.type == "cpu")
        else 1
    )


def run_tasks(
    tasks: Sequence[Task], benchmark: Benchmark, base: BaseModel, units: Path, workers: int
) -> Iterator[UnitDone]:
    """Run every task that is not done, yielding as they finish; closing the iterator stops the workers.

    Args:
        tasks: in the order in which they are begun.
        benchmark: holds the tasks' sets.
        base: the base model; every worker loads it.
        units: folder of the finished units.
        workers: processes side by side.

    Raises:
        ConceptloomError: what a unit raised; the others' results stay.
        RunError: a worker was killed.
    """
    sets = {one.name: one for one in benchmark.sets}
    todo = missing_tasks(tasks, units)
    units.mkdir(parents=True, exist_ok=True)
    pool = ProcessPoolExecutor(
        max_workers=min(workers, max(1, len(todo))),
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(base, max(1, torch.get_num_threads() // workers)),
    )
    waiting = iter(todo)
    running: set[Future[tuple[UnitKey, float]]] = set()
    done = 0
    try:
        while True:
            # Two ahead: a worker never waits, and little is begun in vain when the iterator is closed.
            while len(running) < workers + 1 and (task := next(waiting, None)) is not None:
                running.add(pool.submit(_run_one, task, sets[task.key.set], units))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                key, seconds = future.result()
                done += 1
                yield UnitDone(key, done, len(todo), seconds)
    except BrokenProcessPool as error:
        raise RunError(
            f"a worker of the evaluation was killed after {done} of {len(todo)} units, as when memory runs out:"
            " run the same command again to go on, with fewer workers"
        ) from error
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


_backbone: Backbone | None = None


def _start_worker(base: BaseModel, threads: int) -> None:
    global _backbone
    torch.set_num_threads(threads)
    _backbone = base.load()


def _run_one(task: Task, one: BenchmarkSet, units: Path) -> tuple[UnitKey, float]:
    assert _backbone is not None
    result: UnitResult | None = None
    scratch = units / f".{task.key.folder_name}.{SCRATCH}"
    for event in run_unit(task.key, one, _backbone, scratch, draws=task.draws, overrides=task.overrides):
        if isinstance(event, UnitResult):
            result = event
    assert result is not None
    save_unit(result, units)
    return task.key, sum(result.seconds.values())
