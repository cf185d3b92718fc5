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
from .credentials import Credential, KeyUsage
from .people import Invitation, Membership, SiteRole, Team, TeamRole, User
from .runs import ArizeUser, Cancellation, Heartbeat, Outcome, Run, Status, Task
from .saved_views import SavedView
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
    "Cancellation",
    "Credential",
    "Heartbeat",
    "Invitation",
    "KeyUsage",
    "Membership",
    "Outcome",
    "Run",
    "SavedView",
    "SiteRole",
    "Status",
    "Task",
    "Team",
    "TeamRole",
    "Trigger",
    "TriggerOutcome",
    "User",
]
