"""What a person sees while the built-in model trains: a log of losses, their curve, grids of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from conceptloom.backbone import encode_prompts, load_backbone, sample, tokenize
from conceptloom.basemodel.autoencoder import AutoencoderConfig, load_averaged_autoencoder
from conceptloom.basemodel.training import SceneStream, TrainProgress, to_model_range
from conceptloom.pictures import contact_sheet, write_png
from conceptloom.runs import append_jsonl, read_jsonl

WATCH_PROMPTS = (
    "a photo of a dog on grass",
    "a cat on the beach",
    "a noto car on a street",
    "a pizza on wood",
    "a fluent penguin on snow",
    "a red background",
    "a house in front of mountain",
    "an apple and a banana on wood",
    "a monkey riding a horse on grass",
    "a rocket above a castle on night sky",
    "a twemoji tree left of a twemoji house on hills",
    "a woman holding an umbrella on a beach",
)


def log_progress(folder: Path, stage: str, progress: TrainProgress) -> None:
    """Append one line to ``log.jsonl``."""
    append_jsonl(folder / "log.jsonl", {"stage": stage, **asdict(progress)})


def write_loss_curve(folder: Path, stage: str) -> Path:
    """Draw ``loss-<stage>.png`` from the log: each loss over samples seen, both axes logarithmic.

    Lines of the log that a crash cut short are left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [line for line in read_jsonl(folder / "log.jsonl") if line["stage"] == stage]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in lines[-1]["losses"]:
        axes.plot([line["samples"] for line in lines], [line["losses"][name] for line in lines], label=name)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="samples seen",
        ylabel="loss (mean of the last 200 steps)",
        title=stage,
    )
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    path = folder / f"loss-{stage}.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


@torch.no_grad()
def reconstruction_sheet(config: AutoencoderConfig, state: Path, stream: SceneStream) -> NDArray[np.uint8]:
    """Twelve scenes over their reconstructions."""
    model = load_averaged_autoencoder(config, state)
    pixels = np.stack([stream.scene(20_000_000 + index).pixels for index in range(12)])
    output = model.decode(model.encode(to_model_range(pixels)).latent_dist.mean).sample
    redrawn = ((output.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return contact_sheet([*pixels, *redrawn], columns=12)


def sample_sheet(
    model_folder: Path,
    prompts: Sequence[str] = WATCH_PROMPTS,
    per_prompt: int = 3,
    guidance_scale: float = 4.0,
    num_inference_steps: int = 25,
) -> NDArray[np.uint8]:
    """One column a prompt, one row a seed, drawn by the model in ``model_folder``."""
    backbone = load_backbone(model_folder, device="cpu", dtype="auto")
    tokenized = [tokenize(backbone, prompt, {}) for prompt in prompts]
    hidden = encode_prompts(backbone, tokenized, None)
    negative = encode_prompts(backbone, [tokenize(backbone, "", {})], None)
    images: list[NDArray[np.uint8]] = []
    for seed in range(per_prompt):
        keys = [(seed, "watch", prompt) for prompt in prompts]
        latents = sample(
            backbone,
            hidden,
            negative,
            keys,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
        )
        images += list(backbone.decode(latents))
    return contact_sheet(
        images, columns=len(prompts), labels=[*prompts] + [""] * (len(images) - len(prompts))
    )


def write_sheet(folder: Path, name: str, sheet: NDArray[np.uint8]) -> Path:
    """Write a sheet as PNG into the training's folder."""
    path = folder / f"{name}.png"
    write_png(path, sheet, None)
    return path
