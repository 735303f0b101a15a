"""Shared fixtures. Heavy libraries are imported where a test asks for them, so that the others start at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conceptloom.backbone import Backbone


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random Stable Diffusion model that predicts noise (epsilon)."""
    import torch

    from tiny_models import save_tiny_model, stable_diffusion_scheduler

    torch.set_num_threads(1)  # the models are too small for more, and tests run in parallel
    return save_tiny_model(tmp_path_factory.mktemp("tiny-epsilon"), stable_diffusion_scheduler())


@pytest.fixture(scope="session")
def tiny_v_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the built-in model's schedule: v-prediction, zero terminal SNR, trailing spacing."""
    import torch

    from tiny_models import save_tiny_model, zero_terminal_snr_scheduler

    torch.set_num_threads(1)
    return save_tiny_model(tmp_path_factory.mktemp("tiny-v"), zero_terminal_snr_scheduler())


@pytest.fixture(scope="session")
def tiny_backbone(tiny_folder: Path) -> Backbone:
    """Tiny random base model on the CPU in float32, shared: whoever changes it puts it back."""
    from conceptloom.backbone import load_backbone

    return load_backbone(tiny_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def tiny_v_backbone(tiny_v_folder: Path) -> Backbone:
    """`tiny_backbone` with v-prediction and zero terminal SNR."""
    from conceptloom.backbone import load_backbone

    return load_backbone(tiny_v_folder, device="cpu", dtype="float32")


@pytest.fixture
def fresh_backbone(tiny_folder: Path) -> Backbone:
    """`tiny_backbone`, but this test's own: its weights may be changed for good."""
    from conceptloom.backbone import load_backbone

    return load_backbone(tiny_folder, device="cpu", dtype="float32")
