"""Says what of a model may train: adapters in the layers, or the layers themselves, and every fresh module."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from torch import nn

from ..errors import LayerSelectError
from ..utils.linear_kind import is_quantized
from .bottleneck import BottleneckConfig, check_activation, residual_writers
from .load import LoadedModel
from .targets import ALL, ATTENTION, MLP, chosen_maps, group_of, split_targets

logger = logging.getLogger(__name__)

ALL_PLACES = "all"
PLACES = (ALL_PLACES, ATTENTION, MLP)
ADAPTERS = ("lora", "dora", "bottleneck", "bottleneck-parallel", "none")


@dataclass(frozen=True)
class AdapterConfig:
    """Which adapter, and its size.

    Attributes:
        kind: ``lora``; ``dora``, which learns the length of each weight vector apart from its direction (arXiv
            2402.09353); ``bottleneck`` behind or ``bottleneck-parallel`` beside what the layers add to the residual
            stream (:mod:`layerselect.models.bottleneck`); or ``none``, which trains the layers' own weights.
        rank, alpha: of LoRA and DoRA; their update is scaled by ``alpha / rank``.
        dropout: in front of an adapter of any kind.
        size: hidden units of a bottleneck.
        activation: its nonlinearity.
        places: the parts of a layer that a bottleneck stands at: ``attention``, ``mlp``, or ``all``.
        targets: the maps that LoRA and DoRA go to, see :func:`~layerselect.models.targets.chosen_maps`; separated by
            commas.
    """

    kind: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    size: int = 64
    activation: str = "gelu"
    places: str = ALL_PLACES
    targets: str = ALL

    def __post_init__(self) -> None:
        if self.kind not in ADAPTERS:
            raise LayerSelectError(f"there is no adapter {self.kind!r}; the adapters are: {', '.join(ADAPTERS)}")
        if self.rank < 1 or self.alpha <= 0:
            raise LayerSelectError(f"rank={self.rank} and alpha={self.alpha} of the adapter must be positive")
        if self.size < 1:
            raise LayerSelectError(f"size={self.size} of the bottleneck adapter must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise LayerSelectError(f"dropout={self.dropout} of the adapter is not in [0, 1)")
        if self.places not in PLACES:
            raise LayerSelectError(f"places={self.places!r} of the bottleneck adapter is none of {', '.join(PLACES)}")
        if self.kind.startswith("bottleneck"):
            check_activation(self.activation)
        split_targets(self.targets)


def add_adapter(loaded: LoadedModel, config: AdapterConfig) -> nn.Module:
    """Sets ``requires_grad`` for fine-tuning and returns the model to train.

    ``lora`` and ``dora`` go to every linear map inside the layers, a bottleneck to those whose output goes to the
    residual stream; the fresh modules outside the layers train whole and are saved with the adapter. ``none`` trains
    the layers' own parameters and the fresh modules. Embeddings and other pretrained modules outside the layers stay as
    they are.

    What ``peft`` refuses of that is asked for otherwise, and said: some maps of state-space models are left out, and
    where experts are adapted as parameters there is no dropout in front of the adapters.

    Raises:
        LayerSelectError: the layers hold no linear map to adapt, or ``peft`` cannot adapt them.
    """
    if config.kind == "none":
        return _train_layers(loaded)
    found = peft_config(loaded, config) if config.kind.startswith("bottleneck") else _what_peft_takes(loaded, config)
    with _peft_quiet():
        model = get_peft_model(loaded.model, found)
    assert isinstance(model, PeftModel)
    return model


def _what_peft_takes(loaded: LoadedModel, config: AdapterConfig) -> PeftConfig:
    """The nearest to what is asked for that ``peft`` does not refuse: it is asked about a copy of the model without
    weights.
    """
    left_out: set[str] = set()
    while True:
        found = peft_config(loaded, config, left_out=left_out)
        try:
            with torch.random.fork_rng(devices=[]), _peft_quiet():
                get_peft_model(_skeleton(loaded.model), copy.deepcopy(found))
            return found
        except Exception as error:  # peft says no in many ways
            text = " ".join(str(error).split())
            if "lora_dropout" in text and config.dropout:
                logger.warning(
                    "%s: peft adapts its experts as parameters, which takes no dropout: --lora-dropout is 0",
                    loaded.source,
                )
                config = replace(config, dropout=0.0)
            elif (refused := _refused_maps(text)) - left_out:
                logger.warning(
                    "%s: peft cannot adapt its maps %s: they are left as they are",
                    loaded.source,
                    ", ".join(sorted(refused)),
                )
                left_out |= refused
            else:
                other = "--adapter lora or bottleneck" if config.kind == "dora" else "--adapter bottleneck or none"
                raise LayerSelectError(
                    f"peft cannot put {config.kind} into {loaded.source} ({type(error).__name__}: {text[:160]}): use "
                    f"{other}"
                ) from error


@contextmanager
def _peft_quiet() -> Iterator[None]:
    """Without the warnings about what ``peft`` itself makes of a configuration: for experts, for maps that are
    transposed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The following (alpha|rank)_pattern keys", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False", category=UserWarning)
        yield


