"""Configuration, presets and their errors."""

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import configuration_page
from conceptloom.backbone import family_of
from conceptloom.errors import ConfigError
from conceptloom.learning.config import CRFSettings, LearnConfig, read_config_file
from conceptloom.learning.presets import PRESETS, resolve_config
from conceptloom.masks import CRFConfig, MaskRules
from mutations import bytes_like, json_like, value_or_refusal


@pytest.mark.parametrize("family", PRESETS)
@pytest.mark.parametrize("method", ["gt", "fixed", "paper", "literal", "refined"])
def test_every_family_has_every_method(family: str, method: str) -> None:
    assert resolve_config(family, {"method": method}).method == method


def test_sd_numbers_are_the_papers_and_break_a_scenes() -> None:
    config = resolve_config("sd", {"method": "paper"})
    assert (config.method, config.em_steps, config.joint_steps, config.train) == ("paper", 400, 400, "full")
    assert (config.token_lr, config.joint_lr, config.lambda_attn, config.clip_norm) == (5e-4, 2e-6, 0.01, 1.0)
    assert (config.mask_update_every, config.e_step_timesteps, config.initial_timesteps) == (20, 10, 50)
    assert (config.layers, config.tau, config.mask_loss_norm, config.weights) == ("all", 0.4, "paper", "end")
    assert config.prior_weight == 1.0


def test_masks_are_refined_unless_a_method_is_named() -> None:
    assert resolve_config("sd").method == resolve_config("builtin", {"seed": 3}).method == "refined"


def test_builtin_joint_stage_is_half_as_long() -> None:
    config = resolve_config("builtin")
    assert (config.token_lr, config.batch_size, config.em_steps, config.joint_steps) == (1e-3, 4, 400, 200)


def test_literal_updates_masks_every_step_at_the_steps_own_timestep() -> None:
    config = resolve_config("builtin", {"method": "literal"})
    assert (config.mask_update_every, config.e_step_timesteps) == (1, "own")


@pytest.mark.parametrize("family", PRESETS)
def test_refined_averages_the_m_steps_own_maps(family: str) -> None:
    config = resolve_config(family)
    assert config.e_step_source == "running_average"
    assert config.running_average_weighting == "uniform"


@pytest.mark.parametrize("family", PRESETS)
def test_running_averages_forget_as_much_a_step_at_every_batch_size(family: str) -> None:
    config = resolve_config(family)
    assert config.running_average_decay**config.batch_size == pytest.approx(0.97**4)


@pytest.mark.parametrize("method", ["gt", "fixed"])
def test_masks_of_gt_and_fixed_are_never_updated(method: str) -> None:
    assert resolve_config("sd", {"method": method}).mask_update_every is None


def test_methods_share_rates_steps_and_batch() -> None:
    shared = ("em_steps", "joint_steps", "batch_size", "token_lr", "joint_lr", "lambda_attn", "train")
    for family in PRESETS:
        configs = [
            resolve_config(family, {"method": method})
            for method in ("gt", "fixed", "paper", "literal", "refined")
        ]
        assert len({tuple(getattr(config, key) for key in shared) for config in configs}) == 1


def test_the_joint_rate_follows_what_is_trained_unless_given() -> None:
    assert resolve_config("sd", {"train": "lora"}).joint_lr == 1e-4
    assert resolve_config("sd", {"train": "lora", "joint_lr": 3e-4}).joint_lr == 3e-4


def test_a_partial_crf_table_changes_only_its_keys() -> None:
    crf = resolve_config("sd", {"method": "paper", "crf": {"iterations": 3}}).crf
    assert crf == CRFSettings(iterations=3, scale=1.0)


