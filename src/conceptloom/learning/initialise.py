"""Stage 1: where the placeholder rows start."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from conceptloom.backbone import Backbone, initial_rows, random_rows, vocabulary_spread
from conceptloom.concepts import Concept, ConceptSet
from conceptloom.learning.config import LearnConfig
from conceptloom.seeding import noise, torch_generator

SEPARATION = 0.1
"""Seeded Gaussian added to every start, in units of the vocabulary's spread: two "person"s must not stay equal."""


def starting_rows(
    backbone: Backbone, concepts: Sequence[Concept], config: LearnConfig, start: ConceptSet | None = None
) -> Tensor:
    """Starting rows of all concepts, (R, D) float32 on the device, concepts in order, `num_vectors` rows each.

    A concept that `start` already holds goes on from its rows. Otherwise: the mean of the pieces of its initializer
    word, or, without a word or with `initializer` "random", a draw from the vocabulary's mean and spread.
    """
    spread = vocabulary_spread(backbone)
    rows = []
    for concept in concepts:
        if start is not None and concept.name in start.embeddings:
            rows.append(start.embeddings[concept.name].to(backbone.device, torch.float32))
            continue
        if concept.initializer is None or config.initializer == "random":
            generator = torch_generator(config.seed, "random rows", concept.name)
            center = random_rows(backbone, concept.num_vectors, generator)
        else:
            center = initial_rows(backbone, concept.initializer, concept.num_vectors)
        separation = noise(center.shape, config.seed, "separation", concept.name).to(backbone.device)
        rows.append(center + SEPARATION * spread * separation)
    return torch.cat(rows)
