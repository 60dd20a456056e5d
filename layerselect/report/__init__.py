"""Reports: one self-contained HTML page for a run, with no script and nothing loaded from elsewhere."""

from .intent import IntentReport, write_intent_report

__all__ = ["IntentReport", "write_intent_report"]
