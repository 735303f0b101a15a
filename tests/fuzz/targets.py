"""What is fuzzed: each target is a small valid folder and the loaders that read it."""

from __future__ import annotations

import fcntl
import io
import json
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageCms
from rich.console import Console

from conceptloom.backbone import Backbone, applied_weights, initial_rows, load_backbone, tokenize
from conceptloom.backbone.fingerprint import fingerprint
from conceptloom.cli import info, options
from conceptloom.concepts import BaseModelRecord, Concept, ConceptSet, validate_concept_name
from conceptloom.concepts.storage import read_tensors, write_tensors
from conceptloom.errors import ConceptloomError
from conceptloom.evaluation.api import EvaluationJob, claim_folder
from conceptloom.evaluation.benchmark import Benchmark, TestPrompt, named_in
from conceptloom.evaluation.coco_format import load_benchmark, write_benchmark
from conceptloom.evaluation.coco_selection import coco_benchmark
from conceptloom.evaluation.cost import finished_costs
from conceptloom.evaluation.draw import draw_report
from conceptloom.evaluation.folder_sets import folder_benchmark
from conceptloom.evaluation.grids import draw_grid
from conceptloom.evaluation.margins import Margin, load_margin, save_margin
from conceptloom.evaluation.plan import SMOKE
from conceptloom.evaluation.protocols import RANDOM, Pair
from conceptloom.evaluation.report import (
    Curves,
    Grid,
    GridRow,
    Line,
    Measured,
    Panel,
    Report,
    Row,
    Table,
    Tile,
    encoded,
    load_report,
    save_report,
)
from conceptloom.evaluation.rle import from_segmentation, to_rle
from conceptloom.evaluation.study_bundle import Comparison, Reference, export_study_bundle, plain_prompt
from conceptloom.evaluation.study_key import read_key
from conceptloom.evaluation.study_leaks import leaks
from conceptloom.evaluation.units import MaskRecord, UnitKey, UnitResult, load_unit, save_unit
from conceptloom.generation import image_names
from conceptloom.generation.prompts import check_prompt
from conceptloom.judges.detector import load_judge
from conceptloom.judges.features import load_feature_judge
from conceptloom.judges.networks import NetworkConfig, Thresholds, Vocabulary, build_network, save_network
from conceptloom.learning import (
    Finished,
    Progress,
    Recorder,
    Resumed,
    StepDone,
    build_request,
    prepare_job,
    read_config_file,
    resolve_config,
)
from conceptloom.learning.checkpoint import _entry
from conceptloom.learning.phrases import split_prompt
from conceptloom.learning.prior import _read_group
from conceptloom.learning.reading import read_pictures
from conceptloom.pictures import Picture, load_mask_hint, load_picture, load_strokes, write_png, write_webp
from conceptloom.runs import RunLock, append_jsonl
from conceptloom.scenes import backgrounds, sprites
from tiny_models import save_tiny_model, stable_diffusion_scheduler, tiny_tokenizer
from tiny_sets import PROMPT, tiny_benchmark_set, tiny_set

HEIGHT, WIDTH = 24, 32
QUICK: Mapping[str, Any] = {
    "em_steps": 4,
    "batch_size": 1,
    "initial_timesteps": 1,
    "e_step_timesteps": 1,
    "mask_update_every": 2,
    "train": "tokens",
    "preview_every": 0,
    "crf": {"iterations": 1},
}


@dataclass(frozen=True)
class Target:
    """A valid folder's files by path, and what reads it."""

    files: Callable[[], dict[str, bytes]]
    read: Callable[[Path], object]
    alone: bool = False
    """Whether the files have nothing to do with each other, and each is read alone."""


