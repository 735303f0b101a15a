"""Grids of pictures: the counterparts of the paper's Fig. 1 and 4 to 9, every method side by side, the worst.

Which sets are shown follows from their design and order alone, never from how they look; each grid says its rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from conceptloom.evaluation.benchmark import BenchmarkSet, PromptKind
from conceptloom.evaluation.image_scores import ImageScore
from conceptloom.evaluation.mask_scores import ScoredMask
from conceptloom.evaluation.methods import BASELINE, TRUTH, MethodName
from conceptloom.evaluation.plan import SHOWN_PROMPT
from conceptloom.evaluation.report import Grid, GridRow, Tile, encoded
from conceptloom.evaluation.units import UnitResult
from conceptloom.pictures import Picture, overlay, square_frame, square_frame_mask
from conceptloom.pictures.sheets import COLOURS

Pixels = npt.NDArray[np.uint8]

ROWS = 4
"""Sets in a grid."""


@dataclass(frozen=True, eq=False)
class Album:
    """Pictures on their way into a report, each once."""

    pictures: dict[str, str] = field(default_factory=dict)

    def add(self, pixels: Pixels, caption: str = "") -> Tile:
        """A tile that shows the picture (H, W, 3)."""
        key = hashlib.sha256(pixels.tobytes()).hexdigest()[:12]
        if key not in self.pictures:
            self.pictures[key] = encoded(np.ascontiguousarray(pixels))
        return Tile(picture=key, caption=caption)


@dataclass(frozen=True, eq=False)
class SetResults:
    """A set with the units at the first seed that were learned from it.

    Attributes:
        one: the set.
        units: by method.
        side: of the model's pictures, in pixels.
        ours: the method that figures are of.
    """

    one: BenchmarkSet
    units: Mapping[str, UnitResult]
    side: int
    ours: MethodName = "paper"

    def frame(self, picture: Picture) -> Pixels:
        """The picture as the model sees it."""
        return square_frame(picture.pixels, self.side)

    def true_masks(self, picture: Picture) -> Pixels:
        """The picture with its true masks over it, in the set's colours."""
        masks = {name: square_frame_mask(mask, self.side) for name, mask in picture.masks.items()}
        return self._overlaid(picture, masks)

    def masks(self, method: str, picture: Picture, step: int = -1) -> Pixels | None:
        """The picture with the method's masks over it, or None where it has none."""
        unit = self.units.get(method)
        if unit is None or not any(record.picture == picture.name for record in unit.masks):
            return None
        record = unit.masks_at(picture.name, step)
        return self._overlaid(picture, dict(zip(record.concepts, record.masks, strict=True)))

    def image(self, method: str, prompt: int, index: int = 0) -> Pixels | None:
        """The method's image, or None where it was not drawn."""
        unit = self.units.get(method)
        return None if unit is None else unit.images.get((prompt, index))

    def prompts(self, kind: PromptKind) -> list[int]:
        """Numbers of the drawn prompts of a kind."""
        drawn = {prompt for unit in self.units.values() for prompt, _ in unit.images}
        return [
            number
            for number, prompt in enumerate(self.one.prompts)
            if prompt.kind == kind and number in drawn
        ]

    def _overlaid(self, picture: Picture, masks: Mapping[str, npt.NDArray[np.bool_]]) -> Pixels:
        order = [concept.name for concept in self.one.concepts if concept.name in masks]
        if not order:
            return self.frame(picture)
        colours = [COLOURS[self._place_in_set(name) % len(COLOURS)] for name in order]
        return overlay(self.frame(picture), np.stack([masks[name] for name in order]), colours)

    def _place_in_set(self, name: str) -> int:
        return [concept.name for concept in self.one.concepts].index(name)


def all_grids(
    results: Sequence[SetResults], methods: Sequence[str], scored: Iterable[ScoredMask], album: Album
) -> list[Grid]:
    """Every grid that the results have pictures for; the pictures go into the album."""
    grids = [
        two_pictures_grid(results, album),
        seven_rows_grid(results, album),
        masks_grid(results, album),
        prompt_grid(
            results,
            album,
            "figure-6",
            "Fig. 6: learned concepts with things the model knows",
            ("known",),
            lambda one: True,
        ),
        prompt_grid(
            results,
            album,
            "figure-7",
            "Fig. 7: drawn concepts with each other, and with things the model knows",
            ("interaction", "known"),
            _is_of_one_style,
            "Sets of several subjects of one drawing style: first interactions, then known things.",
        ),
        prompt_grid(
            results,
            album,
            "figure-8",
            "Fig. 8: interactions between concepts of real scenes",
            ("interaction",),
            _is_of_a_real_scene,
            "Sets of several subjects that learn a photograph as their background (subjects of the built-in sets are"
            " drawings on it), or of which no drawing style is known.",
        ),
        diverse_grid(results, album),
        *seeds_grids(results, album, methods),
        worst_masks_grid(results, album, scored),
    ]
    return [grid for grid in grids if grid is not None]


