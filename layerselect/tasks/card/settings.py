"""What is asked of a card besides the settings of its task and of its measurement."""

from __future__ import annotations

from dataclasses import dataclass

from ...card.settings import MEASURED
from ...utils.options import check_values, setting
from ...utils.sizes import parse_bytes


@dataclass(frozen=True, kw_only=True)
class CardSettings:
    """Which examples are measured, and what happens before.

    Parts of the model that no pretraining reached (a fresh classification head) are trained for ``head_steps`` first,
    with everything else frozen, since the gradients of the layers come through them. That happens on other examples of
    the training split than those that are measured. ``max_memory`` is that of :func:`layerselect.card.measure`.

    Raises:
        LayerSelectError: a value is out of range. The message names its option.
    """

    examples: int = setting(
        256,
        "measure N examples of the training split; a third of the batches only checks what was found on the others",
        group=MEASURED,
        metavar="N",
        least=1,
    )
    head_steps: int = setting(
        100, "train a fresh head for N steps first, on other examples", group=MEASURED, metavar="N", least=0
    )
    max_memory: int | str = setting(
        "4GB", "memory for what is held besides the model; more sweeps if it is little", group=MEASURED, metavar="SIZE"
    )

    def __post_init__(self) -> None:
        check_values(self)
        parse_bytes(self.max_memory, "max_memory")
