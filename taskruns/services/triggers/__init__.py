"""Starting a run of a task and telling the truth about its outcome: `actions.py` has the order, step by step."""

from .actions import TriggerResult, earlier, trigger
from .results import sweep

__all__ = ["TriggerResult", "earlier", "sweep", "trigger"]
