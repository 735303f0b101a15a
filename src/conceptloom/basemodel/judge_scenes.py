"""What the judges learn from: composed scenes of every drawing, some damaged, some seen through the autoencoder.

The judges must know what they judge, so theirs are the drawings and photographs of all three roles.

Axes: B pictures, M drawings of a picture (at most three, padded), H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from conceptloom.basemodel.damage import TRAINED_KINDS, damage
from conceptloom.basemodel.training import to_model_range
from conceptloom.errors import DataError
from conceptloom.judges.networks import Vocabulary
from conceptloom.runs import write_bytes_atomic
from conceptloom.scenes.backgrounds import Photo
from conceptloom.scenes.composer import SceneRules, compose, random_background
from conceptloom.scenes.sprites import Sprite
from conceptloom.seeding import numpy_generator

MOST_DRAWINGS = 3
UNKNOWN = -1
SHARD_SCENES = 64


@dataclass(frozen=True, eq=False)
class JudgedScenes:
    """Pictures with what a judge should say of them.

    ``pixels`` uint8 (B, H, W, 3); ``boxes`` float32 (B, M, 4) of the visible parts; ``drawings`` int64 (B, M): the
    place in the vocabulary, `UNKNOWN` for damaged ones; ``present`` bool (B, M), False on padding; ``backgrounds``
    int64 (B,).
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    drawings: NDArray[np.int64]
    present: NDArray[np.bool_]
    backgrounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> JudgedScenes:
        return JudgedScenes(**{name: value[rows] for name, value in vars(self).items()})


def joined(parts: Sequence[JudgedScenes]) -> JudgedScenes:
    """Several batches as one."""
    return JudgedScenes(
        **{name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}
    )


def mirrored(scenes: JudgedScenes, flips: NDArray[np.bool_]) -> JudgedScenes:
    """The same scenes, left and right exchanged where ``flips`` (B,) says so."""
    pixels, boxes = scenes.pixels.copy(), scenes.boxes.copy()
    side = pixels.shape[2]
    pixels[flips] = pixels[flips, :, ::-1]
    boxes[flips] = np.stack(
        [side - boxes[flips, :, 2], boxes[flips, :, 1], side - boxes[flips, :, 0], boxes[flips, :, 3]], -1
    )
    return JudgedScenes(pixels, boxes, scenes.drawings, scenes.present, scenes.backgrounds)


class JudgeStream:
    """Endless random-access scenes: number ``i`` depends on (seed, i) alone.

    Each drawing of a scene is damaged with probability ``damaged_share``.
    """

    def __init__(
        self,
        sprites: Sequence[Sprite],
        photos: Sequence[Photo],
        vocabulary: Vocabulary,
        rules: SceneRules,
        seed: int,
        damaged_share: float,
    ) -> None:
        self.sprites, self.photos, self.rules = tuple(sprites), photos, rules
        self.vocabulary, self.seed, self.damaged_share = vocabulary, seed, damaged_share
        places = {key: place for place, key in enumerate(vocabulary.sprites)}
        self.places = [places[sprite.key] for sprite in sprites]
        self.words = {word: place for place, word in enumerate(vocabulary.backgrounds)}

    def scenes(self, indices: Sequence[int]) -> JudgedScenes:
        """The scenes of these numbers."""
        return joined([self._scene(index) for index in indices])

    def _scene(self, index: int) -> JudgedScenes:
        rng = numpy_generator(self.seed, "judged", index)
        count = min(1 + int(rng.choice(3, p=self.rules.counts)), len(self.sprites))
        chosen = [int(place) for place in rng.choice(len(self.sprites), count, replace=False)]
        drawings, named = [], []
        for place in chosen:
            broken = None
            if rng.random() < self.damaged_share:
                kind = TRAINED_KINDS[int(rng.integers(len(TRAINED_KINDS)))]
                broken = damage(self.sprites[place], self.sprites, kind, rng)
            drawings.append(broken or self.sprites[place])
            named.append(self.places[place] if broken is None else UNKNOWN)
        label, background = random_background(self.photos, rng, self.rules)
        scene = compose(drawings, label, background, rng, self.rules)
        return judged([scene.pixels], [[thing.box for thing in scene.objects]], [named], [self.words[label]])


def judged(
    pixels: Sequence[NDArray[np.uint8]],
    boxes: Sequence[Sequence[tuple[int, int, int, int]]],
    drawings: Sequence[Sequence[int]],
    backgrounds: Sequence[int],
) -> JudgedScenes:
    """Pictures with up to `MOST_DRAWINGS` boxes each, padded."""
    padded_boxes = np.zeros((len(pixels), MOST_DRAWINGS, 4), np.float32)
    padded_boxes[..., 2:] = 1  # never empty: no division by nothing on padding
    padded_drawings = np.full((len(pixels), MOST_DRAWINGS), UNKNOWN, np.int64)
    present = np.zeros((len(pixels), MOST_DRAWINGS), bool)
    for row, (places, own) in enumerate(zip(drawings, boxes, strict=True)):
        padded_boxes[row, : len(own)], padded_drawings[row, : len(own)] = own, places
        present[row, : len(own)] = True
    return JudgedScenes(
        np.stack(pixels), padded_boxes, padded_drawings, present, np.asarray(backgrounds, np.int64)
    )


@torch.no_grad()
def through_autoencoder(autoencoder: AutoencoderKL, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures (B, H, W, 3) as the base model would at best draw them: encoded and decoded again."""
    output = autoencoder.decode(autoencoder.encode(to_model_range(pixels)).latent_dist.mean).sample
    redrawn: NDArray[np.uint8] = (
        ((output.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    )
    return redrawn


def build_reconstructions(
    folder: Path, stream: JudgeStream, autoencoder: AutoencoderKL, count: int
) -> Iterator[int]:
    """Put the first ``count`` scenes of ``stream`` through the autoencoder, once and for all: it costs ten times what
    composing does. Yields how many are there; goes on where it stopped."""
    for shard in range(count // SHARD_SCENES):
        path = folder / f"{shard:05d}.safetensors"
        if not path.is_file():
            scenes = stream.scenes(range(shard * SHARD_SCENES, (shard + 1) * SHARD_SCENES))
            redrawn = np.concatenate(
                [
                    through_autoencoder(autoencoder, scenes[row : row + 8].pixels)
                    for row in range(0, SHARD_SCENES, 8)
                ]
            )
            tensors = {name: np.ascontiguousarray(value) for name, value in vars(scenes).items()}
            write_bytes_atomic(path, save(tensors | {"pixels": redrawn}))
        yield (shard + 1) * SHARD_SCENES


def load_reconstructions(folder: Path, count: int) -> JudgedScenes:
    """What ``build_reconstructions`` wrote. Raises ``DataError`` when a part is missing."""
    paths = [folder / f"{shard:05d}.safetensors" for shard in range(count // SHARD_SCENES)]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise DataError(f"{len(missing)} files of reconstructed scenes are missing: train the judges again")
    return joined([JudgedScenes(**load_file(path)) for path in paths])
