"""What happens to a judge's training pictures. Each judge gets one half, so that they do not share what they ignore.

Every function takes some of a batch, (B, 3, H, W) in [-1, 1], and returns it changed; boxes stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SHARE = 0.35
"""Of the pictures that each augmentation changes."""


def augment(images: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """Apply each named augmentation to a random share of the pictures."""
    changed = images.clone()
    for name in names:
        rows = torch.rand(len(images), generator=generator) < SHARE
        if rows.any():
            changed[rows] = AUGMENTATIONS[name](changed[rows], generator).clamp(-1, 1)
    return changed


def blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian of 0.4 to 1.5 px."""
    sigma = _between(0.4, 1.5, generator)
    steps = torch.arange(-4, 5, dtype=images.dtype)
    kernel = torch.softmax(-(steps**2) / (2 * sigma**2), 0)
    flat = F.pad(images.reshape(-1, 1, *images.shape[-2:]), (4, 4, 4, 4), mode="replicate")
    rows = F.conv2d(flat, kernel.view(1, 1, 9, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, 9)).view_as(images)


def coarse(images: Tensor, generator: torch.Generator) -> Tensor:
    """Halved in size and enlarged again, mixed with the original."""
    low = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear")
    return torch.lerp(images, low, _each(images, 0.5, 1.0, generator))


def brightness(images: Tensor, generator: torch.Generator) -> Tensor:
    """0.75 to 1.25 times as bright."""
    return (images + 1) * _each(images, 0.75, 1.25, generator) - 1


def contrast(images: Tensor, generator: torch.Generator) -> Tensor:
    """0.7 to 1.25 times as far from the picture's mean."""
    return torch.lerp(images.mean((1, 2, 3), keepdim=True), images, _each(images, 0.7, 1.25, generator))


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of up to 5 % of full scale."""
    return images + _each(images, 0.0, 0.1, generator) * torch.randn(images.shape, generator=generator)


def hue(images: Tensor, generator: torch.Generator) -> Tensor:
    """Colours turned by up to 10 degrees and 0.8 to 1.2 times as strong, at the same luma (YIQ)."""
    angle = _each(images, -0.17, 0.17, generator)
    strength = _each(images, 0.8, 1.2, generator)
    luma = images.mul(images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    colour = images - luma
    # A turn about the grey axis: rolling the channels and their difference span the plane of colours.
    swirl = (colour.roll(1, 1) - colour.roll(-1, 1)) / 3**0.5
    return luma + strength * (angle.cos() * colour + angle.sin() * swirl)


def tone(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gamma of 0.75 to 1.35."""
    return ((images + 1) / 2).clamp(1e-4, 1) ** _each(images, 0.75, 1.35, generator) * 2 - 1


def bleed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Colour averaged over 4 x 4 pixels while luma stays sharp, mixed with the original."""
    luma = images.mean(1, keepdim=True)
    low = F.interpolate(F.avg_pool2d(images - luma, 4), scale_factor=4.0, mode="bilinear")
    return torch.lerp(images, luma + low, _each(images, 0.4, 1.0, generator))


AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "blur": blur,
    "coarse": coarse,
    "brightness": brightness,
    "contrast": contrast,
    "noise": noise,
    "hue": hue,
    "tone": tone,
    "bleed": bleed,
}


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _each(images: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """One number a picture: (B, 1, 1, 1)."""
    return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)
