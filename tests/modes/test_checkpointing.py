"""Mode ``freeze`` with gradient checkpointing, against models frozen by hand without checkpointing."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector
from layerselect.layers.find import split_parameters
from layerselect.modes.checkpointing import SelectiveCheckpoint
from layerselect.utils.saved_activations import saved_activation_bytes
from torch import Tensor, nn

from tests.helpers.checkpointed import (
    FAMILIES,
    FUNCTION,
    KINDS,
    assert_same,
    backward,
    build,
    disable,
    enable,
    frozen_by_hand,
    recomputed,
)
from tests.helpers.models import VOCABULARY, hugging_face, language_loss, with_lora


@KINDS
@pytest.mark.parametrize(
    ("adapter", "trained"), [("lora", [3]), ("lora", [1, 2]), ("lora", [0, 1, 2, 3]), ("full", [1, 2])], ids=str
)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_and_recomputation(family, adapter, trained, reentrant):
    plain = frozen_by_hand(build(family, adapter), trained)
    if family == "t5" and reentrant:
        # What the decoder's blocks ask of the encoder is summed block by block, which rounds otherwise.
        enable(plain, reentrant)
    expected = backward(plain)
    model = enable(build(family, adapter), reentrant)
    blocks = split_parameters(model).modules
    with FastSelector(model, f"fixed:layers={trained}", mode="freeze"), recomputed(blocks) as calls:
        assert_same(backward(model), expected)
    assert calls == dict.fromkeys(range(min(trained), 4), 1)


def test_an_encoder_decoder_recomputes_the_decoder_where_the_encoder_trains():
    model = enable(build("t5"), False)
    blocks = split_parameters(model).modules
    for trained, expected in (([1], [1, 2, 3]), ([2], [2, 3]), ([0, 3], [0, 1, 2, 3])):
        with FastSelector(model, f"fixed:layers={trained}", mode="freeze"), recomputed(blocks) as calls:
            backward(model)
        assert sorted(calls) == expected
    # Its cross attention makes a constant require a gradient where it is checkpointed. A frozen block below is not.
    outputs: list[bool] = []
    blocks[2].register_forward_hook(lambda module, args, output: outputs.append(output[0].requires_grad))
    with FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        backward(model)
    backward(model)
    assert outputs == [False, True]


def test_layers_without_adapters_below_are_not_recomputed_either():
    model = hugging_face("llama")
    model = enable(with_lora(model, target_modules=["q_proj", "v_proj"], layers_to_transform=[2, 3]).train(), True)
    blocks = list(model.base_model.model.model.layers)
    with FastSelector(model, "fixed:layers=[1]", mode="freeze") as selector, recomputed(blocks) as calls:
        assert selector.num_layers == 2
        assert len(backward(model)) == 4
    assert calls == {3: 1}


@KINDS
def test_saved_bytes_are_those_of_a_model_set_up_by_hand(reentrant):
    trained = [2, 3]

    def saved(model: nn.Module) -> int:
        return saved_activation_bytes(model, lambda: language_loss(model))

    by_hand = frozen_by_hand(enable(build("llama"), reentrant), trained)
    everything = saved(enable(build("llama"), reentrant))
    unaided = saved(by_hand)
    by_hand.base_model.model.disable_input_require_grads()
    blocks = by_hand.base_model.model.model.layers
    for block in blocks[:2]:
        block.gradient_checkpointing = False
    if reentrant:
        blocks[1].register_forward_hook(lambda module, args, output: output.requires_grad_(True))
    without_checkpointing = saved(frozen_by_hand(build("llama"), trained))
    model = enable(build("llama"), reentrant)
    with FastSelector(model, f"fixed:layers={trained}", mode="freeze"):
        ours = saved(model)
        # A block of this size saves far more than its input.
        assert ours == saved(by_hand) < min(unaided, everything, without_checkpointing)
    assert saved(model) == everything


def test_no_layer_trains():
    model = enable(build("bert"), True)  # whose head has adapters too
    blocks = split_parameters(model).modules
    with (
        FastSelector(model, "threshold:gamma=1e9", mode="freeze", probe_every=0) as selector,
        recomputed(blocks) as calls,
    ):
        backward(model)
        assert calls == {0: 1, 1: 1, 2: 1, 3: 1}
        selector.step()
        assert selector.trained() == []
        calls.clear()
        assert all(".predictions." in name for name in backward(model))
        assert not calls


def test_checkpointing_may_be_switched_at_any_time():
    model = build("llama")
    blocks = split_parameters(model).modules
    expected = backward(frozen_by_hand(build("llama"), [1, 3]))
    with FastSelector(model, "fixed:layers=[1, 3]", mode="freeze") as selector, recomputed(blocks) as calls:
        for reentrant in (True, False, True):
            enable(model, reentrant)
            assert_same(backward(model), expected)
            assert calls == {1: 1, 2: 1, 3: 1}
            calls.clear()
            disable(model)
            assert_same(backward(model), expected)
            assert not calls
        enable(model, True)
        model.eval()
        language_loss(model).backward()
        assert not calls
        model.train()
        selector.rule = "fixed:layers=[2]"
        assert_same(backward(model), backward(frozen_by_hand(build("llama"), [2])))
        assert calls == {2: 1, 3: 1}


@KINDS
def test_where_only_some_blocks_are_checkpointed(reentrant):
    model = enable(build("llama"), reentrant)
    blocks = split_parameters(model).modules
    for block in blocks[1::2]:  # as every_n_layers=2 does it
        block.gradient_checkpointing = False
    for trained, expected in (([1, 3], [2]), ([0, 3], [0, 2]), ([3], [])):
        with FastSelector(model, f"fixed:layers={trained}", mode="freeze"), recomputed(blocks) as calls:
            assert_same(backward(model), backward(frozen_by_hand(build("llama"), trained)))
        assert sorted(calls) == expected


@KINDS
@pytest.mark.parametrize("rule", ["variance", "random:k=2"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_run_with_checkpointing_is_the_run_without(family, rule, reentrant):
    def run(checkpointing: bool) -> tuple[dict[str, Tensor], list]:
        model = build(family)
        if checkpointing:
            enable(model, reentrant)
        with FastSelector(model, rule, mode="freeze", probe_every=5, warmup=1) as selector:
            optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
            selector.attach(optimizer)
            for step in range(12):
                for micro_batch in range(2):
                    torch.manual_seed(step)
                    language_loss(model, 2 * step + micro_batch).backward()
                selector.step()
                optimizer.step()
                optimizer.zero_grad()
            return dict(model.named_parameters()), selector.history.arrays()["mask"].tolist()

    weights, masks = run(True)
    expected_weights, expected_masks = run(False)
    assert masks == expected_masks
    assert_same(weights, expected_weights)


@KINDS
def test_trainer(reentrant, tmp_path):
    from layerselect.integrations.transformers import SelectorCallback
    from transformers import Trainer, TrainingArguments

    def run(name: str, **checkpointing: object) -> tuple[dict[str, Tensor], list]:
        callback = SelectorCallback(rule="random:k=1", mode="freeze", seed=1)
        generator = torch.Generator().manual_seed(0)
        rows = [torch.randint(3, VOCABULARY, (7,), generator=generator) for _ in range(16)]
        arguments = TrainingArguments(
            str(tmp_path / name),
            max_steps=8,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            **checkpointing,
        )
        data = [{"input_ids": row, "labels": row} for row in rows]
        model = build("llama")
        with recomputed(split_parameters(model).modules) as calls:
            Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()
        masks = callback.selector.history.arrays()["mask"].tolist()
        if checkpointing:
            assert not any(isinstance(vars(m).get(FUNCTION), SelectiveCheckpoint) for m in model.modules())
            # Each step has two micro-batches.
            assert [calls[index] for index in range(4)] == [
                2 * sum(any(m[: index + 1]) for m in masks) for index in range(4)
            ]
            assert calls[0] < calls[3]
        return dict(model.named_parameters()), masks

    weights, masks = run(
        "with", gradient_checkpointing=True, gradient_checkpointing_kwargs={"use_reentrant": reentrant}
    )
    expected_weights, expected_masks = run("without")
    assert masks == expected_masks
    assert_same(weights, expected_weights)