def written(write: Callable[[Path], object]) -> dict[str, bytes]:
    """The files that `write` leaves in a folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }


def refused(call: Callable[[], object]) -> bool:
    """Make a call that may succeed or be refused in one line; anything else passes through."""
    try:
        call()
    except ConceptloomError as error:
        message = str(error)
    else:
        return False
    assert len(message.splitlines()) == 1, f"not one line: {message!r}"
    return True


def each(*calls: Callable[[], object]) -> bool:
    """Make all the calls; whether any is refused."""
    return any([refused(call) for call in calls])


@cache
def backbone() -> Backbone:
    """The tiny base model that prompts, sets and runs belong to."""
    with tempfile.TemporaryDirectory() as name:
        return load_backbone(save_tiny_model(Path(name), stable_diffusion_scheduler()), "cpu", "float32")


def pixels(seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def half() -> Any:
    return np.arange(WIDTH)[None] * np.ones((HEIGHT, 1)) < WIDTH // 2


# Pictures and hints -----------------------------------------------------------------------------------------------


def picture_files() -> dict[str, bytes]:
    """A file of every kind that the decoder treats apart."""
    plain = Image.fromarray(pixels())
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [Image.fromarray(pixels(seed)) for seed in (1, 2)]
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "plain.png": (plain, {}),
        "profile.png": (plain, {"icc_profile": profile}),
        "grey.png": (plain.convert("L"), {}),
        "bilevel.png": (plain.convert("1"), {}),
        "deep.png": (Image.fromarray(pixels().astype(np.uint16)[..., 0] * 257), {}),
        "palette.png": (plain.quantize(8), {"transparency": 3}),
        "alpha.png": (plain.convert("LA"), {}),
        "moving.png": (plain, {"save_all": True, "append_images": frames}),
        "plain.jpg": (plain, {"exif": turned.tobytes()}),
        "layered.jpg": (plain, {"progressive": True, "icc_profile": profile}),
        "print.jpg": (plain.convert("CMYK"), {}),
        "plain.webp": (plain, {"exif": turned.tobytes(), "icc_profile": profile}),
        "alpha.webp": (plain.convert("RGBA"), {"lossless": True}),
        "moving.webp": (plain, {"save_all": True, "append_images": frames}),
    }

    def write(folder: Path) -> None:
        for name, (image, how) in kinds.items():
            image.save(folder / name, **how)

    return written(write)


def read_picture(path: Path) -> None:
    found = load_picture(path).pixels
    assert (found.dtype, found.shape[2:]) == (np.uint8, (3,)), f"{found.dtype} {found.shape}"


def hint_files() -> dict[str, bytes]:
    strokes = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    strokes[:4], strokes[-4:] = 255, 0
    return written(
        lambda folder: (write_png(folder / "mask.png", half()), write_png(folder / "strokes.png", strokes))
    )


def read_hint(path: Path) -> None:
    load = load_mask_hint if path.name == "mask.png" else load_strokes
    load(path, (HEIGHT, WIDTH)).framed(16)


def break_a_scene_files() -> dict[str, bytes]:
    def write(folder: Path) -> None:
        Image.fromarray(pixels()).save(folder / "img.jpg")
        write_png(folder / "mask0.png", half())
        write_png(folder / "mask1.png", ~half())

    return written(write)


# Settings, prompts, names -----------------------------------------------------------------------------------------


def setting_files() -> dict[str, bytes]:
    toml = (
        '# of a run\nmethod = "paper"\ntoken_lr = 5e-4\ntimestep_range = [0.1, 0.9]\n[crf]\niterations = 3\n'
    )
    yaml = "method: fixed\nem_steps: 10\nvalidation_prompt: a <cat>\ncrf: {scale: 0.5, iterations: 3}\nseed: 0x10\n"
    return {"a.json": json.dumps(QUICK).encode(), "b.toml": toml.encode(), "c.yaml": yaml.encode()}


def text_files() -> dict[str, bytes]:
    prompts = (
        PROMPT,
        "<Cat>asleep, on the left of a flying < car >",
        "a photo of <cat>" + " and a very red <car>" * 9,
    )
    texts = (*prompts, "cat", "dog=poodle", "a:cat=1,2,3,4")
    return {f"{number}.txt": text.encode() for number, text in enumerate(texts)}


def read_text(path: Path) -> None:
    # As the command line gets it: bytes that are no UTF-8 become lone surrogates.
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    rows = {"<cat>": 2, "<car>": 1}
    each(
        lambda: check_prompt(text, rows),
        lambda: tokenize(backbone(), text, rows),
        lambda: tokenize(backbone(), text, {}),
        lambda: image_names([text], 0, 1),
        lambda: split_prompt(text).keep(["cat"]),
        lambda: plain_prompt(text, {"cat": "subject", "car": "pattern"}),
        lambda: TestPrompt(text, "known", named_in(text), place="beach").class_words_text({"cat": "cat"}),
        lambda: Concept(validate_concept_name(text), "subject", text),
        lambda: initial_rows(backbone(), text, 2),
        lambda: request(text),
        lambda: options.parse_concepts([text, text]),
        lambda: options.parse_contains([text]),
        lambda: options.parse_files("--mask", [text]),
        lambda: options.parse_boxes([text]),
        lambda: options.parse_kinds([text]),
        lambda: load_picture(text),
    )


def request(text: str) -> None:
    picture = Picture("a", None, pixels())
    config = resolve_config("builtin", QUICK)
    each(
        lambda: build_request([picture], {text: "cat"}, config),
        lambda: build_request([picture], {"cat": text}, config),
        lambda: build_request([picture], {"cat": None, "car": None}, config, prompts={"a": text}),
        lambda: build_request([picture], {"cat": None}, config, contains={text: [text]}),
    )


# Concept sets and runs --------------------------------------------------------------------------------------------


def concept_set_files() -> dict[str, bytes]:
    row = {"stage": "em", "step": 1, "loss": 0.5, "seconds": 1.0}
    learned = tiny_set(backbone(), "lora")
    return written(
        lambda folder: learned.save(folder / "set", {"metrics.jsonl": (json.dumps(row) + "\n").encode()})
    )


def read_concept_set(folder: Path) -> None:
    learned = ConceptSet.load(folder / "set")
    described = info.describe(learned, folder / "set")
    json.dumps(described)
    info.show(Console(file=io.StringIO(), force_terminal=True, color_system="truecolor"), learned, described)
    build_request([Picture("a", None, pixels())], {"cat": None}, resolve_config("sd", {}), start=learned)
    learned.save(folder / "set")


def lend_weights(folder: Path) -> None:
    learned = ConceptSet.load(folder / "set")
    learned.check_base(backbone())
    with applied_weights(backbone(), learned.weights):
        tokenize(backbone(), PROMPT, learned.placeholders)


def tensor_files() -> dict[str, bytes]:
    tensors = {"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.float16)}
    return written(lambda folder: write_tensors(folder / "a.safetensors", tensors))


def read_tensor_files(folder: Path) -> None:
    path = folder / "a.safetensors"
    read_tensors(path)  # what it refuses, libraries refuse before a fingerprint is taken
    fingerprint({}, {}, {"unet": [path]})


def run_files() -> dict[str, bytes]:
    def write(folder: Path) -> None:
        write_png(folder / "garden.png", pixels())
        events = job(folder, resume=False).events()
        for event in events:
            if isinstance(event, StepDone) and event.stage == "em" and event.step == 3:
                break
        events.close()

    return written(write)


def job(folder: Path, *, resume: bool) -> Any:
    return prepare_job(
        [folder / "garden.png"],
        {"cat": "cat", "car": None},
        folder / "set",
        base_model=backbone(),
        overrides=QUICK,
        resume=resume,
    )


def read_run(folder: Path) -> None:
    """Resume, once as the files are and once with a manifest that fits them."""
    refused(lambda: resumed(folder))
    for manifest in folder.glob("set.learning/checkpoints/*/manifest.json"):
        files = [path for path in manifest.parent.iterdir() if path != manifest]
        manifest.write_text(json.dumps({path.name: _entry(path) for path in files}), encoding="utf-8")
    resumed(folder)


def resumed(folder: Path) -> None:
    events = job(folder, resume=True).events()
    next(event for event in events if isinstance(event, Resumed))
    events.close()


def page_files() -> dict[str, bytes]:
    """What a run has left when all that it lacks is its set: metrics and previews."""

    def write(folder: Path) -> None:
        shown = folder / "set.learning" / "previews"
        for name in ("masks/garden/masks-000001", "masks/garden/em-000002", "samples/em-000002"):
            write_png(shown / f"{name}.png", pixels())
        rows = (
            {"stage": "em", "step": 1, "mask": 0.5, "attention": 0.1, "seconds": 0.1},
            {"stage": "em", "step": 2, "mask": 0.4, "attention": 0.1, "seconds": 0.1},
            {"stage": "em", "step": 2, "prompt": "a <cat>", "seconds": 0.1},
            {"stage": "em", "step": 2, "notice": "out of memory"},
        )
        for row in rows:
            append_jsonl(folder / "set.learning" / "metrics.jsonl", row)

    return written(write)


def finish_run(folder: Path) -> None:
    """Go on with a run at its end: its page is made of what is there, and is in the set."""
    request = build_request(
        [Picture("garden", None, pixels())], {"cat": "cat"}, resolve_config("builtin", QUICK)
    )
    learned = ConceptSet(
        request.concepts,
        {"cat": torch.ones(1, 4)},
        BaseModelRecord("tiny", "0" * 64, None),
        masks={("garden", "cat"): np.ones((HEIGHT, WIDTH), dtype=np.bool_)},
        provenance={"rescues": {}, "drift": {}},
    )

    def events() -> Generator[Progress, None, None]:
        yield Resumed("em", 4, 4)
        yield Finished("em", 4, 4, concept_set=learned)

    for _ in Recorder(request, folder / "set", resume=True).record(events()):
        pass
    assert (folder / "set" / "index.html").is_file()


def prior_files() -> dict[str, bytes]:
    def write(folder: Path) -> None:
        for number in range(2):
            write_png(folder / f"{number:04d}.png", pixels(number)[:, :HEIGHT])

    return written(write)


def read_prior(folder: Path) -> None:
    """Images of the cache: read whole and of one size, or drawn again."""
    images = _read_group([folder / "0000.png", folder / "0001.png"], HEIGHT)
    assert images is None or images.shape == (2, HEIGHT, HEIGHT, 3)


def read_lock(folder: Path) -> None:
    """A run folder that is in use, whose lock file says by whom."""
    (folder / ".set.lock").touch()
    with (folder / ".set.lock").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert refused(RunLock(folder / "set").__enter__), "the lock was not held"


# Evaluation -------------------------------------------------------------------------------------------------------


def coco_files() -> dict[str, bytes]:
    return written(lambda folder: write_benchmark(Benchmark("own", "dev", (tiny_benchmark_set(),)), folder))


def instance_files() -> dict[str, bytes]:
    """Two cats, one in a crowd, and a dog, in COCO's three forms of a segmentation."""
    shapes = (
        (1, 1, [[0.0, 0.0, 12.0, 0.0, 12.0, 24.0, 0.0, 24.0]], 0),
        (1, 2, {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * 20, HEIGHT * 12]}, 0),
        (2, 1, to_rle(half()), 1),
    )
    told = {
        "images": [
            {"id": one, "file_name": f"{one}.png", "height": HEIGHT, "width": WIDTH} for one in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": kind,
                "segmentation": shape,
                "area": 288,
                "iscrowd": crowd,
            }
            for number, (image, kind, shape, crowd) in enumerate(shapes, start=1)
        ],
    }
    return {
        "annotations/instances_val.json": json.dumps(told).encode(),
        **written(lambda folder: [write_png(folder / "val" / f"{one}.png", pixels()) for one in (1, 2)]),
    }


