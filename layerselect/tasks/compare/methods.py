"""The methods that a comparison knows by name, and how one is combined with an adapter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...data.sizes import TrainSize
from ...errors import LayerSelectError
from ...models.adapters import ADAPTERS
from ...rules import make_rule
from ...state_cache.cut import DEFAULT_CUT
from ..intent.config import AUTO, WORDS
from ..text.formats import available_formats


@dataclass(frozen=True)
class Method:
    """A row of the table, before it is combined with an adapter.

    Attributes:
        name: in tables and on the command line.
        settings: of the task's configuration, what makes the method.
        what: one line for the reader of a table.
        transfers: it starts from a predictor's adapters, which must be trained first.
    """

    name: str
    settings: Mapping[str, Any] = field(hash=False)  # methods are told apart by their names
    what: str
    transfers: bool = False


def _by_name(*methods: Method) -> dict[str, Method]:
    return {method.name: method for method in methods}


def _rule(name: str, rule: str, what: str) -> Method:
    return Method(name, {"rule": rule}, what)


def _budget(name: str, what: str, **settings: str) -> Method:
    # The budget says where the cut is, whatever ``--cut`` says for the other rows.
    return Method(name, {"rule": "all", "budget": 0.5, "cut": DEFAULT_CUT, **settings}, what)


#: Ways to choose the layers.
METHODS: dict[str, Method] = _by_name(
    _rule("all", "all", "every layer in every step: plain fine-tuning"),
    _rule("ir", "variance", "IR-Tuning: split the gradient norms by their variance (arXiv 2510.00268)"),
    _rule(
        "ir-held",
        'held:base="variance"',
        "IR-Tuning as its public code chooses: a random first choice, scores held until a layer trains again",
    ),
    _rule("lisa", "lisa", "LISA: two layers drawn every 20 steps (arXiv 2403.17919)"),
    _rule("ist", "ist", "IST: layers drawn by an importance that suppressed adapters reveal (arXiv 2410.11772)"),
    _rule("random", "random", "half of the layers, drawn in every step"),
    _rule("block-cyclic", "block-cyclic", "BAdam: one layer after the other (arXiv 2404.02827)"),
    _rule("cosine", "cosine", "IR-Tuning's ablation: layers that change their input most"),
    _rule("weight-norm", "weight-norm", "IR-Tuning's ablation: layers by the norm of their weights"),
    _rule("probe-once", "probe-once", "Aletheia: measure for a few steps, then keep (arXiv 2604.15351)"),
    _rule("cost-aware", "cost-aware", "IR-Tuning's choice, cut to 0.7 of the cost of a step"),
    _budget("budget", "the upper layers with the most gradient for their cost, within half of the cost of a step"),
    _budget(
        "budget-cached",
        "every layer that fits half of the cost of a step, above cached hidden states where the model has them",
        state_cache="budget",
    ),
    _rule("top-half", "upper", "the upper half of the layers in every step"),
    _rule("head", "none", "no layer: only the new parameters outside them"),
)

#: Ways to hand a predictor's adapters over to a generator.
TRANSFERS: dict[str, Method] = _by_name(
    Method(
        "intention-tuning",
        {"transfer": "shared", "rule": "variance"},
        "Intention-Tuning: the predictor's adapters in the layers that mattered to it, the others frozen (arXiv "
        "2602.00477)",
        transfers=True,
    ),
    Method(
        "transfer-all",
        {"transfer": "all", "rule": "all"},
        "every layer starts from the predictor's adapter and trains",
        transfers=True,
    ),
)


#: What ``--methods paper`` stands for: IR-Tuning's rows with its baselines and ablations, and Intention-Tuning's.
PAPER = ("all", "ir", "ir-held", "lisa", "ist", "random", "cosine", "weight-norm")
PAPER_OF_TRANSFERS = ("all", "ir", "transfer-all", "intention-tuning")


#: Settings in which a row may differ from the others, in the order of their parts in its name.
OWN = ("format", "train_size", "offset", "blend")
#: What stands behind the ``@`` of a row whose answers are blends.
_BLEND = "blend"


def as_file_name(name: str) -> str:
    """A row's name, or one like it, as part of the name of a file or a folder."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name.replace("%", "pc")).strip("-")


