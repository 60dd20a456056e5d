"""Reports: one self-contained HTML page for a run, with nothing loaded from elsewhere; it reads without a script."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import imported_when_asked_for

if TYPE_CHECKING:
    from .intent import IntentReport, write_intent_report
    from .pilot import write_pilot_report
    from .revise import ReviseReport, write_revise_report

__all__ = ["IntentReport", "ReviseReport", "write_intent_report", "write_pilot_report", "write_revise_report"]

#: Where the names are found: pages need packages that a command which only writes numbers does without.
_PLACES = {
    "IntentReport": ".intent",
    "write_intent_report": ".intent",
    "write_pilot_report": ".pilot",
    "ReviseReport": ".revise",
    "write_revise_report": ".revise",
}

__getattr__ = imported_when_asked_for(__name__, _PLACES)