def segmentation_files() -> dict[str, bytes]:
    return {
        "code.json": json.dumps(to_rle(half())).encode(),
        "runs.json": json.dumps(
            {"size": [HEIGHT, WIDTH], "counts": [100, 200, HEIGHT * WIDTH - 300]}
        ).encode(),
        "polygons.json": json.dumps([[0, 0, 9, 0, 9, 9], [20, 3, 30, 3, 30.5, 20, 20, 20]]).encode(),
    }


def read_segmentation(path: Path) -> None:
    with suppress(ValueError, RecursionError):  # what it raises by its contract, and JSON's
        mask = from_segmentation(json.loads(path.read_bytes()), (HEIGHT, WIDTH))
        assert mask.shape == (HEIGHT, WIDTH), f"{mask.shape}"


def own_set_files() -> dict[str, bytes]:
    told = {
        "concepts": {"cat": {"word": "cat", "class_word": "animal"}, "lawn": {"kind": "background"}},
        "contains": {"first": ["cat", "lawn"]},
        "captions": {"first": "a photo of <cat> asleep on <lawn>"},
        "prompts": [{"text": "a <cat> on the <lawn>", "relation": ["cat", "on", "lawn"], "place": "lawn"}],
    }
    scene = {"concepts": {"cat": {}, "dog": {}}, "prompts": [{"text": "a <cat> and a <dog>"}]}
    return {
        "garden/set.json": json.dumps(told).encode(),
        "scene/set.json": json.dumps(scene).encode(),
        **written(lambda folder: write_png(folder / "garden" / "first.png", pixels())),
        **written(lambda folder: write_png(folder / "garden" / "masks" / "first" / "cat.png", half())),
        **{f"scene/{name}": data for name, data in break_a_scene_files().items()},
    }


