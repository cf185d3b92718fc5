"""Starting a run of a task: sent once, and told the truth about. The order of things is in `trigger.py`."""

from .closing import StartNotWritten, sweep
from .trigger import TriggerResult, earlier, trigger

__all__ = ["StartNotWritten", "TriggerResult", "earlier", "sweep", "trigger"]
