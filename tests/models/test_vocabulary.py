"""The tokenizer's words beside the model's embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.load import load_causal_lm, load_classifier
from layerselect.models.vocabulary import cover_tokens, embedding_rows, grow
from layerselect.tasks.intent import IntentConfig, Predictor, run_intent
from transformers import AutoTokenizer

from tests.helpers import tiny_intent


@pytest.fixture
def change(tmp_path: Path):
    """Saves a decoder whose tokenizer has been changed and whose embedding has not."""

    def changed(call) -> Path:
        folder = tiny_intent.save_llama(tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        call(tokenizer)
        tokenizer.save_pretrained(folder)
        return folder

    return changed


def test_a_padding_token_without_an_embedding_gives_way_to_the_end_token(change, caplog):
    folder = change(lambda t: t.add_special_tokens({"pad_token": "[EXTRA PAD]"}))
    loaded = load_classifier(folder, ["a", "b"], multi_label=False)
    assert loaded.tokenizer.pad_token == loaded.tokenizer.eos_token
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id < embedding_rows(loaded.model)
    assert "pads with '[EXTRA PAD]'" in caplog.text


def _without(*names: str):
    def call(tokenizer) -> None:
        for name in names:
            setattr(tokenizer, name, None)

    return call


def test_a_tokenizer_without_an_end_pads_with_what_it_has(change):
    loaded = load_classifier(change(_without("eos_token", "pad_token")), ["a", "b"], multi_label=False)
    assert loaded.tokenizer.pad_token in (loaded.tokenizer.unk_token, loaded.tokenizer.bos_token)


def test_a_writer_without_an_end_token_takes_the_one_of_its_configuration(change):
    folder = change(_without("eos_token"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [3, 2]}))
    loaded = load_causal_lm(folder)
    assert loaded.tokenizer.eos_token_id == 3


def test_nothing_to_pad_with_is_one_sentence(change):
    folder = change(
        _without("eos_token", "bos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
    )
    with pytest.raises(LayerSelectError, match="neither a padding nor an end token"):
        load_classifier(folder, ["a", "b"], multi_label=False)


@pytest.mark.parametrize("writes", [False, True])
def test_words_without_an_embedding_start_as_the_mean_of_the_others_wherever(change, caplog, writes):
    folder = change(lambda t: t.add_tokens(["zork", "blorb"]))
    rows = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        loaded = load_causal_lm(folder) if writes else load_classifier(folder, ["a", "b"], multi_label=False)
        before = embedding_rows(loaded.model)
        ids = loaded.tokenizer("a zork")["input_ids"]
        cover_tokens(loaded.model, loaded.tokenizer, [ids], "m")
        assert embedding_rows(loaded.model) == before + 2 == loaded.model.config.vocab_size
        rows.append(loaded.model.get_input_embeddings().weight[before:].detach().clone())
        loaded.model(input_ids=torch.tensor([ids]))
    assert torch.equal(*rows)
    assert torch.allclose(rows[0][0], loaded.model.get_input_embeddings().weight[:before].mean(dim=0))
    assert "holds 'zork'" in caplog.text


def test_nothing_is_resized_that_nobody_reads(change):
    loaded = load_classifier(change(lambda t: t.add_tokens(["zork"])), ["a", "b"], multi_label=False)
    before = embedding_rows(loaded.model)
    cover_tokens(loaded.model, loaded.tokenizer, [loaded.tokenizer("a b")["input_ids"], []], "m")
    grow(loaded.model, before - 3, "m")
    assert embedding_rows(loaded.model) == before


def test_a_run_over_words_without_embeddings_predicts_the_same_when_it_is_loaded(change, tmp_path):
    folder = change(lambda t: (t.add_special_tokens({"pad_token": "[EXTRA PAD]"}), t.add_tokens(["zork"])))
    rows = [{**row, "before": row["before"] + " zork"} for row in tiny_intent.revisions()]
    for row in rows:
        row["label"] = row.pop("intentions")[0]
    data = tiny_intent.write_jsonl(tmp_path / "c.jsonl", rows)
    run_intent(IntentConfig(data=str(data), model=str(folder), out=str(tmp_path / "run"), max_steps=2, device="cpu"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    by_id = {row["id"]: row for row in rows}
    found = list(Predictor.load(tmp_path / "run").predict([by_id[line["id"]] for line in lines]))
    for line, prediction in zip(lines, found, strict=True):
        assert prediction.scores == pytest.approx(line["scores"], abs=1e-5)
