"""The closed catalogue: every event, the outcomes it may have, and the details it may hold."""

from enum import StrEnum

from taskruns.models import TRIGGER_FACTS, Outcome


class EventType(StrEnum):
    RUN_CANCEL = "run.cancel"
    RUN_CANCEL_MANY = "run.cancel_many"
    RUN_TRIGGER = "run.trigger"
    RUN_TRIGGER_MANY = "run.trigger_many"
    RUN_EXPORT = "run.export"
    RUN_NOTE = "run.note"
    STOP_PULL = "stop.pull"
    STOP_LIFT = "stop.lift"
    STOP_EXPIRE = "stop.expire"
    CREDENTIAL_ADD = "credential.add"
    CREDENTIAL_REPLACE = "credential.replace"
    CREDENTIAL_TEST = "credential.test"
    CREDENTIAL_REVOKE = "credential.revoke"
    CREDENTIAL_FAILING = "credential.failing"
    CREDENTIAL_RECOVERED = "credential.recovered"
    CREDENTIAL_EXPIRING = "credential.expiring"
    CHANNEL_ADD = "channel.add"
    CHANNEL_CHANGE = "channel.change"
    CHANNEL_REMOVE = "channel.remove"
    CHANNEL_TEST = "channel.test"
    CHANNEL_MUTE = "channel.mute"
    NOTIFY_GIVEN_UP = "notify.given_up"
    TOKEN_CREATE = "token.create"  # noqa: S105 - an event's name
    TOKEN_REVOKE = "token.revoke"  # noqa: S105 - an event's name
    TOKEN_EXPIRE = "token.expire"  # noqa: S105 - an event's name
    TOKEN_REFUSED = "token.refused"  # noqa: S105 - an event's name
    MEMBER_ADD = "member.add"
    MEMBER_CHANGE_ROLE = "member.change_role"
    MEMBER_REMOVE = "member.remove"
    INVITATION_CREATE = "invitation.create"
    INVITATION_ACCEPT = "invitation.accept"
    INVITATION_REVOKE = "invitation.revoke"
    TEAM_CREATE = "team.create"
    TEAM_CHANGE = "team.change"
    TEAM_ARCHIVE = "team.archive"
    VIEW_SAVE = "view.save"
    VIEW_DELETE = "view.delete"
    PERSON_CREATE = "person.create"
    PERSON_DISABLE = "person.disable"
    PERSON_ENABLE = "person.enable"
    PERSON_CHANGE = "person.change"
    PERSON_GRANT = "person.grant"
    PERSON_RESET = "person.reset"
    PROFILE_CHANGE = "profile.change"
    ACCESS_DENIED = "access.denied"
    AUTH_SIGN_IN = "auth.sign_in"
    AUTH_SIGN_OUT = "auth.sign_out"
    AUTH_PASSWORD_CHANGE = "auth.password_change"  # noqa: S105 - an event's name
    AUTH_MFA_ADD = "auth.mfa_add"
    AUTH_MFA_REMOVE = "auth.mfa_remove"
    AUTH_SESSION_END = "auth.session_end"
    AUDIT_READ = "audit.read"
    AUDIT_EXPORT = "audit.export"
    AUDIT_VERIFY = "audit.verify"
    ENCRYPTION_REENCRYPT = "encryption.reencrypt"
    SYSTEM_RESTORED = "system.restored"


_LOCAL = frozenset({"done", "denied"})
_CHECK = frozenset({"ok", "failed", "denied"})
# For requests to Arize; their other outcomes are in models/outcomes.py.
_REQUESTS = frozenset({"requested", "denied"})

CATALOGUE: dict[EventType, frozenset[str]] = dict.fromkeys(EventType, _LOCAL) | {
    EventType.RUN_CANCEL: _REQUESTS | {outcome.value for outcome in Outcome if outcome.value},
    EventType.RUN_CANCEL_MANY: frozenset({"requested", "finished", "aborted", "denied"}),
    EventType.RUN_TRIGGER: _REQUESTS | {it.value for it, facts in TRIGGER_FACTS.items() if it.value and facts.has_row},
    EventType.RUN_TRIGGER_MANY: frozenset({"requested", "finished", "aborted", "denied"}),
    EventType.CREDENTIAL_TEST: _CHECK | _REQUESTS,
    EventType.TOKEN_EXPIRE: frozenset({"done"}),
    EventType.TOKEN_REFUSED: frozenset({"denied"}),
    EventType.AUDIT_VERIFY: _CHECK,
    EventType.AUTH_SIGN_IN: frozenset({"done", "failed", "throttled"}),
    EventType.SYSTEM_RESTORED: frozenset({"done", "adopted"}),
}

_ARIZE = frozenset({"http_status", "arize_request_id", "milliseconds"})
_COUNTS = frozenset({"num_successes", "num_errors", "num_skipped"})
_KEY = frozenset({"last4", "expires_on", "changed"})
_CHANNEL = frozenset({"kind", "events", "query", "quiet_minutes", "min_error_share"}) | {
    *("usual_percent", "running_minutes", "pending_minutes", "idle_minutes")
}
_VIEW = frozenset({"query", "shared", "default"})
_FACTOR = frozenset({"factor", "name", "recovery_codes"})
_BATCH = frozenset(
    {"batch_id", "previous_batch", "stop", "source", "filters", "runs", "tasks", "statuses", "passed_over"}
) | {"counts", "why"}
_STOP = frozenset({"stop", "pulled_by", "pulled_at"})
# The details of a denied attempt at any event, and of the row that counts further anonymous attempts.
_DENIED = frozenset({"page", "path", "method", "why"})
_LEFT_OUT = frozenset({"left_out", "minute"})