UNIT = UnitKey("one", "paper", 0)


def unit_files() -> dict[str, bytes]:
    masks = np.stack([half(), ~half()])
    maps = np.arange(2 * 4, dtype=np.uint8).reshape(2, 2, 2)
    record = MaskRecord(0, "first", ("pet", "place"), masks, maps, ("pet",), ())
    seconds, base = {"learn": 2.0, "draw": 1.0}, {"version": None, "fingerprint": "f"}
    result = UnitResult(UNIT, (record,), {(0, 0): pixels()}, seconds, (0.5, 0.6), dict(QUICK), base)
    return written(lambda folder: save_unit(result, folder))


def report_files() -> dict[str, bytes]:
    """One part of every kind."""
    line = Line(
        label="paper", steps=(0, 2, 4), mean=(0.1, 0.3, 0.4), low=(0.0, 0.2, 0.3), high=(0.2, 0.4, 0.5)
    )
    flat = Line(label="fixed", steps=(0, 4), mean=(0.2, 0.2))
    cells = (Measured(value=0.5, low=0.4, high=0.6), 3, "no", None)
    report = Report(
        kind="smoke",
        title="t",
        facts={"Command": "conceptloom evaluate"},
        tables=(
            Table(
                key="a",
                title="t",
                note="n",
                columns=("w", "x", "y", "z"),
                rows=(Row(label="r", cells=cells),),
            ),
        ),
        curves=(
            Curves(
                key="b",
                title="t",
                note="n",
                x_label="x",
                y_label="y",
                window=3,
                panels=(Panel(title="p", lines=(line, flat)),),
            ),
        ),
        grids=(
            Grid(
                key="c",
                title="t",
                note="n",
                columns=("x",),
                rows=(GridRow(label="r", tiles=(Tile(picture="p", caption="<pet>"),)),),
            ),
        ),
        pictures={"p": encoded(pixels())},
    )
    return written(lambda folder: save_report(report, folder / "report.json"))


