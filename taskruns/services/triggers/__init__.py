"""Starts a run of a task and finds out the true outcome. `actions.py` lists the steps in order."""

from .actions import TriggerResult, earlier, trigger
from .results import sweep

__all__ = ["TriggerResult", "earlier", "sweep", "trigger"]
