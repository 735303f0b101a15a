"""What the built-in model draws when asked, in the examiner's eyes, and what its autoencoder leaves of a picture.

Every measure stands beside its ceiling: the same measure on pictures composed to the same prompts of the drawings and
photographs that the model was taught, sent through its autoencoder; of a picture's PSNR and Lab error through the
autoencoder that is a copy's, infinite and 0. Where guessing pays it stands beside its chance level, too. Prompts follow
from the seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from conceptloom.backbone import Backbone, encode_prompts, sample, tokenize
from conceptloom.backbone.sampling import SampleKey
from conceptloom.basemodel.report import Interval, bootstrap
from conceptloom.evaluation.composed_answers import known_place
from conceptloom.evaluation.relations import Box, relation_chance, relation_holds
from conceptloom.generation import resolve_settings
from conceptloom.judges.detector import Judge
from conceptloom.pictures import contact_sheet, write_webp
from conceptloom.pictures.colour import rgb_to_lab
from conceptloom.runs import write_json_atomic
from conceptloom.scenes.backgrounds import DRAWN, load_photos
from conceptloom.scenes.captions import RELATIONS, STYLES
from conceptloom.scenes.composer import Scene, SceneRules, compose, random_background
from conceptloom.scenes.sprites import Sprite, load_sprites, nouns
from conceptloom.seeding import numpy_generator

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

NAME_BACKGROUNDS = ("grass", "beach", "mountain", "room")
"""Behind the pictures of single nouns, one a seed."""
PLACEMENTS = 24
"""Compositions that are tried for one in the asked relation."""
FRECHET_BOOTSTRAPS = 200
SHEET = 64
"""Pictures of a sheet."""


@dataclass(frozen=True)
class Size:
    """How many pictures the exam takes: seeds a noun, pairs, styled nouns, pictures a relation, reconstructions."""

    seeds: int = 4
    pairs: int = 500
    styled: int = 300
    per_relation: int = 30
    reconstructions: int = 320


SAMPLE = Size(seeds=1, pairs=60, styled=40, per_relation=5, reconstructions=40)
"""The first pictures of every kind, for a look at a model on the way."""


@dataclass(frozen=True)
class Ask:
    """A prompt, and what its picture must show: nouns, the first of them a relation's subject, in a place."""

    key: tuple[str, *tuple[int | str, ...]]
    prompt: str
    nouns: tuple[str, ...]
    place: str
    family: str | None = None
    relation: str | None = None


@dataclass(frozen=True, eq=False)
class Seen:
    """What the examiner sees in a picture.

    ``nouns`` and ``families``, the likeliest of each detection, the surest detection first; ``known``, whether it
    takes it for a whole drawing; ``boxes``, (left, top, right, bottom) in pixels; ``background``, the likeliest word;
    ``overview`` (P,), features of the picture as a whole.
    """

    nouns: tuple[str, ...]
    families: tuple[str, ...]
    known: tuple[bool, ...]
    boxes: tuple[Box, ...]
    background: str
    overview: Floats

    def find(self, noun: str) -> int | None:
        """The surest detection of ``noun``, None where there is none."""
        return self.nouns.index(noun) if noun in self.nouns else None


@dataclass(frozen=True)
class Row:
    """One measure over ``count`` pictures, on real ones where that says something, and by chance likewise.

    ``measured`` is None where no picture could be measured.
    """

    measured: Interval | None
    ceiling: Interval | None
    count: int
    chance: float | None = None


@dataclass(frozen=True)
class ExamReport:
    """All measures by name, 95 % bootstraps over prompts (nouns: over nouns)."""

    seed: int
    rows: dict[str, Row]

    def text(self) -> str:
        """The report as a person reads it."""
        lines = [
            f"{'the examiner, seed ' + str(self.seed):<50} {'pictures':>8}  {'result':<22} {'real':<22} chance"
        ]
        for name, row in self.rows.items():
            chance = "" if row.chance is None else f"{row.chance:.3f}"
            ceiling = "" if row.ceiling is None else str(row.ceiling)
            measured = "-" if row.measured is None else str(row.measured)
            lines.append(f"  {name:<48} {row.count:>8}  {measured:<22} {ceiling:<22} {chance}".rstrip())
        return "\n".join(lines)


# What is asked -----------------------------------------------------------------------------------------------------


