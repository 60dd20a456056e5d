"""Options that are made from the fields of a configuration (:mod:`layerselect.utils.options`)."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import MISSING
from typing import Any

from ..utils.options import Option, options_of, types_of
from .options import add_common_options, add_dry_run_option, add_json_option, add_threads_option, number, whole

_KINDS = {int: whole, float: number}
#: What :func:`add_job` adds.
JOB_SETTINGS = ("data", "model", "out", "seed", "device")


def add_settings(
    parser: argparse.ArgumentParser,
    kind: type,
    *,
    only: Collection[str] | None = None,
    leave_out: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    helps: Mapping[str, str] | None = None,
    group: str | None = None,
    required: bool = True,
) -> None:
    """Adds an option for each field of a configuration, under the headings that the fields name.

    An option leaves no trace in the namespace unless it is given, so that presets can tell: the defaults of ``kind``
    fill in.

    Args:
        only: the names of the fields that become options; ``None``: all that are declared as options.
        leave_out: names of fields that do not.
        defaults: values that the command gives in the place of a field's default, for the help.
        helps: help texts that say more of this command than the field's.
        group: the heading of all of them, instead of their own.
        required: a field without a default has to be given.
    """
    types, given = types_of(kind), defaults or {}
    for field, option in options_of(kind):
        if field.name in leave_out or (only is not None and field.name not in only):
            continue
        default = given.get(field.name, field.default)
        text = (helps or {}).get(field.name) or option.text()
        _add(heading(parser, group or option.group), field.name, types[field.name][0], option, default, text, required)


def given(args: argparse.Namespace, *kinds: type) -> dict[str, Any]:
    """What was given of the options that :func:`add_settings` made of configurations, by the names of their fields."""
    names = {field.name for kind in kinds for field, _ in options_of(kind)}
    return {name: value for name, value in vars(args).items() if name in names}


def add_preset_option(group: argparse._ArgumentGroup) -> None:
    """``--preset``, which every training command has."""
    from ..tasks.run.presets import PRESETS

    group.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="the published settings of a method; an option that is given beside it wins",
    )


def chosen_settings(args: argparse.Namespace, task: str, *kinds: type) -> dict[str, Any]:
    """The settings of a command, each by what says most of it: what was given, the preset, the demo's defaults.

    Raises:
        LayerSelectError: the preset is for another task.
    """
    from ..tasks.run.presets import preset_settings

    demo = next(iter(kinds)).demo_defaults if args.model == "demo" else {}  # type: ignore[attr-defined]
    preset = preset_settings(args.preset, task) if args.preset else {}
    return {**demo, **preset, **given(args, *kinds)}


def with_cache_of_budget(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of one training: beside a budget, hidden states are cached where nobody said otherwise."""
    from ..tasks.run.budget import BY_BUDGET

    said = {"state_cache", "cut"} & {*settings} or settings.get("mode") in ("gate", "observe")
    if settings.get("budget") is None or said:
        return settings
    return {**settings, "state_cache": BY_BUDGET}


def add_job(parser: argparse.ArgumentParser, kind: type) -> None:
    """What to train on what, where it goes, and how the command itself behaves."""
    from ..tasks.run.headings import HEADINGS

    for title in HEADINGS:  # in this order, whatever fields are declared first; one without options is not shown
        heading(parser, title)
    add_settings(parser, kind, only=("data", "model", "out"))
    job = heading(parser, "the job")
    add_config_option(job)
    add_preset_option(job)
    job.add_argument(
        "--resume",
        action="store_true",
        help="continue the interrupted run of this --out, if there is one; a finished one is left as it is",
    )
    job.add_argument("--overwrite", action="store_true", help="replace an earlier run of this --out (no other folder)")
    add_dry_run_option(job)
    add_settings(parser, kind, only=("seed", "device"))
    add_threads_option(job)
    add_json_option(job)
    add_common_options(parser)


def add_config_option(group: argparse._ArgumentGroup) -> None:
    """Adds ``--config``, which :mod:`layerselect.cli.config_file` reads before the arguments are parsed."""
    group.add_argument(
        "--config",
        metavar="FILE",
        help="read options from a YAML or JSON file, as 'name: value'; the config.json of a run repeats that run. "
        "Options of the command line win",
    )


def _add(
    group: argparse._ArgumentGroup, name: str, kind: type, option: Option, default: Any, text: str, required: bool
) -> None:
    flags = [option.flag or "--" + name.replace("_", "-")]
    if option.known_as is not None:
        flags.insert(0, option.known_as)
    text = text.replace("%", "%%")
    if kind is bool:
        action: Any = argparse.BooleanOptionalAction if default else "store_true"
        group.add_argument(
            *flags,
            dest=name,
            action=action,
            default=argparse.SUPPRESS,
            help=text + (" (default: yes)" if default else ""),
        )
        return
    group.add_argument(
        *flags,
        dest=name,
        type=_KINDS.get(kind, str),
        choices=option.choices,
        metavar=option.metavar,
        required=required and default is MISSING,
        default=argparse.SUPPRESS,
        help=text + _default(default),
    )


def _default(value: Any) -> str:
    if value is None or value is MISSING:
        return ""
    return f" (default: {value:g})" if isinstance(value, float) else f" (default: {value})"


def heading(parser: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup:
    """The group of options under a heading, made when it is asked for first."""
    found = [group for group in parser._action_groups if group.title == title]
    return found[0] if found else parser.add_argument_group(title)
