"""One family in a process of its own: its folder is made, and every task is tried with it as a user would.

*works*: the loss is finite and falls over twenty steps at one of two learning rates, the reloaded adapter predicts the
same, a batch equals single rows, cached equals direct to 1e-5. *refused*: ``LayerSelectError``, with its sentence.
*wrong*: anything else.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from layerselect.errors import LayerSelectError
from layerselect.models.load import quiet_transformers
from layerselect.tasks.card.run import CardJob, run_card
from layerselect.tasks.intent import Predictor
from layerselect.tasks.intent.config import IntentConfig
from layerselect.tasks.intent.dataset import Collator
from layerselect.tasks.intent.task import run_intent
from layerselect.tasks.revise import Rewriter
from layerselect.tasks.revise.config import ReviseConfig
from layerselect.tasks.revise.task import run_revise
from layerselect.tasks.text.completions import nll, pad_answers
from layerselect.tasks.text.verbalizer import score

from .corpus import write_corpus
from .faults import Wrong, one_line, warnings_in, where
from .small import kind, save

TASKS = ("classifier", "generate", "revise", "cache", "card")
STEPS = 20
#: Learning rates that are tried, one after the other.
RATES = (2e-3, 5e-3)
CLOSE = 1e-5
#: Steps of an epoch: the losses of the first and of the last one are of the same examples.
EPOCH = 4


def try_family(family: str) -> dict[str, Any]:
    """What came of each task: ``{"builds": sentence or "", "tasks": {task: {"result", "sentence", "said",
    "seconds"}}}``.
    """
    warnings.simplefilter("ignore")
    quiet_transformers()
    _without_drawings()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        folder = Path(place, "model")
        try:
            made = save(family, folder)
        except Exception as error:  # whatever the family's own code raises says why there is nothing to try
            return {"kind": kind(family), "builds": one_line(error), "tasks": {}}
        corpus = write_corpus(Path(place, "corpus.jsonl"))
        outcome = {task: _outcome(CHECKS[task], folder, corpus) for task in TASKS}
        return {"kind": kind(family), "class": made.__name__, "builds": "", "tasks": outcome}


def _without_drawings() -> None:
    """Reports get empty drawings: they take a quarter of the time and are the same whatever the family."""
    from matplotlib.figure import Figure

    def savefig(self: Figure, target: Any, **_: Any) -> None:
        if hasattr(target, "write"):
            target.write('<svg viewBox="0 0 1 1"></svg>')
        else:
            Path(target).write_bytes(b"")

    Figure.savefig = savefig  # type: ignore[method-assign]


def _outcome(check: Callable[[Path, Path], None], folder: Path, corpus: Path) -> dict[str, Any]:
    started = time.monotonic()
    with warnings_in() as said:
        try:
            check(folder, corpus)
            result, sentence = "works", ""
        except LayerSelectError as error:
            result, sentence = "refused", str(error)
        except Wrong as error:
            result, sentence = "wrong", str(error)
        except Exception as error:  # what users would see as a traceback is what is looked for
            result, sentence = "wrong", f"a traceback: {one_line(error)} ({where(error)})"
    seconds = round(time.monotonic() - started, 1)
    return {
        "result": result,
        "sentence": sentence.replace(str(folder.parent) + "/", ""),
        "said": said,
        "seconds": seconds,
    }


def _classifier(folder: Path, corpus: Path) -> None:
    settings = IntentConfig(
        data=str(corpus), model=str(folder), out="out-classifier", format="pair", max_length=512, **_TRAINING
    )
    _train(run_intent, settings)
    _check_predictions(Path("out-classifier"))


def _generate(folder: Path, corpus: Path) -> None:
    settings = IntentConfig(data=str(corpus), model=str(folder), out="out-generate", head="generate", **_TRAINING)
    _train(run_intent, settings)
    predictor = _check_predictions(Path("out-generate"))
    # Both ways of asking for the label's words, of a batch with rows of unlike lengths.
    batch = Collator(predictor.encoder.tokenizer)(predictor.encoder(_saved_rows(Path("out-generate"))[:5]))
    prompts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    answers = predictor.head.words.tokens  # type: ignore[attr-defined]
    remembered = score(predictor.model, prompts, answers)
    with torch.no_grad():
        direct = torch.stack(
            [-nll(predictor.model, prompts, *pad_answers([answer] * len(remembered))) for answer in answers], dim=1
        )
    _close("the verbalizer words' scores, cached and direct,", remembered, direct, scale=float(direct.abs().max()))


def _revise(folder: Path, corpus: Path) -> None:
    settings = ReviseConfig(
        data=str(corpus),
        model=str(folder),
        out="out-revise",
        transfer="none",
        eval_limit=4,
        max_new_tokens=6,
        max_length=40,
        **_TRAINING,
    )
    _train(run_revise, settings)
    from layerselect.tasks.revise.generate import generate
    from layerselect.tasks.revise.prompts import read_completion, write_prompt
    from layerselect.tasks.text.completions import prompt_tokens

    lines = [json.loads(line) for line in Path("out-revise/predictions.jsonl").read_text().splitlines()][:4]
    rewriter = Rewriter.load("out-revise")
    prompts = [prompt_tokens(rewriter.tokenizer, write_prompt(line["source"], line["intentions"])) for line in lines]
    for size in (4, 1):
        written = generate(
            rewriter.model,
            rewriter.tokenizer,
            prompts,
            settings.generation(),
            batch_size=size,
            budgets=[6] * len(prompts),
            device="cpu",
        )
        if [read_completion(text) for text in written] != [line["prediction"] for line in lines]:
            raise Wrong(f"the reloaded generator writes other texts in batches of {size}")


def _cache(folder: Path, corpus: Path) -> None:
    """The cache of hidden states, with the head that the family has."""
    options = {
        **_TRAINING,
        "max_steps": 8,
        "state_cache": "cached",
        "cut": "1",
        "state_cache_store": "none",
        "mode": "freeze",
        "rule": "all",
    }
    head = "classifier" if _classifies(folder) else "generate"
    settings = IntentConfig(data=str(corpus), model=str(folder), out="out-cache", head=head, **options)
    found = run_intent(settings)
    if not found.training.get("states_read"):
        raise Wrong("no hidden state was read")
    _check_predictions(Path("out-cache"))


def _card(folder: Path, corpus: Path) -> None:
    head = "classifier" if _classifies(folder) else "generate"
    settings = IntentConfig(data=str(corpus), model=str(folder), out="out-card", head=head, batch_size=8)
    card, _ = run_card(CardJob(settings, examples=16, head_steps=5))
    columns = (
        [
            getattr(layer, name)
            for layer in card.layers
            for name in vars(layer)
            if isinstance(getattr(layer, name), float)
        ]
        if hasattr(card, "layers")
        else []
    )
    if any(not math.isfinite(value) for value in columns):
        raise Wrong("the card holds numbers that are not finite")


CHECKS: dict[str, Callable[[Path, Path], None]] = {
    "classifier": _classifier,
    "generate": _generate,
    "revise": _revise,
    "cache": _cache,
    "card": _card,
}

_TRAINING: dict[str, Any] = {
    "max_steps": STEPS,
    "batch_size": 8,
    "lr": RATES[0],
    "lora_dropout": 0.05,
    "keep": "best",
    "device": "cpu",
    "dropout": 0.0,
}


def _classifies(folder: Path) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as NAMES

    return json.loads((folder / "config.json").read_text()).get("model_type") in NAMES


def _train(run: Callable[..., Any], settings: Any) -> None:
    """Trains at the first of the learning rates at which the loss falls: what moves one random model shakes another."""
    for rate in RATES:
        run(dataclasses.replace(settings, lr=rate), overwrite=rate != RATES[0])
        try:
            return _check_losses(Path(settings.out))
        except Wrong:
            if rate == RATES[-1]:
                raise


def _check_losses(out: Path) -> None:
    losses = [json.loads(line)["loss"] for line in (out / "training.jsonl").read_text().splitlines()]
    if len(losses) < STEPS or not all(map(math.isfinite, losses)):
        raise Wrong(f"the losses of {STEPS} steps are {losses}")
    first, last = np.mean(losses[:EPOCH]), np.mean(losses[-EPOCH:])
    if not last < first:
        raise Wrong(f"the loss does not fall: {first:.4f} in the first {EPOCH} steps and {last:.4f} in the last")


def _check_predictions(out: Path) -> Predictor:
    """The reloaded adapter says what the run said, of a batch and of its rows alone."""
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    rows = _saved_rows(out)
    predictor = Predictor.load(out)
    together = predictor._scores(rows)
    alone = np.concatenate([predictor._scores([row]) for row in rows])
    saved = np.array([[line["scores"][label] for label in predictor.labels] for line in lines])
    _close("the predictions of a batch and of its rows alone", together, alone)
    _close("the run's predictions and those of the reloaded adapter", saved, together)
    return predictor


def _saved_rows(out: Path) -> list[dict[str, Any]]:
    """The rows of the corpus that the run has predicted, in its order."""
    corpus = {row["id"]: row for row in map(json.loads, Path("corpus.jsonl").read_text().splitlines())}
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    return [corpus[line["id"]] for line in lines]


def _close(what: str, one: Any, other: Any, *, scale: float = 1.0) -> None:
    difference = float(np.abs(np.asarray(one, dtype=float) - np.asarray(other, dtype=float)).max())
    if not difference <= CLOSE * max(scale, 1.0):
        raise Wrong(f"{what} differ by {difference:.2g}")
