"""The rules under a selector: what moves, what is resumed, and through the Trainer's callback."""

from __future__ import annotations

import pytest
import torch
from layerselect import Ablation, FastSelector, Ist, make_rule
from layerselect.checkpoint import load_selector, save_selector
from layerselect.integrations.transformers import SelectorCallback
from torch import nn
from transformers import Trainer, TrainingArguments

from tests.helpers.models import VOCABULARY, hugging_face, language_loss, plain, plain_loss, with_lora

RULES = [
    "lisa:n=2;interval=4",
    'block-cyclic:interval=3;order="random"',
    "ist:update_every=3",
    "cosine",
    "weight-norm",
    'probe-once:steps=5;base="topk:k=2"',
    "probe-once:steps=9",
]


def rule_for(text: str, model: nn.Module):
    rule = make_rule(text, seed=3)
    if isinstance(rule, Ist):
        rule.ablation = Ablation(model, plain_loss, [100, 101])
    return rule


def run(model, selector, optimizer, steps: range) -> None:
    for step in steps:
        plain_loss(model, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()


def built(text: str, mode: str):
    model = plain()
    selector = FastSelector(model, rule_for(text, model), mode=mode, interval=2, warmup=1)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    return model, selector, optimizer


@pytest.mark.parametrize("mode", ["freeze", "gate", "observe"])
@pytest.mark.parametrize("text", RULES)
def test_resumes_bit_for_bit(tmp_path, text, mode):
    model, selector, optimizer = built(text, mode)
    run(model, selector, optimizer, range(24))

    first, first_selector, first_optimizer = built(text, mode)
    run(first, first_selector, first_optimizer, range(12))
    save_selector(first_selector, tmp_path)
    weights, moments = first.state_dict(), first_optimizer.state_dict()

    second, second_selector, second_optimizer = built(text, mode)
    second.load_state_dict(weights)
    second_optimizer.load_state_dict(moments)
    load_selector(second_selector, tmp_path)
    run(second, second_selector, second_optimizer, range(12, 24))
    for a, b in zip(model.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    rows, others = selector.history.arrays(), second_selector.history.arrays()
    assert (rows["mask"] == others["mask"]).all() and (rows["trained"] == others["trained"]).all()
    assert len({row.tobytes() for row in rows["mask"][1:]}) > 1 or text == "weight-norm"


@pytest.mark.parametrize("text", RULES)
def test_only_the_selected_layers_move_and_all_of_them_do(text):
    model, selector, optimizer = built(text, "freeze")
    for step in range(12):
        before = [[p.detach().clone() for p in block.parameters()] for block in model.blocks]
        head = model.head.weight.detach().clone()
        run(model, selector, optimizer, range(step, step + 1))
        moved = [
            any(not torch.equal(a, b) for a, b in zip(old, block.parameters(), strict=True))
            for old, block in zip(before, model.blocks, strict=True)
        ]
        assert moved == selector.mask.tolist()
        assert not torch.equal(head, model.head.weight)  # outside the layers everything trains, always
    rows = selector.history.arrays()
    # No rule here reads gradients of frozen layers, so none takes any.
    assert (rows["trained"] == rows["mask"]).all()


def dataset() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, VOCABULARY, (7,), generator=generator) for _ in range(24)]
    return [{"input_ids": row, "labels": row, "attention_mask": torch.ones_like(row)} for row in rows]


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("lisa:n=1;interval=3", "freeze"),
        ("ist:update_every=2", "freeze"),
        ("cosine", "gate"),
        ("probe-once:steps=3", "gate"),
    ],
)
def test_under_the_trainer(tmp_path, text, mode):
    def trained(folder: str, resume: str | None = None):
        model = with_lora(hugging_face("llama"))
        rule = make_rule(text, seed=1)
        if isinstance(rule, Ist):
            rule.ablation = Ablation(model, language_loss, [50, 51])
        callback = SelectorCallback(rule=rule, mode=mode)
        arguments = TrainingArguments(
            str(tmp_path / folder),
            max_steps=8,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            save_steps=5,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            seed=3,
        )
        trainer = Trainer(model, arguments, train_dataset=dataset(), callbacks=[callback])
        trainer.train(resume_from_checkpoint=resume)
        return model, callback.selector

    model, selector = trained("whole")
    assert selector.steps == 8
    assert len(selector.history) == 8 and 0 < int(selector.frequency.sum()) < 8 * 4
    again, resumed = trained("whole", str(tmp_path / "whole" / "checkpoint-5"))
    assert torch.equal(selector.frequency, resumed.frequency)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in again.modules())
