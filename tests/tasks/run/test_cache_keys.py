"""Keys of cached hidden states are made with the batch, and the states of the next batch are sent while one trains."""

from __future__ import annotations

import itertools
import pickle
import sys

import pytest
import torch
from layerselect.models.traits import Traits, keep_traits
from layerselect.state_cache import CARRIED, StateCache, keys_of
from layerselect.tasks.compare import worker
from layerselect.tasks.intent import IntentConfig, run_intent
from layerselect.tasks.revise import ReviseConfig, run_revise
from layerselect.tasks.run.cache_keys import CacheReader, KindsOfKeys, key_kinds, keyed
from layerselect.tasks.run.stages import TRAINING

from tests.tasks.intent.test_run import settings
from tests.tasks.run.cached import NOTHING_RANDOM, kept


@pytest.fixture
def watched(monkeypatch):
    """What the cache does from the first step on: ``("send", keys)`` and ``("use", keys, trains)``. It makes no key."""
    events, began = [], []
    ours, states, send = StateCache.keys, StateCache._states, StateCache.send

    def keys(self, batch):
        assert not began, "a key is made in the step"
        return ours(self, batch)

    def used(self, batch, inputs, args, kwargs, trains):
        if began:
            assert batch.keys == self.key_kind.keys_of(inputs).keys, "the key is not that of what the model is given"
            events.append(("use", batch.keys, trains))
        return states(self, batch, inputs, args, kwargs, trains)

    def sent(self, batch):
        events.append(("send", batch.keys))
        return send(self, batch)

    def on_event(kind, record):
        if kind == "stage" and record["name"] == TRAINING:
            began.append(True)

    for name, function in (("keys", keys), ("_states", used), ("send", sent)):
        monkeypatch.setattr(StateCache, name, function)
    return events, on_event


def check_reads_ahead(events):
    """Of a training, what is used was sent just before; of an evaluation, too, one batch earlier."""
    used = [event for event in events if event[0] == "use"]
    pairs = [(a[1], b[1]) for a, b in itertools.pairwise(events) if a[0] == "send" and b[0] == "use" and b[2]]
    assert len(pairs) > 4 and all(one == other for one, other in pairs)
    seen, late = set(), 0
    for event in events:
        if event[0] == "send":
            seen.add(event[1])
        else:
            late += event[1] not in seen
    assert late <= 3  # the first batches of an epoch, and those before the cut is known
    assert len(used) > 5