def places() -> tuple[str, ...]:
    """Words for backgrounds that the model was taught and that can be composed, sorted."""
    return tuple(sorted({*DRAWN, *(photo.label for photo in load_photos("train"))}))


def write_exam(folder: Path, report: ExamReport, pictures: Sequence[tuple[Ask, Pixels, Seen]]) -> list[Path]:
    """Write ``exam.json`` and a sheet of the first pictures of every kind; returns the paths.

    A picture's label is its prompt and, where something asked for is not found, what the examiner saw.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "exam.json"]
    write_json_atomic(paths[0], asdict(report))
    kinds = {
        "pairs": "pair",
        "styles": "style",
        **{relation.replace(" ", "-"): relation for relation in RELATIONS},
    }
    for name, kind in kinds.items():
        shown = [each for each in pictures if each[0].key[0] == kind][:SHEET]
        if shown:
            labels = [
                ask.prompt if shows_all(ask, seen) else f"{ask.prompt} ({', '.join(seen.nouns) or 'nothing'})"
                for ask, _, seen in shown
            ]
            paths.append(folder / f"{name}.webp")
            sheet = contact_sheet([pixels for _, pixels, _ in shown], columns=8, labels=labels)
            write_webp(paths[-1], sheet)
    return paths


def asked(size: Size, seed: int) -> dict[str, list[Ask]]:
    """All prompts, by what they are for."""
    return {
        "nouns": list(noun_asks(size.seeds)),
        "pairs": list(pair_asks(size.pairs, seed)),
        "styles": list(style_asks(size.styled, seed)),
        "relations": list(relation_asks(size.per_relation, seed)),
    }


def noun_asks(seeds: int) -> Iterator[Ask]:
    """ "a NOUN on PLACE" for every noun of the training drawings, one of `NAME_BACKGROUNDS` a seed."""
    for noun in nouns(load_sprites("train")):
        for number in range(seeds):
            place = NAME_BACKGROUNDS[number % len(NAME_BACKGROUNDS)]
            yield Ask(("noun", noun, number), f"{_article(noun)} on {place}", (noun,), place)


def pair_asks(count: int, seed: int) -> Iterator[Ask]:
    """ "a NOUN and a NOUN on PLACE" of random different nouns."""
    words, where = nouns(load_sprites("train")), places()
    for number in range(count):
        rng = numpy_generator(seed, "exam", "pair", number)
        one, other = (words[int(place)] for place in rng.choice(len(words), 2, replace=False))
        place = where[int(rng.integers(len(where)))]
        prompt = f"{_article(one)} and {_article(other)} on {place}"
        yield Ask(("pair", number), prompt, (one, other), place)


def style_asks(count: int, seed: int) -> Iterator[Ask]:
    """ "a STYLE NOUN on PLACE" of random training drawings."""
    drawings, where = load_sprites("train"), places()
    for number in range(count):
        rng = numpy_generator(seed, "exam", "style", number)
        drawing = drawings[int(rng.integers(len(drawings)))]
        place = where[int(rng.integers(len(where)))]
        prompt = f"{_article(f'{STYLES[drawing.family]} {drawing.noun}')} on {place}"
        yield Ask(("style", number), prompt, (drawing.noun,), place, drawing.family)


def relation_asks(each: int, seed: int) -> Iterator[Ask]:
    """ "a NOUN RELATION a NOUN on PLACE", ``each`` for every relation, of random different nouns."""
    words, where = nouns(load_sprites("train")), places()
    for relation in RELATIONS:
        for number in range(each):
            rng = numpy_generator(seed, "exam", relation, number)
            one, other = (words[int(place)] for place in rng.choice(len(words), 2, replace=False))
            place = where[int(rng.integers(len(where)))]
            prompt = f"{_article(one)} {relation} {_article(other)} on {place}"
            yield Ask((relation, number), prompt, (one, other), place, relation=relation)


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


# Pictures ----------------------------------------------------------------------------------------------------------


def drawn(backbone: Backbone, asks: Sequence[Ask], seed: int) -> Iterator[Pixels]:
    """The model's own picture of every prompt, by the product's settings."""
    settings = resolve_settings(backbone.version)
    negative = encode_prompts(backbone, [tokenize(backbone, "", {})], None)
    waiting = iter(asks)
    while batch := list(islice(waiting, settings.batch_size)):
        hidden = encode_prompts(backbone, [tokenize(backbone, ask.prompt, {}) for ask in batch], None)
        latents = sample(
            backbone,
            hidden,
            negative,
            [_sample_key(seed, ask) for ask in batch],
            guidance_scale=settings.guidance_scale,
            num_inference_steps=settings.num_inference_steps,
        )
        yield from backbone.decode(latents)


def _sample_key(seed: int, ask: Ask) -> SampleKey:
    return (seed, "exam", *ask.key)


def composed(ask: Ask, seed: int, side_px: int) -> Scene:
    """A real picture of what is asked, of training drawings and a training background."""
    rng = numpy_generator(seed, "exam", "real", *ask.key)
    rules = SceneRules(side_px=side_px)
    sprites = [_drawing(noun, ask.family, rng) for noun in ask.nouns]
    for _ in range(PLACEMENTS):
        scene = compose(sprites, ask.place, known_place(ask.place, rng, side_px), rng, rules, ask.relation)
        if ask.relation is None or scene.relation == ask.relation:
            break
    return scene


def _drawing(noun: str, family: str | None, rng: np.random.Generator) -> Sprite:
    fitting = [
        sprite for sprite in load_sprites("train") if sprite.noun == noun and family in (None, sprite.family)
    ]
    return fitting[int(rng.integers(len(fitting)))]


def look(examiner: Judge, pixels: Pixels) -> Seen:
    """What the examiner sees in a picture (H, W, 3)."""
    found = examiner.detect(pixels)
    by_noun, by_family = found.by_noun(), found.by_family()
    return Seen(
        _likeliest(by_noun),
        _likeliest(by_family),
        tuple(bool(known) for known in ~found.unknown),
        tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in found.boxes),
        max((told := examiner.background(pixels)), key=lambda word: told[word]),
        examiner.overview(pixels),
    )


def _likeliest(probabilities: dict[str, Floats]) -> tuple[str, ...]:
    words = list(probabilities)
    best = np.stack([probabilities[word] for word in words]).argmax(0)
    return tuple(words[int(place)] for place in best)


# Measures ----------------------------------------------------------------------------------------------------------


def names_it(ask: Ask, seen: Seen) -> bool:
    """Whether the surest drawing is of the asked noun."""
    return seen.nouns[:1] == ask.nouns


def is_whole(ask: Ask, seen: Seen) -> bool:
    """Whether every asked noun is found in a drawing that is neither damaged nor fused with another."""
    places = [seen.find(noun) for noun in ask.nouns]
    return all(place is not None and seen.known[place] for place in places)


def shows_all(ask: Ask, seen: Seen) -> bool:
    """Whether every asked noun is found, in a drawing of its own."""
    return all(seen.find(noun) is not None for noun in ask.nouns)


def is_in_style(ask: Ask, seen: Seen) -> bool:
    """Whether the drawing of the asked noun, or else the surest, is in the asked style."""
    place = seen.find(ask.nouns[0]) or 0
    return seen.families[place : place + 1] == (ask.family,)


def is_in_place(ask: Ask, seen: Seen) -> bool:
    """Whether the background is the asked one."""
    return seen.background == ask.place


def boxes_of(ask: Ask, seen: Seen) -> tuple[Box, Box] | None:
    """Boxes of a relation's subject and object with an area; None where one of them is not found."""
    found = [seen.find(noun) for noun in ask.nouns]
    boxes = [seen.boxes[place] for place in found if place is not None]
    if len(boxes) < 2 or not all(right > left and bottom > top for left, top, right, bottom in boxes):
        return None
    return boxes[0], boxes[1]


