"""The options of training commands: a job, and the settings that every task has (``TrainingSettings``)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from .options import (
    add_common_options,
    add_corpus_options,
    add_flag,
    add_model_option,
    add_output_option,
    add_setting,
    add_threads_option,
)


def add_job(parser: argparse.ArgumentParser) -> None:
    """What to train on what, where it goes, and how the command itself behaves."""
    job = parser.add_argument_group("the job")
    job.add_argument(
        "--data",
        required=True,
        metavar="CORPUS",
        help="demo, iterater-sent, iterater-doc, a file or folder, a hub id, or NAME:PATH with one of the names "
        "iterater-sent, "
        "iterater-doc, argrewrite, argrevision, arxivedits, generic",
    )
    add_model_option(job, "a model folder, a hub id, or 'demo' (a small model made on the spot, with its own defaults)")
    add_output_option(job, "the folder that the finished run becomes")
    job.add_argument(
        "--resume",
        action="store_true",
        help="continue the interrupted run of this --out, if there is one; a finished one is left as it is",
    )
    job.add_argument("--overwrite", action="store_true", help="replace an earlier run of this --out (no other folder)")
    add_setting(job, "--seed", "of everything random in the training", default=0, kind=int, metavar="N")
    add_setting(job, "--device", "where to train", default="auto", choices=("auto", "cpu", "cuda"))
    add_threads_option(job)
    add_common_options(parser)


class SettingGroups:
    """Groups of options for the settings that tasks share. No option has a default here: those of the task's
    configuration fill in.

    Args:
        leave_out: options that the command itself decides.
    """

    def __init__(self, parser: argparse.ArgumentParser, leave_out: Sequence[str] = ()) -> None:
        self._parser, self._leave_out = parser, leave_out

    def group(self, title: str) -> argparse._ArgumentGroup:
        return self._parser.add_argument_group(title)

    def add(self, group: argparse._ArgumentGroup, flag: str, text: str, **options: Any) -> None:
        """Adds an option, unless it is left out (see :func:`~layerselect.cli.options.add_setting`)."""
        if flag not in self._leave_out:
            add_setting(group, flag, text, **options)

    def flag(self, group: argparse._ArgumentGroup, flag: str, text: str) -> None:
        """Likewise, one without a value."""
        if flag not in self._leave_out:
            add_flag(group, flag, text)

    def corpus(self) -> argparse._ArgumentGroup:
        group = self.group("the corpus")
        add_corpus_options(group)
        self.add(
            group,
            "--holdout",
            "fraction of the training split, in whole documents, held out to choose the checkpoint "
            "by; 0: the validation split chooses",
            default=0,
            kind=float,
            metavar="F",
        )
        return group

    def trained(self, *, rule: str) -> argparse._ArgumentGroup:
        """What trains, and when.

        Args:
            rule: the help text of ``--rule``.
        """
        group = self.group("what trains")
        self.add(
            group,
            "--adapter",
            "lora; dora; bottleneck (behind) or bottleneck-parallel (beside what a layer adds to the stream); none: "
            "the layers' own weights",
            default="lora",
            metavar="NAME",
        )
        self.add(group, "--lora-rank", "rank of LoRA and DoRA", default=16, kind=int, metavar="N", known_as="--lora-r")
        self.add(group, "--lora-alpha", "its update is scaled by alpha / rank", default=32, kind=int, metavar="N")
        self.add(group, "--lora-dropout", "dropout in front of the adapter", default=0.05, kind=float, metavar="P")
        self.add(group, "--bottleneck-size", "hidden units of a bottleneck", default=64, kind=int, metavar="N")
        self.add(group, "--dropout", "replaces the model's own dropout", kind=float, metavar="P")
        self.add(group, "--rule", rule, default="variance")
        self.add(
            group,
            "--mode",
            "freeze: compute the selected layers' gradients only; gate: compute all, update the "
            "selected; observe: select and train all",
            default="auto",
            choices=("auto", "freeze", "gate", "observe"),
        )
        self.add(group, "--score", "score of a layer", default="l2", choices=("l2", "rms", "sqrt_sum"))
        self.add(group, "--interval", "a new selection every N steps", default=1, kind=int, metavar="N")
        self.add(group, "--warmup", "so many steps train all layers first", default=0, kind=int, metavar="N")
        self.add(
            group,
            "--probe-every",
            "freeze: every N steps all layers are measured again; 0: never",
            default=20,
            kind=int,
            metavar="N",
        )
        self.add(group, "--backend", "who measures the gradients", default="auto", choices=("auto", "native", "torch"))
        return group

    def state_cache(self) -> argparse._ArgumentGroup:
        """Hidden states that are kept."""
        group = self.group("hidden states of frozen layers")
        self.add(
            group,
            "--state-cache",
            "cached: the layers below the cut never train; what they make of each example is computed once, without "
            "their dropout, and read from then on; auto: where reading is faster; none: all layers run in every step",
            default="none",
            choices=("none", "cached", "auto"),
        )
        self.add(
            group,
            "--cut",
            "a number of layers below the cut, or a rule as for --rule whose lowest layer is the cut; one that "
            "reads gradients looks at the first steps, which then train no layer",
            default="cost-aware:budget=0.5",
            metavar="N|RULE",
        )
        self.add(
            group,
            "--state-cache-store",
            "keep them in this folder, where later runs find them ('layerselect state-cache ls' shows and clears "
            "it); none: for this run only; without: the user's cache folder, or $LAYERSELECT_CACHE/states",
            metavar="DIR",
        )
        self.add(
            group, "--state-cache-memory", "hold as much of them in memory; 0: nothing", default="2GB", metavar="SIZE"
        )
        self.add(
            group, "--state-cache-precision", "half keeps 16 bits a number", default="exact", choices=("exact", "half")
        )
        return group

    def training(self, *, lr: float, batch_size: int, best: str) -> argparse._ArgumentGroup:
        """The training itself.

        Args:
            lr, batch_size: the task's defaults.
            best: which checkpoint is the best one.
        """
        group = self.group("training")
        self.add(
            group,
            "--epochs",
            "passes over the training split",
            default=3,
            kind=float,
            metavar="N",
            known_as="--num-train-epochs",
        )
        self.add(group, "--max-steps", "stop after so many steps, whatever --epochs says", kind=int, metavar="N")
        self.add(
            group,
            "--batch-size",
            "examples at a time",
            default=batch_size,
            kind=int,
            metavar="N",
            known_as="--per-device-train-batch-size",
        )
        self.add(
            group,
            "--accumulate",
            "batches in one step",
            default=1,
            kind=int,
            metavar="N",
            known_as="--gradient-accumulation-steps",
        )
        self.add(
            group, "--lr", "learning rate of AdamW", default=lr, kind=float, metavar="X", known_as="--learning-rate"
        )
        self.add(
            group,
            "--schedule",
            "of the learning rate",
            default="linear",
            choices=("linear", "cosine", "constant"),
            known_as="--lr-scheduler-type",
        )
        self.add(
            group,
            "--lr-warmup",
            "fraction of the steps in which it rises",
            default=0.06,
            kind=float,
            metavar="F",
            known_as="--warmup-ratio",
        )
        self.add(group, "--weight-decay", "of AdamW", default=0.01, kind=float, metavar="X")
        self.add(
            group,
            "--clip",
            "largest norm of the gradient",
            default=1.0,
            kind=float,
            metavar="X",
            known_as="--max-grad-norm",
        )
        self.add(group, "--keep", f"the checkpoint {best}, or the last one", default="best", choices=("best", "last"))
        self.add(group, "--eval-steps", "evaluate every N steps instead of after every epoch", kind=int, metavar="N")
        self.add(group, "--patience", "stop after N evaluations that are no better", kind=int, metavar="N")
        self.add(
            group,
            "--save-steps",
            "a checkpoint every N steps, besides the one after each epoch; 0: only there. A run "
            "killed at any moment continues at its last checkpoint and ends as if it had not been",
            default=0,
            kind=int,
            metavar="N",
        )
        self.flag(group, "--measure-memory", "also count the bytes kept for the backward pass")
        return group
