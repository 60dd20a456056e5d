"""Revising new text: white space, long texts in pieces, intentions, adapters of another task."""

import pytest
from layerselect import LayerSelectError
from layerselect.tasks.revise import GenerationConfig, Rewriter
from layerselect.tasks.revise import rewrite as rewrite_module


@pytest.fixture(scope="module")
def rewriter(done):
    return Rewriter.load(done.folder)


def test_texts_are_revised_in_their_order_and_again_the_same(rewriter):
    texts = ["The baker watches the market in the evening .", "", "  A fox finds a lantern in teh evening .\n"]
    first = rewriter.rewrite(texts, ["fluency"])
    assert first[1] == ""
    assert first[2].startswith("  ") and first[2].endswith("\n")
    assert rewriter.rewrite(texts, ["fluency"], batch_size=1) == first
    assert [rewriter.rewrite([text], ["fluency"])[0] for text in texts] == first


def test_a_long_text_is_revised_piece_by_piece_and_nothing_of_it_is_lost(rewriter, monkeypatch):
    seen = []

    def generate(model, tokenizer, asked, config, *, budgets, **options):
        seen.extend(asked)
        return [f"piece{number}" for number in range(len(asked))]

    monkeypatch.setattr(rewrite_module, "generate", generate)
    sentence = "The baker watches the market in the evening . "
    text = "\n" + sentence * 30
    (revised,) = rewriter.rewrite([text])
    assert len(seen) > 1
    assert revised == "\n" + " ".join(f"piece{number}" for number in range(len(seen))) + " "
    assert all(len(ids) <= rewriter.max_length + 60 for ids in seen)


def test_an_unknown_intention_names_the_known_ones(rewriter):
    with pytest.raises(LayerSelectError, match="'speed' is none .*: clarity, fluency, style"):
        rewriter.rewrite(["x"], ["speed"])


def test_sampling_repeats_with_its_seed(rewriter):
    texts = ["The baker watches the market in the evening ."] * 2
    how = GenerationConfig(sample=True, temperature=2.0, seed=3)
    assert rewriter.rewrite(texts, generation=how) == rewriter.rewrite(texts, generation=how)


def test_a_predictor_is_no_generator(predictor):
    with pytest.raises(LayerSelectError, match="task 'intent', not 'revise': pass one that 'layerselect revise' made"):
        Rewriter.load(predictor)
