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
from collections.abc import Mapping
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


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Replace the file at ``path`` by ``data``: after a crash it holds either all of the old or all of the new.

    Missing parent folders are made. Raises ``OSError`` where the disk refuses; the old file then stays.
    """
    path = Path(path)
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
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def require_place(folder: Path) -> None:
    """Raise ``RunError`` when ``folder`` could not be made: below a file, or where nothing may be written."""
    parent = next(parent for parent in folder.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise RunError(f"{parent} is a file, not a folder: choose another folder than {folder}")
    if not os.access(parent, os.W_OK):
        raise RunError(f"{parent} can't be written to: choose another folder than {folder}")


def write_text_atomic(path: str | Path, text: str) -> None:
    """``write_bytes_atomic`` for text, as UTF-8 with the line ends it has."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | Path, value: Any) -> None:
    """``write_bytes_atomic`` for plain data, as indented strict JSON: NaN and infinity raise ``ValueError``."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_jsonl(path: str | Path, record: Mapping[str, Any]) -> None:
    """Append ``record`` as one line of strict JSON: NaN and infinity raise ``ValueError``.

    A line that an earlier crash cut short is closed first, so that it spoils no line but itself.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        if stream.tell() > 0:
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) != b"\n":
                line = "\n" + line
        stream.write(line.encode("utf-8"))


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; lines that a crash cut short are left out."""
    records = []
    with Path(path).open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(ValueError):
                records.append(json.loads(line))
    return [record for record in records if isinstance(record, dict)]


def _current_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# mkstemp makes files that only the owner reads. The mask can only be read by setting it, which is not safe beside
# other threads: once, at import.
_UMASK = _current_umask()


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    if sys.platform == "win32":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(descriptor)


# The lock of a run folder -----------------------------------------------------------------------------------------


class RunLock:
    """Lets one process at a time work in a run folder: ``with RunLock(folder): ...``.

    The lock is the operating system's, on a file beside the folder (``.NAME.lock``), which names the owner. It ends
    with its process however that ends, so a stale one is never in the way; and it outlives a replacement of the
    folder itself. Entering raises ``RunError`` when another process holds it.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder).absolute()
        self.folder = folder
        self.path = folder.with_name(f".{folder.name}.lock")
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _try_lock(descriptor):
                    raise RunError(
                        f"{self.folder} is in use by {self._owner()}: wait until it ends, or use another folder"
                    )
                # An owner removes the file before letting go, so what was opened may be gone: then try the new one.
                if _is_same_file(descriptor, self.path):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, (json.dumps(owner) + "\n").encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._descriptor is not None
        if sys.platform == "win32":  # an open file cannot be removed there
            os.close(self._descriptor)
            with contextlib.suppress(OSError):
                self.path.unlink()
        else:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
        self._descriptor = None

    def _owner(self) -> str:
        try:
            owner = json.loads(self.path.read_text(encoding="utf-8"))
            return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):  # its owner is just writing or removing it
            return "another process"


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