def read_report(folder: Path) -> None:
    report = load_report(folder / "report.json")
    for grid in report.grids:
        draw_grid(grid, report)


def evaluation_files() -> dict[str, bytes]:
    margin = Margin(value=0.1, benchmark="builtin", split="dev", sets=2, pairs=4)
    return {
        "out/evaluation.json": b'{"benchmark": "own", "split": "dev", "sets": ["one"], "smoke": true}',
        **written(lambda folder: save_margin("judge/base", margin, folder / "margins.json")),
        **study_files(),
    }


def read_evaluation_files(folder: Path) -> None:
    sets = Benchmark("own", "dev", (tiny_benchmark_set(),))
    model = cast(Backbone, SimpleNamespace(version=None, fingerprint="f", dtype=torch.float32))
    job = EvaluationJob(sets, ("paper",), SMOKE, (), (), cast(Any, None), model, None, None, folder / "out")
    each(
        lambda: claim_folder(job),
        lambda: load_margin("judge/base", folder / "margins.json"),
        lambda: read_key(folder / "key.json"),
        lambda: leaks(folder / "study", ["paper"]),
    )


@cache
def study_files() -> dict[str, bytes]:
    protocol = replace(RANDOM, people=2, pairs_per_person=6, people_per_pair=2)
    comparisons = [
        Comparison(
            Pair("scene", "cat", f"a <cat> in place {prompt}", 0, 0),
            pixels(prompt),
            pixels(prompt + 1),
            (Reference("cat", "subject", pixels()),),
        )
        for prompt in range(6)
    ]
    methods: Any = {"ours": "paper", "baseline": "fixed"}
    return written(
        lambda folder: export_study_bundle(
            comparisons, protocol, folder / "study", folder / "key.json", methods=methods, seed=1
        )
    )


# Models and artwork -----------------------------------------------------------------------------------------------


def judge_files() -> dict[str, bytes]:
    config = NetworkConfig(
        "residual", (16, 16, 16), (1, 1, 1), neck=16, points=3, hidden=24, embedding=8, side_px=32
    )
    network = build_network(config, Vocabulary(("cat/noto", "dog/noto"), ("grass",)), seed=0)
    return written(lambda folder: save_network(folder, network, Thresholds(), {}))


def read_judge(folder: Path) -> None:
    judge = load_judge("examiner", folder)
    judge.detect(pixels()).by_noun()
    judge.describe(pixels())


