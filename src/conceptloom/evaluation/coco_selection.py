"""The COCO benchmark: scenes chosen from a local COCO folder as Break-A-Scene chose them, with 120 concepts.

Break-A-Scene's rule (arXiv 2305.16311v2, section 4.1 and supplement B.2, "Automatic Dataset Creation"; its repository
ships no code for it): crop the images to squares, keep those with at least two segments of distinct "things" types,
each at least 15 % of the image, and leave out classes whose members have no identity of their own: orange, banana,
broccoli, carrot, zebra, giraffe. Its ten prompt formats give our contexts.

The paper says "we randomly selected 120 concepts from 11 COCO object classes", 20 prompts each, and names neither
classes nor images. What neither source says is ours:

- the square is the centre of the image;
- crowd annotations are no segments; a segment counts only where other instances of its class have at most a tenth of
  its area together, so that the class word means one thing in the picture;
- both segments are of the eleven classes of `CLASSES`; a scene with more gives the pair that balances the classes
  best, and scenes are drawn so that classes come equally often; an image gives one set;
- the two concepts of a scene share its 20 prompts, many of which ask for both;
- images with a person anywhere in them are left out: nobody in COCO agreed to be learned;
- the background, the complement of the two segments (as Break-A-Scene defines it), is learned beside them, so that
  transfer can be asked for. It is not among the 120.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conceptloom.errors import ConfigError, DataError
from conceptloom.evaluation.benchmark import Benchmark, BenchmarkSet, TrueConcept
from conceptloom.evaluation.coco_format import image_path, open_coco
from conceptloom.evaluation.prompt_templates import KnownWords, prompts_for
from conceptloom.evaluation.rle import from_segmentation
from conceptloom.pictures import Picture, load_picture, square_frame, square_frame_mask
from conceptloom.pictures.decoding import MAX_PIXELS
from conceptloom.seeding import numpy_generator

CONCEPTS = 120
"""As many as the paper's: 60 scenes of two."""
MIN_AREA = 0.15
"""Least share of the square that a segment covers (Break-A-Scene)."""
MAX_OTHERS = 0.1
"""Most that other instances of a segment's class may cover, as a share of the segment."""
PERSON = "person"
MAX_ANNOTATION_BYTES = 2**30

CLASSES = {
    "cat": "animal",
    "dog": "animal",
    "horse": "animal",
    "teddy bear": "toy animal",
    "car": "vehicle",
    "truck": "vehicle",
    "motorcycle": "vehicle",
    "suitcase": "object",
    "chair": "furniture",
    "couch": "furniture",
    "bed": "furniture",
}
"""Our eleven classes, with their class words.

Chosen by what the rule and the prompts need: members that differ from each other at a glance (a coat, a paint job, a
cover), so that identity can be judged; large and few in their pictures; often two of them together without people
(pets on furniture and in luggage, vehicles side by side); things that can act (four), carry (vehicles, furniture) or
be taken elsewhere. Left out are people, for their sake; what is mostly small (cutlery, sports gear) or comes in herds
(cow, sheep, elephant, zebra, giraffe); food, which is one of many alike; what fills the picture as scenery (dining
table, train); and what the image model knows one look of (stop sign, fire hydrant).
"""

