"""How well masks fit the true ones: IoU, boundary IoU, exchanged subjects, and two rows to compare with.

Axis legend: K concepts, H W pixels, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from conceptloom.concepts import ConceptKind
from conceptloom.masks import (
    CRFConfig,
    DenseCRF,
    MaskRules,
    area_to_grid,
    iou,
    normalise_by_maximum,
    resize_maps,
    threshold,
    update_masks,
)

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

HALF_A_CELL = 0.5
"""Share of the fullest cell above which the oracle's enlarged grid counts as the concept."""


@dataclass(frozen=True)
class MaskScore:
    """How one predicted mask fits the true one. Empty and full predictions are counted beside the IoU they get."""

    iou: float
    boundary_iou: float
    empty_prediction: bool
    empty_truth: bool
    full_prediction: bool


@dataclass(frozen=True, eq=False)
class OracleMasks:
    """True masks (K, H, W) seen through the latent grid, after the CRF and before it."""

    refined: BoolArray
    unrefined: BoolArray


def mask_iou(predicted: BoolArray, truth: BoolArray) -> FloatArray:
    """Intersection over union of masks (..., H, W) one by one, (...) in 0..1.

    Two empty masks agree fully (1); an empty one against any other scores 0.

    Raises:
        ValueError: for masks of different shapes.
    """
    if predicted.shape != truth.shape or predicted.ndim < 2:
        raise ValueError(
            f"masks of shapes {predicted.shape} and {truth.shape} can't be compared: "
            "expected one shape (..., H, W)"
        )
    *leading, height, width = predicted.shape
    pairs = zip(predicted.reshape(-1, height, width), truth.reshape(-1, height, width), strict=True)
    return np.array([iou(a, b) for a, b in pairs], np.float64).reshape(leading)


def boundary_iou(predicted: BoolArray, truth: BoolArray, dilation_ratio: float = 0.02) -> FloatArray:
    """IoU of the boundaries of masks (..., H, W) one by one, (...) in 0..1; rules for empty masks as `mask_iou`.

    A boundary is the part of a mask within d pixels of its outline, counted along the longer axis; what lies outside
    the picture is outside the mask. d is `dilation_ratio` of the picture's diagonal, at least one pixel. Cheng et al.,
    "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (2021), as in their released code.

    Raises:
        ValueError: for masks of different shapes.
    """
    return mask_iou(_boundary(predicted, dilation_ratio), _boundary(truth, dilation_ratio))


def score_mask(predicted: BoolArray, truth: BoolArray) -> MaskScore:
    """Scores of one predicted mask (H, W).

    Raises:
        ValueError: for masks of different shapes.
    """
    return MaskScore(
        iou=iou(predicted, truth),
        boundary_iou=float(boundary_iou(predicted, truth)),
        empty_prediction=not predicted.any(),
        empty_truth=not truth.any(),
        full_prediction=bool(predicted.all()),
    )


def oracle_masks(
    truth: BoolArray, pixels: npt.NDArray[np.uint8], latent_shape: tuple[int, int], crf_config: CRFConfig
) -> OracleMasks:
    """What the method would make of perfect attention: the row above which no method can be expected to score.

    Each cell's share of the true mask is enlarged, cut at one half of the fullest cell and refined by the method's own
    CRF and rescue rules. An empty true mask stays empty.

    Args:
        truth: (K, H, W) true masks.
        pixels: (H, W, 3) uint8 sRGB, their picture.
        latent_shape: (h, w).
        crf_config: the CRF's numbers.

    Raises:
        ValueError: for a picture that is not 8-bit RGB or does not have the masks' size.
    """
    if truth.shape[1:] != pixels.shape[:2]:
        raise ValueError(f"masks {truth.shape} do not fit a picture {pixels.shape}: expected one (H, W)")
    shares = area_to_grid(truth, latent_shape)
    unrefined = threshold(normalise_by_maximum(resize_maps(shares, truth.shape[1:])), HALF_A_CELL)
    rules = MaskRules(HALF_A_CELL)
    refined = update_masks(shares, DenseCRF(pixels, crf_config), rules, None, len(truth) > 1).masks
    refined[~truth.any(axis=(1, 2))] = False  # the rescue rules would put something there
    return OracleMasks(refined, unrefined)


def trivial_masks(truth: BoolArray, kinds: Sequence[ConceptKind], subject_area: float) -> BoolArray:
    """Masks (K, H, W) that look at nothing: the row below which a method has learned nothing.

    A background or pattern gets the whole picture, a subject a centred disc.

    Args:
        truth: (K, H, W); only its shape is used.
        kinds: (K,) what each concept is.
        subject_area: share of the picture's area that the disc covers, 0..1: the median subject's in other scenes.

    Raises:
        ValueError: for an area outside 0..1, or kinds that do not fit the masks.
    """
    count, height, width = truth.shape
    if len(kinds) != count or not 0 < subject_area <= 1:
        raise ValueError(
            f"{len(kinds)} kinds and subject area {subject_area} for {count} masks: "
            "expected a kind for each and an area within (0, 1]"
        )
    disc, everything = _centred_disc(height, width, subject_area), np.ones((height, width), np.bool_)
    return np.stack([disc if kind == "subject" else everything for kind in kinds])


def swapped(predicted: BoolArray, truth: BoolArray) -> bool:
    """Whether subjects have exchanged masks.

    True if two subjects, or more in a ring, each have a mask that overlaps the next one's true mask by a higher IoU
    than its own. One subject that strays onto another's place, which that one keeps, is no exchange.

    Args:
        predicted: (K, H, W) masks of the subjects alone, without background.
        truth: (K, H, W) true masks in the same order.

    Raises:
        ValueError: for masks of different shapes.
    """
    if predicted.shape != truth.shape or predicted.ndim != 3:
        raise ValueError(f"masks have shapes {predicted.shape} and {truth.shape}: expected one (K, H, W)")
    count = len(truth)
    if count < 2:
        return False
    overlap = np.array([[iou(mask, other) for other in truth] for mask in predicted])  # (K, K)
    gain = overlap - np.diag(overlap)[:, None]
    # One assignment to a truth that is no better costs more than all others can gain: the best one stays at home
    # unless there is a ring of strict gains.
    gain[(gain <= 0) & ~np.eye(count, dtype=np.bool_)] = -count
    _, assigned = linear_sum_assignment(gain, maximize=True)
    return bool((assigned != np.arange(count)).any())


def _boundary(masks: BoolArray, dilation_ratio: float) -> BoolArray:
    """Pixels of masks (..., H, W) that d erosions by a 3 x 3 square take away."""
    distance = max(1, round(dilation_ratio * float(np.hypot(*masks.shape[-2:]))))
    square = np.ones((1,) * (masks.ndim - 2) + (3, 3), np.bool_)
    eroded = ndimage.binary_erosion(masks, square, iterations=distance, border_value=0)
    boundary: BoolArray = masks & ~eroded
    return boundary


def _centred_disc(height: int, width: int, area: float) -> BoolArray:
    """The pixels nearest to the centre, as many as `area` of the picture holds; equally distant ones together."""
    row, column = np.mgrid[:height, :width]
    squared = (row - (height - 1) / 2) ** 2 + (column - (width - 1) / 2) ** 2
    last = max(1, round(area * squared.size)) - 1
    disc: BoolArray = squared <= np.partition(squared, last, axis=None)[last]
    return disc
