"""Untrusted picture files to clean arrays and back: decoding, framing, overlays, sheets, PNG.

Arrays everywhere: pixels uint8 (H, W, 3) in sRGB, masks bool (H, W). Nothing here needs torch.
"""

from conceptloom.pictures.framing import square_frame, square_frame_mask, unframe_mask
from conceptloom.pictures.hints import Hint, box_hint, combined, load_strokes
from conceptloom.pictures.picture import (
    Picture,
    load_break_a_scene,
    load_mask,
    load_mask_hint,
    load_picture,
    require_picture_name,
)
from conceptloom.pictures.sheets import contact_sheet, overlay
from conceptloom.pictures.writing import write_png, write_webp

__all__ = [
    "Hint",
    "Picture",
    "box_hint",
    "combined",
    "contact_sheet",
    "load_break_a_scene",
    "load_mask",
    "load_mask_hint",
    "load_picture",
    "load_strokes",
    "overlay",
    "require_picture_name",
    "square_frame",
    "square_frame_mask",
    "unframe_mask",
    "write_png",
    "write_webp",
]
