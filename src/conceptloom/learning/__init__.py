"""Learning concepts from pictures: four stages, masks and tokens in turn.

Axis legend: B batch, K concepts, H W pixels, h w latent cells, L layers, A heads, S text tokens, D embedding width.
"""

from conceptloom.learning.api import LearnJob, learn, prepare_job
from conceptloom.learning.config import CRFSettings, LearnConfig, read_config_file
from conceptloom.learning.discover import Proposal, discover
from conceptloom.learning.estimate import Estimate, estimate
from conceptloom.learning.presets import PRESETS, resolve_config
from conceptloom.learning.progress import (
    STAGES,
    CheckpointSaved,
    DriftMeasured,
    Finished,
    MasksUpdated,
    Noticed,
    Progress,
    Resumed,
    SamplesDrawn,
    StepDone,
)
from conceptloom.learning.recorder import Recorder, run_folder
from conceptloom.learning.request import LearningPicture, LearnRequest, build_request
from conceptloom.learning.segment import Segment, SegmentJob, prepare_segments, segment
from conceptloom.learning.trainer import run

__all__ = [
    "PRESETS",
    "STAGES",
    "CRFSettings",
    "CheckpointSaved",
    "DriftMeasured",
    "Estimate",
    "Finished",
    "LearnConfig",
    "LearnJob",
    "LearnRequest",
    "LearningPicture",
    "MasksUpdated",
    "Noticed",
    "Progress",
    "Proposal",
    "Recorder",
    "Resumed",
    "SamplesDrawn",
    "Segment",
    "SegmentJob",
    "StepDone",
    "build_request",
    "discover",
    "estimate",
    "learn",
    "prepare_job",
    "prepare_segments",
    "read_config_file",
    "resolve_config",
    "run",
    "run_folder",
    "segment",
]