def test_crf_settings_are_the_crfs_own_fields_and_defaults() -> None:
    # reference_side_px is part of the method, not a setting
    expected = {field.name: field.default for field in fields(CRFConfig) if field.name != "reference_side_px"}
    assert {name: info.default for name, info in CRFSettings.model_fields.items()} == expected
    assert CRFSettings(scale=1.5).crf_config() == CRFConfig(scale=1.5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tokn_lr": 1}, "'tokn_lr': Extra inputs are not permitted"),
        ({"crf": {"scale": -1}}, "'crf.scale': Input should be greater than or equal to 0.01 (got -1)"),
        ({"em_steps": -5}, "'em_steps'"),
        ({"em_steps": 10**9}, "'em_steps'"),
        ({"token_lr": float("nan")}, "'token_lr'"),
        ({"method": "refind"}, "'method': expected one of gt, fixed, paper, literal, refined (got 'refind')"),
        ({"train": "everything"}, "'train'"),
        ({"train": ["lora"]}, "'train'"),
        ({"e_step_timesteps": "some"}, "'e_step_timesteps'"),
        ({"e_step_timesteps": 0}, "'e_step_timesteps'"),
        ({"em_steps": True}, "'em_steps': Input should not be true or false (got True)"),
        ({"token_lr": True}, "'token_lr': Input should not be true or false (got True)"),
        ({"crf": {"iterations": True}}, "'crf.iterations': Input should not be true or false (got True)"),
        ({"mask_update_every": False}, "'mask_update_every'"),
        ({"em_steps": 5.5}, "'em_steps'"),
        ({"em_steps": "many"}, "'em_steps'"),
        ({"em_steps": 16**5000}, "'em_steps': Input should be less than or equal to 1000000"),
        ({"token_lr": float("inf")}, "'token_lr'"),
        ({"token_lr": "nan"}, "'token_lr'"),
        ({"token_lr": -1e-3}, "'token_lr'"),
        ({"timestep_range": [0, float("nan")]}, "'timestep_range'"),
        ({"timestep_range": [0, 1, 2]}, "'timestep_range'"),
        ({"validation_prompt": 5}, "'validation_prompt'"),
        ({"crf": None}, "'crf'"),
        ({"crf": [1]}, "'crf'"),
        ({"crf": {1: 2}}, "'crf.1'"),
        ({"crf": {"colour": 2}}, "'crf.colour': Extra inputs are not permitted (got 2)"),
        ({"crf": {"bilateral_srgb": 1e-300}}, "'crf.bilateral_srgb'"),
        ({"crf": {"scale": 1e300}}, "'crf.scale'"),
        ({"a\nb": 1}, "'a b': Extra inputs"),
        ({"method": "a\nb"}, "'method'"),
        ({"method": ["paper"]}, "'method'"),
        ({"method": "gt", "mask_update_every": 20}, "never updates its masks"),
    ],
)
def test_a_wrong_key_is_named_by_its_path_in_one_line(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve_config("sd", overrides)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_configuration_is_frozen_and_survives_its_own_dump() -> None:
    config = resolve_config("builtin")
    with pytest.raises(ValidationError):
        config.seed = 1  # type: ignore[misc]
    assert LearnConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("version", "family"),
    [("builtin-1", "builtin"), ("builtin-12", "builtin"), (None, "sd"), ("other", "sd")],
)
def test_only_our_own_versions_take_the_builtin_preset(version: str | None, family: str) -> None:
    assert family_of(version) == family


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"token_lr": 0.01, "crf": {"scale": 2.0}}'),
        ("c.toml", "token_lr = 0.01\n[crf]\nscale = 2.0"),
        ("c.yaml", "token_lr: 0.01\ncrf: {scale: 2.0}"),
    ],
)
def test_json_toml_and_yaml_files_say_the_same(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_config_file(tmp_path / name) == {"token_lr": 0.01, "crf": {"scale": 2.0}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", "{"),
        ("c.json", "[1]"),
        ("c.yaml", "!!python/object/apply:os.system ['true']"),
        ("c.ini", "a=1"),
        ("c.yaml", "1: 2"),
    ],
)
def test_a_file_that_is_no_table_of_settings_is_refused(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="configuration file"):
        read_config_file(tmp_path / name)


def bomb(line: str) -> str:
    """Eleven lines in each of which the one before stands ten times."""
    return "\n".join(
        ["a0: &a0 {x: [1]}"] + [line.format(n=n, ten=", ".join([f"*a{n - 1}"] * 10)) for n in range(1, 12)]
    )


@pytest.mark.parametrize(
    "text",
    [bomb("a{n}: &a{n} [{ten}]"), bomb("a{n}: &a{n} {{<<: [{ten}]}}"), "a: &x [*x]", "a: &x {b: *x}"],
    ids=["lists", "merges", "circle", "circle of tables"],
)
def test_yaml_that_unfolds_is_refused_before_it_does(text: str, tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(text)
    with pytest.raises(ConfigError, match="refers to anchors") as raised:
        read_config_file(tmp_path / "bomb.yaml")
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/new:os.system ['true']",
        "a: !!python/name:os.system",
        "a: !evil x",
        "a: !!bool x",
        "a: !!timestamp x",
        "a: !!binary x",
        "a: 2001-99-99",
        "a: [1",
        "? [1, 2]\n: 3",
        "a: \x00",
        "[" * 60_000,
        "- " * 30_000,
        "? " * 30_000,
    ],
)
def test_yaml_that_is_no_plain_data_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml is no valid yaml") as raised:
        read_config_file(tmp_path / "c.yaml")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", "[" * 60_000),
        ("c.toml", "a = " + "[" * 60_000),
        ("c.json", '{"a": ' + "9" * 5000 + "}"),
        ("c.toml", "a = 1\na = 2"),
    ],
    ids=["deep json", "deep toml", "long number", "key twice"],
)
def test_json_and_toml_that_cannot_be_read_are_refused_in_one_line(
    name: str, text: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match="is no valid") as raised:
        read_config_file(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_file_too_large_for_settings_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "c.json").open("wb") as stream:
        stream.truncate(10**12)
    with pytest.raises(ConfigError, match="more than 64 KiB"):
        read_config_file(tmp_path / "c.json")


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.json")
    with pytest.raises(ConfigError, match="is no file"):
        read_config_file(tmp_path / "c.json")


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_bytes("{}".encode("utf-16"))
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        read_config_file(tmp_path / "c.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json"):
        read_config_file(tmp_path / "none.json")


