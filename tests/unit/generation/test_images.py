"""The loop from prompts and seeds to images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from conceptloom.backbone import Backbone, WeightsKind, encode_prompts, sample, tokenize
from conceptloom.concepts import ConceptSet
from conceptloom.errors import ConceptSetError, ConfigError, DeviceError, PromptError
from conceptloom.generation import GeneratedImage, SampleSettings, generate_images
from conceptloom.generation import images as module
from tiny_models import out_of_memory
from tiny_sets import PROMPT, tiny_set

SETTINGS = SampleSettings(guidance_scale=3.0, num_inference_steps=4, batch_size=8)


def batches_of(size: int) -> SampleSettings:
    return replace(SETTINGS, batch_size=size)


def draw(
    backbone: Backbone, concept_set: ConceptSet, prompt: str = PROMPT, **options: Any
) -> list[GeneratedImage]:
    return list(generate_images(backbone, concept_set, [prompt], **{"settings": SETTINGS, **options}))


def pixels(images: list[GeneratedImage]) -> np.ndarray:
    return np.stack([image.pixels for image in images]).astype(int)


def weights_of(backbone: Backbone) -> dict[str, torch.Tensor]:
    return {
        f"{part}.{name}": tensor.clone()
        for part, model in (("unet", backbone.unet), ("text_encoder", backbone.text_encoder))
        for name, tensor in model.state_dict().items()
    }


def assert_unchanged(backbone: Backbone, before: dict[str, torch.Tensor]) -> None:
    after = weights_of(backbone)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.fixture(scope="module")
def concepts(tiny_backbone: Backbone) -> ConceptSet:
    return tiny_set(tiny_backbone)


@pytest.mark.parametrize("size", [1, 3])
def test_an_image_is_the_same_at_any_batch_size(
    tiny_backbone: Backbone, concepts: ConceptSet, size: int
) -> None:
    together = pixels(draw(tiny_backbone, concepts, num=8))
    in_parts = pixels(draw(tiny_backbone, concepts, num=8, settings=batches_of(size)))
    assert np.abs(in_parts - together).max() <= 2
    assert min(np.abs(one - other).max() for one, other in combinations(together, 2)) > 20


def test_an_image_is_the_same_whatever_number_is_asked_for(
    tiny_backbone: Backbone, concepts: ConceptSet
) -> None:
    few, many = (pixels(draw(tiny_backbone, concepts, num=num)) for num in (2, 5))
    assert np.abs(many[:2] - few).max() <= 2


def test_an_image_is_the_same_beside_other_prompts(tiny_backbone: Backbone, concepts: ConceptSet) -> None:
    alone = pixels(draw(tiny_backbone, concepts, "<car>", num=2))
    among = list(generate_images(tiny_backbone, concepts, [PROMPT, "<car>"], num=2, settings=batches_of(3)))
    assert [(image.prompt, image.index) for image in among] == [
        (PROMPT, 0),
        (PROMPT, 1),
        ("<car>", 0),
        ("<car>", 1),
    ]
    assert np.abs(pixels(among[2:]) - alone).max() <= 2


def test_image_i_of_seed_s_starts_from_the_noise_of_s_generate_i(
    tiny_backbone: Backbone, concepts: ConceptSet
) -> None:
    drawn = pixels(draw(tiny_backbone, concepts, num=2, seed=7))[1]
    with torch.no_grad():
        rows, placeholders = concepts.rows(), concepts.placeholders
        latents = sample(
            tiny_backbone,
            encode_prompts(tiny_backbone, [tokenize(tiny_backbone, PROMPT, placeholders)], rows),
            encode_prompts(tiny_backbone, [tokenize(tiny_backbone, "", placeholders)], rows),
            [(7, "generate", 1)],
            guidance_scale=3.0,
            num_inference_steps=4,
        )
    assert np.abs(tiny_backbone.decode(latents)[0].astype(int) - drawn).max() <= 2


def test_another_seed_gives_other_images(tiny_backbone: Backbone, concepts: ConceptSet) -> None:
    first, second = (pixels(draw(tiny_backbone, concepts, seed=seed)) for seed in (0, 1))
    assert np.abs(first - second).max() > 20


def test_the_sets_rows_decide_what_is_drawn(tiny_backbone: Backbone, concepts: ConceptSet) -> None:
    other = tiny_set(tiny_backbone, seed=1)
    assert np.abs(pixels(draw(tiny_backbone, concepts)) - pixels(draw(tiny_backbone, other))).max() > 5


def test_a_negative_prompt_may_name_a_concept(tiny_backbone: Backbone, concepts: ConceptSet) -> None:
    plain = pixels(draw(tiny_backbone, concepts, "<car>"))
    away = pixels(
        draw(tiny_backbone, concepts, "<car>", settings=replace(SETTINGS, negative_prompt="a <cat>"))
    )
    assert np.abs(plain - away).max() > 5


@pytest.mark.parametrize("kind", ["lora", "kv", "full"])
def test_the_sets_weights_act_on_the_images_and_are_taken_back(
    fresh_backbone: Backbone, kind: WeightsKind
) -> None:
    before = weights_of(fresh_backbone)
    concept_set = tiny_set(fresh_backbone, kind)
    with_weights = pixels(draw(fresh_backbone, concept_set))
    without = pixels(draw(fresh_backbone, replace(concept_set, weights=None)))
    assert np.abs(with_weights - without).max() > 5
    assert_unchanged(fresh_backbone, before)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_between_two_images_the_base_model_is_as_it_was(fresh_backbone: Backbone, kind: WeightsKind) -> None:
    before = weights_of(fresh_backbone)
    concept_set = tiny_set(fresh_backbone, kind)
    for _ in generate_images(fresh_backbone, concept_set, [PROMPT], num=2, settings=batches_of(1)):
        assert_unchanged(fresh_backbone, before)


def test_two_sets_drawn_in_turn_on_one_model_do_not_mix(fresh_backbone: Backbone) -> None:
    sets = [tiny_set(fresh_backbone, kind, seed) for kind, seed in (("lora", 0), ("full", 1))]
    alone = [pixels(draw(fresh_backbone, each, num=2, settings=batches_of(1))) for each in sets]
    streams = [
        generate_images(fresh_backbone, each, [PROMPT], num=2, settings=batches_of(1)) for each in sets
    ]
    in_turn = list(zip(*streams, strict=True))
    for which in (0, 1):
        assert np.array_equal(pixels([images[which] for images in in_turn]), alone[which])


def test_an_exception_from_on_step_stops_and_leaves_the_base_model_as_it_was(
    fresh_backbone: Backbone,
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    before = weights_of(fresh_backbone)
    with pytest.raises(KeyboardInterrupt):
        draw(fresh_backbone, tiny_set(fresh_backbone, "full"), on_step=stop)
    assert_unchanged(fresh_backbone, before)


def test_progress_counts_the_steps_of_all_images(tiny_backbone: Backbone, concepts: ConceptSet) -> None:
    reports: list[tuple[int, int]] = []
    draw(
        tiny_backbone,
        concepts,
        num=3,
        settings=batches_of(2),
        on_step=lambda done, total: reports.append((done, total)),
    )
    assert reports == [(done, 12) for done in (2, 4, 6, 8, 9, 10, 11, 12)]


def test_an_image_says_all_it_takes_to_draw_it_again(tiny_backbone: Backbone, concepts: ConceptSet) -> None:
    image = draw(tiny_backbone, concepts, num=2, seed=5)[1]
    told = json.loads(json.dumps(image.provenance))
    assert (
        (told["prompt"], told["seed"], told["index"])
        == (PROMPT, 5, 1)
        == (image.prompt, image.seed, image.index)
    )
    assert (told["guidance_scale"], told["num_inference_steps"], told["negative_prompt"]) == (3.0, 4, "")
    assert told["base_model"]["fingerprint"] == tiny_backbone.fingerprint
    assert list(told["concepts"]) == ["<cat>", "<car>", "<beach>"]
    assert (told["device"], told["dtype"], told["weights"]) == ("cpu", "float32", None)
    assert "torch" in told["software"]


def test_provenance_does_not_tell_the_batch_size(tiny_backbone: Backbone, concepts: ConceptSet) -> None:
    one, other = (draw(tiny_backbone, concepts, settings=batches_of(size))[0].provenance for size in (1, 2))
    assert one == other


def test_provenance_tells_weights_apart_that_have_changed_places(fresh_backbone: Backbone) -> None:
    concept_set = tiny_set(fresh_backbone, "kv")
    assert concept_set.weights is not None
    tensors = dict(concept_set.weights.tensors)
    key = next(name for name in tensors if name.endswith("to_k.weight"))
    value = key.replace("to_k", "to_v")
    tensors[key], tensors[value] = tensors[value], tensors[key]
    swapped = replace(concept_set, weights=replace(concept_set.weights, tensors=tensors))
    one, other = (draw(fresh_backbone, each)[0].provenance["weights"] for each in (concept_set, swapped))
    assert one["kind"] == other["kind"]
    assert one["sha256"] != other["sha256"]


def test_provenance_tells_two_sets_apart_by_rows_and_by_weights(fresh_backbone: Backbone) -> None:
    def hashes(kind: WeightsKind | None, seed: int) -> tuple[str, str | None]:
        told = draw(fresh_backbone, tiny_set(fresh_backbone, kind, seed))[0].provenance
        return told["concepts"]["<cat>"]["sha256"], told["weights"] and told["weights"]["sha256"]

    rows, weights = hashes("lora", 0)
    assert hashes("lora", 0) == (rows, weights)
    other_rows, other_weights = hashes("lora", 1)
    assert rows != other_rows
    assert weights != other_weights
    assert hashes(None, 0) == (rows, None)


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        ([PROMPT, "a cat"], {}, PromptError, "names no learned concept"),
        (["a <dog>"], {}, PromptError, "<dog>"),
        ([], {}, PromptError, "no prompt is given"),
        (["word " * 40 + "<car>"], {}, PromptError, "<car> stands beyond"),
        (["<car>"], {"settings": replace(SETTINGS, negative_prompt="<dog>")}, PromptError, "<dog>"),
        (["<car>"], {"settings": replace(SETTINGS, negative_prompt="<my dog>")}, PromptError, "has a '<'"),
        (["<car>"], {"settings": replace(SETTINGS, negative_prompt="\udcff")}, PromptError, "no UTF-8"),
        (["<car> \udcff"], {}, PromptError, "no UTF-8"),
        (["<car>"], {"num": 0}, ConfigError, "number of images is 0"),
        (["<car>"], {"num": 10**9}, ConfigError, "choose 1 to 10000"),
        (["<car>"], {"seed": -1}, ConfigError, "seed is -1"),
        (["<car>"], {"settings": replace(SETTINGS, num_inference_steps=1001)}, ConfigError, "1001"),
    ],
)
def test_what_cannot_be_drawn_is_refused_at_the_call_in_one_line(
    tiny_backbone: Backbone,
    concepts: ConceptSet,
    prompts: list[str],
    options: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message) as caught:
        generate_images(tiny_backbone, concepts, prompts, **options)
    assert "\n" not in str(caught.value)


def test_a_set_of_another_base_model_is_refused(tiny_v_backbone: Backbone, concepts: ConceptSet) -> None:
    with pytest.raises(ConceptSetError, match="learned on"):
        generate_images(tiny_v_backbone, concepts, [PROMPT])


@pytest.fixture
def spoil_latents(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """Make the loop answer with latents in which one sample holds the given value."""

    def spoil(index: int, value: float) -> None:
        def spoiled(*args: Any, **kwargs: Any) -> torch.Tensor:
            latents = sample(*args, **kwargs)
            latents[index, 0, 0, 0] = value
            return latents

        monkeypatch.setattr(module, "sample", spoiled)

    return spoil


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_without_finite_values_is_reported_after_the_good_ones(
    tiny_backbone: Backbone,
    concepts: ConceptSet,
    spoil_latents: Callable[[int, float], None],
    monkeypatch: pytest.MonkeyPatch,
    value: float,
) -> None:
    spoil_latents(2, value)
    # What a cast makes of NaN differs between devices: not all of them give black.
    monkeypatch.setattr(
        tiny_backbone, "decode", lambda latents: np.full((len(latents), 64, 64, 3), 128, np.uint8)
    )
    images = generate_images(tiny_backbone, concepts, [PROMPT], num=4, settings=SETTINGS)
    assert [next(images).index, next(images).index] == [0, 1]
    with pytest.raises(DeviceError, match="image 2 of seed 0 has values that are not finite"):
        next(images)


def test_a_black_image_is_reported(
    tiny_backbone: Backbone, concepts: ConceptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tiny_backbone, "decode", lambda latents: np.zeros((len(latents), 64, 64, 3), np.uint8)
    )
    with pytest.raises(DeviceError, match="image 0 of seed 0 is black all over: try a lower guidance scale"):
        draw(tiny_backbone, concepts)


def test_whoever_measures_keeps_an_image_without_finite_values_as_a_black_one(
    tiny_backbone: Backbone,
    concepts: ConceptSet,
    spoil_latents: Callable[[int, float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoil_latents(1, float("nan"))
    monkeypatch.setattr(
        tiny_backbone, "decode", lambda latents: np.full((len(latents), 64, 64, 3), 128, np.uint8)
    )
    images = generate_images(tiny_backbone, concepts, [PROMPT], num=3, settings=SETTINGS, keep_blank=True)
    assert [int(image.pixels.max()) for image in images] == [128, 0, 128]


@pytest.mark.parametrize("while_", ["sampling", "decoding"])
def test_running_out_of_memory_is_one_line_that_names_the_batch(
    while_: str, tiny_backbone: Backbone, concepts: ConceptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        *((module, "sample") if while_ == "sampling" else (tiny_backbone, "decode")), out_of_memory
    )
    with pytest.raises(DeviceError, match=r"^'cpu' ran out of memory at 2 images a batch: choose a smaller"):
        draw(tiny_backbone, concepts, num=2)
