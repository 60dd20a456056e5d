"""The whole task on tiny models: what it writes, that it learns, repeats, resumes, and refuses."""

import json

import numpy as np
import pytest
from layerselect import LayerSelectError
from layerselect.tasks.intent import IntentConfig, Predictor, run_intent
from safetensors.numpy import load_file

from tests.helpers import tiny_intent

FILES = {
    "adapter",
    "config.json",
    "history.safetensors",
    "importance.json",
    "metrics.jsonl",
    "predictions.jsonl",
    "report.html",
    "results.json",
    "training.jsonl",
}


def settings(corpus, model, out, **changes):
    """A run of a few seconds. Its answers are the model's own: a regression on words solves the corpus."""
    base = {
        "adapter": "none",
        "epochs": 3,
        "batch_size": 8,
        "lr": 3e-3,
        "dropout": 0.0,
        "device": "cpu",
        "blend": "none",
    }
    return IntentConfig(data=str(corpus), model=str(model), out=str(out), **{**base, **changes})


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory, bert_folder):
    """One finished run with LoRA, long enough to learn: (config, result)."""
    folder = tmp_path_factory.mktemp("runs")
    corpus = tiny_intent.corpus_file(tmp_path_factory.mktemp("larger"), documents=30)
    config = settings(
        corpus,
        bert_folder,
        folder / "lora",
        adapter="lora",
        lora_dropout=0.0,
        lr=3e-3,
        epochs=12,
        window=0,
        measure_memory=True,
        probe_every=5,
    )
    return config, run_intent(config)


def test_it_learns(done):
    _, result = done
    for split in result.splits:
        assert split.model.macro_f1 > 0.9
        assert split.reports["majority class"].macro_f1 < 0.3


def test_it_writes_the_files_of_a_run_and_nothing_else(done):
    _, result = done
    assert {path.name for path in result.folder.iterdir()} == FILES
    assert {path.name for path in result.folder.parent.iterdir()} == {result.folder.name}
    assert not list(result.folder.rglob("*.bin"))
    assert not list(result.folder.rglob("*.pt"))


def test_metrics_lines(done):
    _, result = done
    rows = lines(result.folder / "metrics.jsonl")
    during, final = [r for r in rows if "final" not in r], [r for r in rows if "final" in r]
    assert [row["epoch"] for row in during] == list(range(1, 13))
    assert {row["split"] for row in final} == {"validation", "test"}
    for row in rows:
        assert {"split", "step", "epoch", "macro_f1", "macro_auprc", "accuracy", "loss"} <= set(row)
    best = max(during, key=lambda row: row["macro_f1"])
    kept = next(row for row in final if row["split"] == "validation")
    assert kept["macro_f1"] == best["macro_f1"]
    assert kept["step"] == best["step"] == result.training["kept_step"]


def test_importance_agrees_with_the_history(done):
    _, result = done
    importance = json.loads((result.folder / "importance.json").read_text())
    history = load_file(result.folder / "history.safetensors")
    assert importance["layer_names"] == [f"base_model.model.bert.encoder.layer.{i}" for i in range(3)]
    assert importance["steps"] == result.training["steps"] == len(history["step"])
    assert importance["frequency"] == history["mask"].sum(axis=0).tolist()
    unrolled = [run["layers"] for run in importance["selections"] for _ in range(run["first"], run["last"] + 1)]
    assert unrolled == [np.flatnonzero(mask).tolist() for mask in history["mask"]]
    assert importance["rule"]["name"] == "variance"
    assert importance["mode"] == "freeze"


def test_freezing_was_real(done):
    """In mode freeze some step trained fewer layers than all, and the probes trained all of them."""
    _, result = done
    trained = load_file(result.folder / "history.safetensors")["trained"].sum(axis=1)
    assert trained.min() < 3
    assert trained.max() == 3
    assert result.training["saved_mb"] > 0


