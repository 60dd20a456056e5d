"""Runs one program under the witness and writes what came of it: ``python -m frameworks.watched FOLDER PROGRAM MODES
ARGUMENT ...``.

The program's ``main(*arguments, mode=...)`` runs once for each of MODES (with commas between them). Each process writes
``FOLDER/RANK.json``. The result is, from good to bad,

* ``works``: the witness saw nothing wrong in any mode;
* ``refused``: ``LayerSelectError``, with its sentence;
* ``warned``: something went wrong, and the package had warned, no later than two steps after;
* ``failed``: anything else.

With ``FRAMEWORKS_CONTROL`` in the environment it is run with a selector that does nothing (:mod:`frameworks.control`).
"""

from __future__ import annotations

import faulthandler
import importlib
import importlib.metadata
import json
import os
import random
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy
import torch

from . import control
from .environments import NotToBeHad
from .witness import Witness

#: From good to bad.
RESULTS = ("works", "untried", "refused", "warned", "failed")


def run(program: str, arguments: list[str], mode: str) -> dict[str, Any]:
    """One run of a program in one mode."""
    from layerselect import LayerSelectError

    witness = Witness(swaps=bool(os.environ.get("FRAMEWORKS_SWAPS")))
    witness.install()
    torch.manual_seed(0)
    numpy.random.seed(0)
    random.seed(0)
    result, sentence, raised = "works", "", False
    try:
        importlib.import_module(f"frameworks.programs.{program}").main(*arguments, mode=mode)
        witness.finish()
    except NotToBeHad as error:
        result, sentence = "untried", str(error)
    except LayerSelectError as error:
        traceback.print_exc()
        result, sentence = "refused", " ".join(str(error).split())
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        result, sentence, raised = "failed", control.said(error), True
    finally:
        witness.remove()
    if result == "works" and witness.faults:
        warning = witness.warned_of()
        result, sentence = ("failed", "; ".join(witness.faults)) if warning is None else ("warned", warning)
    return {
        "mode": mode,
        "result": result,
        "sentence": sentence,
        "raised": raised,
        "faults": list(witness.faults),
        "warnings": [text for _, text in witness.warnings],
        "selectors": [report.facts() for report in witness.reports],
    }


def versions() -> dict[str, str]:
    found = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower().replace("_", "-")
        found.setdefault(name, distribution.version)  # the first on the path is the one that is imported
    return found


def main(folder: str, program: str, modes: str, *arguments: str) -> None:
    faulthandler.dump_traceback_later(
        max(5, int(os.environ.get("FRAMEWORKS_TIMEOUT", "300")) - 8)
    )  # where a case hangs
    torch.set_num_threads(1)
    one = control.run if os.environ.get("FRAMEWORKS_CONTROL") else run
    runs = [one(program, list(arguments), mode) for mode in modes.split(",")]
    worst = max(runs, key=lambda one: RESULTS.index(one["result"]))
    modes_of_worst = [one["mode"] for one in runs if one["result"] == worst["result"]]
    outcome = {
        "result": worst["result"],
        "sentence": worst["sentence"],
        "modes": modes_of_worst,
        "runs": runs,
        "versions": versions(),
    }
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(outcome))
    sys.stdout.write(json.dumps({key: outcome[key] for key in ("result", "sentence", "modes")}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # what frameworks do at exit (trackers, threads, process groups) is no matter of the selector


if __name__ == "__main__":
    main(*sys.argv[1:])
