"""From how often a predictor selected each layer (G) to the layers that a generator takes over, and how well they
fit.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import LayerSelectError
from ..rules import MEASURED, Rule, make_rule
from ..utils.saved_files import DamagedFile, read_json
from ..utils.saved_schema import Fields, Items, Mapped, Maybe, Mismatch, Text, Whole, check
from ..utils.saved_words import shown
from ..utils.user_paths import user_path

logger = logging.getLogger(__name__)

# As a run writes them (layerselect.tasks): named here again, since that package loads transformers.
_FILE = "importance.json"
_SCHEMA = 1
_ADAPTER_FILE = "layerselect.json"
_ADVICE = "train the predictor again"


@dataclass(frozen=True)
class Importance:
    """How often a run selected each of its layers.

    Attributes:
        layer_names: qualified names of the L layers, in forward order.
        frequency: G, for each layer in how many selections it was chosen. This is the importance of Intention-Tuning
            (arXiv 2602.00477): it asks how often a layer's gradient stood out, whether or not the layer trained in that
            step.
        steps: how many steps the run had.
        rule: the rule that chose: its ``name`` and its options.
        trained_frequency: of these selections, those in which the layer took gradients and so trained; fewer than
            ``frequency`` in mode ``freeze``. ``None`` in files of early releases, which did not tell.
    """

    layer_names: list[str]
    frequency: list[int]
    steps: int
    rule: dict[str, Any]
    trained_frequency: list[int] | None = None


def read_importance(path: str | Path) -> Importance:
    """Reads the ``importance.json`` of a run.

    Args:
        path: the run's folder, its ``adapter`` folder, or the file itself.

    Raises:
        LayerSelectError: there is no such file, it is damaged, or it is of another version.
    """
    file = _importance_file(user_path(path, "the run"))
    content = read_json(file, Mapped(), advice=_ADVICE)
    if content.get("schema") != _SCHEMA:
        raise LayerSelectError(
            f"{str(file)!r} has schema {shown(content.get('schema'))} and this version reads {_SCHEMA}: train the "
            "predictor again"
        )
    try:
        check(Fields({"layer_names": Items(Text(least=1), least=1, unique=True)}), content)
        check(_importance(len(content["layer_names"])), content)
    except Mismatch as error:
        raise DamagedFile(file, str(error), _ADVICE) from error
    names, frequency, steps = content["layer_names"], content["frequency"], content["steps"]
    return Importance(names, frequency, steps, content["rule"], content.get("trained_frequency"))


def _importance(layers: int) -> Fields:
    """The part of ``importance.json`` that is read."""
    counts = Items(Whole(), length=layers)
    needed = {"frequency": counts, "steps": Whole(), "rule": Fields({"name": Text()})}
    return Fields(needed, optional={"trained_frequency": Maybe(counts)})


def pick_layers(frequency: Sequence[int], rule: str | Rule = "variance", seed: int = 0) -> list[int]:
    """The layers that matter (S_pre): what a rule chooses if G were the scores.

    By default that is the variance rule on G, eq. 10-11 of arXiv 2602.00477. Where the rule would cut between layers
    that were all chosen equally often, G says nothing and the cut would be arbitrary: all layers are returned, with a
    warning.

    Args:
        frequency: G, [L], for each layer in how many selections it was chosen: ``Importance.frequency``, selections as
            in the paper, not ``trained_frequency``.
        rule: a rule, or its name with options, that decides by scores; or ``all``, ``fixed``, ``upper``, which choose
            the same layers whatever G is. A rule that is given is not changed.
        seed: for rules given by name that draw at random.

    Returns:
        Layer numbers, ascending, at least one.

    Raises:
        LayerSelectError: ``frequency`` is empty or holds something else than counts; the rule reads no scores, needs
            the model, or picks no layer.
    """
    counts = np.asarray(frequency)
    if counts.ndim != 1 or counts.dtype.kind not in "iu" or not len(counts) or counts.min() < 0:
        raise LayerSelectError(f"frequency={frequency!r} is not a count for each of at least one layer")
    decide = _decider(rule, len(counts), seed)
    chosen: list[int] = np.flatnonzero(_choice(decide, counts)).tolist()
    if not chosen:
        raise LayerSelectError(
            f"rule {decide.name!r} picks none of {len(counts)} layers that were selected up to {counts.max()} times: "
            "take another rule or option"
        )
    if len(chosen) < len(counts) and counts.min() == counts.max() and not decide.constant:
        logger.warning(
            "each of the %d layers was selected %d times, so the frequencies do not tell which matter: all are taken",
            len(counts),
            counts[0],
        )
        return list(range(len(counts)))
    return chosen


def own_frequency(history: Mapping[str, np.ndarray], rule: str | Rule = "variance") -> tuple[np.ndarray, int]:
    """How often a rule would have selected each layer in a run that had its layers given (``Fixed(layers,
    probe=True)``).

    Only steps count in which all layers took gradients and all scores are finite. :func:`pick_layers` makes S_gen of
    the result, unless no step counted.

    In such a run the layers that were not transferred start, and stay, at their fresh start. Where that has LoRA's B at
    zero (or the second matrix of a bottleneck), the first factor takes no gradient, so that these layers' scores are
    those of half of their parameters and smaller than the others'. The same holds of all layers in the first step of
    any adapter.

    Args:
        history: of a selector, ``selector.history.arrays()``; ``scores`` float32 [n, L] and ``trained`` bool [n, L] are
            read.
        rule: as in :func:`pick_layers`.

    Returns:
        int64 [L], and the number of steps that counted.

    Raises:
        LayerSelectError: ``history`` is no such mapping; or of the rule, as in :func:`pick_layers`.
    """
    lacking = [name for name in ("scores", "trained") if name not in history]
    if lacking:
        raise LayerSelectError(f"the history lacks {lacking}: pass selector.history.arrays()")
    scores, trained = np.asarray(history["scores"]), np.asarray(history["trained"])
    if scores.ndim != 2 or scores.shape != trained.shape or scores.shape[1] == 0:
        raise LayerSelectError(
            f"the history holds scores of shape {scores.shape} and trained of shape {trained.shape}: both must be "
            "[n, L]"
        )
    decide = _decider(rule, scores.shape[1], seed=0)
    counted = scores[trained.all(axis=1) & np.isfinite(scores).all(axis=1)]
    frequency = np.zeros(scores.shape[1], np.int64)
    for row in counted:
        frequency += _choice(decide, row)
    return frequency, len(counted)


def alignment_ratio(chosen: Sequence[int], own: Sequence[int]) -> float:
    """The ratio r = |S_pre and S_gen| / |S_gen| (arXiv 2602.00477): the share of the layers that matter to the
    generator which it was given.

    Args:
        chosen: S_pre, the layers that were transferred.
        own: S_gen, the layers that the generator's own gradients choose.

    Raises:
        LayerSelectError: ``own`` is empty.
    """
    given, needed = set(chosen), set(own)
    if not needed:
        raise LayerSelectError("own=[] holds no layer, so there is no alignment ratio: pass the generator's own choice")
    return len(given & needed) / len(needed)


def _decider(rule: str | Rule, num_layers: int, seed: int) -> Rule:
    """A rule that is bound to layers without a model; the one that is given stays as it is."""
    made = copy.copy(make_rule(rule, seed=seed))
    if not made.uses_scores and not made.constant:
        raise LayerSelectError(
            f"rule {made.name!r} reads no scores, so frequencies would not change what it chooses: use one that "
            "does, such as 'variance' or 'topk:k=4', or the constant choices 'all', 'upper:p=0.5' and "
            "'fixed:layers=[0,1]'"
        )
    if type(made).prepare is not Rule.prepare:
        raise LayerSelectError(
            f"rule {made.name!r} needs the model and cannot decide by frequencies alone: use one that does, such as "
            "'variance' or 'topk:k=4'"
        )
    made.bind([f"layer {number}" for number in range(num_layers)])
    return made


def _choice(rule: Rule, scores: np.ndarray) -> np.ndarray:
    """``bool`` [L]: what the rule selects by these numbers, [L]."""
    status = torch.full((len(scores),), MEASURED, dtype=torch.uint8)
    return rule.select(torch.from_numpy(scores.astype(np.float32)), status).mask.numpy()


def _importance_file(path: Path) -> Path:
    if path.is_file():
        return path
    if (path / _FILE).is_file():
        return path / _FILE
    if (path / _ADAPTER_FILE).is_file() and (path.parent / _FILE).is_file():
        return path.parent / _FILE
    if not path.exists():
        raise LayerSelectError(f"there is no {str(path)!r}: pass the --out folder of a finished run")
    raise LayerSelectError(f"{str(path)!r} holds no {_FILE}: pass the --out folder of a finished run")
