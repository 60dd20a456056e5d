import json
import shutil

import pytest
from layerselect import LayerSelectError
from layerselect.models.adapters import AdapterConfig, add_adapter
from layerselect.models.load import load_classifier
from layerselect.tasks.intent import Encoder, Predictor, save_adapter
from layerselect.tasks.text.formats import InputFormat

from tests.helpers import tiny_intent
from tests.helpers.tiny_intent import LABELS


def save(bert_folder, folder, kind="lora", **options):
    loaded = load_classifier(bert_folder, LABELS, multi_label=False)
    model = add_adapter(loaded, AdapterConfig(kind, rank=2))
    encoder = Encoder(loaded.tokenizer, InputFormat("edits", window=1), LABELS, 32, None)
    save_adapter(folder, model, encoder, base_model=str(bert_folder), kind=kind, multi_label=False)
    return folder


@pytest.mark.parametrize("kind", ["lora", "none"])
def test_what_was_saved_is_what_is_loaded(tmp_path, bert_folder, kind):
    folder = save(bert_folder, tmp_path / "adapter", kind)
    for place in (folder, tmp_path):  # the adapter's folder or that of its run
        predictor = Predictor.load(place)
        assert predictor.labels == LABELS
        assert predictor.encoder.form == InputFormat("edits", window=1)
        assert predictor.encoder.max_length == 32
    prediction = next(predictor.predict([{"id": 4, "before": "a", "after": "b"}]))
    assert prediction.id == "4"
    assert sum(prediction.scores.values()) == pytest.approx(1, abs=1e-5)
    assert prediction.labels == [max(prediction.scores, key=prediction.scores.get)]


def test_the_batch_size_changes_nothing(tmp_path, bert_folder):
    predictor = Predictor.load(save(bert_folder, tmp_path / "adapter"))
    rows = tiny_intent.revisions()[:10]
    one, many = (list(predictor.predict(rows, batch_size=size)) for size in (1, 10))
    for left, right in zip(one, many, strict=True):
        assert left.id == right.id
        assert list(left.scores.values()) == pytest.approx(list(right.scores.values()), abs=1e-5)


def test_a_model_that_has_moved_is_found_with_model(tmp_path, bert_folder):
    base = tmp_path / "base"
    shutil.copytree(bert_folder, base)
    folder = save(base, tmp_path / "adapter")
    base.rename(tmp_path / "moved")
    with pytest.raises(LayerSelectError, match="give its place with --model"):
        Predictor.load(folder)
    assert Predictor.load(folder, model=tmp_path / "moved").labels == LABELS


def test_the_wrong_model_is_named(tmp_path, bert_folder, llama_folder):
    folder = save(bert_folder, tmp_path / "adapter")
    other = tiny_intent.save_bert(tmp_path / "other", layers=2)
    with pytest.raises(LayerSelectError, match="trained on another model: num_hidden_layers is 2 here and was 3"):
        Predictor.load(folder, model=other)
    with pytest.raises(LayerSelectError, match="trained on another model: model_type is 'llama' here and was 'bert'"):
        Predictor.load(folder, model=llama_folder)


def test_a_whole_model_takes_no_other(tmp_path, bert_folder):
    folder = save(bert_folder, tmp_path / "adapter", "none")
    with pytest.raises(LayerSelectError, match="leave --model out"):
        Predictor.load(folder, model=bert_folder)


def _other_schema(folder):
    meta = json.loads((folder / "layerselect.json").read_text())
    (folder / "layerselect.json").write_text(json.dumps({**meta, "schema": 99}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "there is no folder"),
        (lambda folder: (folder / "layerselect.json").unlink(), "holds no adapter of layerselect"),
        (lambda folder: (folder / "layerselect.json").write_text("{"), "is damaged"),
        (_other_schema, "is of another version of layerselect"),
        (
            lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 64),
            "adapter_model.safetensors' is damaged",
        ),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "adapter_config.json' is damaged"),
    ],
)
def test_a_damaged_adapter_is_one_sentence(tmp_path, bert_folder, damage, words):
    folder = save(bert_folder, tmp_path / "adapter")
    damage(folder)
    with pytest.raises(LayerSelectError, match=words) as caught:
        Predictor.load(folder)
    assert "\n" not in str(caught.value)


BAD = {
    "a lone surrogate": ({"before": "a \ud800", "after": "b"}, "tokenizer cannot read"),
    "no text": ({"before": None, "after": "b"}, "no text as its 'before'"),
    "a column missing": ({"before": "a"}, "no text as its 'after'"),
    "a number": ({"before": "a", "after": 3}, "no text as its 'after'"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_a_bad_row_takes_no_other_with_it(tmp_path, bert_folder, kind, batch_size):
    predictor = Predictor.load(save(bert_folder, tmp_path / "adapter"))
    good = tiny_intent.revisions()[:6]
    row, words = BAD[kind]
    found = list(predictor.predict([*good[:3], {"id": "bad", **row}, *good[3:]], batch_size=batch_size))
    assert [prediction.id for prediction in found] == [
        *(row["id"] for row in good[:3]),
        "bad",
        *(row["id"] for row in good[3:]),
    ]
    assert words in found[3].error
    assert found[3].as_dict() == {"id": "bad", "labels": [], "scores": {}, "error": found[3].error}
    for left, right in zip([*found[:3], *found[4:]], predictor.predict(good), strict=True):
        assert left.error is None
        assert "error" not in left.as_dict()
        assert left.scores == pytest.approx(right.scores, abs=1e-5)


def test_a_row_that_the_model_cannot_read_is_told_from_the_others(tmp_path, bert_folder):
    predictor = Predictor.load(save(bert_folder, tmp_path / "adapter"))
    rows = tiny_intent.revisions()[:4]
    longest = max(range(4), key=lambda i: len(predictor.encoder.encode(rows[i])["input_ids"]))
    limit = len(predictor.encoder.encode(rows[longest])["input_ids"])
    inner = predictor.head.logits

    def logits(model, inputs):
        if inputs["input_ids"].shape[1] >= limit:
            raise IndexError("index out of range in self")
        return inner(model, inputs)

    predictor.head.logits = logits
    found = list(predictor.predict(rows))
    assert "the model cannot read it (IndexError" in found[longest].error
    assert sum(prediction.error is None for prediction in found) >= 1


def test_words_that_came_after_the_training_and_have_no_embedding(tmp_path, bert_folder):
    predictor = Predictor.load(save(bert_folder, tmp_path / "adapter"))
    predictor.encoder.tokenizer.add_tokens(["zork"])
    found = list(predictor.predict([{"id": 1, "before": "zork", "after": "a"}, *tiny_intent.revisions()[:2]]))
    assert "'zork', for which the model has no embedding" in found[0].error
    assert found[1].error is None is found[2].error


def test_the_command_counts_what_it_could_not_label(tmp_path, bert_folder, capsys):
    from layerselect.cli.main import main

    folder = save(bert_folder, tmp_path / "adapter")
    loaded = tiny_intent.revisions()[:2]
    lines = [json.dumps({"id": "x", "before": "a \ud800", "after": "b"}), *map(json.dumps, loaded)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    status = main(
        ["predict", "--adapter", str(folder), "--input", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out")]
    )
    said = capsys.readouterr().err
    assert status == 0
    assert "Traceback" not in said
    written = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["id"] for line in written][-2:] == [row["id"] for row in loaded]
    assert len(written) == 2 or ("error" in written[0] and "1 of 3 revisions could not be labelled" in said)
