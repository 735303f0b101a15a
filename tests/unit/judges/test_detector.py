"""Decoding, and what a judge says of pictures, on planted maps: no trained weights are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import conceptloom
from conceptloom.errors import DataError
from conceptloom.judges.detector import (
    GREY,
    Detections,
    Judge,
    box_iou,
    decode,
    load_judge,
    masked_crop,
)
from conceptloom.judges.networks import (
    JudgeNetwork,
    Maps,
    NetworkConfig,
    Thresholds,
    Vocabulary,
    build_network,
)

WORDS = Vocabulary(("cat/noto", "dog/noto", "cat/fluent"), ("grass", "red background"))
CONFIG = NetworkConfig(
    "residual", (16, 16, 16), (1, 1, 1), neck=16, points=3, hidden=24, embedding=8, side_px=64
)


class PlantedNetwork(JudgeNetwork):
    """Sees one dog/noto in every picture, at (16, 8, 40, 32) of 64 pixels, as intact as it is told."""

    intact_logit = 9.0

    def forward(self, images: Tensor) -> Maps:
        heat = torch.full((1, 16, 16), -9.0)
        heat[0, 5, 7] = 9.0  # the cell's middle is (30, 22)
        edges = torch.tensor([14.0, 14.0, 10.0, 10.0]).view(1, 4, 1, 1).expand(1, 4, 16, 16)
        return Maps(
            torch.zeros(1, 16, 16, 16),
            heat,
            edges,
            torch.tensor([[0.0, 2.0]]),
            torch.tensor([[1.0, 3.0, 5.0]]),
        )

    def identify(self, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        own = F.normalize(self.table.weight[1], dim=-1).expand(1, boxes.shape[1], -1)
        return own, torch.full(boxes.shape[:2], self.intact_logit)


def planted_judge(intact_logit: float = 9.0) -> Judge:
    network = PlantedNetwork(CONFIG, WORDS)
    # Orthogonal rows: the scores of the other two drawings are alike.
    network.table.weight.data = torch.eye(8)[:3]
    network.intact_logit = intact_logit
    return Judge(network, Thresholds(object=0.3, known=0.5))


def picture(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def detections(scores: list[list[float]], unknown: list[bool]) -> Detections:
    count = len(scores)
    table = np.array(scores, np.float32).reshape(count, 3)
    ones = np.ones(count, np.float32)
    return Detections(
        WORDS.sprites,
        np.zeros((count, 4), np.float32),
        ones,
        table,
        ones,
        ones,
        np.array(unknown, bool),
        table,
    )


def test_a_planted_heat_map_gives_the_planted_box() -> None:
    heat = torch.zeros(16, 16)
    heat[3, 5] = 0.9
    edges = torch.zeros(4, 16, 16)
    edges[:, 3, 5] = torch.tensor([10.0, 6.0, 4.0, 8.0])
    boxes, found = decode(heat, edges, 0.3)
    assert boxes.tolist() == [[12.0, 8.0, 26.0, 22.0]]  # the cell's middle is (22, 14)
    assert found.tolist() == pytest.approx([0.9])


def test_only_the_hottest_of_neighbouring_cells_is_a_drawing() -> None:
    heat = torch.zeros(16, 16)
    heat[3, 4:7] = torch.tensor([0.7, 0.9, 0.8])
    _, found = decode(heat, torch.full((4, 16, 16), 4.0), 0.3)
    assert found.tolist() == pytest.approx([0.9])


def test_cold_cells_are_no_drawings() -> None:
    boxes, found = decode(torch.full((16, 16), 0.29), torch.ones(4, 16, 16), 0.3)
    assert boxes.shape == (0, 4)
    assert found.shape == (0,)


def test_of_two_boxes_in_the_same_place_the_hotter_stays() -> None:
    heat = torch.zeros(16, 16)
    heat[8, 6], heat[8, 9], heat[8, 14] = 0.6, 0.8, 0.5
    edges = torch.full((4, 16, 16), 30.0)
    edges[:, 8, 14] = 3.0
    _, found = decode(heat, edges, 0.3)
    assert found.tolist() == pytest.approx([0.8, 0.5])


def test_iou_is_shared_over_joint_area() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2]])
    others = torch.tensor([[1.0, 0, 3, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
    assert box_iou(boxes, others).tolist() == [pytest.approx([1 / 3, 1, 0])]


def test_a_detection_carries_name_place_and_confidence() -> None:
    found = planted_judge().detect(picture())
    assert found.names() == ("dog/noto",)
    assert found.boxes.tolist() == [[16.0, 8.0, 40.0, 32.0]]
    # Logits 20, 0, 0 and nearly certainly intact.
    best = 1 / (1 + 2 * np.exp(-20.0))
    assert found.confidence[0] == pytest.approx(best / (1 + np.exp(-9.0)), rel=1e-5)
    assert not found.unknown[0]


def test_a_drawing_that_is_not_intact_is_unknown() -> None:
    found = planted_judge(intact_logit=-1.0).detect(picture())
    assert found.unknown.tolist() == [True]
    assert found.names() == (None,)


def test_boxes_are_in_pixels_of_the_picture_given() -> None:
    found = planted_judge().detect(picture(256))
    assert found.boxes.tolist() == [[64.0, 32.0, 160.0, 128.0]]


def test_boxes_end_at_the_pictures_border() -> None:
    wide = picture()[:24]  # 64 x 24: the judge sees it above grey
    assert planted_judge().detect(wide).boxes.tolist() == [[16.0, 8.0, 40.0, 24.0]]


def test_a_picture_without_drawings_has_no_detections() -> None:
    network = build_network(CONFIG, WORDS, 0)
    network.heat.bias.data.fill_(-50)
    found = Judge(network).detect(picture())
    assert len(found) == 0
    assert found.scores.shape == (0, 3)
    assert found.embeddings.shape == (0, 8)
    assert found.names() == ()


def test_a_nouns_probability_is_the_sum_over_its_drawings() -> None:
    found = detections([[0.5, 0.2, 0.3]], [False])
    assert {noun: float(p[0]) for noun, p in found.by_noun().items()} == {
        "cat": pytest.approx(0.8),
        "dog": pytest.approx(0.2),
    }


def test_a_styles_probability_is_the_sum_over_its_drawings() -> None:
    found = detections([[0.5, 0.2, 0.3]], [False])
    assert {family: float(p[0]) for family, p in found.by_family().items()} == {
        "fluent": pytest.approx(0.3),
        "noto": pytest.approx(0.7),
    }


def test_background_probabilities_are_those_of_the_words() -> None:
    told = planted_judge().background(picture())
    assert told["red background"] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert sum(told.values()) == pytest.approx(1)


def test_what_lies_outside_the_mask_does_not_change_a_description() -> None:
    judge, pixels = Judge(build_network(CONFIG, WORDS, 0)), picture()
    mask = np.zeros((64, 64), bool)
    mask[10:40, 20:45] = True
    mask[10:15, 20:25] = False
    changed = np.where(mask[..., None], pixels, 255 - pixels)
    assert np.array_equal(judge.describe(pixels, mask), judge.describe(changed, mask))


def test_a_description_does_not_depend_on_where_the_drawing_is() -> None:
    judge, pixels = Judge(build_network(CONFIG, WORDS, 0)), picture()
    mask = np.zeros((64, 64), bool)
    mask[10:40, 20:45] = True
    moved = judge.describe(np.roll(pixels, (7, -9), (0, 1)), np.roll(mask, (7, -9), (0, 1)))
    assert np.array_equal(judge.describe(pixels, mask), moved)


def test_a_crop_is_described_like_the_same_region_under_a_mask() -> None:
    judge, pixels = Judge(build_network(CONFIG, WORDS, 0)), picture()
    mask = np.zeros((64, 64), bool)
    mask[10:40, 20:45] = True
    assert np.array_equal(judge.describe(pixels, mask), judge.describe(pixels[10:40, 20:45]))


def test_a_masked_crop_is_grey_outside_the_mask() -> None:
    pixels, mask = picture(8), np.zeros((8, 8), bool)
    mask[2, 3] = mask[4, 5] = True
    crop = masked_crop(pixels, mask)
    assert crop.shape == (3, 3, 3)
    assert np.array_equal(crop[0, 0], pixels[2, 3])
    assert (crop[0, 1] == GREY).all()


@pytest.mark.parametrize(("shape", "why"), [((8, 8), "empty"), ((4, 8), "the mask is")])
def test_a_mask_that_describes_nothing_is_refused(shape: tuple[int, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        masked_crop(picture(8), np.zeros(shape, bool))


def test_a_judge_that_does_not_ship_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="reinstall or train"):
        load_judge("examiner", tmp_path / "examiner")


def test_nothing_that_makes_or_chooses_pictures_names_the_examiner() -> None:
    package = Path(conceptloom.__file__).parent
    makers = [
        path for part in ("backbone", "learning", "generation") for path in (package / part).rglob("*.py")
    ]
    assert len(makers) > 20
    assert [path.name for path in makers if "examiner" in path.read_text(encoding="utf-8")] == []


def test_an_overview_is_what_the_network_pools_of_the_whole_picture() -> None:
    assert planted_judge().overview(np.zeros((64, 64, 3), np.uint8)).tolist() == [1.0, 3.0, 5.0]
