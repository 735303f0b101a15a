"""Speed of the DenseCRF against its bars, and against pydensecrf2 where that is installed.

    python benchmarks/crf.py [--picture FILE] [--repeats N]

"Cold" builds the picture's lattices and infers, "cached" infers on lattices that stand. Every figure is the median over
the repeats with its range. Neither program starts a thread or waits for anything, so CPU time is the wall time of a
free core: bars and ratios are held against it, and wall time beside it shows how busy the machine was. All variants
take turns within a repeat; a ratio is the median of the ratios of one turn.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image

import conceptloom
from conceptloom.masks import CRFConfig, DenseCRF, joint_unary

try:
    from pydensecrf.densecrf import DenseCRF2D
except ImportError:
    DenseCRF2D = None

PICTURE = Path(conceptloom.__file__).parent / "data" / "backgrounds" / "dev-city-004.webp"
"""The shipped photo with the most detail seen: its lattice has over twice the vertices of the median one."""

COLD_SEC, CACHED_SEC, CACHED_128_SEC, FIVE_TO_TWO = 0.9, 0.5, 0.04, 1.8
Problem = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Turn:
    """One timed call."""

    wall_sec: float
    cpu_sec: float


def timed(call: Callable[[], object]) -> Turn:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Turn(time.perf_counter() - wall, time.process_time() - cpu)


def problem(path: Path, side: int, labels: int) -> Problem:
    """The picture squeezed to a square, and the unary of `labels` - 1 discs and the rest."""
    with Image.open(path) as file:
        image = np.array(file.convert("RGB").resize((side, side), Image.Resampling.LANCZOS))
    row, column = np.mgrid[:side, :side] / side
    concepts = labels - 1
    discs = [
        np.hypot(row - 0.35 - 0.3 * (i % 2), column - (i + 1) / labels) < 0.12 + 0.08 / concepts
        for i in range(concepts)
    ]
    return image, joint_unary(np.stack(discs))


def by_pydensecrf2(image: npt.NDArray[np.uint8], unary: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The same inference at CutLER's numbers; its standard deviations are scaled like ours."""
    config, (labels, height, width) = CRFConfig(), unary.shape
    scale = min(height, width) / config.reference_side_px
    crf = DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.reshape(labels, -1)))
    crf.addPairwiseGaussian(sxy=config.gaussian_sxy * scale, compat=config.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=config.bilateral_sxy * scale,
        srgb=config.bilateral_srgb,
        rgbim=image,
        compat=config.bilateral_weight,
    )
    return np.ascontiguousarray(crf.inference(config.iterations)).reshape(unary.shape)


def run(path: Path, side: int, repeats: int) -> dict[str, list[Turn]]:
    """Turns of every variant at one size, after one turn to warm up."""
    two, five = problem(path, side, 2), problem(path, side, 5)
    cached = DenseCRF(two[0])
    calls: dict[str, Callable[[], object]] = {
        "lattices": lambda: DenseCRF(two[0]),
        "cold 2": lambda: DenseCRF(two[0]).infer(two[1]),
        "cold 5": lambda: DenseCRF(five[0]).infer(five[1]),
        "cached 2": lambda: cached.infer(two[1]),
        "cached 5": lambda: cached.infer(five[1]),
    }
    if DenseCRF2D is not None:
        calls |= {
            "pydensecrf2 2": lambda: by_pydensecrf2(*two),
            "pydensecrf2 5": lambda: by_pydensecrf2(*five),
        }
    for call in calls.values():
        call()
    turns: dict[str, list[Turn]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            turns[name].append(timed(call))
    return turns


def ratios(turns: dict[str, list[Turn]], above: str, below: str) -> list[float]:
    return [a.cpu_sec / b.cpu_sec for a, b in zip(turns[above], turns[below], strict=True)]


def spread(values: list[float], unit: str = "") -> str:
    return f"{np.median(values):7.3f}{unit} ({min(values):.3f}-{max(values):.3f})"


def verdict(values: list[float], bar: float) -> str:
    return f"bar {bar:g}: {'met' if np.median(values) <= bar else 'MISSED'}"


def report(side: int, turns: dict[str, list[Turn]]) -> None:
    bars = {"cold 2": COLD_SEC, "cached 2": CACHED_SEC} if side == 512 else {"cached 2": CACHED_128_SEC}
    print(f"\n{side} px")
    for name, measured in turns.items():
        wall, cpu = [turn.wall_sec for turn in measured], [turn.cpu_sec for turn in measured]
        against = verdict(cpu, bars[name]) if name in bars else ""
        print(f"  {name:14} cpu {spread(cpu, ' s'):28} wall {spread(wall, ' s'):28} {against}")
    for kind in ("cold", "cached"):
        five_to_two = ratios(turns, f"{kind} 5", f"{kind} 2")
        print(f"  5 / 2 labels, {kind:21} {spread(five_to_two)}  {verdict(five_to_two, FIVE_TO_TWO)}")
    for kind in ("cold", "cached"):
        for labels in (2, 5):
            if f"pydensecrf2 {labels}" in turns:
                to_peer = ratios(turns, f"{kind} {labels}", f"pydensecrf2 {labels}")
                print(f"  ours {kind:6} / pydensecrf2, {labels} labels {spread(to_peer)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    print(f"{arguments.picture.name}, CutLER's numbers, {arguments.repeats} repeats, no threads")
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}, {platform.machine()}"
    )
    for side in (128, 512):
        report(side, run(arguments.picture, side, arguments.repeats))


if __name__ == "__main__":
    main()
