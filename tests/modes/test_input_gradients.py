"""Which gradients of a model's input are borrowed, and that no other one is ever taken away."""

from __future__ import annotations

import pytest
import torch
from layerselect import FastSelector
from layerselect.modes.input_gradients import InputGradients, free_to_choose
from layerselect.utils.saved_activations import saved_activation_bytes
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.helpers.checkpointed import assert_same, enable
from tests.helpers.models import VOCABULARY, PlainStack, hugging_face, language_loss, plain_loss, with_lora

KINDS = pytest.mark.parametrize("checkpointing", [None, False, True], ids=["none", "non-reentrant", "reentrant"])


def build(checkpointing: bool | None, **adapters: object) -> nn.Module:
    """A model whose input is made to require a gradient, checkpointed or not."""
    model = hugging_face("llama")
    model.config.use_cache = False
    model = with_lora(model, **adapters).train()
    model.enable_input_require_grads()
    if checkpointing is not None:
        enable(model, checkpointing)
    return model


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def reaching(model: nn.Module) -> list[bool]:
    """For each block, in the passes to come, whether its output requires a gradient."""
    seen: list[bool] = []

    def note(module: nn.Module, args: tuple, output: Tensor) -> None:
        if torch.is_grad_enabled():  # before transformers 5.2, hooks run inside the checkpoint
            seen.append(output.requires_grad)

    for block in model.base_model.model.model.layers:
        block.register_forward_hook(note)
    return seen


def test_without_checkpointing_the_backward_pass_ends_at_the_lowest_trained_layer():
    by_hand = with_lora(hugging_face("llama")).train()
    for name, parameter in by_hand.named_parameters():
        parameter.requires_grad_("lora_" in name and ".3." in name)
    language_loss(by_hand).backward()
    model = build(None)
    by_hand.config.use_cache = False
    seen = reaching(model)
    with FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        everywhere = saved_activation_bytes(model, lambda: language_loss(model))
        assert seen == [True] * 4  # the first pass is watched
        seen.clear()
        saved = saved_activation_bytes(model, lambda: language_loss(model))
        assert seen == [False, False, False, True]
        language_loss(model).backward()
    unasked = saved_activation_bytes(by_hand, lambda: language_loss(by_hand))
    assert_same(gradients(model), gradients(by_hand))
    # The lowest trained layer's input requires a gradient, as the user had it: its norm keeps a little for that.
    assert saved < unasked + (everywhere - unasked) / 10
    seen.clear()
    language_loss(model)
    assert seen == [True] * 4


@KINDS
def test_gradients_of_an_adapted_embedding_are_kept(checkpointing):
    options = {"target_modules": ["embed_tokens", "q_proj", "down_proj"]}
    expected = build(checkpointing, **options)
    for name, parameter in expected.named_parameters():
        parameter.requires_grad_("lora_" in name and (".3." in name or "embed_tokens" in name))
    language_loss(expected).backward()
    model = build(checkpointing, **options)
    seen = reaching(model)
    with FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        for _ in range(2):
            model.zero_grad()
            language_loss(model).backward()
    assert seen and all(seen)
    assert sum("embed" in name for name in gradients(model)) == 2
    assert_same(gradients(model), gradients(expected))


@KINDS
def test_gradients_of_a_prompt_are_kept(checkpointing):
    from peft import PromptTuningConfig, get_peft_model

    model = hugging_face("llama")
    model.config.use_cache = False
    model = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).train()
    for name, parameter in model.named_parameters():
        if ".layers." in name:
            parameter.requires_grad_("q_proj" in name)
    model.get_base_model().enable_input_require_grads()
    if checkpointing is not None:
        enable(model.get_base_model(), checkpointing)

    def both() -> dict[str, Tensor]:
        model.zero_grad()
        language_loss(model).backward()
        return gradients(model)

    everything = both()
    with FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        both()
        ours = both()
    kept = [name for name in everything if "prompt_encoder" in name or ".3." in name]
    assert len(kept) == 2
    assert_same(ours, {name: everything[name] for name in kept})


@KINDS
@pytest.mark.parametrize("by", ["embedding", "hand", "view"])
def test_inputs_that_require_a_gradient_get_it(checkpointing, by):
    model = build(checkpointing)
    tokens = torch.randint(3, VOCABULARY, (2, 9))

    def inputs() -> Tensor:
        if by == "embedding":
            return model.get_input_embeddings()(tokens)  # a hook makes it require a gradient
        given = torch.nn.functional.one_hot(tokens % 16, 16).float().requires_grad_()
        return given.view(2, 9, 16) if by == "view" else given

    def gradient() -> Tensor:
        model.zero_grad()
        embeddings = inputs()
        embeddings.retain_grad()
        model(inputs_embeds=embeddings, labels=tokens).loss.backward()
        return embeddings.grad

    expected = gradient()
    with FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        for _ in range(2):
            assert torch.equal(gradient(), expected)


