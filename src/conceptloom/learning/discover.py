"""Concepts that nobody named: how many things are in a picture, where, and which words they could start from."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from conceptloom.backbone import (
    Backbone,
    builtin_words,
    encode_prompts,
    load_backbone,
    record_affinity,
    telling_of_memory,
    tokenize,
)
from conceptloom.concepts import ConceptKind
from conceptloom.concepts.concept import MAX_NAME
from conceptloom.errors import ConfigError
from conceptloom.learning.batches import passes_at_once
from conceptloom.learning.segment import Segment, segment
from conceptloom.masks import area_to_grid
from conceptloom.masks.objectness import OBJECTNESS, best_disjoint, part_features
from conceptloom.masks.segments import part_tree
from conceptloom.pictures import Picture, load_picture, square_frame
from conceptloom.pictures.colour import rgb_to_lab
from conceptloom.seeding import noise

LOOKS = tuple(0.05 * step for step in range(1, 7))
"""Timesteps whose self-attention is averaged, as shares of all: at low noise it follows the picture."""
WORD_TIMES = (0.45, 0.55, 0.65, 0.75, 0.85)
"""Timesteps at which words are compared: at high noise a word changes what is predicted most."""
PARTS = 16
"""Segments of the finest cut that is looked at."""
LEAST = 0.33
"""Expected IoU from which a part counts as a thing."""
MOST = 4
"""Things that are proposed at most."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """A concept that a picture may hold.

    Attributes:
        name: for `learn --concept`, made from the word.
        word: the one that explains the part best; a guess, to be mended by whoever knows better.
        kind: "subject" or "background".
        segment: its mask and confidence.
    """

    name: str
    word: str
    kind: ConceptKind
    segment: Segment


def discover(
    picture: str | Path | Picture,
    *,
    words: Sequence[str] | None = None,
    places: Sequence[str] | None = None,
    most: int = MOST,
    base_model: str | Path | Backbone = "builtin",
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
) -> list[Proposal]:
    """Propose the concepts of a picture: things, best first, and the place they are in.

    Parts of the picture come from self-attention, `OBJECTNESS` says which of them are things, the word of each is the
    one under which the model predicts its noise best; masks are then found as `segment` finds them under these words.

    >>> discover("cat-and-dog.jpg")  # doctest: +SKIP

    Args:
        picture: a file or a loaded picture; its centred square is seen.
        words: candidates for things; None takes those the base model was taught, else the built-in model's.
        places: candidates for the place, likewise.
        most: things to propose at most, 1 or more.
        base_model, seed, device, dtype: as for `learn`.

    Raises:
        ConceptloomError: something given can't be used; the message says what, and what to do.
    """
    if most < 1:
        raise ConfigError(f"at most {most} things are asked for: choose 1 or more")
    if (words is not None and not words) or (places is not None and not places):
        raise ConfigError("no word to choose from: name at least one thing and one place, or leave them out")
    loaded = picture if isinstance(picture, Picture) else load_picture(picture)
    backbone = base_model if isinstance(base_model, Backbone) else load_backbone(base_model, device, dtype)
    things, grounds = builtin_words()
    words = tuple(words or backbone.nouns or things)
    places = tuple(places or backbone.backgrounds or grounds)
    with telling_of_memory(backbone.device, "looking for concepts", "free some or choose another device"):
        seen = look_at(backbone, loaded, words, places, seed)
        chosen = seen.parts[best_disjoint(seen.parts, OBJECTNESS(seen.features), LEAST, most)]
        return propose(backbone, loaded, seen, chosen, seed)


@dataclass(frozen=True, eq=False)
class Seen:
    """What there is to see in a picture without a word from the user. P parts, N cells, W words, V places.

    Attributes:
        words, places: the candidates.
        word_errors, place_errors: (W, N) and (V, N), see `denoising_errors`.
        parts: (P, N), see `part_tree`.
        features: see `part_features`.
    """

    words: tuple[str, ...]
    places: tuple[str, ...]
    word_errors: npt.NDArray[np.float32]
    place_errors: npt.NDArray[np.float32]
    parts: npt.NDArray[np.bool_]
    features: dict[str, npt.NDArray[np.float64]]


def look_at(
    backbone: Backbone, picture: Picture, words: Sequence[str], places: Sequence[str], seed: int = 0
) -> Seen:
    """Parts of the picture's square, what tells things among them, and how well words explain each cell."""
    frame = square_frame(picture.pixels, backbone.size)
    latents = backbone.encode_moments(frame[None]).mean
    affinity = looks(backbone, latents, seed)
    side = round(len(affinity) ** 0.5)
    errors = denoising_errors(backbone, latents, [*words, *places], side, seed)
    of_words, of_places = errors[: len(words)], errors[len(words) :]
    parts = part_tree(affinity, PARTS)
    features = part_features(parts, affinity, cell_colours(frame, side), of_words, of_places)
    return Seen(tuple(words), tuple(places), of_words, of_places, parts, features)


