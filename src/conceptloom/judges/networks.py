"""The networks of the built-in judges, and how they lie on disk: fp16 safetensors beside a JSON description.

A judge looks in two steps. A convolutional backbone with a top-down neck gives features at a quarter of the picture's
side; on them every cell says whether the middle of a drawing lies there and how far its four edges are (CenterNet,
Zhou et al. 2019; FCOS, Tian et al. 2019). Inside each box the features are read at a fixed grid of points (RoIAlign,
He et al. 2017), so that a drawing is compared part by part whatever its size. From them come a unit vector, which is
compared with one learned vector a drawing (cosine softmax), and whether the drawing is intact at all.

Axes: B pictures, M boxes of a picture, S known drawings, L backgrounds, C channels, D embedding, h w cells.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from conceptloom.errors import DataError
from conceptloom.runs import write_bytes_atomic, write_json_atomic

STRIDE = 4
"""Pixels of the picture a cell of the maps."""
COSINE_SCALE = 20.0
EDGE_UNIT_PX = 16.0
WEIGHTS, DESCRIPTION = "weights.safetensors", "judge.json"
FORMAT = 1
MAX_DEPTH, MAX_SIDE_PX = 64, 1024
"""More than any judge has; what a file asks for is bounded before memory is spent on it."""

Architecture = Literal["residual", "separable"]


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a judge's network.

    ``widths`` and ``depths``: channels and blocks at strides 4, 8 and 16; ``neck`` the channels of the maps that all
    heads read; ``points`` the side of the grid read in a box; ``hidden`` and ``embedding`` widths of the identity
    head; ``side_px`` the side of the square pictures.
    """

    architecture: Architecture
    widths: tuple[int, int, int]
    depths: tuple[int, int, int]
    neck: int = 48
    points: int = 5
    hidden: int = 192
    embedding: int = 128
    side_px: int = 128


@dataclass(frozen=True)
class Vocabulary:
    """What a judge can say: drawings as ``noun/family`` in the order of its table, and words for backgrounds."""

    sprites: tuple[str, ...]
    backgrounds: tuple[str, ...]


@dataclass(frozen=True)
class Thresholds:
    """``object`` is the least heat of a detection; below ``known`` its confidence means an unknown drawing."""

    object: float = 0.3
    known: float = 0.5


@dataclass(frozen=True, eq=False)
class Maps:
    """What the network sees everywhere.

    ``features`` (B, C, h, w); ``heat`` (B, h, w) logits of a drawing's middle; ``edges`` (B, 4, h, w) distances in
    pixels from the cell's middle to the left, top, right and bottom edge; ``background`` (B, L) logits; ``pooled``
    (B, P) means of the finest and the coarsest level over the whole picture, from which the background is told.
    """

    features: Tensor
    heat: Tensor
    edges: Tensor
    background: Tensor
    pooled: Tensor