def frechet_distance(features: Floats, others: Floats) -> float:
    """Squared Frechet distance of the Gaussians with the moments of two samples (N, P) and (M, P).

    |mu - mu'|^2 + tr(C + C' - 2 (C C')^(1/2)), as FID takes it (Heusel et al. 2017) of Inception's features.
    """
    one, other = np.asarray(features, np.float64), np.asarray(others, np.float64)
    shift = one.mean(0) - other.mean(0)
    covariance, other_covariance = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    # The product of two positive semi-definite matrices has real eigenvalues >= 0; rounding may say otherwise.
    eigenvalues = np.linalg.eigvals(np.atleast_2d(covariance) @ np.atleast_2d(other_covariance))
    crossed = np.sqrt(np.clip(eigenvalues.real, 0, None)).sum()
    return float(shift @ shift + np.trace(np.atleast_2d(covariance + other_covariance)) - 2 * crossed)


def _frechet(features: Floats, others: Floats, seed: int) -> Interval:
    """The distance, and its 95 % bootstrap; resampling repeats pictures, which inflates it: the interval is shifted
    back by the median of what it adds.
    """
    value = frechet_distance(features, others)
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(FRECHET_BOOTSTRAPS):
        rows = rng.integers(0, len(features), len(features))
        draws.append(frechet_distance(features[rows], others[rows]))
    low, high = np.percentile(draws, [2.5, 97.5]) - np.median(draws) + value
    return Interval(value, float(max(0.0, low)), float(high))


