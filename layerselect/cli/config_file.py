"""Options from a file: a mapping of names to values in YAML or JSON becomes the options that somebody might have
typed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ..errors import LayerSelectError
from ..utils.saved_files import read_bytes
from ..utils.saved_words import shown
from ..utils.user_paths import user_path

FLAG = "--config"
_MOST_BYTES = 1 << 20


def with_config_file(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The arguments with the options of the file that ``--config`` names in front, so that those typed behind them win.

    The file holds ``name: value``, with the names of options without their dashes, ``true`` for an option without a
    value, and a list for one that takes several. The ``config.json`` of a finished run is such a file, too.

    Raises:
        LayerSelectError: the file cannot be read, or names an option that the command does not have.
    """
    source = _named(arguments)
    if source is None or FLAG not in parser._option_string_actions:
        return list(arguments)
    path = user_path(source, FLAG)
    content = read_bytes(path, advice="give a file of 'name: value'", most=_MOST_BYTES)
    values = _read(source, content.decode("utf-8-sig", "backslashreplace"))
    if "command" in values and isinstance(values.get("settings"), dict):
        values = _of_run(values, parser)
    options: list[str] = []
    for name, value in values.items():
        options += _typed(source, name, value, parser)
    return [*options, *arguments]


def _named(arguments: Sequence[str]) -> str | None:
    """The file that the arguments name; of several the last."""
    found = None
    for at, argument in enumerate(arguments):
        if argument == FLAG and at + 1 < len(arguments):
            found = arguments[at + 1]
        elif argument.startswith(FLAG + "="):
            found = argument.partition("=")[2]
    return found


def _read(source: str, text: str) -> Mapping[str, Any]:
    import yaml  # of the extra "data"

    try:
        content = json.loads(text) if source.endswith(".json") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise LayerSelectError(
            f"{FLAG} {source!r} cannot be read ({' '.join(str(error).split())[:160]}): write 'name: value', one a line"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise LayerSelectError(f"{FLAG} {source!r} holds no options: write 'name: value', one a line")
    return content


def _of_run(config: Mapping[str, Any], parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The settings of a run, as far as the command has such options and takes them from a run: a comparison makes some
    itself, and has another default for some.
    """
    known = {action.dest for action in parser._actions} - {*(parser.get_default("not_of_runs") or ())}
    values = _chosen({name: value for name, value in config["settings"].items() if name in known})
    task = str(config["command"]).rpartition(" ")[2]
    return {**({"task": task} if "task" in known else {}), **values}


def _chosen(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run without those that follow from others of them. Beside another format or another placement
    they would be wrong, and nobody gave them.
    """
    from ..tasks.text.formats import TOKENS

    follow = set()
    if values.get("max_length") == TOKENS.get(str(values.get("format"))):
        follow.add("max_length")
    if values.get("placement") is not None:
        follow.add("rule")
    return {name: value for name, value in values.items() if name not in follow}


def _typed(source: str, name: str, value: Any, parser: argparse.ArgumentParser) -> list[str]:
    """One entry as it would be typed."""
    action = _action(source, name, parser)
    option = next(flag for flag in action.option_strings if flag.startswith("--"))
    if value is None:
        return []
    if action.nargs == 0:  # of argparse, an option without a value
        if not isinstance(value, bool):
            raise LayerSelectError(f"{FLAG} {source!r}: {name} is {shown(value)}; it is switched by true or false")
        negative = f"--no-{option.removeprefix('--')}"
        return [option] if value else [negative] if negative in action.option_strings else []
    if isinstance(value, (dict, bool)):
        raise LayerSelectError(f"{FLAG} {source!r}: {name} is {shown(value)}, where one value belongs")
    several = value if isinstance(value, list) else [value]
    if any(isinstance(each, (dict, list, bool)) or each is None for each in several):
        raise LayerSelectError(f"{FLAG} {source!r}: {name} holds {shown(value)}, where values belong")
    if isinstance(action, argparse._AppendAction):
        return [f"{option}={each}" for each in several]
    return [f"{option}={','.join(str(each) for each in several)}"]


def _action(source: str, name: str, parser: argparse.ArgumentParser) -> argparse.Action:
    known = {action.dest: action for action in parser._actions if action.option_strings}
    known |= {flag.removeprefix("--").replace("-", "_"): each for flag, each in parser._option_string_actions.items()}
    key = name.removeprefix("--").replace("-", "_")
    if key not in known or key in ("help", "config"):
        near = get_close_matches(key, [each for each in known if not each.startswith("no_")], 1)
        raise LayerSelectError(
            f"{FLAG} {source!r}: there is no option {shown(name)}{f', did you mean {near[0]}?' if near else ''}"
        )
    return known[key]