# The details that each event may have. Anything not listed here is dropped; an event without an entry has none.
_DETAILS: dict[EventType, frozenset[str]] = {
    EventType.RUN_CANCEL: _ARIZE
    | _COUNTS
    | {"status_before", "status_after", "reread", "previous_operation", "batch_id", "stop", "attempt"},
    EventType.RUN_CANCEL_MANY: _BATCH,
    EventType.RUN_TRIGGER: _ARIZE
    | {"max_spans", "override_evaluations", "data_start_time", "data_end_time", "experiment_ids", "new_runs"}
    | {"experiment_name", "dataset_version_id", "example_ids", "max_examples", "query_filter"}
    | {"tracing_metadata", "evaluation_task_ids", "stop"}
    | {"batch_id", "again", "attempt", "previous_operation"},
    EventType.RUN_TRIGGER_MANY: _BATCH | {"override_evaluations", "experiment_name"},
    EventType.RUN_EXPORT: frozenset({"format", "query", "rows"}),
    EventType.STOP_PULL: _STOP | {"expires_at", "active_runs", "batch_id"},
    EventType.STOP_LIFT: _STOP,
    EventType.STOP_EXPIRE: _STOP,
    EventType.CREDENTIAL_ADD: _KEY,
    EventType.CREDENTIAL_REPLACE: _KEY,
    EventType.CREDENTIAL_TEST: _ARIZE | {"spaces", "tasks", "changed", "expires_on", "why"},
    EventType.CREDENTIAL_EXPIRING: frozenset({"expires_on", "days_left"}),
    EventType.CREDENTIAL_REVOKE: frozenset({"tasks_set_free"}),
    EventType.CHANNEL_ADD: _CHANNEL,
    EventType.CHANNEL_CHANGE: _CHANNEL | {"changed", "rule"},
    EventType.CHANNEL_REMOVE: frozenset({"kind", "messages_dropped"}),
    EventType.CHANNEL_TEST: frozenset({"kind"}),
    EventType.CHANNEL_MUTE: frozenset({"until", "messages_dropped"}),
    EventType.NOTIFY_GIVEN_UP: frozenset({"messages", "http_status", "why"}),
    EventType.TOKEN_CREATE: frozenset({"role", "expires_at", "networks", "credential", "replaces", "overlap_until"}),
    EventType.TOKEN_REVOKE: frozenset({"role", "why"}),
    EventType.TOKEN_EXPIRE: frozenset({"role", "expires_at", "replaced"}),
    EventType.MEMBER_ADD: frozenset({"role", "invitations_revoked"}),
    EventType.MEMBER_CHANGE_ROLE: frozenset({"before", "after"}),
    EventType.MEMBER_REMOVE: frozenset({"role"}),
    EventType.INVITATION_CREATE: frozenset({"role", "replaces", "expires_at"}),
    EventType.INVITATION_ACCEPT: frozenset({"role"}),
    EventType.INVITATION_REVOKE: frozenset({"role"}),
    EventType.TEAM_CREATE: frozenset({"slug"}),
    EventType.TEAM_CHANGE: frozenset({"changed", "before", "after"}),
    EventType.TEAM_ARCHIVE: frozenset({"keys_revoked", "invitations_revoked"}),
    EventType.VIEW_SAVE: _VIEW,
    EventType.VIEW_DELETE: _VIEW,
    EventType.PERSON_CREATE: frozenset({"invitation", "single_sign_on", "subject"}),
    EventType.PERSON_CHANGE: frozenset({"changed", "before", "after", "why"}),
    EventType.PERSON_DISABLE: frozenset({"sessions_ended"}),
    EventType.PERSON_GRANT: frozenset({"before", "after"}),
    EventType.PERSON_RESET: frozenset({"sessions_ended", "factors_dropped", "works_until"}),
    EventType.PROFILE_CHANGE: frozenset({"changed", "before", "after", "single_sign_on", "issuer", "subject"}),
    EventType.AUTH_SIGN_IN: frozenset({"again", "why"}),
    EventType.AUTH_PASSWORD_CHANGE: frozenset({"sessions_ended"}),
    EventType.AUTH_MFA_ADD: _FACTOR,
    EventType.AUTH_MFA_REMOVE: _FACTOR | {"sessions_ended"},
    EventType.AUTH_SESSION_END: frozenset({"why", "sessions", "sessions_ended"}),
    EventType.ENCRYPTION_REENCRYPT: frozenset({"column", "rows", "ring_number"}),
    EventType.SYSTEM_RESTORED: frozenset({"backup", "backup_made_at", "restored_at", "restored_by"})
    | {"missing_from", "missing_to", "at_least", "superseded", "superseded_count", "key_id", "signature"},
    EventType.AUDIT_EXPORT: frozenset({"format", "filtered"}),
    EventType.AUDIT_VERIFY: frozenset({"chain", "rows", "anchors", "compared", "faults", "triggers_missing"}),
}


def allowed_details(event: EventType, outcome: str) -> frozenset[str]:
    return _DETAILS.get(event, frozenset()) | _LEFT_OUT | (_DENIED if outcome == "denied" else frozenset())
