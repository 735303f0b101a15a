"""The M-step: tokens under fixed masks, and, where weights alternate with them, weights under fixed tokens."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import Parameter

from conceptloom.learning.batches import Batch, Material
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.joint import with_prior
from conceptloom.learning.objective import Objective, concept_objective
from conceptloom.learning.optimisation import Descent
from conceptloom.learning.prior import PriorExample


def token_step(
    material: Material,
    rows: Parameter,
    descent: Descent,
    batch: Batch,
    config: LearnConfig,
    where: str,
    *,
    with_maps: bool = False,
) -> Objective:
    """One update of the placeholder rows by Eq. 3 + lambda Eq. 4 (Eq. 1 for a batch without masks).

    Every model weight and every other embedding row stays bit for bit. `where` names the step in an error.
    """
    objective = concept_objective(material, rows, batch, config, with_maps=with_maps)
    descent.descend(objective.loss, where)
    return objective


def weight_step(
    material: Material,
    rows: Tensor,
    descent: Descent,
    batch: Batch,
    prior: Sequence[PriorExample],
    config: LearnConfig,
    step: int,
) -> None:
    """The paper's other sentence: with the newly updated tokens, update the weights on the same batch."""
    objective = concept_objective(material, rows.detach(), batch, config)
    objective = with_prior(material, objective, prior, config, "em", step)
    descent.descend(objective.loss, f"EM step {step + 1} (weights)")
