"""Channels: who is told what, and sending it, at least once and in time.

- `actions`: what people do with channels and their rules; `addresses`: which addresses a channel may have
- `matching`: facts become deliveries, one for each rule that wants to know, and quiet rules sum up
- `incidents`: tells a kind that keeps incidents that one is over
- `notices`: people who want to know when a run ends
- `episodes`: what only time brings, such as a run that takes too long
- `site_events`: what concerns the whole panel, for site admins
- `sending`: claims deliveries and sends them; `posting`: the ways out
- `tidying`: gives up what could not be sent within a day, and forgets old deliveries

A fact is written in the transaction of the change: an audit row, or a `RunFact` (`services/runs/ends.py`). Matching
deletes it in the transaction that writes its deliveries. A delivery is claimed before it is sent. So a worker may die
at any point: nothing is lost, and what may have been sent twice says so.
"""

from .actions import (
    Added,
    Wanted,
    add,
    change,
    find_live,
    mute,
    remove,
    remove_rule,
    save_rule,
    send_test,
    unmute,
)
from .episodes import asks_for_time, notice_time
from .episodes import forget_old as forget_old_episodes
from .matching import is_match_due, match
from .sending import Mail, Post, due, failed_last, send, send_claimed
from .site_events import notice_missing_worker, notice_site_events
from .tidying import forget_old, give_up_old

__all__ = [
    "Added",
    "Mail",
    "Post",
    "Wanted",
    "add",
    "asks_for_time",
    "change",
    "due",
    "failed_last",
    "find_live",
    "forget_old",
    "forget_old_episodes",
    "give_up_old",
    "is_match_due",
    "match",
    "mute",
    "notice_missing_worker",
    "notice_site_events",
    "notice_time",
    "remove",
    "remove_rule",
    "save_rule",
    "send",
    "send_claimed",
    "send_test",
    "unmute",
]
