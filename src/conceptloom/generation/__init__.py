"""Prompts and seeds to images of learned concepts.

Three faces: `generate_images` yields images from a loaded model and set, `generate` is one call from files to a list,
``conceptloom generate`` is the command. `save_images` writes what the first one yields.
"""

from conceptloom.generation.api import GenerateJob, generate, prepare_job
from conceptloom.generation.files import SHEET, free_folder, image_names, save_images
from conceptloom.generation.images import GeneratedImage, generate_images
from conceptloom.generation.prompts import check_prompt, placeholders_in
from conceptloom.generation.settings import DEFAULTS, SampleSettings, resolve_settings

__all__ = [
    "DEFAULTS",
    "SHEET",
    "GenerateJob",
    "GeneratedImage",
    "SampleSettings",
    "check_prompt",
    "free_folder",
    "generate",
    "generate_images",
    "image_names",
    "placeholders_in",
    "prepare_job",
    "resolve_settings",
    "save_images",
]
