"""The settings that every training task has: corpus, what trains, how layers are selected, the training itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from ...data import Corpus, load_corpus
from ...data.sizes import Fold, TrainSize
from ...errors import LayerSelectError
from ...placement.rule import PlacementRule
from ...rules import make_rule, rules_help
from ...state_cache import DEFAULT_CUT, default_folder
from ...state_cache.cut import check_cut_text, is_number
from ...state_cache.selection import STATE_CACHES
from ...state_cache.store import PRECISIONS, is_size
from ...utils.launch import launched
from ...utils.options import check_values, flag_of, setting
from ...utils.saved_words import in_words
from ...utils.user_paths import user_path
from .adapter_settings import AdapterSettings
from .budget import BY_BUDGET, check_run_budget
from .headings import CACHE, CORPUS, JOB, TRAINING, TRAINS
from .memory_settings import MemorySettings
from .trainer_settings import TrainerSettings

#: Settings that change where a run stands or how fast it is, not what it comes to.
PLACES = (
    "out",
    "device",
    "device_map",
    "fsdp",
    "workers",
    "eval_batch_size",
    "report_to",
    "push_to_hub",
    "hub_model_id",
    "state_cache_store",
    "state_cache_memory",
)
#: What every generator takes that a training seeds.
_LARGEST_SEED = 2**32 - 1
#: Settings that say nothing unless hidden states are cached.
OF_CACHE = ("cut", "state_cache_store", "state_cache_memory", "state_cache_precision")


@dataclass(frozen=True)
class TrainingSettings(AdapterSettings, MemorySettings, TrainerSettings):
    """One run of a task. Each task adds its own settings and may have other defaults.

    What a field means is its help text, which stands beside its default; ``layerselect intent --help`` prints it.
    ``split_seed`` is apart from ``seed`` so that runs with several seeds are compared on the same splits.

    Raises:
        LayerSelectError: a value is out of range. The message names its option.
    """

    #: What the command takes with ``--model demo`` where nothing is said.
    demo_defaults: ClassVar[Mapping[str, Any]] = {}
    #: Settings of what is measured besides the training and what comes of it, which a trial of a few steps leaves out.
    measured_besides: ClassVar[tuple[str, ...]] = ()

    data: str = setting(
        help="demo, iterater-sent, iterater-doc, a file or folder, a hub id, or NAME:PATH with one of the names "
        "iterater-sent, iterater-doc, argrewrite, argrevision, arxivedits, generic",
        group=JOB,
        metavar="CORPUS",
    )
    model: str = setting(
        help="a model folder, a hub id, or 'demo' (a small model made on the spot, with its own defaults)",
        group=JOB,
        metavar="MODEL",
        known_as="--model-name-or-path",
    )
    out: str = setting(
        help="the folder that the finished run becomes", group=JOB, metavar="DIR", known_as="--output-dir"
    )
    splits: str = setting(
        "document",
        "'document': split again so that no document stands in two splits; 'official': the corpus's own splits",
        group=CORPUS,
        choices=("document", "official"),
    )
    labels: str = setting(
        "default",
        "label set: 'default', 'all' (with the labels that the papers drop), 'surface-content' (ArgRewrite), 'coarse' "
        "(arXivEdits)",
        group=CORPUS,
        metavar="SET",
    )
    before: str | None = setting(None, "column with the text before the revision", group=CORPUS, metavar="COLUMN")
    after: str | None = setting(None, "column with the text after the revision", group=CORPUS, metavar="COLUMN")
    label: str | None = setting(None, "column with the intention", group=CORPUS, metavar="COLUMN")
    doc_id: str | None = setting(None, "column that names the document", group=CORPUS, metavar="COLUMN")
    label_delimiter: str | None = setting(
        None, "what separates several intentions in one cell", group=CORPUS, metavar="TEXT"
    )
    multi: str = setting("keep", "keep or drop rows with several labels", group=CORPUS, choices=("keep", "drop"))
    strict: bool = setting(False, "stop at the first malformed row instead of skipping and counting it", group=CORPUS)
    split_seed: int = setting(0, "seed of the splits by document", group=CORPUS, metavar="N", least=0)
    fold: str | None = setting(
        None,
        "cut all rows into K folds by document and test the I-th; a tenth of the others is the validation split, the "
        "rest trains",
        group=CORPUS,
        metavar="I/K",
    )
    train_size: str | None = setting(
        None,
        "train on so many rows of the training split, or on so much of it, in whole documents; a smaller part is "
        "contained in a larger one",
        group=CORPUS,
        metavar="N|P%",
    )
    holdout: float = setting(
        0.0,
        "fraction of the training split, in whole documents, that is held out to choose the checkpoint by; with 0 the "
        "validation split chooses",
        group=CORPUS,
        metavar="F",
        least=0,
        below=1,
    )
    dropout: float | None = setting(
        None, "replaces the dropout of the model itself", group=TRAINS, metavar="P", least=0, below=1
    )
    rule: str = setting("variance", rules_help, group=TRAINS)
    placement: str | None = setting(
        None,
        "train the layers of a placement, in every step; a file of 'layerselect pilot' or 'layerselect card place'",
        group=TRAINS,
        metavar="FILE",
    )
    budget: float | None = setting(
        None,
        "what a step may cost, as a fraction of the step that trains all layers; the rule chooses among the layers "
        "that fit. With --state-cache it is the cut that fits",
        group=TRAINS,
        metavar="F",
        above=0,
    )
    mode: str = setting(
        "auto",
        "freeze: compute the gradients of the selected layers only; gate: compute all, update the selected; observe: "
        "select and train all",
        group=TRAINS,
        choices=("auto", "freeze", "gate", "observe"),
    )
    score: str = setting("l2", "score of a layer", group=TRAINS, choices=("l2", "rms", "sqrt_sum"))
    interval: int = setting(1, "select anew every N steps", group=TRAINS, metavar="N", least=1)
    warmup: int = setting(0, "train all layers in the first N steps", group=TRAINS, metavar="N", least=0)
    probe_every: int = setting(
        20, "mode freeze: measure all layers again every N steps; 0: never", group=TRAINS, metavar="N", least=0
    )
    backend: str = setting("auto", "who measures the gradients", group=TRAINS, choices=("auto", "native", "torch"))
    state_cache: str = setting(
        "none",
        "cached: the layers below the cut never train; what they make of each example is computed once, without their "
        "dropout, and read from then on; auto: where reading is faster; budget: where the model lets them be cached, "
        "with the cut that keeps to --budget, which is the default beside it; none: all layers run in every step",
        group=CACHE,
        choices=(*STATE_CACHES, BY_BUDGET),
    )
    cut: str = setting(
        DEFAULT_CUT,
        "a number of layers below the cut; or 'rule', below the lowest layer of --rule where this always trains the "
        "same layers; or another rule whose lowest layer is the cut; one that reads gradients looks at the first "
        "steps, which then train no layer",
        group=CACHE,
        metavar="N|RULE",
    )
    state_cache_store: str | None = setting(
        None,
        "keep hidden states in this folder, where later runs find them ('layerselect state-cache ls' shows and clears "
        "it); none: for this run only; without this option: the user's cache folder, or $LAYERSELECT_CACHE/states",
        group=CACHE,
        metavar="DIR",
    )
    state_cache_memory: str = setting("2GB", "hold as much of them in memory; 0: nothing", group=CACHE, metavar="SIZE")
    state_cache_precision: str = setting(
        "exact", "exact keeps every bit; half keeps 16 bits a number", group=CACHE, choices=PRECISIONS
    )
    epochs: float = setting(
        3.0,
        "passes over the training split",
        group=TRAINING,
        metavar="N",
        above=0,
        most=1_000_000,
        known_as="--num-train-epochs",
    )
    max_steps: int | None = setting(
        None, "stop after N steps, whatever --epochs says", group=TRAINING, metavar="N", least=1
    )
    batch_size: int = setting(
        16,
        "examples at a time, in each process: four processes with --batch-size 4 train as one with 16",
        group=TRAINING,
        metavar="N",
        least=1,
        known_as="--per-device-train-batch-size",
    )
    accumulate: int = setting(
        1, "batches in one step", group=TRAINING, metavar="N", least=1, known_as="--gradient-accumulation-steps"
    )
    lr: float = setting(
        1e-3, "learning rate of AdamW", group=TRAINING, metavar="X", above=0, known_as="--learning-rate"
    )
    schedule: str = setting(
        "linear",
        "how the learning rate falls",
        group=TRAINING,
        choices=("linear", "cosine", "constant"),
        known_as="--lr-scheduler-type",
    )
    lr_warmup: float = setting(
        0.06,
        "fraction of all steps in which the learning rate rises",
        group=TRAINING,
        metavar="F",
        least=0,
        below=1,
        known_as="--warmup-ratio",
    )
    lr_warmup_steps: int | None = setting(
        None,
        "steps in which the learning rate rises, instead of --lr-warmup",
        group=TRAINING,
        metavar="N",
        least=0,
        known_as="--warmup-steps",
    )
    weight_decay: float = setting(0.01, "weight decay of AdamW", group=TRAINING, metavar="X", least=0)
    clip: float = setting(
        1.0, "largest norm of the gradient", group=TRAINING, metavar="X", above=0, known_as="--max-grad-norm"
    )
    keep: str = setting(
        "best", "keep the checkpoint that evaluates best, or the last one", group=TRAINING, choices=("best", "last")
    )
    patience: int | None = setting(
        None, "stop after N evaluations that are no better", group=TRAINING, metavar="N", least=1
    )
    eval_steps: int | None = setting(
        None, "evaluate every N steps instead of after every epoch", group=TRAINING, metavar="N", least=1
    )
    eval_limit: int | None = setting(
        None,
        "evaluate at most N examples of a split, drawn by --split-seed, in every evaluation",
        group=TRAINING,
        metavar="N",
        least=1,
    )
    save_steps: int = setting(
        0,
        "save a checkpoint every N steps, besides the one after each epoch; 0: only there. A run that was killed at "
        "any moment continues at its last checkpoint and ends as if it had not been killed",
        group=TRAINING,
        metavar="N",
        least=0,
    )
    measure_memory: bool = setting(
        False, "also count the bytes kept for the backward pass (a little slower)", group=TRAINING
    )
    seed: int = setting(
        0, "seed of all random choices in the training", group=JOB, metavar="N", least=0, most=_LARGEST_SEED
    )
    device: str = setting("auto", "where to train", group=JOB, choices=("auto", "cpu", "cuda"))

    def __post_init__(self) -> None:
        object.__setattr__(self, "cut", str(self.cut))  # 22 means "22"
        check_values(self)
        self._check_parts()
        self.adapter_config()
        self.check_memory(self.adapter)
        self.check_trainer()
        if self.placement is not None:
            object.__setattr__(self, "rule", self._rule_of_placement(self.placement))
        make_rule(self.rule, seed=self.seed)
        self._check_state_cache()
        if self.budget is not None:
            check_run_budget(self)

    def _rule_of_placement(self, file: str) -> str:
        """The rule that trains the layers of a placement."""
        rule = f"{PlacementRule.name}:file={json.dumps(str(file))}"
        check(
            self.rule in (TrainingSettings.rule, rule),
            "placement",
            file,
            f"chooses the layers, and --rule {self.rule} says others: leave out one of them",
        )
        return rule

    def _check_parts(self) -> None:
        """Checks what of the corpus is tested and trains, and writes both as they are always written."""
        for name, kind in (("fold", Fold), ("train_size", TrainSize)):
            text = getattr(self, name)
            if text is None:
                continue
            try:
                object.__setattr__(self, name, str(kind.parse(str(text))))
            except LayerSelectError as error:
                raise LayerSelectError(f"{option(name)} {error}") from error
        check(
            self.fold is None or self.splits == "document",
            "fold",
            self.fold,
            "is cut by document from all rows, which --splits official forbids: leave out one of them",
        )

    def _check_state_cache(self) -> None:
        if self.state_cache == "none":
            for name in OF_CACHE:
                value = getattr(self, name)
                check(
                    value == NO_CACHE[name],
                    name,
                    value,
                    "says nothing without --state-cache cached or --state-cache auto",
                )
            return
        check(
            self.state_cache != BY_BUDGET or self.budget is not None,
            "state_cache",
            self.state_cache,
            "says nothing without --budget",
        )
        check(
            self.mode in ("auto", "freeze"),
            "state_cache",
            self.state_cache,
            f"needs --mode auto or freeze, not {self.mode}: the layers below the cut must take no gradients",
        )
        try:
            check_cut_text(self.cut)
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
        store = self.cache_folder()
        check(
            store is None or store.is_dir() or not store.exists(),
            "state_cache_store",
            store,
            "is a file: give a folder",
        )

    def without_effect(self) -> list[str]:
        """The options that were changed and change nothing beside the others, each with the reason."""
        reasons = {
            **self.adapter_without_effect(),
            "probe_every": "" if self.mode in ("auto", "freeze") else f"--mode {self.mode}",
            "epochs": "" if self.max_steps is None else f"--max-steps {self.max_steps}",
            "lr_warmup": "" if self.lr_warmup_steps is None else f"--lr-warmup-steps {self.lr_warmup_steps}",
            "device_map": "--device cpu" if self.holding().device == "cpu" else "",
        }
        found = self._changed(reasons)
        if self.hub_model_id is not None and not self.push_to_hub:
            found.append(f"{option('hub_model_id')} {in_words(self.hub_model_id)} has no effect without --push-to-hub")
        return found

    def _changed(self, reasons: dict[str, str]) -> list[str]:
        """Of options that have no effect beside another one, those that do not have their defaults."""
        defaults = {field.name: field.default for field in fields(self)}
        presets = self.demo_defaults if self.model == "demo" else {}  # which nobody has given
        return [
            f"{option(name)} {in_words(getattr(self, name))} has no effect with {reason}"
            for name, reason in reasons.items()
            if reason and getattr(self, name) not in (defaults[name], presets.get(name, defaults[name]))
        ]

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
            fold=self.fold,
            train_size=self.train_size,
        )

    def steps(self, examples: int) -> int:
        """How many steps the training has, in as many processes as were started together."""
        per_epoch = -(-examples // (self.batch_size * launched() * self.accumulate))
        return self.max_steps or max(1, round(per_epoch * self.epochs))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def of_all_processes(self) -> dict[str, Any]:
        """What all processes of a run must have alike, by its option."""
        return {
            flag_of(type(self), field.name): getattr(self, field.name)
            for field in fields(self)
            if field.name not in PLACES or field.name in ("out", "device", "fsdp", "eval_batch_size")
        }

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


#: The settings of a run that caches nothing.
NO_CACHE = {field.name: field.default for field in fields(TrainingSettings) if field.name in ("state_cache", *OF_CACHE)}


def option(name: str) -> str:
    """The command-line spelling of a setting that all tasks have."""
    return flag_of(TrainingSettings, name)


def check(condition: bool, name: str, value: object, reason: str) -> None:
    """Raises ``LayerSelectError`` about the option ``name`` unless the condition holds."""
    if not condition:
        raise LayerSelectError(f"{option(name)} {in_words(value)} {reason}")
