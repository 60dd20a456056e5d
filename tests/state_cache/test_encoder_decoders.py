"""Encoder-decoders under any padding of either side, with decoder inputs of every origin."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from layerselect.layers.find import layer_modules
from layerselect.state_cache import StateCache
from torch import Tensor, nn

from tests.helpers.models import VOCABULARY, hugging_face

Batch = dict[str, Tensor]
_BART = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}


def build(name: str) -> nn.Module:
    import transformers

    torch.manual_seed(0)
    if name == "t5":
        model = hugging_face("t5")
    elif name == "bart":
        model = transformers.BartForConditionalGeneration(transformers.BartConfig(**_BART))
    elif name == "mbart":
        model = transformers.MBartForConditionalGeneration(transformers.MBartConfig(**_BART))
    elif name == "umt5":
        model = transformers.UMT5ForConditionalGeneration(
            transformers.UMT5Config(
                d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=VOCABULARY, decoder_start_token_id=0
            )
        )
    elif name == "bert2bert":
        part = transformers.BertConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=VOCABULARY
        )
        config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(part, part)
        config.decoder_start_token_id, config.pad_token_id = 1, 0
        model = transformers.EncoderDecoderModel(config)
    else:
        model = transformers.BartForSequenceClassification(transformers.BartConfig(**_BART))
    return model.eval()


def prepared(name: str, cut: int) -> nn.Module:
    """Only what is above the cut trains."""
    model = build(name)
    layers = layer_modules(model)
    model.requires_grad_(False)
    for layer in layers[cut:]:
        layer.requires_grad_(True)
    return model


def padded(rows: Sequence[Tensor], length: int, side: str, value: int = 0) -> tuple[Tensor, Tensor]:
    ids, mask = torch.full((len(rows), length), value), torch.zeros(len(rows), length, dtype=torch.int64)
    for row, tokens in enumerate(rows):
        place = slice(0, len(tokens)) if side == "right" else slice(length - len(tokens), length)
        ids[row, place], mask[row, place] = tokens, 1
    return ids, mask


def rows(seed: int, lengths: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]


def batch_of(
    sources: Sequence[Tensor], targets: Sequence[Tensor], more: int, *, side: str = "right", decoder: str = "labels"
) -> Batch:
    ids, mask = padded(sources, max(map(len, sources)) + more, side)
    labels, target_mask = padded(targets, max(map(len, targets)) + more, "right", -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    if decoder != "labels":
        shifted = torch.cat([torch.ones(len(labels), 1, dtype=torch.int64), labels[:, :-1].clamp(min=0)], dim=1)
        batch["decoder_input_ids"] = shifted
    if decoder == "mask":
        batch["decoder_attention_mask"] = target_mask
    return batch


@pytest.mark.parametrize("decoder", ["labels", "ids", "mask"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.parametrize("name", ["t5", "umt5", "bart", "mbart", "bert2bert"])
def test_any_padding(name: str, cut: int, side: str, decoder: str):
    """Every epoch pads both sides further; the losses are those without a store, and so are the gradients."""
    sources, targets = rows(1, (5, 9, 7, 4)), rows(2, (3, 6, 2, 4))
    plainly, model = prepared(name, cut), prepared(name, cut)
    with StateCache(model, cut) as state_cache:
        for epoch, order in enumerate([(0, 1, 2, 3), (2, 0, 3, 1), (3, 1, 0, 2), (0, 1, 2, 3)]):
            more = (0, 1, 3, 0)[epoch]
            for pair in (order[:2], order[2:]):
                batch = batch_of(
                    [sources[i] for i in pair], [targets[i] for i in pair], more, side=side, decoder=decoder
                )
                ours, theirs = model(**batch), plainly(**batch)
                torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-6)
                valid = batch["labels"] != -100
                torch.testing.assert_close(ours.logits[valid], theirs.logits[valid], rtol=1e-4, atol=1e-5)
                ours.loss.backward()
                theirs.loss.backward()
        if side == "right" and (decoder != "ids" or cut == 1):
            assert (state_cache.filled, state_cache.read) == (4, 12)
    for (parameter_name, one), (_, other) in zip(model.named_parameters(), plainly.named_parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=parameter_name)


@pytest.mark.parametrize("cut", [1, 3])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_decoder_that_is_given_what_the_encoder_is(cut: int, side: str):
    """BART for classification: no decoder inputs and no tokens for labels."""
    sources = [torch.cat([row, torch.tensor([2])]) for row in rows(1, (5, 9, 7, 4))]
    plainly, model = build("classifier").requires_grad_(False), build("classifier").requires_grad_(False)
    with StateCache(model, cut) as state_cache:
        for more in (0, 2, 0, 1):
            for pair in ((0, 1), (2, 3), (1, 3)):
                ids, mask = padded([sources[i] for i in pair], max(len(sources[i]) for i in pair) + more, side)
                batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([0, 1])}
                torch.testing.assert_close(model(**batch).logits, plainly(**batch).logits, rtol=1e-4, atol=1e-6)
        assert state_cache.read > 0


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_labels_that_are_left_out_in_the_middle(name: str):
    plainly, model = build(name).requires_grad_(False), build(name).requires_grad_(False)
    sources, targets = rows(1, (5, 9)), rows(2, (6, 4))
    with StateCache(model, 3) as state_cache:
        for hidden in (None, 1, 2, 1):
            batch = batch_of(sources, targets, 2)
            if hidden is not None:
                batch["labels"][:, hidden] = -100
            torch.testing.assert_close(model(**batch).loss, plainly(**batch).loss, rtol=1e-5, atol=1e-6)
        assert (state_cache.filled, state_cache.read) == (6, 2)
        batch["labels"][0] = -100
        torch.testing.assert_close(model(**batch).loss, plainly(**batch).loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_an_encoder_that_has_run_and_generation(name: str):
    plainly, model = build(name).requires_grad_(False), build(name).requires_grad_(False)
    batch = batch_of(rows(1, (5, 9)), rows(2, (3, 6)), 1)
    source = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with StateCache(model, 3):
        for _ in range(2):
            encoded = model.get_encoder()(**source)
            found = model(encoder_outputs=encoded, attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
            assert torch.equal(found, plainly(**batch).loss)
            assert torch.equal(model(**batch).loss, plainly(**batch).loss)
            for use_cache in (True, False):
                more = {"max_new_tokens": 4, "do_sample": False, "use_cache": use_cache}
                assert torch.equal(model.generate(**source, **more), plainly.generate(**source, **more))
