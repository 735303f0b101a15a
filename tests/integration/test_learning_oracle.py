"""EM on a backbone whose attention knows the truth: how well a map shows it depends on the token alone.

Queries of a cell point in the direction of the region it lies in, plus noise that depends on the timestep. A
placeholder row that points half in a wrong direction gives a poor map; the M-step turns it towards the region its
mask covers most, and the E-step then finds a better mask.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from conceptloom.backbone import AttentionLayer, Moments, NoiseSchedule
from conceptloom.backbone.attention import ExplicitAttentionProcessor
from conceptloom.concepts import Concept
from conceptloom.learning import (
    Finished,
    LearningPicture,
    LearnRequest,
    MasksUpdated,
    Progress,
    resolve_config,
    run,
)
from conceptloom.masks import iou
from conceptloom.pictures import Picture
from tiny_models import tiny_tokenizer

SIDE, GRID, WIDTH = 32, 16, 8
WORDS = ("cat", "dog", "beach")
OWN, STRAY = 0.8, 1.2
CELL_NOISE, TIME_NOISE = 0.3, 0.25


class OracleTextEncoder(nn.Module):
    """Hidden states are the embedding rows themselves."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(table)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.embedding(input_ids))


class OracleBackbone:
    """Cross-attention of true regions, plus noise, to text; predicts the picture's latents as what it attends to."""

    name, fingerprint, version, backgrounds = "oracle", "oracle", None, ()
    size, latent_shape, max_tokens, embedding_dim = SIDE, (3, GRID, GRID), 16, WIDTH
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, regions: np.ndarray) -> None:
        tokenizer = tiny_tokenizer()
        table = 0.05 * torch.randn(len(tokenizer), WIDTH, generator=torch.Generator().manual_seed(1))
        for index, word in enumerate(WORDS):
            # The class word points to its own region, and as much into a direction that means nothing.
            (piece,) = tokenizer(word, add_special_tokens=False).input_ids
            table[piece, index], table[piece, 3 + index] = OWN, STRAY
        self.tokenizer = tokenizer
        self.text_encoder = OracleTextEncoder(table)
        self.unet = nn.Module()
        self.vocabulary_embeddings = table
        self.noise_scheduler = NoiseSchedule(torch.linspace(0.99, 0.05, 100), 1.0, "sample")
        self.num_train_timesteps = 100
        self._truth = CELL_NOISE * torch.randn(GRID * GRID, WIDTH, generator=torch.Generator().manual_seed(2))
        for index, region in enumerate(regions):
            self._truth[torch.from_numpy(region.ravel()), index] += 1.0
        self._attention = Attention(WIDTH, WIDTH, heads=1, dim_head=WIDTH, bias=False, out_bias=False)
        for layer in (
            self._attention.to_q,
            self._attention.to_k,
            self._attention.to_v,
            self._attention.to_out[0],
        ):
            layer.weight.data.copy_(torch.eye(WIDTH))
        self._attention.requires_grad_(False)
        self._attention.processor = ExplicitAttentionProcessor()
        self.cross_attention_layers = (AttentionLayer("up_blocks.0.attn2", "up", GRID),)

    def cross_attention_modules(self) -> Any:
        return ((self.cross_attention_layers[0], self._attention),)

    def encode_moments(self, pixels: np.ndarray) -> Moments:
        mean = torch.from_numpy(pixels[:, ::2, ::2].copy()).float().permute(0, 3, 1, 2) / 255
        return Moments(mean, torch.zeros_like(mean))

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return latents + 0.1 * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return latents

    def log_snr(self, timesteps: Tensor) -> Tensor:
        return self.noise_scheduler.log_snr(timesteps)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        queries = self._truth.expand(len(timesteps), -1, -1).clone()
        flipped = noisy_latents[:, 0, :, 0] > noisy_latents[:, 0, :, -1]  # the picture is darker on the left
        for b, timestep in enumerate(timesteps.tolist()):
            generator = torch.Generator().manual_seed(timestep)
            queries[b] += TIME_NOISE * torch.randn(GRID * GRID, WIDTH, generator=generator)
            if flipped[b].float().mean() > 0.5:
                queries[b] = queries[b].view(GRID, GRID, WIDTH).flip(1).reshape(GRID * GRID, WIDTH)
        attended = self._attention(6.0 * queries, encoder_hidden_states=encoder_hidden_states)
        return attended[..., :3].transpose(1, 2).unflatten(-1, (GRID, GRID))  # (B, h*w, 3) -> (B, 3, h, w)


def scene() -> tuple[Picture, np.ndarray]:
    """A picture that tells nothing by its colours but where left is, and the three true regions of its grid."""
    regions = np.zeros((3, GRID, GRID), dtype=bool)
    regions[0, 3:10, 2:7] = True
    regions[1, 5:14, 9:14] = True
    regions[2] = ~regions[:2].any(axis=0)
    pixels = np.broadcast_to(
        np.linspace(60, 200, SIDE).astype(np.uint8)[None, :, None], (SIDE, SIDE, 3)
    ).copy()
    return Picture("scene", None, pixels, {}), regions


def learn(folder: Path, **overrides: object) -> tuple[list[Progress], np.ndarray]:
    picture, regions = scene()
    values = {
        "em_steps": 60,
        "batch_size": 2,
        "token_lr": 0.03,
        "lambda_attn": 1.0,
        "train": "tokens",
        "preview_every": 0,
        "crf": {"gaussian_weight": 0.0, "bilateral_weight": 0.0},
        "layers": "all",
        "tau": 0.4,
    }
    request = LearnRequest(
        (LearningPicture(picture, WORDS),),
        tuple(Concept(word, "background" if word == "beach" else "subject", word) for word in WORDS),
        resolve_config("sd", {**values, **overrides}),
    )
    backbone: Any = OracleBackbone(regions)
    events = list(run(request, backbone, folder))
    truth = regions.repeat(SIDE // GRID, axis=1).repeat(SIDE // GRID, axis=2)
    return events, truth


def ious(events: list[Progress], truth: np.ndarray) -> list[float]:
    """Mean IoU over the concepts after every mask update."""
    return [
        float(np.mean([iou(mask, true) for mask, true in zip(event.masks, truth, strict=True)]))
        for event in events
        if isinstance(event, MasksUpdated)
    ]


@pytest.mark.parametrize(
    "schedule",
    [
        {"method": "paper"},
        {"method": "literal"},
        {
            "method": "paper",
            "e_step_source": "running_average",
            "mask_update_every": 10,
        },
    ],
    ids=["paper", "literal", "running_average"],
)
def test_em_raises_mask_iou(schedule: dict[str, object], tmp_path: Path) -> None:
    course = ious(*learn(tmp_path / "run", **schedule))
    assert course[0] < 0.65
    assert course[-1] > course[0] + 0.15


def test_em_raises_the_better_first_masks_of_refined_too(tmp_path: Path) -> None:
    # This backbone has no self-attention to go along.
    course = ious(*learn(tmp_path / "run", method="refined", tau=0.6, propagation_steps=0))
    assert course[0] < 0.85
    assert course[-1] > course[0] + 0.08


def test_fixed_masks_stay_as_they_started(tmp_path: Path) -> None:
    events, truth = learn(tmp_path / "run", method="fixed")
    assert len(ious(events, truth)) == 1
    (finished,) = [event for event in events if isinstance(event, Finished)]
    first = next(event for event in events if isinstance(event, MasksUpdated))
    for name, mask in zip(first.concepts, first.masks, strict=True):
        np.testing.assert_array_equal(finished.concept_set.masks["scene", name], mask)
