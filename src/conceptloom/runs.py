"""What is left on disk: atomic writes, the lock of a run folder, provenance, the cache folder.

A reader never sees half a file: a file is written under a temporary name in the same folder, flushed to the disk
and renamed over the old one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from conceptloom.errors import RunError

CACHE_VARIABLE = "CONCEPTLOOM_CACHE"
"""Environment variable that overrides where the cache folder is."""

_RECORDED_LIBRARIES = ("torch", "diffusers", "transformers")


# Atomic writes ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let an ``OSError`` within name ``path``: of writing and flushing it names nothing, of a temporary file that."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Replace the file at ``path`` by ``data``: after a crash it holds either all of the old or all of the new.

    Missing parent folders are made. Raises ``OSError``, which names ``path``, where the disk refuses; the old file
    then stays.
    """
    path = Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:32]}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_UMASK)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # a disk that has turned read-only keeps it
                temporary.unlink()
            raise
        sync(path.parent)


def expanded(path: str | Path) -> Path:
    """``path`` with the home folder for a leading ``~``, which shells leave in ``--out=~/set``; else as it is.

    Raises ``RunError`` where the ``~`` names nobody's home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RunError(f"'{path}' begins with no home folder ({error}): choose another one") from error


def require_place(folder: Path) -> None:
    """Raise ``RunError`` when ``folder`` could not be made: below a file, or where nothing may be written."""
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise RunError(f"{parent} is a file, not a folder: choose another folder than {folder}")
    if not os.access(parent, os.W_OK):
        raise RunError(f"{parent} can't be written to: choose another folder than {folder}")


def require_elsewhere(folder: Path) -> None:
    """Raise ``RunError`` when ``folder``, which is to be replaced as a whole, holds the folder one is in."""
    if Path.cwd().is_relative_to(folder.resolve()):
        raise RunError(
            f"{folder} holds the folder you are in, but is replaced as a whole: choose another one"
        )


def write_text_atomic(path: str | Path, text: str) -> None:
    """``write_bytes_atomic`` for text, as UTF-8 with the line ends it has."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | Path, value: Any) -> None:
    """``write_bytes_atomic`` for plain data, as indented strict JSON: NaN and infinity raise ``ValueError``."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_jsonl(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append ``record`` as one line of strict JSON: NaN and infinity raise ``ValueError``.

    A line that an earlier crash cut short is closed first, so that it spoils no line but itself. Raises ``OSError``,
    which names ``path``, where the disk refuses; the file then stays as it was.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    path = Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as stream:
            before = stream.tell()
            if before > 0:
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    line = "\n" + line
            left = memoryview(line.encode("utf-8"))
            try:
                while left:
                    left = left[stream.write(left) :]
            except OSError:
                stream.truncate(before)
                raise


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; lines that a crash cut short are left out."""
    records = []
    with Path(path).open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError, RecursionError):
                records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def _current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# mkstemp makes files that only the owner reads. The mask can only be read by setting it, which is not safe beside
# other threads: once, at import.
_UMASK = _current_umask()


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, so that they survive a power cut; raises ``OSError`` where that fails."""
    if sys.platform == "win32" and path.is_dir():  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Flush every file in ``folder`` and below, and the entries of its folders."""
    for path in (*folder.rglob("*"), folder):
        if path.is_file() or path.is_dir():
            sync(path)


# The lock of a run folder -----------------------------------------------------------------------------------------


BEAT_SEC = 10.0
"""Between two signs of life of a lock's owner: the lock file's modification time."""
STALE_SEC = 6 * BEAT_SEC
"""Silence after which an owner counts as dead, where the file system has no locks to ask."""
SETTLE_SEC = 1.0
"""After which, without locks, it shows who of several took over a stale one."""


