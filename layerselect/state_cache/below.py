"""The modules that run before a cut, and what they are set to besides their weights.

What a layer computes depends on more than its tensors: which adapters are active, disabled or merged, how they are
scaled, the model's configuration, plain numbers that modules hold. All of it is looked at in front of every pass, so it
has to be cheap: the places are looked up once, and a look reads them without a walk over the model.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

#: Of a model's configuration, what says nothing about its layers: a classifier and a language model share theirs.
NOT_OF_LAYERS = frozenset(
    {
        "architectures",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "_name_or_path",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "use_cache",
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "return_dict",
        "name_or_path",
        "output_hidden_states",
        "output_attentions",
        "_output_attentions",
    }
)
#: What every module has, and what says nothing about what a module computes.
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {
    "_is_hf_initialized",
    "_hf_hook",
    "_old_forward",
    "_gradient_checkpointing_func",
}
#: How an adapter was made; what it comes to is in its scaling and its tensors. And sizes, which tensors show.
_OF_NO_USE = frozenset(
    {
        "r",
        "lora_alpha",
        "use_rslora",
        "kwargs",
        "_caches",
        "in_features",
        "out_features",
        "num_embeddings",
        "embedding_dim",
    }
)
_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype)
_OPEN = (dict, list, set)


def says_nothing(name: str) -> bool:
    """Whether an attribute of a module, or of a configuration, has no part in hidden states that are computed in
    evaluation mode.
    """
    return "dropout" in name or "checkpointing" in name


class Below:
    """What runs before a cut.

    Args:
        model: in which it stands.
        blocks: the blocks below the cut, in forward order.
        outside: the other modules that run before the cut, in the order in which they do.

    Attributes:
        parts: what computes, with names that are the same in every model with these layers.
        containers: what the blocks stand in, up to the model. Of them only what they hold themselves is before the cut.
    """

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], outside: Sequence[nn.Module]) -> None:
        self.model, self.blocks = model, list(blocks)
        self.containers = containers_of(model, blocks)
        known = {id(module) for module in self.containers}
        self.parts: list[tuple[str, nn.Module]] = []
        roots = [(f"{number}", block) for number, block in enumerate(blocks)]
        in_blocks = {id(module) for block in blocks for module in block.modules()}
        others = [module for module in outside if id(module) not in in_blocks and id(module) not in known]
        roots += [(f"before{number}", module) for number, module in enumerate(others)]
        for root, top in roots:
            for name, module in top.named_modules(prefix=root):
                if id(module) not in known:
                    known.add(id(module))
                    self.parts.append((name, module))
        self.modules = [*(module for _, module in self.parts), *self.containers]
        self.configs = _distinct(getattr(module, "config", None) for module in (model, *self.containers, *self.modules))
        self._look_up_places()

    def _look_up_places(self) -> None:
        self._attributes: list[tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]] = []
        self._open: list[tuple[dict[str, Any], str]] = []
        self._tensor_attributes: list[tuple[dict[str, Any], str]] = []
        inside = {id(module) for _, module in self.parts}
        for module in self.modules:
            own, simple = vars(module), []
            if isinstance(module, nn.Dropout):
                continue
            for name, value in own.items():
                if name in _OF_EVERY_MODULE or name in _OF_NO_USE or says_nothing(name):
                    continue
                if isinstance(value, Tensor):
                    self._tensor_attributes.append((own, name))
                elif id(module) not in inside:
                    # What frameworks note on a model changes all the time.
                    if name == "forward" or (isinstance(value, _SIMPLE) and not name.startswith("_")):
                        simple.append(name)
                elif isinstance(value, _OPEN) or name == "_active_adapter":  # a name, or a list of names
                    self._open.append((own, name))
                else:
                    simple.append(name)
            if simple:
                self._attributes.append((own, itemgetter(*simple)))
        self._children = [vars(module)["_modules"] for module in self.modules]
        self._own = [vars(module) for _, module in self.parts]
        self._tensor_dicts = [vars(module)[kind] for module in self.modules for kind in ("_parameters", "_buffers")]
        self._merged = [
            vars(module) for _, module in self.parts if isinstance(getattr(module, "merged_adapters", None), list)
        ]
        hooks = [(vars(m)["_forward_pre_hooks"], vars(m)["_forward_hooks"]) for _, m in self.parts]
        self._hooks = list(itertools.chain.from_iterable(hooks))
        self._structure = self._structure_now()

    # ------------------------------------------------------------------ looks

    def is_whole(self) -> bool:
        """Whether the modules are the same as at first, with the same attributes."""
        return _same(self._structure_now(), self._structure)

    def has_hooks(self) -> bool:
        """Whether something is called before or behind a module below."""
        return any(self._hooks)

    def setting(self) -> Setting | None:
        """The setting of the model as it is now; ``None`` if an attribute has gone."""
        try:
            return self._setting()
        except KeyError:
            return None

    def _setting(self) -> Setting:
        return Setting(
            [get(own) for own, get in self._attributes],
            [_flat(own[name]) for own, name in self._open],
            [_of_layers(vars(config)) for config in self.configs],
        )

    def tensors(self) -> list[Tensor]:
        """The parameters and buffers, and tensors that are neither: looked up anew, since each may have been
        replaced.

        By their names within a module: what is taken out and put back in a pass (experts that ``peft`` parametrises)
        goes to the end of its module's dictionary.
        """
        found = [t for own in self._tensor_dicts for t in _by_name(own) if t is not None]
        found += [own[name] for own, name in self._tensor_attributes if isinstance(own.get(name), Tensor)]
        return found

    def merged(self) -> list[tuple[str, ...]]:
        """Which adapters are merged into the weights, for each adapted module. Merging writes to them behind torch's
        back.
        """
        return [tuple(own.get("merged_adapters", ())) for own in self._merged]

    def name_of(self, module: nn.Module) -> str:
        """The name by which the model calls it."""
        return next((name for name, other in self.model.named_modules() if other is module), type(module).__name__)

    def difference(self, before: Setting, now: Setting) -> str:
        """Names one thing that two settings differ in."""
        for (own, _), one, other in zip(self._attributes, before.attributes, now.attributes, strict=True):
            if not _same(one, other):
                return f"an attribute of {self._owner(own)}"
        for (own, name), one, other in zip(self._open, before.open, now.open, strict=True):
            if not _same(one, other):
                return f"{name} of {self._owner(own)}"
        return "the configuration of the model"

    def _owner(self, own: dict[str, Any]) -> str:
        return next(self.name_of(module) for module in self.modules if vars(module) is own) or "the model"

    def _structure_now(self) -> tuple[list[int], list[Any]]:
        return list(map(len, self._own)), list(itertools.chain.from_iterable(map(dict.values, self._children)))


class Setting:
    """What modules were set to at one moment; compared with what they are set to at another."""

    __slots__ = ("attributes", "configs", "open")

    def __init__(self, attributes: list[Any], open_: list[Any], configs: list[dict[str, Any]]) -> None:
        self.attributes, self.open, self.configs = attributes, open_, configs

    def kept(self) -> Setting:
        """A copy that nobody changes."""
        return Setting(self.attributes, self.open, copy.deepcopy(self.configs))

    def is_same(self, other: Setting) -> bool:
        return (
            _same(self.attributes, other.attributes)
            and _same(self.open, other.open)
            and _same(self.configs, other.configs)
        )


def _by_name(own: dict[str, Any]) -> Iterable[Any]:
    return own.values() if len(own) < 2 else map(own.__getitem__, sorted(own))


def containers_of(model: nn.Module, blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """The modules that hold the blocks, the model itself among them."""
    wanted: set[int] = {id(block) for block in blocks}
    found: dict[int, nn.Module] = {}

    def holds(module: nn.Module) -> bool:
        if id(module) in wanted:
            return True
        inside = [holds(child) for child in module.children()]
        if any(inside):
            found[id(module)] = module
        return any(inside)

    holds(model)
    return list(found.values())[::-1]


def simple_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The attributes of a module that its class has given it, tensors and modules left out."""
    for name, value in vars(module).items():
        if (
            name not in _OF_EVERY_MODULE
            and name != "forward"
            and not says_nothing(name)
            and not isinstance(value, Tensor)
        ):
            yield name, value


def _of_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in NOT_OF_LAYERS and "dropout" not in name}


def _flat(value: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(value.items()) if isinstance(value, dict) else tuple(value)


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (RuntimeError, TypeError, ValueError):  # tensors and arrays that cannot be compared as a whole
        return False


def _distinct(configs: Iterator[Any]) -> list[Any]:
    return list({id(config): config for config in configs if hasattr(config, "to_dict")}.values())
