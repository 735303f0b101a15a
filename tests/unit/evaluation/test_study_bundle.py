"""A study's folder and its key: what is in them, that they can be made again, and that nothing is left half done."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conceptloom.errors import ConfigError, PictureError, PromptError, RunError
from conceptloom.evaluation import study_bundle
from conceptloom.evaluation.protocols import CHECK_SHARE, RANDOM, Pair
from conceptloom.evaluation.study_bundle import (
    TIMESTAMP,
    Comparison,
    Reference,
    degrade,
    export_study_bundle,
    plain_prompt,
)
from conceptloom.evaluation.study_key import StudyKey, read_key

PROTOCOL = replace(RANDOM, people=5, pairs_per_person=12, people_per_pair=4)
METHODS = {"ours": "paper", "baseline": "fixed"}
OURS, BASELINE = 200, 40
"""Brightness that tells the methods' images apart in these tests."""


def image(brightness: int, number: int, side: int = 24) -> np.ndarray:
    noise = np.random.default_rng(number).integers(-30, 31, (side, side, 3))
    return (brightness + noise).astype(np.uint8)


def comparison(scene: int, prompt: int, **changes: Any) -> Comparison:
    number = 10 * scene + prompt
    given = {
        "pair": Pair(f"scene-{scene}", "cat", f"a photo of a <cat> on the <shore>, number {prompt}", 0, 0),
        "ours": image(OURS, number),
        "baseline": image(BASELINE, number),
        "references": (
            Reference("shore", "background", image(120, 1000 + scene)),
            Reference("cat", "subject", image(120, 2000 + scene)),
        ),
    }
    return Comparison(**{**given, **changes})


COMPARISONS = [comparison(scene, prompt) for scene in range(4) for prompt in range(5)]


def export(at: Path, seed: int = 7, comparisons: list[Comparison] = COMPARISONS) -> StudyKey:
    return export_study_bundle(
        comparisons, PROTOCOL, at / "study", at / "key.json", methods=METHODS, seed=seed
    )


def study_of(at: Path) -> dict[str, Any]:
    return json.loads((at / "study" / "study.json").read_text(encoding="utf-8"))


def trials_of(at: Path) -> dict[str, dict[str, Any]]:
    return {trial["id"]: trial for person in study_of(at)["people"] for trial in person["trials"]}


def pixels_of(at: Path, name: str) -> np.ndarray:
    with Image.open(at / "study" / "images" / f"{name}.png") as opened:
        return np.asarray(opened)


def bytes_of(at: Path) -> dict[str, bytes]:
    return {str(path.relative_to(at)): path.read_bytes() for path in at.rglob("*") if path.is_file()}


# The key ----------------------------------------------------------------------------------------------------------


def test_the_key_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert export(tmp_path) == read_key(tmp_path / "key.json")


def test_the_key_tells_whose_image_stands_where(tmp_path: Path) -> None:
    key, told = export(tmp_path), {"ours": OURS, "baseline": BASELINE}
    for name, trial in trials_of(tmp_path).items():
        for side in ("left", "right"):
            method = getattr(key.trials[name], side)
            assert pixels_of(tmp_path, trial[side]).mean() == pytest.approx(told[method], abs=5)
            assert key.images[trial[side]].method == method


def test_somebody_who_always_likes_ours_better_is_counted_so(tmp_path: Path) -> None:
    key = export(tmp_path)
    votes = Counter()
    for name, trial in trials_of(tmp_path).items():
        if key.trials[name].right_answer is None:
            brightness = {side: pixels_of(tmp_path, trial[side]).mean() for side in ("left", "right")}
            votes[key.vote(name, max(brightness, key=brightness.get))] += 1
    assert votes == {"ours": 5 * (12 + 1)}  # five people, twelve pairs and a repeat


def test_neutral_is_for_nobody_and_a_check_is_no_vote(tmp_path: Path) -> None:
    key = export(tmp_path)
    comparisons = [name for name, trial in key.trials.items() if trial.kind == "comparison"]
    checks = [name for name, trial in key.trials.items() if trial.right_answer]
    assert key.vote(comparisons[0], "neutral") == "neutral"
    with pytest.raises(ValueError, match="attention check"):
        key.vote(checks[0], "left")


def test_the_key_names_the_study_it_belongs_to_and_who_is_who(tmp_path: Path) -> None:
    key = export(tmp_path)
    assert key.study_sha256 == hashlib.sha256((tmp_path / "study" / "study.json").read_bytes()).hexdigest()
    assert key.methods == METHODS
    assert key.pairs == {"given": 20, "shown": 15}
    assert key.protocol["people"] == 5


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"format_version": 2}'])
def test_a_file_that_is_no_key_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key.json").write_bytes(content)
    with pytest.raises(RunError, match="is no key of a study") as raised:
        read_key(tmp_path / "key.json")
    assert "\n" not in str(raised.value)


# The folder -------------------------------------------------------------------------------------------------------


