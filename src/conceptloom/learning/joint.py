"""Stage 4: tokens and weights together under frozen masks, with prior preservation."""

from __future__ import annotations

from collections.abc import Sequence

from torch.nn import Parameter

from conceptloom.learning.batches import Batch, Material
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.objective import Objective, concept_objective
from conceptloom.learning.optimisation import Descent
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
    objective = concept_objective(material, rows, batch, config)
    objective = with_prior(material, objective, prior, config, "joint", step)
    descent.descend(objective.loss, f"joint step {step + 1}")
    return objective


def with_prior(
    material: Material,
    objective: Objective,
    prior: Sequence[PriorExample],
    config: LearnConfig,
    stage: str,
    step: int,
) -> Objective:
    """Add Eq. 1 on the base model's own images, so that the weights keep what they knew."""
    if not prior:
        return objective
    batch = prior_batch(material.backbone, prior, config, stage, step)
    preserved = concept_objective(material, None, batch, config)
    loss = objective.loss + config.prior_weight * preserved.loss
    parts = {**objective.parts, "loss": float(loss.detach()), "prior": preserved.parts["loss"]}
    return Objective(loss, parts, objective.maps)
