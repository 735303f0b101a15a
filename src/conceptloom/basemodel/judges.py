"""Training of the built-in judges: plans, losses, the resumable loop, and what ships.

Both learn from scenes of the same kind, a quarter of them seen through the autoencoder; architecture, seed and half of
the augmentations differ.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor

from conceptloom.basemodel.augment import augment
from conceptloom.basemodel.build import background_labels, shipped_folder
from conceptloom.basemodel.judge_report import JudgeReport, calibrate_judge, measure_judge
from conceptloom.basemodel.judge_scenes import (
    UNKNOWN,
    JudgedScenes,
    JudgeStream,
    build_reconstructions,
    joined,
    load_reconstructions,
    mirrored,
    through_autoencoder,
)
from conceptloom.basemodel.optimizer import build_optimizer, scale_rates
from conceptloom.basemodel.training import (
    Averaged,
    RunningMeans,
    TrainProgress,
    has_state,
    load_state,
    prefixed,
    save_state,
    to_model_range,
    unprefixed,
    warm_up,
)
from conceptloom.errors import DataError
from conceptloom.judges.detector import Judge, JudgeName, load_judge
from conceptloom.judges.networks import (
    STRIDE,
    JudgeNetwork,
    Maps,
    NetworkConfig,
    Vocabulary,
    build_network,
    save_network,
)
from conceptloom.scenes.backgrounds import Photo, load_photos
from conceptloom.scenes.composer import SceneRules
from conceptloom.scenes.sprites import ROLES, Sprite, load_sprites
from conceptloom.seeding import numpy_generator, torch_generator

VERSION = "judges-1"
RECONSTRUCTION_SEED = 31
SCENE_COUNTS = (0.25, 0.40, 0.35)
"""Shares of scenes with one, two and three drawings: more than in the base model's, for more to learn a picture."""


@dataclass(frozen=True)
class JudgeConfig:
    """Shape and training of one judge.

    ``reconstructed_share`` of each batch comes from ``reconstructed_scenes`` scenes that went through the autoencoder
    once; ``damaged_share`` of the drawings are damaged; ``box_jitter`` is how far a box's edges stray when identities
    are learned, as a share of its size. The rates fall linearly towards nothing over the last ``anneal_share`` of
    ``samples`` pictures.
    """

    network: NetworkConfig
    augmentations: tuple[str, ...]
    seed: int
    samples: int = 450_000
    anneal_share: float = 0.5
    batch_size: int = 32
    damaged_share: float = 0.2
    reconstructed_share: float = 0.25
    reconstructed_scenes: int = 4_096
    box_jitter: float = 0.06
    muon_lr: float = 0.02
    adamw_lr: float = 2e-3
    warm_up_steps: int = 200
    weight_decay: float = 0.02
    ema_decay: float = 0.999


PLANS: dict[JudgeName, JudgeConfig] = {
    "examiner": JudgeConfig(
        NetworkConfig("residual", widths=(48, 96, 160), depths=(1, 2, 2)),
        augmentations=("blur", "coarse", "brightness", "contrast"),
        seed=11,
    ),
    "selector": JudgeConfig(
        NetworkConfig("separable", widths=(48, 112, 224), depths=(1, 2, 3)),
        augmentations=("noise", "hue", "tone", "bleed"),
        seed=23,
        damaged_share=0.3,
    ),
}


# Data -------------------------------------------------------------------------------------------------------------


def judged_sprites() -> tuple[Sprite, ...]:
    """Every drawing a judge must know: all three roles."""
    return tuple(sprite for role in ROLES for sprite in load_sprites(role))


def judged_photos(cache: Path) -> tuple[Photo, ...]:
    """Every photograph of the three roles, which only ``make sprites`` fetches whole."""
    folder = cache / "backgrounds"
    return tuple(photo for role in ROLES for photo in load_photos(role, folder))


def vocabulary_of(sprites: Sequence[Sprite], photos: Sequence[Photo]) -> Vocabulary:
    """What a judge can say about these."""
    return Vocabulary(tuple(sprite.key for sprite in sprites), background_labels(photos))


