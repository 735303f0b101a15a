"""Checkpoints on disk."""

import errno
import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from conceptloom.errors import RunError
from conceptloom.learning.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    require_same_run,
    save_checkpoint,
    save_start,
)
from flushes import disk_events
from mutations import json_like, value_or_refusal

FILES = ("state.safetensors", "state.json", "manifest.json")


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


@pytest.mark.parametrize("name", FILES)
def test_one_with_a_file_missing_is_passed_over_and_named(name: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    (save_checkpoint(tmp_path, checkpoint(2)) / name).unlink()
    found = newest_checkpoint(tmp_path)
    assert found.checkpoint is not None
    assert found.checkpoint.position == 1
    assert "00000002" in found.skipped[0]


@pytest.mark.parametrize("name", FILES)
def test_no_single_flipped_bit_goes_unnoticed(name: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    file = save_checkpoint(tmp_path, checkpoint(2)) / name
    data = file.read_bytes()
    for index in range(len(data)):
        flipped = data[index] ^ (1 << index % 8)
        file.write_bytes(data[:index] + bytes([flipped]) + data[index + 1 :])
        assert newest_position(tmp_path) == 1, index


@pytest.mark.parametrize("name", FILES)
def test_no_missing_end_goes_unnoticed(name: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    file = save_checkpoint(tmp_path, checkpoint(2)) / name
    data = file.read_bytes().rstrip(b"\n")
    for length in range(len(data)):
        file.write_bytes(data[:length])
        assert newest_position(tmp_path) == 1, length


@pytest.mark.parametrize("name", FILES)
def test_files_swapped_between_checkpoints_are_noticed(name: str, tmp_path: Path) -> None:
    first, second = (save_checkpoint(tmp_path, checkpoint(position)) for position in (1, 2))
    (second / name).write_bytes((first / name).read_bytes())
    assert newest_position(tmp_path) == 1


def test_a_whole_checkpoint_in_the_place_of_another_is_noticed(tmp_path: Path) -> None:
    first, second = (save_checkpoint(tmp_path, checkpoint(position)) for position in (1, 2))
    for name in FILES:
        (second / name).write_bytes((first / name).read_bytes())
    found = newest_checkpoint(tmp_path)
    assert found.checkpoint is not None
    assert found.checkpoint.position == 1
    assert found.skipped == ("checkpoint 00000002 is damaged (it is of step 1), passed over",)


@pytest.mark.parametrize("manifest", ["[]", "7", "null", '"a"', "{}", "[" * 100_000])
def test_a_manifest_of_another_kind_is_damage(manifest: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    (save_checkpoint(tmp_path, checkpoint(2)) / "manifest.json").write_text(manifest)
    assert newest_position(tmp_path) == 1


def test_tensors_that_their_manifest_belies_are_damage(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    folder = save_checkpoint(tmp_path, checkpoint(2))
    (folder / "state.safetensors").write_bytes(b"no tensors")
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(b"no tensors").hexdigest()
    manifest["state.safetensors"] = {"bytes": 10, "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert newest_position(tmp_path) == 1


@settings(deadline=None, max_examples=50)
@given(data=st.data(), name=st.sampled_from(["state.json", "manifest.json"]), is_sealed=st.booleans())
def test_a_checkpoint_whose_state_or_manifest_has_any_content_is_read_passed_over_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str, is_sealed: bool
) -> None:
    root = tmp_path_factory.getbasetemp() / "any-checkpoint"
    save_checkpoint(root, checkpoint(1))
    folder = save_checkpoint(root, checkpoint(2))
    manifest = json.loads((folder / "manifest.json").read_text())
    content = data.draw(json_like(json.loads((folder / name).read_text())))
    if name == "state.json" and is_sealed:  # by somebody who can compute a hash
        manifest[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    found = value_or_refusal(lambda _: newest_checkpoint(root), folder / name, content)
    assert found is None or (found.checkpoint is not None and found.checkpoint.position in (1, 2))
    assert found is None or all("00000002 is damaged" in skipped for skipped in found.skipped)


def damage(folder: Path) -> None:
    (folder / "state.safetensors").write_bytes(b"half")


def test_a_run_that_begins_anew_keeps_its_own_checkpoints_and_not_the_damaged_ones(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for position in (90, 100):
        damage(save_checkpoint(folder, checkpoint(position)))
    save_start(folder, {"seed": 1})
    assert newest_position(folder) == 0
    for position in (10, 20, 30):
        save_checkpoint(folder, checkpoint(position))
    assert newest_position(folder) == 30
    assert sorted(path.name for path in folder.iterdir()) == ["00000020", "00000030"]
    assert sorted(path.name for path in (tmp_path / "checkpoints.damaged").iterdir()) == [
        "00000090",
        "00000100",
    ]


def test_a_run_that_goes_on_before_damaged_checkpoints_keeps_its_own(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(80))
    for position in (90, 100):
        (tmp_path / f"{position:08d}").mkdir()
    save_checkpoint(tmp_path, checkpoint(85))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000080", "00000085"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
        (
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "No space left on device",
        ),
    ],
)
def test_a_disk_that_refuses_is_told_with_the_bytes_and_leaves_the_earlier_one(
    error: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, checkpoint(1))

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("conceptloom.concepts.storage.save_file", refuse)
    large = Checkpoint(2, {"rows": torch.zeros(300_000)}, {"done": 2}, {})
    with pytest.raises(
        RunError, match=rf"00000002 of 1\.2 MB can't be written \({told}\): mend that and add"
    ):
        save_checkpoint(tmp_path, large)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]


def test_a_run_that_cannot_write_its_start_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("conceptloom.concepts.storage.save_file", refuse)
    with pytest.raises(RunError, match="mend that and repeat the command"):
        save_start(tmp_path / "set.learning" / "checkpoints", {})
    assert list(tmp_path.iterdir()) == []


def test_a_partial_write_is_no_checkpoint_and_is_removed_by_the_next(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    partial = tmp_path / ".00000002.123"
    partial.mkdir()
    (partial / "state.safetensors").write_bytes(b"half")
    assert newest_position(tmp_path) == 1
    save_checkpoint(tmp_path, checkpoint(2))
    assert not partial.exists()


def test_a_checkpoint_is_flushed_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = disk_events(monkeypatch)
    save_checkpoint(tmp_path, checkpoint(2))
    renamed = told.index(("rename", "00000002"))
    for name in ("state.safetensors", "state.json", "manifest.json"):
        assert any(what == "fsync" and name in where for what, where in told[:renamed]), name
    assert ("fsync", tmp_path.name) in told[renamed:]


def test_a_state_that_says_nan_is_damage(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    folder = save_checkpoint(tmp_path, checkpoint(2))
    spoiled = (
        (folder / "state.json").read_text(encoding="utf-8").replace('"state": {', '"state": {"a": NaN, ', 1)
    )
    (folder / "state.json").write_text(spoiled, encoding="utf-8")
    manifest = {
        name: {
            "bytes": (folder / name).stat().st_size,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name in ("state.safetensors", "state.json")
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    found = newest_checkpoint(tmp_path)
    assert found.checkpoint is not None
    assert found.checkpoint.position == 1
    assert "NaN is no JSON" in found.skipped[0]


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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_is_not_written_and_the_earlier_one_stays(
    bad: float, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    spoiled = Checkpoint(2, {"rows": torch.tensor([1.0, bad])}, {"done": 2}, {})
    with pytest.raises(
        RunError, match="after 2 steps is not kept, for 'rows' holds values that are not finite"
    ):
        save_checkpoint(tmp_path, spoiled)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
