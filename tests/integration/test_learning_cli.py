"""`conceptloom learn` and `conceptloom.learning.learn`, from files to a concept set."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from click.testing import Result
from typer.testing import CliRunner

from conceptloom.backbone import Backbone, weight_names, weights_state
from conceptloom.cli import learn as verb
from conceptloom.concepts import ConceptSet
from conceptloom.errors import ConceptloomError, ConfigError, PictureError, PromptError, RunError
from conceptloom.learning import (
    Estimate,
    Finished,
    MasksUpdated,
    Progress,
    Resumed,
    SamplesDrawn,
    StepDone,
    estimate,
    learn,
    prepare_job,
    run_folder,
)
from conceptloom.pictures import Picture, load_picture, write_png
from conceptloom.runs import RunLock
from tiny_sets import tiny_set

SHORT: dict[str, Any] = {
    "em_steps": 4,
    "joint_steps": 2,
    "batch_size": 2,
    "token_lr": 0.01,
    "initial_timesteps": 2,
    "e_step_timesteps": 2,
    "prior_images": 2,
    "sample_steps": 1,
    "preview_every": 2,
    "train": "lora",
    "crf": {"iterations": 1},
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures and a configuration in the working folder."""
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path_factory.getbasetemp() / "learning-cache"))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("yard", "park")):
        pixels = np.random.default_rng(seed).integers(90, 130, (70, 90, 3), dtype=np.uint8)
        pixels[10:40, 20:50] = (220, 60, 40)
        write_png(tmp_path / f"{name}.png", pixels)
    Path("short.json").write_text(json.dumps(SHORT))
    Path("updated.json").write_text(json.dumps({**SHORT, "mask_update_every": 2}))


@pytest.fixture
def invoke(tiny_folder: Path) -> Callable[..., Result]:
    """Run the verb on the tiny model."""
    app = typer.Typer(pretty_exceptions_enable=False)
    verb.register(app)

    def call(*arguments: str, config: str = "updated.json") -> Result:
        fixed = [
            "--base-model",
            str(tiny_folder),
            "--config",
            config,
            "--device",
            "cpu",
            "--dtype",
            "float32",
        ]
        return CliRunner().invoke(app, [*arguments, *fixed])

    return call


TWO = (
    "yard.png",
    "park.png",
    "--concept",
    "cat=cat",
    "--concept",
    "beach=beach",
    "--kind",
    "beach=background",
)


def test_a_command_writes_a_set_with_masks_metrics_previews_and_page(invoke: Callable[..., Result]) -> None:
    result = invoke(
        *TWO, "--prompt", "park=a photo of <cat> asleep on the <beach>", "--seed", "3", "--out", "set"
    )
    assert result.exit_code == 0, result.output
    learned = ConceptSet.load("set")
    assert [(concept.name, concept.kind, concept.initializer) for concept in learned.concepts] == [
        ("cat", "subject", "cat"),
        ("beach", "background", "beach"),
    ]
    assert learned.config["seed"] == 3
    assert learned.masks["yard", "cat"].shape == (70, 90)
    assert learned.thumbnails.keys() == {"cat", "beach"}
    lines = [json.loads(line) for line in Path("set/metrics.jsonl").read_text().splitlines()]
    steps = [(line["stage"], line["step"]) for line in lines if "loss" in line]
    assert steps == [*(("em", step) for step in range(1, 5)), ("joint", 1), ("joint", 2)]
    assert sum("area" in line for line in lines) == 6  # stage 2 and two E-steps, two pictures each
    previews = sorted(path.name for path in Path("set/previews").glob("masks/yard/*.png"))
    assert previews == ["em-000002.png", "em-000004.png", "masks-000001.png"]
    assert load_picture("set/previews/samples/joint-000002.png").pixels.std() > 0
    assert not run_folder(Path("set")).exists()
    assert "index.html" in result.output


