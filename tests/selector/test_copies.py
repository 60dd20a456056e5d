"""Copies of a model that has a selector are free of it, however and whenever they are made, and with any rule."""

from __future__ import annotations

import copy
import multiprocessing
import subprocess
import sys
import textwrap

import pytest
import torch
from layerselect import FastSelector
from layerselect.state_cache.reasons import _foreign
from torch import nn

from tests.helpers.models import hugging_face, language_loss, plain_loss, with_lora
from tests.helpers.selected import a_rule, same_state, train
from tests.selector.copies import COPIES, RULES, a_model, assert_free, averaged, flags, pickled, selected_model


@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        *((rule, "plain") for rule in RULES),
        *((r, k) for r in ("cosine", "measured") for k in ("reentrant", "non-reentrant")),
    ],
)
def test_copies_are_free_and_nobody_notices_them(rule, mode, kind):
    model, selector, optimizer = selected_model(rule, mode, kind)
    undisturbed = selected_model(rule, mode, kind)
    assert_free(copy.deepcopy(model), kind)
    train(model, selector, optimizer, range(5))
    train(*undisturbed, range(5))
    plain_loss(model, 5).backward()  # a step is under way
    before = selector.state_dict()
    copies = [make(model) for make in COPIES.values()]
    for copied in copies:
        assert_free(copied, kind)
    assert same_state(selector.state_dict(), before)  # what the copies did was not measured
    selector.step()
    copies.append(copy.deepcopy(model))
    optimizer.step()
    optimizer.zero_grad()
    train(*undisturbed, range(5, 6))
    train(model, selector, optimizer, range(6, 9))
    train(*undisturbed, range(6, 9))
    if rule != "measured":  # whose choice depends on the clock
        for ours, theirs in zip(model.parameters(), undisturbed[0].parameters(), strict=True):
            assert torch.equal(ours, theirs)
    selector.close()
    assert_free(copies[-1], kind)
    assert flags(copies[0]) == flags(copy.deepcopy(model)) == flags(a_model(kind))


@pytest.mark.parametrize("where", ["model before", "frozen block", "selected block", "head"])
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_made_inside_a_hook(make, where):
    """In the middle of a forward pass, where frozen layers do not require gradients."""
    model, selector, optimizer = selected_model(
        'cosine:base="topk:k=2"' if where == "head" else "fixed:layers=[4]", "freeze"
    )
    train(model, selector, optimizer, range(3))
    places = {
        "model before": model,
        "frozen block": model.blocks[0][1],
        "selected block": model.blocks[4],
        "head": model.head,
    }
    copies = []
    take = _Once(lambda: copies.append(make(model)))
    handle = (
        model.register_forward_pre_hook(take) if where == "model before" else places[where].register_forward_hook(take)
    )
    plain_loss(model, 3).backward()
    handle.remove()
    selector.step()
    assert flags(copies[0]) == flags(a_model("plain")) == flags(model)
    copies[0](torch.zeros(1, 2, dtype=torch.int64))


class _Once:
    """A hook that pickles as a hook that does nothing: the test is about ours."""

    def __init__(self, function) -> None:
        self._function = function

    def __call__(self, *args) -> None:
        if self._function is not None:
            function, self._function = self._function, None
            function()

    def __reduce__(self):
        return _Once, (None,)


@pytest.mark.parametrize("mode", ["gate", "freeze"])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_each_capture_stays_behind(backend, mode):
    """Hooks in C++ on the graph's nodes, hooks in Python on the parameters, and a pass over the gradients."""
    for capture in ("backward", "step"):
        model, selector, optimizer = selected_model("variance", mode, backend=backend, capture=capture)
        train(model, selector, optimizer, range(2))
        copied = copy.deepcopy(model)
        plain_loss(model, 2).backward()
        plain_loss(copied, 40).backward()
        selector.step()
        scores = selector.scores.clone()
        alone, own, other = selected_model("variance", mode, backend=backend, capture=capture)
        train(alone, own, other, range(2))
        plain_loss(alone, 2).backward()
        own.step()
        assert torch.equal(scores, own.scores)


