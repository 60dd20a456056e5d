"""What is asked of a pilot besides the settings of the training that it is for."""

from __future__ import annotations

from dataclasses import dataclass

from ...placement.rounds import Rounds
from ...utils.options import check_values, setting

PILOT = "the pilot"
#: What the candidates are compared by.
MACRO_F1, LOSS = "macro_f1", "loss"
#: What stands for the usual candidates.
USUAL = "usual"
#: Settings of a training that a pilot makes itself, or that its short trainings have no use for.
MADE = (
    *("rule", "placement", "budget", "mode", "score", "interval", "warmup", "probe_every"),
    *("state_cache", "cut", "state_cache_store", "state_cache_memory", "state_cache_precision"),
    *("keep", "patience", "eval_steps", "eval_limit", "save_steps", "measure_memory", "fsdp"),
    *("report_to", "push_to_hub", "hub_model_id", "blend"),
)


@dataclass(frozen=True, kw_only=True)
class PilotSettings:
    """Which placements are tried, how long, and what is enough.

    Raises:
        LayerSelectError: a value is out of range. The message names its option.
    """

    margin: float = setting(
        0.02,
        "a placement is as good as training all layers if it is at most so much below, of what --by says",
        group=PILOT,
        metavar="X",
        above=0,
        most=100,
    )
    max_cost: float = setting(
        0.1,
        "what the pilot may cost in all, as a fraction of one full training of all layers",
        group=PILOT,
        metavar="F",
        above=0,
        most=1000,
    )
    candidates: str = setting(
        USUAL,
        "what is tried, separated by commas: all (always in it), head (no layer), upper:K, middle:K, uniform:K or "
        "lower:K, ir:K and norms:K (the K layers that IR-Tuning's rule selects most often in a first short training, "
        "or with the largest gradient norms there), layers:0+3+5, card:FOLDER:K, placement:FILE; usual: as many of "
        "these as --max-cost has room for",
        group=PILOT,
        metavar="LIST",
    )
    budget: float | None = setting(
        None,
        "try only placements whose step costs at most this fraction of the step that trains all layers, the mean over "
        "the training; layers below count once for each example where their hidden states can be cached",
        group=PILOT,
        metavar="F",
        above=0,
        most=1,
    )
    by: str = setting(
        MACRO_F1,
        "what is compared: macro-F1, or the mean loss on held-out examples, which tells smaller differences",
        group=PILOT,
        choices=(MACRO_F1, LOSS),
    )
    steps: int | None = setting(
        None,
        "steps of each short training (default: as many as --max-cost has room for, at most a fifth of the full "
        "training)",
        group=PILOT,
        metavar="N",
        least=1,
    )
    held_out: int | None = setting(
        None,
        "examples that each short training is tested on (default: as many as it trains on, at most a whole fold)",
        group=PILOT,
        metavar="N",
        least=1,
    )
    folds: int = setting(
        4,
        "hold out the documents in N parts, one in each of the first rounds",
        group=PILOT,
        metavar="N",
        least=2,
        most=100,
    )
    seeds: int = setting(
        2, "train each candidate with N seeds in each of these rounds", group=PILOT, metavar="N", least=2, most=100
    )
    more_rounds: int = setting(
        0,
        "then, as long as nothing is decided, N rounds with one more seed in all parts",
        group=PILOT,
        metavar="N",
        least=0,
        most=100,
    )

    def __post_init__(self) -> None:
        check_values(self)

    def rounds(self) -> Rounds:
        """How the race is divided."""
        return Rounds(self.folds, self.seeds, self.more_rounds)
