"""A COCO folder of a few small images, made by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from conceptloom.evaluation.coco_format import open_coco
from conceptloom.evaluation.coco_selection import CLASSES, qualifying_scenes
from conceptloom.pictures import write_png
from conceptloom.seeding import numpy_generator

EXCLUDED = ("orange", "banana", "broccoli", "carrot", "zebra", "giraffe")
"""By Break-A-Scene: their members cannot be told apart."""
NAMES = [*CLASSES, *EXCLUDED, "person", "pizza"]
Box = tuple[int, int, int, int]
"""left, top, right, bottom in pixels."""

WIDTH, HEIGHT = 100, 60  # the square is columns 20 to 79
LEFT: Box = (20, 0, 50, 40)  # a third of the square
RIGHT: Box = (50, 0, 80, 40)


@dataclass
class CocoFolder:
    """A COCO folder in the making: images of 100 x 60 px with rectangles as polygons."""

    path: Path
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, *things: tuple[str, Box]) -> int:
        """One more image with a rectangle for each thing; its id."""
        number = len(self.images) + 1
        name = f"{number:012d}.png"
        pixels = numpy_generator(number, "coco").integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        write_png(self.path / "val2017" / name, pixels)
        self.images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for noun, box in things:
            self.annotate(number, noun, box)
        return number

    def annotate(self, image: int, noun: str, box: Box, **changes: Any) -> None:
        left, top, right, bottom = box
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image,
                "category_id": NAMES.index(noun) + 1,
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
                "area": (right - left) * (bottom - top),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
                **changes,
            }
        )

    def write(self, subset: str = "val2017") -> Path:
        path = self.path / "annotations" / f"instances_{subset}.json"
        path.parent.mkdir(exist_ok=True)
        categories = [{"id": index + 1, "name": name} for index, name in enumerate(NAMES)]
        value = {"images": self.images, "annotations": self.annotations, "categories": categories}
        path.write_text(json.dumps(value))
        return self.path

    def scenes(self) -> list[tuple[str, ...]]:
        """Nouns of the scenes that qualify."""
        coco = open_coco(self.write() / "annotations" / "instances_val2017.json")
        return [tuple(segment.noun for segment in scene.segments) for scene in qualifying_scenes(coco)]
