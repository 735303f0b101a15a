"""Make `crf_reference.safetensors`: what pydensecrf2 answers to small CRF problems.

pydensecrf2 is a source package that only old compilers' glue accepts, so it is installed for this script alone, in a
virtual environment of Python 3.11 or 3.12 that is thrown away afterwards:

    pip install "cython<3" setuptools wheel numpy scikit-image pillow safetensors
    pip install --no-build-isolation pydensecrf2==1.1
    python tests/golden/make_crf_reference.py

Tensors of every case, small integers so that the file stays small:

    <case>/image          (H, W, 3) uint8
    <case>/unary          (L, H, W) uint8, energies times 64
    <case>/probabilities  (L-1, H, W) uint16, probabilities of all labels but the last times 65535

The file's metadata holds the CRF's numbers per case as JSON; standard deviations are pixels of that very image.
"""

import json
from pathlib import Path

import numpy as np
import pydensecrf.densecrf
import skimage.data
from PIL import Image
from safetensors.numpy import save_file

ENERGY_STEPS = 64
CUTLER = {
    "iterations": 10,
    "gaussian_sxy": 3.0,
    "gaussian_weight": 7.0,
    "bilateral_sxy": 50.0,
    "bilateral_srgb": 5.0,
    "bilateral_weight": 10.0,
}
WEAK_COLOUR = CUTLER | {"bilateral_weight": 3.0, "bilateral_sxy": 12.0, "bilateral_srgb": 13.0}
SMALL = CUTLER | {"iterations": 5, "gaussian_sxy": 0.75, "bilateral_sxy": 12.5, "bilateral_srgb": 8.0}


def photo(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """A photo squeezed to (height, width, 3)."""
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def discs(height: int, width: int, count: int) -> np.ndarray:
    """Label map (height, width) of `count` discs, 1..count, on a background of label 0."""
    row, column = np.mgrid[:height, :width]
    labels = np.zeros((height, width), dtype=np.uint8)
    for i in range(count):
        centre = height * (0.35 + 0.3 * (i % 2)), width * (i + 1) / (count + 1)
        labels[(row - centre[0]) ** 2 + (column - centre[1]) ** 2 < (height / 4) ** 2] = i + 1
    return labels


def drawing(labels: np.ndarray, seed: int) -> np.ndarray:
    """A noisy picture of the label map, one colour a label, shifted so that its edges are not the labels' edges."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(40, 216, (labels.max() + 1, 3))
    pixels = np.roll(colours[labels], 3, axis=1) + generator.normal(0, 4, (*labels.shape, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def one_hot(labels: np.ndarray) -> np.ndarray:
    """Energies (L, H, W) in steps, 0 for the label and 1.0 for all others: the softmax of the one-hot stack."""
    return ENERGY_STEPS * (labels != np.arange(labels.max() + 1)[:, None, None]).astype(np.uint8)


def soft(labels: np.ndarray, seed: int) -> np.ndarray:
    """Energies (L, H, W) in steps with noise on top of `one_hot`, up to 3."""
    generator = np.random.default_rng(seed)
    return one_hot(labels) + generator.integers(0, 2 * ENERGY_STEPS, one_hot(labels).shape, dtype=np.uint8)


def infer(image: np.ndarray, unary: np.ndarray, settings: dict[str, float]) -> np.ndarray:
    """Probabilities (L, H, W) by pydensecrf2."""
    num_labels, height, width = unary.shape
    crf = pydensecrf.densecrf.DenseCRF2D(width, height, num_labels)
    energies = unary.astype(np.float32) / ENERGY_STEPS
    crf.setUnaryEnergy(np.ascontiguousarray(energies.reshape(num_labels, -1)))
    crf.addPairwiseGaussian(sxy=settings["gaussian_sxy"], compat=settings["gaussian_weight"])
    crf.addPairwiseBilateral(
        sxy=settings["bilateral_sxy"],
        srgb=settings["bilateral_srgb"],
        rgbim=np.ascontiguousarray(image),
        compat=settings["bilateral_weight"],
    )
    return np.ascontiguousarray(crf.inference(int(settings["iterations"]))).reshape(unary.shape)


def main() -> None:
    """Write the file beside this script."""
    astronaut = photo(skimage.data.astronaut()[:384], 96, 128)
    cat = photo(skimage.data.chelsea(), 64, 96)
    coffee = photo(skimage.data.coffee(), 72, 108)
    two, four = discs(48, 64, 1), discs(64, 48, 3)
    cases = {
        "photo_two_labels": (astronaut, one_hot(discs(96, 128, 1)), CUTLER),
        "photo_two_labels_weak_colour": (cat, one_hot(discs(64, 96, 1)), WEAK_COLOUR),
        "photo_four_labels": (coffee, one_hot(discs(72, 108, 3)), SMALL),
        "drawing_two_labels": (drawing(two, 1), one_hot(two), SMALL),
        "drawing_four_labels_soft": (drawing(four, 2), soft(four, 3), CUTLER),
    }
    tensors, metadata = {}, {}
    for name, (image, unary, settings) in cases.items():
        tensors[f"{name}/image"] = image
        tensors[f"{name}/unary"] = unary
        probabilities = infer(image, unary, settings)[:-1]
        tensors[f"{name}/probabilities"] = np.round(probabilities * 65535).astype(np.uint16)
        metadata[name] = json.dumps(settings)
    save_file(tensors, Path(__file__).with_name("crf_reference.safetensors"), metadata)


if __name__ == "__main__":
    main()
