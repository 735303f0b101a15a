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
    │   └── DivergedError a run whose loss does not stay finite
    ├── DeviceError       devices and number formats
    └── DataError         sprites, backgrounds and benchmarks
"""

MAX_MESSAGE = 600
"""Characters of a message. Names and prompts reach it, and may be of any length."""


class ConceptloomError(Exception):
    """Base of every error that is the input's fault; its message is brought to `one_line`."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


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


class DivergedError(RunError):
    """A run's loss is no longer finite."""


class DeviceError(ConceptloomError):
    """A device is not available."""


class DataError(ConceptloomError):
    """Sprites or backgrounds cannot be read."""


def one_line(message: str) -> str:
    """A message as one printable line of at most 600 characters.

    What it quotes (names, prompts, files) may hold line breaks or a terminal's control codes. Of a long message the
    middle goes: what was wrong stands at its beginning, what to do at its end.
    """
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(message.split()))
    if len(line) <= MAX_MESSAGE:
        return line
    tail = MAX_MESSAGE // 3
    return f"{line[: MAX_MESSAGE - tail - 3]}...{line[-tail:]}"
