"""The counterpart of the paper's Fig. 2: one run as a strip, from attention over the threshold to the CRF, by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from conceptloom.evaluation.picture_grids import Album, SetResults
from conceptloom.evaluation.report import Grid, GridRow
from conceptloom.evaluation.units import MaskRecord
from conceptloom.masks import normalise_by_maximum, resize_maps, threshold

Pixels = npt.NDArray[np.uint8]

STEPS = 6
"""Mask updates shown, the first and the last among them."""
UNSHOWN = (
    " The threshold is not shown: attention is not thresholded as a share of its maximum, concept by concept."
)
LEFT_OUT = 245
"""Grey of what is outside a mask."""


def strip_grid(results: Sequence[SetResults], album: Album) -> Grid | None:
    """The first run on one picture of two subjects and a learned background; None where there is no such run."""
    for found in results:
        one, unit = found.one, found.units.get(found.ours)
        if unit is None or len(one.subjects) != 2 or one.num_pictures > 1 or one.place is None:
            continue
        records = [record for record in unit.masks if record.maps is not None]
        if len(records) > 1:
            shown = [records[index] for index in _spread(len(records))]
            tau = _shown_threshold(unit.config or {})
            return Grid(
                key="figure-2",
                title="Fig. 2: one run, from attention to masks",
                note=f"Set {one.name}, method {found.ours}, seed 0:"
                " the first of one picture with two subjects and a learned background."
                " Columns are mask updates; step 0 is the initial mask." + (UNSHOWN if tau is None else ""),
                columns=tuple(f"step {record.step}" for record in shown),
                rows=tuple(_rows(found, shown, tau, album)),
            )
    return None


def attention_over(pixels: Pixels, attention: npt.NDArray[np.float32]) -> Pixels:
    """The picture (H, W, 3), dark where the attention (H, W), 0..1, is low."""
    return np.rint(pixels * (0.12 + 0.88 * attention[..., None])).astype(np.uint8)


def cut_out(pixels: Pixels, mask: npt.NDArray[np.bool_]) -> Pixels:
    """The picture (H, W, 3) inside the mask (H, W), `LEFT_OUT` elsewhere."""
    return np.where(mask[..., None], pixels, np.uint8(LEFT_OUT))


def _spread(count: int) -> list[int]:
    return sorted({round(place) for place in np.linspace(0, count - 1, STEPS)})


def _shown_threshold(config: Mapping[str, Any]) -> float | None:
    """The share of a map's maximum that is its concept's threshold; None where thresholds are no such shares."""
    share = config.get("normalise", "maximum") == "maximum" and config.get("crf_labels", "binary") == "binary"
    return float(config["tau"]) if share else None


def _rows(found: SetResults, records: Sequence[MaskRecord], tau: float | None, album: Album) -> list[GridRow]:
    pixels = found.frame(found.one.pictures[0])
    rows = []
    for k, name in enumerate(records[0].concepts):
        attention = [_enlarged(record, k, found.side) for record in records]
        stages = {"attention": [attention_over(pixels, one) for one in attention]}
        if tau is not None:
            stages["threshold"] = [cut_out(pixels, threshold(one[None], tau)[0]) for one in attention]
        stages["CRF"] = [cut_out(pixels, record.masks[k]) for record in records]
        for stage, pictures in stages.items():
            rows.append(GridRow(label=f"<{name}> {stage}", tiles=tuple(album.add(one) for one in pictures)))
    return rows


def _enlarged(record: MaskRecord, k: int, side: int) -> npt.NDArray[np.float32]:
    """A concept's attention (side, side) in 0..1 of its maximum, enlarged as the method enlarges it."""
    assert record.maps is not None
    maps = record.maps[k : k + 1].astype(np.float32)
    enlarged: npt.NDArray[np.float32] = normalise_by_maximum(resize_maps(maps, side))[0]
    return enlarged