def test_the_page_is_self_contained_and_shows_every_picture_from_start_to_end(
    invoke: Callable[..., Result],
) -> None:
    assert invoke(*TWO, "--out", "set").exit_code == 0
    page = Path("set/index.html").read_text()
    assert not re.search(r"(src|href)='(?!data:)", page)
    assert "http" not in page
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    story = ["picture", "start", "EM step 2", "learned masks"]
    assert captions[:8] == story * 2
    assert "joint step 2: a photo of &lt;cat&gt; on &lt;beach&gt;" in captions
    assert page.count("<polyline class=mean") == 3


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """Send signals, at the first event of a run at which a condition holds: Ctrl-C once unless told otherwise."""
    with monkeypatch.context() as patch:

        def arm(condition: Callable[[], bool], *signals: signal.Signals) -> None:
            original = verb.duration

            def duration(seconds: float) -> str:
                if condition():
                    patch.setattr(verb, "duration", original)
                    for number in signals or (signal.SIGINT,):
                        signal.raise_signal(number)
                return original(seconds)

            patch.setattr(verb, "duration", duration)

        yield arm


def metrics_of(folder: str) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, apart from times."""
    path = Path(folder, "metrics.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def reached(stage: str, step: int) -> Callable[[], bool]:
    """Whether the newest record of the run is about this step."""
    return lambda: [(row["stage"], row["step"]) for row in metrics_of("set.learning")[-1:]] == [(stage, step)]


@pytest.mark.parametrize(("stage", "step"), [("masks", 1), ("em", 2), ("em", 3), ("joint", 1)])
def test_an_interrupted_command_goes_on_to_the_same_set_and_records(
    stage: str, step: int, invoke: Callable[..., Result], interrupt: Callable[..., None]
) -> None:
    assert invoke(*TWO, "--out", "whole").exit_code == 0
    interrupt(reached(stage, step))
    stopped = invoke(*TWO, "--out", "set")
    assert stopped.exit_code == 130
    assert f"stopped after {stage} step {step}, see set.learning: --resume goes on" in stopped.output
    assert not Path("set").exists()
    resumed = invoke(*TWO, "--resume", "--out", "set")
    assert resumed.exit_code == 0, resumed.output
    whole, learned = ConceptSet.load("whole"), ConceptSet.load("set")
    assert torch.equal(whole.rows(), learned.rows())
    for key, mask in whole.masks.items():
        np.testing.assert_array_equal(mask, learned.masks[key])
    assert metrics_of("whole") == metrics_of("set")
    previews = [
        sorted(path.relative_to(out) for path in Path(out).glob("previews/**/*.png"))
        for out in ("whole", "set")
    ]
    assert previews[0] == previews[1]


def test_sigterm_stops_a_run_as_ctrl_c_does_with_its_own_exit_code(
    invoke: Callable[..., Result], interrupt: Callable[..., None]
) -> None:
    interrupt(reached("em", 2), signal.SIGTERM)
    stopped = invoke(*TWO, "--out", "set")
    assert stopped.exit_code == 143
    assert "stopped after em step 2" in stopped.output
    assert invoke(*TWO, "--resume", "--out", "set").exit_code == 0


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal; a shell starts what runs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_twice_amid_a_step_stops_at_once_and_the_run_goes_on_from_its_last_checkpoint(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(*TWO, "--out", "whole").exit_code == 0
    original = Backbone.predict

    def predict(*args: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and reached("em", 2)():
            patch.undo()
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "predict", predict)
        stopped = invoke(*TWO, "--out", "set")
    assert stopped.exit_code == 130
    assert "stopped after" not in stopped.output
    assert sorted(path.name for path in Path("set.learning/checkpoints").iterdir()) == [
        "00000000",
        "00000002",
    ]
    assert not Path(".set.lock").exists()
    assert invoke(*TWO, "--resume", "--out", "set").exit_code == 0
    assert torch.equal(ConceptSet.load("whole").rows(), ConceptSet.load("set").rows())
    assert metrics_of("whole") == metrics_of("set")


def test_an_unfinished_run_is_not_begun_again(
    invoke: Callable[..., Result], interrupt: Callable[..., None]
) -> None:
    interrupt(reached("em", 1))
    assert invoke(*TWO, "--out", "set").exit_code == 130
    with pytest.raises(RunError, match="add --resume"):
        prepare_job(["yard.png"], {"cat": "cat"}, Path("set"), base_model="no-such-folder")


def test_a_command_interrupted_before_its_first_step_is_repeated_as_it_is(
    invoke: Callable[..., Result],
    interrupt: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(tmp_path / "cache"))
    interrupt((tmp_path / "cache").exists)
    stopped = invoke(*TWO, "--out", "set")
    assert (stopped.exit_code, "repeat the command" in stopped.output) == (130, True), stopped.output
    assert invoke(*TWO, "--out", "set").exit_code == 0


def test_a_record_cut_short_does_not_keep_a_run_from_going_on(
    invoke: Callable[..., Result], interrupt: Callable[..., None]
) -> None:
    interrupt(reached("em", 3))
    assert invoke(*TWO, "--out", "set").exit_code == 130
    metrics = Path("set.learning/metrics.jsonl")
    metrics.write_text(re.sub('"prompt".*', '"pro', metrics.read_text()) + '{"stage": "em", "st')
    assert invoke(*TWO, "--resume", "--out", "set").exit_code == 0
    assert [row["step"] for row in metrics_of("set") if row["stage"] == "em" and "loss" in row] == [
        1,
        2,
        3,
        4,
    ]


def test_masks_found_before_a_stop_are_previewed_after_it(
    invoke: Callable[..., Result], interrupt: Callable[..., None]
) -> None:
    Path("rare.json").write_text(json.dumps({**SHORT, "mask_update_every": 3, "preview_every": 4}))
    interrupt(reached("em", 3))
    assert invoke(*TWO, "--out", "set", config="rare.json").exit_code == 130
    assert invoke(*TWO, "--resume", "--out", "set", config="rare.json").exit_code == 0
    for picture in ("yard", "park"):
        assert Path(f"set/previews/masks/{picture}/em-000004.png").is_file()


@pytest.mark.parametrize("further", [False, True])
def test_a_run_killed_after_its_set_was_complete_is_finished(
    further: bool, invoke: Callable[..., Result], interrupt: Callable[..., None]
) -> None:
    if further:
        assert invoke(*TWO, "--out", "set").exit_code == 0
    interrupt(reached("joint", 1))
    assert invoke(*TWO, "--out", "set").exit_code == 130
    shutil.copytree("set.learning", "left")
    assert invoke(*TWO, "--resume", "--out", "set").exit_code == 0
    Path("left").rename("set.learning")
    result = invoke(*TWO, "--resume", "--out", "set")
    assert "set is complete" in str(result.exception)
    assert not Path("set.learning").exists()


def test_a_run_killed_while_its_set_took_the_place_of_the_earlier_one_goes_on(
    invoke: Callable[..., Result], interrupt: Callable[..., None]
) -> None:
    assert invoke("yard.png", "--concept", "cat=cat", "--out", "set").exit_code == 0
    interrupt(reached("joint", 1))
    assert invoke("park.png", "--concept", "bird=bird", "--out", "set").exit_code == 130
    Path("set").rename(".set.previous")
    assert invoke("park.png", "--concept", "bird=bird", "--out", "set", "--resume").exit_code == 0
    assert [concept.name for concept in ConceptSet.load("set").concepts] == ["cat", "bird"]


def test_ctrl_c_while_the_finished_set_is_written_changes_nothing(
    invoke: Callable[..., Result], interrupt: Callable[..., None]
) -> None:
    interrupt(Path("set").exists)
    result = invoke(*TWO, "--out", "set")
    assert (result.exit_code, "done: set" in result.output) == (0, True), result.output


def break_a_scene(folder: str, masks: np.ndarray) -> None:
    """A folder in Break-A-Scene's layout, of the picture of the yard and bool masks (K, 70, 90)."""
    Path(folder).mkdir()
    Path("yard.png").rename(Path(folder) / "img.jpg")  # told by its content
    for index, mask in enumerate(masks):
        write_png(Path(folder) / f"mask{index}.png", mask)