def clip_files() -> dict[str, bytes]:
    from transformers import CLIPConfig, CLIPModel

    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = tiny_tokenizer()
    text = {**layers, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    config = CLIPConfig(
        text_config=text, vision_config={**layers, "image_size": 32, "patch_size": 8}, projection_dim=12
    )
    told = {"image_mean": [0.5] * 3, "image_std": [0.2] * 3, "crop_size": {"height": 32, "width": 32}}

    def write(folder: Path) -> None:
        CLIPModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(json.dumps(told), encoding="utf-8")

    return written(write)


def read_clip(folder: Path) -> None:
    judge: Any = load_feature_judge("clip", folder)
    judge.embed([pixels()])
    judge.embed_text(["a cat"])


def base_model_files() -> dict[str, bytes]:
    told = {"version": "tiny-1", "size": 64, "backgrounds": ["beach"], "nouns": ["cat"]}

    def write(folder: Path) -> None:
        save_tiny_model(folder, stable_diffusion_scheduler())
        (folder / "conceptloom.json").write_text(json.dumps(told), encoding="utf-8")

    return written(write)


def read_base_model(folder: Path) -> None:
    loaded = load_backbone(folder, "cpu", "float32")
    tokenize(loaded, PROMPT, {"<cat>": 1, "<car>": 1, "<beach>": 1})


def artwork_files() -> dict[str, bytes]:
    sprite = {
        "noun": "cat",
        "family": "noto",
        "role": "train",
        "class_word": "animal",
        "noun_split": "train",
        "cell": 0,
    }
    photo = {"role": "train", "file": "a.webp", "label": "beach", "source": "s"}

    def write(folder: Path) -> None:
        (folder / "sprites.json").write_text(json.dumps({"sprites": [sprite]}), encoding="utf-8")
        (folder / "backgrounds.json").write_text(json.dumps({"photos": [photo]}), encoding="utf-8")
        atlas = np.zeros((sprites.CELL_PX, sprites.CELL_PX * sprites.ATLAS_COLUMNS, 3), np.uint8)
        write_webp(folder / "train-noto.webp", atlas)
        write_webp(folder / "a.webp", pixels())

    return written(write)


def read_artwork(folder: Path) -> None:
    sprites._load.cache_clear()
    backgrounds._load_photos.cache_clear()
    each(lambda: sprites.load_sprites("train", folder), lambda: backgrounds.load_photos("train", folder))


def only(read: Callable[[Path], object]) -> Callable[[Path], object]:
    """Reads the only file of a folder."""
    return lambda folder: [read(path) for path in folder.iterdir()]


TARGETS: dict[str, Target] = {
    "pictures": Target(picture_files, only(read_picture), alone=True),
    "hints": Target(hint_files, only(read_hint), alone=True),
    "break-a-scene": Target(
        break_a_scene_files, lambda folder: read_pictures([folder], {"cat": None, "car": None})
    ),
    "settings": Target(
        setting_files, only(lambda path: resolve_config("builtin", read_config_file(path))), alone=True
    ),
    "texts": Target(text_files, only(read_text), alone=True),
    "concept-set": Target(concept_set_files, read_concept_set),
    "lent-weights": Target(concept_set_files, lend_weights),
    "tensors": Target(tensor_files, read_tensor_files),
    "run": Target(run_files, read_run),
    "page": Target(page_files, finish_run),
    "prior": Target(prior_files, read_prior),
    "lock": Target(lambda: {".set.lock": b'{"pid": 1, "host": "h", "since": "s"}'}, read_lock),
    "coco-benchmark": Target(coco_files, load_benchmark),
    "coco-instances": Target(instance_files, lambda folder: coco_benchmark(folder, concepts=2)),
    "segmentations": Target(segmentation_files, only(read_segmentation), alone=True),
    "folder-benchmark": Target(own_set_files, folder_benchmark),
    "unit": Target(unit_files, lambda folder: (finished_costs(folder), load_unit(UNIT, folder))),
    "report": Target(report_files, read_report),
    "figures": Target(report_files, lambda folder: draw_report(load_report(folder / "report.json"), folder)),
    "evaluation": Target(evaluation_files, read_evaluation_files),
    "judge": Target(judge_files, read_judge),
    "clip": Target(clip_files, read_clip),
    "base-model": Target(base_model_files, read_base_model),
    "artwork": Target(artwork_files, read_artwork),
}
