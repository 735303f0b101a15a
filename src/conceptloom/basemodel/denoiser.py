"""The U-Net of the built-in model, its noise schedule, and their training with the text encoder.

No mask, box or attention supervision of any kind: cross-attention must emerge, as in Stable Diffusion.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from conceptloom.basemodel.optimizer import build_optimizer, scale_rates
from conceptloom.basemodel.text import TextConfig, build_text_encoder, build_tokenizer
from conceptloom.basemodel.training import (
    Averaged,
    RunningMeans,
    SceneStream,
    TrainProgress,
    autocast,
    has_state,
    load_state,
    prefixed,
    save_state,
    to_model_range,
    unprefixed,
    warm_up,
)
from conceptloom.errors import DataError
from conceptloom.scenes.captions import Mention, caption
from conceptloom.seeding import numpy_generator, torch_generator

NUM_TRAIN_TIMESTEPS = 1000


@dataclass(frozen=True)
class DenoiserConfig:
    """Shape and training of the U-Net and the text encoder.

    ``log_snr_shift`` moves Stable Diffusion's schedule towards signal (2.8 = 2 log 4: a 16x16 grid holds a
    sixteenth of the cells of 64x64). ``reuse`` is how many times a composed scene is seen on average while it is
    in the buffer of ``buffer_scenes``; each time with a new caption, timestep and noise. Timesteps are drawn so that
    log-SNR is Gaussian with ``log_snr_mean`` and ``log_snr_std``, except a share ``uniform_share`` drawn uniformly:
    where the picture is still visible in the noise, words teach nothing. ``weight_decay`` keeps the attention of the
    deep layers alive: without it queries and keys grow until the softmax saturates, with 0.2 they shrink (docs/LOG.md).
    ``easy_share`` of the scenes are easy, and of those of one, two and three sprites ``lead_shares`` hold lead drawings
    only: single ones teach styles, where several meet words that are known already are to be kept apart. Captions
    always tell the style of any other drawing, so that a noun without a style means one drawing, not a blend of all.
    ``first_nouns`` and ``doubling_scenes`` let the vocabulary grow (`training.SceneStream`). Rates are ``going_on``
    times as high where training begins with trained weights: at full ones it forgets first (docs/LOG.md).
    """

    channels: tuple[int, ...] = (96, 192)
    layers_per_block: int = 1
    head_width: int = 32
    text: TextConfig = field(default_factory=TextConfig)
    log_snr_shift: float = 2.8
    log_snr_mean: float = -1.0
    log_snr_std: float = 1.5
    uniform_share: float = 0.2
    easy_share: float = 0.5
    lead_shares: tuple[float, float, float] = (0.3, 0.75, 0.75)
    first_nouns: int = 12
    doubling_scenes: int = 2_000
    batch_size: int = 32
    muon_lr: float = 0.01
    adamw_lr: float = 1e-3
    going_on: float = 0.35
    warm_up_steps: int = 200
    weight_decay: float = 0.02
    ema_decay: float = 0.999
    reuse: int = 8
    buffer_scenes: int = 2_000
    seed: int = 0


def shifted_betas(shift: float) -> list[float]:
    """Stable Diffusion's scaled-linear betas with log-SNR moved by ``shift`` and zero terminal SNR.

    The rescaling to zero terminal SNR is that of Lin et al. 2024 (Algorithm 1).
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, NUM_TRAIN_TIMESTEPS, dtype=torch.float64) ** 2
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    alphas_cumprod = torch.sigmoid(torch.logit(alphas_cumprod) + shift)
    root = alphas_cumprod.sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alphas_cumprod = root**2
    alphas = torch.cat([alphas_cumprod[:1], alphas_cumprod[1:] / alphas_cumprod[:-1]])
    return [float(beta) for beta in 1 - alphas]


def build_scheduler(shift: float) -> DDIMScheduler:
    """The noise schedule as a diffusers scheduler: v-prediction, trailing spacing, nothing clipped."""
    scheduler: DDIMScheduler = DDIMScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        trained_betas=shifted_betas(shift),
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    return scheduler


