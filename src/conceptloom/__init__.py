"""Learn concepts from a few pictures without masks, and generate new pictures of them together.

The public names are loaded on first use, so that ``import conceptloom`` takes no time and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conceptloom.concepts import ConceptSet
    from conceptloom.generation import generate
    from conceptloom.learning import discover, learn, segment

__version__ = "0.1.0"
__all__ = ["ConceptSet", "__version__", "discover", "generate", "learn", "segment"]

_HOMES = {
    "ConceptSet": "conceptloom.concepts",
    "discover": "conceptloom.learning",
    "generate": "conceptloom.generation",
    "learn": "conceptloom.learning",
    "segment": "conceptloom.learning",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
