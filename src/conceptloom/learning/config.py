"""Every switch of the method as one frozen, validated configuration.

Values that depend on the base model or on the method have no default here: they stand in one table,
`presets.py`, and `presets.resolve_config` fills them in.
"""

from __future__ import annotations

import json
import reprlib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from conceptloom.concepts.concept import MAX_VECTORS
from conceptloom.errors import ConfigError
from conceptloom.masks import CRFConfig, MaskRules, Normalise

Method = Literal["gt", "fixed", "paper", "literal", "refined"]
Layers = Literal["all", "up", "up_16", "down", "mid", "up_down"]
TrainedPart = Literal["full", "lora", "kv", "tokens"]
MaskLossNorm = Literal["paper", "area", "none"]

MAX_STEPS = 1_000_000
MAX_FILE_BYTES = 2**16
MAX_DEPTH = 8
"""Of a YAML file's tables and lists."""


class _Settings(BaseModel):
    """Settings that are frozen, known and finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`token_lr: yes` would be a rate of 1."""
        wanted = None if info.field_name is None else cls.model_fields[info.field_name].annotation
        if isinstance(value, bool) and wanted is not bool:
            raise ValueError("Input should not be true or false")
        return value


class CRFSettings(_Settings):
    """The DenseCRF's numbers; spatial standard deviations are pixels of a 512 px picture."""

    iterations: int = Field(10, ge=0, le=100)
    """Mean-field iterations."""
    gaussian_sxy: float = Field(3.0, ge=0.01, le=10_000)
    """How far a pixel asks its neighbours, whatever their colour."""
    gaussian_weight: float = Field(7.0, ge=0, le=10_000)
    """How much these neighbours count."""
    bilateral_sxy: float = Field(50.0, ge=0.01, le=10_000)
    """How far a pixel asks others of its colour."""
    bilateral_srgb: float = Field(5.0, ge=0.01, le=10_000)
    """Levels of 255 within which a colour counts as the same."""
    bilateral_weight: float = Field(10.0, ge=0, le=10_000)
    """How much the pixels of its colour count."""
    scale: float = Field(1.0, ge=0.01, le=100)
    """Multiplies both spatial standard deviations."""

    def crf_config(self) -> CRFConfig:
        """The same numbers as the value object `masks.DenseCRF` takes."""
        return CRFConfig(**self.model_dump())


