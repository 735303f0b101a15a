"""Errors a user can mend.

Each message is one line: what was wrong, what was expected, what to do. The command line prints it without a
traceback. Mistakes of a caller's code are plain ``TypeError``, ``ValueError`` or ``AssertionError`` instead.

    ConceptloomError
    ├── PictureError      pictures and masks
    ├── PromptError       prompts, placeholders, concept names
    ├── ConfigError       settings
    ├── ConceptSetError   concept sets
    ├── BaseModelError    base models
    ├── RunError          run folders and their checkpoints
    ├── DeviceError       devices and number formats
    └── DataError         sprites, backgrounds and benchmarks
"""


class ConceptloomError(Exception):
    """Base of every error that is the input's fault."""


class PictureError(ConceptloomError):
    """A picture or mask cannot be used."""


class PromptError(ConceptloomError):
    """A prompt or placeholder cannot be used."""


class ConfigError(ConceptloomError):
    """A configuration cannot be used."""


class ConceptSetError(ConceptloomError):
    """A concept set cannot be read, or does not fit."""


class BaseModelError(ConceptloomError):
    """A base model cannot be loaded."""


class RunError(ConceptloomError):
    """A run folder cannot be used."""


class DeviceError(ConceptloomError):
    """A device is not available."""


class DataError(ConceptloomError):
    """Sprites or backgrounds cannot be read."""
