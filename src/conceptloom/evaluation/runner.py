"""Running a plan's tasks: what is done stays done, workers side by side, one event per finished unit.

A worker holds the base model and computes on its own share of the cores: on a CPU two units at a time on one thread
each take less time than one after the other on two.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import torch

from conceptloom.backbone import Backbone, load_backbone
from conceptloom.errors import RunError
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet
from conceptloom.evaluation.plan import Task
from conceptloom.evaluation.units import UnitKey, UnitResult, has_unit, run_unit, save_unit
from conceptloom.runs import RunLock

SCRATCH = "scratch"
_LEFTOVERS = (f".*.{SCRATCH}", f"..*.{SCRATCH}.lock", ".*.part")
"""What a worker that was killed leaves beside the units: a run's own files, its lock, half a unit."""


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
    if device.type != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_threads(workers: int) -> int:
    """Threads of each of so many workers: its share of those that torch uses here."""
    return max(1, torch.get_num_threads() // workers)


def run_tasks(
    tasks: Sequence[Task], benchmark: Benchmark, base: BaseModel, units: Path, workers: int
) -> Generator[UnitDone, None, None]:
    """Run every task that is not done, yielding as they finish; closing the iterator stops the workers.

    Workers are new processes that import the caller's main module: a script needs its `if __name__ == "__main__"`.

    Args:
        tasks: in the order in which they are begun.
        benchmark: holds the tasks' sets.
        base: the base model; every worker loads it.
        units: folder of the finished units; another process that runs tasks here is refused.
        workers: processes side by side.

    Raises:
        ConceptloomError: what a unit raised; the others' results stay.
        RunError: the folder is in use, or a worker was killed.
    """
    units.mkdir(parents=True, exist_ok=True)
    with RunLock(units):
        _remove_leftovers(units)
        todo = missing_tasks(tasks, units)
        if not todo:
            return
        sets = {one.name: one for one in benchmark.sets}
        done = 0
        try:
            with closing(_side_by_side(todo, sets, base, units, min(workers, len(todo)))) as finished:
                for key, seconds in finished:
                    done += 1
                    yield UnitDone(key, done, len(todo), seconds)
        except BrokenProcessPool as error:
            raise RunError(
                f"a worker of the evaluation was killed after {done} of {len(todo)} units, as when memory runs out:"
                " run the same command again to go on, with fewer workers"
            ) from error
        finally:
            _remove_leftovers(units)


def _remove_leftovers(units: Path) -> None:
    """Delete what killed workers left in the folder; its lock must be held."""
    for pattern in _LEFTOVERS:
        for path in units.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _side_by_side(
    todo: Sequence[Task], sets: Mapping[str, BenchmarkSet], base: BaseModel, units: Path, workers: int
) -> Generator[tuple[UnitKey, float], None, None]:
    """Key and seconds of each unit as it is finished; when the iterator ends, however it does, no worker is left."""
    threads = worker_threads(workers)
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (threads,))
    waiting = iter(todo)
    running: set[Future[tuple[UnitKey, float]]] = set()

    def begin() -> None:
        # No task waits in the pool's pipe: one that is not read would keep a pool from ending.
        with _environment(OMP_NUM_THREADS=str(threads)):
            for task in islice(waiting, workers - len(running)):
                running.add(pool.submit(_run_one, task, sets[task.key.set], base, units))

    try:
        begin()
        while running:
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            running -= finished
            results = [future.result() for future in finished]
            begin()
            yield from results
    finally:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Environment of processes started within: libraries size their thread pools by it when they are loaded."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the caller ends its workers
    torch.set_num_threads(threads)
    Thread(target=_end_with_caller, daemon=True).start()


def _end_with_caller() -> None:
    """A caller that is killed cannot end its workers, and the next one must find the folder at rest."""
    caller = parent_process()
    assert caller is not None
    caller.join()
    os._exit(1)


_load_once = cache(BaseModel.load)


def _run_one(task: Task, one: BenchmarkSet, base: BaseModel, units: Path) -> tuple[UnitKey, float]:
    result: UnitResult | None = None
    scratch = units / f".{task.key.folder_name}.{SCRATCH}"
    # Loaded here and not when the worker starts, so that a base model's error is told as any other.
    backbone = _load_once(base)
    for event in run_unit(task.key, one, backbone, scratch, draws=task.draws, overrides=task.overrides):
        if isinstance(event, UnitResult):
            result = event
    assert result is not None
    save_unit(result, units)
    return task.key, sum(result.seconds.values())
