"""Copies of a model that has a selector: free of it, however they are made, with whatever rule and when."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
import subprocess
import sys
import textwrap

import pytest
import torch
from layerselect import Ablation, CostAware, FastSelector, Ist, LayerSelectError, make_rule
from layerselect.layers.model_hooks import ModelHook
from layerselect.rules import LayerCardRule
from layerselect.state_cache.reasons import _foreign
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from tests.card.made import made
from tests.helpers.models import PlainStack, hugging_face, language_loss, plain, plain_loss, with_lora

RULES = (
    "variance",
    "cosine",
    "counted",
    "measured",
    "weight-norm",
    "ist",
    "lisa",
    "block-cyclic",
    "random:k=2",
    "probe-once:steps=2",
    "layer-card",
)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def averaged(model):
    average = AveragedModel(model)
    average.update_parameters(model)
    return average.module


COPIES = {"deepcopy": copy.deepcopy, "pickle": pickled, "torch.save": saved, "AveragedModel": averaged}


class Checkpointed(PlainStack):
    """With checkpoints of its own around the blocks, in the form that transformers keeps them in."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.gradient_checkpointing = True
        self._gradient_checkpointing_func = checkpoint
        self.reentrant = reentrant

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        for block in self.blocks:
            hidden = hidden + self._gradient_checkpointing_func(block, hidden, use_reentrant=self.reentrant)
        return self.head(hidden)


def a_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model = plain() if kind == "plain" else Checkpointed(reentrant=kind == "reentrant")
    model.embed.weight.requires_grad_(kind == "reentrant")  # frozen by the user, as one weight of a layer
    model.blocks[2][0].bias.requires_grad_(False)
    return model


def a_rule(name: str, model: nn.Module):
    if name == "measured":
        return CostAware(budget=0.9, costs="measured")
    if name == "layer-card":
        return LayerCardRule(made([1.0, 0.0, 3.0, 0.0, 2.0, 0.0], prefix="blocks"), k=2)
    rule = make_rule("cost-aware:budget=0.9" if name == "counted" else name, seed=3)
    if isinstance(rule, Ist):
        rule.ablation = Ablation(model, plain_loss, [100, 101])
    return rule


def selected_model(rule: str, mode: str, kind: str = "plain", **options):
    model = a_model(kind)
    selector = FastSelector(model, a_rule(rule, model), mode=mode, probe_every=4, **options)
    optimizer = torch.optim.AdamW(selector.trainable_parameters(), lr=1e-2)
    selector.attach(optimizer)
    return model, selector, optimizer


def train(model, selector, optimizer, steps: range) -> None:
    for step in steps:
        plain_loss(model, step).backward()
        selector.step()
        optimizer.step()
        optimizer.zero_grad()


def flags(model: nn.Module) -> list[bool]:
    return [p.requires_grad for p in model.parameters()]


def assert_free(copied: nn.Module, kind: str) -> None:
    """It has the user's flags and none of our code in it, and trains like a model that never had a selector."""
    assert flags(copied) == flags(a_model(kind))
    assert b"layerselect" not in pickle.dumps(copied)
    never = a_model(kind)
    never.load_state_dict(copied.state_dict())
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2) for model in (copied, never)]
    for step in range(2):
        for model, optimizer in zip((copied, never), optimizers, strict=True):
            optimizer.zero_grad()
            plain_loss(model, 50 + step).backward()
        for ours, theirs in zip(copied.parameters(), never.parameters(), strict=True):
            assert (ours.grad is None) == (theirs.grad is None)
            assert ours.grad is None or torch.equal(ours.grad, theirs.grad)
        for optimizer in optimizers:
            optimizer.step()
    for ours, theirs in zip(copied.parameters(), never.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    copied.zero_grad()


def same_state(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same_state, a, b))
    if isinstance(a, Tensor):
        return torch.equal(a.nan_to_num(), b.nan_to_num())
    return a == b


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


# ---------------------------------------------------------------------- what else is copied


