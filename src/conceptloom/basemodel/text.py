"""Tokenizer and text encoder of the built-in model: CLIP's classes with a small vocabulary of our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BEGIN, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class TextConfig:
    """Shape of the text encoder; ``max_tokens`` counts begin and end."""

    width: int = 192
    layers: int = 3
    heads: int = 6
    max_tokens: int = 32


def build_tokenizer(words: Sequence[str], max_tokens: int) -> CLIPTokenizer:
    """A lower-casing byte-level BPE tokenizer that knows each of ``words`` whole and spells any other text.

    Padding is the end token, as in Stable Diffusion.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = whole_word_merges(words)
    symbols = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *("".join(pair) for pair in merges)]
    vocab = {symbol: index for index, symbol in enumerate(dict.fromkeys([*symbols, BEGIN, END]))}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,  # type: ignore[arg-type]  # annotated as strings, read as pairs
        bos_token=BEGIN,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=max_tokens,
    )


def whole_word_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until each of ``words`` is one symbol.

    Ties go to the alphabet, so the same words give the same ids everywhere: the trainer of the tokenizers library
    breaks ties by chance, and a vocabulary that moves between two processes would scramble a resumed training.
    """
    spelled = {word: [*word[:-1], f"{word[-1]}</w>"] for word in sorted(set(words))}
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for symbols in spelled.values() for pair in pairwise(symbols))
        if not counts:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word, symbols in spelled.items():
            spelled[word] = _merged(symbols, best)


def _merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for symbol in symbols:
        if joined and (joined[-1], symbol) == pair:
            joined[-1] += symbol
        else:
            joined.append(symbol)
    return joined


def build_text_encoder(tokenizer: CLIPTokenizer, config: TextConfig, seed: int) -> CLIPTextModel:
    """A fresh text encoder for the tokenizer's vocabulary."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=config.width,
                intermediate_size=4 * config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                max_position_embeddings=config.max_tokens,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                projection_dim=config.width,
            )
        )
