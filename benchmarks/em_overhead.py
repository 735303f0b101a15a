"""Overhead of EM: wall time of stage 3 over its steps, against the bare step, interleaved.

    python benchmarks/em_overhead.py [--model builtin] [--pairs 5] [--steps 100] [--threads 2] [--dtype float32]

Bare step: text encoder and U-Net forward and backward in the product's dtype and attention, all weights frozen,
gradient to the placeholder rows only, same batch. Two pictures, three concepts; batch 1 and 4; `paper` and `refined`,
with a fresh E-step and amortised (running average of the M-step's own maps). Prints the median ratio and its range.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dev_scenes import two_subject_scene
from torch import Tensor

from conceptloom.backbone import Backbone, encode_prompts, family_of, load_backbone, random_rows, tokenize
from conceptloom.learning import StepDone, build_request, resolve_config, run
from conceptloom.learning.losses import denoising_loss
from conceptloom.seeding import noise, torch_generator

SCHEDULES: dict[str, dict[str, Any]] = {
    "paper": {"method": "paper"},
    "paper, amortised": {"method": "paper", "e_step_source": "running_average"},
    "refined": {"method": "refined"},
    "refined, fresh": {"method": "refined", "e_step_source": "fresh"},
}


def bare_seconds(backbone: Backbone, batch: int, steps: int) -> float:
    """Seconds a step of forward and backward with nothing around it."""
    placeholders = {"<first>": 1, "<second>": 1, "<place>": 1}
    rows = random_rows(backbone, 3, torch_generator(0, "rows")).requires_grad_(True)
    prompt = tokenize(backbone, "a photo of <first> and <second> on <place>", placeholders)
    latents = noise((batch, *backbone.latent_shape), 0, "latents").to(backbone.device)
    eps = noise((batch, *backbone.latent_shape), 0, "noise").to(backbone.device)
    begun = time.perf_counter()
    for step in range(steps):
        timesteps = torch.full((batch,), (step * 37) % backbone.num_train_timesteps, device=backbone.device)
        hidden = encode_prompts(backbone, [prompt] * batch, rows)
        prediction = backbone.predict(backbone.add_noise(latents, eps, timesteps), timesteps, hidden)
        loss: Tensor = denoising_loss(prediction, backbone.target(latents, eps, timesteps)).mean()
        (rows.grad,) = torch.autograd.grad(loss, [rows])
    return (time.perf_counter() - begun) / steps


def stage_seconds(backbone: Backbone, batch: int, steps: int, overrides: dict[str, Any]) -> float:
    """Seconds a step of stage 3, everything included."""
    first, second = two_subject_scene(0, backbone.size), two_subject_scene(1, backbone.size)
    words = {"first": first.words["first"], "second": first.words["second"], "place": second.words["place"]}
    contains = {
        first.name: ["first", "second"],
        second.name: ["second", "place"],
    }  # so that each needs its CRF
    settings = {"em_steps": steps, "batch_size": batch, "train": "tokens", "preview_every": 0, **overrides}
    config = resolve_config(family_of(backbone.version), settings)
    request = build_request(
        [first.picture, second.picture], words, config, contains=contains, backgrounds=backbone.backgrounds
    )
    with tempfile.TemporaryDirectory() as scratch:
        begun = ended = 0.0
        for event in run(request, backbone, Path(scratch) / "run"):
            # The first step marks the start: what precedes it is stages 1 and 2.
            if isinstance(event, StepDone) and event.stage == "em":
                begun = begun or time.perf_counter()
                ended = time.perf_counter()
    return (ended - begun) / (steps - 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    backbone = load_backbone(arguments.model, device="cpu", dtype=arguments.dtype)
    for batch in (1, 4):
        bare_seconds(backbone, batch, 5)
        for name, overrides in SCHEDULES.items():
            ratios, bare = [], []
            for _ in range(arguments.pairs):
                bare.append(bare_seconds(backbone, batch, arguments.steps))
                ratios.append(stage_seconds(backbone, batch, arguments.steps + 1, overrides) / bare[-1])
            print(
                f"batch {batch} {name:<18} {np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f});"
                f" bare step {1000 * np.median(bare):.0f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