class LearnConfig(_Settings):
    """How a run learns: four stages, their steps and rates, the E-step's switches, what is written and when.

    Frozen, and unknown keys are refused. Build it with `presets.resolve_config`.
    """

    method: Method
    """Where masks come from: "gt" yours, "fixed" found once, "paper" found again and again, "literal" by the letter of
    the paper, "refined" by the E-step that measured best."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Of every random draw."""

    # Stage 1: tokens
    initializer: Literal["word", "random", "inversion"] = "word"
    """Start of the placeholder rows; a concept without an initializer word starts from "random"."""
    inversion_steps: int = Field(100, ge=1, le=MAX_STEPS)
    """Steps of Eq. 1 without masks, taken when `initializer` is "inversion"."""
    num_vectors: int = Field(1, ge=1, le=MAX_VECTORS)
    """Embedding rows per new concept."""

    # Stage 2: masks
    initial_timesteps: int = Field(50, ge=1, le=1000)
    """Random timesteps averaged for the first masks."""
    layers: Layers
    """Cross-attention layers averaged into a map; "up_16" are those of the up path that Eq. 4 acts on."""
    timestep_range: tuple[float, float] = (0.0, 1.0)
    """Part of the schedule, 0 without noise and 1 noise alone, from which stage 2 and the E-step draw timesteps."""
    propagation_steps: int = Field(0, ge=0, le=100)
    """How often each cell of a map takes the mean of the cells it attends to in self-attention."""
    normalise: Normalise = "maximum"
    """"maximum" divides a map by its maximum, "range" stretches it between its minimum and maximum, "spread" counts in
    standard deviations from its mean."""
    competition: bool = False
    """Whether a concept's evidence is multiplied by its share of the sum over the picture's concepts."""
    tau: float = Field(gt=0, lt=10)
    """Threshold on a normalised map, under 1 unless `normalise` is "spread": the evidence of the rest."""
    unary_temperature: float | None = Field(None, gt=0, le=100)
    """The CRF's unary is the softmax of evidence / temperature; none takes the hard one-hot stack."""
    crf_labels: Literal["binary", "joint"] = "binary"
    """One CRF per concept, so that masks may overlap, or one for all concepts and the rest."""
    background_is_rest: bool = False
    """Whether a background gets what no other concept of its picture wins, instead of competing with them."""
    piece_peak: float = Field(0.0, ge=0, le=1)
    """A piece of a subject's mask stays if its highest evidence is at least this share of the mask's; 0 keeps all."""
    hole_share: float = Field(0.0, ge=0, le=1)
    """A subject gets holes of its mask up to this share of the mask's area, where no other concept is."""
    crf: CRFSettings
    """The dense CRF that sharpens masks, a table of its own."""

    # Stage 3: EM
    em_steps: int = Field(ge=0, le=MAX_STEPS)
    """M-steps."""
    batch_size: int = Field(ge=1, le=256)
    """Pictures a step; less takes less memory."""
    token_lr: float = Field(gt=0, le=10)
    """Learning rate of the new words."""
    lambda_attn: float = Field(ge=0, le=1000)
    """Weight of the attention loss, Eq. 4."""
    mask_loss_norm: MaskLossNorm = "paper"
    """Eq. 3: "paper" averages the error under the mask over all cells, "area" over the mask's; "none" uses no mask."""
    mask_update_every: int | None = Field(ge=1, le=MAX_STEPS)
    """M-steps between two E-steps; none switches the E-step off."""
    e_step_source: Literal["fresh", "running_average"] = "fresh"
    """Maps of passes of the E-step's own, or the running average of the M-step's, which costs nothing."""
    e_step_timesteps: Annotated[int, Field(ge=1, le=1000)] | Literal["own"]
    """Timesteps of a fresh E-step; "own" takes those the M-step has just drawn."""
    e_step_prompt: Literal["full", "subset"] = "full"
    """Prompt of a fresh E-step: all concepts of the picture, or a drawn subset of them."""
    running_average_decay: float = Field(0.9, ge=0, lt=1)
    """Share of the running average that one more M-step map leaves in place."""
    running_average_weighting: Literal["signal", "uniform"] = "signal"
    """"signal" weights a map by the signal's share of the variance at its timestep, so noisy ones count less."""
    stop_when_calm: int | None = Field(None, ge=1, le=MAX_STEPS)
    """EM ends early after so many E-steps in a row in which every mask kept an IoU of `calm_iou` with the one before;
    none always takes `em_steps`."""
    calm_iou: float = Field(0.95, gt=0, le=1)
    """See `stop_when_calm`."""
    attention_targets: Literal["masks", "probabilities"] = "masks"
    """What Eq. 4 pulls maps towards: the binary masks by area, or the CRF's probabilities by area."""
    weights: Literal["end", "alternate"] = "end"
    """"alternate" also updates the model's weights inside the loop, after each token update."""

    # Stage 4: joint
    joint_steps: int = Field(ge=0, le=MAX_STEPS)
    """Steps of stage 4."""
    joint_lr: float = Field(gt=0, le=1)
    """Learning rate of stage 4, of tokens and weights; its default depends on `train`."""
    train: TrainedPart
    """Weights trained beside the tokens: all, low-rank adapters, keys and values of cross-attention, or none."""
    lora_rank: int = Field(8, ge=1, le=256)
    """Rank of the adapters that `train` "lora" trains."""
    prior_weight: float = Field(1.0, ge=0, le=1000)
    """Weight of prior preservation; 0 switches it off."""
    prior_images: int = Field(ge=1, le=1000)
    """The base model's own images per class word."""

    # Optimisation
    clip_norm: float = Field(1.0, gt=0)
    """Gradients longer than this are shortened to it."""

    # Written while it runs
    preview_every: int = Field(200, ge=0, le=MAX_STEPS)
    """Steps between two previews (mask overlays and sample images); 0 draws none."""
    checkpoint_every: int = Field(100, ge=1, le=MAX_STEPS)
    """Steps between two checkpoints: so many are lost at most when a run is killed."""
    validation_prompt: str | None = None
    """Prompt of the sample images; none names every concept in the template."""
    tensorboard: bool = False
    """Also write losses for TensorBoard (needs the extra of that name)."""
    sample_steps: int = Field(ge=1, le=1000)
    """Denoising steps of sample and prior images."""
    sample_guidance_scale: float = Field(ge=1, le=100)
    """How closely these images follow their prompt."""

    @model_validator(mode="after")
    def _threshold_can_be_passed(self) -> LearnConfig:
        if self.normalise != "spread" and self.tau >= 1:
            raise ValueError(
                f"'tau' is {self.tau:g}, but maps normalised by '{self.normalise}' end at 1: set it below 1"
            )
        return self

    @model_validator(mode="after")
    def _only_one_crf_has_a_rest_to_give(self) -> LearnConfig:
        if self.background_is_rest and self.crf_labels != "joint":
            raise ValueError("background_is_rest needs one CRF for all concepts: set crf_labels to 'joint'")
        return self

    @model_validator(mode="after")
    def _timestep_range_is_not_empty(self) -> LearnConfig:
        low, high = self.timestep_range
        if not 0 <= low < high <= 1:
            raise ValueError(
                f"timestep_range is {low:g} to {high:g}: expected two numbers from 0 to 1, the lower one first"
            )
        return self

    @model_validator(mode="after")
    def _fixed_masks_are_never_updated(self) -> LearnConfig:
        if self.method in ("gt", "fixed") and self.mask_update_every is not None:
            raise ValueError(
                f"method '{self.method}' never updates its masks: leave mask_update_every out, or use method 'paper'"
            )
        return self

    @property
    def mask_rules(self) -> MaskRules:
        """How maps become masks, as the value object `masks.update_masks` takes."""
        return MaskRules(
            self.tau,
            self.normalise,
            self.competition,
            self.crf_labels == "joint",
            self.unary_temperature,
            self.background_is_rest,
            self.piece_peak,
            self.hole_share,
        )

    @property
    def trains_weights(self) -> bool:
        """Whether any weight of the base model moves, in the loop or after it."""
        if self.train == "tokens":
            return False
        return self.joint_steps > 0 or (self.weights == "alternate" and self.em_steps > 0)


