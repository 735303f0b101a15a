"""The M-step: tokens under fixed masks, and, where weights alternate with them, weights under fixed tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from torch import Tensor
from torch.nn import Parameter

from conceptloom.learning.batches import Batch, Material
from conceptloom.learning.config import LearnConfig
from conceptloom.learning.joint import preservation
from conceptloom.learning.objective import Objective, in_parts
from conceptloom.learning.optimisation import Descent, descend
from conceptloom.learning.prior import PriorExample


def token_step(
    material: Material,
    rows: Parameter,
    descent: Descent,
    batch: Batch,
    config: LearnConfig,
    *,
    with_maps: bool = False,
) -> Objective:
    """One update of the placeholder rows by Eq. 3 + lambda Eq. 4 (Eq. 1 for a batch without masks).

    Every model weight and every other embedding row stays bit for bit.
    """
    return descend(descent, in_parts(material, rows, batch, config, with_maps=with_maps))


def weight_step(
    material: Material,
    rows: Tensor,
    descent: Descent,
    batch: Batch,
    prior: Sequence[PriorExample],
    config: LearnConfig,
    step: int,
) -> Objective:
    """The paper's other sentence: with the newly updated tokens, update the weights on the same batch."""
    concepts = in_parts(material, rows.detach(), batch, config)
    return descend(descent, chain(concepts, preservation(material, prior, config, "em", step)))
