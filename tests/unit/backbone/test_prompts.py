"""Prompts to tokens and hidden states."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from conceptloom.backbone import (
    Backbone,
    encode_prompts,
    initial_rows,
    random_rows,
    tokenize,
    unknown_words,
    vocabulary_spread,
)
from conceptloom.errors import PromptError
from conceptloom.seeding import noise

PLACEHOLDERS = {"<cat>": 1, "<dog>": 2, "<beach>": 1}
PLAIN_PROMPTS = [
    "",
    "a photo of a cat on the beach",
    "A PHOTO, of A dog's house; it's red!",
    "  two   spaces\nand a line  ",
    "unbekannte Wörter, 数字 42 ☃ and 5 < 6 but 8 > 7",
    "a photo of a cat and a dog " * 6,
]


@pytest.mark.parametrize("prompt", PLAIN_PROMPTS)
def test_without_placeholders_tokens_and_hidden_states_are_stable_diffusions(
    tiny_backbone: Backbone, tiny_folder, prompt: str
) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(tiny_folder / "tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(tiny_folder / "text_encoder").eval()
    expected = tokenizer(
        prompt, padding="max_length", max_length=32, truncation=True, return_tensors="pt"
    ).input_ids
    tokenized = tokenize(tiny_backbone, prompt, PLACEHOLDERS)
    assert tokenized.ids.tolist() == expected[0].tolist()
    with torch.no_grad():
        assert torch.equal(
            encode_prompts(tiny_backbone, [tokenized], None), text_encoder(expected).last_hidden_state
        )


def test_placeholder_ids_follow_the_vocabulary_in_the_order_of_the_rows(tiny_backbone: Backbone) -> None:
    first = len(tiny_backbone.vocabulary_embeddings)
    tokenized = tokenize(tiny_backbone, "<beach> <dog> <cat>", PLACEHOLDERS)
    assert tokenized.ids[1:5].tolist() == [first + 3, first + 1, first + 2, first]


def test_a_placeholder_holding_a_words_own_row_gives_that_words_hidden_states(
    tiny_backbone: Backbone,
) -> None:
    row = initial_rows(tiny_backbone, "cat", 1)
    swapped = encode_prompts(
        tiny_backbone, [tokenize(tiny_backbone, "a photo of a <x> and <x>", {"<x>": 1})], row
    )
    plain = encode_prompts(tiny_backbone, [tokenize(tiny_backbone, "a photo of a cat and cat", {})], None)
    assert torch.equal(swapped, plain)


def test_two_vectors_stand_side_by_side_in_order(tiny_backbone: Backbone) -> None:
    rows = torch.cat([initial_rows(tiny_backbone, word, 1) for word in ("cat", "red", "car", "beach")])
    prompt = tokenize(tiny_backbone, "a <dog>, <cat>", PLACEHOLDERS)
    plain = tokenize(tiny_backbone, "a red car, cat", {})
    assert torch.equal(
        encode_prompts(tiny_backbone, [prompt], rows), encode_prompts(tiny_backbone, [plain], None)
    )


@pytest.mark.parametrize(
    ("prompt", "positions"),
    [
        ("<cat>", {"<cat>": (1,)}),
        ("<cat> <cat>", {"<cat>": (1, 2)}),
        ("a <CAT> and <Dog>", {"<cat>": (2,), "<dog>": (4, 5)}),
        ("<cat><dog>", {"<cat>": (1,), "<dog>": (2, 3)}),
        ("red<cat>red", {"<cat>": (2,)}),
        ("< cat >", {"<cat>": (1,)}),
        ("a photo", {}),
    ],
)
def test_placeholders_are_found_wherever_they_stand(
    tiny_backbone: Backbone, prompt: str, positions: object
) -> None:
    assert tokenize(tiny_backbone, prompt, PLACEHOLDERS).positions == positions


def test_unicode_names_are_found_in_any_normal_form(tiny_backbone: Backbone) -> None:
    composed, decomposed = "<köter>", "<ko\u0308ter>"
    assert tokenize(tiny_backbone, f"a {decomposed}", {composed: 1}).positions == {composed: (2,)}


def test_a_word_of_the_vocabulary_that_looks_like_a_placeholder_is_not_what_it_means(
    fresh_backbone: Backbone,
) -> None:
    first = len(fresh_backbone.vocabulary_embeddings)
    fresh_backbone.tokenizer.add_tokens(["<cat>"])
    assert fresh_backbone.tokenizer("<cat>", add_special_tokens=False).input_ids == [first]
    tokenized = tokenize(fresh_backbone, "<dog> <cat>", {"<dog>": 1, "<cat>": 1})
    assert tokenized.ids[1:3].tolist() == [first, first + 1]
    assert tokenized.positions == {"<dog>": (1,), "<cat>": (2,)}


def test_a_look_alike_of_a_name_is_another_name(tiny_backbone: Backbone) -> None:
    with pytest.raises(PromptError, match="which is not among the learned concepts: <cat>"):
        tokenize(tiny_backbone, "a <c\u0430t>", {"<cat>": 1})  # Cyrillic a
    tokenized = tokenize(tiny_backbone, "<c\u0430t> <cat>", {"<cat>": 1, "<c\u0430t>": 1})
    assert tokenized.positions == {"<c\u0430t>": (1,), "<cat>": (2,)}


def test_right_to_left_names_stand_where_they_are_written(tiny_backbone: Backbone) -> None:
    tokenized = tokenize(tiny_backbone, "a <\u05d7\u05ea\u05d5\u05dc> red", {"<\u05d7\u05ea\u05d5\u05dc>": 1})
    assert (tokenized.positions, tokenized.word_positions["red"]) == (
        {"<\u05d7\u05ea\u05d5\u05dc>": (2,)},
        (3,),
    )


def test_bytes_that_are_no_text_are_refused_in_prompts_and_words(tiny_backbone: Backbone) -> None:
    with pytest.raises(PromptError, match="no UTF-8"):
        tokenize(tiny_backbone, "a <cat> \udcff", PLACEHOLDERS)
    with pytest.raises(PromptError, match="no UTF-8"):
        initial_rows(tiny_backbone, "\udcff", 1)


def test_words_know_their_positions(tiny_backbone: Backbone) -> None:
    tokenized = tokenize(tiny_backbone, "A cat, <dog> and a zebra", PLACEHOLDERS)
    assert tokenized.word_positions["a"] == (1, 7)
    assert tokenized.word_positions["cat"] == (2,)
    assert len(tokenized.word_positions["zebra"]) > 1
    assert tokenized.end == tokenized.word_positions["zebra"][-1] + 1
    assert tokenized.ids[tokenized.end] == tiny_backbone.tokenizer.eos_token_id


def test_an_unknown_placeholder_is_refused_with_the_known_ones(tiny_backbone: Backbone) -> None:
    with pytest.raises(PromptError, match=r"<bird>.*<cat>, <dog>, <beach>$"):
        tokenize(tiny_backbone, "a <bird>", PLACEHOLDERS)


def test_a_special_token_in_a_prompt_is_refused(tiny_backbone: Backbone) -> None:
    with pytest.raises(PromptError):
        tokenize(tiny_backbone, "a cat <|endoftext|> dog", PLACEHOLDERS)


def test_a_placeholder_beyond_the_token_limit_is_refused(tiny_backbone: Backbone) -> None:
    with pytest.raises(PromptError, match="30 tokens and <cat> stands beyond"):
        tokenize(tiny_backbone, "a " * 30 + "<cat>", PLACEHOLDERS)


def test_a_placeholder_whose_second_vector_is_cut_off_is_refused(tiny_backbone: Backbone) -> None:
    tokenize(tiny_backbone, "a " * 28 + "<dog>", PLACEHOLDERS)
    with pytest.raises(PromptError, match="<dog>"):
        tokenize(tiny_backbone, "a " * 29 + "<dog>", PLACEHOLDERS)


def test_plain_words_beyond_the_limit_are_dropped_and_counted(tiny_backbone: Backbone) -> None:
    tokenized = tokenize(tiny_backbone, "<cat> " + "a " * 34 + "dog", PLACEHOLDERS)
    assert tokenized.dropped == 6
    assert "dog" not in tokenized.word_positions
    assert len(tokenized.ids) == 32


def test_gradients_reach_the_rows_and_nothing_else(tiny_backbone: Backbone) -> None:
    rows = noise((4, tiny_backbone.embedding_dim), 0).requires_grad_()
    prompt = tokenize(tiny_backbone, "a <cat> and a <dog>", PLACEHOLDERS)
    encode_prompts(tiny_backbone, [prompt], rows).square().sum().backward()
    assert rows.grad is not None
    assert (rows.grad[:3].abs().amax(dim=1) > 0).all()
    assert not rows.grad[3].any()
    assert all(parameter.grad is None for parameter in tiny_backbone.text_encoder.parameters())


def test_learning_rows_leaves_the_vocabulary_table_bit_for_bit(tiny_backbone: Backbone) -> None:
    before = tiny_backbone.vocabulary_embeddings.clone()
    rows = torch.nn.Parameter(noise((4, tiny_backbone.embedding_dim), 0))
    start = rows.detach().clone()
    optimiser = torch.optim.AdamW([rows], lr=0.1)
    prompt = tokenize(tiny_backbone, "a <cat> and a <dog>", PLACEHOLDERS)
    for _ in range(3):
        optimiser.zero_grad()
        encode_prompts(tiny_backbone, [prompt], rows).square().sum().backward()
        optimiser.step()
    assert not torch.equal(rows, start)
    assert torch.equal(tiny_backbone.vocabulary_embeddings, before)


def test_the_hook_is_gone_after_an_exception(tiny_backbone: Backbone) -> None:
    prompt = tokenize(tiny_backbone, "a <cat>", PLACEHOLDERS)
    with pytest.raises(RuntimeError):
        encode_prompts(tiny_backbone, [prompt], torch.zeros(4, 5))
    assert not tiny_backbone.text_encoder.get_input_embeddings()._forward_hooks


def test_prompts_of_a_batch_do_not_touch_each_other(tiny_backbone: Backbone) -> None:
    rows = noise((4, tiny_backbone.embedding_dim), 0)
    prompts = [
        tokenize(tiny_backbone, text, PLACEHOLDERS) for text in ("a <cat>", "a dog", "<dog> on <beach>")
    ]
    together = encode_prompts(tiny_backbone, prompts, rows)
    alone = torch.cat([encode_prompts(tiny_backbone, [prompt], rows) for prompt in prompts])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_an_initializer_of_several_pieces_starts_at_their_mean(tiny_backbone: Backbone) -> None:
    pieces = tiny_backbone.tokenizer("zebra", add_special_tokens=False).input_ids
    assert len(pieces) > 1
    rows = initial_rows(tiny_backbone, "zebra", 2)
    expected = tiny_backbone.vocabulary_embeddings[pieces].mean(dim=0)
    torch.testing.assert_close(rows, expected.expand(2, -1))


def test_an_empty_initializer_is_refused(tiny_backbone: Backbone) -> None:
    with pytest.raises(PromptError, match="initializer"):
        initial_rows(tiny_backbone, "  ", 1)


def test_random_rows_have_the_vocabularys_mean_and_spread(tiny_backbone: Backbone) -> None:
    table = tiny_backbone.vocabulary_embeddings
    rows = random_rows(tiny_backbone, 4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(rows.std(dim=0), table.std(dim=0), rtol=0.06, atol=0)
    assert ((rows.mean(dim=0) - table.mean(dim=0)) / table.std(dim=0)).abs().max() < 0.08


def test_the_vocabularys_spread_is_per_dimension(tiny_backbone: Backbone) -> None:
    spread = vocabulary_spread(tiny_backbone)
    assert spread.shape == (tiny_backbone.embedding_dim,)
    column = tiny_backbone.vocabulary_embeddings[:, 7]
    assert spread[7] == pytest.approx(
        float((column - column.mean()).square().sum().div(len(column) - 1).sqrt()), rel=1e-5
    )


def test_of_another_base_model_no_word_is_called_unknown(tiny_backbone: Backbone) -> None:
    assert unknown_words(tiny_backbone, "terrier") == ()
