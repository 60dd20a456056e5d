"""What was measured and chosen, step by step."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.saved_schema import Fields, Mismatch, check
from ..utils.saved_tensors import Numbers
from .graph_capture import is_capturing
from .history_file import HistoryFile, check_history, writes_files
from .history_ring import COLUMNS, RingCopy, new_ring
from .history_views import draw, frame_of

logger = logging.getLogger(__name__)

#: How many of the last steps are kept where nothing else is asked for.
DEFAULT_ROWS = 10_000


class History:
    """A ring of rows on the device, copied to the host now and then without waiting.

    Row = step modulo the number of rows. Recording writes device memory that was allocated once. When half of the ring
    is new, a copy of all of it starts towards pinned memory; it is looked at when the next one is due, hundreds of
    steps later. One row holds, for L layers: the step (int64), the scores (float32 [L], a frozen layer's last one), the
    mask (bool [L]), which layers took gradients in the step (bool [L]) and the threshold (float32).

    The host keeps the last ``keep`` steps and drops older ones (:attr:`dropped`), in memory as in saved states. Where
    ``keep`` is a path, every step is appended to that file too, and is read from there; one process of a distributed
    run writes it.

    Where a CUDA graph replays the step, the device writes rows that the host does not hear of. They are right, and
    come to the host with the next copy; but after as many replays as the ring has rows it overwrites the oldest. Such
    steps are lost: :attr:`missing` counts them, and the log says so once. Call :meth:`collect` often enough, and none
    is.

    Args:
        layer_names: the L layers.
        device: of the ring.
        ring: the ring, if someone else writes its rows, by column.
        keep: how many of the last steps are kept; or the path of a file for all of them (:func:`read_history` reads
            it).

    Raises:
        LayerSelectError: ``keep`` is neither, or there is something else at the path.
    """

    def __init__(
        self,
        layer_names: list[str],
        device: torch.device,
        ring: dict[str, Tensor] | None = None,
        keep: int | str | Path = DEFAULT_ROWS,
    ) -> None:
        check_history(keep)
        self._layer_names = layer_names
        self._ring = new_ring(len(layer_names), device) if ring is None else ring
        self._ring["step"].fill_(-1)  # no row is written
        self._capacity = len(self._ring["step"])
        self._rows = keep if isinstance(keep, int) else DEFAULT_ROWS
        self._file = None if isinstance(keep, int) or not writes_files() else HistoryFile(keep, layer_names)
        self._is_whole_elsewhere = not isinstance(keep, int)  # where this process is not the one that writes
        self._blocks: deque[dict[str, Tensor]] = deque()
        self._held = 0  # rows in the blocks
        self._last = -1  # the last step that is on the host
        self._unseen = 0  # rows since the last copy was started
        self._copy: RingCopy | None = None
        self._missing = self._dropped = 0
        self._warned: set[str] = set()

    def __len__(self) -> int:
        """The number of steps that :meth:`arrays` returns; this waits for the device."""
        return len(self.arrays()["step"]) if self._file is not None else len(self._bounded()["step"])

    @property
    def dropped(self) -> int:
        """How many steps were recorded and are kept no longer; 0 where all are in a file."""
        self.collect()
        return 0 if self._file is not None else self._dropped

    @property
    def missing(self) -> int:
        """How many steps the device overwrote before they were copied: gaps in the steps, and what is before the first
        one.
        """
        self.collect()
        return self._missing

    def record(self, *, step: int, scores: Tensor, mask: Tensor, trained: Tensor, threshold: Tensor) -> None:
        self.expect()
        row = step % self._capacity
        self._ring["step"][row] = step
        self._ring["scores"][row] = scores
        self._ring["mask"][row] = mask
        self._ring["trained"][row] = trained
        self._ring["threshold"][row] = threshold

    def expect(self) -> None:
        """Makes room for a row that is about to be written."""
        if self._unseen >= self._capacity // 2 and not is_capturing(self._ring["step"].device):
            self._absorb(self._copy)
            self._copy = RingCopy(self._ring)
            self._unseen = 0
        self._unseen += 1

    def collect(self) -> None:
        """Brings what the ring holds to the host, and into the file if there is one; this waits for the device.

        Reading does it anyway. Around replays of a CUDA graph, call it at least once in as many steps as the ring has
        rows (512).
        """
        self._absorb(self._copy)
        self._absorb(RingCopy(self._ring))
        self._copy, self._unseen = None, 0

    def close(self) -> None:
        """Completes the file, if there is one. What was recorded stays readable."""
        if self._file is not None:
            self.collect()

    def arrays(self) -> dict[str, np.ndarray]:
        """Host copies of the rows: of the last steps, or of all that are in the file (the call waits for the device).

        Returns:
            ``step`` int64 [n], ``scores`` float32 [n, L], ``mask`` bool [n, L], ``trained`` bool [n, L] (which
            layers took gradients), ``threshold`` float32 [n].
        """
        if self._file is not None:
            self.collect()
        if self._file is not None:  # collecting may have found that it cannot be written
            return self._file.read()
        return {name: column.numpy() for name, column in self._bounded().items()}

    def to_pandas(self) -> Any:
        """One row per step and layer: ``step, layer, name, score, selected, trained, threshold``.

        Raises:
            ModuleNotFoundError: pandas is not installed (``pip install 'layerselect[data]'``).
        """
        return frame_of(self.arrays(), self._layer_names)

    def plot(self, ax: Any = None) -> Any:
        """Draws the scores as a layer-by-step heat map, the selection marked; returns the matplotlib axes.

        Selected layers show in full colour. Those that took no gradient in the step, and so did not train, are tinted
        red.

        Raises:
            ModuleNotFoundError: matplotlib is not installed (``pip install 'layerselect[report]'``).
        """
        return draw(self.arrays(), self._layer_names, ax)

    def state_dict(self) -> dict[str, Tensor]:
        """The last rows by column, on the host, and how many steps are gone; this waits for the device."""
        rows = self._bounded()
        counts = {"dropped": self._dropped, "missing": self._missing}
        return {**rows, **{name: torch.tensor(count) for name, count in counts.items()}}

    def check_state(self, state: Any, where: str, *, before: int) -> None:
        """Whether :meth:`load_state_dict` can take it.

        Args:
            before: the step that comes next; all rows are of earlier ones.

        Raises:
            Mismatch: it is no such state.
            LayerSelectError: the rows in the file are those of another model.
        """
        steps = Numbers("int", (None,), low=0, high=max(before - 1, 0))
        check(Fields({"step": steps}), state, where)
        rows, layers = len(state["step"]), len(self._layer_names)
        needed = {
            "scores": Numbers("float", (rows, layers)),
            "mask": Numbers("bool", (rows, layers)),
            "trained": Numbers("bool", (rows, layers)),
            "threshold": Numbers("float", (rows,)),
        }
        count = Numbers("int", (), low=0)
        check(Fields(needed, optional={"dropped": count, "missing": count}), state, where)
        if bool((state["step"][1:] <= state["step"][:-1]).any()):
            raise Mismatch(f"{where}.step", "holds steps that do not ascend")
        if self._file is not None:
            self._file.check_is_ours()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues there. A file keeps its rows up to that step, and gets those of the state that it lacks."""
        columns = {name: state[name].cpu().to(dtype) for name, dtype in COLUMNS.items()}
        steps = columns["step"]
        self._last = int(steps[-1]) if len(steps) else -1
        self._dropped, self._missing = int(state.get("dropped", 0)), int(state.get("missing", 0))
        self._blocks, self._held = deque(), 0
        if self._file is not None:
            written = self._file.keep_until(self._last)
            if len(steps) and written + 1 < steps[0]:
                self._warn(
                    "file",
                    "the history at %s lacks the steps %d to %d, which the saved state does not hold either",
                    self._file.path,
                    written + 1,
                    int(steps[0]) - 1,
                )
            self._write({name: column[steps > written] for name, column in columns.items()})
        for start in range(0, len(steps), self._capacity):  # in small blocks, which are let go one by one
            self._keep({name: column[start : start + self._capacity].clone() for name, column in columns.items()})
        self._ring["step"].fill_(-1)
        self._copy, self._unseen = None, 0

    def _bounded(self) -> dict[str, Tensor]:
        """The last rows, by column."""
        self.collect()
        empty = {name: column[:0].cpu() for name, column in self._ring.items()}
        whole = {name: torch.cat([empty[name], *(block[name] for block in self._blocks)]) for name in COLUMNS}
        return {name: column[-self._rows :].clone() for name, column in whole.items()}

    def _absorb(self, copy: RingCopy | None) -> None:
        """Takes the rows of a copy that are new here."""
        if copy is None:
            return
        columns = copy.columns()
        order = columns["step"].argsort()
        new = order[columns["step"][order] > self._last]
        if not len(new):
            return
        rows = {name: column[new] for name, column in columns.items()}
        last = int(rows["step"][-1])
        lost = last - self._last - len(new)
        if lost:
            self._missing += lost
            self._warn(
                "gaps",
                "the history lacks %d of the steps up to %d: the device wrote more than the %d rows of its ring "
                "before the host looked, as when a CUDA graph replays the step; call selector.history.collect() at "
                "least once in so many steps",
                lost,
                last,
                self._capacity,
            )
        self._last = last
        self._write(rows)
        self._keep(rows)

    def _write(self, rows: dict[str, Tensor]) -> None:
        if self._file is None or not len(rows["step"]):
            return
        try:
            self._file.append({name: column.numpy() for name, column in rows.items()})
        except OSError as error:
            # A training of days must not end because of it.
            self._warn(
                "file",
                "the history cannot be written to %s (%s): from here on only the last %d steps are kept, in memory",
                self._file.path,
                error,
                self._rows,
            )
            self._file, self._is_whole_elsewhere = None, False

    def _keep(self, rows: dict[str, Tensor]) -> None:
        """Holds rows in memory, and lets go of the blocks that are too old as a whole."""
        if not len(rows["step"]):
            return
        self._blocks.append(rows)
        self._held += len(rows["step"])
        while self._held - len(self._blocks[0]["step"]) >= self._rows:
            self._held -= len(self._blocks.popleft()["step"])
        total = self._last + 1 - self._missing
        self._dropped = max(self._dropped, total - self._rows)
        if self._dropped and not self._is_whole_elsewhere:
            self._warn(
                "dropped",
                "the history keeps the last %d steps, and older ones are dropped from now on: pass history= with a "
                "larger number, or with the path of a file for all steps",
                self._rows,
            )

    def _warn(self, what: str, message: str, *values: Any) -> None:
        if what not in self._warned:
            self._warned.add(what)
            logger.warning(message, *values)