GIVEN: dict[str, Any] = {
    "method": "paper",
    "seed": 7,
    "token_lr": 0.001,
    "timestep_range": [0.1, 0.9],
    "validation_prompt": "a <cat>",
    "mask_update_every": None,
    "crf": {"scale": 0.5, "iterations": 3},
}
TOML = b'method = "paper"\ntoken_lr = 5e-4\nseed = 0x10\ntimestep_range = [0.1, 0.9]\n[crf]\niterations = 3\n'
YAML = b"method: paper\ntoken_lr: 5e-4\nseed: 0x10\ntimestep_range: [0.1, 0.9]\ncrf: {iterations: 3}\n"
FILES = {"json": json_like(GIVEN), "toml": bytes_like(TOML), "yaml": bytes_like(YAML)}


@settings(deadline=None, max_examples=50)
@given(data=st.data(), kind=st.sampled_from(list(FILES)))
def test_a_file_of_any_content_gives_settings_or_is_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any-settings.{kind}"
    value_or_refusal(lambda path: resolve_config("sd", read_config_file(path)), path, data.draw(FILES[kind]))


@pytest.mark.parametrize("part", [(0.7, 0.3), (0.5, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_a_timestep_range_that_is_no_part_of_the_schedule_is_refused(part: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"timestep_range is .* from 0 to 1"):
        resolve_config("builtin", {"timestep_range": part})


def test_mask_rules_are_those_of_the_configuration() -> None:
    values = {
        "method": "paper",
        "tau": 0.2,
        "normalise": "range",
        "competition": True,
        "crf_labels": "joint",
        "unary_temperature": 0.4,
    }
    assert resolve_config("builtin", values).mask_rules == MaskRules(0.2, "range", True, True, 0.4)


def test_a_threshold_no_map_can_pass_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'tau' is 1\.5, but maps normalised by 'maximum' end at 1"):
        resolve_config("builtin", {"method": "paper", "tau": 1.5})
    assert resolve_config("builtin", {"tau": 1.5, "normalise": "spread"}).tau == 1.5


def test_the_page_of_settings_tells_every_key_with_its_values_and_defaults() -> None:
    written = configuration_page.PAGE.read_text(encoding="utf-8")
    assert configuration_page.page() == written, "run PYTHONPATH=src python tests/configuration_page.py"
    assert all(f"| `{key}` |" in written for key in LearnConfig.model_fields)