# The exam ----------------------------------------------------------------------------------------------------------


def examine(
    backbone: Backbone, examiner: Judge, seed: int = 0, size: Size | None = None
) -> Iterator[tuple[Ask, Pixels, Seen] | ExamReport]:
    """Draw every prompt and let the examiner look: each picture with what it sees, and the report at the end."""
    size = size or Size()
    groups = asked(size, seed)
    asks = [ask for group in groups.values() for ask in group]
    own: list[Seen] = []
    for ask, pixels in zip(asks, drawn(backbone, asks, seed), strict=True):
        own.append(look(examiner, pixels))
        yield ask, pixels, own[-1]
    # Through the autoencoder, as all that the model draws: what is lost there no U-Net can bring back.
    real, again = (
        [look(examiner, _through(backbone, composed(ask, each, backbone.size).pixels)) for ask in asks]
        for each in (seed, seed + 1)
    )
    member = {ask.key: number for number, ask in enumerate(asks)}

    def row(name: str, measure: Callable[[Ask, Seen], bool], chance: float | None = None) -> Row:
        numbers = [member[ask.key] for ask in groups[name]]
        values = [[float(measure(asks[i], seen[i])) for i in numbers] for seen in (own, real)]
        if name == "nouns":  # a noun's seeds are one unit
            values = [np.reshape(each, (-1, size.seeds)).mean(1).tolist() for each in values]
        return Row(bootstrap(values[0]), bootstrap(values[1]), len(numbers), chance)

    rows = {
        "noun right": row("nouns", names_it),
        "noun right and whole": row("nouns", lambda ask, seen: names_it(ask, seen) and is_whole(ask, seen)),
        "both of a pair": row("pairs", shows_all),
        "both of a pair, and whole": row("pairs", is_whole),
        "style": row("styles", is_in_style, _style_chance(groups["styles"])),
        "background": row("pairs", is_in_place, 1 / len(examiner.backgrounds)),
    }
    related = groups["relations"]
    pairs = {
        name: [boxes_of(ask, seen[member[ask.key]]) for ask in related]
        for name, seen in (("own", own), ("real", real))
    }
    rows |= _relation_rows(related, pairs["own"], pairs["real"])
    features = [np.stack([seen.overview for seen in each]) for each in (own, real, again)]
    rows["Frechet distance"] = Row(
        _frechet(features[0], features[1], seed), _frechet(features[2], features[1], seed), len(asks)
    )
    yield ExamReport(seed, rows | reconstruction_rows(backbone, examiner, size.reconstructions, seed))


def _style_chance(asks: Iterable[Ask]) -> float:
    """How often a random drawing of the asked noun is in the asked style."""
    drawings = load_sprites("train")
    return float(np.mean([1 / sum(s.noun == ask.nouns[0] for s in drawings) for ask in asks]))


