"""Tokenizer and text encoder of the built-in model: CLIP's classes with a small vocabulary of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
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
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        min_frequency=1,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(sorted(set(words)), trainer)
    merges = _merges(learner)
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


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]


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
