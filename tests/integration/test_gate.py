"""The attention gate on the built-in model as it ships, over as many scenes as `basemodel check` takes."""

from __future__ import annotations

import pytest

from conceptloom.backbone import load_backbone
from conceptloom.basemodel.report import AttentionReport, check_attention


@pytest.fixture(scope="module")
def report() -> AttentionReport:
    return check_attention(load_backbone("builtin", device="cpu"), 200, 0)


@pytest.mark.slow
def test_nouns_point_at_their_sprites_in_at_least_seventy_percent(report: AttentionReport) -> None:
    assert report.pointing.low >= 0.70


@pytest.mark.slow
def test_masks_at_one_threshold_are_neither_useless_nor_too_easy(report: AttentionReport) -> None:
    assert 0.35 <= report.threshold_iou.mean <= 0.70
