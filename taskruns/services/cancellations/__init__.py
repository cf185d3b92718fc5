"""Cancelling one run and telling the truth about how it ended: the order is section by section in `cancel.py`."""

from .cancel import CancelResult, cancel
from .closing import OutcomeNotWritten
from .sweep import settle_stopping, sweep

__all__ = ["CancelResult", "OutcomeNotWritten", "cancel", "settle_stopping", "sweep"]
