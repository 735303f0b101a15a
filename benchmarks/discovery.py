"""What discovering concepts can build on: parts from self-attention, and words from denoising errors, on dev sets.

    python benchmarks/discovery.py cache --out CACHE [--sets 40] [--model FOLDER] [--dtype bfloat16]
    python benchmarks/discovery.py score CACHE

`cache` keeps, of every picture, the up path's self-attention at 14 timesteps without words, and the denoising error of
every cell at 5 timesteps under every word the model was taught. `score` prints how well single parts cover the true
subjects (for several numbers of parts), and how often the true word of a subject or place explains its true area best.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from conceptloom.backbone import Backbone, encode_prompts, load_backbone, record_affinity, tokenize
from conceptloom.evaluation.benchmark import BenchmarkSet
from conceptloom.evaluation.builtin_sets import builtin_benchmark, taught_nouns
from conceptloom.evaluation.statistics import cluster_bootstrap
from conceptloom.masks import CRFConfig, DenseCRF, area_to_grid, iou
from conceptloom.masks.segments import affinity_segments, segment_pixels
from conceptloom.pictures import Picture, square_frame, square_frame_mask
from conceptloom.seeding import noise

WORD_TIMESTEPS = (450, 550, 650, 750, 850)
LOOK_TIMESTEPS = tuple(range(50, 701, 50))
AT_ONCE = 64
COUNTS = (6, 8, 10, 12, 14)
LOOKS = 6
"""Of the timesteps of self-attention the first so many are averaged: up to 300."""


@dataclass(frozen=True, eq=False)
class Cached:
    """One picture: what the passes gave, and the truth."""

    set_name: str
    frame: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    kinds: tuple[str, ...]
    nouns: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]
    errors: NDArray[np.float32]
    """(words, h, w): things, then places; mean over timesteps."""
    affinity: NDArray[np.float32]
    """(N, N)."""


@torch.no_grad()
def fill(backbone: Backbone, one: BenchmarkSet, picture: Picture, path: Path) -> None:
    """Write one picture's file."""
    things, places = tuple(sorted(taught_nouns())), backbone.backgrounds
    frame = square_frame(picture.pixels, backbone.size)
    latents = backbone.encode_moments(frame[None]).mean
    hidden = encode_prompts(backbone, [tokenize(backbone, word, {}) for word in ("", *things, *places)], None)
    errors = []
    for index, timestep in enumerate(torch.tensor(WORD_TIMESTEPS)):
        added = noise((1, *backbone.latent_shape), 0, "discovery", "words", index)
        noisy = backbone.add_noise(latents, added, timestep[None])
        target = backbone.target(latents, added, timestep[None])
        found = []
        for chunk in hidden[1:].split(AT_ONCE):
            count = len(chunk)
            prediction = backbone.predict(noisy.expand(count, -1, -1, -1), timestep.expand(count), chunk)
            found.append((prediction - target).square().mean(dim=1))
        errors.append(torch.cat(found))
    timesteps = torch.tensor(LOOK_TIMESTEPS)
    count = len(timesteps)
    added = noise((count, *backbone.latent_shape), 0, "discovery", "looks")
    noisy = backbone.add_noise(latents.expand(count, -1, -1, -1), added, timesteps)
    with record_affinity(backbone) as looks:
        backbone.predict(noisy, timesteps, hidden[:1].expand(count, -1, -1))
    names = one.contains[picture.name]
    concepts = [one.concept(name) for name in names]
    arrays = {
        "frame": frame,
        "truth": np.stack([square_frame_mask(picture.masks[name], backbone.size) for name in names]),
        "errors": torch.stack(errors).half().numpy(),
        "looks": torch.stack(list(looks.values())).mean(dim=0).half().numpy(),
    }
    labels = {
        "set": one.name,
        "kinds": "|".join(concept.kind for concept in concepts),
        "nouns": "|".join(concept.noun for concept in concepts),
        "things": "|".join(things),
        "places": "|".join(places),
    }
    save_file(arrays, path, labels)