KNOWN = KnownWords(
    places={
        "beach": "at the {}",
        "jungle": "in the {}",
        "snow": "in the {}",
        "street": "in the {}",
        "pink fabric": "on top of a {}",
        "wooden floor": "on top of a {}",
        "city": "with a {} in the background",
        "mountain": "with a {} in the background",
        "Eiffel tower": "with the {} in the background",
        "water": "floating on top of {}",
    },
    things={
        "elephant": "animal",
        "penguin": "bird",
        "rabbit": "animal",
        "bicycle": "vehicle",
        "boat": "vehicle",
        "skateboard": "vehicle",
        "umbrella": "object",
        "balloon": "toy",
        "guitar": "object",
        "book": "object",
        "hat": "clothes",
        "cake": "food",
        "pizza": "food",
        "tree": "plant",
        "snowman": "toy",
        "fountain": "building",
    },
    styles=("oil painting", "watercolor", "pencil sketch", "comic book", "pixel art", "origami"),
)
"""What a Stable Diffusion model knows: Break-A-Scene's ten contexts, and things and styles of ours."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Segment:
    """An annotation that qualifies: its id and the name of its class."""

    annotation: int
    noun: str


@dataclass(frozen=True)
class Scene:
    """An image and two of its segments, of distinct classes."""

    image: int
    segments: tuple[Segment, Segment]


def coco_benchmark(
    folder: str | Path, concepts: int = CONCEPTS, seed: int = 0, subset: str | None = None
) -> Benchmark:
    """Choose scenes from a COCO folder: sets of two subjects and the background, with 20 prompts each.

    Classes are balanced as far as the folder allows; a folder with too few scenes gives fewer concepts. Annotations
    are read whole, images one at a time and only those that are chosen.

    Args:
        folder: holds ``annotations/instances_SUBSET.json`` and the images in ``SUBSET``, ``images/SUBSET`` or
            ``images``.
        concepts: how many beside the backgrounds; even.
        seed: another one prefers other images.
        subset: "val2017" and the like; None takes the smallest annotation file whose images are there.

    Raises:
        ConfigError: an odd number of concepts, or pycocotools is absent.
        DataError: annotations or a chosen image are absent or broken, or no scene qualifies.
        PictureError: a chosen image is damaged.
    """
    if concepts < 2 or concepts % 2:
        raise ConfigError(f"a COCO set has two concepts, so {concepts} cannot be had: ask for an even number")
    folder = Path(folder)
    annotations = _annotation_file(folder, subset)
    subset = _subset(annotations)
    coco = open_coco(annotations, MAX_ANNOTATION_BYTES)
    scenes = balanced(qualifying_scenes(coco), concepts // 2, seed)
    if not scenes:
        raise DataError(
            f"no image in {annotations} has two large segments of {', '.join(CLASSES)} and no person:"
            " give a larger COCO subset"
        )
    images = _image_folder(folder, subset)
    sets = (_set_from(coco, scene, images, seed) for scene in scenes)
    return Benchmark("coco", subset, tuple(sets))


def qualifying_scenes(coco: Any) -> list[Scene]:
    """Every pair of segments that the rule of this module allows, in the order of the annotation file.

    `coco` is a `pycocotools.coco.COCO`. Raises ``DataError`` for a broken segmentation.
    """
    scenes = []
    for image in coco.dataset["images"]:
        segments = list(_segments(coco, image))
        scenes += [Scene(image["id"], pair) for pair in combinations(segments, 2)]
    return scenes


def _segments(coco: Any, image: dict[str, Any]) -> Iterator[Segment]:
    by_noun: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for annotation in coco.imgToAnns.get(image["id"], ()):
        by_noun[str(coco.cats[annotation["category_id"]].get("name"))].append(annotation)
    if PERSON in by_noun:
        return
    for noun in CLASSES:
        if noun not in by_noun:
            continue
        # Nothing is larger in the square than in the whole image, so most masks need not be drawn.
        least = MIN_AREA * min(_size(image)) ** 2
        if all(_area(annotation) < least for annotation in by_noun[noun]):
            continue
        # The largest and the union of the rest are kept: an image may have any number of annotations.
        annotation, *further = by_noun[noun]
        segment = square_mask(coco, annotation)
        rest = np.zeros_like(segment)
        for other in further:
            mask = square_mask(coco, other)
            if mask.sum() > segment.sum():
                segment, annotation, mask = mask, other, segment
            rest |= mask
        is_alone = (rest & ~segment).sum() <= MAX_OTHERS * segment.sum()
        if segment.mean() >= MIN_AREA and is_alone and not annotation.get("iscrowd"):
            yield Segment(annotation["id"], noun)


def balanced(scenes: Sequence[Scene], count: int, seed: int) -> list[Scene]:
    """At most `count` scenes of different images, so chosen that the classes come equally often where they can.

    One by one the scene is taken whose more frequent class has come least so far, then whose other class has; ties
    by chance.
    """
    order = numpy_generator(seed, "coco benchmark").permutation(len(scenes))
    left = [scenes[index] for index in order]
    came: Counter[str] = Counter()
    chosen: list[Scene] = []
    while left and len(chosen) < count:
        best = min(left, key=lambda scene: sorted((came[one.noun] for one in scene.segments), reverse=True))
        chosen.append(best)
        came.update(segment.noun for segment in best.segments)
        left = [scene for scene in left if scene.image != best.image]
    return chosen


def square_mask(coco: Any, annotation: dict[str, Any]) -> Mask:
    """The mask of an annotation in the central square of its image, bool (side, side).

    Raises ``DataError`` for a broken segmentation.
    """
    try:
        mask = from_segmentation(annotation.get("segmentation"), _size(coco.imgs[annotation["image_id"]]))
    except ValueError:
        raise DataError(
            f"the segmentation of annotation {annotation['id']} is broken: restore the annotation file"
        ) from None
    return square_frame_mask(mask, min(mask.shape))


def _size(image: dict[str, Any]) -> tuple[int, int]:
    height, width = image.get("height"), image.get("width")
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
        raise DataError(f"image {image['id']} has no size: restore the annotation file")
    if height * width > MAX_PIXELS:
        raise DataError(
            f"image {image['id']} has {width} x {height} px, too many: restore the annotation file"
        )
    return height, width


def _area(annotation: dict[str, Any]) -> float:
    try:
        return float(annotation["area"])
    except (LookupError, TypeError, ValueError, OverflowError):
        raise DataError(f"annotation {annotation['id']} has no area: restore the annotation file") from None


def _annotation_file(folder: Path, subset: str | None) -> Path:
    """The smallest annotation file, of those whose subset's images are there in a folder of their own, where any is."""
    found = [*(folder / "annotations").glob("instances_*.json")]
    if subset is not None:
        found = [path for path in found if _subset(path) == subset]
    if not found:
        raise DataError(
            f"{folder} has no annotations/instances_{subset or '*'}.json: give a folder with COCO's images and"
            " annotations"
        )

    def order(path: Path) -> tuple[bool, int, str]:
        has_images = any(place.is_dir() for place in _own_folders(folder, _subset(path)))
        return not has_images, path.stat().st_size, path.name

    return min(found, key=order)