class JudgeNetwork(nn.Module):
    """Backbone, neck and heads of one judge."""

    def __init__(self, config: NetworkConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        widths, neck = config.widths, config.neck
        stem, down, block = _PARTS[config.architecture]
        stages = [stem(widths[0]), down(widths[0], widths[1]), down(widths[1], widths[2])]
        self.stages = nn.ModuleList(
            nn.Sequential(entry, *(block(width) for _ in range(depth)))
            for entry, width, depth in zip(stages, widths, config.depths, strict=True)
        )
        self.lateral = nn.ModuleList(nn.Conv2d(width, neck, 1) for width in widths)
        self.fuse = nn.Sequential(
            nn.GroupNorm(8, neck),
            nn.SiLU(),
            nn.Conv2d(neck, neck, 3, padding=1),
            nn.GroupNorm(8, neck),
            nn.SiLU(),
        )
        self.heat = nn.Conv2d(neck, 1, 1)
        self.edges = nn.Conv2d(neck, 4, 1)
        self.background = nn.Linear(widths[0] + widths[2], len(vocabulary.backgrounds))
        self.parts = nn.Sequential(
            nn.Linear(config.points**2 * neck, config.hidden), nn.LayerNorm(config.hidden), nn.SiLU()
        )
        self.intact = nn.Linear(config.hidden, 1)
        self.embedding = nn.Linear(config.hidden, config.embedding)
        self.table = nn.Embedding(len(vocabulary.sprites), config.embedding)
        nn.init.constant_(_bias(self.heat), -math.log(99))  # one cell in a hundred holds a middle

    def forward(self, images: Tensor) -> Maps:
        """Maps of pictures (B, 3, side, side) in [-1, 1]."""
        levels = []
        x = images
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        fused = self.lateral[2](levels[2])
        for index in (1, 0):
            fused = F.interpolate(fused, scale_factor=2.0) + self.lateral[index](levels[index])
        features = self.fuse(fused)
        pooled = torch.cat([levels[0].mean((2, 3)), levels[2].mean((2, 3))], 1)
        edges = EDGE_UNIT_PX * self.edges(features).clamp(-6, 3).exp()
        return Maps(features, self.heat(features)[:, 0], edges, self.background(pooled), pooled)

    def identify(self, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings (B, M, D) and logits of being intact (B, M) of what is in ``boxes`` (B, M, 4), in pixels."""
        pictures, count = boxes.shape[:2]
        points = self.config.points
        side = features.shape[-1] * STRIDE
        steps = (torch.arange(points, dtype=boxes.dtype, device=boxes.device) + 0.5) / points
        x = boxes[..., 0, None] + (boxes[..., 2] - boxes[..., 0])[..., None] * steps  # (B, M, points)
        y = boxes[..., 1, None] + (boxes[..., 3] - boxes[..., 1])[..., None] * steps
        grid = torch.stack(
            [x[:, :, None].expand(-1, -1, points, -1), y[..., None].expand(-1, -1, -1, points)], -1
        )
        grid = grid.reshape(pictures, count * points, points, 2) * (2 / side) - 1
        read = F.grid_sample(features, grid, padding_mode="border", align_corners=False)
        read = (
            read.view(pictures, features.shape[1], count, points * points).transpose(1, 2).flatten(2)
        )  # (B, M, C * points^2)
        hidden = self.parts(read)
        return F.normalize(self.embedding(hidden), dim=-1), self.intact(hidden)[..., 0]

    def names(self, embeddings: Tensor) -> Tensor:
        """Logits (..., S) of unit embeddings (..., D) against the table of drawings."""
        return COSINE_SCALE * embeddings @ F.normalize(self.table.weight, dim=-1).T


# Parts of the two architectures -----------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions behind group norms (He et al. 2016, identity mappings)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        out: Tensor = x + self.body(x)
        return out


class SeparableBlock(nn.Module):
    """Depthwise 5x5, layer norm over channels, a threefold inverted bottleneck (ConvNeXt, Liu et al. 2022)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width),
            ChannelNorm(width),
            nn.Conv2d(width, 3 * width, 1),
            nn.SiLU(),
            nn.Conv2d(3 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        out: Tensor = x + self.body(x)
        return out


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every cell of (B, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _residual_stem(width: int) -> nn.Module:
    # One wide kernel: two small ones at half the side cost a quarter of the whole training.
    return nn.Conv2d(3, width, 8, stride=4, padding=2)


def _residual_down(width: int, wider: int) -> nn.Module:
    return nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, wider, 3, stride=2, padding=1))


def _separable_stem(width: int) -> nn.Module:
    return nn.Conv2d(3, width, 4, stride=4)


def _separable_down(width: int, wider: int) -> nn.Module:
    return nn.Sequential(ChannelNorm(width), nn.Conv2d(width, wider, 2, stride=2))


_PARTS: dict[
    Architecture, tuple[Callable[..., nn.Module], Callable[..., nn.Module], Callable[..., nn.Module]]
] = {
    "residual": (_residual_stem, _residual_down, ResidualBlock),
    "separable": (_separable_stem, _separable_down, SeparableBlock),
}


def build_network(config: NetworkConfig, vocabulary: Vocabulary, seed: int) -> JudgeNetwork:
    """A fresh network whose weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = JudgeNetwork(config, vocabulary)
    return _channels_last(network)


def _channels_last(network: JudgeNetwork) -> JudgeNetwork:
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


# On disk ----------------------------------------------------------------------------------------------------------


def save_network(folder: Path, network: JudgeNetwork, thresholds: Thresholds, report: dict[str, Any]) -> None:
    """Write the weights in fp16 and ``judge.json``: shape, vocabulary, thresholds, and what was measured."""
    tensors = {name: value.detach().half().contiguous() for name, value in network.state_dict().items()}
    write_bytes_atomic(folder / WEIGHTS, save(tensors))
    write_json_atomic(
        folder / DESCRIPTION,
        {
            "format": FORMAT,
            "network": asdict(network.config),
            "thresholds": asdict(thresholds),
            "report": report,
            "vocabulary": asdict(network.vocabulary),
        },
    )


def load_network(folder: Path) -> tuple[JudgeNetwork, Thresholds]:
    """Read what ``save_network`` wrote, in float32. Raises ``DataError`` when it is absent, damaged or does not fit."""
    paths = [folder / DESCRIPTION, folder / WEIGHTS]
    for path in paths:
        if not path.is_file():
            raise DataError(f"the judge '{folder.name}' lacks {path.name}: reinstall or train it again")
    try:
        told = json.loads(paths[0].read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise DataError(
                f"the judge '{folder.name}' has format {told['format']}, not {FORMAT}: train it again"
            )
        config = NetworkConfig(**_with_tuples(told["network"]))
        vocabulary = Vocabulary(**_with_tuples(told["vocabulary"]))
        thresholds = Thresholds(
            **{field.name: float(told["thresholds"][field.name]) for field in fields(Thresholds)}
        )
        _require_sound(config, vocabulary, thresholds)
        weights = {name: value.float() for name, value in load_file(paths[1]).items()}
        if not all(bool(value.isfinite().all()) for value in weights.values()):
            raise ValueError("weights that are not finite")
        with torch.device("meta"):  # no memory for a shape that the weights do not have
            network = JudgeNetwork(config, vocabulary)
        network.load_state_dict(weights, assign=True)
    except DataError:
        raise
    except Exception as error:  # parts of a network raise whatever they trip over
        raise DataError(
            f"the judge '{folder.name}' is damaged or of another version: reinstall it"
        ) from error
    return _channels_last(network).eval().requires_grad_(False), thresholds


def _require_sound(config: NetworkConfig, vocabulary: Vocabulary, thresholds: Thresholds) -> None:
    """Raise ``ValueError`` for what the weights' shapes do not tell."""
    if not all(0 <= depth <= MAX_DEPTH for depth in config.depths):
        raise ValueError(f"depths of {config.depths}")
    if not 0 < config.side_px <= MAX_SIDE_PX or config.side_px % (4 * STRIDE):
        raise ValueError(f"a side of {config.side_px} px")
    words = (*vocabulary.sprites, *vocabulary.backgrounds)
    if not all(isinstance(word, str) for word in words) or not all(
        "/" in word for word in vocabulary.sprites
    ):
        raise ValueError("words that are none")
    if not all(math.isfinite(value) for value in vars(thresholds).values()):
        raise ValueError("thresholds that are not finite")


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias
