"""What the database holds, by noun."""

from .audit import (
    AnchorToPublish,
    AnonymousTally,
    AuditAnchor,
    AuditChain,
    AuditEvent,
    AuditReading,
    AuditVerification,
)
from .batches import BatchSource, BatchState, CancelBatch, CancelItem, CancelPace, ItemState
from .credentials import Credential, KeyUsage
from .people import Invitation, Membership, SiteRole, Team, TeamRole, Theme, User
from .runs import ArizeUser, Cancellation, Heartbeat, Outcome, Run, Status, Task
from .saved_views import SavedView
from .stops import EmergencyStop, StopEnd
from .triggers import Trigger, TriggerOutcome

__all__ = [
    "AnchorToPublish",
    "AnonymousTally",
    "ArizeUser",
    "AuditAnchor",
    "AuditChain",
    "AuditEvent",
    "AuditReading",
    "AuditVerification",
    "BatchSource",
    "BatchState",
    "CancelBatch",
    "CancelItem",
    "CancelPace",
    "Cancellation",
    "Credential",
    "EmergencyStop",
    "Heartbeat",
    "Invitation",
    "ItemState",
    "KeyUsage",
    "Membership",
    "Outcome",
    "Run",
    "SavedView",
    "SiteRole",
    "Status",
    "StopEnd",
    "Task",
    "Team",
    "TeamRole",
    "Theme",
    "Trigger",
    "TriggerOutcome",
    "User",
]
