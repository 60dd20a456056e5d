"""Where adapters go, as a file: chosen once, by a Layer Card, by a pilot or by hand, and trained by any command or
loop.
"""

from .candidates import Candidate
from .piloting import Answer, PilotResult, mean_of_counts, pilot
from .placement import Placement
from .race import Trial
from .rounds import Rounds

__all__ = ["Answer", "Candidate", "PilotResult", "Placement", "Rounds", "Trial", "mean_of_counts", "pilot"]
