"""docs/configuration.md, made from `LearnConfig` and its presets.

PYTHONPATH=src python tests/configuration_page.py
"""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from conceptloom.learning import config as module
from conceptloom.learning.config import CRFSettings, LearnConfig, Method
from conceptloom.learning.presets import PRESETS, resolve_config

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
FAMILIES = {"builtin": "built-in model", "sd": "Stable Diffusion"}
METHODS: tuple[str, ...] = get_args(Method)
INTRODUCTION = """\
# Configuration

Every setting of `conceptloom learn`. Give them in a file, `conceptloom learn ... --config settings.toml`, or as
`learn(..., config={...})`; what is left out keeps its default. A file holds one table, in TOML, JSON or YAML:

```toml
train = "lora"          # instead of all weights: less memory, smaller files
batch_size = 2

[crf]
scale = 1.5
```

Options of the command line win over the file. An unknown key, or a value out of its range, is refused before anything
is learned. Defaults depend on the base model's family and on the method where they say so. "None" is `null` in JSON and
YAML; TOML has no word for it. From Python `segment(..., config={...})` takes what concerns first masks; the command
has no `--config`. "Eq." are equations of the paper (README); an E-step finds masks, an M-step moves the new words.
"""


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for title, fields in _sections(LearnConfig).items():
        lines += [f"## {title}\n", *_table(fields, LearnConfig, _defaults), ""]
    lines += ["## CRF (`crf`)\n", "Distances are pixels of a picture of 512 px.\n"]
    lines += _table(_described(CRFSettings), CRFSettings, lambda key: _defaults("crf", key))
    return "\n".join(lines) + "\n"


def _table(fields: Mapping[str, str], settings: type, default: Any) -> Iterator[str]:
    yield "| key | values | default | meaning |"
    yield "|---|---|---|---|"
    schema = settings.model_json_schema()  # type: ignore[attr-defined]
    for key, meaning in fields.items():
        values = _values(schema["properties"][key])
        yield f"| `{key}` | {values} | {default(key)} | {meaning} |"


def _values(told: Mapping[str, Any]) -> str:
    """What a key takes, from its JSON schema."""
    if "anyOf" in told:
        return " or ".join(_values(one) for one in told["anyOf"])
    if "enum" in told:
        return ", ".join(f"`{one}`" for one in told["enum"])
    if "const" in told:
        return f"`{told['const']}`"
    if "prefixItems" in told:
        return f"{len(told['prefixItems'])} numbers"
    kinds = {"boolean": "`true`, `false`", "null": "none", "string": "text"}
    if told.get("type") in kinds:
        return kinds[told["type"]]
    if "$ref" in told:
        return "a table"
    number = "whole number" if told["type"] == "integer" else "number"
    low, high = told.get("minimum"), told.get("maximum")
    bounds = [
        f"from {_shown(low)}" if low is not None else "",
        f"above {_shown(told['exclusiveMinimum'])}" if "exclusiveMinimum" in told else "",
        f"to {_shown(high)}" if high is not None else "",
        f"below {_shown(told['exclusiveMaximum'])}" if "exclusiveMaximum" in told else "",
    ]
    return " ".join([number, *filter(None, bounds)])


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if value == 2**63:
        return "2^63"
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _defaults(*path: str) -> str:
    """The defaults of a key: one value, or each with the families and methods that have it."""
    if path == ("method",):
        return "`refined`"
    if path == ("crf",):
        return "below"
    if path == ("joint_lr",):
        told = [(FAMILIES[name], preset.joint_lr.items()) for name, preset in PRESETS.items()]
        return "; ".join(
            f"{family}: {', '.join(f'{rate:g} ({part})' for part, rate in rates)}" for family, rates in told
        )
    found: dict[tuple[str, str], str] = {}
    for family in PRESETS:
        for method in METHODS:
            value: Any = resolve_config(family, {"method": method})
            for key in path:
                value = getattr(value, key)
            found[family, method] = _shown(value)
    values = dict.fromkeys(found.values())
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({_whose([at for at in found if found[at] == value])})" for value in values)


def _whose(places: list[tuple[str, str]]) -> str:
    """Families and methods in words."""
    methods = {family: [m for f, m in places if f == family] for family in PRESETS}
    owners = {family: own for family, own in methods.items() if own}
    if len(owners) == len(PRESETS) and len(set(map(tuple, owners.values()))) == 1:
        return ", ".join(next(iter(owners.values())))
    told = [
        FAMILIES[family] + ("" if len(own) == len(METHODS) else f": {', '.join(own)}")
        for family, own in owners.items()
    ]
    return "; ".join(told)


def _sections(settings: type) -> dict[str, dict[str, str]]:
    """Keys with their meanings, by the comments that part them in the source; the first ones have none."""
    meanings = _described(settings)
    sections: dict[str, dict[str, str]] = {"Of the whole run": {}}
    for line in inspect.getsource(settings).splitlines():
        if line.startswith("    # "):
            sections[line.removeprefix("    # ")] = {}
        elif (key := line.strip().partition(":")[0]) in meanings and line.startswith(f"    {key}:"):
            sections[list(sections)[-1]][key] = meanings[key]
    return sections


def _described(settings: type) -> dict[str, str]:
    """The string below each field."""
    tree = ast.parse(inspect.getsource(module))
    body = next(
        node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == settings.__name__
    )
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(text, ast.Expr), f"{field.target.id} says nothing of itself"
            found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
