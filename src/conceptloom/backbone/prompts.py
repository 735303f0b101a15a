"""Prompts to hidden states, with placeholder rows swapped in beside the vocabulary.

A placeholder ``<cat>`` owns `num_vectors` rows outside the vocabulary table. Their token ids follow the table's last
id, in the order of the concepts; a hook on the embedding puts the rows where those ids stand. The table is neither
resized nor written to, so every other word keeps its row bit for bit, and gradients reach the rows only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from conceptloom.backbone.model import Backbone
from conceptloom.errors import PromptError

PLACEHOLDER = re.compile(r"<\s*([^<>\s]+)\s*>")


@dataclass(frozen=True, eq=False)
class TokenizedPrompt:
    """A prompt as the text encoder takes it.

    Attributes:
        ids: (S,) int64: begin, content, end, padding. Ids from the vocabulary's size on are placeholder rows.
        positions: where each placeholder in the prompt stands, all vectors of all its occurrences.
        word_positions: where the pieces of each other word stand, lower-cased, all its occurrences.
        end: position of the end token; padding follows it.
        dropped: content tokens that did not fit.
    """

    ids: Tensor
    positions: Mapping[str, tuple[int, ...]]
    word_positions: Mapping[str, tuple[int, ...]]
    end: int
    dropped: int


def tokenize(backbone: Backbone, prompt: str, placeholders: Mapping[str, int]) -> TokenizedPrompt:
    """Tokenise a prompt; what is not a placeholder goes through the base model's own tokenizer.

    Args:
        backbone: the base model.
        prompt: free text; placeholders are recognised in any case (``<Cat>`` is ``<cat>``), anywhere, repeatedly.
        placeholders: number of rows per placeholder token, in the order of the rows given to `encode_prompts`.

    Raises:
        PromptError: an unknown placeholder, or one that the token limit would cut off.
    """
    ends = accumulate(placeholders.values(), initial=len(backbone.vocabulary_embeddings))
    first_ids = dict(zip(placeholders, ends, strict=False))

    content: list[int] = []
    positions: dict[str, list[int]] = {}
    words: dict[str, list[int]] = {}
    for text, placeholder in _split(prompt, placeholders):
        for word, piece in _pieces(backbone.tokenizer, text):
            words.setdefault(word, []).append(1 + len(content))
            content.append(piece)
        if placeholder is not None:
            for vector in range(placeholders[placeholder]):
                positions.setdefault(placeholder, []).append(1 + len(content))
                content.append(first_ids[placeholder] + vector)

    end = min(1 + len(content), backbone.max_tokens - 1)
    for token, held in positions.items():
        if held[-1] >= end:
            raise PromptError(
                f"the base model reads {backbone.max_tokens - 2} tokens and {token} stands beyond them:"
                " shorten the prompt or name it earlier"
            )
    tokenizer = backbone.tokenizer
    ids = [tokenizer.bos_token_id, *content[: end - 1], tokenizer.eos_token_id]
    ids += [tokenizer.pad_token_id] * (backbone.max_tokens - len(ids))
    kept = {word: tuple(position for position in held if position < end) for word, held in words.items()}
    return TokenizedPrompt(
        ids=torch.tensor(ids),
        positions={token: tuple(held) for token, held in positions.items()},
        word_positions={word: held for word, held in kept.items() if held},
        end=end,
        dropped=max(0, 1 + len(content) - end),
    )


def dropped_tokens(
    backbone: Backbone, prompts: Iterable[str], placeholders: Mapping[str, int]
) -> dict[str, int]:
    """By prompt, how many tokens at its end the base model cannot read; prompts that fit are left out.

    Raises `PromptError` as `tokenize` does.
    """
    dropped = {prompt: tokenize(backbone, prompt, placeholders).dropped for prompt in prompts}
    return {prompt: count for prompt, count in dropped.items() if count}


def refuse_stray_brackets(prompt: str, expected: str) -> None:
    """Raise `PromptError` for an angle bracket that belongs to no placeholder, as in "<my cat>".

    The text encoder would read it as a plain word. `expected` says how concepts are written, for the message. Bytes
    that are no text are refused too.
    """
    _require_text(prompt)
    if stray := set(PLACEHOLDER.sub(" ", prompt)) & set("<>"):
        raise PromptError(
            f"the prompt has a '{min(stray)}' that belongs to no concept: write concepts as {expected},"
            " and no other angle brackets"
        )


def encode_prompts(backbone: Backbone, prompts: Sequence[TokenizedPrompt], rows: Tensor | None) -> Tensor:
    """Hidden states (B, S, D) float32 of prompts, with `rows` in the placeholders' places.

    Args:
        backbone: the base model.
        prompts: tokenised with the same placeholders.
        rows: (R, D) placeholder rows in the order given to `tokenize`; gradients reach them. None where no prompt
            holds a placeholder.
    """
    ids = torch.stack([prompt.ids for prompt in prompts]).to(backbone.device)  # (B, S)
    row_of = ids - len(backbone.vocabulary_embeddings)
    held = row_of >= 0
    if rows is None or not held.any():
        assert not held.any(), "prompts with placeholders need their rows"
        hidden_states: Tensor = backbone.text_encoder(input_ids=ids).last_hidden_state
        return hidden_states
    placeholder_rows = rows.to(backbone.device, torch.float32)

    def swap_in(module: nn.Module, args: Any, embeddings: Tensor) -> Tensor:
        swapped = placeholder_rows[row_of.clamp(min=0)]  # (B, S, D)
        return torch.where(held.unsqueeze(-1), swapped, embeddings)

    hook = backbone.text_encoder.get_input_embeddings().register_forward_hook(swap_in)
    try:
        hidden_states = backbone.text_encoder(input_ids=ids.masked_fill(held, 0)).last_hidden_state
    finally:
        hook.remove()
    return hidden_states


def initial_rows(backbone: Backbone, word: str, num_vectors: int) -> Tensor:
    """Starting rows (num_vectors, D) from an initializer word: the mean of its pieces, repeated; on the device.

    Raises:
        PromptError: the tokenizer makes nothing of the word.
    """
    pieces = [piece for _, piece in _pieces(backbone.tokenizer, word)]
    if not pieces:
        raise PromptError(
            f"the initializer word '{word}' holds no letters: choose a noun the base model knows"
        )
    mean = backbone.vocabulary_embeddings[pieces].mean(dim=0)
    return mean.detach().repeat(num_vectors, 1)


def unknown_words(backbone: Backbone, text: str) -> tuple[str, ...]:
    """Words of a prompt that the built-in model was not taught, placeholders left out.

    Its vocabulary holds whole words; any other is read in pieces that mean nothing to it. Other base models know most
    words in pieces, so of them nothing is said.
    """
    if backbone.version is None:
        return ()
    words = dict.fromkeys(word for word, _ in _pieces(backbone.tokenizer, PLACEHOLDER.sub(" ", text)))
    return tuple(word for word in words if word[:1].isalnum() and len(_pieces(backbone.tokenizer, word)) > 1)


def random_rows(backbone: Backbone, num_vectors: int, generator: torch.Generator) -> Tensor:
    """Starting rows (num_vectors, D) drawn from the vocabulary's mean and spread; on the device."""
    table = backbone.vocabulary_embeddings.detach()
    drawn = torch.randn(num_vectors, table.shape[1], generator=generator).to(table.device)
    return table.mean(dim=0) + vocabulary_spread(backbone) * drawn


