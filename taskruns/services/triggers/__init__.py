"""Starting a run of a task: sent once, and told the truth about. The order of things is in `trigger.py`."""

from .actions import TriggerResult, earlier, trigger
from .results import sweep

__all__ = ["TriggerResult", "earlier", "sweep", "trigger"]
