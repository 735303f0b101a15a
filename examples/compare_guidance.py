"""Draw the same images at rising guidance scales, in a loop of one's own over images as they come.

Run it after ``learn_and_generate.py`` with ``python examples/compare_guidance.py``.
"""

from __future__ import annotations

from pathlib import Path

from conceptloom import ConceptSet
from conceptloom.backbone import load_backbone
from conceptloom.generation import generate_images, resolve_settings
from conceptloom.pictures import contact_sheet, write_png

PROMPT = "a <frog> next to a <car> on the beach"
GUIDANCE_SCALES = (1.0, 2.0, 4.0, 8.0)
IMAGES = 4


def main(out: Path, base_model: str | Path = "builtin") -> None:
    """Read the set in `out`/set; each row of `out`/guidance.png is one guidance scale, each column one noise."""
    concept_set = ConceptSet.load(out / "set")
    backbone = load_backbone(base_model)  # once for all
    pixels, labels = [], []
    for guidance_scale in GUIDANCE_SCALES:
        settings = resolve_settings(backbone.version, guidance_scale=guidance_scale)
        for image in generate_images(backbone, concept_set, [PROMPT], num=IMAGES, settings=settings):
            print(
                f"guidance {guidance_scale:g}, image {image.index}: mean brightness {image.pixels.mean():.0f}"
            )
            pixels.append(image.pixels)
            labels.append(f"guidance {guidance_scale:g}")
    write_png(out / "guidance.png", contact_sheet(pixels, columns=IMAGES, labels=labels))
    print(f"see {out / 'guidance.png'}")


if __name__ == "__main__":
    main(Path("example"))
