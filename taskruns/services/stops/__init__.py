"""Emergency stops of a team: `acts.py` pulls, lifts and ends them, `hold.py` cancels what becomes active meanwhile."""

from .actions import AlreadyPulled, NoReason, NotTheirs, expire, lift, pull
from .hold import hold, hold_all, hold_of
from .standing import standing

__all__ = [
    "AlreadyPulled",
    "NoReason",
    "NotTheirs",
    "expire",
    "hold",
    "hold_all",
    "hold_of",
    "lift",
    "pull",
    "standing",
]
