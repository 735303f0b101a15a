"""A small disk of a test's own, and commands on it: a tmpfs in a mount namespace that a fork of the test enters.

The commands are forks of that one, which have everything imported. A hook sees each change that they are about to make
on the disk, and can make it refuse right before any of them, so that the error is the file system's own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from conceptloom.cli import build_app

ROOM_BYTES, ENTRIES, PAGE_BYTES = 4 * 2**20, 400, 4096
NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000  # CLONE_*
READ_ONLY, REMOUNT, BIND, PRIVATE_TREE = 0x1, 0x20, 0x1000, 0x44000  # MS_*
DETACHED = 2  # MNT_DETACH
NO_NAMESPACE = 77
BALLAST, BALLAST_ENTRIES = ".ballast", ".ballast-entries"


@dataclass(frozen=True)
class SmallDisk:
    """A file system that can be made to refuse."""

    root: Path

    def fill(self, pages_left: int = 0) -> None:
        """Leave so much room; files and folders can be made, but not written."""
        ballast = os.open(self.root / BALLAST, os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while True:
                os.write(ballast, bytes(16 * PAGE_BYTES))
        os.ftruncate(ballast, max(0, os.fstat(ballast).st_size - pages_left * PAGE_BYTES))
        os.close(ballast)

    def fill_entries(self) -> None:
        """Leave room, but for no file or folder more."""
        (self.root / BALLAST_ENTRIES).mkdir()
        with contextlib.suppress(OSError):
            for number in range(ENTRIES):
                (self.root / BALLAST_ENTRIES / str(number)).touch()

    def turn_read_only(self) -> None:
        """Refuse to change anything, also while files are open."""
        _mount(str(self.root), self.root, BIND)
        _mount("none", self.root, REMOUNT | BIND | READ_ONLY)

    def mend(self) -> None:
        """Take back what was done to it."""
        if not os.access(self.root, os.W_OK):
            _system("umount2", os.fsencode(self.root), DETACHED)
        (self.root / BALLAST).unlink(missing_ok=True)
        shutil.rmtree(self.root / BALLAST_ENTRIES, ignore_errors=True)

    def clear(self) -> None:
        """Remove everything."""
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def names(self) -> set[str]:
        """Names of what it holds, apart from what fills it."""
        return {path.name for path in self.root.iterdir()} - {BALLAST, BALLAST_ENTRIES}


def with_small_disk(folder: Path, work: Callable[[SmallDisk], None]) -> None:
    """Do `work` in a fork of this process that has a small disk at `folder`; what it raises fails the test.

    The test is skipped where neither root nor a user may have a mount namespace.
    """
    if sys.platform != "linux":
        pytest.skip("mount namespaces are Linux's")
    folder.mkdir()
    torch.set_num_threads(1)  # a fork keeps no threads
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        code = 1
        try:
            _enter_namespace(folder)
            work(SmallDisk(folder))
            code = 0
        except _NoNamespaceError as error:
            os.write(tell, str(error).encode())
            code = NO_NAMESPACE
        except BaseException:
            os.write(tell, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(tell)
    with os.fdopen(told) as stream:
        text = stream.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == NO_NAMESPACE:
        pytest.skip(text)
    if code != 0:
        pytest.fail(text or f"ended with {code}", pytrace=False)


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    errors: list[str]
    """Lines of stderr."""
    changes: list[str]
    """What it was about to change on the disk, one by one, as "open /disk/a"; the last one where it was struck."""
    was_struck: bool


def run_command(arguments: Sequence[object], disk: SmallDisk, **fault: Any) -> Ended:
    """Run `conceptloom` in a fork; see `run_in_fork` for the fault."""
    words = [str(argument) for argument in arguments]
    return run_in_fork(lambda: build_app()(words, prog_name="conceptloom"), disk, **fault)


def run_in_fork(
    work: Callable[[], object],
    disk: SmallDisk,
    *,
    strike: Callable[[], None] | None = None,
    when: Callable[[list[str]], bool] = lambda _: False,
) -> Ended:
    """Do `work` in a fork; `strike` once, right before the last of the changes so far of which `when` is true."""
    logs = disk.root.with_name("logs")
    logs.mkdir(exist_ok=True)
    names = ("output", "errors", "changes")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            output, errors, log = (
                os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for name in names
            )
            os.dup2(output, 1)
            os.dup2(errors, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            _watch(disk, log, strike, when)
            try:
                work()
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    told, wrong, changes = ((logs / name).read_text() for name in names)
    before, struck, _ = changes.partition("STRUCK\n")
    return Ended(code, told, wrong.splitlines(), before.splitlines(), bool(struck))


def _watch(
    disk: SmallDisk, log: int, strike: Callable[[], None] | None, when: Callable[[list[str]], bool]
) -> None:
    changes: list[str] = []
    has_struck = [False]

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        if has_struck[0] or not _changes_something(name, arguments):
            return
        path = str(arguments[0])
        if not path.startswith(str(disk.root)):
            return
        changes.append(f"{name} {path}")
        os.write(log, f"{changes[-1]}\n".encode())
        if strike is not None and when(changes):
            has_struck[0] = True
            os.write(log, b"STRUCK\n")
            strike()

    sys.addaudithook(watch)


def _changes_something(name: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an event of `sys.addaudithook` is about to change what is on a disk."""
    if name == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if name == "os.mkdir":
        return not os.path.lexists(arguments[0])
    return name in {"os.rename", "os.remove", "shutil.rmtree", "os.truncate"}


class _NoNamespaceError(Exception):
    """Neither root nor a user may mount here."""


def _enter_namespace(folder: Path) -> None:
    """Mount a small disk at `folder` that no other process sees, as root or as a user who becomes root of his own."""
    user, group = os.getuid(), os.getgid()
    try:
        try:
            _system("unshare", NEW_MOUNTS)
        except PermissionError:
            _system("unshare", NEW_USERS | NEW_MOUNTS)
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        _mount("none", Path("/"), PRIVATE_TREE)
        _mount("tmpfs", folder, 0, f"size={ROOM_BYTES},nr_inodes={ENTRIES},mode=700")
    except OSError as error:
        raise _NoNamespaceError(
            f"no disk can be mounted here, as root or in a user's namespace: {error}"
        ) from error


def _mount(what: str, where: Path, flags: int, options: str = "") -> None:
    kind = b"tmpfs" if what == "tmpfs" else None
    _system("mount", what.encode(), os.fsencode(where), kind, ctypes.c_ulong(flags), options.encode())


def _system(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
