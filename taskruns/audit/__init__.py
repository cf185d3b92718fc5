"""The audit log: what can happen, who did it, and the only writer of `AuditEvent`.

Call `record()` as the last statement of the transaction that makes the change. Locks are then always taken in the
same order: the changed rows, the team's board version, the chain.
"""

from .actor import Actor
from .events import CATALOGUE, EventType
from .record import Target, append, compose, forget_written, may_be_written, record, record_restored
from .row_json import clean_line, row_as_json

__all__ = [
    "CATALOGUE",
    "Actor",
    "EventType",
    "Target",
    "append",
    "clean_line",
    "compose",
    "forget_written",
    "may_be_written",
    "record",
    "record_restored",
    "row_as_json",
]
