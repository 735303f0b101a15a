"""Checkpoints on disk."""

from pathlib import Path

import pytest
import torch

from conceptloom.errors import RunError
from conceptloom.learning.checkpoint import Checkpoint, newest_checkpoint, require_same_run, save_checkpoint


def checkpoint(position: int) -> Checkpoint:
    return Checkpoint(
        position, {"rows": torch.full((2, 3), float(position))}, {"done": position}, {"seed": 1}
    )


def newest_position(folder: Path) -> int | None:
    found = newest_checkpoint(folder).checkpoint
    return None if found is None else found.position


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(3))
    found = newest_checkpoint(tmp_path).checkpoint
    assert found is not None
    assert torch.equal(found.tensors["rows"], torch.full((2, 3), 3.0))
    assert (found.position, found.state, found.description) == (3, {"done": 3}, {"seed": 1})


def test_the_newest_complete_one_wins_and_two_are_kept(tmp_path: Path) -> None:
    for position in (5, 90, 100):
        save_checkpoint(tmp_path, checkpoint(position))
    assert newest_position(tmp_path) == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000090", "00000100"]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_one_is_passed_over_and_named(name: str, damage: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    file = save_checkpoint(tmp_path, checkpoint(2)) / name
    data = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    else:
        data[len(data) // 2] ^= 0xFF
        file.write_bytes(data[:-7] if damage == "truncate" else data)
    found = newest_checkpoint(tmp_path)
    assert found.checkpoint is not None
    assert found.checkpoint.position == 1
    assert "00000002" in found.skipped[0]


def test_files_swapped_between_checkpoints_are_noticed(tmp_path: Path) -> None:
    first, second = (save_checkpoint(tmp_path, checkpoint(position)) for position in (1, 2))
    (second / "state.safetensors").write_bytes((first / "state.safetensors").read_bytes())
    assert newest_position(tmp_path) == 1


def test_a_partial_write_is_no_checkpoint_and_is_removed_by_the_next(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    partial = tmp_path / ".00000002.123"
    partial.mkdir()
    (partial / "state.safetensors").write_bytes(b"half")
    assert newest_position(tmp_path) == 1
    save_checkpoint(tmp_path, checkpoint(2))
    assert not partial.exists()


def test_an_empty_or_missing_folder_holds_none(tmp_path: Path) -> None:
    assert newest_position(tmp_path) is None
    assert newest_position(tmp_path / "none") is None


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("conceptloom.learning.checkpoint.FORMAT_VERSION", 99)
        save_checkpoint(tmp_path, checkpoint(1))
    with pytest.raises(RunError, match="format 99"):
        newest_checkpoint(tmp_path)


def test_differing_fields_are_named_and_cadence_is_ignored() -> None:
    then = {"config": {"token_lr": 1.0, "preview_every": 5}, "base_model": "a" * 64}
    saved = Checkpoint(1, {}, {}, then)
    require_same_run(saved, {**then, "config": {"token_lr": 1.0, "preview_every": 9}})
    with pytest.raises(
        RunError, match=r"base_model was aaaaaaaaaaaa\.\.\., is b; config\.token_lr was 1\.0, is 2\.0"
    ):
        require_same_run(saved, {"config": {"token_lr": 2.0, "preview_every": 5}, "base_model": "b"})
