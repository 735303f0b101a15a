"""Look at the masks that learning found: how much of the picture each covers, how far they overlap.

Run it after ``learn_and_generate.py`` with ``python examples/inspect_masks.py``.
"""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np

from conceptloom import ConceptSet
from conceptloom.masks import iou
from conceptloom.pictures import load_picture, overlay, write_png

PICTURE = Path(__file__).with_name("frog-and-car.png")


def main(out: Path) -> None:
    """Read the set in `out`/set and lay its masks over the picture in `out`/masks.png."""
    concept_set = ConceptSet.load(out / "set")
    picture = load_picture(PICTURE)
    masks = {concept: mask for (name, concept), mask in concept_set.masks.items() if name == picture.name}
    for concept, mask in masks.items():
        print(f"<{concept}> covers {mask.mean():.1%} of {picture.name}")
    for (first, mask), (second, other) in combinations(masks.items(), 2):
        print(f"<{first}> and <{second}> overlap with an IoU of {iou(mask, other):.3f}")
    write_png(out / "masks.png", overlay(picture.pixels, np.stack(list(masks.values()))))
    print(f"see {out / 'masks.png'}")


if __name__ == "__main__":
    main(Path("example"))
