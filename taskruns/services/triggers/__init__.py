"""Starts a run of a task and finds out the true outcome. `actions.py` lists the steps in order."""

from .actions import TriggerResult, earlier, trigger
from .answer import Answer, ask_arize
from .results import close, sweep

__all__ = ["Answer", "TriggerResult", "ask_arize", "close", "earlier", "sweep", "trigger"]
