"""What a text holds is text, whatever the tokenizer's own marks are."""

from __future__ import annotations

import random

import pytest
from layerselect import LayerSelectError
from layerselect.models.reading import blank_token, read_tokens
from layerselect.models.tokenizers import load_tokenizer
from layerselect.tasks.intent.dataset import Encoder
from layerselect.tasks.text.completions import completion_tokens, prompt_tokens
from layerselect.tasks.text.formats import InputFormat


@pytest.fixture(params=["bert", "llama"])
def tokenizer(request, bert_folder, llama_folder):
    return load_tokenizer({"bert": bert_folder, "llama": llama_folder}[request.param])


@pytest.mark.parametrize("text", ["a [SEP] b", "[SEP]", "a[CLS]", "x [PAD] [UNK]"])
def test_a_mark_inside_a_text_is_not_the_tokenizers(tokenizer, text):
    marks = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    inside = read_tokens(tokenizer, text, add_special_tokens=False)["input_ids"]
    assert inside
    assert not marks & set(inside)
    # The next text is read as ever.
    assert tokenizer.sep_token_id is None or tokenizer.sep_token_id in tokenizer("a")["input_ids"]


def test_an_end_in_a_text_does_not_end_what_is_written(llama_folder):
    tokenizer = load_tokenizer(llama_folder)
    end = tokenizer.eos_token_id
    assert completion_tokens(tokenizer, "Revised:", "a [SEP] b").count(end) == 1
    assert end not in prompt_tokens(tokenizer, "a [SEP]")


@pytest.mark.parametrize("text", ["\ud800", "a \udfff b"])
def test_what_the_tokenizer_cannot_read_is_one_sentence(tokenizer, text):
    with pytest.raises(LayerSelectError, match="tokenizer cannot read the text") as caught:
        read_tokens(tokenizer, text)
    str(caught.value).encode("ascii")


def test_a_row_that_cannot_be_read_is_named(llama_folder):
    tokenizer = load_tokenizer(llama_folder)
    encoder = Encoder(tokenizer, InputFormat("pair"), ["a", "b"], 16, None)
    for row, words in (
        ({"id": "r7", "before": "\ud800", "after": "b"}, "row 'r7': .*cannot read"),
        ({"id": "r8", "before": None, "after": "b"}, "row 'r8' has no text as its 'before'"),
        ({"id": "r9", "before": "a"}, "row 'r9' has no text as its 'after'"),
    ):
        with pytest.raises(LayerSelectError, match=words):
            encoder([row])


def test_an_empty_text_is_a_token_that_is_none(llama_folder):
    tokenizer = load_tokenizer(llama_folder)
    (feature,) = Encoder(tokenizer, InputFormat("pair"), ["a", "b"], 16, None)([{"id": 1, "before": "", "after": ""}])
    assert feature == {"input_ids": [blank_token(tokenizer)], "attention_mask": [1]}


@pytest.mark.parametrize("second", ["short", "bc " * 30_000, "y" * 70_000])
def test_a_long_pair_makes_no_piece_of_each_pair_of_pieces(tokenizer, second):
    for text in ("a b " * 20_000, "x" * 70_000):
        read = read_tokens(tokenizer, text, second, truncation=True, max_length=16)
        assert len(read["input_ids"]) <= 16
        # Of the pieces of 70,000 letters there would be millions of pairs.
        assert len(read.encodings[0].overflowing) < 10_000


@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_of_a_pair_is_the_same(tokenizer, monkeypatch, seed):
    draw = random.Random(seed)
    words = ["plan", "old", "x" * draw.randint(1, 90), "é", "中文", ".", "\n", "  ", "🙂"]
    text, second = (" ".join(draw.choices(words, k=draw.randint(1, 400))) for _ in range(2))
    whole = tokenizer(text, second, truncation=True, max_length=24)
    monkeypatch.setattr("layerselect.models.reading._PIECES", 0)
    assert read_tokens(tokenizer, text, second, truncation=True, max_length=24)["input_ids"] == whole["input_ids"]
