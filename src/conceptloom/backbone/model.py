"""The base model as the rest of the package sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from conceptloom.backbone.schedule import NoiseSchedule, PredictionType, add_noise, training_target

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

Place = Literal["down", "mid", "up"]
Family = Literal["builtin", "sd"]

DECODED_PIXELS_PER_PASS = 2**19
"""Pictures are encoded and decoded in chunks of so many pixels: two of 512 px take about 3 GB in float32."""


def family_of(version: str | None) -> Family:
    """Family whose presets a base model takes: "builtin" for our own versions, "sd" for every other model."""
    return "builtin" if version is not None and version.startswith("builtin") else "sd"


@dataclass(frozen=True)
class ModelIdentity:
    """Which base model this is.

    Attributes:
        name: "builtin", a folder's name or a hub id.
        fingerprint: SHA-256 over its configuration and weights, see `fingerprint.py`.
        version: version of a built-in model ("builtin-1"), else None.
        backgrounds: words for the backgrounds it was trained on, where it says so.
        nouns: words for the things it was trained on, likewise.
    """

    name: str
    fingerprint: str
    version: str | None = None
    backgrounds: tuple[str, ...] = ()
    nouns: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer of the U-Net: its module name, its part of the U-Net, the side of its grid in cells."""

    name: str
    place: Place
    side: int


