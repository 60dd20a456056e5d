"""What each way of training takes, said before anything is loaded."""

from .plan import Plan, PlanRow, make_plan
from .settings import PlanSettings

__all__ = ["Plan", "PlanRow", "PlanSettings", "make_plan"]