@dataclass(frozen=True)
class Variant:
    """A row of the table: a method with an adapter and, where it differs from the other rows, what its model reads, how
    much it trains on, what it begins with and how it answers.

    Attributes:
        format: what the model reads; ``None``: what the comparison says.
        train_size: how much of the training split trains; ``None``: what the comparison says.
        offset: what the model's logits begin with; ``None``: what the comparison says.
        blend: how much the model weighs in its answers; ``None``: what the comparison says.
    """

    method: Method
    adapter: str
    format: str | None = None
    train_size: str | None = None
    offset: str | None = None
    blend: str | None = None

    @property
    def name(self) -> str:
        """``METHOD/ADAPTER@FORMAT@SIZE@OFFSET@blend``, without the parts that the row has not."""
        return "@".join([f"{self.method.name}/{self.adapter}", *self._suffixes])

    @property
    def short(self) -> str:
        """The name without the adapter, as one writes it where all rows have the same one."""
        return "@".join([self.method.name, *self._suffixes])

    @property
    def _suffixes(self) -> list[str]:
        return [_BLEND if name == "blend" else value for name, value in self.own.items()]

    @property
    def own(self) -> dict[str, str]:
        """The settings besides method and adapter in which it differs from the other rows."""
        values = {name: getattr(self, name) for name in OWN}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def plain(self) -> Variant:
        """The row that differs from the others in nothing but method and adapter."""
        return Variant(self.method, self.adapter)

    @property
    def folder(self) -> str:
        """The name as part of a folder's name."""
        return as_file_name(self.name)

    @property
    def settings(self) -> dict[str, Any]:
        """Of the task's configuration, what makes the row."""
        return {**self.method.settings, "adapter": self.adapter, **self.own}


@dataclass(frozen=True)
class Run:
    """A variant with a seed and, where a comparison has folds, the fold that is tested (from 1)."""

    variant: Variant
    seed: int
    fold: int | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.variant.folder}-seed{self.seed}" + (f"-fold{self.fold}" if self.fold else "")


def parse_variants(
    methods: Sequence[str],
    adapters: Sequence[str],
    known: Mapping[str, Method] = METHODS,
    paper: Sequence[str] = PAPER,
) -> list[Variant]:
    """The rows that ``--methods`` and ``--adapters`` ask for, in their order.

    Args:
        methods: names of ``known``, or rules (``"topk:k=3"``), each with every adapter of ``adapters``; or
            ``METHOD/ADAPTER`` for one more row. Behind either, ``@FORMAT`` is what the row's model reads, ``@N`` or
            ``@P%`` how much it trains on, ``@words`` what it begins with, ``@blend`` that its answers are those of
            ``--blend auto``: ``ir/lora@pair@10%``.
        adapters: names of adapters.
        known: the methods that have a name in the task.
        paper: what the name ``paper`` stands for.

    Raises:
        LayerSelectError: an unknown name, or the same row twice.
    """
    variants: list[Variant] = []
    for text in [name for each in methods for name in (paper if each == "paper" else (each,))]:
        name, *suffixes = text.split("@")
        more = _suffixes(text, suffixes)
        plain, slash, adapter = name.rpartition("/")
        if slash and adapter in ADAPTERS:
            variants.append(Variant(_method(plain, known), adapter, **more))
        else:
            variants += [Variant(_method(name, known), _adapter(each), **more) for each in adapters]
    folders = [variant.folder for variant in variants]
    for variant in variants:
        if folders.count(variant.folder) > 1:
            raise LayerSelectError(f"--methods asks for {variant.name} twice: name each row once")
    if not variants:
        raise LayerSelectError("--methods names no method: give at least one, for example all,ir")
    return variants


def _suffixes(text: str, suffixes: Sequence[str]) -> dict[str, str]:
    """What stands behind the ``@`` of a row."""
    found: dict[str, str] = {}
    for suffix in suffixes:
        key, value = {WORDS: ("offset", WORDS), _BLEND: ("blend", AUTO)}.get(suffix, ("format", suffix))
        if suffix not in (WORDS, _BLEND, *available_formats()):
            try:
                key, value = "train_size", str(TrainSize.parse(suffix))
            except LayerSelectError as error:
                raise LayerSelectError(
                    f"--methods: {text!r} has '@{suffix}', which is neither a format "
                    f"({', '.join(available_formats())}) nor how much trains, as in @500 or @10%, nor @{WORDS} "
                    f"or @{_BLEND}"
                ) from error
        if key in found:
            first = _BLEND if key == "blend" else found[key]
            raise LayerSelectError(f"--methods: {text!r} has two of @{first} and @{suffix}: give one")
        found[key] = value
    if {"offset", "blend"} <= {*found}:
        raise LayerSelectError(f"--methods: {text!r} has @{WORDS} and @{_BLEND}, which both bring in words: give one")
    return found


def split_list(text: str) -> list[str]:
    """Splits at commas outside brackets: ``all,fixed:layers=[0,1]`` has two parts."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _method(name: str, known: Mapping[str, Method]) -> Method:
    if name in known:
        return known[name]
    try:
        make_rule(name)
    except LayerSelectError as error:
        raise LayerSelectError(
            f"--methods: {name!r} is neither a method ({', '.join(known)}) nor a rule ({error})"
        ) from error
    return _rule(name, name, f"rule {name}")


def _adapter(name: str) -> str:
    if name not in ADAPTERS:
        raise LayerSelectError(f"--adapters: there is no adapter {name!r}; the adapters are: {', '.join(ADAPTERS)}")
    return name
