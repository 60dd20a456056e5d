"""Does a Layer Card know which layers are worth training? Its figures beside what training each layer alone gave.

    layerselect card --adapt-steps 60 --gain-steps 60 --seed 0 ... --out cards/a; (the same) --seed 1 --out cards/b
    layerselect card --adapt-steps 60 --adapt-optimizer sgd --seed 0 ... --out cards/c; (the same for cards/d)
    layerselect compare --methods "fixed:layers=[0],fixed:layers=[1],..." ... --out runs/alone
    python bench/card_truth.py cards/a cards/b [--adapted cards/c cards/d] [--trained runs/alone]

Prints rank correlations over the layers: of each figure with the fall of the held-out loss when a layer alone was
adapted (``performance``), within a card and from the sample of one card to that of the other; the same by the
optimizer of the cards of ``--adapted``, which are of the same samples in the same order; with what the runs of
``--trained`` reached; of the gains with themselves, which no figure can be expected to beat; and the agreement of the
two cards. An interval is one over layers (see ``layerselect.card.intervals.spearman_interval``), p the share of the
permutations of the layers that do as well, one-sided.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
from layerselect import LayerSelectError
from layerselect.card import LayerCard, diff
from layerselect.card.intervals import spearman, spearman_interval
from layerselect.tasks.compare.runs import RUNS
from scipy.stats import rankdata

PERMUTATIONS = 20_000
#: How the last evaluation of a run is read, so that more is better.
REACHED = {"macro-F1": ("macro_f1", 1.0), "- loss": ("loss", -1.0)}


def figures(card: LayerCard) -> dict[str, np.ndarray]:
    """What might predict a gain, [L] each; depth needs no card, so a card should do better than it."""
    return {
        "depth": np.arange(len(card.layers), dtype=float),
        "fresh": card.fresh,
        "resnorm": np.array([layer.resnorm for layer in card.layers]),
        "gradient norm": np.array([layer.gradient_norm for layer in card.layers]),
        "energy": np.array([layer.energy for layer in card.layers]),
        **first_gains(card),
    }


def first_gains(card: LayerCard) -> dict[str, np.ndarray]:
    """What the first steps of each optimizer are predicted to give, [L] each, with and without curvature; nothing where
    that was not measured.
    """
    found = {}
    for name, words, slope in (("adamw", "AdamW", "sum of absolute g"), ("sgd", "SGD", "sum of squared g")):
        gains = [getattr(layer, name) for layer in card.layers]
        if None not in gains:
            found[slope] = np.array([one.slope for one in gains])
            found[f"first gain, {words}"] = np.array([one.gain for one in gains])
    return found


def gains(card: LayerCard) -> np.ndarray | None:
    """``performance``, [L]; None where it was not measured."""
    found = [layer.performance for layer in card.layers]
    return None if None in found else np.array(found, dtype=float)


def trained_alone(folder: Path, layers: int, split: str) -> dict[str, np.ndarray]:
    """What the runs of a comparison reached that trained one layer each: for each measure [seeds, L].

    Raises:
        LayerSelectError: a layer or a seed is missing.
    """
    found: dict[tuple[int, int], dict[str, float]] = {}
    for results in sorted(folder.glob(f"{RUNS}/*/results.json")):  # a run without them has not ended
        settings = json.loads(results.with_name("config.json").read_text(encoding="utf-8"))["settings"]
        match = re.fullmatch(r"fixed:layers=\[(\d+)\]", settings["rule"])
        if match:
            lines = results.with_name("metrics.jsonl").read_text(encoding="utf-8").splitlines()
            last = [line for line in map(json.loads, lines) if line.get("split") == split][-1]
            found[settings["seed"], int(match[1])] = last
    seeds = sorted({seed for seed, _ in found})
    if not seeds or set(found) != set(itertools.product(seeds, range(layers))):
        raise LayerSelectError(f"{folder}: not every one of {layers} layers was trained alone with every seed")
    return {
        name: np.array([[sign * found[seed, layer][key] for layer in range(layers)] for seed in seeds])
        for name, (key, sign) in REACHED.items()
    }


def check_same_samples(cards: list[LayerCard], others: list[LayerCard]) -> None:
    """Refuses cards of ``--adapted`` that were measured on other examples.

    Raises:
        LayerSelectError: one was.
    """
    for number, other in enumerate(others):
        if number >= len(cards) or other.data["fingerprint"] != cards[number].data["fingerprint"]:
            raise LayerSelectError(
                f"card {number} of --adapted is not of the sample of card {number}: name those of the same samples, in "
                "the same order"
            )


def by_chance(one: np.ndarray, other: np.ndarray) -> float:
    """The share of orders of the layers with at least this rank correlation: all of them, or many drawn."""
    # Of a rank correlation, an order changes the sum of the products of ranks alone. Ranks are halves: sums are exact.
    first, second = rankdata(one), rankdata(other)
    observed = first @ second
    if math.factorial(len(one)) <= PERMUTATIONS:
        return float(np.mean(np.array(list(itertools.permutations(second))) @ first >= observed))
    generator = np.random.default_rng(0)
    orders = np.stack([generator.permutation(second) for _ in range(PERMUTATIONS)])
    return (int((orders @ first >= observed).sum()) + 1) / (PERMUTATIONS + 1)


def shared(one: np.ndarray, other: np.ndarray, k: int) -> float:
    """The share of the k best layers by ``one`` that are among those by ``other``."""
    return len(set(np.argsort(-one, kind="stable")[:k]) & set(np.argsort(-other, kind="stable")[:k])) / k


def show(name: str, one: np.ndarray, other: np.ndarray) -> None:
    low, high = spearman_interval(spearman(one, other), len(one))
    tops = sorted({max(1, len(one) // 4), len(one) // 2})
    best = ", ".join(f"{shared(one, other, k):.2f} ({k / len(one):.2f})" for k in tops)
    print(
        f"| {name} | {spearman(one, other):+.2f} ({low:+.2f} to {high:+.2f}) | {by_chance(one, other):.3f} | {best} |",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cards", nargs="+", type=Path, metavar="CARD", help="one card, or two of different samples")
    parser.add_argument(
        "--adapted",
        nargs="+",
        type=Path,
        default=[],
        metavar="CARD",
        help="cards of the same samples, in the same order, whose layers another optimizer adapted",
    )
    parser.add_argument(
        "--trained", type=Path, metavar="DIR", help="a comparison with the rows fixed:layers=[0], [1], ..."
    )
    parser.add_argument("--split", default="validation", help="of the runs (default: validation)")
    args = parser.parse_args()
    try:
        cards, others = ([LayerCard.load(path) for path in paths] for paths in (args.cards, args.adapted))
        check_same_samples(cards, others)
        runs = {} if args.trained is None else trained_alone(args.trained, len(cards[0].layers), args.split)
        agreement = diff(*cards) if len(cards) == 2 else None
    except (LayerSelectError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    adapted = {f"card {number}": gains(card) for number, card in enumerate(cards)}
    for number, card in enumerate(others):
        adapted[f"card {number} by {card.settings['adapt_optimizer']}"] = gains(card)
    adapted = {name: gain for name, gain in adapted.items() if gain is not None}
    count, tops = len(cards[0].layers), sorted({max(1, len(cards[0].layers) // 4), len(cards[0].layers) // 2})
    print(f"{count} layers; share of the best {' and '.join(map(str, tops))} that is common (by chance)\n")
    print("| what | rank correlation (95 %) | p | common |\n|---|---|---|---|")
    for number, card in enumerate(cards):
        for name, figure in figures(card).items():
            for where, gain in adapted.items():
                show(f"{name} of card {number}, layers adapted alone on the sample of {where}", figure, gain)
            for measure, reached in runs.items():
                show(f"{name} of card {number}, {measure} of layers trained alone", figure, reached.mean(axis=0))
    for (one, first), (other, second) in itertools.combinations(adapted.items(), 2):
        show(f"gain on the sample of {one}, on that of {other}", first, second)
    for measure, reached in runs.items():
        for where, gain in adapted.items():
            show(f"gain on the sample of {where}, {measure} of layers trained alone", gain, reached.mean(axis=0))
        for one, other in itertools.combinations(range(len(reached)), 2):
            show(f"{measure} of layers trained alone, seed {one} and seed {other}", reached[one], reached[other])
    if agreement is not None:
        low, high = agreement.rank_interval
        print(f"\nthe cards agree on the order by {agreement.rank_correlation:.3f} ({low:+.2f} to {high:+.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