def two_pictures_grid(results: Sequence[SetResults], album: Album) -> Grid | None:
    """Fig. 1: a subject in its own background, the other picture's subject there, both together."""
    rows: list[GridRow] = []
    for found in results:
        if len(rows) == ROWS:
            break
        one = found.one
        if one.num_pictures < 2 or one.place is None or one.shares_a_concept or not one.shown:
            continue
        (home,) = one.pictures_with(one.place.name)
        away = next(picture for picture in one.pictures if picture is not home)
        natives, strangers = one.contains[home.name], one.contains[away.name]
        # Of a prompt that was not drawn, as in a smoke run, the place stays empty.
        asked = [
            len(one.prompts),
            _asking(found, (strangers,), there=True),
            _asking(found, (strangers, natives), there=False),
            _asking(found, (strangers, natives), there=True),
        ]
        images = [_image_tile(found, found.ours, number, album) for number in asked]
        if any(tile.picture for tile in images):
            tiles = [album.add(found.frame(picture), _contents(found, picture)) for picture in (away, home)]
            rows.append(GridRow(label=one.name, tiles=(*tiles, *images)))
    return _grid(
        "figure-1",
        "Fig. 1: concepts of two pictures, alone and together",
        f"The first {ROWS} sets that span two pictures with nothing in common; the background is B's. Method:"
        f" {_ours(results)}; image 0 of seed 0.",
        ("picture A", "picture B", "own background", "A's subject there", "both together", "both there"),
        rows,
    )


def seven_rows_grid(results: Sequence[SetResults], album: Album) -> Grid | None:
    """Fig. 4: pictures, true masks, the baseline's and our masks, and images by all three."""
    columns = _of_figure_four(results)
    if not columns:
        return None
    shown = [(found, found.one.pictures[-1]) for found in columns]
    rows = [
        GridRow(
            label="input",
            tiles=tuple(
                album.add(found.frame(picture), _contents(found, picture)) for found, picture in shown
            ),
        ),
        GridRow(
            label="true masks", tiles=tuple(album.add(found.true_masks(picture)) for found, picture in shown)
        ),
    ]
    ours = _ours(results)
    for label, method in (("masks: " + BASELINE, BASELINE), ("masks: " + ours, ours)):
        rows.append(
            GridRow(
                label=label,
                tiles=tuple(_tile(album, found.masks(method, picture)) for found, picture in shown),
            )
        )
    for label, method in (("true masks", TRUTH), (BASELINE, BASELINE), (ours, ours)):
        rows.append(
            GridRow(
                label=f"image: {label}",
                tiles=tuple(_image_tile(found, method, _telling(found), album) for found in columns),
            )
        )
    return Grid(
        key="figure-4",
        title="Fig. 4: with true masks, masks found once, and masks learned with the tokens",
        note=f"The first {len(columns)} sets; of two pictures the second is shown. Image 0 of seed 0 of the set's first"
        " interaction, or first context where it has one subject: same starting noise for all.",
        columns=tuple(found.one.name for found in columns),
        rows=tuple(rows),
    )


def masks_grid(results: Sequence[SetResults], album: Album) -> Grid | None:
    """Fig. 5: true masks, the baseline's and ours."""
    ours = _ours(results)
    in_figure_four = _of_figure_four(results)
    masked = [found for found in results if {BASELINE, ours} <= set(found.units)]
    others = [found for found in masked if found not in in_figure_four]
    columns = (others or masked)[:6]
    if not columns:
        return None
    shown = [(found, found.one.pictures[0]) for found in columns]
    rows = [
        GridRow(
            label="true masks",
            tiles=tuple(
                album.add(found.true_masks(picture), _contents(found, picture)) for found, picture in shown
            ),
        ),
        GridRow(
            label=BASELINE,
            tiles=tuple(_tile(album, found.masks(BASELINE, picture)) for found, picture in shown),
        ),
        GridRow(
            label=f"{ours}, start",
            tiles=tuple(_tile(album, found.masks(ours, picture, 0)) for found, picture in shown),
        ),
        GridRow(
            label=f"{ours}, end",
            tiles=tuple(_tile(album, found.masks(ours, picture)) for found, picture in shown),
        ),
    ]
    return Grid(
        key="figure-5",
        title="Fig. 5: masks",
        note=f"The first {len(columns)} sets{' that are not in Fig. 4' if in_figure_four and others else ''}, first"
        " picture, seed 0.",
        columns=tuple(found.one.name for found in columns),
        rows=tuple(rows),
    )


