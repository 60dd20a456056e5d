"""Saved files that nobody meant: each kind that the package saves, with broken bytes, JSON values and tensors."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .mutate import break_bytes, break_value
from .saved_kinds import SavedKind, all_kinds

_JSON = {".json", ".jsonl"}
#: What no encoder of JSON writes.
_RAW = (
    "NaN",
    "-Infinity",
    "1e999",
    "-1e999",
    "9" * 5000,
    "1" + "0" * 400,
    '{"a": 1, "a": 2}',
    "[" * 3000 + "]" * 3000,
    '"\\ud800"',
)


def cases(rng: random.Random) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Without end: one broken file a case."""
    kinds = all_kinds()
    whole = {kind.name: _made(kind, Path(f"right {number}").resolve()) for number, kind in enumerate(kinds)}
    place = Path("broken").resolve()
    while True:
        kind = rng.choice(kinds)
        right = whole[kind.name]
        file = rng.choice([path for path in sorted(right.rglob("*")) if path.is_file()])
        way, content = broken(file, rng)

        def run(kind: SavedKind = kind, file: Path = file, content: bytes | None = content) -> Any:
            return read_broken(kind, whole[kind.name], place, file, content)

        yield f"{kind.name}: {file.name}, {way}", run


def read_broken(kind: SavedKind, right: Path, place: Path, file: Path, content: bytes | None) -> Any:
    """Reads a copy of a right folder with another content in one file; ``None``: the file is gone."""
    copy_with(right, place, file, content)
    return kind.read(place)


def copy_with(right: Path, place: Path, file: Path, content: bytes | None) -> None:
    """Makes ``place`` a copy of a right folder, with another content in one file; ``None``: the file is gone."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(right, place)
    target = place / file.relative_to(right)
    target.unlink() if content is None else target.write_bytes(content)


def broken(file: Path, rng: random.Random) -> tuple[str, bytes | None]:
    """How, and the new content."""
    content = file.read_bytes()
    if rng.random() < 0.02:
        return "gone", None
    if rng.random() < 0.3:
        return "bytes", break_bytes(content, rng)
    if file.suffix == ".safetensors":
        return "tensors", _other_tensors(file, rng)
    if file.suffix in _JSON:
        lines = content.decode().split("\n") if file.suffix == ".jsonl" else [content.decode()]
        number = rng.randrange(max(1, len(lines) - (file.suffix == ".jsonl")))
        lines[number] = _other_json(lines[number], rng)
        return "values", "\n".join(lines).encode("utf-8", "surrogatepass")
    return "bytes", break_bytes(content, rng)


def _made(kind: SavedKind, folder: Path) -> Path:
    folder.mkdir()
    kind.make(folder)
    kind.read(_copy(folder))  # it is right
    return folder


def _copy(folder: Path) -> Path:
    copy = folder.with_name(folder.name + " read")
    shutil.copytree(folder, copy)
    return copy


def _other_json(text: str, rng: random.Random) -> str:
    value = json.loads(text)
    if rng.random() < 0.3:
        mark = "the place of what no encoder writes"
        return json.dumps(_with(value, mark, rng)).replace(json.dumps(mark), rng.choice(_RAW))
    return json.dumps(break_value(value, rng), ensure_ascii=rng.random() < 0.5)


def _with(value: Any, new: Any, rng: random.Random) -> Any:
    """The value with ``new`` somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        return {**value, key: _with(value[key], new, rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        number = rng.randrange(len(value))
        return [*value[:number], _with(value[number], new, rng), *value[number + 1 :]]
    return new


def _other_tensors(file: Path, rng: random.Random) -> bytes:
    tensors = load_file(file)
    name = rng.choice(sorted(tensors))
    tensor = tensors[name]
    match rng.randrange(9):
        case 0:
            del tensors[name]
        case 1:
            tensors[name] = tensor.to(
                rng.choice((torch.float16, torch.int32, torch.bool, torch.float64, torch.uint8, torch.complex64))
            )
        case 2:
            tensors[name] = tensor.unsqueeze(rng.choice((0, -1))).contiguous()
        case 3:
            tensors[name] = tensor.reshape(-1)[: rng.choice((0, 1, 2))].clone()
        case 4:
            tensors[name] = torch.cat([tensor.reshape(-1)] * 2)
        case 5:
            fill = (
                rng.choice((float("nan"), float("inf"), -1.0))
                if tensor.is_floating_point()
                else rng.choice((0, 1, 255))
            )
            tensors[name] = torch.full_like(tensor, fill)
        case 6:
            tensors[rng.choice(("a.b", "rule", "rule.state.x.y", "core.more", "history.step.x", ""))] = tensors.pop(
                name
            )
        case 7:
            tensors[rng.choice(("a.b", "version", "rule.name.x", "core.scores.x"))] = torch.ones(1)
        case 8:
            tensors[name] = (
                -tensor
                if tensor.dtype in (torch.int64, torch.float32, torch.float64)
                else torch.flip(tensor, [0] if tensor.dim() else [])
            )
    aside = file.with_name("aside")
    save_file(tensors, aside)
    try:
        return aside.read_bytes()
    finally:
        aside.unlink()