def build_unet(config: DenoiserConfig, latent_channels: int) -> UNet2DConditionModel:
    """A fresh U-Net with cross-attention at 16x16 and 8x8 and in the middle."""
    levels = len(config.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        unet: UNet2DConditionModel = UNet2DConditionModel(
            sample_size=16,
            in_channels=latent_channels,
            out_channels=latent_channels,
            layers_per_block=config.layers_per_block,
            block_out_channels=config.channels,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            cross_attention_dim=config.text.width,
            # diffusers' name is historic: the value is the number of heads.
            attention_head_dim=tuple(width // config.head_width for width in config.channels),
            norm_num_groups=16,
        )
    return unet


@dataclass(frozen=True, eq=False)
class BufferedScene:
    """A composed scene as the training sees it: the latent distribution's moments and what a caption may say."""

    moments: Tensor
    mentions: tuple[Mention, ...]
    relation: str | None
    background: str
    loose: bool


class LatentBuffer:
    """Encoded scenes, refilled in order from the stream: the autoencoder is frozen, so each is encoded once."""

    def __init__(
        self,
        stream: SceneStream,
        autoencoder: AutoencoderKL,
        config: DenoiserConfig,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.stream, self.autoencoder, self.dtype = stream, autoencoder, dtype
        self.capacity, self.seed = config.buffer_scenes, config.seed
        self.scenes: list[BufferedScene] = []
        self.oldest = 0

    @torch.no_grad()
    def refill(self, first: int, count: int) -> None:
        """Encode scenes ``first`` to ``first + count`` and put them in place of the oldest."""
        scenes = [self.stream.scene(index) for index in range(first, first + count)]
        pixels = to_model_range(np.stack([scene.pixels for scene in scenes]))
        with autocast(self.dtype):
            posterior = self.autoencoder.encode(pixels).latent_dist
        moments = torch.stack([posterior.mean.float(), posterior.std.float()], 1)
        for index, scene, pair in zip(range(first, first + count), scenes, moments.half(), strict=True):
            mentions = tuple(
                Mention(o.noun, o.class_word, o.family, not self.stream.is_lead(o.noun, o.family))
                for o in scene.objects
            )
            loose = self.stream.rules_of(index).loose_captions
            buffered = BufferedScene(pair, mentions, scene.relation, scene.background, loose)
            if len(self.scenes) < self.capacity:
                self.scenes.append(buffered)
            else:
                self.scenes[self.oldest] = buffered
                self.oldest = (self.oldest + 1) % self.capacity

    def batch(self, size: int, step: int) -> tuple[Tensor, list[str]]:
        """Latents (B, c, h, w) with unit standard deviation and a fresh caption for each."""
        rng = numpy_generator(self.seed, "batch", step)
        chosen = [self.scenes[int(index)] for index in rng.integers(0, len(self.scenes), size)]
        moments = torch.stack([scene.moments for scene in chosen]).float()
        noise = torch.randn(moments[:, 0].shape, generator=torch_generator(self.seed, "posterior", step))
        captions = [
            caption(scene.mentions, scene.relation, scene.background, rng, loose=scene.loose, clear=True)
            for scene in chosen
        ]
        return moments[:, 0] + moments[:, 1] * noise, captions


@dataclass(frozen=True, eq=False)
class Denoiser:
    """The parts that learn together."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler

    def modules(self) -> nn.ModuleDict:
        """Both networks as one module, for the optimiser, the average and the state file."""
        return nn.ModuleDict({"unet": self.unet, "text": self.text_encoder})


def build_denoiser(config: DenoiserConfig, words: Sequence[str], latent_channels: int) -> Denoiser:
    """Fresh U-Net, text encoder, tokenizer over ``words`` and schedule."""
    tokenizer = build_tokenizer(words, config.text.max_tokens)
    text_encoder = build_text_encoder(tokenizer, config.text, config.seed)
    unet = build_unet(config, latent_channels)
    return Denoiser(unet, text_encoder, tokenizer, build_scheduler(config.log_snr_shift))


def vocabulary_hash(tokenizer: CLIPTokenizer) -> str:
    """SHA-256 of every symbol with its id: weights mean nothing under another vocabulary."""
    symbols = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(symbols.encode()).hexdigest()


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token ids (B, S), cut and padded to the model's length with the end token."""
    encoded = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: Tensor = encoded["input_ids"]
    return ids


def draw_timesteps(config: DenoiserConfig, scheduler: DDIMScheduler, generator: torch.Generator) -> Tensor:
    """One batch of training timesteps (B,) int64, one from each of B parts of equal probability, in random order."""
    size = config.batch_size
    order = torch.randperm(size, generator=generator)
    quantile = ((order + torch.rand(size, generator=generator).double()) / size).clamp(1e-6, 1 - 1e-6)
    uniform = (quantile * NUM_TRAIN_TIMESTEPS).long()
    wanted = config.log_snr_mean + config.log_snr_std * torch.special.ndtri(quantile)
    log_snr = torch.logit(scheduler.alphas_cumprod.double().clamp(1e-9, 1 - 1e-9))  # falls with t
    nearest = torch.searchsorted(-log_snr, -wanted).clamp(0, NUM_TRAIN_TIMESTEPS - 1)
    return torch.where(torch.rand(size, generator=generator) < config.uniform_share, uniform, nearest)


def denoising_error(
    denoiser: Denoiser,
    latents: Tensor,
    captions: Sequence[str],
    timesteps: Tensor,
    noise: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Squared error of the velocity prediction, one value per picture (B,); the networks run in ``dtype``."""
    scheduler: Any = denoiser.scheduler  # annotated for int32 timesteps only
    noisy_latents = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps)
    with autocast(dtype):
        hidden = denoiser.text_encoder(token_ids(denoiser.tokenizer, captions)).last_hidden_state
        model_pred = denoiser.unet(noisy_latents, timesteps, hidden).sample
    error: Tensor = ((model_pred.float() - target) ** 2).mean(dim=(1, 2, 3))
    return error


class Workers:
    """Threads that share every batch: each runs a twin of the denoiser, on the same weights, over its part.

    Two threads of one core each train faster than one thread of two: the kernels of a small model are too short to
    be worth sharing out (docs/LOG.md).
    """

    def __init__(self, denoiser: Denoiser, count: int) -> None:
        self.members = [denoiser, *(_twin(denoiser) for _ in range(count - 1))]
        self.pool = ThreadPoolExecutor(max(1, count - 1), initializer=torch.set_num_threads, initargs=(1,))

    def gradient(
        self, latents: Tensor, captions: Sequence[str], timesteps: Tensor, noise: Tensor, dtype: torch.dtype
    ) -> float:
        """The batch's mean denoising error; its gradient is left in the first member's parameters."""
        size = len(captions)

        def part(member: Denoiser, rows: slice) -> float:
            inputs = latents[rows], captions[rows], timesteps[rows], noise[rows]
            loss = denoising_error(member, *inputs, dtype).sum() / size
            loss.backward()
            return float(loss.detach())

        edges = [round(size * number / len(self.members)) for number in range(len(self.members) + 1)]
        parts = [slice(first, last) for first, last in pairwise(edges)]
        others = [self.pool.submit(part, *pair) for pair in zip(self.members[1:], parts[1:], strict=True)]
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if others else threads)
        try:
            total = part(self.members[0], parts[0]) + sum(other.result() for other in others)
        finally:
            torch.set_num_threads(threads)
        for member in self.members[1:]:
            pairs = zip(self.members[0].modules().parameters(), member.modules().parameters(), strict=True)
            for parameter, twin in pairs:
                if parameter.grad is not None and twin.grad is not None:
                    parameter.grad += twin.grad
                twin.grad = None
        return total


def _twin(denoiser: Denoiser) -> Denoiser:
    """A copy with gradients of its own and the same weights: what is written into one is in the other."""
    twin: Denoiser = copy.deepcopy(denoiser)
    pairs = zip(twin.modules().parameters(), denoiser.modules().parameters(), strict=True)
    for own, shared in pairs:
        own.data = shared.data
    return twin


def train_denoiser(
    config: DenoiserConfig,
    denoiser: Denoiser,
    buffer: LatentBuffer,
    folder: Path,
    until_samples: int,
    seconds: float = float("inf"),
    save_every_sec: float = 180,
    seen: int = 0,
    dtype: torch.dtype = torch.float32,
    anneal: bool = False,
    threads: int = 1,
) -> Iterator[TrainProgress]:
    """Train U-Net and text encoder until ``until_samples`` pictures or ``seconds``; resume from ``folder``.

    ``seen`` counts the pictures that the denoiser's weights have seen when there is no state on disk; if there are any
    the rates are ``going_on`` times as high. The networks run in ``dtype``, in ``threads`` that share each batch. With
    ``anneal`` the rates fall linearly towards nothing over ``seconds``, from where an annealing that was stopped had
    them.
    """
    modules = denoiser.modules().train()
    # Explicit attention is faster to train in bfloat16, SDPA in float32 (docs/LOG.md).
    denoiser.unet.set_attn_processor(AttnProcessor2_0() if dtype == torch.float32 else AttnProcessor())
    optimizer = build_optimizer(modules, config.muon_lr, config.adamw_lr, config.weight_decay)
    average = Averaged(modules, config.ema_decay)
    vocabulary = vocabulary_hash(denoiser.tokenizer)
    step, next_scene = 0, seen // config.reuse + (config.buffer_scenes if seen else 0)
    highest = left_at_start = config.going_on if seen else 1.0
    if has_state(folder):
        tensors, meta = load_state(folder, optimizer)
        modules.load_state_dict(unprefixed("model", tensors))
        average.tensors = unprefixed("ema", tensors)
        step, seen = int(str(meta["step"])), int(str(meta["samples"]))
        highest, left_at_start = float(str(meta["highest_rates"])), float(str(meta["rates"]))
        next_scene = int(str(meta["next_scene"]))
        if meta["vocabulary"] != vocabulary:
            raise DataError(
                "the training in the cache knows other words than the artwork here gives: rebuild both"
            )
    fresh = max(1, config.batch_size // config.reuse)
    buffer.refill(next_scene, 16 * config.batch_size)
    next_scene += 16 * config.batch_size
    workers = Workers(denoiser, threads)
    means = RunningMeans()
    begun = saved_at = time.monotonic()
    first = step
    while seen < until_samples and time.monotonic() - begun < seconds:
        buffer.refill(next_scene, fresh)
        next_scene += fresh
        latents, captions = buffer.batch(config.batch_size, step)
        generator = torch_generator(config.seed, "diffusion", step)
        timesteps = draw_timesteps(config, denoiser.scheduler, generator)
        noise = torch.randn(latents.shape, generator=generator)
        left = left_at_start * (1 - (time.monotonic() - begun) / seconds)
        rates = max(left, 0.02 * highest) if anneal else highest
        scale_rates(optimizer, warm_up(step, config.warm_up_steps) * rates)
        loss = workers.gradient(latents, captions, timesteps, noise, dtype)
        torch.nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        seen += config.batch_size
        average.update(modules, step)
        means.add({"denoising": loss})
        now = time.monotonic()
        finished = seen >= until_samples or now - begun > seconds
        due = finished or now - saved_at > save_every_sec
        if due:
            state = prefixed("model", modules.state_dict()) | prefixed("ema", average.tensors)
            meta = {
                "step": step,
                "samples": seen,
                "next_scene": next_scene,
                "highest_rates": highest,
                "rates": rates,
                "vocabulary": vocabulary,
                "config": asdict(config),
            }
            save_state(folder, state, optimizer, meta)
            saved_at = time.monotonic()
        if due or step % 50 == 0:
            rate = (step - first) * config.batch_size / (time.monotonic() - begun)
            yield TrainProgress(step, seen, means.means(), rate, due)


def load_averaged(config: DenoiserConfig, denoiser: Denoiser, folder: Path) -> int:
    """Put the averaged weights of a training into ``denoiser``; returns the samples it has seen."""
    tensors, meta = load_state(folder, None)
    denoiser.modules().load_state_dict(unprefixed("ema", tensors), strict=False)
    denoiser.modules().eval().requires_grad_(False)
    return int(str(meta["samples"]))
