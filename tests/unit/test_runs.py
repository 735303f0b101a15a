from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from conceptloom import runs
from conceptloom.errors import RunError
from conceptloom.runs import (
    RunLock,
    append_jsonl,
    expanded,
    provenance,
    read_jsonl,
    user_cache_dir,
    write_bytes_atomic,
    write_json_atomic,
    write_text_atomic,
)


def test_a_written_file_holds_the_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_bytes_atomic(tmp_path / "deep" / "file", b"one")
    write_bytes_atomic(tmp_path / "deep" / "file", b"two")
    assert (tmp_path / "deep" / "file").read_bytes() == b"two"
    assert os.listdir(tmp_path / "deep") == ["file"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text_atomic(tmp_path / "file", "old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_text_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_refused_write_names_the_file_and_not_its_temporary_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", fail)
    with pytest.raises(OSError, match="No space") as refused:
        write_bytes_atomic(tmp_path / "file", b"new")
    assert (refused.value.errno, refused.value.filename) == (28, str(tmp_path / "file"))


def test_a_written_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "ours", "")
    (tmp_path / "plain").touch()
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_json_comes_back_and_text_stays_readable(tmp_path: Path) -> None:
    value = {"name": "Zoë", "steps": [1, 2.5, None]}
    write_json_atomic(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_bytes()) == value
    assert "Zoë" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "write", [lambda path, x: write_json_atomic(path, {"x": x}), lambda p, x: append_jsonl(p, {"x": x})]
)
def test_what_is_no_json_number_is_refused_before_anything_is_written(tmp_path: Path, write) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "file", float("nan"))
    assert os.listdir(tmp_path) == []


def test_records_are_appended_one_a_line(tmp_path: Path) -> None:
    for step in range(3):
        append_jsonl(tmp_path / "sub" / "metrics.jsonl", {"step": step})
    lines = (tmp_path / "sub" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2]


def test_a_line_cut_short_by_a_crash_spoils_only_itself(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st')
    append_jsonl(tmp_path / "metrics.jsonl", {"step": 1})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0}\n{"st\n{"step": 1}\n'


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are of POSIX")
def test_a_line_that_the_disk_cuts_short_is_taken_back(tmp_path: Path) -> None:
    import resource
    import signal

    path = tmp_path / "metrics.jsonl"
    append_jsonl(path, {"step": 0})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
    try:
        with pytest.raises(OSError, match=r"metrics\.jsonl"):
            append_jsonl(path, {"step": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before


def test_lines_cut_short_by_a_crash_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"stage": "em"}\n{"stage": "e\xff\n[]\n\n{"stage": "joint"}\n')
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"stage": "em"}, {"stage": "joint"}]


def test_a_line_nested_too_deeply_to_read_spoils_only_itself(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"a": ' + "[" * 100_000 + '\n{"step": 1}\n')
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 1}]


@pytest.mark.skipif(sys.platform == "win32", reason="the lock file cannot be written to there")
@pytest.mark.parametrize("told", [b"", b"\xff", b"[]", b"null", b"[" * 100_000, b'{"pid": 1}'])
def test_a_lock_file_that_tells_nothing_is_of_another_process(told: bytes, tmp_path: Path) -> None:
    with RunLock(tmp_path / "set"):
        (tmp_path / ".set.lock").write_bytes(told)
        with pytest.raises(RunError, match="in use by another process"), RunLock(tmp_path / "set"):
            pass


HOLD = """
import sys
from conceptloom.runs import RunLock
with RunLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_folder_locked_by_another_process_is_refused_naming_it(tmp_path: Path) -> None:
    with hold(tmp_path / "set") as process:
        with (
            pytest.raises(RunError, match=f"in use by process {process.pid} on .+ since 20"),
            RunLock(tmp_path / "set"),
        ):
            pass
        process.kill()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    with hold(tmp_path / "set") as process:
        process.kill()
    assert os.listdir(tmp_path) == [".set.lock"]
    with RunLock(tmp_path / "set"):
        assert json.loads((tmp_path / ".set.lock").read_text())["pid"] == os.getpid()


def test_a_refusal_says_when_the_owner_was_last_heard_of(tmp_path: Path) -> None:
    with RunLock(tmp_path / "set") as lock:
        os.utime(lock.path, (time.time() - 25, time.time() - 25))
        with pytest.raises(RunError, match=r"last heard of 2[56] s ago"), RunLock(tmp_path / "set"):
            pass


def test_an_owner_gives_signs_of_life_until_it_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "BEAT_SEC", 0.01)
    with RunLock(tmp_path / "set") as lock:
        os.utime(lock.path, (0, 0))
        deadline = time.monotonic() + 10
        while lock.path.stat().st_mtime == 0:
            assert time.monotonic() < deadline
    assert lock._released.is_set()


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system that cannot lock."""

    def cannot(descriptor: int) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(runs, "_try_lock", cannot)
    monkeypatch.setattr(runs, "SETTLE_SEC", 0.01)


