"""How texts are written: beams, draws, and how long they may become."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import LayerSelectError
from ...utils.options import check_values, setting
from ..run.headings import JOB, WRITING


@dataclass(frozen=True)
class GenerationConfig:
    """How texts are written. Draws depend on the size of the batches and the number of processes, too.

    Raises:
        LayerSelectError: a value is out of range, or one has no effect beside another.
    """

    beams: int = setting(1, "follow N candidates at a time; 1 is greedy", group=WRITING, metavar="N", least=1)
    sample: bool = setting(False, "draw each word instead of taking the most likely one", group=WRITING)
    temperature: float = setting(1.0, "temperature of the draws", group=WRITING, metavar="X", above=0)
    top_p: float = setting(
        1.0,
        "draw among the most likely words that have this probability together",
        group=WRITING,
        metavar="P",
        above=0,
        most=1,
    )
    max_new_tokens: int | None = setting(
        None, "write at most N tokens for a text (default: by its length)", group=WRITING, metavar="N", least=1
    )
    seed: int = setting(0, "seed of the draws", group=JOB, metavar="N", least=0)

    def __post_init__(self) -> None:
        check_values(self, as_arguments=True)
        if self.beams > 1 and self.sample:
            raise LayerSelectError(f"beams={self.beams} and sample=True exclude each other: choose one of them")
        if not self.sample and (self.temperature != 1 or self.top_p != 1):
            raise LayerSelectError(
                f"temperature={self.temperature} and top_p={self.top_p} change nothing without sample=True"
            )