def _refused_maps(text: str) -> set[str]:
    """The names of the maps that a refusal of ``peft`` is about."""
    if found := re.search(r"Module '(\w+)' is incompatible", text):
        return {found[1]}
    if found := re.search(r"Cannot convert PEFT target\(s\) ([\w, ]+) without", text):
        return set(found[1].split(", "))
    return set()


def _skeleton(model: nn.Module) -> nn.Module:
    """A copy of the model without its numbers."""
    packed = {id(p) for m in model.modules() if is_quantized(m) for p in m.parameters(recurse=False)}
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
        if id(p) not in packed
    }
    memo.update({id(buffer): buffer.detach().to("meta") for buffer in model.buffers()})
    # What peft asks of quantized maps is in their numbers; to it they are as the maps that they came of.
    memo.update({id(m): _blank(m) for m in model.modules() if is_quantized(m)})
    return copy.deepcopy(model, memo)


def _blank(module: Any) -> nn.Linear:
    return nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")


def peft_config(loaded: LoadedModel, config: AdapterConfig, *, left_out: Collection[str] = ()) -> PeftConfig:
    """The configuration that ``peft`` is given for an adapter of any kind but ``none``.

    Args:
        left_out: the last names of linear maps that LoRA and DoRA do not go to.
    """
    task = TaskType.CAUSAL_LM if loaded.writes else None
    if config.kind.startswith("bottleneck"):
        return BottleneckConfig(
            size=config.size,
            dropout=config.dropout,
            placement="parallel" if config.kind.endswith("parallel") else "serial",
            activation=config.activation,
            target_modules=_pattern(_places(loaded, config.places), loaded.layer_names),
            modules_to_save=_to_save(loaded),
            task_type=task,
        )
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        use_dora=config.kind == "dora",
        target_modules=linear_maps(loaded.model, loaded.layer_names, split_targets(config.targets), left_out=left_out),
        modules_to_save=_to_save(loaded),
        task_type=task,
    )


def _to_save(loaded: LoadedModel) -> list[str] | None:
    """The fresh modules by names that ``peft`` takes for nothing else, where there are such: it trains whatever ends
    with a name ("lm_head" for "head"), so that a module is named by what is in it if its own name is also another's
    end.
    """
    names = [name for name, _ in loaded.model.named_modules()]

    def told_apart(name: str) -> list[str] | None:
        if sum(other.endswith(name) for other in names) == 1:
            return [name]
        module = loaded.model.get_submodule(name)
        if next(module.parameters(recurse=False), None) is not None:
            return None
        inside = [
            told_apart(f"{name}.{key}")
            for key, child in module.named_children()
            if any(True for _ in child.parameters())
        ]
        return [part for parts in inside for part in parts or ()] if all(inside) else None

    return [part for fresh in loaded.fresh for part in told_apart(fresh) or [fresh]] or None


def linear_maps(
    model: nn.Module, layer_names: Sequence[str], targets: Sequence[str] = (ALL,), *, left_out: Collection[str] = ()
) -> str:
    """A regular expression that matches linear maps inside the layers and nothing else.

    Args:
        targets: which, see :func:`~layerselect.models.targets.chosen_maps`.
        left_out: the last names of maps that it does not match.

    Raises:
        LayerSelectError: there is none.
    """
    return _pattern(chosen_maps(model, layer_names, targets, left_out=left_out), layer_names)


def _places(loaded: LoadedModel, places: str) -> list[str]:
    """The maps that a bottleneck stands at."""
    writers = residual_writers(loaded.model, loaded.layer_names)
    groups = {name: group_of(loaded.model, name, loaded.layer_names) for name in writers}
    found = [name for name in writers if places in (ALL_PLACES, groups[name])]
    if not found:
        there = ", ".join([ALL_PLACES, *sorted({group for group in groups.values() if group})])
        raise LayerSelectError(
            f"--bottleneck-places {places}: no map of that part of {type(loaded.model).__name__} is as wide as its "
            f"stream; these would do: {there}"
        )
    return found


def _pattern(names: Sequence[str], layer_names: Sequence[str]) -> str:
    """A regular expression for modules inside the layers. It names containers, not every layer, so that the saved
    configuration stays readable.
    """
    by_container: dict[str, set[str]] = {}
    for layer in layer_names:
        inside = {name.removeprefix(layer + ".") for name in names if name.startswith(layer + ".")}
        by_container.setdefault(layer.rpartition(".")[0], set()).update(inside)
    return "|".join(
        re.escape(container) + r"\.[^.]+\.(?:" + "|".join(re.escape(name) for name in sorted(inside)) + ")"
        for container, inside in by_container.items()
        if inside
    )


def _train_layers(loaded: LoadedModel) -> nn.Module:
    if any(is_quantized(module) for module in loaded.model.modules()):
        raise LayerSelectError(
            f"--adapter none: the weights of {loaded.source} are quantized and cannot train; choose an adapter, such "
            "as lora"
        )
    trained = (*loaded.layer_names, *loaded.fresh)
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(any(name.startswith(module + ".") for module in trained))
    return loaded.model
