"""Stage 4: tokens and weights together under frozen masks, with prior preservation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from torch.nn import Parameter

from conceptloom.learning.batches import Batch, Material
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.objective import Objective, in_parts
from conceptloom.learning.optimisation import Descent, descend
from conceptloom.learning.prior import PriorExample, prior_batch


def joint_step(
    material: Material,
    rows: Parameter,
    descent: Descent,
    batch: Batch,
    prior: Sequence[PriorExample],
    config: LearnConfig,
    step: int,
) -> Objective:
    """One update of tokens and weights by Eq. 3 + lambda Eq. 4 + `prior_weight` Eq. 1 on the prior images."""
    concepts = in_parts(material, rows, batch, config)
    return descend(descent, chain(concepts, preservation(material, prior, config, "joint", step)))


def preservation(
    material: Material, prior: Sequence[PriorExample], config: LearnConfig, stage: str, step: int
) -> Iterator[Objective]:
    """`prior_weight` Eq. 1 on the base model's own images, so that the weights keep what they knew."""
    if not prior:
        return
    batch = prior_batch(material.backbone, prior, config, stage, step)
    for objective in in_parts(material, None, batch, config):
        weighed = objective.weighed(config.prior_weight)
        yield replace(weighed, parts={**weighed.parts, "prior": objective.parts["loss"]})
