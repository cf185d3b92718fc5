"""Starting a run of a task: sent once, and told the truth about. The order of things is in `trigger.py`."""

from .actions import TriggerResult, earlier, trigger
from .results import StartNotWritten, sweep

__all__ = ["StartNotWritten", "TriggerResult", "earlier", "sweep", "trigger"]
