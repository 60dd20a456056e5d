"""The pages of the command line, made from the parser itself: every option of every command with its help."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator


def pages() -> dict[str, str]:
    """Markdown by path in the site: an index, and a page for each command with its actions."""
    from layerselect.cli.main import build_parser

    parser = build_parser()
    commands = list(_commands_of(parser))
    found = {"commands/index.md": _index(parser, commands)}
    for name, command, _ in commands:
        found[f"commands/{name}.md"] = "\n".join(_page(command)).rstrip() + "\n"
    return found


def _commands_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser, str]]:
    """Name, parser and one-line help of what can follow ``parser``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                if helps.get(name) != argparse.SUPPRESS:
                    yield name, command, helps.get(name, "")


def _index(parser: argparse.ArgumentParser, commands: list[tuple[str, argparse.ArgumentParser, str]]) -> str:
    lines = ["# Command line", "", _text(parser.description), ""]
    lines += [
        "These pages are made from the program's own help when the site is built. "
        "Exit status: 0 where all went well, 2 for an error that you can mend (it is one line), "
        "130 after an interruption.",
        "",
        "| command | does |",
        "|---|---|",
    ]
    lines += [f"| [`layerselect {name}`]({name}.md) | {_text(text)} |" for name, _, text in commands]
    return "\n".join(lines) + "\n"


def _page(command: argparse.ArgumentParser, level: int = 1) -> Iterator[str]:
    heading = "#" * level
    yield f"{heading} `{command.prog}`"
    yield ""
    yield _text(command.description)
    yield ""
    slug = command.prog.replace(" ", "-")
    arguments = [group for group in command._action_groups if any(map(_is_shown, group._group_actions))]
    arguments.sort(key=lambda group: group.title == "options")  # those of every command come last
    for group in arguments:
        title = {"positional arguments": "Arguments", "options": "General"}.get(group.title or "", group.title or "")
        yield f"{heading}# {title[:1].upper()}{title[1:]} {{ #{slug}-{_slug(title)} }}"
        yield ""
        if group.description:
            yield _text(group.description)
            yield ""
        for action in filter(_is_shown, group._group_actions):
            yield from _entry(action, slug)
    if command.epilog:
        if command.epilog.startswith("example"):
            yield f"{heading}# Examples {{ #{slug}-examples }}"
            yield ""
        yield from _epilog(command.epilog)
    for _, action_parser, _ in _commands_of(command):
        yield ""
        yield from _page(action_parser, level + 1)


def _is_shown(action: argparse.Action) -> bool:
    hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction)
    return not hidden and not isinstance(action, argparse._HelpAction)


def _entry(action: argparse.Action, slug: str) -> Iterator[str]:
    """An option as a definition: its names, then what it does and what it takes."""
    value = _value(action)
    names = action.option_strings or [value]
    longest = max(names, key=len).lstrip("-")
    shown = " ".join(f"`{name}{f' {value}' if value and action.option_strings else ''}`" for name in names)
    yield f'<span id="{slug}--{_slug(longest)}"></span>{shown}{" (required)" if _is_required(action) else ""}'
    said = [_text((action.help or "").replace("%%", "%"))]
    if action.choices is not None:
        said.append("one of " + ", ".join(f"`{choice}`" for choice in action.choices))
    yield f":   {'; '.join(part for part in said if part)}"
    yield ""


def _is_required(action: argparse.Action) -> bool:
    return bool(action.required and action.option_strings)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.metavar is not None:
        return action.metavar
    return action.dest.upper() if action.choices is None else ""


def _epilog(epilog: str) -> Iterator[str]:
    """Indented examples as a block of code, the rest as text."""
    for part in re.split(r"\n\s*\n", epilog.strip("\n")):
        lines = part.splitlines()
        if lines[0].rstrip().startswith("example") and len(lines) > 1:
            yield "```text"
            yield from (line.removeprefix("  ") for line in lines[1:])
            yield "```"
        else:
            yield _text(" ".join(line.strip() for line in lines))
        yield ""


def _text(text: str | None) -> str:
    """Help as Markdown: nothing in it is markup, and quoted commands and options are code."""
    parts = re.split(r"('layerselect [^']*'|--[a-z][\w-]*)", re.sub(r"\s+", " ", text or "").strip())
    return "".join(f"`{part.strip(chr(39))}`" if number % 2 else _escaped(part) for number, part in enumerate(parts))


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