def _subset(annotations: Path) -> str:
    return annotations.stem.removeprefix("instances_")


def _own_folders(folder: Path, subset: str) -> tuple[Path, Path]:
    return folder / subset, folder / "images" / subset


def _image_folder(folder: Path, subset: str) -> Path:
    places = (*_own_folders(folder, subset), folder / "images")
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise DataError(f"{folder} has no images: expected them in {subset}, images/{subset} or images")
    return found


def _set_from(coco: Any, scene: Scene, images: Path, seed: int) -> BenchmarkSet:
    image = coco.imgs[scene.image]
    whole = load_picture(image_path(images, image.get("file_name")))
    name = f"coco-{scene.image}"
    masks = {_concept_name(one.noun): square_mask(coco, coco.anns[one.annotation]) for one in scene.segments}
    side = min(whole.size)
    if any(mask.shape != (side, side) for mask in masks.values()):
        raise DataError(f"the image {whole.path} is not of the size its annotations say: restore the file")
    masks["place"] = ~np.any(list(masks.values()), axis=0)
    concepts = (
        *(
            TrueConcept(
                _concept_name(one.noun), one.noun, "subject", one.noun, None, "instance", CLASSES[one.noun]
            )
            for one in scene.segments
        ),
        TrueConcept("place", "background", "background", "background", None, "place", "background"),
    )
    picture = Picture(name, whole.path, square_frame(whole.pixels, side), masks, notes=whole.notes)
    prompts = prompts_for(concepts, KNOWN, numpy_generator(seed, "coco benchmark", "prompts", scene.image))
    return BenchmarkSet(name, (picture,), concepts, {name: tuple(masks)}, prompts, "photo")


def _concept_name(noun: str) -> str:
    return noun.replace(" ", "-")
