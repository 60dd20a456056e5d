"""Options under the names that users of transformers and peft know: the same setting, shown beside its short name."""

from __future__ import annotations

import pytest
from layerselect.cli.main import build_parser

PAIRS = {
    "--num-train-epochs": ("--epochs", "4"),
    "--per-device-train-batch-size": ("--batch-size", "3"),
    "--gradient-accumulation-steps": ("--accumulate", "2"),
    "--learning-rate": ("--lr", "2e-4"),
    "--lr-scheduler-type": ("--schedule", "cosine"),
    "--warmup-ratio": ("--lr-warmup", "0.1"),
    "--max-grad-norm": ("--clip", "0.5"),
    "--lora-r": ("--lora-rank", "8"),
}
COMMON = ["--data", "demo"]


@pytest.mark.parametrize("command", ["intent", "revise", "compare"])
def test_both_names_are_one_setting(command):
    parser = build_parser()
    known = [part for name, (_, value) in PAIRS.items() for part in (name, value)]
    short = [part for name, value in PAIRS.values() for part in (name, value)]
    place, also = ["--model-name-or-path", "m", "--output-dir", "o"], ["--model", "m", "--out", "o"]
    one = vars(parser.parse_args([command, *COMMON, *place, *known]))
    other = vars(parser.parse_args([command, *COMMON, *also, *short]))
    assert one == other
    assert one["lr"] == 2e-4 and one["epochs"] == 4.0 and one["lora_rank"] == 8 and one["out"] == "o"


def test_a_card_is_asked_for_by_either_name():
    parser = build_parser()
    one = parser.parse_args(["card", *COMMON, "--model-name-or-path", "m", "--output-dir", "o"])
    assert (one.model, one.out) == ("m", "o")
