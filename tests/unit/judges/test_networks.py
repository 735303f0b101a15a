"""The judges' networks: maps, reading inside boxes, naming, and what lies on disk."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from conceptloom.errors import DataError
from conceptloom.judges.networks import (
    DESCRIPTION,
    WEIGHTS,
    Architecture,
    JudgeNetwork,
    NetworkConfig,
    Thresholds,
    Vocabulary,
    build_network,
    load_network,
    save_network,
)

WORDS = Vocabulary(("cat/noto", "dog/noto", "cat/fluent"), ("grass", "red background"))


def tiny(architecture: Architecture = "residual", seed: int = 0) -> JudgeNetwork:
    config = NetworkConfig(
        architecture, (16, 16, 16), (1, 1, 1), neck=16, points=3, hidden=24, embedding=8, side_px=32
    )
    return build_network(config, WORDS, seed)


@pytest.mark.parametrize("architecture", ["residual", "separable"])
def test_maps_have_a_cell_for_every_four_pixels(architecture: Architecture) -> None:
    maps = tiny(architecture)(torch.zeros(2, 3, 32, 32))
    assert maps.heat.shape == (2, 8, 8)
    assert maps.edges.shape == (2, 4, 8, 8)
    assert maps.background.shape == (2, 2)


def test_weights_depend_on_the_seed_alone() -> None:
    first, again, other = tiny().state_dict(), tiny().state_dict(), tiny(seed=1).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["table.weight"], other["table.weight"])


def test_a_planted_embedding_names_its_drawing() -> None:
    network = tiny()
    planted = F.normalize(network.table.weight, dim=-1)
    assert network.names(planted).argmax(-1).tolist() == [0, 1, 2]
    assert torch.allclose(network.names(planted).diagonal(), torch.tensor(20.0))


def test_embeddings_are_unit_vectors_one_a_box() -> None:
    boxes = torch.tensor([[[2.0, 3, 20, 30], [8, 8, 9, 9]]])
    embeddings, intact = tiny().identify(torch.randn(1, 16, 8, 8), boxes)
    assert embeddings.norm(dim=-1).tolist() == [pytest.approx([1.0, 1.0], abs=1e-5)]
    assert intact.shape == (1, 2)


def test_what_lies_outside_a_box_does_not_change_its_embedding() -> None:
    network, features = tiny(), torch.randn(1, 16, 8, 8)
    box = torch.tensor([[[8.0, 8, 20, 20]]])  # cells 2 to 4; points may read one cell further
    before, _ = network.identify(features, box)
    features[..., 6:] += 5
    features[..., :1, :] += 5
    assert torch.equal(network.identify(features, box)[0], before)
    features[..., 3, 3] += 5
    assert not torch.allclose(network.identify(features, box)[0], before)


def test_a_drawing_twice_as_large_is_read_at_the_same_points() -> None:
    network = tiny()
    # Bilinear enlargement of a ramp is exact away from the border.
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 16, 8, 8)
    wide = F.interpolate(ramp, scale_factor=2.0, mode="bilinear", align_corners=False)
    one, _ = network.identify(ramp, torch.tensor([[[8.0, 8, 20, 20]]]))
    two, _ = network.identify(wide, torch.tensor([[[16.0, 16, 40, 40]]]))
    assert torch.allclose(one, two, atol=1e-5)


def test_a_saved_judge_is_read_back_in_half_precision(tmp_path: Path) -> None:
    network = tiny("separable")
    save_network(tmp_path / "judge", network, Thresholds(0.2, 0.7), {"clean": 0.5})
    loaded, thresholds = load_network(tmp_path / "judge")
    assert thresholds == Thresholds(0.2, 0.7)
    assert (loaded.config, loaded.vocabulary) == (network.config, network.vocabulary)
    ours = network.state_dict()
    assert all(torch.equal(value, ours[name].half().float()) for name, value in loaded.state_dict().items())


def test_a_judge_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks judge\.json"):
        load_network(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    save_network(tmp_path, tiny(), Thresholds(), {})
    told = json.loads((tmp_path / DESCRIPTION).read_text(encoding="utf-8"))
    told["network"]["embedding"] = 9
    (tmp_path / DESCRIPTION).write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(DataError, match="damaged or of another version"):
        load_network(tmp_path)


def test_cut_weights_are_refused(tmp_path: Path) -> None:
    save_network(tmp_path, tiny(), Thresholds(), {})
    data = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="damaged"):
        load_network(tmp_path)


def test_a_later_format_is_named_in_the_refusal(tmp_path: Path) -> None:
    save_network(tmp_path, tiny(), Thresholds(), {})
    told = json.loads((tmp_path / DESCRIPTION).read_text(encoding="utf-8"))
    (tmp_path / DESCRIPTION).write_text(json.dumps(told | {"format": 99}), encoding="utf-8")
    with pytest.raises(DataError, match="format 99"):
        load_network(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"network": {"widths": "abc"}},
        {"network": {"widths": []}},
        {"network": {"depths": [1, 1, 10**9]}},
        {"network": {"depths": None}},
        {"network": {"neck": 10**5}},
        {"network": {"points": 10**6}},
        {"network": {"side_px": 10**6}},
        {"network": {"side_px": 33}},
        {"network": {"side_px": "32"}},
        {"vocabulary": {"sprites": ["cat", "dog", "car"]}},
        {"vocabulary": {"sprites": [1, 2, 3]}},
        {"vocabulary": {"backgrounds": [None, {}]}},
        {"thresholds": {"object": 1e999}},
        {"thresholds": {"object": 10**400}},
    ],
)
def test_a_description_of_what_the_weights_are_not_is_refused_at_once(
    changes: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    save_network(tmp_path, tiny(), Thresholds(), {})
    told = json.loads((tmp_path / DESCRIPTION).read_text(encoding="utf-8"))
    for part, values in changes.items():
        told[part].update(values)
    (tmp_path / DESCRIPTION).write_text(json.dumps(told), encoding="utf-8")
    begun = time.perf_counter()
    with pytest.raises(DataError, match="damaged or of another version"):
        load_network(tmp_path)
    assert time.perf_counter() - begun < 5


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = tiny()
    with torch.no_grad():
        network.table.weight[0, 0] = torch.nan
    save_network(tmp_path, network, Thresholds(), {})
    with pytest.raises(DataError, match="damaged"):
        load_network(tmp_path)


def test_a_description_nested_too_deeply_to_read_is_refused(tmp_path: Path) -> None:
    save_network(tmp_path, tiny(), Thresholds(), {})
    (tmp_path / DESCRIPTION).write_text("[" * 100_000)
    with pytest.raises(DataError, match="damaged"):
        load_network(tmp_path)
