"""Learn a frog and a car from one picture without masks, then draw them elsewhere, together and alone.

Run it with ``python examples/learn_and_generate.py``; everything goes to the folder ``example``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import conceptloom
from conceptloom.learning import Progress, StepDone

PICTURE = Path(__file__).with_name("frog-and-car.png")
CONCEPTS = {"frog": "frog", "car": "car"}  # the new word <frog> starts from the word "frog"
PROMPTS = ["a <frog> next to a <car> on the beach", "a <frog> on grass"]


def main(out: Path, base_model: str | Path = "builtin", config: dict[str, Any] | None = None) -> None:
    """Learn into `out`/set and draw into `out`/images; `config` overrides settings of `LearnConfig`."""
    learned = conceptloom.learn(
        [PICTURE], CONCEPTS, out / "set", base_model=base_model, config=config, on_progress=report
    )
    images = conceptloom.generate(learned, PROMPTS, num=4, seed=1, base_model=base_model, out=out / "images")
    print(
        f"{len(images)} images of {', '.join(learned.placeholders)}: see {out / 'images' / 'contact-sheet.png'}"
    )
    print(f"how they were learned: see {out / 'set' / 'index.html'}")


def report(event: Progress) -> None:
    """Print the losses now and then."""
    if isinstance(event, StepDone) and event.step % 50 == 0:
        losses = "  ".join(f"{name} {value:.4f}" for name, value in event.losses.items())
        print(f"{event.stage} {event.step}/{event.total}  {losses}")


if __name__ == "__main__":
    main(Path("example"))