def test_break_a_scenes_layout_gives_gt_its_masks(invoke: Callable[..., Result]) -> None:
    masks = np.zeros((2, 70, 90), dtype=bool)
    masks[0, 10:40, 20:50], masks[1, 45:65, 15:75] = True, True
    break_a_scene("scene", masks)
    result = invoke(
        "scene",
        "--concept",
        "cat=cat",
        "--concept",
        "mat",
        "--method",
        "gt",
        "--out",
        "set",
        config="short.json",
    )
    assert result.exit_code == 0, result.output
    learned = ConceptSet.load("set")
    for name, mask in zip(("cat", "mat"), masks, strict=True):
        assert (learned.masks["scene", name] != mask).mean() < 0.02


@pytest.mark.parametrize(
    "told",
    [
        {"contains": {"scene": ["cafe\u0301"]}},
        {"prompts": {"scene": "a photo of <caf\u00e9>"}},
    ],
    ids=["--in", "--prompt"],
)
def test_a_break_a_scene_folder_holds_the_concepts_its_picture_is_said_to(
    told: dict[str, Any], tiny_backbone: Backbone
) -> None:
    mask = np.zeros((1, 70, 90), dtype=bool)
    mask[0, 10:40, 20:50] = True
    break_a_scene("scene.v1", mask)
    write_png("mask.png", mask[0])
    job = prepare_job(
        ["scene.v1", "park.png"],
        {"cafe\u0301": None, "dog": "dog"},
        Path("set"),
        masks={("park", "cafe\u0301"): "mask.png", ("park", "dog"): "mask.png"},
        base_model=tiny_backbone,
        overrides={"method": "gt"},
        **told,
    )
    scene, park = (entry.picture for entry in job.request.pictures)
    assert (scene.name, list(scene.masks)) == ("scene", ["caf\u00e9"])
    assert list(park.masks) == ["caf\u00e9", "dog"]


