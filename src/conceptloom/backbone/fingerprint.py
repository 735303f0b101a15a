"""Identity of a base model: one SHA-256 that tells two models apart without reading gigabytes.

It covers the configurations (without what only says which library wrote them), the tokenizer's vocabulary and merges,
and of every weight file the table of tensors, the size and the contents. Files up to 64 MiB are read whole; of larger
ones 64 blocks of 64 KiB at even distances. Training moves every tensor, so a trained copy differs in every block; an
edit confined to bytes between two blocks of a large file would go unseen. Folder and file names do not count, the
precision of the stored weights does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conceptloom.backbone.tensors import METADATA, read_header

WHOLE_FILE_BYTES = 64 * 2**20
BLOCKS = 64
BLOCK_BYTES = 64 * 2**10
UNTOLD = frozenset({"transformers_version", "torch_dtype", "dtype"})
"""Configuration keys, beside those that start with an underscore, that say nothing about the model."""


def fingerprint(
    configs: Mapping[str, Mapping[str, Any]],
    tokenizer_model: Mapping[str, Any],
    weights: Mapping[str, Sequence[Path]],
) -> str:
    """64 hexadecimal digits.

    Args:
        configs: configuration of each part.
        tokenizer_model: vocabulary and merges.
        weights: safetensors files of each part.
    """
    digest = hashlib.sha256()
    told = {
        part: {key: value for key, value in config.items() if key not in UNTOLD and not key.startswith("_")}
        for part, config in configs.items()
    }
    digest.update(_canonical({"configs": told, "tokenizer": tokenizer_model}))
    for part in sorted(weights):
        digest.update(part.encode())
        for path in sorted(weights[part]):
            _add_file(digest, path)
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    header = read_header(path)
    header.pop(METADATA, None)
    digest.update(_canonical(header))
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        file.seek(start)
        content = size - start
        digest.update(content.to_bytes(8, "little"))
        if content <= WHOLE_FILE_BYTES:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
            return
        for index in range(BLOCKS):
            file.seek(start + index * (content - BLOCK_BYTES) // (BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
