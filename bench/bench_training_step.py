"""What freezing saves: step time and saved-activation bytes on a 12-layer decoder with LoRA, as ratios, without
gradient checkpointing and with both kinds of it.

    python -m pytest bench/bench_training_step.py --benchmark-only --benchmark-enable -s

All selections under all kinds of checkpointing take turns within each round, in an order drawn anew, so that whatever
else the machine does weighs on all of them alike. A ratio is the median of the quotients within the rounds, to all
layers under the same kind of checkpointing; in brackets the interval of 95 % in which that median lies. Seconds are
those of the processor.
"""

from __future__ import annotations

import statistics
import time

import torch
from layerselect import FastSelector
from layerselect.utils.saved_activations import saved_activation_bytes
from torch import nn

from decoders import NARROW, lora_decoder, with_own_adapters
from layouts import Turns, bootstrap_interval

LAYERS = 12
ROUNDS = 15
SELECTIONS = {
    "all layers": "all",
    "top half": f"fixed:layers={list(range(6, 12))}",
    "bottom half": f"fixed:layers={list(range(6))}",
    "random half": "fixed:layers=[0,2,5,7,8,11]",
    "top two": "fixed:layers=[10,11]",
    "CostAware(0.7)": "cost-aware:budget=0.7",
}
CHECKPOINTING: dict[str, bool | None] = {"without": None, "non-reentrant": False, "reentrant": True}
#: Kind of checkpointing and selection: at most so much of the step.
STEP_TARGETS = {("without", "top half"): 0.75} | {
    (kind, selection): most
    for kind in ("non-reentrant", "reentrant")
    for selection, most in (("top half", 0.8), ("top two", 0.65))
}
SAVED_TARGETS = {("without", "top half"): 0.55}


class Step:
    """A training step with one selection under one kind of checkpointing, set up as ``transformers`` and ``peft`` do.

    Attributes:
        saved: bytes of activations that a step of the selection in force saves for the backward pass.
    """

    def __init__(self, model: nn.Module, rule: str, reentrant: bool | None, tokens: torch.Tensor) -> None:
        self._model, self._tokens = model, tokens
        model.train()
        if reentrant is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
        self.selector = FastSelector(model, rule, mode="freeze", probe_every=0)
        self._optimizer = torch.optim.AdamW(self.selector.trainable_parameters(), lr=1e-4)
        self.selector.attach(self._optimizer)
        self()  # rules that look at scores have seen them from here on
        self.saved = saved_activation_bytes(model, self._loss)

    def _loss(self) -> torch.Tensor:
        return self._model(input_ids=self._tokens, labels=self._tokens).loss

    def __call__(self) -> None:
        self._loss().backward()
        self.selector.step()
        self._optimizer.step()
        self._optimizer.zero_grad()


def test_training_step(benchmark):
    torch.set_num_threads(1)
    model = lora_decoder(**NARROW, num_hidden_layers=LAYERS, vocab_size=2048)
    tokens = torch.randint(0, 2048, (4, 128), generator=torch.Generator().manual_seed(0))
    steps = {
        f"{kind}, {selection}": Step(with_own_adapters(model), rule, reentrant, tokens)
        for kind, reentrant in CHECKPOINTING.items()
        for selection, rule in SELECTIONS.items()
    }
    turns = Turns(steps, clock=time.process_time)
    turns.measure(benchmark, ROUNDS, threads=1)

    for kind in CHECKPOINTING:
        base = f"{kind}, all layers"
        print(f"\ngradient checkpointing: {kind}")
        print(f"{'selection':16s}{'layers':24s}{'step, s':>8s}{'ratio':>8s}{'':17s}{'saved, MB':>10s}{'ratio':>7s}")
        for selection in SELECTIONS:
            name = f"{kind}, {selection}"
            quotients = [a / b for a, b in zip(turns.seconds[name], turns.seconds[base], strict=True)]
            ratio, (low, high) = statistics.median(quotients), bootstrap_interval([quotients])
            saved = steps[name].saved / steps[base].saved
            trained = ",".join(map(str, steps[name].selector.trained()))
            print(
                f"{selection:16s}{trained:24s}{turns.median(name):8.3f}{ratio:8.2f} ({low:.2f} to {high:.2f}){'':3s}"
                f"{steps[name].saved / 1e6:10.1f}{saved:7.2f}"
                + target_of(STEP_TARGETS, kind, selection, ratio, "step")
                + target_of(SAVED_TARGETS, kind, selection, saved, "saved")
            )
            benchmark.extra_info[name] = {
                "step_ratio": ratio,
                "low": low,
                "high": high,
                "saved_ratio": saved,
                "trained": trained,
            }
    for (kind, selection), most in SAVED_TARGETS.items():
        assert steps[f"{kind}, {selection}"].saved <= most * steps[f"{kind}, all layers"].saved


def target_of(targets: dict[tuple[str, str], float], kind: str, selection: str, ratio: float, what: str) -> str:
    most = targets.get((kind, selection))
    return "" if most is None else f"   {what} <= {most}: {'met' if ratio <= most else 'missed'}"
