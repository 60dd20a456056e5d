"""Rules by name."""

from __future__ import annotations

import importlib
import json
import logging
import pkgutil
import sys
from dataclasses import fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..errors import LayerSelectError
from ..utils.renamed import OF_RULES, with_new_names
from ..utils.saved_words import in_words, shown
from .base import Rule

logger = logging.getLogger(__name__)

#: The group under which an installed package names its rules: ``name = "package.module:Class"``.
ENTRY_POINTS = "layerselect.rules"

#: Rules that stand elsewhere, because they are made of more than rules may be: the modules are imported when they are
#: asked for.
_ELSEWHERE = {"layer-card": "layerselect.card.rule", "placement": "layerselect.placement.rule"}


def available() -> list[str]:
    """The names that :func:`make_rule` knows: the built-in rules, then those of installed packages."""
    return [*sorted({*_of_the_folder(), *_ELSEWHERE}), *sorted(_from_packages())]


def built_in() -> dict[str, type[Rule]]:
    """The rules of this package by name: what the files of its folder ``rules`` define, and those that stand
    elsewhere.
    """
    elsewhere = {name: _rules_in(module)[name] for name, module in _ELSEWHERE.items()}
    return dict(sorted({**_of_the_folder(), **elsewhere}.items()))


def rules_help() -> str:
    """How the rules of the package are written: those that read gradients, and the others."""
    rules = built_in().values()
    by_scores, others = (
        ", ".join(rule.example or rule.name for rule in rules if rule.uses_scores is wanted) for wanted in (True, False)
    )
    return (
        f"how layers are selected. By their gradients: {by_scores}. Without them: {others}. Options follow a colon, "
        "separated by ';'. Their values are JSON: texts stand in double quotes. Installed packages may add rules"
    )


def _of_the_folder() -> dict[str, type[Rule]]:
    found: dict[str, type[Rule]] = {}
    for module in pkgutil.iter_modules(sys.modules[__package__].__path__):
        found.update(_rules_in(f"{__package__}.{module.name}"))
    return found


def _rules_in(module: str) -> dict[str, type[Rule]]:
    """The rules that a module defines, by name."""
    return {
        value.name: value
        for value in vars(importlib.import_module(module)).values()
        if isinstance(value, type) and issubclass(value, Rule) and value.__module__ == module and "name" in vars(value)
    }


def make_rule(rule: str | Rule, *, seed: int | None = None, **options: Any) -> Rule:
    """Builds a rule from its name, or returns the rule it is given.

    Args:
        rule: a rule, a name (``"variance"``) or a name with options in JSON values, separated by
            semicolons (``"topk:k=3"``, ``"fixed:layers=[10,11]"``, ``"variance:window=[0,1];splits=2"``,
            ``'cost-aware:budget=0.5;base="topk:k=3"'``). Installed packages may register more names (see
            CONTRIBUTING.md).
        seed: seed of a rule that draws at random, unless ``rule`` or ``options`` has one.
        options: arguments of the rule; they win over those in ``rule``.

    Raises:
        LayerSelectError: unknown name, unknown option, a value the rule refuses, or a package whose rule does not load.
    """
    if isinstance(rule, Rule):
        if options:
            raise LayerSelectError(f"options {sorted(options)} cannot be added to a rule that is already built")
        return rule
    if not isinstance(rule, str):
        raise LayerSelectError(f"rule={shown(rule)} is neither a name nor a Rule")
    name, _, text = rule.partition(":")
    cls = _find(name)
    known = [f.name for f in fields(cls) if f.init]  # type: ignore[arg-type]
    options = {**_parse_options(name, text), **options}
    options = with_new_names(options, OF_RULES.get(name, {}), f"rule {name!r}")
    for option in options:
        if option not in known:
            raise LayerSelectError(
                f"rule {name!r} has no option {shown(option)}; "
                + (f"it has: {', '.join(known)}" if known else "it has none")
            )
    if seed is not None and "seed" in known:
        options.setdefault("seed", seed)
    if isinstance(options.get("base"), str):
        options["base"] = make_rule(options["base"], seed=seed)
    try:
        return cls(**options)
    except TypeError as error:
        raise LayerSelectError(f"rule {name!r} cannot be built from {in_words(options)}: {in_words(error)}") from error


def _find(name: str) -> type[Rule]:
    """The class of the rule called ``name``.

    Raises:
        LayerSelectError: there is none, or its package cannot be used.
    """
    ours = _rules_in(_ELSEWHERE[name]) if name in _ELSEWHERE else _of_the_folder()
    if name in ours:
        return ours[name]
    found = _from_packages().get(name, [])
    if not found:
        raise LayerSelectError(f"there is no rule {shown(name)}; the rules are: {', '.join(available())}")
    packages = " and ".join(_package(entry) for entry in found)
    if len(found) > 1:
        raise LayerSelectError(f"rule {name!r} is registered by {packages}: uninstall all of them but one")
    try:
        cls = found[0].load()
    except Exception as error:  # whatever a package of others raises when it is imported
        raise LayerSelectError(
            f"rule {name!r} of package {packages} cannot be loaded ({type(error).__name__}: {error}): mend or "
            "uninstall it"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Rule) and is_dataclass(cls) and cls.name == name):
        raise LayerSelectError(
            f"rule {name!r} of package {packages} is not a dataclass derived from layerselect.Rule with name = "
            f"{name!r}: {found[0].value} is {cls!r}"
        )
    return cls


def _from_packages() -> dict[str, list[EntryPoint]]:
    """The rules that installed packages register, none of them imported. A built-in name stays ours."""
    found: dict[str, list[EntryPoint]] = {}
    ours = {*_of_the_folder(), *_ELSEWHERE}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in ours:
            logger.warning(
                "package %s registers a rule by the built-in name %r: it is not used", _package(entry), entry.name
            )
        else:
            found.setdefault(entry.name, []).append(entry)
    return found


def _package(entry: EntryPoint) -> str:
    return repr(entry.dist.name) if entry.dist is not None else repr(entry.value)


def _parse_options(name: str, text: str) -> dict[str, Any]:
    """``key=VALUE;key=VALUE`` with JSON values; a semicolon inside a JSON text belongs to it."""
    options: dict[str, Any] = {}
    rest = text.strip("; ")
    while rest:
        part = rest.partition(";")[0]
        key, equals, value = rest.partition("=")
        if not equals or ";" in key:
            raise LayerSelectError(f"rule {shown(name)}: {shown(part)} is not of the form option=value")
        value = value.lstrip()
        if key.strip() in options:
            raise LayerSelectError(f"rule {shown(name)}: the option {shown(key.strip())} is given twice")
        try:
            options[key.strip()], end = json.JSONDecoder().raw_decode(value)
        except (ValueError, RecursionError):  # numbers of thousands of digits; values nested as deep
            end = -1
        rest = value[end:].lstrip() if end >= 0 else "?"
        if rest and not rest.startswith(";"):
            raise LayerSelectError(
                f"rule {name!r}: the value of {shown(key.strip())} is not JSON: {shown(part.partition('=')[2])} "
                "(texts need double quotes)"
            )
        rest = rest.lstrip("; ")
    return options