def prompt_grid(
    results: Sequence[SetResults],
    album: Album,
    key: str,
    title: str,
    kinds: Sequence[PromptKind],
    where: Callable[[BenchmarkSet], bool],
    rule: str = "",
) -> Grid | None:
    """Fig. 6, 7 and 8: our images of prompts of some kinds beside the pictures learned from.

    A set without a prompt of the first kind is not shown.
    """
    rows: list[GridRow] = []
    for found in results:
        if len(rows) == ROWS:
            break
        numbers = [found.prompts(kind)[:2] for kind in kinds]
        if found.ours not in found.units or not numbers[0] or not where(found.one):
            continue
        tiles = [
            album.add(found.frame(picture), _contents(found, picture)) for picture in found.one.pictures[:2]
        ]
        tiles += [Tile(picture=None)] * (2 - len(tiles))
        for number in chain.from_iterable(numbers):
            tiles += [_image_tile(found, found.ours, number, album, index) for index in range(2)]
        rows.append(GridRow(label=found.one.name, tiles=tuple(tiles)))
    note = f"{rule} The first {ROWS} such sets; method {_ours(results)}, images 0 and 1 of seed 0.".strip()
    return _grid(key, title, note, (), rows)


def diverse_grid(results: Sequence[SetResults], album: Album) -> Grid | None:
    """Fig. 9: many images of one prompt."""
    rows: list[GridRow] = []
    for found in results:
        if len(rows) == ROWS:
            break
        if found.ours not in found.units or len(found.one.prompts) <= SHOWN_PROMPT:
            continue
        indices = sorted(index for prompt, index in found.units[found.ours].images if prompt == SHOWN_PROMPT)
        tiles = [album.add(found.frame(picture)) for picture in found.one.pictures[:1]]
        tiles += [_tile(album, found.image(found.ours, SHOWN_PROMPT, index)) for index in indices]
        if len(indices) > 1:
            rows.append(GridRow(label=found.one.prompts[SHOWN_PROMPT].text, tiles=tuple(tiles)))
    return _grid(
        "figure-9",
        "Fig. 9: many images of one prompt",
        f"The first {ROWS} sets: a picture learned from, then images 0, 1, ... of seed 0. Method: {_ours(results)}.",
        (),
        rows,
    )


def seeds_grids(results: Sequence[SetResults], album: Album, methods: Sequence[str]) -> list[Grid]:
    """Of the first sets every measured prompt by every method, image 0 of seed 0: nothing is chosen."""
    grids = []
    for found in results[:ROWS]:
        drawn = sorted(
            {
                prompt
                for unit in found.units.values()
                for prompt, _ in unit.images
                if prompt < len(found.one.prompts)
            }
        )
        rows = [
            GridRow(label=method, tiles=tuple(_tile(album, found.image(method, number)) for number in drawn))
            for method in methods
            if method in found.units and drawn
        ]
        if rows:
            grids.append(
                Grid(
                    key=f"seeds-{found.one.name}",
                    title=f"Every prompt by every method: {found.one.name}",
                    note="Image 0 of seed 0, the same starting noise in a column. Learned: "
                    + "; ".join(_contents(found, picture) for picture in found.one.pictures)
                    + ".",
                    columns=tuple(found.one.prompts[number].text for number in drawn),
                    rows=tuple(rows),
                )
            )
    return grids


def worst_masks_grid(
    results: Sequence[SetResults], album: Album, scored: Iterable[ScoredMask], count: int = 8
) -> Grid | None:
    """Where our last masks at the first seed fit worst, by the mean IoU of a picture's concepts."""
    ours = _ours(results)
    final: dict[tuple[str, str], dict[str, ScoredMask]] = {}
    for mask in sorted(scored, key=lambda mask: mask.step):
        if mask.method == ours and mask.seed == 0:
            final.setdefault((mask.set, mask.picture), {})[mask.concept.name] = mask
    means = {
        place: float(np.mean([mask.score.iou for mask in masks.values()])) for place, masks in final.items()
    }
    tiles: dict[str, list[Tile]] = {"true masks": [], ours: []}
    by_name = {found.one.name: found for found in results}
    for place in sorted(means, key=lambda place: (means[place], place))[:count]:
        found = by_name[place[0]]
        picture = next(picture for picture in found.one.pictures if picture.name == place[1])
        told = ", ".join(f"{name} {mask.score.iou:.2f}" for name, mask in final[place].items())
        tiles["true masks"].append(album.add(found.true_masks(picture), picture.name))
        tiles[ours].append(_tile(album, found.masks(ours, picture), told))
    if not tiles[ours]:
        return None
    return Grid(
        key="worst-masks",
        title="Failures: the worst masks",
        note=f"The {len(tiles[ours])} pictures with the lowest mean IoU at the end, seed 0, and each concept's IoU.",
        columns=(),
        rows=tuple(GridRow(label=label, tiles=tuple(row)) for label, row in tiles.items()),
    )


