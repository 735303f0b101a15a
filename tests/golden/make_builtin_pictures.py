"""Make `builtin.png`: what the built-in model draws. Look at it before it is committed.

PYTHONPATH=tests python tests/golden/make_builtin_pictures.py
"""

from builtin_pictures import GOLDEN, golden_sheet
from conceptloom.backbone import load_backbone
from conceptloom.pictures import write_png

write_png(GOLDEN, golden_sheet(load_backbone("builtin", device="cpu")))
