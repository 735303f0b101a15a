"""The neutral margin of forced choice on disk: what ships, and what an evaluation on dev leaves for one on test.

A file holds a margin for each judge and base model, by `margin_key`, and what it was measured on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from conceptloom.errors import ConfigError, DataError
from conceptloom.evaluation.benchmark import Benchmark
from conceptloom.evaluation.forced_choice import Trial, neutral_margin
from conceptloom.evaluation.shipped import shipped_entry
from conceptloom.runs import write_json_atomic

MARGINS = "margins.json"
BUILTIN = "builtin"
DEV = "dev"


class Margin(BaseModel):
    """A score difference that is a tie, and what it was measured on.

    Attributes:
        value: median absolute difference between two seeds of one method.
        benchmark: name of the benchmark.
        split: of it.
        sets: whose images were compared.
        pairs: of images.
        method: whose seeds they are.
        smoke: whether the runs were short: it lets a smoke run vote and is for nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float = Field(ge=0)
    benchmark: str
    split: str
    sets: int = Field(ge=1)
    pairs: int = Field(ge=1)
    method: str = "paper"
    smoke: bool = False

    @property
    def is_of_dev(self) -> bool:
        """Whether it was measured where the methods were tuned, on sets that no test compares, by whole runs."""
        return (self.benchmark, self.split) == (BUILTIN, DEV) and not self.smoke

    @property
    def where(self) -> str:
        """What it was measured on, in words."""
        sets = f"{self.sets} set{'s' * (self.sets > 1)}"
        told = f"{self.benchmark} {self.split} ({sets}, {self.pairs} pairs of images)"
        told = f"the short runs of {told}" if self.smoke else told
        return told if self.is_of_dev else f"{told}, the sets that are compared here"


_FILE = TypeAdapter(dict[str, Margin])


def measure_margin(benchmark: Benchmark, trials: Iterable[Trial], method: str = "paper") -> Margin | None:
    """The margin between two seeds of a method on a benchmark; None where no image was drawn with both.

    The built-in benchmark's test sets measure none: there it was fixed before, on dev.
    """
    trials = tuple(trials)
    if not trials or (benchmark.name == BUILTIN and benchmark.split != DEV):
        return None
    return Margin(
        value=neutral_margin((trial.ours, trial.baseline) for trial in trials),
        benchmark=benchmark.name,
        split=benchmark.split,
        sets=len({trial.scene for trial in trials}),
        pairs=len(trials),
        method=method,
    )


def margin_key(judge: str, base_model: str) -> str:
    """Whose margin it is: the judge's fingerprint and the first digits of the base model's."""
    return f"{judge}/{base_model[:12]}"


def shipped_margin(key: str) -> Margin | None:
    """The margin that ships for a judge and a base model, None where none does.

    Raises:
        DataError: the shipped file is damaged.
    """
    return shipped_entry(MARGINS, key, _read)


def load_margin(key: str, path: Path) -> Margin:
    """The margin of a judge and a base model from the file that an evaluation on dev left.

    Raises:
        DataError: the file cannot be read.
        ConfigError: it holds margins of other judges or base models alone.
    """
    try:
        margins = _read(path)
    except (OSError, ValueError):
        raise DataError(
            f"{path} holds no margins of dev: give the {MARGINS} that an evaluation with --split dev left"
        ) from None
    if key not in margins:
        raise ConfigError(
            f"{path} holds no margin of judge and base model {key}: run --split dev with the two, and give the"
            f" {MARGINS} that it leaves"
        )
    return margins[key]


def kept_margin(key: str, path: Path) -> Margin | None:
    """The margin of a judge and a base model that an evaluation has left in its own folder, None where none is yet.

    Raises:
        DataError: the file cannot be read.
    """
    return _kept(path).get(key)


def save_margin(key: str, margin: Margin, path: Path) -> None:
    """Add a margin to a file, beside those of other judges and base models.

    Raises:
        DataError: the file is there and cannot be read.
    """
    margins = {**_kept(path), key: margin}
    write_json_atomic(path, {name: one.model_dump(mode="json") for name, one in margins.items()})


def _kept(path: Path) -> dict[str, Margin]:
    try:
        return _read(path) if path.exists() else {}
    except (OSError, ValueError):
        raise DataError(f"{path} holds no margins of dev: delete it, and they are measured again") from None


def _read(path: Path) -> dict[str, Margin]:
    margins = _FILE.validate_json(path.read_bytes())
    if not all(margin.is_of_dev for margin in margins.values()):
        raise ValueError("a margin of other sets than dev")
    return margins
