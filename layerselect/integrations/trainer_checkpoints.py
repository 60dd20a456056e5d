"""Which checkpoints of a ``Trainer`` with a selector can be resumed from."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..checkpoint import TENSORS_FILE, VALUES_FILE, defect, read_seal, seal
from ..utils.saved_files import DamagedFile, read_json
from ..utils.saved_schema import Fields, Flag, Items, Mapped, Maybe, Number, Whole
from .selector_options import check_resume
from .trainer_internals import LayerSelection

logger = logging.getLogger(__name__)

TRAINER_STATE = "trainer_state.json"
#: What the Trainer reads of it, and cannot do with anything else.
_STATE = Fields(
    optional={
        "global_step": Whole(),
        "max_steps": Whole(low=-1),
        "num_train_epochs": Number(low=-1),  # the largest integer, where a data set has no length
        "train_batch_size": Maybe(Whole()),
        "epoch": Maybe(Number()),
        "total_flos": Number(),
        "log_history": Items(Mapped()),
        "stateful_callbacks": Mapped(),
        "is_hyper_param_search": Flag(),
    }
)
_ADVICE = " (the run that saved it had no selector: resume='fresh' begins one at that step)"
#: A checkpoint on SIGTERM (``enable_jit_checkpoint``) holds this file until it is complete.
_UNFINISHED = "checkpoint-is-incomplete.txt"


def checkpoint_defect(folder: str | Path) -> str | None:
    """What keeps a Trainer's checkpoint from being complete, as part of a sentence; ``None`` if nothing does.

    A Trainer writes its checkpoints in place: weights, optimizer, random states, selector, and its own state last,
    which repeats the checksum of the selector's. A folder that was being written, or written over, when its process was
    killed is told from a complete one by that, and by the lengths and checksums that the selector was saved with.
    """
    folder = Path(folder)
    why = defect(folder)
    if why is not None:
        return f"{why}{_ADVICE}" if begun_without_selector(folder) else why
    if (folder / _UNFINISHED).exists():
        return f"it holds {_UNFINISHED}"
    try:
        state, sealed = _trainer_state(folder), read_seal(folder)
    except DamagedFile as error:
        return f"it holds no {TRAINER_STATE}" if error.missing else f"its {TRAINER_STATE} cannot be read"
    if LayerSelection.seal(state) != seal(folder) and TRAINER_STATE not in sealed:
        return f"its {TRAINER_STATE} is not the one that was saved with the selector"
    return None


def begun_without_selector(folder: str | Path) -> bool:
    """Whether ``folder`` is a finished checkpoint of a Trainer in whose run there was no selector.

    A Trainer writes its own state last. Where that knows of a selector of this step, or where a file of one lies, there
    was one, and something has been lost.
    """
    folder = Path(folder)
    if any((folder / name).exists() for name in (VALUES_FILE, TENSORS_FILE, _UNFINISHED)):
        return False
    try:
        state = _trainer_state(folder)
    except DamagedFile:
        return False
    return not LayerSelection.saved_with(state)


def last_checkpoint(folder: str | Path, *, resume: str = "refuse") -> str | None:
    """The newest complete checkpoint in a Trainer's ``output_dir``, for ``trainer.train(resume_from_checkpoint=...)``.

    ``transformers``' own ``get_last_checkpoint`` (``resume_from_checkpoint=True``) takes the newest folder, also one
    that was being written when the process was killed.

    Args:
        resume: as given to the callback: with ``"fresh"``, a checkpoint that a run without a selector saved counts,
            too.

    Returns:
        Its path; ``None`` if there is none, or no such folder.

    Raises:
        LayerSelectError: an unknown ``resume``.
    """
    check_resume(resume)
    for path in _checkpoints(Path(folder)):
        why = checkpoint_defect(path)
        if why is None or (resume == "fresh" and begun_without_selector(path)):
            return str(path)
        logger.warning("%s is left out: %s", path, why)
    return None


def newest_defect(folder: str | Path, resume: str) -> tuple[Path, str] | None:
    """The newest checkpoint in ``folder`` and what is wrong with it, if something is."""
    for path in _checkpoints(Path(folder)):
        why = checkpoint_defect(path)
        return None if why is None or (resume == "fresh" and begun_without_selector(path)) else (path, why)
    return None


def instead(folder: str | Path) -> str:
    """What to resume from where not from ``folder``, as the end of a sentence."""
    parent = Path(folder).parent
    found = next((path for path in _checkpoints(parent) if checkpoint_defect(path) is None), None)
    return f"resume from {found}" if found else f"no checkpoint in {parent} is complete, so begin afresh"


def _trainer_state(folder: Path) -> dict[str, Any]:
    """What a Trainer says of itself in a checkpoint; a loss in its log may be NaN.

    Raises:
        DamagedFile: it says nothing.
    """
    path, advice = folder / TRAINER_STATE, "resume from an older checkpoint"
    state: dict[str, Any] = read_json(path, _STATE, advice=advice, constants=True)
    return state


def _checkpoints(folder: Path) -> list[Path]:
    """The newest first."""
    found = []
    if folder.is_dir():
        for path in folder.iterdir():
            match = re.fullmatch(PREFIX_CHECKPOINT_DIR + r"-(\d+)", path.name)
            if match and path.is_dir():
                found.append((int(match.group(1)), path))
    return [path for _, path in sorted(found, reverse=True)]
