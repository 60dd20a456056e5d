"""Tokenizers that load and then cannot read a text."""

from __future__ import annotations

import json
import shutil

import pytest
from layerselect import LayerSelectError
from layerselect.models.load import load_classifier
from layerselect.models.tokenizers import load_tokenizer


@pytest.mark.parametrize(
    "load", [load_tokenizer, lambda folder: load_classifier(folder, ["a", "b"], multi_label=False)]
)
def test_a_panic_of_its_library_is_one_sentence(bert_folder, tmp_path, load):
    """The template asks for a special token of which nothing is said; Rust's panic is no Exception."""
    folder = shutil.copytree(bert_folder, tmp_path / "model")
    values = json.loads((folder / "tokenizer.json").read_text())
    cls = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [cls, text],
        "pair": [cls, text, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {},
    }
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(LayerSelectError, match="the tokenizer of .* is broken .*no entry found"):
        load(folder)
