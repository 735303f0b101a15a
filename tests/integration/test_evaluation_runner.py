"""Tasks run by a worker process on a tiny random model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import active_children
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from conceptloom import errors
from conceptloom.backbone import Backbone
from conceptloom.errors import ConceptloomError, ConfigError, RunError
from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.plan import Task
from conceptloom.evaluation.runner import BaseModel, UnitDone, missing_tasks, run_tasks, worker_threads
from conceptloom.evaluation.units import UnitKey, UnitResult, has_unit, load_unit, run_unit, save_unit
from conceptloom.runs import RunLock
from tiny_sets import tiny_benchmark_set

ONE = tiny_benchmark_set()
BENCHMARK = Benchmark("own", "dev", (ONE,))
SHORT: dict[str, Any] = {
    "em_steps": 2,
    "joint_steps": 0,
    "mask_update_every": 1,
    "initial_timesteps": 2,
    "e_step_timesteps": 1,
    "crf": {"iterations": 1},
}

DONE = Task(UnitKey("one", "words", 0), {0: 1}, {})
RUN = Task(UnitKey("one", "paper", 1), {0: 1}, SHORT)
WRONG = Task(UnitKey("one", "paper", 2), {}, {**SHORT, "tau": 2})
NEVER = Task(UnitKey("one", "words", 3), {0: 1}, {})
WORDS = Task(UnitKey("one", "words", 4), {0: 1}, {})
ENDLESS = Task(UnitKey("one", "fixed", 5), {}, {"em_steps": 1_000_000, "joint_steps": 0})


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCEPTLOOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> BaseModel:
    return BaseModel(str(tiny_folder), "cpu", "float32")


def made_up(task: Task) -> UnitResult:
    """A unit that no run leaves: one image, all of one colour."""
    return UnitResult(task.key, (), {(0, 0): np.full((8, 8, 3), 77, np.uint8)}, {"learn": 0.0, "draw": 0.0})


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@dataclass(frozen=True)
class Outcome:
    """What came of running one task that is done, one that is not, one that fails, and one more."""

    units: Path
    events: list[UnitDone]
    error: ConceptloomError


@pytest.fixture(scope="module")
def outcome(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    units = tmp_path_factory.mktemp("evaluation") / "units"
    save_unit(made_up(DONE), units)
    events: list[UnitDone] = []
    with pytest.raises(ConceptloomError) as raised:
        events.extend(run_tasks([DONE, RUN, WRONG, NEVER], BENCHMARK, base, units, 1))
    return Outcome(units, events, raised.value)


def test_a_finished_unit_is_not_run_again(outcome: Outcome) -> None:
    assert DONE.key not in {event.key for event in outcome.events}
    assert (load_unit(DONE.key, outcome.units).images[0, 0] == 77).all()


def test_a_missing_unit_is_run_and_told_as_one_of_those_that_were_missing(outcome: Outcome) -> None:
    seconds = sum(load_unit(RUN.key, outcome.units).seconds.values())
    assert outcome.events == [UnitDone(RUN.key, 1, 3, seconds)]


def test_a_task_that_fails_raises_its_own_error(outcome: Outcome) -> None:
    assert type(outcome.error) is ConfigError
    assert "'tau'" in str(outcome.error)
    assert "\n" not in str(outcome.error)


def test_a_failure_leaves_the_units_before_it_and_ends_what_follows(outcome: Outcome) -> None:
    assert {path.name for path in outcome.units.iterdir()} == {DONE.key.folder_name, RUN.key.folder_name}


def test_a_worker_leaves_the_unit_that_run_unit_leaves(
    outcome: Outcome, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    *_, direct = run_unit(
        RUN.key, ONE, tiny_backbone, tmp_path / "scratch", draws=RUN.draws, overrides=RUN.overrides
    )
    assert isinstance(direct, UnitResult)
    told = load_unit(RUN.key, outcome.units)
    assert list(told.images) == list(direct.images) == [(0, 0)]
    np.testing.assert_array_equal(told.images[0, 0], direct.images[0, 0])
    assert [record.step for record in told.masks] == [record.step for record in direct.masks]
    for mine, theirs in zip(told.masks, direct.masks, strict=True):
        np.testing.assert_array_equal(mine.masks, theirs.masks)
        np.testing.assert_array_equal(mine.maps, theirs.maps)
    assert told.config == direct.config


@dataclass(frozen=True)
class Closed:
    """What was seen of a run that was closed while its second unit was under way."""

    units: Path
    refused: str
    worker_environment: dict[str, str]
    own_threads: str | None


@pytest.fixture(scope="module")
def closed(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Closed:
    units, own_threads = tmp_path_factory.mktemp("closed") / "units", os.environ.get("OMP_NUM_THREADS")
    events = run_tasks([WORDS, ENDLESS], BENCHMARK, base, units, 1)
    assert next(events).key == WORDS.key
    (worker,) = active_children()
    environ = Path(f"/proc/{worker.pid}/environ")
    told = environ.read_text().split("\0") if environ.exists() else []
    wait_until(lambda: any(units.glob(".*.scratch")))
    with pytest.raises(RunError) as refused:
        next(run_tasks([NEVER], BENCHMARK, base, units, 1))
    events.close()
    environment = dict(entry.partition("=")[::2] for entry in told if entry)
    return Closed(units, str(refused.value), environment, own_threads)


def test_a_closed_iterator_leaves_no_scratch_and_no_half_unit(closed: Closed) -> None:
    assert [path.name for path in closed.units.iterdir()] == [WORDS.key.folder_name]


def test_a_closed_iterator_leaves_no_worker_and_no_lock(closed: Closed) -> None:
    assert active_children() == []
    with RunLock(closed.units):
        pass


def test_a_folder_in_use_is_refused_in_one_line(closed: Closed) -> None:
    assert f"{closed.units} is in use by process {os.getpid()}" in closed.refused
    assert "\n" not in closed.refused


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_begins_with_its_share_of_threads_and_the_caller_keeps_its_own(closed: Closed) -> None:
    assert closed.worker_environment["OMP_NUM_THREADS"] == "1"
    assert os.environ.get("OMP_NUM_THREADS") == closed.own_threads


def test_threads_are_shared_out_and_every_worker_has_one() -> None:
    assert worker_threads(1) >= 1
    assert worker_threads(1000) == 1


def test_what_killed_workers_left_is_gone_after_the_next_start(base: BaseModel, tmp_path: Path) -> None:
    save_unit(made_up(DONE), tmp_path)
    (tmp_path / ".one-paper-s0.scratch" / "checkpoints").mkdir(parents=True)
    (tmp_path / "..one-paper-s0.scratch.lock").write_text("{}", encoding="utf-8")
    (tmp_path / ".one-paper-s1.part").mkdir()
    (tmp_path / ".one-paper-s1.part" / "p00-i00.png").write_bytes(b"half")
    assert list(run_tasks([DONE], BENCHMARK, base, tmp_path, 1)) == []
    assert [path.name for path in tmp_path.iterdir()] == [DONE.key.folder_name]


def test_missing_tasks_keep_their_order_and_come_once(tmp_path: Path) -> None:
    save_unit(made_up(DONE), tmp_path)
    assert missing_tasks([RUN, DONE, NEVER, RUN], tmp_path) == (RUN, NEVER)


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_for_users_comes_back_from_a_worker_as_it_was(kind: type[ConceptloomError]) -> None:
    back = ForkingPickler.loads(ForkingPickler.dumps(kind("what was wrong: what to do")))
    assert type(back) is kind
    assert str(back) == "what was wrong: what to do"


CALLER = """
import sys
from pathlib import Path
from threading import Thread
from test_evaluation_runner import BENCHMARK, ENDLESS, BaseModel, run_tasks
if __name__ == "__main__":
    list(run_tasks([ENDLESS], BENCHMARK, BaseModel(sys.argv[1], "cpu", "float32"), Path(sys.argv[2]), 1))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_ends_with_a_caller_that_is_killed(tiny_folder: Path, tmp_path: Path) -> None:
    script, units = tmp_path / "caller.py", tmp_path / "units"
    script.write_text(CALLER, encoding="utf-8")
    here = Path(__file__).parent
    caller = subprocess.Popen(
        [sys.executable, str(script), str(tiny_folder), str(units)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])},
    )
    try:
        wait_until(lambda: any(units.glob(".*.scratch")))
        children = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text().split()
    finally:
        caller.send_signal(signal.SIGKILL)
        caller.wait()
    assert children
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert not has_unit(ENDLESS.key, units)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_worker_that_the_system_killed_is_told_in_one_line_and_finished_units_stay(
    base: BaseModel, tmp_path: Path
) -> None:
    told: list[str] = []

    def drive() -> None:
        with pytest.raises(RunError) as raised:
            list(run_tasks([WORDS, ENDLESS], BENCHMARK, base, tmp_path, 1))
        told.append(str(raised.value))

    driver = Thread(target=drive)
    driver.start()
    wait_until(lambda: has_unit(WORDS.key, tmp_path) and bool(active_children()))
    for child in active_children():
        child.kill()
    driver.join(120)
    assert told == [
        "a worker of the evaluation was killed after 1 of 2 units, as when memory runs out:"
        " run the same command again to go on, with fewer workers"
    ]
    assert [path.name for path in tmp_path.iterdir()] == [WORDS.key.folder_name]