@pytest.mark.usefixtures("without_locks")
def test_where_nothing_can_be_locked_a_living_owner_is_still_respected(tmp_path: Path) -> None:
    with (
        RunLock(tmp_path / "set"),
        pytest.raises(RunError, match="in use by process"),
        RunLock(tmp_path / "set"),
    ):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("without_locks")
def test_where_nothing_can_be_locked_a_minute_of_silence_makes_a_lock_stale(tmp_path: Path) -> None:
    with RunLock(tmp_path / "set") as dead:
        for silent, is_refused in ((55, True), (65, False)):
            os.utime(dead.path, (time.time() - silent, time.time() - silent))
            with pytest.raises(RunError) if is_refused else nullcontext(), RunLock(tmp_path / "set"):
                pass


@pytest.mark.usefixtures("without_locks")
def test_of_two_that_take_over_a_stale_lock_the_later_one_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = RunLock(tmp_path / "set")
    monkeypatch.setattr(time, "sleep", lambda _: lock.path.write_text("another's name"))
    with pytest.raises(RunError, match="in use by another process"), lock:
        pass
    assert lock.path.read_text() == "another's name"


def test_a_released_lock_leaves_no_file_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with RunLock(tmp_path / "set"), pytest.raises(RunError), RunLock(tmp_path / "set"):
            pass
    assert os.listdir(tmp_path) == []


def test_a_lock_is_released_when_the_work_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunLock(tmp_path / "set"):
        raise ZeroDivisionError
    with RunLock(tmp_path / "set"):
        pass


def test_a_lock_outlives_the_replacement_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with RunLock(tmp_path / "set"):
        (tmp_path / "set").rename(tmp_path / "old")
        (tmp_path / "set").mkdir()
        with pytest.raises(RunError), RunLock(tmp_path / "set"):
            pass


def test_provenance_names_versions_and_date_but_no_user_host_or_path() -> None:
    record = provenance()
    assert record["conceptloom"] == "0.1.0"
    assert record["torch"].startswith("2.")
    assert record["date"].endswith("+00:00")
    assert set(record) == {"conceptloom", "python", "torch", "diffusers", "transformers", "platform", "date"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"CONCEPTLOOM_CACHE": "/a/b", "XDG_CACHE_HOME": "/c"}, "/a/b"),
        ({"CONCEPTLOOM_CACHE": "~/b"}, "/home/u/b"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/conceptloom"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/u/.cache/conceptloom"),
        ({}, "/home/u/.cache/conceptloom"),
    ],
)
def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    for name in ("CONCEPTLOOM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert user_cache_dir() == Path(expected)


def test_a_tilde_that_a_shell_left_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/u")
    assert [expanded(path) for path in ("~/set", "a/~/set")] == [Path("/home/u/set"), Path("a/~/set")]


def test_a_home_folder_of_nobody_is_refused() -> None:
    with pytest.raises(RunError, match="'~no-such-user/set' begins with no home folder"):
        expanded("~no-such-user/set")


def test_a_lock_that_the_disk_refuses_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runs.os, "write", full)
        with pytest.raises(OSError, match="No space"), RunLock(tmp_path / "set"):
            pass
    assert os.listdir(tmp_path) == []
    with RunLock(tmp_path / "set"):
        pass


def test_a_lock_file_that_cannot_be_removed_hides_no_error_of_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    def work() -> None:
        with monkeypatch.context() as patch, RunLock(tmp_path / "set"):
            patch.setattr(Path, "unlink", read_only)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    with RunLock(tmp_path / "set"):
        pass
