"""Whole runs of tiny models: files, transfer as it shows in the saved weights, resuming, refusals."""

import json
import shutil

import numpy as np
import pytest
import torch
from layerselect import LayerSelectError
from layerselect.models.adapters import add_adapter
from layerselect.models.load import load_causal_lm
from layerselect.tasks.revise import ReviseConfig, Rewriter, run_revise
from layerselect.transfer import alignment_ratio, own_frequency, pick_layers, read_importance
from peft import get_peft_model_state_dict
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from transformers import set_seed


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def layer_of(name, layer_names):
    return next((i for i, layer in enumerate(layer_names) if name.startswith(layer + ".")), None)


def test_the_folder_holds_everything(done):
    assert {path.name for path in done.folder.iterdir()} == {
        "config.json",
        "metrics.jsonl",
        "training.jsonl",
        "results.json",
        "importance.json",
        "history.safetensors",
        "predictions.jsonl",
        "report.html",
        "adapter",
    }
    assert json.loads((done.folder / "config.json").read_text())["command"] == "layerselect revise"
    assert {split.split for split in done.splits} == {"validation", "test"}
    for split in done.splits:
        assert list(split.reports) == ["source copied", "untrained model", "trained model"]
        assert split.scored == 5 < split.examples
        assert split.reports["source copied"].copy_rate == 1.0
    assert done.training["saved_mb"] > 0
    assert np.isfinite([done.training["start_loss"], done.training["end_loss"], done.splits[0].loss]).all()


def test_predictions_carry_texts_and_scores(done):
    records = lines(done.folder / "predictions.jsonl")
    assert len(records) == 10
    for record in records:
        assert set(record) == {"id", "split", "intentions", "source", "references", "prediction", "scores", "others"}
        assert list(record["others"]) == ["untrained model"]
        assert len(record["references"]) == 1
        assert 0 <= record["scores"]["sari"] <= 100


def test_metrics_end_with_the_final_losses(done):
    final = [line for line in lines(done.folder / "metrics.jsonl") if line.get("final")]
    assert {line["split"]: line["loss"] for line in final} == {split.split: split.loss for split in done.splits}


def test_shared_layers_start_as_the_predictor_ended_and_the_others_never_move(done, generator_options, predictor):
    """The saved adapter of the generator against its fresh start and the predictor's file."""
    chosen = pick_layers(read_importance(predictor).frequency, "topk:k=2")
    assert done.transfer.layers == done.transfer.transferred == chosen
    config = ReviseConfig(**generator_options, out="x")
    set_seed(config.seed)
    fresh_model = add_adapter(load_causal_lm(config.model), config.adapter_config())
    fresh = get_peft_model_state_dict(fresh_model, save_embedding_layers=False)
    names = json.loads((done.folder / "importance.json").read_text())["layer_names"]
    ended = load_tensors(done.folder / "adapter" / "adapter_model.safetensors")
    given = load_tensors(predictor / "adapter" / "adapter_model.safetensors")
    moved = 0
    for name, value in ended.items():
        if layer_of(name, names) in chosen:
            moved += not torch.equal(value, given[name])
            assert not torch.equal(value, fresh[name])
        else:
            assert torch.equal(value, fresh[name]), name
    assert moved > 0


def test_nothing_moves_before_the_first_step(generator_options, predictor, tmp_path, monkeypatch):
    """What the first forward pass of the training sees."""
    from layerselect.tasks.revise import training

    seen = {}

    def look(model, batch, real=training.completion_loss):
        if model.training:  # the last of them: a trial pass goes before the only step
            seen.update({name: p.detach().clone() for name, p in get_peft_model_state_dict(model).items()})
        return real(model, batch)

    monkeypatch.setattr(training, "completion_loss", look)
    result = run_revise(ReviseConfig(**{**generator_options, "max_steps": 1}, out=str(tmp_path / "run")))
    names = json.loads((result.folder / "importance.json").read_text())["layer_names"]
    given = load_tensors(predictor / "adapter" / "adapter_model.safetensors")
    for name, value in seen.items():
        if layer_of(name, names) in result.transfer.layers:
            assert torch.equal(value, given[name]), name
        elif "lora_B" in name:
            assert not value.any(), name


