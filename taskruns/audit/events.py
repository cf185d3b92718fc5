"""The closed catalogue: every event and the outcomes it may have."""

from enum import StrEnum


class EventType(StrEnum):
    RUN_CANCEL = "run.cancel"
    RUN_CANCEL_MANY = "run.cancel_many"
    RUN_TRIGGER = "run.trigger"
    RUN_EXPORT = "run.export"
    STOP_PULL = "stop.pull"
    STOP_LIFT = "stop.lift"
    STOP_EXPIRE = "stop.expire"
    CREDENTIAL_ADD = "credential.add"
    CREDENTIAL_REPLACE = "credential.replace"
    CREDENTIAL_TEST = "credential.test"
    CREDENTIAL_REVOKE = "credential.revoke"
    CREDENTIAL_FAILING = "credential.failing"
    CREDENTIAL_EXPIRING = "credential.expiring"
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


_LOCAL = frozenset({"done", "denied"})
_CHECK = frozenset({"ok", "failed", "denied"})

CATALOGUE: dict[EventType, frozenset[str]] = dict.fromkeys(EventType, _LOCAL) | {
    EventType.RUN_CANCEL: frozenset(
        {
            "requested",
            "confirmed",
            "finished_first",
            "failed_first",
            "already_cancelled",
            "still_running",
            "refused",
            "not_sent",
            "unknown",
            "joined",
            "not_needed",
            "denied",
        }
    ),
    EventType.RUN_CANCEL_MANY: frozenset({"requested", "finished", "aborted", "denied"}),
    EventType.RUN_TRIGGER: frozenset({"requested", "done", "refused", "not_sent", "unknown", "denied"}),
    EventType.CREDENTIAL_TEST: _CHECK,
    EventType.AUDIT_VERIFY: _CHECK,
    EventType.AUTH_SIGN_IN: frozenset({"done", "failed", "throttled"}),
}
