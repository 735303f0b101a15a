"""Noise schedule and the equations that go with it.

Notation: ``alpha_bar`` is the product of 1 - beta up to a timestep (alphas_cumprod in diffusers); noisy latents are
``x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps``. All of it is computed in float32, whatever the latents' dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from conceptloom.errors import ConfigError

PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """What a base model was trained with.

    Attributes:
        alphas_cumprod: (T,) float32, from nearly 1 at t = 0 down to nearly or exactly 0.
        final_alpha_cumprod: alpha_bar of the finished sample, the step after the last timestep.
        prediction_type: what the U-Net's output means.
        timestep_spacing: how sampling picks its timesteps (table 2 of arXiv 2305.08891).
        steps_offset: added to every sampling timestep with "leading" spacing (1 for Stable Diffusion).
    """

    alphas_cumprod: Tensor
    final_alpha_cumprod: float
    prediction_type: PredictionType
    timestep_spacing: TimestepSpacing = "leading"
    steps_offset: int = 0

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    def alpha_bar(self, timesteps: Tensor) -> Tensor:
        """(B, 1, 1, 1) float32 for timesteps (B,) int64."""
        return self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)

    def log_snr(self, timesteps: Tensor) -> Tensor:
        """log(alpha_bar / (1 - alpha_bar)), (B,) float32; minus infinity at zero terminal SNR."""
        alpha_bar = self.alphas_cumprod[timesteps]
        return torch.log(alpha_bar) - torch.log1p(-alpha_bar)

    def inference_timesteps(self, num_inference_steps: int) -> tuple[int, ...]:
        """Timesteps of a sampling run, falling, as the diffusers schedulers space them.

        Raises:
            ConfigError: fewer than one step, or more than the model was trained with.
        """
        total = self.num_train_timesteps
        if not 1 <= num_inference_steps <= total:
            raise ConfigError(f"num_inference_steps is {num_inference_steps}: choose between 1 and {total}")
        if self.timestep_spacing == "linspace":
            steps = np.linspace(0, total - 1, num_inference_steps).round()[::-1].tolist()
        elif self.timestep_spacing == "leading":
            ratio = total // num_inference_steps
            steps = [index * ratio + self.steps_offset for index in reversed(range(num_inference_steps))]
        else:
            steps = (np.round(np.arange(total, 0, -total / num_inference_steps)) - 1).tolist()
        return tuple(min(int(step), total - 1) for step in steps[:num_inference_steps])


def add_noise(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Noisy latents x_t, (B, c, h, w) in the latents' dtype; `alpha_bar` (B, 1, 1, 1)."""
    noisy = alpha_bar.sqrt() * latents.float() + (1 - alpha_bar).sqrt() * noise.float()
    return noisy.to(latents.dtype)


def training_target(
    latents: Tensor, noise: Tensor, alpha_bar: Tensor, prediction_type: PredictionType
) -> Tensor:
    """What the U-Net should answer: the noise, the velocity (arXiv 2202.00512) or the clean latents; float32."""
    if prediction_type == "epsilon":
        return noise.float()
    if prediction_type == "sample":
        return latents.float()
    return alpha_bar.sqrt() * noise.float() - (1 - alpha_bar).sqrt() * latents.float()


def clean_and_noise(
    noisy: Tensor, model_pred: Tensor, alpha_bar: Tensor, prediction_type: PredictionType
) -> tuple[Tensor, Tensor]:
    """Clean latents x_0 and noise eps that a model prediction implies."""
    signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if prediction_type == "epsilon":
        return (noisy - spread * model_pred) / signal, model_pred
    if prediction_type == "sample":
        return model_pred, (noisy - signal * model_pred) / spread
    return signal * noisy - spread * model_pred, signal * model_pred + spread * noisy


def ddim_step(
    clean: Tensor,
    eps: Tensor,
    alpha_bar: Tensor,
    alpha_bar_next: Tensor,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """One step of DDIM (arXiv 2010.02502, equations 12 and 16) to the next, less noisy timestep.

    Args:
        clean: x_0 as predicted, (B, c, h, w).
        eps: noise as predicted.
        alpha_bar: of the present timestep.
        alpha_bar_next: of the next one.
        eta: 0 is deterministic, 1 is DDPM.
        noise: standard normal, needed where eta > 0.
    """
    variance = (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
    sigma = eta * variance.clamp(min=0).sqrt()
    latents = alpha_bar_next.sqrt() * clean + (1 - alpha_bar_next - sigma**2).clamp(min=0).sqrt() * eps
    return latents if noise is None else latents + sigma * noise