def test_the_alignment_ratio_is_that_of_the_history(done):
    history = load_file(done.folder / "history.safetensors")
    frequency, steps = own_frequency(history)
    assert done.transfer.own_frequency == frequency.tolist()
    assert done.transfer.own_steps == steps == history["trained"].all(axis=1).sum() == 3
    assert done.transfer.ratio == alignment_ratio(done.transfer.layers, pick_layers(frequency.tolist(), "topk:k=2"))
    assert done.training["alignment_ratio"] == done.transfer.ratio


def test_selected_layers_are_the_shared_ones_in_every_step(done):
    history = load_file(done.folder / "history.safetensors")
    expected = np.isin(np.arange(3), done.transfer.layers)
    assert (history["mask"] == expected).all()
    assert (history["trained"] | ~expected)[:, expected].all()


@pytest.mark.parametrize("kind", ["dora", "bottleneck", "bottleneck-parallel", "none"])
def test_every_adapter_and_a_predictor_of_its_own(options, tmp_path, kind):
    config = ReviseConfig(
        **options,
        out=str(tmp_path / "run"),
        adapter=kind,
        max_steps=2,
        predictor_max_steps=3,
        probe_every=1,
        predictor_rule="topk:k=1",
        rule="topk:k=1",
        eval_limit=2,
        batch_size=4,
        predictor_batch_size=4,
        max_length=64,
    )
    result = run_revise(config)
    assert (result.folder / "predictor" / "adapter" / "layerselect.json").is_file()
    assert len(result.transfer.layers) == 1
    assert result.transfer.parameters > 0
    rewritten = Rewriter.load(result.folder).rewrite(
        ["The baker really watches the market in the evening ."], ["clarity"]
    )
    assert isinstance(rewritten[0], str)


def test_a_rule_that_makes_probes_gets_training_examples_for_them(options, tmp_path):
    config = ReviseConfig(
        **options,
        out=str(tmp_path / "run"),
        transfer="none",
        rule="ist:update_every=2;ablations=2",
        max_steps=4,
        eval_limit=2,
        batch_size=2,
        max_length=64,
    )
    result = run_revise(config)
    assert json.loads((result.folder / "importance.json").read_text())["rule"]["name"] == "ist"
    assert load_file(result.folder / "history.safetensors")["mask"].sum() < 12


def test_without_a_transfer_the_rule_selects_by_gradients(options, tmp_path):
    config = ReviseConfig(
        **options,
        out=str(tmp_path / "run"),
        transfer="none",
        rule="topk:k=1",
        max_steps=3,
        eval_limit=2,
        batch_size=4,
        max_length=64,
    )
    result = run_revise(config)
    assert result.transfer is None
    assert "alignment_ratio" not in result.training
    assert (load_file(result.folder / "history.safetensors")["mask"].sum(axis=1) == 1).all()


def test_all_layers_can_start_from_the_predictor(generator_options, tmp_path):
    changed = {**generator_options, "transfer": "all", "rule": "all", "max_steps": 2}
    result = run_revise(ReviseConfig(**changed, out=str(tmp_path / "run")))
    assert result.transfer.transferred == [0, 1, 2]
    assert result.transfer.first_loss != result.transfer.untrained_loss
    assert load_file(result.folder / "history.safetensors")["mask"].all()