@dataclass(frozen=True, eq=False)
class Moments:
    """Gaussian that the autoencoder gives for a picture, in scaled latents: mean and std (B, c, h, w) float32."""

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Latents (B, c, h, w) for standard normal `noise` of that shape."""
        return self.mean + self.std * noise


class Backbone:
    """A text-to-image latent diffusion model of the Stable Diffusion 1/2 family, frozen and in evaluation mode.

    The U-Net computes in `dtype`; text encoder, autoencoder and all that comes out of this class are float32, so
    that placeholder rows, losses and masks never lose digits. It serves one thread at a time: prompts, recordings and
    adapters hook into the shared models.

    Attributes:
        name, fingerprint, version, backgrounds, nouns: see `ModelIdentity`.
        size: side of the pictures in pixels.
        latent_shape: (c, h, w) of one picture's latents.
        max_tokens: S, begin and end token included.
        embedding_dim: D, width of a row of the vocabulary table.
        cross_attention_layers: from the input to the output of the U-Net.
    """

    def __init__(
        self,
        identity: ModelIdentity,
        *,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        noise_scheduler: NoiseSchedule,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.name = identity.name
        self.fingerprint = identity.fingerprint
        self.version = identity.version
        self.backgrounds = identity.backgrounds
        self.nouns = identity.nouns
        self.device = device
        self.dtype = dtype
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder.requires_grad_(False).eval()
        self.unet = unet.requires_grad_(False).eval()
        self.vae = vae.requires_grad_(False).eval()
        self.noise_scheduler = noise_scheduler
        side = int(unet.config["sample_size"])
        self.latent_shape = (int(unet.config["in_channels"]), side, side)
        self.size = side << (len(vae.config["block_out_channels"]) - 1)
        self.max_tokens = int(min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings))
        self.embedding_dim = int(self.vocabulary_embeddings.shape[1])
        self._shift = float(vae.config["shift_factor"] or 0.0)
        self._scale = float(vae.config["scaling_factor"])
        self._cross_attention = _attention_modules(unet, side, "attn2")
        self._self_attention = _attention_modules(unet, side, "attn1")
        self.cross_attention_layers = tuple(layer for layer, _ in self._cross_attention)

    @property
    def vocabulary_embeddings(self) -> Tensor:
        """(V, D) float32: the table itself, not a copy."""
        table: Tensor = self.text_encoder.get_input_embeddings().weight
        return table

    @property
    def prediction_type(self) -> PredictionType:
        """What the U-Net predicts."""
        return self.noise_scheduler.prediction_type

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return self.noise_scheduler.num_train_timesteps

    @torch.no_grad()
    def encode_moments(self, pixels: npt.NDArray[np.uint8]) -> Moments:
        """Latent moments of pictures (B, H, W, 3) uint8 sRGB with H = W = `size`."""
        assert pixels.shape[1:] == (self.size, self.size, 3), (
            f"got {pixels.shape}, expected (B, {self.size}, ..., 3)"
        )
        signed = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device).float() / 127.5 - 1.0
        means, stds = [], []
        for chunk in signed.permute(0, 3, 1, 2).split(
            self._pictures_per_pass
        ):  # (B, H, W, 3) -> (B, 3, H, W)
            distribution = self.vae.encode(chunk).latent_dist
            means.append((distribution.mean - self._shift) * self._scale)
            stds.append(distribution.std * self._scale)
        return Moments(torch.cat(means), torch.cat(stds))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> npt.NDArray[np.uint8]:
        """Pictures (B, H, W, 3) uint8 sRGB of scaled latents (B, c, h, w)."""
        pictures = []
        for chunk in latents.float().split(self._pictures_per_pass):
            signed = self.vae.decode(chunk / self._scale + self._shift).sample
            pictures.append(((signed / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu())
        return torch.cat(pictures).permute(0, 2, 3, 1).contiguous().numpy()  # (B, 3, H, W) -> (B, H, W, 3)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents (B, c, h, w) at timesteps (B,) int64."""
        return add_noise(latents, noise, self.noise_scheduler.alpha_bar(timesteps))

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Regression target (B, c, h, w) float32 of `predict`, for this model's prediction type."""
        return training_target(
            latents, noise, self.noise_scheduler.alpha_bar(timesteps), self.prediction_type
        )

    def log_snr(self, timesteps: Tensor) -> Tensor:
        """(B,) float32, natural logarithm; minus infinity at zero terminal SNR."""
        return self.noise_scheduler.log_snr(timesteps)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """The U-Net's prediction (B, c, h, w) float32.

        Args:
            noisy_latents: (B, c, h, w).
            timesteps: (B,) int64.
            encoder_hidden_states: (B, S, D) of the prompts.
        """
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            model_pred: Tensor = self.unet(
                noisy_latents, timesteps, encoder_hidden_states=encoder_hidden_states
            ).sample
        return model_pred.float()

    def recompute_activations(self, wanted: bool) -> None:
        """Gradient checkpointing: keep few activations for the backward pass and compute the others again."""
        (self.unet.enable_gradient_checkpointing if wanted else self.unet.disable_gradient_checkpointing)()

    def cross_attention_modules(self) -> tuple[tuple[AttentionLayer, Any], ...]:
        """Cross-attention layers with diffusers' `Attention` modules that compute them, for `attention.py`."""
        return self._cross_attention

    def self_attention_modules(self) -> tuple[tuple[AttentionLayer, Any], ...]:
        """The same for self-attention."""
        return self._self_attention

    @property
    def _pictures_per_pass(self) -> int:
        return max(1, DECODED_PIXELS_PER_PASS // self.size**2)


def _attention_modules(
    unet: UNet2DConditionModel, side: int, kind: Literal["attn1", "attn2"]
) -> tuple[tuple[AttentionLayer, Any], ...]:
    """The U-Net halves its grid after every down block but the last, and doubles it likewise on the way up."""
    levels = len(unet.config["block_out_channels"])
    found: dict[Place, list[tuple[AttentionLayer, Any]]] = {"down": [], "mid": [], "up": []}
    for name, module in unet.named_modules():
        match = re.match(rf"(?:(down|up)_blocks\.(\d+)|(mid)_block)\..*\.{kind}$", name)
        if match is None:
            continue
        index = int(match[2] or 0)
        place: Place = "mid" if match[3] else "down" if match[1] == "down" else "up"
        halvings = {"down": index, "mid": levels - 1, "up": levels - 1 - index}[place]
        found[place].append((AttentionLayer(name, place, side >> halvings), module))
    return (*found["down"], *found["mid"], *found["up"])