def test_predictions_are_those_of_the_saved_adapter(done):
    _, result = done
    records = {row["id"]: row for row in lines(result.folder / "predictions.jsonl")}
    rows = [row for row in tiny_intent.revisions(documents=30) if row["id"] in records]
    assert len(rows) == len(records)
    for prediction in Predictor.load(result.folder).predict(rows, batch_size=7):
        record = records[prediction.id]
        assert prediction.labels == record["predicted"]
        assert list(prediction.scores.values()) == pytest.approx(list(record["scores"].values()), abs=2e-5)


def test_results_name_the_baselines_and_the_labels(done):
    _, result = done
    results = json.loads((result.folder / "results.json").read_text())
    assert set(results["splits"]["test"]["reports"]) == {"majority class", "logistic regression", "trained model"}
    assert [row["label"] for row in results["splits"]["test"]["reports"]["trained model"]["rows"]] == tiny_intent.LABELS


def outcome(result):
    """What must be the same when a run is repeated."""
    folder = result.folder
    return (
        (folder / "predictions.jsonl").read_bytes(),
        (folder / "metrics.jsonl").read_bytes(),
        (folder / "importance.json").read_bytes(),
        (folder / "history.safetensors").read_bytes(),
        (folder / "training.jsonl").read_bytes(),
    )


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path, corpus_path, bert_folder, adapter):
    def run(name, seed):
        options = {"adapter": adapter, "epochs": 2, "dropout": 0.1, "seed": seed}
        return outcome(run_intent(settings(corpus_path, bert_folder, tmp_path / name, **options)))

    first = run("a", 5)
    assert run("b", 5) == first
    assert run("c", 6)[0] != first[0]


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("adapter", "save_steps", "begins"), [("none", 0, 16), ("lora", 4, 20)])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, corpus_path, bert_folder, adapter, save_steps, begins):
    def config(name):
        return settings(
            corpus_path,
            bert_folder,
            tmp_path / name,
            adapter=adapter,
            save_steps=save_steps,
            dropout=0.1,
            probe_every=4,
        )

    whole = outcome(run_intent(config("whole")))

    def stop_in_the_third_epoch(kind, record):
        if kind == "step" and record["step"] == 22:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_intent(config("broken"), on_event=stop_in_the_third_epoch)
    assert not (tmp_path / "broken").exists()
    steps = []
    resumed = run_intent(
        config("broken"), resume=True, on_event=lambda kind, r: steps.append(r["step"]) if kind == "step" else None
    )
    assert steps[0] == begins
    assert outcome(resumed) == whole


def test_a_run_that_was_interrupted_while_it_wrote_its_files_can_be_finished(
    tmp_path, corpus_path, bert_folder, monkeypatch
):
    def config(name):
        return settings(corpus_path, bert_folder, tmp_path / name, epochs=2)

    whole = outcome(run_intent(config("whole")))

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("layerselect.tasks.run.runner.write_files", full_disk)
        run_intent(config("broken"))
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "broken.partial"}
    finished = run_intent(config("broken"), resume=True)
    assert outcome(finished) == whole
    # A finished run is left alone, and read.
    (finished.folder / "checkpoints" / "checkpoint-7").mkdir(parents=True)  # killed while it removed them
    again = run_intent(config("broken"), resume=True, on_event=lambda kind, record: pytest.fail("it trains"))
    assert again == finished
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "broken"}
    assert {path.name for path in finished.folder.iterdir()} == FILES
    with pytest.raises(LayerSelectError, match="the finished run in .* has --lr 0.003, not 0.1"):
        run_intent(settings(corpus_path, bert_folder, tmp_path / "broken", epochs=2, lr=0.1), resume=True)


