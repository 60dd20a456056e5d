"""trl's trainers with the callback's line added: reference passes, generation and reused batches change nothing of the
selection.

peft's switches of the reference passes set ``requires_grad`` of all adapters.
"""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from layerselect.integrations.transformers import SelectorCallback
from transformers import TrainerCallback

pytest.importorskip("trl", reason="trl is not installed")
from tests.integrations.trl_runs import KINDS, LAYERS, STEPS, build, llama


def layer_of(name: str) -> int | None:
    _, found, rest = name.partition(".layers.")
    return int(rest.split(".")[0]) if found else None


class Gradients(TrainerCallback):
    """Stands before ours: which layers have gradients when the backward passes of a step are done, and what each step
    moves.
    """

    def __init__(self) -> None:
        self.rows: list[list[bool]] = []
        self.moved: list[set[int | None]] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._named = dict(kwargs["model"].named_parameters())
        found = {layer_of(name) for name, p in self._named.items() if p.grad is not None}
        self.rows.append([layer in found for layer in range(LAYERS)])
        self._before = {name: p.detach().clone() for name, p in self._named.items()}

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.moved.append({layer_of(name) for name, p in self._named.items() if not torch.equal(p, self._before[name])})


def check(callback, gradients, mode, outer=frozenset()):
    """Each step moved what was selected, and in freeze nothing but what was planned took gradients (a layer that is
    selected by the score it had when it was frozen trains in the next step).
    """
    selector = callback.selector
    rows = selector.history.arrays()
    assert selector.steps == len(gradients.rows) == STEPS
    assert (rows["mask"].sum(1) == 2).all()
    for trains, moved in zip(rows["mask"] & rows["trained"], gradients.moved, strict=True):
        assert moved - outer == {layer for layer in range(LAYERS) if trains[layer]}
    if mode == "freeze":
        assert gradients.rows == rows["trained"].tolist()
        assert any(sum(row) == 2 for row in gradients.rows)
    else:
        assert all(all(row) for row in gradients.rows)


def selecting(mode, **options):
    return SelectorCallback(**{"rule": "topk:k=2", "mode": mode, "probe_every": 3, **options})


MODES = pytest.mark.parametrize("mode", ["freeze", "gate"])
CHECKPOINTING = pytest.mark.parametrize(
    "checkpointing", [None, False, True], ids=["plain", "non-reentrant", "reentrant"]
)


@MODES
@CHECKPOINTING
@pytest.mark.parametrize("name", KINDS)
def test_adapters_made_by_the_trainer(tmp_path, name, mode, checkpointing):
    gradients, callback = Gradients(), selecting(mode)
    trainer = build(name, tmp_path, gradients, callback, checkpointing=checkpointing)
    trainer.train()
    check(callback, gradients, mode, outer={None} if name == "reward" else frozenset())
    assert all(p.requires_grad for n, p in trainer.model.named_parameters() if "lora_" in n)


@MODES
@pytest.mark.parametrize("name", ["dpo", "kto", "grpo"])
def test_an_adapter_of_the_users_gets_a_frozen_copy_as_its_reference(tmp_path, name, mode):
    """trl adds an adapter "ref" and switches to it; it stays frozen and unmoved."""
    from peft import get_peft_model

    from tests.integrations.trl_runs import _lora

    model = get_peft_model(llama(), _lora("CAUSAL_LM"))
    gradients, callback = Gradients(), selecting(mode)
    trainer = build(name, tmp_path, gradients, callback, lora=False, model=model)
    start = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if ".ref." in n}
    flags = {n: p.requires_grad for n, p in trainer.model.named_parameters()}
    assert start
    trainer.train()
    check(callback, gradients, mode)
    assert all(torch.equal(dict(trainer.model.named_parameters())[n], p) for n, p in start.items())
    assert {n: p.requires_grad for n, p in trainer.model.named_parameters()} == flags


@MODES
@pytest.mark.parametrize("name", ["sft", "reward"])
def test_all_weights(tmp_path, name, mode):
    gradients, callback = Gradients(), selecting(mode)
    build(name, tmp_path, gradients, callback, lora=False).train()
    check(callback, gradients, mode, outer={None})


@MODES
@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_accumulation(tmp_path, name, mode):
    gradients, callback = Gradients(), selecting(mode)
    build(name, tmp_path, gradients, callback, gradient_accumulation_steps=2, per_device_train_batch_size=2).train()
    check(callback, gradients, mode)


@MODES
def test_an_evaluation_in_between_with_its_own_reference_passes(tmp_path, mode):
    gradients, callback = Gradients(), selecting(mode)
    trainer = build("dpo", tmp_path, gradients, callback)
    trainer.eval_dataset = trainer.train_dataset.select(range(4))

    class Evaluates(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_evaluate = True

    trainer.add_callback(Evaluates())
    trainer.train()
    check(callback, gradients, mode)
    assert sum("eval_loss" in row for row in trainer.state.log_history) == STEPS


def test_frozen_scores_are_those_of_the_same_training_gated(tmp_path):
    """With a fixed rule both modes move the same layers to the same place, reference passes or not."""
    ends = []
    for mode in ("freeze", "gate"):
        callback = selecting(mode, rule="fixed:layers=[1,3]", probe_every=0)
        trainer = build("dpo", tmp_path / mode, callback, max_grad_norm=0.0)
        trainer.train()
        ends.append({n: p.detach().clone() for n, p in trainer.model.named_parameters()})
    for name, ours in ends[0].items():
        torch.testing.assert_close(ours, ends[1][name], rtol=1e-5, atol=1e-7, msg=name)


def test_a_selector_built_before_the_trainer_makes_the_adapters_is_refused(tmp_path):
    """It is over the weights, which the Trainer freezes when it puts adapters in."""
    model = llama()
    with FastSelector(model, "topk:k=2", mode="gate") as selector:
        trainer = build("sft", tmp_path, SelectorCallback(selector), model=model)
        with pytest.raises(LayerSelectError, match=r"peft_config.*build it over trainer\.model") as refusal:
            trainer.train()
        assert "\n" not in str(refusal.value)


def test_a_selector_built_over_the_trainers_model_works(tmp_path):
    gradients = Gradients()
    trainer = build("sft", tmp_path, gradients)
    with FastSelector(trainer.model, "topk:k=2", mode="gate") as selector:
        trainer.add_callback(SelectorCallback(selector))
        trainer.train()
        check(SelectorCallback(selector), gradients, "gate")