@KINDS
@pytest.mark.parametrize("how", ["hook", "retain"])
def test_who_hooks_the_embeddings_output_gets_its_gradient(checkpointing, how):
    model = build(checkpointing)
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        if how == "hook":
            output.register_hook(lambda gradient: kept.append(gradient))
            return None
        doubled = output * 1.0
        doubled.retain_grad()
        kept.append(doubled)
        return doubled

    def gradient() -> Tensor:
        kept.clear()
        language_loss(model).backward()
        return kept[0] if how == "hook" else kept[0].grad

    model.get_input_embeddings().register_forward_hook(keep)
    expected = gradient()
    with FastSelector(model, "fixed:layers=[3]", mode="freeze"):
        for _ in range(2):
            assert torch.equal(gradient(), expected)


class Fronted(PlainStack):
    """Something between a frozen embedding, whose output is made to require a gradient, and the blocks."""

    def __init__(self, front: str) -> None:
        super().__init__()
        self.front = front
        self.embed.weight.requires_grad_(False)
        self.embed.register_forward_hook(lambda module, args, output: output.requires_grad_(True))
        self.project = nn.Linear(16, 16)
        self.steer = torch.full((16,), 0.1, requires_grad=True)  # a leaf that is no parameter

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens)
        if self.front == "reentrant":  # its node does not show the parameters of the projection
            hidden = checkpoint(self.project, hidden, use_reentrant=True)
        elif self.front == "non-reentrant":
            hidden = checkpoint(self.project, hidden, use_reentrant=False)
        elif self.front == "steered":
            hidden = hidden + self.steer
        elif self.front == "frozen":
            hidden = torch.nn.functional.gelu(hidden) * 2
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


@pytest.mark.parametrize(("front", "kept"), [("reentrant", 2), ("non-reentrant", 2), ("steered", 1), ("frozen", 0)])
def test_what_stands_between_embedding_and_blocks(front, kept):
    torch.manual_seed(0)
    model = Fronted(front)

    def below() -> list[Tensor]:
        model.zero_grad()
        model.steer.grad = None
        plain_loss(model).backward()
        return [t.grad.clone() for t in (model.steer, *model.project.parameters()) if t.grad is not None]

    expected = below()
    outputs: list[bool] = []
    with FastSelector(model, "fixed:layers=[5]", mode="freeze"):
        below()
        model.blocks[0].register_forward_hook(lambda module, args, output: outputs.append(output.requires_grad))
        ours = below()
    assert len(ours) == len(expected) == kept
    assert all(map(torch.equal, ours, expected))
    assert outputs == [kept > 0]


def test_an_input_of_the_model_that_is_made_to_require_a_gradient():
    """As speech models do with the waveform."""

    class Speech(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.feature = nn.Conv1d(1, 4, 3).requires_grad_(False)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(3))

        def forward(self, wave: Tensor) -> Tensor:
            wave = wave[:, None]
            wave.requires_grad = True
            hidden = self.feature(wave).transpose(1, 2)
            for block in self.blocks:
                hidden = block(hidden)
            return hidden

    model = Speech()
    outputs: list[bool] = []
    model.blocks[1].register_forward_hook(lambda module, args, output: outputs.append(output.requires_grad))
    with FastSelector(model, "fixed:layers=[2]", mode="freeze"):
        for _ in range(2):
            model(torch.randn(2, 9)).sum().backward()
        assert outputs == [True, False]
        wave = torch.randn(2, 9)
        aliased = wave.view(2, 9).requires_grad_()
        inputs = InputGradients()
        inputs.enter(0, (wave, aliased))
        assert not inputs.is_borrowed(aliased)


def test_a_pass_ends_with_the_outermost_module_whatever_happens():
    model = build(None)
    inputs = None
    with FastSelector(model, "fixed:layers=[3]", mode="freeze") as selector:
        inputs = selector._boundary._inputs
        with pytest.raises(ValueError, match="exactly one"):
            model()
        assert not inputs.in_pass
        language_loss(model)
        assert not inputs.in_pass
        with torch.no_grad():
            language_loss(model)
        # Parts of the model may be called by themselves, too.
        tokens = torch.randint(3, VOCABULARY, (2, 9))
        seen = reaching(model)
        model.base_model.model.model(tokens)
        assert seen == [False, False, False, True]
        assert not inputs.in_pass


def test_free_to_choose():
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(free_to_choose())
        return x.sin()

    x = torch.ones(2, requires_grad=True)
    look(x)
    assert seen == [True]
    with torch.no_grad():
        look(x)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        look(x)
    assert seen == [True, False, True]
    seen.clear()
    for reentrant in (False, True):
        checkpoint(look, x, use_reentrant=reentrant).sum().backward()
    assert seen == [False] * 4
