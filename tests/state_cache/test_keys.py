"""Keys: the same for the same example under any padding, different for anything that changes hidden states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layerselect.state_cache import keys_of
from layerselect.state_cache.padding import batch_of, examples_of, fits
from torch import Tensor

examples = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=7), min_size=1, max_size=5)


def padded(
    rows: list[list[int]], *, left: int = 0, right: int = 0, aligned: str = "right", positions: bool = True
) -> dict[str, Tensor]:
    """A batch with ``left`` and ``right`` further columns of padding, whose ids are arbitrary."""
    length = max(map(len, rows)) + left + right
    ids, mask = torch.full((len(rows), length), 7), torch.zeros(len(rows), length, dtype=torch.int64)
    for row, tokens in enumerate(rows):
        start = left if aligned == "right" else length - right - len(tokens)
        ids[row, start : start + len(tokens)] = torch.tensor(tokens)
        mask[row, start : start + len(tokens)] = 1
    batch = {"input_ids": ids, "attention_mask": mask}
    if positions:
        batch["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return batch


@given(examples, st.integers(0, 3), st.integers(0, 3), st.sampled_from(["left", "right"]))
def test_padding_does_not_matter_where_positions_are_told(rows, left, right, aligned):
    plainly = keys_of(padded(rows)).keys
    assert keys_of(padded(rows, left=left, right=right, aligned=aligned)).keys == plainly
    assert [keys_of(padded([row])).keys[0] for row in rows] == list(plainly)


@given(examples, st.integers(0, 3))
def test_padding_on_the_right_never_matters(rows, right):
    plainly = keys_of(padded(rows, positions=False)).keys
    assert keys_of(padded(rows, right=right, positions=False)).keys == plainly


@given(examples, st.integers(1, 3))
def test_padding_on_the_left_matters_where_the_model_counts_it(rows, left):
    plainly = keys_of(padded(rows, positions=False)).keys
    assert not set(keys_of(padded(rows, left=left, positions=False)).keys) & set(plainly)


@given(examples)
def test_keys_are_equal_exactly_for_equal_tokens(rows):
    found = keys_of(padded(rows)).keys
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            assert (found[i] == found[j]) == (one == other)


CHANGES = {
    "token types": lambda b: {**b, "token_type_ids": torch.ones_like(b["input_ids"])},
    "other token types": lambda b: {**b, "token_type_ids": torch.zeros_like(b["input_ids"])},
    "other positions": lambda b: {**b, "position_ids": b["position_ids"] + 1},
    "positions not told": lambda b: {k: v for k, v in b.items() if k != "position_ids"},
    "int32": lambda b: {**b, "input_ids": b["input_ids"].int()},
    "embeddings": lambda b: {**b, "inputs_embeds": torch.ones(*b["input_ids"].shape, 2)},
    "another mask": lambda b: {**b, "attention_mask": b["attention_mask"].clone().index_fill_(1, torch.tensor([1]), 0)},
    "an image for all": lambda b: {**b, "pixels": torch.ones(5, 5)},
}


def test_whatever_changes_hidden_states_changes_keys():
    batch = padded([[1, 2, 3], [4, 5]], left=1)
    seen = [keys_of(change(batch)).keys for change in ({"nothing": lambda b: b} | CHANGES).values()]
    keys = [key for batch_keys in seen for key in batch_keys]
    assert len(set(keys)) == len(keys)


def test_what_says_nothing_about_hidden_states_does_not_count():
    batch = padded([[1, 2, 3], [4, 5]])
    extra = {
        "labels": torch.tensor([1, 0]),
        "return_dict": True,
        "num_items_in_batch": torch.tensor(5),
        "logits_to_keep": 1,
    }
    assert keys_of({**batch, **extra}).keys == keys_of(batch).keys


def test_one_row_of_positions_is_that_of_all():
    batch = padded([[1, 2, 3], [4, 5, 6]])
    assert keys_of({**batch, "position_ids": torch.arange(3)[None]}).keys == keys_of(batch).keys


def test_a_decoders_inputs_have_keys_of_their_own():
    encoder = padded([[1, 2], [1, 2]], positions=False)
    labels = torch.tensor([[3, 4], [3, 5]])
    one, other = keys_of({**encoder, "labels": labels}, 2).keys
    assert one != other
    told = {
        "decoder_input_ids": torch.tensor([[0, 3], [0, 3]]),
        "decoder_attention_mask": torch.tensor([[1, 1], [1, 0]]),
    }
    found = keys_of({**encoder, "labels": labels, **told}, 2)
    assert found.keys[0] != found.keys[1]
    assert found.masks[1].tolist() == [[True, True], [True, False]]
    assert keys_of({**encoder, "labels": labels.flip(0), **told}, 2).keys == found.keys


@given(examples, st.integers(0, 3))
def test_padding_of_labels_does_not_matter_where_they_are_shifted(rows, more):
    targets = [row[::-1] for row in rows]

    def seq2seq(right: int) -> dict[str, Tensor]:
        wide = padded(targets, right=right, positions=False)
        labels = wide["input_ids"].masked_fill(wide["attention_mask"] == 0, -100)
        return {**padded(rows, positions=False), "labels": labels}

    plainly, wider = (keys_of(seq2seq(right), 2, shifts_labels=True) for right in (0, more))
    assert plainly.keys == wider.keys
    assert [int(mask.sum()) for mask in plainly.masks[1]] == [len(row) for row in rows]
    above = [keys_of(seq2seq(right), 2, decoder_below=False).keys for right in (0, more)]
    assert above[0] == above[1] == keys_of(padded(rows, positions=False)).keys


def test_labels_that_do_not_count_are_read_where_a_decoder_is_given_them():
    batch = padded([[1, 2, 3]], positions=False)
    labels = torch.tensor([[4, 5, 6, -100]])
    seen = {keys_of({**batch, "labels": labels}, 2, shifts_labels=True).keys}
    for place in range(3):
        seen.add(
            keys_of({**batch, "labels": labels.index_fill(1, torch.tensor([place]), -100)}, 2, shifts_labels=True).keys
        )
    assert len(seen) == 4


def test_what_a_decoder_makes_its_inputs_of_counts_with_its_padding():
    """No inputs for it and no tokens for labels: it may read the encoder's, padding included."""
    one, other = (keys_of(padded([[1, 2]], right=right, positions=False), 2) for right in (0, 2))
    assert one.keys != other.keys
    changed = padded([[1, 2]], right=2, positions=False)
    changed["input_ids"][0, 3] = 5
    assert keys_of(changed, 2).keys != other.keys