def training_scenes(
    config: JudgeConfig, sprites: Sequence[Sprite], photos: Sequence[Photo], seed: int
) -> JudgeStream:
    """The endless stream of scenes that a judge of this configuration learns from."""
    rules = SceneRules(side_px=config.network.side_px, counts=SCENE_COUNTS)
    return JudgeStream(sprites, photos, vocabulary_of(sprites, photos), rules, seed, config.damaged_share)


def batch_of(
    config: JudgeConfig, stream: JudgeStream, reconstructions: JudgedScenes | None, step: int
) -> JudgedScenes:
    """The scenes of one step: fresh ones, and some of the ``reconstructions``, mirrored half the time."""
    redrawn = round(config.batch_size * config.reconstructed_share) if reconstructions is not None else 0
    fresh = config.batch_size - redrawn
    scenes = stream.scenes(range(step * fresh, (step + 1) * fresh))
    if reconstructions is None:
        return scenes
    rng = numpy_generator(config.seed, "reconstructions", step)
    chosen = reconstructions[rng.integers(0, len(reconstructions), redrawn)]
    return joined([scenes, mirrored(chosen, rng.random(redrawn) < 0.5)])


# Losses -----------------------------------------------------------------------------------------------------------


def heat_targets(boxes: Tensor, present: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """What the maps should show of ``boxes`` (B, M, 4): heat (B, h, w) in [0, 1], and whose it is (B, h, w) int64.

    Each drawing is a Gaussian about its middle, a tenth of its size wide, and exactly 1 in one cell.
    """
    middle = ((boxes[..., :2] + boxes[..., 2:]) / (2 * STRIDE)).floor().clamp(0, cells - 1)  # (B, M, 2) x, y
    sigma = (0.1 * (boxes[..., 2:] - boxes[..., :2]) / STRIDE).clamp_min(0.7)
    axis = torch.arange(cells, dtype=boxes.dtype)
    falls = torch.exp(-((axis - middle[..., None]) ** 2) / (2 * sigma[..., None] ** 2))  # (B, M, 2, cells)
    each = falls[:, :, 1, :, None] * falls[:, :, 0, None, :] * present[..., None, None]
    heat, owner = each.max(1)
    return heat, owner


def heat_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The focal loss of CenterNet (Zhou et al. 2019, Eq. 1), a drawing: alpha 2, beta 4."""
    probability = logits.sigmoid()
    is_middle = target >= 1
    hit = F.logsigmoid(logits) * (1 - probability) ** 2
    miss = F.logsigmoid(-logits) * probability**2 * (1 - target) ** 4
    return -torch.where(is_middle, hit, miss).sum() / is_middle.sum().clamp_min(1)


def edge_loss(edges: Tensor, boxes: Tensor, heat: Tensor, owner: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al. 2019) of the boxes that hot cells tell, weighted by their heat."""
    picture, y, x = torch.nonzero(heat >= 0.5, as_tuple=True)
    weight = heat[picture, y, x]
    target = boxes[picture, owner[picture, y, x]]  # (n, 4)
    told = edges[picture, :, y, x]
    centre = torch.stack([(x + 0.5) * STRIDE, (y + 0.5) * STRIDE], 1)
    low, high = centre - told[:, :2], centre + told[:, 2:]
    shared = (torch.minimum(high, target[:, 2:]) - torch.maximum(low, target[:, :2])).clamp_min(0).prod(1)
    union = (high - low).clamp_min(0).prod(1) + (target[:, 2:] - target[:, :2]).prod(1) - shared
    hull = (torch.maximum(high, target[:, 2:]) - torch.minimum(low, target[:, :2])).prod(1).clamp_min(1e-6)
    giou = shared / union.clamp_min(1e-6) - (hull - union) / hull
    return ((1 - giou) * weight).sum() / weight.sum().clamp_min(1e-6)


def judge_losses(
    network: JudgeNetwork, images: Tensor, scenes: JudgedScenes, read: Tensor
) -> dict[str, Tensor]:
    """Heat, edges, identity (intact drawings only), whether intact, background; ``total`` is their weighted sum.

    ``images`` (B, 3, H, W) in [-1, 1]; ``read`` (B, M, 4) the boxes in which identities are read.
    """
    boxes, present = torch.from_numpy(scenes.boxes), torch.from_numpy(scenes.present)
    drawings = torch.from_numpy(scenes.drawings)
    maps: Maps = network(images)
    heat, owner = heat_targets(boxes, present, maps.heat.shape[-1])
    embeddings, intact = network.identify(maps.features, read)
    named = drawings != UNKNOWN
    losses = {
        "heat": heat_loss(maps.heat, heat),
        "edges": edge_loss(maps.edges, boxes, heat, owner),
        "identity": F.cross_entropy(network.names(embeddings[named]), drawings[named], reduction="sum")
        / named.sum().clamp_min(1),
        "intact": F.binary_cross_entropy_with_logits(intact[present], named[present].float()),
        "background": F.cross_entropy(maps.background, torch.from_numpy(scenes.backgrounds)),
    }
    total = (
        losses["heat"] + losses["edges"] + losses["identity"] + losses["intact"] + 0.25 * losses["background"]
    )
    return {"total": total} | losses


def stray(boxes: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Boxes (B, M, 4) with every edge moved by a Gaussian of ``share`` of the box's size, never empty."""
    size = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    moved = boxes + share * size * torch.randn(boxes.shape, generator=generator).clamp(-2, 2)
    return torch.cat([moved[..., :2], torch.maximum(moved[..., 2:], moved[..., :2] + 1)], -1)


# The loop ---------------------------------------------------------------------------------------------------------


def train_judge(
    config: JudgeConfig,
    stream: JudgeStream,
    folder: Path,
    reconstructions: JudgedScenes | None = None,
    seconds: float = float("inf"),
    save_every_sec: float = 180,
    until_samples: int | None = None,
) -> Iterator[TrainProgress]:
    """Train until ``config.samples`` pictures (or the first ``until_samples`` of them) or ``seconds``; resume from
    ``folder``.

    Raises ``DataError`` when the state there knows other drawings or backgrounds.
    """
    network = build_network(config.network, stream.vocabulary, config.seed).train()
    optimizer = build_optimizer(network, config.muon_lr, config.adamw_lr, config.weight_decay)
    average = Averaged(network, config.ema_decay)
    vocabulary = {name: list(words) for name, words in asdict(stream.vocabulary).items()}
    step = 0
    if has_state(folder):
        tensors, meta = load_state(folder, optimizer)
        if meta["vocabulary"] != vocabulary:
            raise DataError(
                f"the judge trained in {folder} knows other drawings or backgrounds: start it afresh"
            )
        network.load_state_dict(unprefixed("model", tensors))
        average.tensors = unprefixed("ema", tensors)
        step = int(str(meta["step"]))
    means = RunningMeans()
    begun = saved_at = time.monotonic()
    first, last = step, min(until_samples or config.samples, config.samples)
    while step * config.batch_size < last and time.monotonic() - begun < seconds:
        left = 1 - step * config.batch_size / config.samples
        scale_rates(
            optimizer, warm_up(step, config.warm_up_steps) * min(1.0, max(left / config.anneal_share, 0.01))
        )
        scenes = batch_of(config, stream, reconstructions, step)
        generator = torch_generator(config.seed, "augment", step)
        images = augment(to_model_range(scenes.pixels), config.augmentations, generator)
        read = stray(torch.from_numpy(scenes.boxes), config.box_jitter, generator)
        losses = judge_losses(network, images.to(memory_format=torch.channels_last), scenes, read)
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        average.update(network, step)
        means.add({name: float(value.detach()) for name, value in losses.items()})
        now = time.monotonic()
        due = step * config.batch_size >= last or now - begun > seconds or now - saved_at > save_every_sec
        if due:
            state = prefixed("model", network.state_dict()) | prefixed("ema", average.tensors)
            save_state(
                folder, state, optimizer, {"step": step, "vocabulary": vocabulary, "config": asdict(config)}
            )
            saved_at = time.monotonic()
        if due or step % 50 == 0:
            rate = (step - first) * config.batch_size / (time.monotonic() - begun)
            yield TrainProgress(step, step * config.batch_size, means.means(), rate, due)


def trained_judge(config: JudgeConfig, vocabulary: Vocabulary, folder: Path) -> Judge:
    """The judge with the averaged weights of the training in ``folder``."""
    network = build_network(config.network, vocabulary, config.seed)
    tensors, _ = load_state(folder, None)
    network.load_state_dict(unprefixed("ema", tensors))
    return Judge(network)


# The stage --------------------------------------------------------------------------------------------------------


def judge_training_folder(cache: Path) -> Path:
    """Where the judges' training keeps its state, its reconstructed scenes and what it exports."""
    return cache / "training" / VERSION


def base_autoencoder() -> AutoencoderKL:
    """The autoencoder of the built-in model, through which generated pictures come."""
    model: AutoencoderKL = AutoencoderKL.from_pretrained(
        shipped_folder() / "vae", local_files_only=True, torch_dtype=torch.float32
    )
    return model.eval().requires_grad_(False)


def reconstruct_for_judges(config: JudgeConfig, cache: Path) -> Iterator[int]:
    """Make the reconstructed scenes, which both judges share; yields how many there are."""
    stream = training_scenes(config, judged_sprites(), judged_photos(cache), RECONSTRUCTION_SEED)
    folder = judge_training_folder(cache) / "reconstructions"
    yield from build_reconstructions(folder, stream, base_autoencoder(), config.reconstructed_scenes)


def train_judge_stage(name: JudgeName, cache: Path, seconds: float = float("inf")) -> Iterator[TrainProgress]:
    """Train the judge ``name`` on what `reconstruct_for_judges` made and on fresh scenes, or go on with it."""
    config, folder = PLANS[name], judge_training_folder(cache)
    stream = training_scenes(config, judged_sprites(), judged_photos(cache), config.seed)
    reconstructions = load_reconstructions(folder / "reconstructions", config.reconstructed_scenes)
    yield from train_judge(config, stream, folder / name / "state", reconstructions, seconds)


def export_judge(name: JudgeName, cache: Path) -> tuple[Path, JudgeReport]:
    """Calibrate and measure the averaged weights of the training in the cache and write what ships.

    Returns the folder written and the report, which lies in its ``judge.json`` too. Raises ``DataError`` when nothing
    was trained.
    """
    folder = judge_training_folder(cache) / name
    if not has_state(folder / "state"):
        raise DataError(f"the {name} has no training in {folder}: run 'conceptloom basemodel judges' first")
    config, sprites, autoencoder = PLANS[name], judged_sprites(), base_autoencoder()
    vocabulary = vocabulary_of(sprites, judged_photos(cache))
    judge = calibrate_judge(
        trained_judge(config, vocabulary, folder / "state"),
        sprites,
        measured_photos(),
        partial(through_autoencoder, autoencoder),
    )
    model = folder / "model"
    save_network(model, judge.network, judge.thresholds, {})
    report = check_judge(load_judge(name, model))  # in fp16, as it ships
    save_network(model, judge.network, judge.thresholds, report.plain())
    return model, report


def check_judge(judge: Judge) -> JudgeReport:
    """Measure a judge on every drawing and the photographs that ship for measuring."""
    autoencoder = base_autoencoder()
    return measure_judge(
        judge, judged_sprites(), measured_photos(), partial(through_autoencoder, autoencoder)
    )


def measured_photos() -> tuple[Photo, ...]:
    """The photographs of the benchmark: ``dev`` and ``test``."""
    return load_photos("dev") + load_photos("test")