class KeepsAll(torch.optim.SGD):
    """Copies with everything that it has, hooks included."""

    def __getstate__(self):
        return dict(vars(self))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, KeepsAll])
@pytest.mark.parametrize("make", [copy.deepcopy, pickled])
@pytest.mark.parametrize("options", [{"mode": "gate"}, {"mode": "freeze", "on_freeze": "reset"}])
def test_the_copy_of_an_optimizer_is_free_of_the_gate(options, make, kind):
    model = plain()
    selector = FastSelector(model, "fixed:layers=[1]", **options)
    optimizer = kind(selector.trainable_parameters(), lr=0.1)
    selector.attach(optimizer)
    train(model, selector, optimizer, range(2))
    copied, theirs = make((model, optimizer))
    before = copy.deepcopy(copied)
    plain_loss(copied, 2).backward()
    theirs.step()
    moved = [not torch.equal(a, b) for a, b in zip(copied.parameters(), before.parameters(), strict=True)]
    assert all(moved)
    still = copy.deepcopy(model.blocks[0].state_dict())
    train(model, selector, optimizer, range(2, 3))  # and the original is gated as before
    assert same_state(dict(model.blocks[0].state_dict()), dict(still))


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickled])
def test_the_copy_of_a_selector_says_what_it_is(make):
    model, selector, _ = selected_model("variance", "gate")
    copied = make(selector)
    for use in (lambda: copied.step(), lambda: copied.scores, lambda: copied.state_dict()):
        with pytest.raises(LayerSelectError, match="copy of a selector.*build a FastSelector for the copied model"):
            use()
    with copied:
        copied.close()
    plain_loss(model).backward()
    selector.step()  # the original is open


def test_a_model_that_keeps_its_selector_is_copied():
    model, selector, optimizer = selected_model("cosine", "gate")
    model.selector = selector
    train(model, selector, optimizer, range(2))
    copied = copy.deepcopy(model)
    plain_loss(copied).backward()
    with FastSelector(copied, a_rule("cosine", copied), mode="gate") as own:
        own.load_state_dict(selector.state_dict())  # as the sentence says
        assert own.steps == 2


@pytest.mark.parametrize("make", [copy.deepcopy, pickled])
@pytest.mark.parametrize("name", [rule for rule in RULES if rule != "ist"])
def test_a_rule_in_use_is_copied_for_another_model(name, make):
    model, selector, optimizer = selected_model(name, "gate")
    train(model, selector, optimizer, range(3))
    rule = make(selector.rule)
    assert type(rule) is type(selector.rule) and rule.config() == selector.rule.config()
    other = a_model("plain")
    with FastSelector(other, rule, mode="gate") as second:
        second_optimizer = torch.optim.AdamW(second.trainable_parameters(), lr=1e-2)
        second.attach(second_optimizer)
        train(other, second, second_optimizer, range(3))
    train(model, selector, optimizer, range(3, 5))


def test_a_hook_calls_its_function_and_its_copy_calls_nothing():
    module, seen = nn.Linear(2, 2), []
    module.register_forward_hook(ModelHook(lambda *args, **kwargs: seen.append(1)), with_kwargs=True)
    module.register_forward_pre_hook(ModelHook(lambda *args: seen.append(2)))
    module.register_full_backward_hook(ModelHook(lambda *args: seen.append(3)))
    for make in (copy.deepcopy, pickled, lambda m: copy.deepcopy(copy.deepcopy(m))):
        make(module)(torch.ones(1, 2)).sum().backward()
        assert seen == []
    module(torch.ones(1, 2)).sum().backward()
    assert seen == [2, 1, 3]


def test_what_is_lent_is_given_back_in_the_copy():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].bias.requires_grad_(False)
    lent = [module[0].weight, module[1].weight]
    module[0].register_forward_hook(ModelHook(lambda *args: None, lambda: lent))
    for parameter in lent:
        parameter.requires_grad_(False)
    for make in COPIES.values():
        assert flags(make(module)) == [True, False, True, True]
    assert flags(module) == [False, False, False, True]