def vocabulary_spread(backbone: Backbone) -> Tensor:
    """(D,) standard deviation of each embedding dimension over the vocabulary."""
    return backbone.vocabulary_embeddings.detach().std(dim=0)


def _split(prompt: str, placeholders: Mapping[str, int]) -> list[tuple[str, str | None]]:
    """Text and the placeholder after it, in turn; the last text has none."""
    segments: list[tuple[str, str | None]] = []
    start = 0
    for match in PLACEHOLDER.finditer(prompt):
        token = f"<{unicodedata.normalize('NFKC', match[1]).lower()}>"
        if token not in placeholders:
            known = ", ".join(placeholders) or "none"
            raise PromptError(
                f"the prompt names {match[0]}, which is not among the learned concepts: {known}"
            )
        segments.append((prompt[start : match.start()], token))
        start = match.end()
    return [*segments, (prompt[start:], None)]


def _pieces(tokenizer: Any, text: str) -> list[tuple[str, int]]:
    """(word, token id) of every piece of `text`."""
    _require_text(text)
    encoding = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).encodings[0]
    spans: dict[int, tuple[int, int]] = {}
    for word, (start, stop) in zip(encoding.word_ids, encoding.offsets, strict=True):
        first, last = spans.get(word, (start, stop))
        spans[word] = (min(first, start), max(last, stop))
    return [
        (text[slice(*spans[word])].strip().lower(), piece)
        for word, piece in zip(encoding.word_ids, encoding.ids, strict=True)
    ]


def _require_text(text: str) -> None:
    """Refuse half characters, which is how bytes of another encoding than the system's arrive."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"the text {text[:32]!r} holds bytes that are no UTF-8: write it in that encoding"
        ) from error
