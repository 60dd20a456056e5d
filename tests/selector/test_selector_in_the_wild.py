"""The selector among what people combine it with: checkpointing, autocast, compile, hooks and clipping of their own."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from layerselect import FastSelector, LayerSelectError
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.helpers.models import PlainStack, hugging_face, language_loss, plain, plain_loss, with_lora
from tests.helpers.norms import gradient_norms


class Checkpointed(PlainStack):
    reentrant = False

    def forward(self, tokens):
        hidden = self.embed(tokens)
        for block in self.blocks:
            hidden = hidden + checkpoint(block, hidden, use_reentrant=self.reentrant)
        return self.head(hidden)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant, backend):
    torch.manual_seed(0)
    model = Checkpointed()
    model.reentrant = reentrant
    straight = plain()
    straight.load_state_dict(model.state_dict())
    with (
        FastSelector(model, mode="observe", backend=backend) as selector,
        FastSelector(straight, mode="observe", backend=backend) as expected,
    ):
        for step in range(3):
            plain_loss(model, step).backward()
            plain_loss(straight, step).backward()
            selector.step()
            expected.step()
            assert torch.equal(selector.scores, expected.scores)
            model.zero_grad()
            straight.zero_grad()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_gradient_checkpointing_as_transformers_enables_it(reentrant, mode):
    model = with_lora(hugging_face("llama"))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.train()
    with FastSelector(model, "topk:k=2", mode=mode) as selector:
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        for step in range(4):
            language_loss(model, step).backward()
            norms = gradient_norms(selector, model)
            active = selector.trained()
            selector.step()
            assert len(selector.selected()) == 2
            for index in active:
                assert norms[index] > 0
                assert float(selector.scores[index]) == pytest.approx(norms[index], rel=1e-6)
            optimizer.step()
            optimizer.zero_grad()


def test_autocast_bfloat16(backend):
    model = plain()
    with FastSelector(model, mode="observe", backend=backend) as selector:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = plain_loss(model)
        loss.backward()
        selector.step()
        assert selector.scores.tolist() == pytest.approx(gradient_norms(selector, model), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("capture", ["backward", "step"])
def test_other_dtypes_and_mixed_ones(dtype, capture, backend):
    model = plain()
    model.blocks[3].to(dtype)
    for block in (model.blocks[3],):
        block.register_forward_pre_hook(lambda m, args: (args[0].to(dtype),))
        block.register_forward_hook(lambda m, args, out: out.float())
    with FastSelector(model, mode="observe", capture=capture, backend=backend) as selector:
        plain_loss(model).backward()
        selector.step()
        assert selector.scores.tolist() == pytest.approx(gradient_norms(selector, model), rel=1e-6)


def test_a_second_backward_pass(backend):
    model = plain()
    with FastSelector(model, mode="observe", backend=backend) as selector:
        loss = plain_loss(model)
        loss.backward(retain_graph=True)
        loss.backward()
        selector.step()
        assert selector.scores.tolist() == pytest.approx(gradient_norms(selector, model), rel=1e-6)


def test_tied_weights_are_outer_and_still_counted(backend):
    model = plain()
    model.head.weight = model.embed.weight
    with FastSelector(model, mode="observe", backend=backend) as selector:
        plain_loss(model).backward()
        selector.step()
        total = math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))
        assert float(selector.total_norm) == pytest.approx(total, rel=1e-6)
        assert len(selector.trainable_parameters()) == len(list(model.parameters()))


@pytest.mark.parametrize("engine", ["eager", "aot_eager"])
def test_compiled_model(engine):
    model = plain()
    compiled = torch.compile(model, backend=engine)
    with FastSelector(compiled, "topk:k=3") as selector:
        assert selector.mode == "gate"
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        for step in range(3):
            plain_loss(compiled, step).backward()
            expected = gradient_norms(selector, model)
            selector.step()
            assert selector.scores.tolist() == pytest.approx(expected, rel=1e-6)
            optimizer.step()
            optimizer.zero_grad()


def test_users_hooks_and_clipping_stay(backend):
    model = plain()
    seen: list[str] = []
    tensor_hook = model.blocks[0][1].weight.register_hook(lambda g: seen.append("tensor"))
    model.blocks[1][1].weight.register_post_accumulate_grad_hook(lambda p: seen.append("before"))
    with FastSelector(model, mode="gate", backend=backend) as selector:
        model.blocks[2][1].weight.register_post_accumulate_grad_hook(lambda p: seen.append("after"))
        optimizer = torch.optim.SGD(selector.trainable_parameters(), lr=0.1)
        selector.attach(optimizer)
        plain_loss(model).backward()
        norms = gradient_norms(selector, model)
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        selector.step()
        assert sorted(seen) == ["after", "before", "tensor"]
        # The clip scales all layers alike; the scores are those of the backward pass.
        assert selector.scores.tolist() == pytest.approx(norms, rel=1e-6)
        optimizer.step()
    tensor_hook.remove()
    model.zero_grad()
    seen.clear()
    plain_loss(model).backward()
    assert sorted(seen) == ["after", "before"]


def test_set_to_none_or_not(backend):
    model = plain()
    with FastSelector(model, mode="observe", backend=backend) as selector:
        for step, set_to_none in enumerate((False, True, False)):
            model.zero_grad(set_to_none=set_to_none)
            plain_loss(model, step).backward()
            selector.step()
            assert selector.scores.tolist() == pytest.approx(gradient_norms(selector, model), rel=1e-6)


@pytest.mark.parametrize("mode", ["gate", "freeze"])
def test_module_to_dtype_in_mid_training(mode, backend):
    model = plain()
    with FastSelector(model, mode=mode, backend=backend) as selector:
        plain_loss(model).backward()
        selector.step()
        model.zero_grad()
        model.to(torch.float64)
        plain_loss(model, 1).backward()
        active, norms = selector.trained(), gradient_norms(selector, model)
        selector.step()
        assert [float(selector.scores[i]) for i in active] == pytest.approx([norms[i] for i in active], rel=1e-6)


def test_load_state_dict_and_its_assigning_form(backend):
    model = plain()
    other = copy.deepcopy(plain(seed=9).state_dict())
    with FastSelector(model, mode="freeze", rule="topk:k=3", backend=backend) as selector:
        model.load_state_dict(other)
        plain_loss(model).backward()
        norms = gradient_norms(selector, model)
        selector.step()
        assert selector.scores.tolist() == pytest.approx(norms, rel=1e-6)
        model.zero_grad()

        model.load_state_dict(other, assign=True)
        plain_loss(model, 1).backward()
        norms = gradient_norms(selector, model)
        active = selector.trained()
        selector.step()
        assert [float(selector.scores[i]) for i in active] == pytest.approx([norms[i] for i in active], rel=1e-6)
        model.zero_grad()
        plain_loss(model, 2).backward()
        assert [i for i, b in enumerate(model.blocks) if b[1].weight.grad is not None] == selector.trained()


def test_replaced_parameters_that_the_optimizer_lacks_are_refused():
    model = plain()
    with FastSelector(model, mode="gate") as selector:
        selector.attach(torch.optim.SGD(selector.trainable_parameters(), lr=0.1))
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        plain_loss(model).backward()
        with pytest.raises(LayerSelectError, match="optimizer lacks 39 of the 39"):
            selector.step()


def test_two_observers_and_a_deleted_model(backend):
    import gc
    import weakref

    model = plain()
    first = FastSelector(model, mode="observe", backend=backend)
    second = FastSelector(model, "topk:k=2", mode="observe", backend=backend)
    plain_loss(model).backward()
    first.step()
    second.step()
    assert torch.equal(first.scores, second.scores)
    first.close()
    second.close()
    alive = weakref.ref(model.blocks[0][1].weight)
    del model, first, second
    gc.collect()
    assert alive() is None