KINDS = {
    "an encoder with a head": ("bert", {"workers": 1}),
    "a decoder with a head, accumulating": ("llama", {"format": "plain", "accumulate": 2, "batch_size": 2}),
    "a decoder that writes": ("llama", {"head": "generate", "max_length": 64}),
    "a cut that a rule chooses": ("bert", {"cut": "cost-aware:budget=0.6", "epochs": 3}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_predictor_makes_no_key_in_a_step(tmp_path, small_corpus, kind, folders, watched):
    events, on_event = watched
    model, changes = KINDS[kind]
    options = {
        "adapter": "lora",
        "epochs": 1,
        "batch_size": 4,
        **NOTHING_RANDOM,
        **kept(tmp_path / "store", cut="1"),
        **changes,
    }
    run = run_intent(settings(small_corpus, folders[model], tmp_path / "run", **options), on_event=on_event)
    assert run.training["states_cached"] and run.training["states_read"] > 0
    check_reads_ahead(events)


def test_a_generator_and_its_predictor_make_no_key_in_a_step(tmp_path, small_corpus, folders, watched):
    events, on_event = watched
    config = ReviseConfig(
        data=str(small_corpus),
        model=str(folders["llama"]),
        out=str(tmp_path / "run"),
        device="cpu",
        transfer="none",
        epochs=1,
        batch_size=4,
        max_length=64,
        eval_limit=4,
        max_new_tokens=2,
        **NOTHING_RANDOM,
        **kept(tmp_path / "store", cut="1"),
    )
    assert run_revise(config, on_event=on_event).training["states_read"] > 0
    check_reads_ahead(events)


def test_runs_of_a_comparison_are_such_runs():
    """A comparison trains its runs by the same functions as the commands."""
    assert {kind.run for kind in worker.TASKS.values()} == {run_intent, run_revise}


class OnDevice(torch.Tensor):
    """Stands for a tensor on a device: the cache may not look into it, whatever the model does."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("cpu", "numpy", "tolist", "item", "__bool__", "__array__", "equal"):
            frame = sys._getframe(1)
            while "transformers" not in frame.f_code.co_filename and frame.f_back is not None:
                assert "layerselect/state_cache" not in frame.f_code.co_filename, "the host waits for the device"
                frame = frame.f_back
        return super().__torch_function__(function, types, args, kwargs or {})


def on_device(batch):
    return {name: value.as_subclass(OnDevice) for name, value in batch.items()}


def test_a_pass_that_carries_its_keys_looks_into_no_tensor():
    model = llama().requires_grad_(False)
    ids = torch.arange(12).reshape(2, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with StateCache(model, 1) as cache, torch.no_grad():
        expected = model(**batch).logits
        with pytest.raises(AssertionError, match="the host waits"):
            model(**on_device(batch))
        found = model(**on_device(batch), **{CARRIED: cache.keys(batch)}).logits
        assert cache.read == 2 and torch.equal(found.as_subclass(torch.Tensor), expected)


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.helpers.models import _DECODER

    return LlamaForCausalLM(LlamaConfig(**{**_DECODER, "num_hidden_layers": 3})).eval()


def cached(cut):
    return IntentConfig(data="d", model="m", out="o", device="cpu", state_cache="cached", cut=cut)


def test_keys_for_every_cut_that_may_be_chosen():
    from transformers import BartConfig, BartForSequenceClassification

    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2}
    more = {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 32}
    model = BartForSequenceClassification(BartConfig(**sizes, **more))
    keep_traits(model, Traits(True, True, True))
    assert {kind.decoder_below for kind in key_kinds(model, cached("1"))} == {False}
    assert {kind.decoder_below for kind in key_kinds(model, cached("3"))} == {True}
    kinds = key_kinds(model, cached("cost-aware:budget=0.5"))
    assert {kind.decoder_below for kind in kinds} == {False, True}
    for cut in (1, 2, 3):
        with StateCache(model, cut) as cache:
            assert cache.key_kind in kinds
            assert cache.key_kind in key_kinds(model, cached(str(cut)))


def test_a_collator_with_keys_can_go_to_another_process():
    model = llama()
    keep_traits(model, Traits(True, True, True))
    collate = pickle.loads(pickle.dumps(keyed(pad, model, cached("1"), completes=False)))
    batch = collate([[1, 2, 3], [4]])
    (keys,) = batch[CARRIED].keys.values()
    assert keys.keys == keys_of({name: batch[name] for name in ("input_ids", "attention_mask")}).keys


def test_no_key_where_none_is_asked_for():
    model = llama()
    plain = IntentConfig(data="d", model="m", out="o", device="cpu")
    assert keyed(pad, model, plain, completes=False) is pad
    keep_traits(model, Traits(False, True, True))  # its rows are read in groups
    assert keyed(pad, model, cached("1"), completes=False) is pad
    batch = {"input_ids": torch.ones(1, 2), CARRIED: KindsOfKeys({})}
    assert set(CacheReader(lambda: None).given(batch)) == {"input_ids"}


def pad(items):
    longest = max(map(len, items))
    return {
        "input_ids": torch.tensor([[*item, *[0] * (longest - len(item))] for item in items]),
        "attention_mask": torch.tensor([[1] * len(item) + [0] * (longest - len(item)) for item in items]),
        "labels": torch.zeros(len(items)),
    }


def test_batches_come_as_they_are_though_one_more_is_known():
    reader, given = CacheReader(lambda: None), iter([{"number": i} for i in range(5)])
    found = []
    for _ in range(3):  # as a Trainer takes two batches for each step
        source = reader.training(given)
        found += [batch["number"] for batch in itertools.islice(source, 2)]
    assert found == [0, 1, 2, 3, 4]
