"""Emergency stops of a team: `actions.py` pulls, lifts and ends them, `hold.py` cancels the runs that become active."""

from .actions import AlreadyPulled, MayNotLift, Pulled, expire, forget_ended, lift, may_lift, pull
from .hold import active_stop, hold, hold_after_round, hold_all, is_paused

__all__ = [
    "AlreadyPulled",
    "MayNotLift",
    "Pulled",
    "active_stop",
    "expire",
    "forget_ended",
    "hold",
    "hold_after_round",
    "hold_all",
    "is_paused",
    "lift",
    "may_lift",
    "pull",
]
