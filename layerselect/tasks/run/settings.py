"""The settings that every training task has: corpus, what trains, how layers are selected, the training itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ...data import Corpus, load_corpus
from ...errors import LayerSelectError
from ...models.adapters import AdapterConfig
from ...rules import make_rule
from ...state_cache import DEFAULT_CUT, default_folder
from ...state_cache.cut import is_number
from ...state_cache.selection import STATE_CACHES
from ...state_cache.store import PRECISIONS, is_size
from ...utils.saved_words import in_words
from ...utils.user_paths import user_path

KEEP = ("best", "last")
MODES = ("auto", "freeze", "gate", "observe")
SCHEDULES = ("linear", "cosine", "constant")
DEVICES = ("auto", "cpu", "cuda")
#: Settings that change where a run stands or how fast it is, not what it comes to.
PLACES = ("out", "device", "state_cache_store", "state_cache_memory")
#: What every generator takes that a training seeds.
_LARGEST_SEED = 2**32 - 1
_MOST_EPOCHS = 1_000_000
#: Settings that say nothing unless hidden states are kept.
_OF_CACHE = ("cut", "state_cache_store", "state_cache_memory", "state_cache_precision")


@dataclass(frozen=True)
class TrainingSettings:
    """One run of a task; each task adds its own settings and may have other defaults.

    Attributes:
        data: a corpus: a name, a path, ``NAME:PATH`` or a hub id (see ``layerselect.data.load_corpus``).
        model: a model folder, a hub id, or ``demo``.
        out: the folder that the finished run becomes.
        splits, labels, before, after, label, doc_id, label_delimiter, multi, strict: passed to ``load_corpus``.
        split_seed: of the splits by document and of ``holdout``; apart from ``seed``, so that runs with several seeds
            are compared on the same splits.
        holdout: this fraction of the training split, in whole documents, is held out to choose the checkpoint
            by; 0 chooses by the validation split.
        adapter, lora_rank, lora_alpha, lora_dropout, bottleneck_size: see ``layerselect.models.adapters``.
        dropout: replaces the model's own dropout; ``None`` keeps it.
        rule, mode, score, interval, warmup, probe_every, backend: see ``layerselect.FastSelector``.
        state_cache, cut: likewise; a number of layers below the cut is given as text, too.
        state_cache_store: the folder of the cached hidden states; ``None`` is the one in the user's cache folder, and
            ``none`` keeps them for this run only: in memory, and what is too much for it in a temporary folder.
        state_cache_memory, state_cache_precision: see ``layerselect.state_cache.StateStore``.
        epochs, max_steps: the length of the training; ``max_steps`` wins if it is given.
        batch_size, accumulate: examples per forward pass; passes per step.
        lr, schedule, lr_warmup, weight_decay, clip: of AdamW; ``lr_warmup`` is a fraction of all steps.
        keep: ``best`` keeps the best evaluated checkpoint, ``last`` the last one.
        eval_steps: evaluate every so many steps; ``None`` evaluates after every epoch.
        patience: stop after so many evaluations that are no better; ``None`` never stops early.
        save_steps: a checkpoint every so many steps, besides the one after each epoch; 0 saves after epochs only.
        measure_memory: count the bytes that the forward passes save for the backward pass (a little slower).
        seed: of everything that is random.

    Raises:
        LayerSelectError: a value out of range; the message names its option.
    """

    data: str
    model: str
    out: str
    splits: str = "document"
    labels: str = "default"
    before: str | None = None
    after: str | None = None
    label: str | None = None
    doc_id: str | None = None
    label_delimiter: str | None = None
    multi: str = "keep"
    strict: bool = False
    split_seed: int = 0
    holdout: float = 0.0
    adapter: str = "lora"
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    bottleneck_size: int = 64
    dropout: float | None = None
    rule: str = "variance"
    mode: str = "auto"
    score: str = "l2"
    interval: int = 1
    warmup: int = 0
    probe_every: int = 20
    backend: str = "auto"
    state_cache: str = "none"
    cut: str = DEFAULT_CUT
    state_cache_store: str | None = None
    state_cache_memory: str = "2GB"
    state_cache_precision: str = "exact"
    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 1e-3
    schedule: str = "linear"
    lr_warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    keep: str = "best"
    patience: int | None = None
    eval_steps: int | None = None
    save_steps: int = 0
    measure_memory: bool = False
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, allowed in (("keep", KEEP), ("mode", MODES), ("schedule", SCHEDULES), ("device", DEVICES)):
            one_of(name, getattr(self, name), allowed)
        for name in ("batch_size", "accumulate", "interval", "lora_rank", "lora_alpha", "bottleneck_size"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "must be at least 1")
        for name in ("max_steps", "patience", "eval_steps"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, value, "must be at least 1")
        for name in ("warmup", "probe_every", "save_steps", "seed", "split_seed", "weight_decay"):
            check(getattr(self, name) >= 0, name, getattr(self, name), "must not be negative")
        check(self.seed <= _LARGEST_SEED, "seed", self.seed, f"must be at most {_LARGEST_SEED}")
        for name in ("epochs", "lr", "clip", "weight_decay"):
            check(math.isfinite(getattr(self, name)), name, getattr(self, name), "is not a finite number")
        for name in ("epochs", "lr", "clip"):
            check(getattr(self, name) > 0, name, getattr(self, name), "must be above 0")
        check(self.epochs <= _MOST_EPOCHS, "epochs", self.epochs, f"must be at most {_MOST_EPOCHS:,}")
        for name in ("holdout", "lr_warmup", "lora_dropout"):
            check(0 <= getattr(self, name) < 1, name, getattr(self, name), "must be in [0, 1)")
        check(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "must be in [0, 1)")
        self.adapter_config()
        self._check_state_cache()
        make_rule(self.rule, seed=self.seed)

    def _check_state_cache(self) -> None:
        object.__setattr__(self, "cut", str(self.cut))  # 22 means "22"
        one_of("state_cache", self.state_cache, STATE_CACHES)
        if self.state_cache == "none":
            defaults = {field.name: field.default for field in fields(TrainingSettings)}
            for name in _OF_CACHE:
                value = getattr(self, name)
                check(
                    value == defaults[name],
                    name,
                    value,
                    "says nothing without --state-cache cached or --state-cache auto",
                )
            return
        check(
            self.mode in ("auto", "freeze"),
            "state_cache",
            self.state_cache,
            f"needs --mode auto or freeze, not {self.mode}: the layers below the cut must take no gradients",
        )
        if not is_number(self.cut):
            try:
                make_rule(self.cut)
            except LayerSelectError as error:
                raise LayerSelectError(
                    f"--cut {in_words(self.cut)} is neither a number of layers nor a rule: {error}"
                ) from error
        check(not is_number(self.cut) or int(self.cut) >= 1, "cut", self.cut, "must be at least 1")
        check(
            is_size(self.state_cache_memory),
            "state_cache_memory",
            self.state_cache_memory,
            "is no size: give bytes or a number with a unit, such as 2GB or 512MiB",
        )
        one_of("state_cache_precision", self.state_cache_precision, PRECISIONS)
        store = self.cache_folder()
        check(
            store is None or store.is_dir() or not store.exists(),
            "state_cache_store",
            store,
            "is a file: give a folder",
        )

    def cache_folder(self) -> Path | None:
        """Where hidden states are kept for later runs; ``None``: nowhere."""
        if self.state_cache_store == "none":
            return None
        return (
            default_folder()
            if self.state_cache_store is None
            else user_path(self.state_cache_store, "--state-cache-store")
        )

    def check_cut(self, layers: int) -> None:
        """Checks that a model with so many layers has the cut that was asked for.

        Raises:
            LayerSelectError: a model with so many layers has no such cut.
        """
        if self.state_cache != "none" and is_number(self.cut):
            check(int(self.cut) < layers, "cut", self.cut, f"leaves no layer above it: the model has {layers} layers")

    def adapter_config(self) -> AdapterConfig:
        return AdapterConfig(
            self.adapter,
            rank=self.lora_rank,
            alpha=self.lora_alpha,
            dropout=self.lora_dropout,
            size=self.bottleneck_size,
        )

    def load_corpus(self) -> Corpus:
        """The corpus of the run.

        Raises:
            CorpusError: it cannot be read.
        """
        return load_corpus(
            self.data,
            splits=self.splits,
            strict=self.strict,
            before=self.before,
            after=self.after,
            label=self.label,
            doc_id=self.doc_id,
            label_delimiter=self.label_delimiter,
            labels=self.labels,
            multi=self.multi,
            seed=self.split_seed,
        )

    def steps(self, examples: int) -> int:
        """How many steps the training has."""
        per_epoch = -(-examples // (self.batch_size * self.accumulate))
        return self.max_steps or max(1, round(per_epoch * self.epochs))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def check_same_run(self, saved: dict[str, Any], what: str) -> None:
        """Refuses to continue a run that was begun with other settings.

        Args:
            what: ``interrupted`` or ``finished``.

        Raises:
            LayerSelectError: names the first option that differs.
        """
        for field in fields(self):
            # An option that is newer than the run had its default.
            ours, theirs = getattr(self, field.name), saved.get(field.name, field.default)
            if ours != theirs and field.name not in PLACES:
                raise LayerSelectError(
                    f"the {what} run in {self.out!r} has {option(field.name)} {in_words(theirs)}, not "
                    f"{in_words(ours)}: repeat its options to resume it, or start afresh with --overwrite"
                )


def option(name: str) -> str:
    """The command-line spelling of a setting."""
    return "--" + name.replace("_", "-")


def one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raises ``LayerSelectError`` unless ``value`` is allowed."""
    check(value in allowed, name, value, f"is not one of {', '.join(allowed)}")


def check(condition: bool, name: str, value: object, reason: str) -> None:
    """Raises ``LayerSelectError`` about the option ``name`` unless the condition holds."""
    if not condition:
        raise LayerSelectError(f"{option(name)} {in_words(value)} {reason}")


def resolve_device(device: str) -> str:
    """``auto`` is CUDA where there is any.

    Raises:
        LayerSelectError: CUDA is asked for and torch has no such device.
    """
    check_device(device)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def check_device(device: str) -> None:
    """Raises ``LayerSelectError`` unless torch has the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise LayerSelectError(
            "--device cuda: this machine has no CUDA device that torch can use; see 'layerselect doctor'"
        )
