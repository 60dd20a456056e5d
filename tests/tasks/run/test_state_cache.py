"""Runs that keep hidden states: the training is the same, and nothing is computed twice."""

import json

import pytest
from layerselect import LayerSelectError
from layerselect.report.state_cache import cache_size_line
from layerselect.rules import Ist
from layerselect.state_cache.inventory import list_shards
from layerselect.tasks.compare import CompareConfig
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.revise import ReviseConfig, run_revise
from layerselect.tasks.run.importance_split import give_ablation

from tests.tasks.intent.test_run import Interrupted, outcome, settings
from tests.tasks.run.cached import HIGHEST, NOTHING_RANDOM, evaluated, kept, losses

KINDS = {
    "an encoder with a head": ("bert_folder", {}),
    "a decoder with a head": ("llama_folder", {"format": "plain", "max_length": 128}),
    "a decoder that writes": ("llama_folder", {"head": "generate", "max_length": 64}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_predictor_trains_as_without(tmp_path, small_corpus, kind, request):
    model, changes = KINDS[kind]
    options = {"adapter": "lora", "epochs": 2, **NOTHING_RANDOM, **HIGHEST, **changes}
    folder = request.getfixturevalue(model)
    expected = run_intent(settings(small_corpus, folder, tmp_path / "plain", **options))
    found = run_intent(settings(small_corpus, folder, tmp_path / "kept", **options, **kept(tmp_path / "store")))
    assert losses(found) == pytest.approx(losses(expected), rel=1e-5)
    assert evaluated(found) == pytest.approx(evaluated(expected), rel=1e-5)
    assert [s.model.summary() for s in found.splits] == [
        pytest.approx(s.model.summary(), rel=1e-4) for s in expected.splits
    ]
    facts = found.training
    assert (facts["cut"], facts["num_layers"], facts["states_cached"]) == (2, 3, True)
    assert facts["states_computed"] <= facts["states_read"]
    assert "cut" not in expected.training

    # Another seed: other batches and another adapter, and all is there.
    again = run_intent(
        settings(small_corpus, folder, tmp_path / "again", **options, **kept(tmp_path / "store"), seed=7)
    )
    assert again.training["states_computed"] == again.training["states_written_mb"] == 0
    assert again.training["states_read"] == facts["states_read"] + facts["states_computed"]
    (shard,) = list_shards(tmp_path / "store")
    assert shard.entries <= facts["states_computed"]


@pytest.mark.parametrize("adapter", ["dora", "bottleneck", "none"])
def test_every_adapter(tmp_path, small_corpus, bert_folder, adapter):
    options = {"adapter": adapter, "epochs": 1, "bottleneck_size": 4, **NOTHING_RANDOM, "cut": "1"}
    folders = [tmp_path / "a", tmp_path / "b"]
    first, second = (
        run_intent(settings(small_corpus, bert_folder, folder, seed=seed, **{**kept(tmp_path / "store"), **options}))
        for seed, folder in enumerate(folders)
    )
    assert first.training["states_computed"] > 0
    assert second.training["states_computed"] == 0  # a fresh adapter adds nothing below the cut


@pytest.mark.parametrize("cut", ["1", "probe-once:steps=6"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, small_corpus, bert_folder, cut):
    def config(name):
        return settings(
            small_corpus,
            bert_folder,
            tmp_path / name,
            adapter="lora",
            epochs=3,
            batch_size=4,
            dropout=0.1,
            probe_every=4,
            save_steps=4,
            **kept(tmp_path / f"store of {name}", cut=cut),
        )

    whole = run_intent(config("whole"))

    def stop(kind, record):
        if kind == "step" and record["step"] == 14:
            raise Interrupted

    with pytest.raises(Interrupted):
        run_intent(config("broken"), on_event=stop)
    resumed = run_intent(config("broken"), resume=True)
    assert outcome(resumed) == outcome(whole)
    assert resumed.training["cut"] == whole.training["cut"]


def test_the_cut_of_a_rule_is_chosen_once_and_what_is_below_never_trains(tmp_path, small_corpus, bert_folder):
    config = settings(
        small_corpus,
        bert_folder,
        tmp_path / "run",
        adapter="lora",
        epochs=2,
        rule="all",
        **kept(tmp_path / "store", cut="cost-aware:budget=0.5"),
    )
    result = run_intent(config)
    cut = result.training["cut"]
    assert cut >= 1
    frequency = json.loads((result.folder / "importance.json").read_text())["frequency"]
    assert not any(frequency[:cut])
    assert all(frequency[cut:])


def test_states_only_for_this_run_and_in_half_precision(tmp_path, small_corpus, bert_folder, monkeypatch):
    monkeypatch.setenv("LAYERSELECT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    options = {"adapter": "lora", "epochs": 2, "state_cache": "cached", "cut": "1"}
    records = []
    run_intent(
        settings(small_corpus, bert_folder, tmp_path / "a", **options, state_cache_store="none"),
        on_event=lambda kind, record: records.append(record) if kind == "state_cache" else None,
    )
    assert not (tmp_path / "cache").exists()
    half = run_intent(
        settings(small_corpus, bert_folder, tmp_path / "b", **options, state_cache_precision="half"),
        on_event=lambda kind, record: records.append(record) if kind == "state_cache" else None,
    )
    (shard,) = list_shards(tmp_path / "cache" / "states")
    assert shard.precision == half.training["state_cache_precision"] == "half"
    memory, disk = records
    assert memory["bytes_per_token"] == 4 * 32 == 2 * disk["bytes_per_token"]
    assert "in memory, the rest in a temporary folder" in cache_size_line(memory)
    assert f"in {tmp_path / 'cache' / 'states'} (up to 2 GB of it also in memory)" in cache_size_line(disk)


# ------------------------------------------------------------------ revisions


def test_a_generator_trains_as_without(tmp_path, small_corpus, llama_folder):
    def run(name, **changes):
        config = ReviseConfig(
            data=str(small_corpus),
            model=str(llama_folder),
            out=str(tmp_path / name),
            device="cpu",
            transfer="none",
            epochs=2,
            batch_size=8,
            max_length=64,
            eval_limit=4,
            max_new_tokens=8,
            **NOTHING_RANDOM,
            **HIGHEST,
            **changes,
        )
        return run_revise(config)

    expected, found = run("plain"), run("kept", **kept(tmp_path / "store"))
    assert losses(found) == pytest.approx(losses(expected), rel=1e-5)
    assert evaluated(found) == pytest.approx(evaluated(expected), rel=1e-5)
    assert [split.model for split in found.splits] == [split.model for split in expected.splits]
    predicted = [(result.folder / "predictions.jsonl").read_bytes() for result in (expected, found)]
    assert predicted[0] == predicted[1]
    assert run("again", **kept(tmp_path / "store"), seed=3).training["states_computed"] == 0


def test_both_steps_of_intention_tuning(tmp_path, small_corpus, llama_folder, pages):
    config = ReviseConfig(
        data=str(small_corpus),
        model=str(llama_folder),
        out=str(tmp_path / "run"),
        device="cpu",
        max_steps=4,
        predictor_max_steps=4,
        probe_every=2,
        rule="topk:k=2",
        predictor_rule="topk:k=2",
        batch_size=4,
        predictor_batch_size=4,
        max_length=64,
        eval_limit=2,
        max_new_tokens=4,
        lora_rank=4,
        keep="last",
        **kept(tmp_path / "store", cut="1"),
    )
    result = run_revise(config)
    predictor = json.loads((result.folder / "predictor" / "results.json").read_text())["training"]
    assert predictor["cut"] == result.training["cut"] == 1
    assert result.transfer.layers == [1, 2]
    # Of the layers that may train all were measured, so that the ratio is known.
    assert result.transfer.ratio is not None
    assert result.transfer.own_frequency[0] == 0
    assert "Hidden states below layer 1 of 3" in (result.folder / "report.html").read_text()


def test_layers_of_a_predictor_that_are_below_the_cut(tmp_path, small_corpus, llama_folder):
    predictor = run_intent(
        settings(
            small_corpus,
            llama_folder,
            tmp_path / "predictor",
            adapter="lora",
            lora_rank=4,
            max_steps=2,
            epochs=1,
            rule="fixed:layers=[0,2]",
            window=0,
        )
    ).folder

    def run(cut, rule, name):
        return run_revise(
            ReviseConfig(
                data=str(small_corpus),
                model=str(llama_folder),
                out=str(tmp_path / name),
                device="cpu",
                predictor=str(predictor),
                max_steps=2,
                rule=rule,
                batch_size=4,
                max_length=64,
                eval_limit=1,
                max_new_tokens=2,
                lora_rank=4,
                keep="last",
                **kept(tmp_path / "store", cut=cut),
            )
        )

    result = run("1", "topk:k=2", "some")
    assert result.transfer.warnings[0].startswith("the layers [0], which matter to the predictor, are below the cut")
    with pytest.raises(
        LayerSelectError, match=r"nothing would train: the rule selects the layers \[0\], all below the cut"
    ):
        run("1", "fixed:layers=[0]", "none")


def test_where_states_are_kept_does_not_tell_runs_or_comparisons_apart(tmp_path):
    base = {"data": "demo", "model": "demo", "state_cache": "cached", "cut": "1"}
    saved = IntentConfig(**base, out="x", state_cache_store="a").as_dict()
    IntentConfig(**base, out="x", state_cache_store="b", state_cache_memory="1GB").check_same_run(saved, "interrupted")
    with pytest.raises(LayerSelectError, match="has --cut 1, not 2"):
        IntentConfig(**{**base, "cut": 2}, out="x").check_same_run(saved, "interrupted")
    older = {
        name: value
        for name, value in IntentConfig(data="demo", model="demo", out="x").as_dict().items()
        if "state_cache" not in name
    }
    older.pop("cut")
    IntentConfig(data="demo", model="demo", out="x").check_same_run(older, "interrupted")
    with pytest.raises(LayerSelectError, match="has --state-cache none, not cached"):
        IntentConfig(**base, out="x").check_same_run(older, "interrupted")
    compared = CompareConfig(out="x", base={**base, "state_cache_store": str(tmp_path)}, methods=("all",))
    assert compared.fixed() == base


def test_probes_leave_layers_below_the_cut_as_they_are(monkeypatch):
    """A kept hidden state must be that of the model, not that of a model with suppressed adapters."""
    asked = []

    class FakeProbe:
        def __init__(self, model, loss, batches):
            pass

        def __call__(self, scales, number):
            asked.append((scales, number))

    class FakeTrainer:
        model = loss_on = None

    class FakeCache:
        layers_below = 0

    monkeypatch.setattr("layerselect.tasks.run.importance_split.Ablation", FakeProbe)
    rule, state_cache = Ist(), FakeCache()
    give_ablation(rule, FakeTrainer(), [1, 2], list, 1, state_cache)
    rule.ablation([0.25, 0.25, 1.0], 0)
    state_cache.layers_below = 1
    rule.ablation([0.25, 0.25, 1.0], 1)
    assert asked == [([0.25, 0.25, 1.0], 0), ([1.0, 0.25, 1.0], 1)]
