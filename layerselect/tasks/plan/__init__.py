"""What each way of training takes, said before anything is loaded."""

from .plan import Plan, make_plan
from .settings import PlanSettings
from .steps import PlanRow

__all__ = ["Plan", "PlanRow", "PlanSettings", "make_plan"]