@pytest.mark.parametrize("rule", ["cosine", "measured", "variance"])
def test_adapters_and_checkpointing_of_transformers(rule):
    for checkpointing in (False, True):
        model = with_lora(hugging_face("llama"))
        if checkpointing:
            model.base_model.model.gradient_checkpointing_enable()
        users = flags(model)
        selector = FastSelector(model, a_rule(rule, model), mode="freeze")
        optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
        selector.attach(optimizer)
        for step in range(3):
            language_loss(model, step).backward()
            selector.step()
            optimizer.step()
            optimizer.zero_grad()
        # With checkpointing, transformers itself leaves a hook on the model that cannot be pickled.
        for make in (copy.deepcopy, averaged) if checkpointing else COPIES.values():
            copied = make(model)
            assert flags(copied) == users
            language_loss(copied).backward()
            assert [p.grad is not None for p in copied.parameters()] == users
        selector.close()


def test_a_copy_of_a_compiled_model_that_freezes():
    """There the flags are switched for longer than a layer's pass."""
    model = a_model("plain")
    for block in model.blocks:
        block.compile(backend="eager")
    with FastSelector(model, "fixed:layers=[4]", mode="freeze"):
        assert flags(model) != flags(a_model("plain"))
        copied = copy.deepcopy(model)
        assert flags(copied) == flags(pickled(model)) == flags(a_model("plain"))
    assert flags(model) == flags(a_model("plain"))


def test_what_is_left_in_a_copy_does_not_stop_another_selector():
    """Keeping hidden states is refused where hooks may change them: what is left of ours changes nothing."""
    model, selector, optimizer = selected_model("cosine", "freeze")
    train(model, selector, optimizer, range(2))
    for copied in (copy.deepcopy(model), pickled(model)):
        hooks = [(m._forward_pre_hooks, m._forward_hooks) for m in copied.modules()]
        assert any(any(pair) for pair in hooks)
        assert [hook for pair in hooks for hook in _foreign(*pair)] == []


def test_a_shallow_copy_is_another_name_for_the_same_model():
    """It shares modules and parameters, and so what is measured and gated."""
    model, selector, optimizer = selected_model("cosine", "gate")
    twin, other, others_optimizer = selected_model("cosine", "gate")
    train(copy.copy(model), selector, optimizer, range(4))
    train(twin, other, others_optimizer, range(4))
    assert torch.equal(selector.scores, other.scores) and torch.equal(selector.mask, other.mask)
    selector.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in copy.copy(model).modules())


def test_a_pickled_model_is_loaded_where_the_package_is_not_installed(tmp_path, environment):
    model, selector, optimizer = selected_model("cosine", "gate")
    train(model, selector, optimizer, range(2))
    torch.save(model, tmp_path / "model.pt")
    code = f"""
        import sys
        sys.modules["layerselect"] = None
        import torch
        model = torch.load({str(tmp_path / "model.pt")!r}, weights_only=False)
        model(torch.zeros(1, 2, dtype=torch.int64)).sum().backward()
        assert not any(name.startswith("layerselect.") for name in sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, check=True)


def _in_another_process(model: nn.Module, answers) -> None:
    torch.set_num_threads(1)
    plain_loss(model).backward()
    answers.put([p.grad is not None for p in model.parameters()])


def test_a_process_that_is_spawned():
    model, selector, optimizer = selected_model("cosine", "freeze")
    train(model, selector, optimizer, range(2))
    context = multiprocessing.get_context("spawn")
    answers = context.SimpleQueue()
    process = context.Process(target=_in_another_process, args=(model, answers))
    process.start()
    assert answers.get() == flags(a_model("plain"))
    process.join()
    assert process.exitcode == 0