def _relation_rows(
    asks: Sequence[Ask], own: Sequence[tuple[Box, Box] | None], real: Sequence[tuple[Box, Box] | None]
) -> dict[str, Row]:
    """Relations where both drawings are found, and in all pictures; then each relation alone."""

    def holds(ask: Ask, boxes: tuple[Box, Box]) -> float:
        return float(relation_holds(str(ask.relation), *boxes))

    def chance_of(relation: str) -> float | None:
        others = [b for a, b in zip(asks, own, strict=True) if b is not None and a.relation != relation]
        return relation_chance(relation, others)

    def chance(chosen: Sequence[Ask]) -> float | None:
        levels = [chance_of(relation) for relation in {str(ask.relation) for ask in chosen}]
        known = [level for level in levels if level is not None]
        return float(np.mean(known)) if known else None

    def chance_in_all() -> float | None:
        """By chance a relation holds where both are found, and nowhere else."""
        levels = []
        for relation in {str(ask.relation) for ask in asks}:
            both = [b is not None for a, b in zip(asks, own, strict=True) if a.relation == relation]
            level = chance_of(relation)
            if level is None:
                return None
            levels.append(level * sum(both))
        return sum(levels) / len(asks)

    def found(chosen: Sequence[Ask], boxes: Sequence[tuple[Box, Box] | None]) -> list[float]:
        wanted = {ask.key for ask in chosen}
        pairs = zip(asks, boxes, strict=True)
        return [holds(ask, both) for ask, both in pairs if both is not None and ask.key in wanted]

    def row(chosen: Sequence[Ask]) -> Row:
        values = found(chosen, own)
        return Row(_over(values), _over(found(chosen, real)), len(values), chance(chosen))

    in_all = [
        [0.0 if both is None else holds(ask, both) for ask, both in zip(asks, each, strict=True)]
        for each in (own, real)
    ]
    rows = {
        "relation, where both are found": row(asks),
        "relation, in all pictures": Row(
            bootstrap(in_all[0]), bootstrap(in_all[1]), len(asks), chance_in_all()
        ),
    }
    for relation in RELATIONS:
        rows[f"  {relation}"] = row([ask for ask in asks if ask.relation == relation])
    return rows


def _over(values: Sequence[float]) -> Interval | None:
    """`bootstrap`; None where there are no values."""
    return bootstrap(values) if values else None


# The autoencoder ---------------------------------------------------------------------------------------------------


def reconstruction_rows(backbone: Backbone, examiner: Judge, count: int, seed: int) -> dict[str, Row]:
    """What the autoencoder leaves of ``count`` pictures of `dev` drawings, which it never saw, on `dev` photographs."""
    scenes = list(_held_out(count, backbone.size, seed))
    kept = [_through(backbone, scene.pixels) for scene in scenes]
    right = partial(_names_drawing, examiner)
    drawings = [right(pixels, scene) for pixels, scene in zip(kept, scenes, strict=True)]
    clean = [right(scene.pixels, scene) for scene in scenes]
    psnr = [
        subject_psnr(scene.pixels, pixels, scene.masks[0]) for pixels, scene in zip(kept, scenes, strict=True)
    ]
    lab = [mean_lab_error(scene.pixels, pixels) for pixels, scene in zip(kept, scenes, strict=True)]
    return {
        "drawing named through the autoencoder": Row(bootstrap(drawings), bootstrap(clean), count),
        "subject PSNR through the autoencoder, dB": Row(bootstrap(psnr), None, count),
        "mean Lab error through the autoencoder": Row(bootstrap(lab), None, count),
    }


def _held_out(count: int, side_px: int, seed: int) -> Iterator[Scene]:
    drawings, photos, rules = load_sprites("dev"), load_photos("dev"), SceneRules(side_px=side_px)
    for number in range(count):
        rng = numpy_generator(seed, "exam", "held out", number)
        label, background = random_background(photos, rng, rules)
        yield compose([drawings[number % len(drawings)]], label, background, rng, rules)


@torch.no_grad()
def _through(backbone: Backbone, pixels: Pixels) -> Pixels:
    kept: Pixels = backbone.decode(backbone.encode_moments(pixels[None]).mean)[0]
    return kept


def _names_drawing(examiner: Judge, pixels: Pixels, scene: Scene) -> float:
    found = examiner.detect(pixels)
    key = f"{scene.objects[0].noun}/{scene.objects[0].family}"
    return float(len(found) > 0 and found.sprites[int(found.scores[0].argmax())] == key)


def subject_psnr(pixels: Pixels, kept: Pixels, mask: NDArray[np.bool_]) -> float:
    """Peak signal-to-noise ratio in dB over the pixels of ``mask`` (H, W)."""
    error = float(np.square(pixels[mask].astype(np.float64) - kept[mask]).mean())
    return float(10 * np.log10(255**2 / error)) if error > 0 else float("inf")


def mean_lab_error(pixels: Pixels, kept: Pixels) -> float:
    """Mean distance in CIE Lab (delta E of 1976) over all pixels."""
    difference = rgb_to_lab(pixels).astype(np.float64) - rgb_to_lab(kept)
    return float(np.linalg.norm(difference, axis=-1).mean())
