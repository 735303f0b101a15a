"""The autoencoder of the built-in model: an AutoencoderKL with a 16x16 latent grid, learned on random crops.

Crops cost a quarter of whole pictures and teach the same: the network is convolutional and has no attention.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn

from conceptloom.basemodel.optimizer import build_optimizer, scale_rates
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
from conceptloom.scenes.backgrounds import Pixels
from conceptloom.seeding import numpy_generator, torch_generator


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape and training of the autoencoder.

    ``channels`` has one entry a resolution (each further one halves the side); ``kl_weight`` multiplies the KL
    term per latent value; ``edge_weight`` the L1 of image gradients, without which outlines blur; ``chroma_weight`` the
    squared error of coarse colour differences, without which L1 is content with one axis of colour for thousands of
    steps (docs/LOG.md).
    """

    side_px: int = 128
    channels: tuple[int, ...] = (32, 64, 128, 128)
    latent_channels: int = 4
    crop_px: int = 64
    crops_per_scene: int = 4
    batch_size: int = 32
    muon_lr: float = 0.02
    adamw_lr: float = 1e-3
    warm_up_steps: int = 200
    kl_weight: float = 1e-4
    edge_weight: float = 1.0
    chroma_weight: float = 4.0
    ema_decay: float = 0.999
    seed: int = 0


def build_autoencoder(config: AutoencoderConfig) -> AutoencoderKL:
    """A fresh autoencoder in diffusers' layout."""
    levels = len(config.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: AutoencoderKL = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=config.channels,
            layers_per_block=1,
            latent_channels=config.latent_channels,
            norm_num_groups=8,
            sample_size=config.side_px,
            mid_block_add_attention=False,
            scaling_factor=1.0,
        )
    return model


def autoencoder_loss(
    model: AutoencoderKL, images: Tensor, noise: Tensor, config: AutoencoderConfig
) -> dict[str, Tensor]:
    """L1 at full and half resolution, L1 of gradients, squared error of coarse red-green and yellow-blue differences,
    KL to a unit Gaussian; ``total`` is their weighted sum.

    ``images`` (B, 3, H, W) in [-1, 1]; ``noise`` (B, c, h, w) standard normal.
    """
    posterior = model.encode(images).latent_dist
    latents = posterior.mean + posterior.std * noise
    output = model.decode(latents).sample.float()
    flat = (output - images).abs().mean()
    half = (F.avg_pool2d(output, 2) - F.avg_pool2d(images, 2)).abs().mean()
    edges = (output.diff(dim=-1) - images.diff(dim=-1)).abs().mean()
    edges = edges + (output.diff(dim=-2) - images.diff(dim=-2)).abs().mean()
    chroma = ((_opponent(F.avg_pool2d(output, 4)) - _opponent(F.avg_pool2d(images, 4))) ** 2).mean()
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
    total = flat + half + config.edge_weight * edges + config.chroma_weight * chroma + config.kl_weight * kl
    return {"total": total, "l1": flat, "edges": edges, "chroma": chroma, "kl": kl}


def _opponent(images: Tensor) -> Tensor:
    """Red minus green and yellow minus blue of (B, 3, H, W): (B, 2, H, W)."""
    red, green, blue = images.unbind(1)
    return torch.stack([red - green, (red + green) / 2 - blue], 1)


