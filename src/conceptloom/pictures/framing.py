"""Between a picture of any size and the square frame in which the model sees it.

The frame is the largest centred square of the picture, resized to the model's side.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image


def square_frame(pixels: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """The model's view of a picture: uint8 (H, W, 3) -> uint8 (side, side, 3).

    Resized by Lanczos, which averages over whole cells where it shrinks.
    """
    square = np.ascontiguousarray(pixels[_centre_square(pixels.shape[:2])])
    if square.shape[0] == side:
        return square.copy()
    return np.array(Image.fromarray(square).resize((side, side), Image.Resampling.LANCZOS))


def square_frame_mask(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.bool_]:
    """The mask (H, W) as ``square_frame`` shows its picture: bool (side, side), a pixel is in from half its area."""
    return _resized(mask[_centre_square(mask.shape)], side)


def square_frame_share(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.float32]:
    """Share of each pixel of the frame that the mask (H, W) covers: float32 (side, side) in 0..1."""
    return _share(mask[_centre_square(mask.shape)], side)


def unframe_mask(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A mask of the frame, bool (side, side), at the size (H, W) of its picture; ``False`` outside the frame.

    Where the picture is a whole number of times larger, ``square_frame_mask`` gives back the same mask.
    """
    whole = np.zeros(size, dtype=np.bool_)
    window = _centre_square(size)
    whole[window] = _resized(mask, min(size))
    return whole


def _centre_square(size: tuple[int, ...]) -> tuple[slice, slice]:
    height, width = size
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return slice(top, top + side), slice(left, left + side)


def _resized(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.bool_]:
    """A square mask at another side: area where it shrinks, straight outlines where it grows, cut at one half."""
    return _share(mask, side) >= 0.5 - 1e-6  # rounding must not decide a tie


def _share(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.float32]:
    share = Image.fromarray(mask.astype(np.float32))
    if mask.shape[0] != side:
        shrinks = side < mask.shape[0]
        share = share.resize((side, side), Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)
    return np.array(share)
