"""Feature networks that compare pictures by cosine: CLIP, DINOv2, SigLIP from a local folder; the built-in judges.

Nothing is downloaded, no code in a folder is run, and weights are safetensors. A picture that is not square is padded
with grey, never cropped: it may be a tight crop of a concept.

Axes: N pictures or texts, D embedding, H W pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open

from conceptloom.errors import DataError
from conceptloom.judges.detector import GREY, JUDGES, Floats, Judge, JudgeName, Pixels, load_judge

OuterName = Literal["clip", "dinov2", "siglip"]
OUTER: tuple[OuterName, ...] = get_args(OuterName)
PICTURES_AT_ONCE = 16
MAX_SIDE_PX, MAX_LAYERS = 2048, 200
"""More than any of them has; what a configuration asks for is bounded before time or memory is spent on it."""


class FeatureJudge(Protocol):
    """Anything that turns pictures into unit vectors whose inner product says how alike they look."""

    @property
    def name(self) -> str:
        """What the judge is called in tables."""
        ...

    def embed(self, pictures: Sequence[Pixels]) -> Floats:
        """Unit vectors (N, D) of at least one picture uint8 (H, W, 3); sizes may differ."""
        ...


@runtime_checkable
class TextJudge(FeatureJudge, Protocol):
    """A feature judge that puts texts into the same space."""

    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Unit vectors (N, D) of at least one text."""
        ...


def load_feature_judge(name: str, folder: str | Path | None = None) -> FeatureJudge:
    """The judge ``name``: "examiner" and "selector" ship; "clip", "dinov2" and "siglip" need the folder of a model.

    Raises ``DataError`` for an unknown name, or a folder that is absent, incomplete, pickled or of another kind.
    """
    if name in JUDGES:
        return BuiltinFeatures(name, load_judge(name, Path(folder) if folder is not None else None))
    if name not in OUTER:
        raise DataError(f"there is no judge '{name}': choose one of {', '.join((*JUDGES, *OUTER))}")
    if folder is None:
        raise DataError(f"the judge '{name}' does not ship: name the local folder of a {name} model")
    return TextFeatures(name, Path(folder)) if name != "dinov2" else OuterFeatures(name, Path(folder))


class BuiltinFeatures:
    """A built-in judge's `Judge.describe` as a feature network."""

    def __init__(self, name: JudgeName, judge: Judge) -> None:
        self.name, self.judge = name, judge

    def embed(self, pictures: Sequence[Pixels]) -> Floats:
        """Unit vectors (N, D); each picture is taken as a crop of one drawing."""
        return np.stack([self.judge.describe(pixels) for pixels in pictures])


