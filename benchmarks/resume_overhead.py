"""What checkpoints, and a kill in the middle, cost a run of `conceptloom learn`.

    python benchmarks/resume_overhead.py [--pairs 3] [--threads 2] [--set KEY=JSON ...]

Each pair is a run that is killed (SIGKILL) as soon as the checkpoint in the middle of its EM stage is complete, and
goes on with --resume, between two that nothing disturbs: what these differ by is what the machine adds. All must
learn the same rows. What a kill throws away, at most `checkpoint_every` steps, is left out: it depends on when the
kill comes. One more run counts the seconds between a step and its checkpoint's being complete.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from dev_scenes import two_subject_scene

from conceptloom.concepts import ConceptSet
from conceptloom.learning import CheckpointSaved, prepare_job, resolve_config, run_folder
from conceptloom.learning.trainer import CHECKPOINTS
from conceptloom.pictures import write_png

SIDE = 128


def command(picture: Path, words: dict[str, str], config: Path, out: Path) -> list[str]:
    """`conceptloom learn` for the picture."""
    concepts = [part for name, word in words.items() for part in ("--concept", f"{name}={word}")]
    files = ["--config", str(config), "--out", str(out)]
    return [sys.executable, "-m", "conceptloom.cli", "learn", str(picture), *concepts, *files]


def undisturbed_seconds(arguments: list[str]) -> float:
    """Wall seconds from the start of the process to its end."""
    begun = time.perf_counter()
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def killed_seconds(arguments: list[str], checkpoint: Path) -> tuple[float, float]:
    """The same, of a run killed once `checkpoint` is there and of the one that goes on; and how long the latter took
    from the start of its process until it went on.
    """
    begun = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        while not checkpoint.is_dir():
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        process.kill()
    resumed = time.perf_counter()
    until_going_on = 0.0
    with subprocess.Popen([*arguments, "--resume"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("going on after"):
                until_going_on = time.perf_counter() - resumed
    assert process.returncode == 0, "the run did not end"
    assert until_going_on, "the run did not go on"
    return time.perf_counter() - begun, until_going_on


def checkpoint_share(picture: Path, words: dict[str, str], overrides: dict[str, Any], out: Path) -> float:
    """Share of a run's time between a step and the moment at which its checkpoint is complete."""
    job = prepare_job([picture], words, out, overrides=overrides)
    begun = before = time.perf_counter()
    saving = 0.0
    for event in job.events():
        now = time.perf_counter()
        saving += now - before if isinstance(event, CheckpointSaved) else 0.0
        before = time.perf_counter()
    return saving / (time.perf_counter() - begun)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=JSON")
    arguments = parser.parse_args()
    os.environ["PYTHONUNBUFFERED"] = "1"
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    torch.set_num_threads(arguments.threads)
    overrides = {key: json.loads(value) for key, _, value in (text.partition("=") for text in arguments.set)}
    scene = two_subject_scene(0, SIDE)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        picture, config = folder / "scene.png", folder / "config.json"
        write_png(picture, scene.picture.pixels)
        config.write_text(json.dumps(overrides))
        every = resolve_config("builtin", overrides).checkpoint_every
        middle = 1 + every * max(1, resolve_config("builtin", overrides).em_steps // (2 * every))
        share = checkpoint_share(picture, scene.words, overrides, folder / "share")
        print(f"writing checkpoints: {share:.2%} of a run's time", flush=True)
        for pair in range(arguments.pairs):
            before, cut, after = (folder / f"{name}-{pair}" for name in ("before", "cut", "after"))
            first = undisturbed_seconds(command(picture, scene.words, config, before))
            checkpoint = run_folder(cut) / CHECKPOINTS / f"{middle:08d}"
            killed, start = killed_seconds(command(picture, scene.words, config, cut), checkpoint)
            second = undisturbed_seconds(command(picture, scene.words, config, after))
            plain = (first + second) / 2
            rows = [ConceptSet.load(out).rows() for out in (before, cut, after)]
            same = all(torch.equal(rows[0], others) for others in rows[1:])
            print(
                f"undisturbed {first:.1f} and {second:.1f} s, killed and resumed {killed:.1f} s:"
                f" {killed / plain - 1:+.1%} of their mean;"
                f" {start:.1f} s of it ({start / plain:.1%}) until it went on; rows {'equal' if same else 'DIFFER'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