def test_every_person_has_trials_with_two_images_references_and_plain_words(tmp_path: Path) -> None:
    key = export(tmp_path)
    study = study_of(tmp_path)
    assert [len(person["trials"]) for person in study["people"]] == [12 + 3] * 5
    for name, trial in trials_of(tmp_path).items():
        number = key.trials[name].prompt[-1]
        assert trial["prompt"] == (
            f"a photo of the object in reference 1 on the background in reference 2, number {number}"
        )
        scene = int(key.trials[name].scene[-1])
        assert np.array_equal(pixels_of(tmp_path, trial["references"][0]), image(120, 2000 + scene))
        assert np.array_equal(pixels_of(tmp_path, trial["references"][1]), image(120, 1000 + scene))


def test_pixels_come_through_unchanged(tmp_path: Path) -> None:
    key = export(tmp_path)
    for name, trial in trials_of(tmp_path).items():
        asked = key.trials[name]
        if asked.kind == "comparison":
            number = 10 * int(asked.scene[-1]) + int(asked.prompt[-1])
            ours = trial["left" if asked.left == "ours" else "right"]
            assert np.array_equal(pixels_of(tmp_path, ours), image(OURS, number))


def test_sides_are_balanced_within_one_for_everybody(tmp_path: Path) -> None:
    key = export(tmp_path)
    lead: Counter[str] = Counter()
    for trial in key.trials.values():
        if trial.kind == "comparison":
            lead[trial.person] += 1 if trial.left == "ours" else -1
    assert len({trial.person for trial in key.trials.values()}) == 5
    assert all(abs(value) <= 1 for value in lead.values())
    assert abs(sum(lead.values())) <= 1


def test_checks_are_there_at_the_declared_share(tmp_path: Path) -> None:
    key = export(tmp_path)
    for person in study_of(tmp_path)["people"]:
        kinds = Counter(key.trials[trial["id"]].kind for trial in person["trials"])
        assert kinds["identical"] == kinds["degraded"] == kinds["repeat"] >= 1
        assert 1 - kinds["comparison"] / kinds.total() >= CHECK_SHARE


def test_the_right_answer_to_a_check_is_right(tmp_path: Path) -> None:
    key = export(tmp_path)
    trials, seen = trials_of(tmp_path), Counter()
    for name, asked in key.trials.items():
        left, right = (pixels_of(tmp_path, trials[name][side]) for side in ("left", "right"))
        if asked.kind == "identical":
            assert asked.right_answer == "neutral"
            assert np.array_equal(left, right)
        elif asked.kind == "degraded":
            intact, spoiled = (left, right) if asked.right_answer == "left" else (right, left)
            assert np.array_equal(degrade(intact), spoiled)
            assert not np.array_equal(intact, spoiled)
        else:
            assert asked.right_answer is None
        seen[asked.kind] += 1
    assert min(seen[kind] for kind in ("identical", "degraded", "repeat")) == 5


def test_a_repeat_points_at_the_same_persons_comparison_with_sides_exchanged(tmp_path: Path) -> None:
    key, trials = export(tmp_path), trials_of(tmp_path)
    repeats = {name: asked for name, asked in key.trials.items() if asked.kind == "repeat"}
    for name, asked in repeats.items():
        first = key.trials[asked.repeats]
        assert (first.kind, first.person, first.left) == ("comparison", asked.person, asked.right)
        shown, earlier = trials[name], trials[asked.repeats]
        assert np.array_equal(pixels_of(tmp_path, shown["left"]), pixels_of(tmp_path, earlier["right"]))
        assert shown["left"] != earlier["right"]
    assert len(repeats) == 5


def test_no_two_trials_of_a_person_share_an_image_file(tmp_path: Path) -> None:
    export(tmp_path)
    for person in study_of(tmp_path)["people"]:
        names = [trial[side] for trial in person["trials"] for side in ("left", "right")]
        assert len(set(names)) == len(names)


def test_the_same_seed_gives_the_same_bytes_in_whatever_order_comparisons_come(tmp_path: Path) -> None:
    export(tmp_path / "a")
    export(tmp_path / "b", comparisons=COMPARISONS[::-1])
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_another_seed_gives_other_ids_throughout(tmp_path: Path) -> None:
    assert not set(export(tmp_path / "a").images) & set(export(tmp_path / "b", seed=8).images)


def test_ids_do_not_follow_the_pictures(tmp_path: Path) -> None:
    """Exchanging the methods' pictures leaves every name as it was."""
    exchanged = [replace(one, ours=one.baseline, baseline=one.ours) for one in COMPARISONS]
    assert export(tmp_path / "a") == export(tmp_path / "b", comparisons=exchanged)


def test_everything_in_the_folder_has_one_modification_time(tmp_path: Path) -> None:
    export(tmp_path)
    paths = [tmp_path / "study", *(tmp_path / "study").rglob("*")]
    assert {path.stat().st_mtime for path in paths} == {TIMESTAMP}


