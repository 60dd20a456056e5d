"""Reports: one self-contained HTML page for a run, with nothing loaded from elsewhere; it reads without a script."""

from .intent import IntentReport, write_intent_report
from .revise import ReviseReport, write_revise_report

__all__ = ["IntentReport", "ReviseReport", "write_intent_report", "write_revise_report"]