def crop_batch(stream: SceneStream, config: AutoencoderConfig, step: int) -> Pixels:
    """The crops of one step: uint8 (B, crop, crop, 3), ``crops_per_scene`` from each scene, flipped half the time."""
    rng = numpy_generator(config.seed, "crops", step)
    scenes = -(-config.batch_size // config.crops_per_scene)
    crops = []
    for number in range(scenes):
        pixels = stream.scene(step * scenes + number).pixels
        for _ in range(config.crops_per_scene):
            top, left = rng.integers(0, config.side_px - config.crop_px + 1, 2)
            crop = pixels[top : top + config.crop_px, left : left + config.crop_px]
            crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return np.stack(crops[: config.batch_size])


def train_autoencoder(
    config: AutoencoderConfig,
    stream: SceneStream,
    folder: Path,
    until_samples: int,
    seconds: float = float("inf"),
    anneal_samples: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Iterator[TrainProgress]:
    """Train until ``until_samples`` crops have been seen or ``seconds`` have passed; resume from ``folder``.

    The learning rate falls linearly to a tenth over the last ``anneal_samples``. The state is saved every minute.
    The model runs in ``dtype``.
    """
    model = build_autoencoder(config).train()
    optimizer = build_optimizer(model, config.muon_lr, config.adamw_lr, weight_decay=0.0)
    average = Averaged(model, config.ema_decay)
    step = 0
    if has_state(folder):
        tensors, meta = load_state(folder, optimizer)
        model.load_state_dict(unprefixed("model", tensors))
        average.tensors = unprefixed("ema", tensors)
        step = int(str(meta["step"]))
    means = RunningMeans()
    begun = saved_at = time.monotonic()
    first = step
    latent_side = config.crop_px // 2 ** (len(config.channels) - 1)
    while step * config.batch_size < until_samples and time.monotonic() - begun < seconds:
        left = until_samples - step * config.batch_size
        fade = min(1.0, 0.1 + 0.9 * left / anneal_samples) if anneal_samples else 1.0
        scale_rates(optimizer, warm_up(step, config.warm_up_steps) * fade)
        images = to_model_range(crop_batch(stream, config, step))
        shape = (config.batch_size, config.latent_channels, latent_side, latent_side)
        noise = torch.randn(shape, generator=torch_generator(config.seed, "posterior", step))
        with autocast(dtype):
            losses = autoencoder_loss(model, images, noise, config)
        losses["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        average.update(model, step)
        means.add({name: float(value.detach()) for name, value in losses.items()})
        now = time.monotonic()
        due = now - saved_at > 60 or step * config.batch_size >= until_samples or now - begun > seconds
        if due:
            state = prefixed("model", model.state_dict()) | prefixed("ema", average.tensors)
            save_state(folder, state, optimizer, {"step": step, "config": asdict(config)})
            saved_at = time.monotonic()
        if due or step % 50 == 0:
            rate = (step - first) * config.batch_size / (time.monotonic() - begun)
            yield TrainProgress(step, step * config.batch_size, means.means(), rate, due)


def load_averaged_autoencoder(config: AutoencoderConfig, folder: Path) -> AutoencoderKL:
    """The autoencoder with its averaged weights, ready to use."""
    model = build_autoencoder(config)
    tensors, _ = load_state(folder, None)
    model.load_state_dict(unprefixed("ema", tensors), strict=False)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def standardise_latents(model: AutoencoderKL, images: Tensor, floor: float = 0.3) -> None:
    """Give each latent channel of ``images`` mean 0 and standard deviation 1, without changing any reconstruction.

    The factors go into the 1x1 convolutions on both sides of the latents, so Stable Diffusion's single
    ``scaling_factor`` stays 1. A channel whose spread is under ``floor`` times the mean spread is scaled as if it had
    that much: blowing up a nearly unused channel would only give the U-Net its noise to predict.
    """
    mean = model.encode(images).latent_dist.mean.double()
    centre, spread = mean.mean((0, 2, 3)), mean.std((0, 2, 3))
    spread = spread.clamp_min(floor * float(spread.mean()))
    channels = len(spread)
    quant, post = _convolution(model.quant_conv), _convolution(model.post_quant_conv)
    # z' = (z - centre) / spread: rows of the mean, and log-variances less 2 log spread.
    weight, bias = quant.weight.double(), _bias(quant).double()
    weight[:channels] /= spread[:, None, None, None]
    bias[:channels] = (bias[:channels] - centre) / spread
    bias[channels:] -= 2 * spread.log()
    quant.weight.copy_(weight)
    _bias(quant).copy_(bias)
    # z = z' * spread + centre, into the decoder's first convolution.
    weight, bias = post.weight.double(), _bias(post).double()
    bias += (weight[:, :, 0, 0] * centre).sum(1)
    weight *= spread[None, :, None, None]
    post.weight.copy_(weight)
    _bias(post).copy_(bias)


def _convolution(module: nn.Module | None) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d), f"expected the autoencoder's 1x1 convolution, got {module}"
    return module


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias
