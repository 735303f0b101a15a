"""From attention maps to masks: resize, threshold, DenseCRF, rescue rules, grids. numpy and scipy only."""

from conceptloom.masks.assign import Held, MaskRules, evidence_of
from conceptloom.masks.crf import CRFConfig, DenseCRF, binary_unary, joint_unary, soft_energies
from conceptloom.masks.grids import area_to_grid, hard_grid
from conceptloom.masks.maps import (
    Normalise,
    coinciding,
    compete,
    normalise_by_maximum,
    normalise_by_range,
    normalise_by_spread,
    propagate,
    resize_maps,
    threshold,
)
from conceptloom.masks.update import MaskUpdate, all_keep, iou, update_masks

__all__ = [
    "CRFConfig",
    "DenseCRF",
    "Held",
    "MaskRules",
    "MaskUpdate",
    "Normalise",
    "all_keep",
    "area_to_grid",
    "binary_unary",
    "coinciding",
    "compete",
    "evidence_of",
    "hard_grid",
    "iou",
    "joint_unary",
    "normalise_by_maximum",
    "normalise_by_range",
    "normalise_by_spread",
    "propagate",
    "resize_maps",
    "soft_energies",
    "threshold",
    "update_masks",
]
