"""Checkpoints: safetensors and JSON under a manifest of sizes and hashes; the newest complete one wins.

One that is damaged is passed over and told of, and removed by the next one that the run writes. A run that begins
anew moves all there are to `checkpoints.damaged`, where they stay until it is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from conceptloom.backbone.tensors import read_tensors, require_finite
from conceptloom.concepts.storage import refuse_constant, write_tensors
from conceptloom.errors import RunError
from conceptloom.runs import sync, write_json_atomic

FORMAT_VERSION = 2
KEPT = 2
"""Complete checkpoints kept: the newest, and one to fall back to when it is damaged."""

CADENCE_KEYS = ("preview_every", "checkpoint_every")
"""Configuration that may change between stopping and resuming: it decides nothing that is learned."""

_TENSORS, _STATE, _MANIFEST = "state.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after a whole number of steps."""

    position: int
    """Steps done over all stages; orders the checkpoints of a run."""
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    """Plain data: steps done per stage, counters."""
    description: Mapping[str, Any]
    """What the run was asked to learn, the base model's fingerprint and precision."""

    @property
    def is_start(self) -> bool:
        """Whether nothing has been done: it only says what the run was asked to learn, see `save_start`."""
        return not self.state


@dataclass(frozen=True, eq=False)
class Found:
    """The newest complete checkpoint of a folder, and why newer ones were passed over."""

    checkpoint: Checkpoint | None
    skipped: tuple[str, ...]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write `checkpoint` under `folder`; a crash at any moment leaves the earlier ones intact.

    Newer ones under `folder`, which were passed over because they are damaged, are removed as the oldest are.

    Raises:
        RunError: the disk refuses, or a number is not finite; nothing of it is left, and the earlier ones stay.
    """
    for name, tensor in checkpoint.tensors.items():
        try:
            require_finite(name, tensor)
        except ValueError as error:
            raise RunError(
                f"the state after {checkpoint.position} steps is not kept, for {error}: go on from an earlier one"
                " at a lower rate"
            ) from error
    final = folder / f"{checkpoint.position:08d}"
    partial = folder / f".{final.name}.{os.getpid()}"
    try:
        _write(checkpoint, partial, final)
        names = _complete_names(folder)
        kept = [name for name in names if name <= final.name][:KEPT]
        for name in set(names) - set(kept):
            shutil.rmtree(folder / name)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(folder)
        size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
        advice = "repeat the command" if checkpoint.is_start else "add --resume"
        raise RunError(
            f"the checkpoint {final} of {size / 1e6:.1f} MB can't be written ({error.strerror}): mend that and {advice}"
        ) from error
    return final


def _write(checkpoint: Checkpoint, partial: Path, final: Path) -> None:
    """Write all files in the folder `partial`, then rename it to `final`."""
    _remove_partial(partial.parent)
    partial.mkdir(parents=True)
    write_tensors(partial / _TENSORS, checkpoint.tensors)
    sync(partial / _TENSORS)
    state = {
        "format_version": FORMAT_VERSION,
        "position": checkpoint.position,
        "state": checkpoint.state,
        "description": checkpoint.description,
    }
    write_json_atomic(partial / _STATE, state)
    write_json_atomic(partial / _MANIFEST, {name: _entry(partial / name) for name in (_TENSORS, _STATE)})
    if final.exists():
        shutil.rmtree(final)
    sync(partial)
    partial.rename(final)
    sync(final.parent)


def save_start(folder: Path, description: Mapping[str, Any]) -> Path:
    """Write checkpoint 0: what a run was asked to learn, before the base model is loaded and anything is done.

    Others in `folder`, of which none could be gone on from, are moved out of its way, see above.
    """
    if any(int(name) > 0 for name in _complete_names(folder)):
        damaged = folder.with_name(f"{folder.name}.damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        folder.rename(damaged)
    return save_checkpoint(folder, Checkpoint(0, {}, {}, description))


def forget_start(folder: Path) -> None:
    """Remove checkpoint 0, and `folder` and the run's folder where they held nothing else: it could not begin."""
    shutil.rmtree(folder / f"{0:08d}", ignore_errors=True)
    _remove_empty(folder)


def newest_checkpoint(folder: Path) -> Found:
    """The newest checkpoint under `folder` whose files are all there and have the recorded sizes and hashes."""
    skipped: list[str] = []
    for name in _complete_names(folder):
        try:
            return Found(_load(folder / name), tuple(skipped))
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            skipped.append(f"checkpoint {name} is damaged ({error}), passed over")
    return Found(None, tuple(skipped))


def require_same_run(checkpoint: Checkpoint, description: Mapping[str, Any]) -> None:
    """Raise `RunError` naming the fields in which the checkpoint's run differs from this one."""
    then, now = _flatten(checkpoint.description), _flatten(description)
    ignored = {f"config.{key}" for key in CADENCE_KEYS}
    keys = sorted((then.keys() | now.keys()) - ignored)
    differing = [key for key in keys if then.get(key) != now.get(key)]
    if differing:
        shown = "; ".join(
            f"{key} was {_short(then.get(key))}, is {_short(now.get(key))}" for key in differing[:3]
        )
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise RunError(
            f"the checkpoint belongs to another run ({shown}{more}): repeat its command, or use another --out"
        )


def _load(folder: Path) -> Checkpoint:
    manifest = _read_json(folder / _MANIFEST)
    for name in (_TENSORS, _STATE):
        if _entry(folder / name) != manifest[name]:
            raise ValueError(f"{name} does not match its manifest")
    stored = _read_json(folder / _STATE)
    if stored["format_version"] != FORMAT_VERSION:
        raise RunError(
            f"checkpoint {folder.name} has format {stored['format_version']}, this version reads {FORMAT_VERSION}:"
            " resume with the version that wrote it, or delete the folder to start again"
        )
    if stored["position"] != int(folder.name):
        raise ValueError(f"it is of step {stored['position']}")
    if not isinstance(stored["state"], dict) or not isinstance(stored["description"], dict):
        raise ValueError(f"{_STATE} holds no state and description")
    tensors = read_tensors(folder / _TENSORS)
    return Checkpoint(stored["position"], tensors, stored["state"], stored["description"])


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)


def _complete_names(folder: Path) -> list[str]:
    """Names of checkpoint folders, newest first; partial ones begin with a dot."""
    if not folder.is_dir():
        return []
    return sorted(
        (entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal()), reverse=True
    )


def _remove_partial(folder: Path) -> None:
    if folder.is_dir():
        for entry in folder.iterdir():
            if entry.is_dir() and entry.name.startswith("."):
                shutil.rmtree(entry)


def _remove_empty(folder: Path) -> None:
    for each in (folder, folder.parent):
        with contextlib.suppress(OSError):  # it holds something else
            each.rmdir()


def _entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, inner in value.items():
            flat.update(_flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
        return flat
    return {prefix: list(value) if isinstance(value, tuple) else value}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