class RunLock:
    """Lets one process at a time work in a run folder: ``with RunLock(folder): ...``.

    The lock is the operating system's, on a file beside the folder (``.NAME.lock``), which names the owner and is
    touched by it every 10 seconds. It ends with its process however that ends, so a stale one is never in the way; and
    it outlives a replacement of the folder itself. Where the file system has no locks (some network file systems), the
    file alone is the lock, and it is stale when it has not been touched for a minute by the file system's own clock.
    Entering raises ``RunError`` when another process holds it.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder).absolute()
        self.folder = folder
        self.path = folder.with_name(f".{folder.name}.lock")
        self._descriptor: int | None = None
        self._released = threading.Event()

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now(), "id": uuid.uuid4().hex}
        line = (json.dumps(owner) + "\n").encode()
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                has_locks = self._take(descriptor)
                # An owner removes the file before letting go, so what was opened may be gone: then try the new one.
                if _is_same_file(descriptor, self.path):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        try:
            with naming(self.path):
                os.ftruncate(self._descriptor, 0)
                os.write(self._descriptor, line)
        except OSError:
            self._let_go()
            raise
        if not has_locks:
            time.sleep(SETTLE_SEC)
            if self.path.read_bytes() != line:
                os.close(self._descriptor)
                self._descriptor = None
                raise self._in_use()
        self._released.clear()
        threading.Thread(target=self._beat, name="lock", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._descriptor is not None
        self._released.set()
        self._let_go()

    def _let_go(self) -> None:
        assert self._descriptor is not None
        if sys.platform == "win32":  # an open file cannot be removed there
            os.close(self._descriptor)
        with contextlib.suppress(
            OSError
        ):  # on a disk turned read-only it stays, for whoever comes next to take over
            self.path.unlink()
        if sys.platform != "win32":
            os.close(self._descriptor)
        self._descriptor = None

    def _take(self, descriptor: int) -> bool:
        """Take the lock, or what stands for it: whether the file system has locks; raises when it is another's."""
        try:
            if not _try_lock(descriptor):
                raise self._in_use()
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            if os.fstat(descriptor).st_size > 0 and self._silence() < STALE_SEC:
                raise self._in_use() from None
            return False
        return True

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SEC):
            with contextlib.suppress(
                OSError
            ):  # the disk is away for a while, or the lock has just been released
                os.utime(self.path)

    def _silence(self) -> float:
        """Seconds since the owner's last sign of life, by the clock that dates the lock file."""
        with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=f"{self.path.name[:32]}.") as now:
            return os.fstat(now.fileno()).st_mtime - self.path.stat().st_mtime

    def _in_use(self) -> RunError:
        return RunError(
            f"{self.folder} is in use by {self._owner()}: wait until it ends, or use another folder"
        )

    def _owner(self) -> str:
        try:
            owner = json.loads(self.path.read_text(encoding="utf-8"))
            known = f"process {owner['pid']} on {owner['host']} since {owner['since']}"
            return f"{known}, last heard of {max(self._silence(), 0):.0f} s ago"
        except Exception:  # its owner is just writing or removing it, or it holds anything else
            return "another process"


_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        # Locked bytes cannot be read by others there: lock one far behind the owner's name.
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


# Names of files ---------------------------------------------------------------------------------------------------

_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
)


def is_device_name(name: str) -> bool:
    """Whether Windows takes a file of this name for a device, whatever follows the first dot: "con", "nul.png"."""
    return name.split(".")[0].rstrip(" ").lower() in _DEVICES


# Provenance and cache ---------------------------------------------------------------------------------------------


def provenance() -> dict[str, Any]:
    """Where a result came from: versions, platform, date (UTC). Names no user, host or path."""
    return {
        "conceptloom": _version("conceptloom"),
        "python": platform.python_version(),
        **{library: _version(library) for library in _RECORDED_LIBRARIES},
        "platform": f"{platform.system()} {platform.machine()}",
        "date": _now(),
    }


def user_cache_dir() -> Path:
    """The folder for what can be made again (training state, prior images); it need not exist yet.

    ``CONCEPTLOOM_CACHE`` where it is set, else ``conceptloom`` in ``XDG_CACHE_HOME`` or ``~/.cache``.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    # The specification says to ignore a relative path.
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (shared if shared.is_absolute() else Path.home() / ".cache") / "conceptloom"


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
