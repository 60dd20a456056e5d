"""Whether a training was long enough for its scores to say anything."""

from __future__ import annotations

#: What fewer steps have learned cannot be compared.
FEWEST_STEPS = 20


def too_few_steps(steps: int | None) -> str | None:
    """Why the scores of so many steps are not to be compared; ``None`` where they may be."""
    if steps is None or steps >= FEWEST_STEPS:
        return None
    return f"too few steps to compare: there were {steps}, and at least {FEWEST_STEPS} are needed"