def test_a_flat_image_makes_no_smaller_file_than_a_noisy_one(tmp_path: Path) -> None:
    flat = [replace(one, baseline=np.full_like(one.baseline, 40)) for one in COMPARISONS]
    key = export(tmp_path, comparisons=flat)
    sizes = {(tmp_path / "study" / "images" / f"{name}.png").stat().st_size for name in key.images}
    assert len(sizes) == 1


# Refusals, and nothing half done ----------------------------------------------------------------------------------


def test_a_key_inside_the_folder_is_refused(tmp_path: Path) -> None:
    for inside in ("study/key.json", "study/deep/key.json", "other/../study/key.json"):
        with pytest.raises(RunError, match="would lie in the study's folder"):
            export_study_bundle(
                COMPARISONS, PROTOCOL, tmp_path / "study", tmp_path / inside, methods=METHODS, seed=0
            )
    assert list(tmp_path.iterdir()) == []


def test_neither_a_study_nor_a_key_is_ever_replaced(tmp_path: Path) -> None:
    export(tmp_path)
    before = bytes_of(tmp_path)
    with pytest.raises(RunError, match="another study's key"):
        export(tmp_path, seed=8)
    (tmp_path / "key.json").rename(tmp_path / "kept.json")
    with pytest.raises(RunError, match="is not empty"):
        export(tmp_path, seed=8)
    assert bytes_of(tmp_path / "study") == {
        name.removeprefix("study/"): data for name, data in before.items() if name.startswith("study/")
    }


def test_a_disk_that_fills_up_leaves_neither_folder_nor_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, left = study_bundle._png_bytes, [10]

    def full(pixels: np.ndarray) -> bytes:
        left[0] -= 1
        if not left[0]:
            raise OSError(28, "No space left on device")
        return encode(pixels)

    monkeypatch.setattr(study_bundle, "_png_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        export(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_would_leak_is_refused_in_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = study_bundle._png_bytes
    monkeypatch.setattr(study_bundle, "_png_bytes", lambda pixels: encode(pixels) + b"made by paper")
    with pytest.raises(
        RunError, match=r"tell whose an image is \(images/\w+\.png: .*, and \d+ more\)"
    ) as caught:
        export(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_that_says_the_name_of_a_method_is_no_leak(tmp_path: Path) -> None:
    pair = replace(COMPARISONS[0].pair, prompt="a <cat> made of paper on the <shore>")
    export(tmp_path, comparisons=[replace(COMPARISONS[0], pair=pair), *COMPARISONS[1:]])
    assert any("made of paper" in trial["prompt"] for trial in trials_of(tmp_path).values())


def test_images_of_two_sizes_are_refused() -> None:
    with pytest.raises(PictureError, match="24 x 24 and 32 x 32 px"):
        comparison(0, 0, baseline=image(BASELINE, 0, side=32))


def test_a_pair_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give each pair once"):
        export(tmp_path, comparisons=[*COMPARISONS, COMPARISONS[0]])


def test_a_concept_without_a_reference_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="names <cat>, which has no reference"):
        export(tmp_path, comparisons=[replace(COMPARISONS[0], references=())])
    assert list(tmp_path.iterdir()) == []


# Plain words ------------------------------------------------------------------------------------------------------

KINDS = {"cat": "subject", "car": "subject", "shore": "background", "dots": "pattern"}


@pytest.mark.parametrize(
    ("prompt", "plain"),
    [
        ("a <cat>", "the object in reference 1"),
        ("a photo of <cat>", "a photo of the object in reference 1"),
        (
            "a <cat> riding a <car> on the <shore>",
            "the object in reference 1 riding the object in reference 2 on the background in reference 3",
        ),
        ("a <car> and a <cat>", "the object in reference 1 and the object in reference 2"),
        ("a <cat> facing another <cat>", "the object in reference 1 facing the object in reference 1"),
        ("a red <car> behind my < CAT >", "a red object in reference 1 behind the object in reference 2"),
        ("a small sleeping <cat>", "a small sleeping object in reference 1"),
        ("a small red <cat>", "a small red object in reference 1"),
        ("a man holding <cat>", "a man holding the object in reference 1"),
        ("An <cat>, in front of <dots>", "the object in reference 1, in front of the pattern in reference 2"),
        ("a <cat>'s hat", "the object in reference 1's hat"),
    ],
)
def test_placeholders_become_plain_words(prompt: str, plain: str) -> None:
    assert plain_prompt(prompt, KINDS) == plain


def test_a_mistyped_placeholder_is_refused() -> None:
    with pytest.raises(PromptError):
        plain_prompt("a <my cat>", KINDS)


def test_a_degraded_image_keeps_its_size_and_mean_and_loses_its_detail() -> None:
    pixels = image(128, 0, side=48)
    spoiled = degrade(pixels)
    assert spoiled.shape == pixels.shape
    assert spoiled.mean() == pytest.approx(pixels.mean(), abs=1)
    assert spoiled.std() < 0.35 * pixels.std()  # means of 4 x 4 independent values
