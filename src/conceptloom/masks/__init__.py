"""From attention maps to masks: resize, threshold, DenseCRF, rescue rules, grids. numpy and scipy only."""

from conceptloom.masks.crf import CRFConfig, DenseCRF, binary_unary, joint_unary
from conceptloom.masks.grids import area_to_grid, hard_grid
from conceptloom.masks.maps import normalise_by_maximum, resize_maps, threshold
from conceptloom.masks.update import MaskUpdate, iou, update_masks

__all__ = [
    "CRFConfig",
    "DenseCRF",
    "MaskUpdate",
    "area_to_grid",
    "binary_unary",
    "hard_grid",
    "iou",
    "joint_unary",
    "normalise_by_maximum",
    "resize_maps",
    "threshold",
    "update_masks",
]