def test_several_kinds_of_positions_are_those_of_their_examples():
    """[3, B, T], as vision models have them, with as many examples as kinds."""
    batch = padded([[1, 2], [1, 2], [1, 2]], positions=False)
    positions = torch.arange(2).expand(3, 3, 2).clone()
    positions[:, 1] += 5  # of the second example
    first, second, third = keys_of({**batch, "position_ids": positions}).keys
    assert first == third != second


def test_the_first_token_behind_padding():
    batch = padded([[1, 2], [1, 2, 3]], aligned="left")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    assert keys_of({**batch, "labels": labels}).asks_padding
    assert not keys_of({**batch, "labels": labels.index_fill(1, torch.tensor([1]), -100)}).asks_padding
    assert not keys_of({**padded([[1, 2], [1, 2, 3]]), "labels": labels}).asks_padding


@given(examples, st.integers(0, 2), st.integers(0, 2), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_states_survive_taking_padding_off_and_on(rows, left, right, dtype):
    batch = padded(rows, left=left, right=right)
    mask = batch["attention_mask"] != 0
    states = torch.randn(*mask.shape, 3).to(dtype)
    parts = examples_of([states], [mask])
    assert [len(part[0]) for part in parts] == [len(row) for row in rows]
    assert all(fits(part, [mask], row) for row, part in enumerate(parts))
    (back,) = batch_of(parts, [mask], [dtype])
    assert torch.equal(back, states.masked_fill(~mask[..., None], 0))
    other = torch.zeros_like(mask)
    assert not any(fits(part, [other], row) for row, part in enumerate(parts))


def test_a_call_without_tensors():
    with pytest.raises(Exception, match="without a tensor"):
        keys_of({"return_dict": True})
