"""Weights lent to a run, and given back."""

from __future__ import annotations

import pytest
import torch

from conceptloom.backbone import Backbone, WeightsDelta, family_of
from conceptloom.errors import ConceptSetError
from conceptloom.learning import resolve_config
from conceptloom.learning.weights import trained_weights


def test_a_lora_of_another_architecture_is_refused_and_leaves_nothing_behind(tiny_backbone: Backbone) -> None:
    config = resolve_config(family_of(tiny_backbone.version), {"train": "lora", "lora_rank": 2})
    start = WeightsDelta("lora", {"unet.nowhere.lora_A.weight": torch.zeros(2, 2)}, rank=2, alpha=2.0)
    modules = [id(module) for module in tiny_backbone.unet.modules()]
    with (
        pytest.raises(ConceptSetError, match="another architecture"),
        trained_weights(tiny_backbone, config, start),
    ):
        pass
    assert [id(module) for module in tiny_backbone.unet.modules()] == modules