def worst_images_grid(
    results: Sequence[SetResults], album: Album, scores: Iterable[ImageScore], count: int = 8
) -> Grid | None:
    """Our images at the first seed that the judge scores lowest, with what was asked for."""
    method = _ours(results)
    ours = [
        score for score in scores if score.method == method and score.seed == 0 and score.overall is not None
    ]
    by_name = {found.one.name: found for found in results}
    tiles: list[list[Tile]] = [[], []]
    worst = sorted(ours, key=lambda score: (score.overall or 0.0, score.set, score.prompt, score.index))
    for score in worst[:count]:
        found = by_name[score.set]
        named = found.one.prompts[score.prompt].asked
        asked = [name for name in named if found.one.concept(name) in found.one.subjects] or named
        shown = found.one.pictures_with(asked[0])[0] if asked else found.one.pictures[0]
        tiles[0].append(album.add(found.frame(shown), _contents(found, shown)))
        caption = f"{found.one.prompts[score.prompt].text}: {score.overall:.2f}"
        tiles[1].append(_tile(album, found.image(method, score.prompt, score.index), caption))
    if not tiles[0]:
        return None
    return Grid(
        key="worst-images",
        title="Failures: the worst images",
        note=f"The {len(tiles[0])} images of {method}, seed 0, that the automatic judge scores lowest, under a picture"
        " that shows what was asked for.",
        columns=(),
        rows=(
            GridRow(label="learned from", tiles=tuple(tiles[0])),
            GridRow(label="image", tiles=tuple(tiles[1])),
        ),
    )


def _of_figure_four(results: Sequence[SetResults]) -> list[SetResults]:
    """The sets that Fig. 4 shows."""
    whole = [
        found
        for found in results
        if {TRUTH, BASELINE, found.ours} <= set(found.units) and found.prompts("context")
    ]
    return whole[:ROWS]


def _ours(results: Sequence[SetResults]) -> MethodName:
    return results[0].ours if results else "paper"


def _is_of_one_style(one: BenchmarkSet) -> bool:
    """Whether it has several subjects, all of one known drawing style."""
    return len(one.subjects) > 1 and one.subjects[0].family is not None and not one.crosses_styles


def _is_of_a_real_scene(one: BenchmarkSet) -> bool:
    """Whether it has several subjects, in a photograph or in pictures that are of no known drawing style."""
    is_real = one.place_type == "photo" or all(subject.family is None for subject in one.subjects)
    return len(one.subjects) > 1 and is_real


def _contents(found: SetResults, picture: Picture) -> str:
    return ", ".join(f"<{name}>" for name in found.one.contains[picture.name])


def _telling(found: SetResults) -> int:
    return (found.prompts("interaction") or found.prompts("context"))[0]


def _tile(album: Album, pixels: Pixels | None, caption: str = "") -> Tile:
    return Tile(picture=None, caption=caption) if pixels is None else album.add(pixels, caption)


def _asking(found: SetResults, groups: Sequence[Sequence[str]], there: bool) -> int | None:
    """The first drawn prompt, transfers before others, that asks for subjects of each group, for nothing else, and
    for the learned place if `there`.
    """
    subjects = {subject.name for subject in found.one.subjects}
    kinds: tuple[PromptKind, ...] = ("transfer", "interaction", "context")
    for number in chain.from_iterable(found.prompts(kind) for kind in kinds):
        prompt = found.one.prompts[number]
        asked = subjects.intersection(prompt.asked)
        is_of_all = all(asked.intersection(group) for group in groups) and asked <= set().union(*groups)
        if is_of_all and not prompt.known and (prompt.asked_place is not None) == there:
            return number
    return None


def _image_tile(found: SetResults, method: str, number: int | None, album: Album, index: int = 0) -> Tile:
    if number is None:
        return Tile(picture=None)
    return _tile(album, found.image(method, number, index), found.one.prompt(number).text)


def _grid(key: str, title: str, note: str, columns: tuple[str, ...], rows: list[GridRow]) -> Grid | None:
    return Grid(key=key, title=title, note=note, columns=columns, rows=tuple(rows)) if rows else None