class OuterFeatures:
    """A vision transformer of the transformers library: CLIP's and SigLIP's image features, DINOv2's class token."""

    def __init__(self, name: OuterName, folder: Path) -> None:
        self.name = name
        self.folder = folder.expanduser()
        self.model = _load_model(name, self.folder)
        self.side_px, self.mean, self.std = _preprocessing(self.folder, self.model.config)
        with _readable(self.folder, "can't look at a picture"):
            self.embed([np.full((self.side_px, self.side_px, 3), GREY, np.uint8)])

    @torch.inference_mode()
    def embed(self, pictures: Sequence[Pixels]) -> Floats:
        """Unit vectors (N, D) of pictures padded to a square and resized to what the model was trained on."""
        found = []
        for first in range(0, len(pictures), PICTURES_AT_ONCE):
            inputs = np.stack(
                [self.prepared(pixels) for pixels in pictures[first : first + PICTURES_AT_ONCE]]
            )
            images = torch.from_numpy(inputs)
            if self.name == "dinov2":
                features = self.model(pixel_values=images).pooler_output
            else:
                features = self.model.get_image_features(pixel_values=images).pooler_output
            found.append(F.normalize(features.float(), dim=-1).numpy())
        return np.concatenate(found)

    def prepared(self, pixels: Pixels) -> Floats:
        """The model's input float32 (3, side, side): padded, resized bicubically, standardised."""
        height, width = pixels.shape[:2]
        side = max(height, width)
        square = np.full((side, side, 3), GREY, np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = pixels
        image = Image.fromarray(square).resize((self.side_px, self.side_px), Image.Resampling.BICUBIC)
        scaled = (np.asarray(image, np.float32) / 255 - self.mean) / self.std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


class TextFeatures(OuterFeatures):
    """CLIP or SigLIP, which embed texts too."""

    def __init__(self, name: OuterName, folder: Path) -> None:
        super().__init__(name, folder)
        from transformers import AutoTokenizer

        with _readable(self.folder, "has no tokenizer that can be read"):
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
            if max(self.tokenizer.get_vocab().values()) >= self.model.config.text_config.vocab_size:
                raise ValueError("the tokenizer knows words that the model does not")
            self.embed_text(["a photo"])

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Floats:
        """Unit vectors (N, D); texts are cut or padded to the model's length."""
        encoded = self.tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        # SigLIP was trained on padded texts without an attention mask.
        mask = encoded["attention_mask"] if self.name == "clip" else None
        features = self.model.get_text_features(input_ids=encoded["input_ids"], attention_mask=mask)
        vectors: Floats = F.normalize(features.pooler_output.float(), dim=-1).numpy()
        return vectors


def _load_model(name: OuterName, folder: Path) -> Any:
    from transformers import CLIPModel, Dinov2Model, SiglipModel

    if not folder.is_dir():
        raise DataError(
            f"there is no folder '{folder}': the judge '{name}' needs that of a local {name} model"
        )
    config = _read_json(folder / "config.json")
    found = config.get("model_type")
    if found != name:
        raise DataError(f"'{folder.name}' holds a model of type '{found}': the judge '{name}' needs '{name}'")
    files = [*folder.glob("model*.safetensors")]
    if not files:
        raise DataError(
            f"'{folder.name}' holds no model.safetensors: pickled weights can run code, convert them"
        )
    _require_only_a_model(folder, config)
    kind: Any = {"clip": CLIPModel, "dinov2": Dinov2Model, "siglip": SiglipModel}[name]
    with _readable(folder, "has weights that are damaged or do not fit its config.json"):
        # What the files lack is made up before it is told of; here at most as much as they hold.
        with torch.device("meta"):
            needed = sum(weight.numel() for weight in kind(kind.config_class(**config)).parameters())
        if needed > 2 * sum(map(_count_weights, files)):
            raise ValueError("the architecture has far more weights than the files")
        model, info = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    if missing := sorted(map(str, info["missing_keys"])):
        raise DataError(
            f"the weights in '{folder.name}' lack '{missing[0]}' ({len(missing)} in all): fetch the model again"
        )
    return model.eval().requires_grad_(False)


def _require_only_a_model(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what transformers would follow elsewhere: adapters to other models, attention code on a hub."""
    if (folder / "adapter_config.json").exists():
        raise DataError(
            f"'{folder.name}' holds an adapter, which leads to another model: remove adapter_config.json"
        )
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        wishes = [part.get("_attn_implementation"), part.get("attn_implementation")]
        if any(wish not in (None, "eager", "sdpa") for wish in wishes) or part.get("quantization_config"):
            raise DataError(
                f"the config.json of '{folder.name}' asks for code or number formats of its own:"
                " give the model as it was published"
            )
        layers = part.get("num_hidden_layers", 0)
        if isinstance(layers, int) and layers > MAX_LAYERS:
            raise DataError(
                f"the config.json of '{folder.name}' asks for {layers} layers, at most {MAX_LAYERS} are built:"
                " give the model as it was published"
            )


def _count_weights(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def _preprocessing(folder: Path, config: Any) -> tuple[int, Floats, Floats]:
    """Side of the square input in pixels, mean and standard deviation (3,) of the channels."""
    whole = folder / "processor_config.json"
    if whole.is_file():  # what transformers 5 writes for models of pictures and texts
        told = _read_json(whole).get("image_processor", {})
    else:
        told = _read_json(folder / "preprocessor_config.json")
    size = told.get("crop_size") if told.get("do_center_crop", "crop_size" in told) else told.get("size")
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    vision = getattr(config, "vision_config", config)
    try:
        side = int(size if size is not None else vision.image_size)
        mean, std = (np.asarray(told[key], np.float32).reshape(3) for key in ("image_mean", "image_std"))
        if not 0 < side <= MAX_SIDE_PX or not np.isfinite([mean, std]).all() or not std.all():
            raise ValueError(f"a side of {side} px, or no spread")
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise DataError(
            f"'{folder.name}' does not say how pictures are prepared: it needs its preprocessor_config.json"
        ) from error
    return side, mean, std


def _read_json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"'{path.parent.name}' has no readable {path.name}: fetch the model again") from error
    return told if isinstance(told, dict) else {}


@contextmanager
def _readable(folder: Path, wrong: str) -> Iterator[None]:
    """Turn a library's error into one line; its reports and progress bars are off meanwhile."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # libraries raise whatever they trip over
        raise DataError(f"'{folder.name}' {wrong}: fetch the model again") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
