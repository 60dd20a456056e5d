"""Every kind of file that the package saves: how a right one is made, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from layerselect import FastSelector
from layerselect.card import LayerCard
from layerselect.checkpoint import TENSORS_FILE, VALUES_FILE, defect, load_selector, save_selector
from layerselect.core.history_file import HistoryFile, read_history
from layerselect.errors import LayerSelectError
from layerselect.integrations.transformers import checkpoint_defect, last_checkpoint
from layerselect.models.adapter_files import SavedAdapter
from layerselect.models.saved_adapter import read_meta
from layerselect.state_cache.inventory import list_shards, remove_shards
from layerselect.tasks.compare import Run, comparison_rows, csv_table, markdown_table, read_comparison, read_run
from layerselect.tasks.compare.methods import METHODS, Variant
from layerselect.tasks.compare.state import saved_config
from layerselect.tasks.inspect.finished import mistakes, read_finished
from layerselect.tasks.intent import IntentConfig
from layerselect.tasks.intent.predict import _META
from layerselect.tasks.run.folder import LOG_LINE, RunFolder
from layerselect.tasks.run.importance import importance
from layerselect.transfer import read_importance
from layerselect.utils.saved_files import read_json_lines
from safetensors.torch import save_file
from tests.helpers import kept_comparison

from .trained import LAYERS, Stack, card, same, step, trained

#: With each of them another state is saved.
RULES = (
    "variance",
    "random:k=2",
    "lisa:n=2;interval=2",
    "block-cyclic:interval=2",
    "probe-once:steps=2",
    "weight-norm",
    "cosine",
    "cost-aware:budget=0.6",
)


@dataclass(frozen=True)
class SavedKind:
    """One kind.

    Attributes:
        name: what a case is called.
        make: writes right files into an empty folder.
        read: reads them, as the package does; what it returns is of no interest.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Any]


def all_kinds() -> list[SavedKind]:
    """Each once."""
    return [
        *(SavedKind(f"selector {rule}", *_selector(rule)) for rule in RULES),
        SavedKind("selector freeze", *_selector("variance", mode="freeze")),
        SavedKind("importance", _make_importance, read_importance),
        SavedKind("card", lambda folder: card().save(folder / "card.json") and None, _read_card),
        SavedKind("history rows", _make_history, _read_history),
        SavedKind("trainer checkpoint", _make_trainer, _read_trainer),
        SavedKind("adapter", _make_adapter, _read_adapter),
        SavedKind("sharded model", _make_shards, _read_adapter),
        SavedKind("finished run", _make_finished, _read_finished),
        SavedKind("comparison", _make_comparison, _read_comparison),
        SavedKind("interrupted run", _make_interrupted, _read_interrupted),
        SavedKind("shard", _make_shard, _read_shard),
    ]


def _selector(rule: str, mode: str = "observe") -> tuple[Callable[[Path], None], Callable[[Path], Any]]:
    taker: list[FastSelector] = []

    def read(folder: Path) -> None:
        if not taker:
            taker.append(trained(rule, mode, 3))
        before = taker[0].state_dict()
        try:
            load_selector(taker[0], folder)
        except LayerSelectError:
            assert same(before, taker[0].state_dict()), "a refused file has changed the selector"
            raise
        step(taker[0])
        defect(folder)

    return lambda folder: save_selector(trained(rule, mode), folder) and None, read


def _make_importance(folder: Path) -> None:
    (folder / "importance.json").write_text(json.dumps(importance(trained("topk:k=2"))), encoding="utf-8")


def _read_card(folder: Path) -> Any:
    found = LayerCard.load(folder)
    return found.place(2), found.to_dict()


def _make_history(folder: Path) -> None:
    selector = FastSelector(Stack(), mode="observe", history=folder / "history.rows")
    for _ in range(5):
        step(selector)
    selector.close()


def _read_history(folder: Path) -> Any:
    path = folder / "history.rows"
    rows = read_history(path)
    return rows, HistoryFile(path, trained("variance", steps=0).layer_names).keep_until(3)