def propose(
    backbone: Backbone, picture: Picture, seen: Seen, things: npt.NDArray[np.bool_], seed: int = 0
) -> list[Proposal]:
    """Give parts (P, N) of the picture, and what they leave, the words that explain them best, and masks by these."""
    found: dict[str, tuple[str, ConceptKind]] = {}
    for part in things:
        word = seen.words[best_word(seen.word_errors, part)]
        found[free_name(word, found)] = (word, "subject")
    rest = np.logical_not(things.any(axis=0))
    if rest.any():
        place = seen.places[best_word(seen.place_errors, rest)]
        found[free_name(place, found)] = (place, "background")
    segments = segment(
        [picture],
        {name: word for name, (word, _) in found.items()},
        kinds={name: kind for name, (_, kind) in found.items()},
        base_model=backbone,
        seed=seed,
    )
    return [Proposal(one.concept, *found[one.concept], one) for one in segments]


@torch.no_grad()
def looks(backbone: Backbone, latents: Tensor, seed: int = 0) -> npt.NDArray[np.float32]:
    """Where each cell looks, (N, N), rows sum to 1: self-attention without words, mean over `LOOKS`.

    Args:
        backbone: the base model.
        latents: (1, c, h, w) of the picture.
        seed: of the noise.
    """
    hidden = encode_prompts(backbone, [tokenize(backbone, "", {})], None)
    layers: list[Tensor] = []
    for index, timestep in enumerate(_timesteps(backbone, LOOKS)):
        added = _noise(latents, seed, "looks", index)
        with record_affinity(backbone) as record:
            backbone.predict(backbone.add_noise(latents, added, timestep), timestep, hidden)
        layers += [layer[0] for layer in record.values()]
    mean = torch.stack(layers).mean(dim=0)
    affinity: npt.NDArray[np.float32] = (mean / mean.sum(dim=1, keepdim=True)).cpu().numpy()
    return affinity


@torch.no_grad()
def denoising_errors(
    backbone: Backbone, latents: Tensor, words: Sequence[str], side: int, seed: int = 0
) -> npt.NDArray[np.float32]:
    """Denoising error (W, side * side) of each cell under each word alone: mean over channels and `WORD_TIMES`.

    All words see the same noise.
    """
    hidden = encode_prompts(backbone, [tokenize(backbone, word, {}) for word in words], None)
    errors = torch.zeros(len(words), side * side)
    for index, timestep in enumerate(_timesteps(backbone, WORD_TIMES)):
        added = _noise(latents, seed, "words", index)
        noisy = backbone.add_noise(latents, added, timestep)
        target = backbone.target(latents, added, timestep)
        for chunk in torch.arange(len(words)).split(passes_at_once(backbone)):
            own = hidden[chunk.to(hidden.device)]
            prediction = backbone.predict(
                noisy.expand(len(chunk), -1, -1, -1), timestep.expand(len(chunk)), own
            )
            error = (prediction - target).square().mean(dim=1, keepdim=True)
            errors[chunk] += F.adaptive_avg_pool2d(error, side).flatten(1).cpu()
    mean: npt.NDArray[np.float32] = (errors / len(WORD_TIMES)).numpy()
    return mean


def cell_colours(frame: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.float32]:
    """Mean CIE Lab colour (side * side, 3) of each cell of a square picture (H, H, 3)."""
    return area_to_grid(rgb_to_lab(frame).transpose(2, 0, 1), (side, side)).reshape(3, -1).T


def best_word(errors: npt.NDArray[np.float32], part: npt.NDArray[np.bool_]) -> int:
    """Which of the words, errors (W, N), explains a part (N,) best."""
    return int(errors[:, part].mean(axis=1).argmin())


def free_name(word: str, taken: Collection[str]) -> str:
    """A concept name made from a word: "street", then "street-2"."""
    stem = re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")[: MAX_NAME - 4] or "thing"
    numbered = (f"{stem}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([stem], numbered) if name not in taken)


def _timesteps(backbone: Backbone, shares: Sequence[float]) -> list[Tensor]:
    """Timesteps (1,) at shares of all."""
    steps = [round(share * backbone.num_train_timesteps) for share in shares]
    return [torch.tensor([step], device=backbone.device) for step in steps]


def _noise(latents: Tensor, seed: int, *key: int | str) -> Tensor:
    return noise(latents.shape, seed, "discover", *key).to(latents.device)
