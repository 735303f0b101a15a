"""A concept set with random rows, and a benchmark set, for a tiny base model: no learning, milliseconds.

And what two sets on the disk are compared by.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conceptloom.backbone import (
    Backbone,
    WeightsDelta,
    WeightsKind,
    add_lora,
    lora_state,
    random_rows,
    remove_lora,
    weight_names,
    weights_state,
)
from conceptloom.concepts import BaseModelRecord, Concept, ConceptSet
from conceptloom.evaluation.benchmark import BenchmarkSet, TestPrompt, TrueConcept
from conceptloom.pictures import Picture
from conceptloom.seeding import numpy_generator, torch_generator

CONCEPTS = (
    Concept("cat", initializer="cat", num_vectors=2),
    Concept("car", initializer="car"),
    Concept("beach", "background"),
)
PROMPT = "a <cat> next to a <car> on <beach>"


def tiny_set(backbone: Backbone, kind: WeightsKind | None = None, seed: int = 0) -> ConceptSet:
    """Cat (two rows), car and beach, learned from "garden" (all three) and "street" (the car)."""
    rows = {
        concept.name: random_rows(backbone, concept.num_vectors, torch_generator(seed, concept.name)).cpu()
        for concept in CONCEPTS
    }
    rng = numpy_generator(seed, "pictures")
    masks = {("garden", concept.name): rng.random((40, 60)) < 0.3 for concept in CONCEPTS}
    masks["street", "car"] = np.ones((8, 8), dtype=np.bool_)
    return ConceptSet(
        concepts=CONCEPTS,
        embeddings=rows,
        base=BaseModelRecord(backbone.name, backbone.fingerprint, backbone.version),
        weights=None if kind is None else tiny_weights(backbone, kind, seed),
        config={"method": "paper"},
        provenance={
            "conceptloom": "0.1.0",
            "drift": {"prompts": ["dog"], "before": 0.5, "after": 0.625},
            "rescues": {"garden": {"cat": 3}},
        },
        masks=masks,
        thumbnails={"cat": rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)},
    )


def tiny_weights(backbone: Backbone, kind: WeightsKind, seed: int = 0) -> WeightsDelta:
    """Random weights of a kind, large enough to change every picture; the base model is left as it was."""
    if kind == "lora":
        try:
            add_lora(backbone, rank=2, alpha=2.0, seed=seed)
            factors = {
                name: _perturbation(tensor, seed, name) for name, tensor in lora_state(backbone).items()
            }
        finally:
            remove_lora(backbone)
        return WeightsDelta("lora", factors, rank=2, alpha=2.0)
    base = weights_state(backbone, weight_names(backbone, kind))
    return WeightsDelta(
        kind, {name: 0.1 * _perturbation(tensor, seed, name) for name, tensor in base.items()}
    )


def _perturbation(tensor: torch.Tensor, seed: int, name: str) -> torch.Tensor:
    return 0.3 * torch.randn(tensor.shape, generator=torch_generator(seed, "weights", name))


def tiny_benchmark_set() -> BenchmarkSet:
    """A red square, the pet, on a noisy ground, the place, with true masks and two prompts."""
    pixels = np.random.default_rng(0).integers(90, 130, (80, 100, 3), dtype=np.uint8)
    mask = np.zeros((80, 100), bool)
    mask[20:60, 30:70] = True
    pixels[mask] = (220, 60, 40)
    return BenchmarkSet(
        "one",
        (Picture("first", None, pixels, {"pet": mask, "place": ~mask}),),
        (
            TrueConcept("pet", "cat", "subject", "cat", None, "instance", "animal"),
            TrueConcept("place", "beach", "background", "beach", None, "place", "place"),
        ),
        {"first": ("pet", "place")},
        (
            TestPrompt("a <pet> on the <place>", "context", ("pet", "place"), place="place"),
            TestPrompt("a <pet> on the beach", "context", ("pet",), place="beach"),
        ),
        "photo",
    )


def content(folder: Path) -> dict[str, Any]:
    """What a set holds by file name, apart from times and dates."""
    held: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            held[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
        elif path.suffix == ".json":
            told = json.loads(path.read_text())
            held[name] = {key: value for key, value in told.items() if key != "provenance"}
        elif path.is_file():
            held[name] = None if path.suffix == ".html" else path.read_bytes()
    return held
