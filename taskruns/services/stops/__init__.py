"""Emergency stops of a team: `actions.py` pulls, lifts and ends them, `hold.py` cancels what is active under one."""

from .actions import AlreadyPulled, NotTheirs, Pulled, expire, lift, may_lift, pull
from .hold import hold, hold_all, hold_of, is_paused, standing

__all__ = [
    "AlreadyPulled",
    "NotTheirs",
    "Pulled",
    "expire",
    "hold",
    "hold_all",
    "hold_of",
    "is_paused",
    "lift",
    "may_lift",
    "pull",
    "standing",
]