def read(path: Path) -> Cached:
    """One file of the cache."""
    with safe_open(path, "numpy") as stored:
        labels = {name: tuple(text.split("|")) for name, text in stored.metadata().items()}
        errors = stored.get_tensor("errors").astype(np.float32).mean(axis=0)
        affinity = stored.get_tensor("looks")[:LOOKS].astype(np.float32).mean(axis=0)
        return Cached(
            labels["set"][0],
            stored.get_tensor("frame"),
            stored.get_tensor("truth"),
            labels["kinds"],
            labels["nouns"],
            labels["things"],
            labels["places"],
            errors,
            affinity / affinity.sum(axis=1, keepdims=True),
        )


def print_parts(pictures: list[Cached]) -> None:
    """The best part of each true subject, by the number of parts."""
    print("parts  subjects  IoU of the best part    found (IoU > .5)")
    for count in COUNTS:
        best, clusters = [], []
        for picture in pictures:
            crf = DenseCRF(picture.frame, CRFConfig(scale=2.0, bilateral_srgb=8.0))
            parts = segment_pixels(affinity_segments(picture.affinity, count), crf)
            for true, kind in zip(picture.truth, picture.kinds, strict=True):
                if kind == "subject":
                    best.append(max(float(iou(parts == part, true)) for part in range(count)))
                    clusters.append(picture.set_name)
        mean = cluster_bootstrap(best, clusters)
        recall = cluster_bootstrap([float(value > 0.5) for value in best], clusters)
        print(
            f"{count:>5}  {len(best):>8}  {mean.value:.3f} [{mean.low:.3f}, {mean.high:.3f}]"
            f"  {recall.value:.3f} [{recall.low:.3f}, {recall.high:.3f}]"
        )


def print_words(pictures: list[Cached]) -> None:
    """How often the true word explains the true area best, of all words of its kind."""
    ranks: dict[str, list[int]] = {"subject": [], "place": []}
    for picture in pictures:
        errors = {
            "subject": picture.errors[: len(picture.things)],
            "place": picture.errors[len(picture.things) :],
        }
        words = {"subject": picture.things, "place": picture.places}
        for true, kind, noun in zip(picture.truth, picture.kinds, picture.nouns, strict=True):
            group = "subject" if kind == "subject" else "place"
            if noun not in words[group]:
                continue
            share = area_to_grid(true[None], picture.errors.shape[1:])[0]  # type: ignore[arg-type]
            explained = (errors[group] * share).sum(axis=(1, 2))
            ranks[group].append(int((explained < explained[words[group].index(noun)]).sum()))
    for group, found in ranks.items():
        values = np.array(found)
        print(
            f"{group}: {len(values)} areas, true word first {np.mean(values == 0):.2f},"
            f" among the first five {np.mean(values < 5):.2f}, median place {np.median(values) + 1:.0f}"
        )


def main() -> None:
    """Fill a cache, or score it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    filling = commands.add_parser("cache")
    filling.add_argument("--out", type=Path, required=True)
    filling.add_argument("--sets", type=int, default=40)
    filling.add_argument("--model", default="builtin")
    filling.add_argument("--dtype", default="float32")
    commands.add_parser("score").add_argument("cache", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "cache":
        arguments.out.mkdir(parents=True, exist_ok=True)
        backbone = load_backbone(arguments.model, device="cpu", dtype=arguments.dtype)
        for one in builtin_benchmark("dev", arguments.sets).sets:
            for number, picture in enumerate(one.pictures):
                path = arguments.out / f"{one.name}-{number}.safetensors"
                if not path.exists():
                    fill(backbone, one, picture, path)
        return
    pictures = [read(path) for path in sorted(arguments.cache.glob("*.safetensors"))]
    print_parts(pictures)
    print_words(pictures)


if __name__ == "__main__":
    main()