def _make_trainer(folder: Path) -> None:
    checkpoint = folder / "checkpoint-5"
    checkpoint.mkdir()
    save_file({"w": torch.ones(3)}, checkpoint / "model.safetensors")
    seal = save_selector(trained("variance"), checkpoint)
    noted = {"LayerSelection": {"args": {}, "attributes": {"seal": seal, "step": 5}}}
    state = {
        "global_step": 5,
        "max_steps": 9,
        "epoch": 1.0,
        "log_history": [{"loss": 1.0}],
        "stateful_callbacks": noted,
    }
    (checkpoint / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")


def _read_trainer(folder: Path) -> Any:
    return checkpoint_defect(folder / "checkpoint-5"), last_checkpoint(folder), last_checkpoint(folder, resume="fresh")


def _make_adapter(folder: Path) -> None:
    meta = {
        "schema": 1,
        "task": "intent",
        "adapter": "lora",
        "base_model": "somewhere",
        "identity": {"model_type": "llama"},
        "fingerprint": "",
        "labels": ["a", "b"],
        "multi_label": False,
        "head": "classifier",
        "answers": None,
        "format": {"name": "edits", "window": 4, "gap": 1, "cap": 12, "summary": True},
        "max_length": 64,
        "separator": None,
    }
    (folder / "layerselect.json").write_text(json.dumps(meta), encoding="utf-8")
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "target_modules": "q|v",
        "rank_pattern": {},
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    tensors = {f"layers.{layer}.lora_{part}": torch.ones(2, 4) for layer in range(LAYERS) for part in "AB"}
    save_file(tensors, folder / "adapter_model.safetensors")


def _make_shards(folder: Path) -> None:
    _make_adapter(folder)
    meta = json.loads((folder / "layerselect.json").read_text(encoding="utf-8"))
    (folder / "layerselect.json").write_text(json.dumps({**meta, "adapter": "none"}), encoding="utf-8")
    places = {f"layers.{layer}.w": f"model-0000{layer % 2}.safetensors" for layer in range(LAYERS)}
    for name in set(places.values()):
        save_file({key: torch.ones(2) for key, place in places.items() if place == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")


def _read_adapter(folder: Path) -> Any:
    meta = read_meta(folder, "intent", _META, command="layerselect intent")
    saved = SavedAdapter(folder)
    return meta, saved.load(saved.shapes), saved.settings()


def _make_finished(folder: Path) -> None:
    selector = trained("topk:k=2")
    report = {
        "macro_f1": 0.5,
        "macro_auprc": 0.5,
        "accuracy": 0.5,
        "multi_label": False,
        "confusion": [[1, 0], [0, 1]],
        "rows": [
            {"label": label, "precision": 1.0, "recall": 1.0, "f1": 1.0, "auprc": None, "support": 1} for label in "ab"
        ],
    }
    run = RunFolder("layerselect intent", IntentConfig(data="demo", model="demo", out=str(folder / "made")))
    run.path = folder
    run.write_selection(selector)
    splits = {"test": {"examples": 2, "reports": {"majority": report, "trained model": report}}}
    settings = IntentConfig(data="demo", model="demo", out="made").as_dict()
    run.write_json(
        "config.json",
        {"command": "layerselect intent", "settings": settings, "corpus": {"name": "demo"}, "versions": {"torch": "2"}},
    )
    run.write_json("results.json", {"training": {"steps": 5, "device": "cpu"}, "splits": splits})
    predictions = [
        {"id": str(n), "split": "test", "labels": ["a"], "predicted": ["b\u2028"], "scores": {"a": 0.1}}
        for n in range(2)
    ]
    run.write_lines("predictions.jsonl", predictions)
    run.write_lines(
        "metrics.jsonl", [{"split": "test", "step": n, "epoch": 0.5, "macro_f1": 0.1 * n} for n in range(3)]
    )
    run.write_lines("training.jsonl", [{"step": n, "epoch": 0.5, "loss": 1.0, "lr": 1e-3} for n in range(3)])


def _read_finished(folder: Path) -> Any:
    cell = Run(Variant(METHODS["all"], "lora"), 0)
    found = read_run(cell, folder)
    if found.reason is not None:
        raise LayerSelectError(found.reason)
    whole = read_finished(folder)
    return whole.as_dict(), mistakes(whole, whole.result.splits[-1].split, 3)


def _make_comparison(folder: Path) -> None:
    corpus = kept_comparison.corpus_file(folder / "corpus.csv", documents=12)
    kept_comparison.make(folder / "c", corpus, skills={"all": 0.9, "ir": 0.5}, folds=2)
    corpus.unlink()


def _read_comparison(folder: Path) -> Any:
    comparison = read_comparison(saved_config(folder / "c", bootstrap=20))
    if comparison.failed:
        raise LayerSelectError(str(comparison.failed[0].reason))
    rows = comparison_rows(comparison)
    return markdown_table(comparison, rows), csv_table(comparison.config.kind, rows)


def _make_interrupted(folder: Path) -> None:
    run = RunFolder("layerselect intent", IntentConfig(data="demo", model="demo", out=str(folder / "out")))
    run.open()
    for number in range(3):
        run.append_line("metrics.jsonl", {"split": "test", "step": number, "macro_f1": 0.1})


def _read_interrupted(folder: Path) -> Any:
    run = RunFolder("layerselect intent", IntentConfig(data="demo", model="demo", out=str(folder / "out")), resume=True)
    run.keep_lines_until("metrics.jsonl", 1)
    return read_json_lines(run.path / "metrics.jsonl", LOG_LINE, advice="begin afresh", torn=True)


def _make_shard(folder: Path) -> None:
    shard = folder / ("ab" * 16)
    shard.mkdir()
    label = {"version": 1, "fingerprint": "ab" * 16, "facts": {"model": "m", "cut": 2}, "created": 1.7e9}
    (shard / "shard.json").write_text(json.dumps(label), encoding="utf-8")


def _read_shard(folder: Path) -> Any:
    return list_shards(folder), remove_shards(folder, [], everything=True)


__all__ = ["RULES", "TENSORS_FILE", "VALUES_FILE", "SavedKind", "all_kinds", "card", "same", "step", "trained"]
