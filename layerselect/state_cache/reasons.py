"""Why a pass computes hidden states itself, though they are kept.

Each function names the cause as part of a sentence, or returns ``None``. Where a cause is found, all layers run as they
would without a store: nothing is read from it and nothing is written to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers.model_hooks import is_ours
from .below import Below
from .fingerprint import is_adapted
from .forgotten import REMEMBERED, Forgotten

#: Arguments that are no tensor and say nothing about hidden states below a cut.
HARMLESS = {
    "return_dict",
    "use_cache",
    "output_hidden_states",
    "output_attentions",
    "num_items_in_batch",
    "logits_to_keep",
    "cache_keys",
    "labels",
    "return_loss",
}
#: What a call, or else the model's configuration, may ask for that the layers below the cut have to be run for.
_ASKED_ANYWHERE = ("output_hidden_states", "output_attentions")
#: Hooks that change no numbers, by the beginning of their name.
_ASKING_HOOK = "make_inputs_require_grad"
_IDLE_HOOKS = (_ASKING_HOOK, "output_capturing_hook")
_IDLE_MODULES = ("layerselect.", "torch.")
_PER_BATCH = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
#: Rotary embeddings that follow the longest example of the batch.
_OF_THE_BATCH = ("dynamic", "longrope")


def of_inputs(inputs: Mapping[str, Any]) -> str | None:
    """What the call is given that a key cannot hold, or that takes gradients."""
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            if value.requires_grad and torch.is_grad_enabled() and value.is_floating_point() and name != "labels":
                return f"{name} takes gradients, which would end at cached states"
        elif name not in HARMLESS and value is not None and not isinstance(value, (bool, int, float, str, torch.dtype)):
            return (
                f"the model is called with {name}, a {type(value).__name__}, and examples are told apart by tensors "
                "alone"
            )
    steps = inputs.get("cache_position")
    if isinstance(steps, Tensor) and not torch.equal(steps.cpu(), torch.arange(len(steps), dtype=steps.dtype)):
        return "cache_position does not count from 0"
    return None


def needs_all_layers(inputs: Mapping[str, Any], config: Any) -> bool:
    """Whether a pass asks for what only all layers can give, in its arguments or else in the model's configuration.

    Raises:
        LayerSelectError: it is given the memory of a pass whose lower layers were skipped.
    """
    for name in REMEMBERED:
        if isinstance(inputs.get(name), Forgotten):
            inputs[name].refuse()
    if inputs.get("use_cache") or any(inputs.get(name) is not None for name in REMEMBERED):
        return True
    given = {name: inputs.get(name) for name in _ASKED_ANYWHERE}
    return any(getattr(config, name, False) if value is None else value for name, value in given.items())


def of_prompts(model: nn.Module) -> str | None:
    """Virtual tokens, which ``peft`` puts in front of every example."""
    configs, active = getattr(model, "peft_config", None), getattr(model, "active_adapter", None)
    config = configs.get(active) if isinstance(configs, Mapping) and isinstance(active, str) else None
    if config is None or not getattr(config, "is_prompt_learning", False):
        return None
    if (
        getattr(vars(model).get("forward"), "__self__", model) is not model
    ):  # disabled: the base model's takes its place
        return None
    return f"adapter {active!r} puts virtual tokens in front of each example"


def of_hooks(
    modules: Iterable[nn.Module], containers: Iterable[nn.Module], name_of: Callable[[nn.Module], str]
) -> str | None:
    """Hooks of others, which may change hidden states: noise on embeddings (NEFTune), steering vectors."""
    everywhere = nn.modules.module
    for hook in _foreign(everywhere._global_forward_pre_hooks, everywhere._global_forward_hooks):
        return f"{_called(hook)} is registered on all modules, and may change hidden states"
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks:
            for hook in _foreign(module._forward_pre_hooks, module._forward_hooks):
                return (
                    f"{_called(hook)} is registered on {name_of(module) or 'the model'}, and may change hidden states"
                )
    for module in containers:
        if module._forward_pre_hooks:
            for hook in _foreign(module._forward_pre_hooks):
                return (
                    f"{_called(hook)} is registered on {name_of(module) or 'the model'}, and may change what its "
                    "layers are given"
                )
    return None


def ask_gradients(modules: Iterable[nn.Module]) -> bool:
    """Whether a hook makes embeddings require gradients, as reentrant checkpointing of the layers needs it."""
    hooks = (hook for module in modules for hook in module._forward_hooks.values())
    return any(getattr(hook, "__name__", "").startswith(_ASKING_HOOK) for hook in hooks)


class Moods:
    """What a model may be switched to that makes hidden states depend on more than one example.

    Args:
        below: what runs before the cut.
    """

    def __init__(self, below: Below) -> None:
        self._below = below
        modules = [module for _, module in below.parts]
        self._normed = [module for module in modules if isinstance(module, _PER_BATCH)]
        # What has attributes of other packages is not typed.
        self._adapted: list[Any] = [module for module in modules if is_adapted(module)]
        self._dropping: list[Any] = [
            module for module in below.containers if isinstance(getattr(module, "layerdrop", None), float)
        ]
        self._turning: list[Any] = [module for module in modules if hasattr(module, "rope_type")]

    def reason(self) -> str | None:
        """Why hidden states cannot be kept as the model is switched now."""
        name_of = self._below.name_of
        for norm in self._normed:
            if norm.training and getattr(norm, "running_mean", None) is not None:
                return f"{name_of(norm)} trains, so it normalises by the batch: call its eval()"
        for module in self._dropping:
            if module.training and module.layerdrop > 0:
                return f"{name_of(module) or 'the model'} leaves out layers at random: set its layerdrop to 0"
        for module in self._turning:
            kinds = module.rope_type.values() if isinstance(module.rope_type, dict) else (module.rope_type,)
            if any(kind in _OF_THE_BATCH for kind in kinds):
                return f"the rotary embeddings of {name_of(module)} depend on the longest example of the batch"
        for module in self._adapted:
            if module.disable_adapters and module.merged_adapters:
                names = ", ".join(map(repr, module.merged_adapters))
                return f"adapter {names} is disabled while it is merged into the weights of {name_of(module)}"
        return None


def _foreign(*registered: Mapping[int, Any]) -> Iterator[Any]:
    for hooks in registered:
        for hook in hooks.values():
            function = hook.func if isinstance(hook, partial) else hook
            if is_ours(function) or getattr(function, "__name__", "").startswith(_IDLE_HOOKS):
                continue
            if not (getattr(function, "__module__", None) or "").startswith(_IDLE_MODULES):
                yield function


def _called(hook: Any) -> str:
    return f"the hook {getattr(hook, '__qualname__', type(hook).__qualname__)}"
