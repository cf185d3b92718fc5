"""What the database holds, by noun."""

from .audit import AnonymousTally, AuditAnchor, AuditChain, AuditEvent, AuditReading, AuditVerification
from .credentials import Credential
from .people import Invitation, Membership, SiteRole, Team, TeamRole, Theme, User
from .runs import ArizeUser, Cancellation, Heartbeat, Outcome, Run, Status, Task
from .saved_views import SavedView
from .triggers import Trigger, TriggerOutcome

__all__ = [
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
    "Membership",
    "Outcome",
    "Run",
    "SavedView",
    "SiteRole",
    "Status",
    "Task",
    "Team",
    "TeamRole",
    "Theme",
    "Trigger",
    "TriggerOutcome",
    "User",
]
