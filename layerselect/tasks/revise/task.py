"""One run of the revision task: predictor, transfer, generator, revisions, scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ...data import Corpus
from ...integrations.transformers import SelectorCallback
from ...models.adapter_files import BASE
from ...models.demo import SOURCE as DEMO
from ...models.load import LoadedModel
from ...models.model_card import Usage
from ...models.saved_adapter import base_reference, save_adapted
from ...report import ReviseReport, write_revise_report
from ...transfer import base_fingerprint
from ...utils.saved_files import read_json
from ...utils.saved_schema import Fields, Mapped, Maybe, fields_of
from ..intent import run_intent
from ..run.folder import RESULTS, RunFolder
from ..run.importance_split import give_ablation, reserve_importance_split
from ..run.log import RunLog
from ..run.memory import running_out
from ..run.model import trainable
from ..run.runner import run_task
from ..run.stages import PREDICTOR as PREDICTOR_STAGE
from ..run.stages import REVISING, SCORING, Stages
from ..run.state_cache import RunCache
from ..run.task import OnEvent, Outcome, RunResult, Task, Trained
from ..run.training import check_training
from ..run.tried_selector import try_selector
from ..text.completions import CompletionSplit
from ..text.rows import evaluated_part
from .config import ReviseConfig
from .examples import token_budget, token_counter
from .generate import generate
from .model import cover, held_as_asked, made_model, prepare, save_base
from .other_text import forgetting_facts, loss_on_other_text, read_other_text
from .passes import check_passes
from .prompts import read_completion
from .results import SPLIT, SplitResult, prediction_records, split_result
from .shots import Shots, choose_shots, read_first
from .training import EVALUATED, RevisionTrainer, build_trainer, end_loss, final_loss
from .transfer import Transfer, check_rule, generator_rule, hand_over, look_at, measure_alignment
from .untrained import ask_untrained
from .usage import usage_of

#: In the folder of a run: the predictor that it trained, and the demo's model.
PREDICTOR = "predictor"
DEMO_MODEL = "model"


@dataclass(frozen=True)
class ReviseResult(RunResult):
    """A finished run.

    Attributes:
        transfer: what was transferred; ``None`` where nothing was.
    """

    transfer: Transfer | None = None

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "transfer": self.transfer.as_dict() if self.transfer else None}


def run_revise(
    config: ReviseConfig, *, resume: bool = False, overwrite: bool = False, on_event: OnEvent | None = None
) -> ReviseResult:
    """Fine-tunes a decoder to write revisions (Intention-Tuning, arXiv 2602.00477) and writes the run's folder.

    Args:
        resume: continue the interrupted run at ``config.out``, if there is one; a finished one is read and returned.
        overwrite: replace an earlier run at ``config.out``.
        on_event: told of what is being done: ``("phase", {"name"})``, the events of ``RunLog``, and ``("revise",
            {"split", "done", "examples"})``.

    Raises:
        LayerSelectError: whatever in the corpus, the model, the predictor, the options or the place cannot be used.
            Nothing is then at ``config.out`` that was not there before.
    """
    result = run_task(ReviseTask, config, resume=resume, overwrite=overwrite, on_event=on_event)
    assert isinstance(result, ReviseResult)
    return result


class ReviseTask(Task[ReviseConfig]):
    """Revision generation; see :class:`~layerselect.tasks.run.task.Task`."""

    command = "layerselect revise"
    evaluated = EVALUATED
    scoring = SCORING

    def __init__(self, config: ReviseConfig, corpus: Corpus, notify: OnEvent) -> None:
        super().__init__(config, corpus, notify)
        loaded, self._splits = prepare(config, corpus)
        self.fingerprint = base_fingerprint(loaded.model, loaded.layer_names)
        check_rule(config, len(loaded.layer_names))
        self._parts = {
            split.name: evaluated_part(split, config.eval_limit, config.split_seed) for split in self._splits.report
        }
        self._watch = self._parts[self._splits.watch.name] if self._splits.watch else None
        self._transfer: Transfer | None = None
        self._start_loss = 0.0
        self._written: dict[str, list[str]] = {}
        self._losses: dict[str, float] = {}
        self._shots = choose_shots(self._splits.train, list(self._parts.values()), config, loaded)
        self._other_text, self._other_loss = read_other_text(config, corpus, loaded), math.nan
        self._adapt(loaded)
        self._check()
        if config.predictor is not None:
            self._hand_over(config.predictor)

    @classmethod
    def finished(cls, folder: Path) -> ReviseResult:
        kind = Fields({"training": Mapped(), "splits": Mapped(SPLIT), "transfer": Maybe(fields_of(Transfer))})
        saved = read_json(folder / RESULTS, kind, advice="train again with --overwrite")
        splits = [SplitResult.from_dict(name, values) for name, values in saved["splits"].items()]
        transfer = Transfer(**saved["transfer"]) if saved["transfer"] else None
        return ReviseResult(folder, splits, saved["training"], transfer)

    @property
    def watched(self) -> str | None:
        return self._watch.name if self._watch else None

    @property
    def model(self) -> nn.Module:
        return self._model

    @property
    def sizes(self) -> dict[str, int]:
        return {split.name: len(split) for split in (self._splits.train, *self._parts.values())}

    @property
    def steps_before(self) -> int:
        return self.config.predictor_steps(len(self._splits.train))

    def begin(self, folder: RunFolder, stages: Stages) -> None:
        """Trains the predictor, if the run trains its own, and takes over its adapters."""
        config = self.config
        if config.trains_predictor:
            del self._model, self._loaded  # two models need not be in memory
            self.notify("phase", {"name": "predictor"})
            with stages.within(PREDICTOR_STAGE), running_out(config, PREDICTOR_STAGE, flags=config.predictor_flags()):
                self._train_predictor(folder)
            loaded = made_model(config, self.corpus)
            cover(loaded, self._splits)
            held_as_asked(loaded, config)
            self._adapt(loaded)
            self._hand_over(folder.path / PREDICTOR)
        self.notify("phase", {"name": "generator"})
        transfer, train = self._transfer, self._splits.train
        self._start_loss = transfer.first_loss if transfer else self._look_at(train)
        # Of rules that pick from a frequency none makes ablations.
        shared = transfer is not None and config.transfer == "shared"
        self._train, self._importance = (train, None) if shared else reserve_importance_split(train, config)

    def cached_lengths(self) -> list[int]:
        used = (self._train, self._importance, *self._parts.values())
        return [length for split in used if split is not None for length in split.lengths]

    def trainer(self, folder: Path, log: RunLog, state_cache: RunCache) -> tuple[RevisionTrainer, SelectorCallback]:
        rule = generator_rule(self.config, self._transfer)
        trainer, callback = build_trainer(
            self._model,
            self._loaded.tokenizer,
            self._train,
            self._watch,
            self.config,
            folder,
            rule=rule,
            callbacks=[log],
            state_cache=state_cache,
        )
        give_ablation(rule, trainer, self._importance, trainer.data_collator, self.config.batch_size, state_cache)
        return trainer, callback

    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """Writes the revisions of every reported split and takes their losses."""
        facts: dict[str, Any] = {"start_loss": self._start_loss, "end_loss": end_loss(trained.trainer)}
        if self._transfer is not None:
            measure_alignment(self._transfer, trained.selector, self.config)
            facts["alignment_ratio"] = self._transfer.ratio
        parts, model = self._parts.values(), trained.trainer.model
        with trained.stages.within(REVISING):
            self._written = {part.name: self._revise(model, self._loaded, part) for part in parts}
        with trained.state_cache.reading(model, trained.selector):
            self._losses = {part.name: final_loss(trained, part) for part in parts}
        if self._other_text is not None:
            with trained.stages.within(SCORING):
                batch, tokenizer = self.config.eval_batch, self._loaded.tokenizer
                self._other_loss = loss_on_other_text(model, self._other_text, tokenizer, batch)
        return facts

    def save_adapter(self, path: Path) -> None:
        if self.config.model == DEMO and self.config.adapter != "none":
            save_base(path / BASE, self.config, self.corpus, self._splits)
        save_adapted(
            path,
            self._model,
            self._loaded.tokenizer,
            task="revise",
            base_model=base_reference(self.config.model),
            kind=self.config.adapter,
            fingerprint=self.fingerprint,
            more={"labels": list(self.corpus.labels), "max_length": self.config.max_length},
        )

    def usage(self) -> Usage:
        length, kind, base = self.config.max_length, self.config.adapter, base_reference(self.config.model)
        return usage_of(self.corpus.labels, max_length=length, kind=kind, base_model=base)

    def outcome(self) -> Outcome:
        asked = (self._parts, self._shots, self._other_text)
        untrained = ask_untrained(self.config, self.corpus, self._splits, *asked, self._revise, self.notify)
        results = [
            split_result(
                self._parts[split.name],
                len(split),
                self._losses[split.name],
                self._written[split.name],
                untrained.of(split.name),
            )
            for split in self._splits.report
        ]
        records = [
            record
            for part in self._parts.values()
            for record in prediction_records(part, self._written[part.name], untrained.of(part.name))
        ]
        transfer = self._transfer.as_dict() if self._transfer else None
        return Outcome(
            results=results,
            splits={split.name: self._splits.facts(split) for split in (self._splits.train, *self._splits.report)},
            predictions=records,
            more={"transfer": transfer, **({"shots": list(self._shots.ids)} if self._shots else {})},
            page={"transfer": transfer, "predictions": records},
            training=forgetting_facts(self._other_text, untrained.loss, self._other_loss),
        )

    def write_report(self, path: Path, **facts: Any) -> None:
        write_revise_report(path, ReviseReport(**facts))

    def result(self, folder: Path, outcome: Outcome, training: dict[str, Any]) -> ReviseResult:
        return ReviseResult(folder, list(outcome.results), training, self._transfer)

    def _adapt(self, loaded: LoadedModel) -> None:
        self._loaded, self._model = loaded, trainable(loaded, self.config)

    def _check(self) -> None:
        """Finds out whether the run can be what the settings ask for."""
        check_training(self._model, self.config, evaluates=self._watch is not None)
        check_passes(self._model, self._loaded, self._splits)
        train = self._splits.train
        self.config = try_selector(
            self._model, self.config, lambda number: self._look_at(train.subset([number % len(train)]))
        )

    def _look_at(self, examples: CompletionSplit) -> float:
        return look_at(self._model, examples, self._loaded.tokenizer, self.config)

    def _hand_over(self, predictor: str | Path) -> None:
        self._transfer = hand_over(
            self._model,
            predictor,
            self.config,
            self._splits.train,
            tokenizer=self._loaded.tokenizer,
            fingerprint=self.fingerprint,
        )

    def _train_predictor(self, folder: RunFolder) -> None:
        # Both steps need one base model, so the generator's is the predictor's.
        base = folder.path / DEMO_MODEL if self.config.model == DEMO else None
        if base is not None and folder.writes and not (base / "config.json").is_file():
            save_base(base, self.config, self.corpus)
        settings = self.config.predictor_config(str(folder.path / PREDICTOR), str(base) if base else None)
        run_intent(settings, resume=True, on_event=self.notify)

    def _revise(
        self, model: nn.Module, loaded: LoadedModel, part: CompletionSplit, shots: Shots | None = None
    ) -> list[str]:
        """What the model writes for ``part``. Each process writes some texts, and has nothing of the others."""
        count = token_counter(loaded.tokenizer)
        written = generate(
            model,
            loaded.tokenizer,
            shots.prompts(part, loaded.tokenizer) if shots else part.prompts,
            self.config.generation(),
            batch_size=self.config.eval_batch,
            budgets=[token_budget(count(row["source"])) for row in part.rows],
            on_batch=lambda done, total: self.notify("revise", {"split": part.name, "done": done, "examples": total}),
            share=(self.processes.rank, self.processes.count),
        )
        texts = ["".join(several) for several in zip(*self.processes.gather(written), strict=True)]
        return [read_completion(read_first(text) if shots else text) for text in texts]