def test_a_mask_option_gives_gt_its_mask(invoke: Callable[..., Result]) -> None:
    mask = np.zeros((70, 90), dtype=bool)
    mask[10:40, 20:50] = True
    write_png("mask.png", mask)
    arguments = ("yard.png", "--concept", "cat=cat", "--mask", "yard:cat=mask.png", "--out", "set")
    assert invoke(*arguments, "--method", "gt", config="short.json").exit_code == 0
    assert (ConceptSet.load("set").masks["yard", "cat"] != mask).mean() < 0.02


def test_a_mask_given_for_one_concept_is_held_while_the_others_are_found(
    invoke: Callable[..., Result],
) -> None:
    mask = np.zeros((70, 90), dtype=bool)
    mask[10:40, 20:50] = True
    write_png("mask.png", mask)
    result = invoke(
        "yard.png",
        "--concept",
        "cat=cat",
        "--concept",
        "mat=mat",
        "--mask",
        "yard:cat=mask.png",
        "--out",
        "set",
    )
    assert result.exit_code == 0, result.output
    learned = ConceptSet.load("set")
    assert (learned.masks["yard", "cat"] != mask).mean() < 0.02
    assert not np.array_equal(learned.masks["yard", "mat"], learned.masks["yard", "cat"])


def test_a_concept_never_leaves_its_box(invoke: Callable[..., Result]) -> None:
    result = invoke("yard.png", "--concept", "cat=cat", "--box", "yard:cat=30,20,60,50", "--out", "set")
    assert result.exit_code == 0, result.output
    learned = ConceptSet.load("set").masks["yard", "cat"]
    assert learned.any()
    outside = learned.copy()
    outside[18:52, 28:62] = False  # a frame's pixel at its edge may cover two of the picture's
    assert not outside.any()


def test_words_of_a_pictures_prompt_that_do_not_fit_are_reported(invoke: Callable[..., Result]) -> None:
    long = "a <cat>" + " a" * 40
    result = invoke("yard.png", "--concept", "cat=cat", "--prompt", f"yard={long}", "--out", "set")
    assert f"the last 12 tokens do not fit and are not read: {long}" in result.output.splitlines()


