"""What the built-in model can do before anything is learned: where it looks, and what it can name.

The attention gate reads cross-attention on real (composed) scenes of two training sprites, caption as is. The name
check asks the trainless judge which drawing it sees in the model's pictures of single nouns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conceptloom.backbone import Backbone, TokenizedPrompt, encode_prompts, record_attention, tokenize
from conceptloom.judges.names import NameCheck
from conceptloom.masks import area_to_grid, iou, resize_maps
from conceptloom.scenes.backgrounds import Photo
from conceptloom.scenes.composer import Scene, SceneRules, compose, random_background
from conceptloom.scenes.sprites import Sprite
from conceptloom.seeding import noise, numpy_generator, torch_generator

SUBJECT_THRESHOLD = 0.5
REST_LEVEL = 0.4
GATE_TIMESTEPS = 50
LOG_SNR_BANDS = ((-float("inf"), -2.0), (-2.0, 0.0), (0.0, 2.0), (2.0, float("inf")))


@dataclass(frozen=True)
class SceneAttention:
    """What one scene's two noun tokens looked at.

    ``pointed`` whether each noun's peak lies inside its own mask; ``swapped`` whether both peaks lie in each
    other's; ``threshold_iou`` and ``argmax_iou`` per noun; ``covered``, the share of the picture under each mask, which
    a peak anywhere would hit by chance; ``grid_iou``, that of the true masks after a way through the latent grid, the
    most a map can reach; ``shares`` of attention on begin, padding and the nouns; ``layer_pointed`` and
    ``band_pointed`` the mean of ``pointed`` by layer name and by log-SNR band.
    """

    pointed: tuple[bool, bool]
    swapped: bool
    threshold_iou: tuple[float, float]
    argmax_iou: tuple[float, float]
    covered: tuple[float, float]
    grid_iou: tuple[float, float]
    shares: dict[str, float]
    layer_pointed: dict[str, float]
    band_pointed: dict[str, float]


def gate_scenes(
    sprites: Sequence[Sprite], photos: Sequence[Photo], count: int, side_px: int, seed: int
) -> Iterator[Scene]:
    """Two-sprite scenes whose caption names both nouns, each once and by its own word."""
    rules = SceneRules(side_px=side_px)
    found = index = 0
    while found < count:
        rng = numpy_generator(seed, "gate", index)
        index += 1
        pair = [sprites[int(i)] for i in rng.choice(len(sprites), 2, replace=False)]
        label, background = random_background(photos, rng, rules)
        scene = compose(pair, label, background, rng, rules)
        words = scene.caption.replace(",", " ").split()
        if pair[0].noun != pair[1].noun and all(words.count(sprite.noun) == 1 for sprite in pair):
            found += 1
            yield scene


@torch.no_grad()
def scene_attention(backbone: Backbone, scene: Scene, seed: int) -> SceneAttention:
    """Cross-attention of a two-sprite scene over ``GATE_TIMESTEPS`` uniform timesteps, all layers."""
    prompt = tokenize(backbone, scene.caption, {})
    first, second = (item.noun for item in scene.objects)
    selector = _gate_selector(prompt, first, second)
    generator = torch_generator(seed, "timesteps")
    timesteps = torch.randint(0, backbone.num_train_timesteps, (GATE_TIMESTEPS,), generator=generator)
    moments = backbone.encode_moments(scene.pixels[None])
    latents = moments.mean.expand(GATE_TIMESTEPS, -1, -1, -1)
    eps = noise((GATE_TIMESTEPS, *backbone.latent_shape), seed, "noise")
    hidden = encode_prompts(backbone, [prompt], None).expand(GATE_TIMESTEPS, -1, -1)
    with record_attention(backbone, selector.expand(GATE_TIMESTEPS, -1, -1)) as record:
        backbone.predict(backbone.add_noise(latents, eps, timesteps), timesteps, hidden)
    side = backbone.latent_shape[1]
    layers = {layer.name: _on_grid(record.maps[layer.name], layer.side, side) for layer in record.layers}
    stacked = torch.stack(list(layers.values()))  # (L, T, 4, h, w)
    overall = stacked.mean((0, 1))
    shares = overall.mean((1, 2)).tolist()
    maps = resize_maps(overall[:2].numpy(), scene.pixels.shape[0])
    bands = _band_members(backbone.log_snr(timesteps))
    peaks = _peaks(maps)
    inside = [[bool(mask[peak]) for mask in scene.masks] for peak in peaks]
    return SceneAttention(
        pointed=(inside[0][0], inside[1][1]),
        swapped=inside[0][1] and inside[1][0],
        threshold_iou=_pair_iou(maps / maps.max((1, 2), keepdims=True) > SUBJECT_THRESHOLD, scene.masks),
        argmax_iou=_pair_iou(_argmax_masks(maps), scene.masks),
        covered=(float(scene.masks[0].mean()), float(scene.masks[1].mean())),
        grid_iou=_pair_iou(through_grid(scene.masks, side), scene.masks),
        shares=dict(zip(("first noun", "second noun", "begin", "end and padding"), shares, strict=True)),
        layer_pointed={name: _pointing(value.mean(0), scene.masks) for name, value in layers.items()},
        band_pointed={
            name: _pointing(stacked[:, member].mean((0, 1)), scene.masks)
            for name, member in bands.items()
            if member.any()
        },
    )


def _gate_selector(prompt: TokenizedPrompt, first: str, second: str) -> Tensor:
    """(1, 4, S): first noun, second noun, begin, end and padding (summed, not averaged: a share)."""
    selector = torch.zeros(1, 4, len(prompt.ids))
    for row, noun in enumerate((first, second)):
        for position in prompt.word_positions[noun]:
            selector[0, row, position] = 1.0 / len(prompt.word_positions[noun])
    selector[0, 2, 0] = 1.0
    selector[0, 3, prompt.end :] = 1.0
    return selector


def _on_grid(maps: Tensor, layer_side: int, side: int) -> Tensor:
    """(T, K, n) of a layer to (T, K, side, side), bilinear."""
    square = maps.unflatten(-1, (layer_side, layer_side))
    return torch.nn.functional.interpolate(square, (side, side), mode="bilinear", align_corners=False)


def _band_members(log_snr: Tensor) -> dict[str, Tensor]:
    return {f"{low:g} to {high:g}": (log_snr >= low) & (log_snr < high) for low, high in LOG_SNR_BANDS}


def _peaks(maps: NDArray[np.float32]) -> list[tuple[int, int]]:
    flat = maps.reshape(len(maps), -1).argmax(1)
    return [(int(index) // maps.shape[2], int(index) % maps.shape[2]) for index in flat]


def _pointing(maps: Tensor, masks: NDArray[np.bool_]) -> float:
    enlarged = resize_maps(maps[:2].numpy(), masks.shape[1])
    return float(np.mean([mask[peak] for mask, peak in zip(masks, _peaks(enlarged), strict=True)]))


def through_grid(masks: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """Masks (K, H, H) as a grid of ``side`` cells a side can tell them: shares of cells, enlarged, above a half."""
    shares = area_to_grid(masks.astype(np.float32), (side, side))
    told: NDArray[np.bool_] = resize_maps(shares, masks.shape[1]) > 0.5
    return told


def _pair_iou(found: NDArray[np.bool_], masks: NDArray[np.bool_]) -> tuple[float, float]:
    return float(iou(found[0], masks[0])), float(iou(found[1], masks[1]))


def _argmax_masks(maps: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Each noun where its min-max normalised map exceeds the other's and a constant rest."""
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    scaled = (maps - low) / (high - low)
    rest = np.full((1, *maps.shape[1:]), REST_LEVEL, np.float32)
    winner = np.concatenate([scaled, rest]).argmax(0)
    return np.stack([winner == 0, winner == 1])


@dataclass(frozen=True, eq=False)
class NamedImage:
    """A generated (or composed) picture of one noun and the trainless judge's verdict."""

    noun: str
    background: str
    seed: int
    pixels: NDArray[np.uint8]
    best_noun: str

    @property
    def right(self) -> bool:
        """Whether the asked noun came first among all."""
        return self.noun == self.best_noun


def best_noun(judge: NameCheck, pixels: NDArray[np.uint8]) -> str:
    """The noun whose drawing matches best."""
    by_noun = judge.best_by_noun(judge.scores(pixels))
    return max(by_noun, key=lambda noun: by_noun[noun])


def real_render_check(
    judge: NameCheck, photos: Sequence[Photo], count: int, side_px: int, seed: int
) -> Iterator[NamedImage]:
    """The judge's ceiling: composed pictures of one known sprite each, at the sizes the model learned."""
    rules = SceneRules(side_px=side_px)
    for index in range(count):
        rng = numpy_generator(seed, "real", index)
        sprite = judge.sprites[int(rng.integers(len(judge.sprites)))]
        label, background = random_background(photos, rng, rules)
        scene = compose([sprite], label, background, rng, rules)
        yield NamedImage(sprite.noun, label, index, scene.pixels, best_noun(judge, scene.pixels))