def parse_config(values: Mapping[str, Any]) -> LearnConfig:
    """Validate `values`; raises `ConfigError` naming the first wrong key by its path."""
    try:
        return LearnConfig.model_validate(dict(values))
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        # Below the key, pydantic names the alternative of a union; only `crf` is a table of its own.
        path = ".".join(str(part) for part in first["loc"][: 2 if first["loc"][:1] == ("crf",) else 1])
        what = first["msg"].removeprefix("Value error, ")
        where = f"key '{path}': " if path else ""
        given = f" (got {_shown(first['input'])})" if path and first["type"] != "missing" else ""
        more = f"; {len(others)} more wrong" if others else ""
        raise ConfigError(f"configuration {where}{what}{given}{more}") from None


def _shown(value: object) -> str:
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes out no number of thousands of digits
        return "a number too long to show"


def read_config_file(path: Path) -> dict[str, Any]:
    """Overrides from a JSON, TOML or YAML file, not validated yet; raises `ConfigError` when it can't be read."""
    parsers: dict[str, Callable[[str], Any]] = {
        ".json": json.loads,
        ".toml": tomllib.loads,
        ".yaml": _parse_yaml,
        ".yml": _parse_yaml,
    }
    if path.suffix not in parsers:
        raise ConfigError(f"configuration file {path.name}: expected a name ending in {', '.join(parsers)}")
    text = _read_text(path)
    try:
        values = parsers[path.suffix](text)
    except Exception as error:  # PyYAML's constructors raise whatever they trip over
        reason = str(error) or type(error).__name__
        raise ConfigError(f"configuration file {path} is no valid {path.suffix[1:]}: {reason}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"configuration file {path} must hold one table of settings by name")
    return values


def _read_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise ConfigError(f"configuration file {path} is no file: give a file of settings")
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"configuration file {path} can't be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(
            f"configuration file {path} has more than {MAX_FILE_BYTES >> 10} KiB: it can't be settings"
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"configuration file {path} is no text in UTF-8: save it again as that") from None


def _parse_yaml(text: str) -> Any:
    """Plain YAML; refuses what a few bytes of make gigabytes (aliases) or hours of work (nesting)."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(
                "it refers to anchors, which settings don't need: write values where they belong"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply: settings are one table, in which crf is another")
    return yaml.safe_load(text)
