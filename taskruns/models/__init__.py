"""The database tables, one file per subject."""

from .arize_hooks import ArizeHook, HookAuth
from .arize_users import ArizeUser
from .audit import (
    LONGEST_REASON,
    AnchorToPublish,
    AnonymousTally,
    AuditAnchor,
    AuditChain,
    AuditEvent,
    AuditReading,
    AuditVerification,
    PersonTally,
)
from .batches import BatchKind, BatchSource, BatchState, CancelBatch, CancelItem, CancelPace, ItemState
from .cache import CacheEntry
from .cancellations import Cancellation
from .channels import (
    Channel,
    ChannelKind,
    Delivery,
    DeliveryState,
    Episode,
    Happening,
    LogPosition,
    Rule,
    RunFact,
    RunNotice,
)
from .credentials import Credential, KeyUsage
from .jobs import Heartbeat
from .key_ring import RingKeyCheck, SigningKeyUse
from .leases import Lease
from .outcomes import CANCEL_FACTS, TRIGGER_FACTS, Effect, Outcome, TriggerOutcome
from .people import EmailStatus, Limit, SignInCount, SiteRole, Theme, User
from .restores import Move, Restore
from .run_notes import RunNote
from .run_search import RunSearch
from .runs import Run, Status
from .saved_views import SavedView
from .sessions import PersonSession
from .stops import EmergencyStop, StopEnd
from .tasks import Task
from .teams import Invitation, Membership, Team, TeamRole
from .tokens import Token, TokenRole
from .triggers import Trigger

__all__ = [
    "CANCEL_FACTS",
    "LONGEST_REASON",
    "TRIGGER_FACTS",
    "AnchorToPublish",
    "AnonymousTally",
    "ArizeHook",
    "ArizeUser",
    "AuditAnchor",
    "AuditChain",
    "AuditEvent",
    "AuditReading",
    "AuditVerification",
    "BatchKind",
    "BatchSource",
    "BatchState",
    "CacheEntry",
    "CancelBatch",
    "CancelItem",
    "CancelPace",
    "Cancellation",
    "Channel",
    "ChannelKind",
    "Credential",
    "Delivery",
    "DeliveryState",
    "Effect",
    "EmailStatus",
    "EmergencyStop",
    "Episode",
    "Happening",
    "Heartbeat",
    "HookAuth",
    "Invitation",
    "ItemState",
    "KeyUsage",
    "Lease",
    "Limit",
    "LogPosition",
    "Membership",
    "Move",
    "Outcome",
    "PersonSession",
    "PersonTally",
    "Restore",
    "RingKeyCheck",
    "Rule",
    "Run",
    "RunFact",
    "RunNote",
    "RunNotice",
    "RunSearch",
    "SavedView",
    "SignInCount",
    "SigningKeyUse",
    "SiteRole",
    "Status",
    "StopEnd",
    "Task",
    "Team",
    "TeamRole",
    "Theme",
    "Token",
    "TokenRole",
    "Trigger",
    "TriggerOutcome",
    "User",
]
