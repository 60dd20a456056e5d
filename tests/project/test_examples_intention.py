"""examples/intention_prediction.py runs from the corpus to a prediction."""

from __future__ import annotations

import pytest

from tests.helpers import tiny_intent
from tests.project.test_examples import load_example


@pytest.mark.parametrize("adapter", ["lora", "none"])
def test_it_trains_evaluates_and_predicts(tmp_path, capsys, adapter):
    corpus = tiny_intent.corpus_file(tmp_path, documents=30)
    model = tiny_intent.save_bert(tmp_path / "model")
    result = load_example("intention_prediction").main(str(corpus), str(model), adapter, 2, 12, tmp_path / "out")
    text = capsys.readouterr().out
    assert "3 layers; never trained and so trained whole: bert.pooler, classifier" in text
    assert text.count("of 12 steps") == 3
    assert 0 <= result["macro_f1"] <= 1
    assert result["predicted"][0] in tiny_intent.LABELS
    assert (tmp_path / "out" / "layerselect.json").exists()
