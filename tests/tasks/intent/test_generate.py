"""The whole task with verbalizer words on a tiny decoder: it learns, repeats, resumes, predicts, and refuses."""

import json

import pytest
import torch
from layerselect import LayerSelectError
from layerselect.cli import main
from layerselect.tasks.intent import Predictor, run_intent

from tests.helpers import tiny_intent
from tests.tasks.intent.test_run import FILES, Interrupted, lines, outcome
from tests.tasks.intent.test_run import settings as run_settings

DOCUMENTS = 20


def settings(corpus, model, out, **changes):
    base = {"head": "generate", "lora_dropout": 0.0, "max_length": 96}
    return run_settings(corpus, model, out, **{**base, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory, llama_folder):
    """A finished run with LoRA, long enough to learn: (config, result)."""
    corpus = tiny_intent.corpus_file(tmp_path_factory.mktemp("larger"), documents=DOCUMENTS)
    out = tmp_path_factory.mktemp("runs") / "lora"
    options = {"adapter": "lora", "epochs": 14, "lr": 1e-2, "window": 0, "probe_every": 5, "measure_memory": True}
    config = settings(corpus, llama_folder, out, **options)
    torch.set_num_threads(1)
    return config, run_intent(config)


def test_it_learns_through_adapters_in_the_layers_alone(done):
    _, result = done
    for split in result.splits:
        # The ranking of the labels is learned on every machine. Which of two nearly equal logits is the larger one,
        # and with it F1, depends on how the machine rounds.
        assert split.model.macro_auprc > 0.9
        assert split.model.macro_f1 > 0.5 > 2 * split.reports["majority class"].macro_f1
    losses = [row["loss"] for row in lines(result.folder / "training.jsonl")]
    # The frozen head of random values leaves little room: its logits stay small, whatever the layers give it.
    assert losses[-1] < losses[0] - 0.3
    config = json.loads((result.folder / "adapter" / "adapter_config.json").read_text())
    assert config["task_type"] == "CAUSAL_LM"
    assert config["modules_to_save"] is None


def test_it_writes_the_files_of_a_run(done):
    _, result = done
    assert {path.name for path in result.folder.iterdir()} == FILES
    importance = json.loads((result.folder / "importance.json").read_text())
    assert importance["layer_names"] == [f"base_model.model.model.layers.{i}" for i in range(3)]
    assert importance["mode"] == "freeze"
    assert min(len(run["layers"]) for run in importance["trained"]) < 3
    assert result.training["saved_mb"] > 0


def test_predictions_are_those_of_the_saved_adapter(done, capsys):
    config, result = done
    records = {row["id"]: row for row in lines(result.folder / "predictions.jsonl")}
    rows = [row for row in tiny_intent.revisions(documents=DOCUMENTS) if row["id"] in records]
    for prediction in Predictor.load(result.folder).predict(rows, batch_size=7):
        record = records[prediction.id]
        assert prediction.labels == record["predicted"]
        assert list(prediction.scores.values()) == pytest.approx(list(record["scores"].values()), abs=2e-5)
        assert sum(prediction.scores.values()) == pytest.approx(1, abs=1e-5)
    capsys.readouterr()
    assert main(["predict", "--adapter", str(result.folder), "--input", config.data, "--threads", "1"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["labels"] for row in printed if row["id"] in records] == [
        records[row["id"]]["predicted"] for row in printed if row["id"] in records
    ]


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, corpus_path, llama_folder):
    def config(name):
        return settings(corpus_path, llama_folder, tmp_path / name, adapter="lora", probe_every=4)

    whole = outcome(run_intent(config("whole")))

    def stop_in_the_third_epoch(kind, record):
        if kind == "step" and record["step"] == 18:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_intent(config("broken"), on_event=stop_in_the_third_epoch)
    assert outcome(run_intent(config("broken"), resume=True)) == whole


def test_several_labels(tmp_path):
    """Sets of labels are written as lists. (On the demo's model, whose own head trains too: a list is long.)"""
    rows = tiny_intent.revisions(documents=DOCUMENTS)
    for row in rows:
        if row["intentions"] == ["clarity"]:
            row["intentions"] = ["clarity", "fluency"]
    corpus = tiny_intent.write_jsonl(tmp_path / "multi.jsonl", rows)
    result = run_intent(settings(corpus, "demo", tmp_path / "run", epochs=6, lr=2e-3, window=0))
    reports = result.splits[-1].reports
    assert reports["trained model"].macro_f1 > reports["majority class"].macro_f1 + 0.3
    predicted = [row["predicted"] for row in lines(result.folder / "predictions.jsonl")]
    assert ["clarity", "fluency"] in predicted
    meta = json.loads((result.folder / "adapter" / "layerselect.json").read_text())
    assert meta["answers"] == [[0], [1], [2], [0, 1]]
    assert next(Predictor.load(result.folder).predict(rows[:1])).labels == ["clarity", "fluency"]


@pytest.mark.parametrize("options", [{"adapter": "none"}, {"adapter": "dora", "format": "plain", "rule": "topk:k=1"}])
def test_the_demo_model_writes_too(tmp_path, corpus_path, options):
    result = run_intent(settings(corpus_path, "demo", tmp_path / "run", max_steps=3, **options))
    assert result.training["steps"] == 3
    assert len(list(Predictor.load(result.folder).predict(tiny_intent.revisions()[:3]))) == 3


def test_a_prompt_leaves_positions_for_the_label(tmp_path, corpus_path, llama_folder, caplog):
    config = json.loads((llama_folder / "config.json").read_text())
    folder = tmp_path / "short"
    folder.mkdir()
    for path in llama_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 20}))
    result = run_intent(settings(corpus_path, folder, tmp_path / "run", adapter="lora", max_steps=1))
    assert "--max-length 96 is lowered" in caplog.text
    meta = json.loads((result.folder / "adapter" / "layerselect.json").read_text())
    assert meta["max_length"] == 18  # a word and the end token stay


def test_an_encoder_is_refused(tmp_path, corpus_path, bert_folder):
    with pytest.raises(LayerSelectError, match="so cannot write: use a decoder .*--head classifier"):
        run_intent(settings(corpus_path, bert_folder, tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_train_is_refused(tmp_path, corpus_path, llama_folder):
    with pytest.raises(LayerSelectError, match="--rule none trains only what is new outside the layers"):
        run_intent(settings(corpus_path, llama_folder, tmp_path / "run", adapter="lora", rule="none"))
    with pytest.raises(LayerSelectError, match="--head words is not one of classifier, generate"):
        settings(corpus_path, llama_folder, tmp_path / "run", head="words")


def test_bottlenecks_write_too(tmp_path, corpus_path, llama_folder):
    result = run_intent(settings(corpus_path, llama_folder, tmp_path / "run", adapter="bottleneck", max_steps=3))
    assert len(list(Predictor.load(result.folder).predict(tiny_intent.revisions()[:3]))) == 3
