"""The examples of the Python API, run one after another on a tiny base model."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conceptloom.generation import DEFAULTS

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = {
    "em_steps": 50,
    "joint_steps": 2,
    "batch_size": 1,
    "initial_timesteps": 2,
    "mask_update_every": 25,
    "e_step_timesteps": 1,
    "prior_images": 1,
    "sample_steps": 2,
    "preview_every": 0,
}


@pytest.fixture(scope="module", autouse=True)
def _in_two_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEFAULTS, "sd", replace(DEFAULTS["sd"], num_inference_steps=2, batch_size=4))
        yield


def main_of(example: str) -> Callable[..., None]:
    main: Callable[..., None] = runpy.run_path(str(EXAMPLES / f"{example}.py"))["main"]
    return main


@pytest.fixture(scope="module")
def learned(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first example leaves."""
    out = tmp_path_factory.mktemp("examples") / "example"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCEPTLOOM_CACHE", str(out.with_name("cache")))
        main_of("learn_and_generate")(out, base_model=tiny_folder, config=QUICK)
    return out


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {
        "learn_and_generate",
        "compare_guidance",
        "inspect_masks",
    }


def test_learn_and_generate_leaves_a_set_and_four_images_of_each_prompt(learned: Path) -> None:
    assert (learned / "set" / "concept_set.json").is_file()
    assert len(list((learned / "images").glob("a-frog-*-s1-*.png"))) == 8
    assert (learned / "images" / "contact-sheet.png").is_file()


def test_compare_guidance_draws_a_row_for_each_scale(
    learned: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("compare_guidance")(learned, base_model=tiny_folder)
    assert (
        len(re.findall(r"guidance [1248], image [0123]: mean brightness \d+", capsys.readouterr().out)) == 16
    )
    with Image.open(learned / "guidance.png") as sheet:
        assert sheet.height > sheet.width > 4 * 64


def test_inspect_masks_reports_the_masks_that_the_set_holds(
    learned: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main_of("inspect_masks")(learned)
    told = capsys.readouterr().out
    with Image.open(learned / "set" / "masks" / "frog-and-car" / "frog.png") as mask:
        share = (np.asarray(mask.convert("L")) > 127).mean()
    assert f"<frog> covers {share:.1%} of frog-and-car" in told
    assert "<frog> and <car> overlap" in told
    assert (learned / "masks.png").is_file()
