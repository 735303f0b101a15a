"""What the U-Net and text encoder learn fastest from: options of their training at equal time on one core.

    python benchmarks/training_options.py --log RESULTS.jsonl --option NAME=JSON [--option ...] [--minutes 40]
        [--from-nothing] [--seed 0] [--table]

An option is a table of fields of `DenoiserConfig` ("text" a table of those of `TextConfig`), with "optimizer"
("muon", "adamw", "soap", "schedule-free"; the rate of the last three is "adamw_lr") beside them. Each trains for so
many minutes, from the shipped weights or, other shapes always, from nothing (all nouns at once unless "first_nouns"
says otherwise), and its rates fall to nothing over them, but for "schedule-free", which has an average of its own.
Then the denoising error is measured on composed pictures of the exam's prompts, the same noise for every option:
pairs, styles and single nouns, in bands of log-SNR, and how much it grows where the prompt is left out ("words").
Weights are measured as they are and averaged over several lengths; the average of `DenoiserConfig` is the one that
would ship. A long average starts short: one of decay d tells nothing in runs of less than some 10 / (1 - d) steps.
Differences to the first option are paired, 95 % bootstraps over prompts. An interrupted benchmark goes on with the
options that are missing; `--table` only prints. It needs `make sprites`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dev_scenes import ResultLog, bootstrap, fresh_folder
from pytorch_optimizer import SOAP, ScheduleFreeAdamW
from torch import Tensor, nn

from conceptloom.basemodel import denoiser as training
from conceptloom.basemodel.build import (
    BuildPlan,
    continues_shipped,
    curriculum_stream,
    fresh_denoiser,
    frozen_autoencoder,
    shipped_folder,
    warm_start,
)
from conceptloom.basemodel.denoiser import Denoiser, LatentBuffer, denoising_error, train_denoiser
from conceptloom.basemodel.exam import Ask, composed, noun_asks, pair_asks, style_asks
from conceptloom.basemodel.optimizer import build_optimizer
from conceptloom.basemodel.text import TextConfig
from conceptloom.basemodel.training import Averaged, fast_dtype, to_model_range
from conceptloom.runs import user_cache_dir
from conceptloom.seeding import torch_generator

PROMPTS = 64
"""Of each kind."""
TIMESTEPS = tuple(range(119, 1000, 160))
"""At which every picture is noised."""
BANDS = ((-np.inf, -2.0), (-2.0, 0.0), (0.0, 2.0), (2.0, np.inf))
AVERAGES = (0.99, 0.9997)
"""Decays measured beside the configuration's own."""