def test_an_interrupted_run_leaves_an_earlier_good_one_alone(tmp_path, corpus_path, bert_folder):
    config = settings(corpus_path, bert_folder, tmp_path / "run", epochs=1)
    before = outcome(run_intent(config))

    def stop(kind, record):
        raise Interrupted

    with pytest.raises(Interrupted):
        run_intent(config, overwrite=True, on_event=stop)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert (tmp_path / "run" / "predictions.jsonl").read_bytes() == before[0]


def test_several_labels(tmp_path, bert_folder):
    rows = tiny_intent.revisions(documents=30)
    for row in rows:
        if row["intentions"] != ["style"]:
            row["intentions"] = [*row["intentions"], "wording"]
    corpus = tiny_intent.write_jsonl(tmp_path / "multi.jsonl", rows)
    config = settings(corpus, bert_folder, tmp_path / "run", adapter="lora", epochs=12, lr=5e-3, window=0)
    result = run_intent(config)
    reports = result.splits[-1].reports
    assert reports["trained model"].multi_label
    assert reports["trained model"].macro_auprc > reports["majority class"].macro_auprc + 0.25
    predicted = [row["predicted"] for row in lines(result.folder / "predictions.jsonl")]
    assert any(len(labels) == 2 for labels in predicted)
    assert next(Predictor.load(result.folder).predict(rows[:1])).labels


def test_a_decoder_with_an_instruction(tmp_path, corpus_path, llama_folder):
    config = settings(
        corpus_path,
        llama_folder,
        tmp_path / "run",
        adapter="lora",
        format="plain",
        max_length=128,
        max_steps=4,
        rule="topk:k=1",
        mode="gate",
        accumulate=2,
    )
    result = run_intent(config)
    assert result.training["steps"] == 4
    assert result.training["layers_selected"] == 1
    assert result.training["layers_with_gradient"] == 3  # gate computes all


def test_the_last_checkpoint_is_kept_on_request_and_patience_stops(tmp_path, corpus_path, bert_folder):
    last = run_intent(settings(corpus_path, bert_folder, tmp_path / "last", keep="last", epochs=2, holdout=0.2))
    assert last.training["kept_step"] == last.training["steps"]
    assert {split.split for split in last.splits} == {"holdout", "validation", "test"}
    # A learning rate of nearly nothing never gets better.
    stopped = run_intent(settings(corpus_path, bert_folder, tmp_path / "stop", lr=1e-12, epochs=9, patience=2))
    epochs = [row["epoch"] for row in lines(stopped.folder / "metrics.jsonl") if "final" not in row]
    assert epochs == [1, 2, 3]
    assert stopped.training["kept_step"] == stopped.training["steps"] / 3


def test_only_a_training_split(tmp_path, corpus_path, bert_folder):
    rows = tiny_intent.revisions(documents=4)
    folder = tmp_path / "corpus"
    folder.mkdir()
    tiny_intent.write_jsonl(folder / "train.jsonl", rows)
    config = {"splits": "official", "epochs": 1}
    result = run_intent(settings(folder, bert_folder, tmp_path / "run", **config))
    assert result.splits == []
    assert (result.folder / "report.html").exists()
    with pytest.raises(LayerSelectError, match="--patience needs a split to watch"):
        run_intent(settings(folder, bert_folder, tmp_path / "other", patience=1, **config))


def test_a_diverging_loss_stops_the_run(tmp_path, corpus_path, bert_folder):
    config = settings(corpus_path, bert_folder, tmp_path / "run", lr=1e30, clip=1e30, lr_warmup=0.0)
    with pytest.raises(LayerSelectError, match="diverged"):
        run_intent(config)
    assert not (tmp_path / "run").exists()


def test_the_demo_model_with_lora_keeps_its_base(tmp_path, corpus_path):
    config = settings(corpus_path, "demo", tmp_path / "run", adapter="lora", max_steps=3)
    result = run_intent(config)
    assert (result.folder / "adapter" / "base" / "model.safetensors").exists()
    assert len(list(Predictor.load(result.folder).predict(tiny_intent.revisions()[:3]))) == 3