def test_an_interrupted_run_ends_as_the_uninterrupted_one(done, generator_options, tmp_path, monkeypatch):
    from layerselect.tasks.revise import task as run_module

    config = ReviseConfig(
        **generator_options, out=str(tmp_path / "run"), untrained=True, measure_memory=True, save_steps=2
    )

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_module, "generate", killed)
        run_revise(config)
    assert not (tmp_path / "run").exists()
    assert (tmp_path / "run.partial").is_dir()
    with pytest.raises(LayerSelectError, match="--resume"):
        run_revise(config)
    result = run_revise(config, resume=True)
    for name in ("predictions.jsonl", "importance.json", "history.safetensors", "adapter/adapter_model.safetensors"):
        assert (result.folder / name).read_bytes() == (done.folder / name).read_bytes(), name
    again = run_revise(config, resume=True)
    assert again.splits == result.splits
    assert again.transfer == result.transfer


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_rank": 2}, "rank.*4.*2"),
        ({"lora_alpha": 16}, "alpha.*8.*16"),
        ({"adapter": "dora"}, "dora"),
        ({"rule": "random:k=1"}, "reads no scores"),
        ({"predictor": "nowhere"}, "nowhere"),
        ({"transfer": "none"}, "nothing to take from it"),
        ({"transfer": "some"}, "--transfer some is not one of shared, all, none"),
        ({"max_length": 1100}, "reads at most 2048 tokens.*lower --max-length"),
        ({"beams": 0}, "--beams 0 must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(generator_options, tmp_path, changes, message):
    with pytest.raises(LayerSelectError, match=message) as caught:
        options = {**generator_options, **changes}
        if "max_length" in changes:  # a text that is as long
            rows = tmp_path / "long.jsonl"
            text = "The baker watches the market . " * 180
            long = {"before": text, "after": text + "!", "intentions": ["clarity"]}
            rows.write_text("".join(json.dumps({"doc_id": name, **long}) + "\n" for name in "abc"))
            options |= {"data": str(rows), "label": "intentions"}
        run_revise(ReviseConfig(**options, out=str(tmp_path / "run")))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists() and not (tmp_path / "run.partial").exists()


def test_another_checkpoint_of_the_same_architecture_is_refused(generator_options, tmp_path):
    from tests.helpers import tiny_intent

    other = tiny_intent.save_llama(tmp_path / "other", seed=1)
    with pytest.raises(LayerSelectError, match="fingerprint|another"):
        run_revise(ReviseConfig(**{**generator_options, "model": str(other)}, out=str(tmp_path / "run")))
    assert not (tmp_path / "run.partial").exists()


def test_a_damaged_predictor_is_one_sentence(generator_options, predictor, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(predictor, broken)
    (broken / "importance.json").write_text("{")
    with pytest.raises(LayerSelectError, match=r"importance\.json") as caught:
        run_revise(ReviseConfig(**{**generator_options, "predictor": str(broken)}, out=str(tmp_path / "run")))
    assert "\n" not in str(caught.value)


def test_documents_with_several_intentions(options, tmp_path):
    """The predictor then decides on each intention by itself, and the prompt names them all."""
    from tests.helpers import tiny_intent

    rows = [
        {**row, "intentions": [*row["intentions"], "depth"] if i % 2 else row["intentions"]}
        for i, row in enumerate(tiny_intent.revisions())
    ]
    corpus = tiny_intent.write_jsonl(tmp_path / "several.jsonl", rows)
    config = ReviseConfig(
        **{**options, "data": str(corpus)},
        out=str(tmp_path / "run"),
        max_steps=2,
        predictor_max_steps=2,
        probe_every=1,
        rule="topk:k=1",
        eval_limit=3,
        batch_size=4,
        max_length=64,
    )
    result = run_revise(config)
    meta = json.loads((result.folder / "predictor" / "adapter" / "layerselect.json").read_text())
    assert meta["multi_label"] is True
    several = [record for record in lines(result.folder / "predictions.jsonl") if len(record["intentions"]) == 2]
    assert several
    assert Rewriter.load(result.folder).labels == ["clarity", "depth", "fluency", "style"]


def test_a_run_killed_while_its_predictor_trains_is_resumed(options, tmp_path, monkeypatch):
    from layerselect.tasks.revise import task as run_module

    config = ReviseConfig(
        **options,
        out=str(tmp_path / "run"),
        max_steps=2,
        predictor_max_steps=3,
        probe_every=1,
        rule="topk:k=1",
        eval_limit=2,
        batch_size=4,
        max_length=64,
    )

    def killed(config, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_module, "run_intent", killed)
        run_revise(config)
    resumed = run_revise(config, resume=True)
    whole = run_revise(ReviseConfig(**{**config.as_dict(), "out": str(tmp_path / "whole")}))
    assert resumed.splits == whole.splits
    assert resumed.transfer == whole.transfer