def optimizer_of(name: str, made: list[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """A stand-in for `build_optimizer` that builds another optimiser, and keeps it in `made`."""

    def build(
        module: nn.Module, muon_lr: float, adamw_lr: float, weight_decay: float
    ) -> torch.optim.Optimizer:
        parameters = list(module.parameters())
        if name == "muon":
            optimizer = build_optimizer(module, muon_lr, adamw_lr, weight_decay)
        elif name == "adamw":
            optimizer = torch.optim.AdamW(parameters, adamw_lr, (0.9, 0.99), weight_decay=weight_decay)
        elif name == "soap":
            optimizer = SOAP(parameters, adamw_lr, weight_decay=weight_decay)
        else:
            optimizer = ScheduleFreeAdamW(parameters, adamw_lr, weight_decay=weight_decay)
            optimizer.train()
        for group in optimizer.param_groups:
            group.setdefault("base_lr", group["lr"])
        made.append(optimizer)
        return optimizer

    return build


class SeveralAverages(Averaged):
    """The average that would ship, and others of other lengths beside it."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module, decay)
        self.others = {other: Averaged(module, other) for other in AVERAGES if other != decay}

    def update(self, module: nn.Module, step: int) -> None:
        """Move all of them."""
        super().update(module, step)
        for other in self.others.values():
            other.update(module, step)


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """Composed pictures of one kind of prompt, encoded."""

    prompts: tuple[str, ...]
    latents: Tensor


def measured(asks: Sequence[Ask], autoencoder: Any, side_px: int) -> Measured:
    """Real pictures of the prompts, of training drawings."""
    pixels = to_model_range(np.stack([composed(ask, 0, side_px).pixels for ask in asks]))
    with torch.no_grad():
        parts = [autoencoder.encode(part).latent_dist.mean for part in pixels.split(32)]
    return Measured(tuple(ask.prompt for ask in asks), torch.cat(parts))


@torch.no_grad()
def errors(denoiser: Denoiser, kind: Measured, prompts: Sequence[str]) -> list[list[float]]:
    """(prompts, timesteps) squared errors of the velocity."""
    columns = []
    for timestep in TIMESTEPS:
        noise = torch.randn(kind.latents.shape, generator=torch_generator(0, "training options", timestep))
        rows = []
        for part in torch.arange(len(prompts)).split(32):
            texts = [prompts[int(index)] for index in part]
            times = torch.full((len(part),), timestep)
            rows.append(denoising_error(denoiser, kind.latents[part], texts, times, noise[part]))
        columns.append(torch.cat(rows))
    return [[round(value, 6) for value in row] for row in torch.stack(columns, 1).tolist()]


def trained(
    plan: BuildPlan, option: Mapping[str, Any], arguments: argparse.Namespace, scratch: Path
) -> dict[str, Any]:
    """One row: what an option learned in its time, by weights and kind of prompt."""
    switches = dict(option)
    optimizer = str(switches.pop("optimizer", "muon"))
    if "text" in switches:
        switches["text"] = TextConfig(**switches["text"])
    if arguments.from_nothing:
        switches.setdefault("first_nouns", 0)
    cache = user_cache_dir()
    autoencoder = frozen_autoencoder(plan, cache)  # any shape learns on the latents of the one that ships
    config = dataclasses.replace(plan.denoiser, seed=arguments.seed, **switches)
    plan = dataclasses.replace(plan, denoiser=config)
    if not arguments.from_nothing and not continues_shipped(plan):
        raise SystemExit(f"{option} has another shape than the shipped weights: add --from-nothing")
    anneals = optimizer != "schedule-free"
    denoiser = fresh_denoiser(plan, cache, autoencoder)
    seen = 0 if arguments.from_nothing else warm_start(denoiser, shipped_folder())
    dtype = fast_dtype()
    buffer = LatentBuffer(curriculum_stream(plan, cache), autoencoder, config, dtype)
    made: list[torch.optim.Optimizer] = []
    averages: list[SeveralAverages] = []

    def average(module: nn.Module, decay: float) -> SeveralAverages:
        averages.append(SeveralAverages(module, decay))
        return averages[-1]

    training.build_optimizer = optimizer_of(optimizer, made)
    training.Averaged = average  # type: ignore[assignment, misc]
    training.save_state = lambda *_: None  # nothing goes on from it, and it knows no other optimiser's state
    begun = time.monotonic()
    samples = seen
    for progress in train_denoiser(
        config,
        denoiser,
        buffer,
        scratch,
        10**9,
        60 * arguments.minutes,
        seen=seen,
        dtype=dtype,
        anneal=anneals,
    ):
        samples = progress.samples
        print(f"  {samples - seen} pictures, {progress.losses}", flush=True)
    minutes = (time.monotonic() - begun) / 60
    if isinstance(made[0], ScheduleFreeAdamW):
        made[0].eval()
    modules = denoiser.modules().eval()
    (own,) = averages
    weights = {"as they are": {name: value.detach().clone() for name, value in modules.named_parameters()}}
    weights |= {f"average {config.ema_decay:g}": own.tensors}
    weights |= {f"average {decay:g}": other.tensors for decay, other in own.others.items()}
    asks = {
        "pairs": list(pair_asks(PROMPTS, 0)),
        "styles": list(style_asks(PROMPTS, 0)),
        "nouns": list(noun_asks(1))[:PROMPTS],
    }
    kinds = {name: measured(chosen, autoencoder, plan.autoencoder.side_px) for name, chosen in asks.items()}
    found: dict[str, Any] = {}
    for name, tensors in weights.items():
        modules.load_state_dict(tensors, strict=False)
        found[name] = {kind: {"told": errors(denoiser, one, one.prompts)} for kind, one in kinds.items()}
    ships = f"average {config.ema_decay:g}" if anneals else "as they are"
    modules.load_state_dict(weights[ships], strict=False)
    for kind, one in kinds.items():
        found[ships][kind]["untold"] = errors(denoiser, one, [""] * PROMPTS)
    log_snr = torch.logit(denoiser.scheduler.alphas_cumprod.double()[list(TIMESTEPS)]).tolist()
    return {
        "ships": ships,
        "pictures": samples - seen,
        "minutes": round(minutes, 2),
        "log_snr": log_snr,
        "errors": found,
    }


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Errors by kind and band, what words are worth, and paired differences to the first option."""
    for row in rows:
        print(f"\n{row['option']}: {row['pictures']} pictures in {row['minutes']:.1f} minutes")
        log_snr = np.array(row["log_snr"])
        bands = [(low <= log_snr) & (log_snr < high) for low, high in BANDS]
        for weights, kinds in row["errors"].items():
            ships = " (ships)" if weights == row["ships"] else ""
            for kind, found in kinds.items():
                told = np.array(found["told"])
                by_band = " ".join(f"{told[:, band].mean():.4f}" for band in bands if band.any())
                line = f"  {weights + ships:<24} {kind:<7} {told.mean():.4f} by log-SNR {by_band}"
                if ships:
                    line += f"; words {(np.array(found['untold']) - told).mean():.4f}"
                if ships and row is not rows[0]:
                    first = rows[0]["errors"][rows[0]["ships"]][kind]["told"]
                    value, low, high = bootstrap((told - np.array(first)).mean(axis=1))
                    line += f"; against {rows[0]['option']} {value:+.4f} [{low:+.4f}, {high:+.4f}]"
                print(line)


def main() -> None:
    """Train what is missing from the log, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--option", action="append", default=[], metavar="NAME=JSON")
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--from-nothing", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--log", type=Path, required=True)
    arguments = parser.parse_args()
    log = ResultLog(arguments.log)
    torch.set_num_threads(1)
    for text in [] if arguments.table else arguments.option:
        name, _, values = text.partition("=")
        if log.has(option=name):
            continue
        print(name, flush=True)
        scratch = fresh_folder(arguments.log.with_suffix(".scratch"))
        log.add({"option": name, **trained(BuildPlan(), json.loads(values or "{}"), arguments, scratch)})
    print_table(log.rows)


if __name__ == "__main__":
    main()