def test_an_existing_set_is_extended_and_says_so(invoke: Callable[..., Result]) -> None:
    assert invoke("yard.png", "--concept", "cat=cat", "--out", "set").exit_code == 0
    before = ConceptSet.load("set")
    result = invoke("park.png", "--concept", "bird=bird", "--out", "set")
    assert result.exit_code == 0, result.output
    assert "adds <bird>" in result.output
    after = ConceptSet.load("set")
    assert [concept.name for concept in after.concepts] == ["cat", "bird"]
    assert torch.equal(before.embeddings["cat"], after.embeddings["cat"])
    assert after.masks.keys() == {("yard", "cat"), ("park", "bird")}
    assert after.provenance["learned_further_from"]["provenance"] == before.provenance


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("yard.png", "yard.png", "--concept", "cat"), PictureError, "two pictures are called 'yard'"),
        (("yard.png", "--concept", "cat", "--concept", "cat=dog"), ConfigError, "cat is given twice"),
        (("yard.png", "--concept", "cat", "--in", "yard"), ConfigError, "--in yard"),
        (("yard.png", "--concept", "cat", "--kind", "cat=animal"), ConfigError, "--kind cat=animal"),
        (("yard.png", "--concept", "cat", "--method", "fixed"), ConfigError, "never updates its masks"),
        (("yard.png", "--concept", "cat", "--box", "yard:cat=1,2,3"), ConfigError, "four numbers"),
        (
            ("yard.png", "--concept", "cat", "--box", "yard:cat=1,2,999,9"),
            PictureError,
            "not within the picture",
        ),
        (
            ("yard.png", "--concept", "cat", "--box", "yard:dog=1,2,9,9"),
            PictureError,
            "one of the concepts cat",
        ),
        (("yard.png", "--concept", "cat", "--stroke", "yard:cat=none.png"), PictureError, "none.png"),
        (
            ("yard.png", "--concept", "cat", "--method", "gt", "--box", "yard:cat=1,2,30,40"),
            ConfigError,
            "leave method gt out",
        ),
        (("yard.png", "--concept", "cat", "--box", "yard:cat=0,0,9,9"), PictureError, "leave it no place"),
        (
            ("yard.png", "--concept", "cat", "--prompt", f"yard={'very ' * 80} big <cat>"),
            PromptError,
            "stands beyond them",
        ),
        (("yard.png", "--concept", "cat", "--mask", "cat=yard.png"), ConfigError, "PICTURE:NAME=FILE"),
        (("yard.png", "--concept", "cat", "--resume"), RunError, "nothing to resume"),
        (("none.png", "--concept", "cat"), PictureError, "none.png"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line_and_writes_nothing(
    arguments: tuple[str, ...], error: type[Exception], message: str, invoke: Callable[..., Result]
) -> None:
    result = invoke(*arguments, "--out", "set")
    assert isinstance(result.exception, error), result.output
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert list(Path().glob("*set*")) == []


def test_weights_of_another_kind_than_the_sets_are_refused_before_anything_is_drawn(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke(*TWO, "--out", "set", config="short.json")
    Path("full.json").write_text(json.dumps({**SHORT, "train": "full"}))
    monkeypatch.setenv("CONCEPTLOOM_CACHE", str(Path("cache").absolute()))
    result = invoke(*TWO, "--out", "set", config="full.json")
    assert "keeps its weights as 'lora'" in str(result.exception)
    assert not Path("cache").exists()
    assert not Path("set.learning").exists()


@pytest.mark.parametrize("name", ["front/left", "../x", "what is it?", "scan 1.", "x" * 300])
def test_a_loaded_picture_whose_name_can_be_no_folder_is_refused(
    name: str, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    picture = Picture(name, None, np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(PictureError, match="cannot name a picture"):
        learn([picture], {"cat": "cat"}, tmp_path / "set", base_model=tiny_backbone)
    assert list(tmp_path.glob("set*")) == []


def test_a_refused_mask_is_told_once_for_each_concept_and_picture() -> None:
    masks = np.ones((1, 4, 4), dtype=np.bool_)
    event = MasksUpdated(
        "em",
        20,
        400,
        picture="yard",
        concepts=("cat",),
        masks=masks,
        maps=None,
        overlap=(0.0,),
        rescued=("cat",),
        collapsed=(),
    )
    assert verb.told(event, {}, set()) == [
        "refused new masks in yard at em step 20: cat; others stand in for them"
    ]
    assert verb.told(event, {}, {("yard", "cat")}) == []


def test_a_folder_that_is_no_set_is_not_written_into(invoke: Callable[..., Result]) -> None:
    Path("notes").mkdir()
    Path("notes/todo.txt").write_text("mine")
    result = invoke("yard.png", "--concept", "cat", "--out", "notes")
    assert result.exit_code != 0
    assert [path.name for path in Path("notes").iterdir()] == ["todo.txt"]


def test_a_set_is_not_written_below_a_file(invoke: Callable[..., Result]) -> None:
    result = invoke("yard.png", "--concept", "cat", "--out", "park.png/deep/set")
    assert isinstance(result.exception, RunError)
    assert "park.png is a file" in str(result.exception)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pictures": ["yard.png", "yard.png"]}, "two pictures are called 'yard'"),
        ({"contains": {"yard": []}}, "contains no concept"),
        ({"contains": {"barn": ["cat"]}}, "there is no picture 'barn'"),
        ({"kinds": {"dog": "subject"}}, "there is no concept 'dog'"),
        ({"overrides": {"em_steps": -1}}, "em_steps"),
        ({"resume": True}, "nothing to resume"),
    ],
)
def test_what_needs_no_base_model_is_refused_before_one_is_loaded(
    changes: dict[str, Any], message: str
) -> None:
    given = {"pictures": ["yard.png"], "concepts": {"cat": "cat"}, "out": Path("set"), **changes}
    with pytest.raises(ConceptloomError, match=message):
        prepare_job(**given, base_model="no-such-folder")


def test_a_run_at_work_is_not_joined_by_another() -> None:
    with RunLock(run_folder(Path("set"))), pytest.raises(RunError, match="in use by process"):
        prepare_job(["yard.png"], {"cat": "cat"}, Path("set"), base_model="no-such-folder")


@pytest.mark.parametrize("out", [".", ".."])
def test_a_set_does_not_replace_the_folder_one_is_in(
    out: str, invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("here/inside").mkdir(parents=True)
    monkeypatch.chdir("here/inside")
    result = invoke("../../yard.png", "--concept", "cat", "--out", out, config="../../short.json")
    assert isinstance(result.exception, RunError)
    assert "the folder you are in" in str(result.exception)


def test_a_set_in_the_home_folder_is_learned_further(
    tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tiny_set(tiny_backbone).save(tmp_path / "set")
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    job = prepare_job(["../yard.png"], {"cat": "cat"}, "~/set", base_model=tiny_backbone, overrides=SHORT)
    assert job.request.start is not None
    assert job.out == tmp_path / "set"


def test_the_python_call_returns_the_written_set_and_reports_progress(tiny_backbone: Backbone) -> None:
    events: list[Progress] = []
    learned = learn(
        ["yard.png", load_picture("park.png")],
        {"cat": "cat"},
        "set",
        base_model=tiny_backbone,
        config={**SHORT, "train": "tokens"},
        on_progress=events.append,
    )
    assert torch.equal(ConceptSet.load("set").rows(), learned.rows())
    assert sum(isinstance(event, StepDone) for event in events) == 4
    assert sum(isinstance(event, SamplesDrawn) for event in events) == 2
    assert isinstance(events[-1], Finished)


def test_losses_can_be_read_by_tensorboard(tiny_backbone: Backbone) -> None:
    pytest.importorskip("tensorboard")
    config = {**SHORT, "train": "tokens", "tensorboard": True}
    learn(["yard.png"], {"cat": "cat"}, "set", base_model=tiny_backbone, config=config)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator("set/tensorboard")
    accumulator.Reload()
    assert [scalar.step for scalar in accumulator.Scalars("em/mask")] == [1, 2, 3, 4]


def test_the_estimate_covers_every_stage_and_draws_nothing_of_the_run(tiny_backbone: Backbone) -> None:
    job = prepare_job(["yard.png"], {"cat": "cat"}, Path("set"), base_model=tiny_backbone, overrides=SHORT)
    expected = estimate(job.request, tiny_backbone)
    assert expected.seconds.keys() == {"prior", "tokens", "masks", "em", "joint"}
    assert all(expected.seconds[stage] > 0 for stage in ("masks", "em", "joint"))
    assert 1e8 < expected.peak_bytes < 1e11
    first = next(event for event in job.events() if isinstance(event, StepDone))
    halfway = expected.remaining_seconds(first, 1.0)
    assert 0 < halfway < 100


def test_a_run_that_goes_on_is_told_to_need_what_the_estimate_leaves_for_the_rest() -> None:
    expected = Estimate({"prior": 10.0, "tokens": 0.0, "masks": 10.0, "em": 40.0, "joint": 20.0}, 0, 0)
    resumed = Resumed("em", 30, 40)
    before = expected.seconds_until(resumed)
    assert before == 50.0
    assert expected.remaining_seconds(resumed, before) == 30.0


def test_the_estimate_of_memory_counts_trained_weights(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["conceptloom.learning.estimate"], "_peak_bytes", lambda _: 1300)
    overrides = {**SHORT, "train": "full"}
    job = prepare_job(
        ["yard.png"], {"cat": "cat"}, Path("set"), base_model=tiny_backbone, overrides=overrides
    )
    numbers = sum(
        tensor.numel()
        for tensor in weights_state(tiny_backbone, weight_names(tiny_backbone, "full")).values()
    )
    assert estimate(job.request, tiny_backbone).peak_bytes == 1300 + 16 * numbers


def test_a_run_that_trains_weights_says_what_disk_its_checkpoints_and_set_take(
    invoke: Callable[..., Result],
) -> None:
    Path("full.json").write_text(json.dumps({**SHORT, "train": "full", "joint_steps": 1, "em_steps": 1}))
    result = invoke("yard.png", "--concept", "cat=cat", "--out", "set", config="full.json")
    assert re.search(r"GB of memory, \d+\.\d GB of disk while it learns", result.output), result.output


def test_a_run_that_the_disk_has_no_room_for_is_refused(
    tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    prepare_job(["yard.png"], {"cat": "cat"}, Path("set"), base_model=tiny_backbone, overrides=SHORT)
    with pytest.raises(RunError, match=r"need \d+\.\d GB, the disk of .* has 0\.0 GB free"):
        prepare_job(
            ["yard.png"],
            {"cat": "cat"},
            Path("set"),
            base_model=tiny_backbone,
            overrides={**SHORT, "train": "full"},
        )


def test_a_run_killed_before_its_first_step_is_resumed_from_step_0(tiny_folder: Path) -> None:
    command = (["yard.png", "park.png"], {"cat": "cat", "mat": None}, Path("set"))
    prepare_job(
        *command, base_model=tiny_folder, overrides=SHORT
    )  # killed: nothing was drawn from its events
    assert [path.name for path in Path("set.learning/checkpoints").iterdir()] == ["00000000"]
    job = prepare_job(*command, base_model=tiny_folder, overrides=SHORT, resume=True)
    assert [event for event in job.events() if isinstance(event, Finished)]
    assert not Path("set.learning").exists()


def test_step_0_of_another_command_is_refused_by_field(tiny_folder: Path) -> None:
    prepare_job(["yard.png"], {"cat": "cat"}, Path("set"), base_model=tiny_folder, overrides=SHORT)
    with pytest.raises(RunError, match=r"config\.seed was 0, is 1"):
        prepare_job(
            ["yard.png"],
            {"cat": "cat"},
            Path("set"),
            base_model=tiny_folder,
            overrides={**SHORT, "seed": 1},
            resume=True,
        )


def test_step_0_alone_is_in_nobodys_way(tiny_folder: Path) -> None:
    for seed in (0, 1):
        job = prepare_job(
            ["yard.png"],
            {"cat": "cat"},
            Path("set"),
            base_model=tiny_folder,
            overrides={**SHORT, "seed": seed},
        )
    assert job.request.config.seed == 1


def test_a_base_model_that_does_not_load_leaves_no_step_0(tmp_path: Path) -> None:
    with pytest.raises(ConceptloomError):
        prepare_job(
            ["yard.png"], {"cat": "cat"}, Path("new/set"), base_model=tmp_path / "none", overrides=SHORT
        )
    assert not Path("new").exists()


def test_resuming_where_nothing_is_makes_no_folder() -> None:
    with pytest.raises(RunError, match="nothing to resume"):
        prepare_job(["yard.png"], {"cat": "cat"}, Path("new/set"), overrides=SHORT, resume=True)
    assert not Path("new").exists()


def test_damaged_checkpoints_of_an_earlier_run_are_told_when_another_begins(
    invoke: Callable[..., Result],
) -> None:
    damaged = Path("set.learning/checkpoints/00000005")
    damaged.mkdir(parents=True)
    (damaged / "manifest.json").write_text("{}")
    result = invoke(*TWO, "--out", "set")
    assert result.exit_code == 0, result.output
    told = " ".join(result.output.split())
    assert "note: checkpoint 00000005 is damaged" in told
    assert "it lies in set.learning until this run is done" in told
