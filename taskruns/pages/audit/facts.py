"""The facts that the details of an audit row add to its sentence: " from viewer to operator", ": 3 sessions ended".

Someone may have changed the details by hand, so a value of an unexpected type adds nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from taskruns.models import AuditEvent
from taskruns.pages.values import shortened

Details = Mapping[str, Any]
Facts = Callable[[AuditEvent], str]

# How the log names the steps of a sign-in -> words.
_METHODS = {
    "password": "password",
    "totp": "authenticator app",
    "passkey": "passkey",
    "recovery-code": "recovery code",
    "oidc": "single sign-on",
}
_FIELDS = {"time_zone": "time zone", "shortcuts": "keyboard shortcuts"}
_EMPTY = "none"


def facts_of(event: AuditEvent) -> str:
    """Empty for a refused attempt: nothing happened."""
    facts = _FACTS.get(event.event)
    return "" if facts is None or event.outcome == "denied" else facts(event)


def _text(details: Details, name: str) -> str:
    """A text or number of the details, else empty."""
    value = details.get(name)
    return shortened(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _number(details: Details, name: str) -> int:
    value = details.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _count(number: int, one: str, many: str = "") -> str:
    """`3 sessions`, or empty for none."""
    return "" if not number else f"1 {one}" if number == 1 else f"{number:,} {many or f'{one}s'}"


def _list(*parts: str) -> str:
    """The parts that are not empty, after a colon."""
    said = ", ".join(part for part in parts if part)
    return f": {said}" if said else ""


def _in_brackets(*parts: str) -> str:
    said = ", ".join(part for part in parts if part)
    return f" ({said})" if said else ""


def _word(value: object) -> str:
    """A value before or after a change."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return shortened(str(value)) if isinstance(value, str | int) and value != "" else _EMPTY


def _as_role(event: AuditEvent) -> str:
    role = _text(event.details, "role")
    return f" as {role}" if role else ""


def _token(event: AuditEvent) -> str:
    ends, key = _text(event.details, "expires_at"), _text(event.details, "credential")
    networks = event.details.get("networks")
    number = len(networks) if isinstance(networks, list) else 0
    return _as_role(event) + _list(
        f"until {ends[:10]}" if ends else "",
        f"with the API key {key}" if key else "",
        f"only from {_count(number, 'network')}" if number else "",
        "in place of an older one" if event.details.get("replaces") else "",
    )


def _was_role(event: AuditEvent) -> str:
    role = _text(event.details, "role")
    return f" (was {role})" if role else ""


def _from_to(event: AuditEvent) -> str:
    if "after" not in event.details:
        return ""
    return f" from {_word(event.details.get('before'))} to {_word(event.details['after'])}"


def _changes(event: AuditEvent) -> str:
    """The changed fields with their values: one change is `before` and `after`, several are objects by field."""
    changed = event.details.get("changed")
    fields = [name for name in changed if isinstance(name, str)] if isinstance(changed, list) else []
    return _list(*(_change(name, event.details) for name in fields))


def _change(name: str, details: Details) -> str:
    before, after = (_of_field(name, details.get(place)) for place in ("before", "after"))
    label = _FIELDS.get(name, name)
    if after is None:
        return label
    return f"{label} to {_word(after)}" if before is None else f"{label} from {_word(before)} to {_word(after)}"


def _of_field(name: str, values: object) -> object:
    return values.get(name) if isinstance(values, Mapping) else values


def _profile(event: AuditEvent) -> str:
    change = _text(event.details, "single_sign_on")
    return f": single sign-on {change}" if change else _changes(event)


def _sessions(event: AuditEvent) -> str:
    return _list(_ended(event.details))


def _ended(details: Details) -> str:
    sessions = _count(_number(details, "sessions_ended"), "session")
    return f"{sessions} ended" if sessions else ""


def _reset(event: AuditEvent) -> str:
    dropped = _count(_number(event.details, "factors_dropped"), "second factor")
    return _list(_ended(event.details), f"{dropped} removed" if dropped else "")


def _archive(event: AuditEvent) -> str:
    keys = _count(_number(event.details, "keys_revoked"), "API key")
    links = _count(_number(event.details, "invitations_revoked"), "invitation")
    return _list(f"{keys} destroyed" if keys else "", f"{links} revoked" if links else "")


def _factor(event: AuditEvent) -> str:
    name = _text(event.details, "name")
    return _list(" ".join(part for part in (_text(event.details, "factor"), f"“{name}”" if name else "") if part))


def _method(event: AuditEvent) -> str:
    steps = [_METHODS.get(step, step) for step in event.auth_method.split("+") if step]
    return f" with {' and '.join(steps)}" if steps and event.outcome == "done" else ""


def _key(event: AuditEvent) -> str:
    last4, expires = _text(event.details, "last4"), _text(event.details, "expires_on")
    return _list(f"ends in {last4}" if last4 else "", f"expires on {expires}" if expires else "")


def _key_test(event: AuditEvent) -> str:
    if event.outcome != "ok":
        return ""
    spaces = _count(_number(event.details, "spaces"), "space")
    return _in_brackets(spaces, _count(_number(event.details, "tasks"), "task"))


def _expiring(event: AuditEvent) -> str:
    expires = _text(event.details, "expires_on")
    return _list(f"on {expires}" if expires else "")


def _stop(event: AuditEvent) -> str:
    runs = _count(_number(event.details, "active_runs"), "active run")
    until = _text(event.details, "expires_at")
    return _list(runs, f"until {until[:16].replace('T', ' ')} UTC" if until.endswith("+00:00") else "")


def _pulled_by(event: AuditEvent) -> str:
    who = _text(event.details, "pulled_by")
    return f" that {who} had pulled" if who else ""


def _batch(event: AuditEvent) -> str:
    counts = event.details.get("counts")
    if event.outcome == "requested":
        runs = _count(_number(event.details, "runs"), "run")
        return f" of {runs}" if runs else ""
    return _list(*_by_outcome(counts.items())) if isinstance(counts, dict) else ""


def _starts(event: AuditEvent) -> str:
    runs = _count(_number(event.details, "runs"), "run")
    return _in_brackets(runs) if event.outcome == "requested" else _batch(event)


def _by_outcome(counts: Iterable[tuple[object, object]]) -> Iterable[str]:
    return (f"{number} {str(state).replace('_', ' ')}" for state, number in counts if isinstance(number, int))


def _view(event: AuditEvent) -> str:
    default = _text(event.details, "default")
    shared = "shared with the team" if event.details.get("shared") is True else ""
    return _list(shared, f"default: {default}" if default else "")


def _rows(event: AuditEvent) -> str:
    kind = {"jsonl": "JSON Lines", "csv": "CSV"}.get(_text(event.details, "format"), "")
    is_part = event.details.get("filtered") is True or bool(_text(event.details, "query"))
    rows = _count(_number(event.details, "rows"), "row")
    return _list(f"as {kind}" if kind else "", rows, "filtered" if is_part else "")


def _verified(event: AuditEvent) -> str:
    faults = _count(_number(event.details, "faults"), "fault")
    rows = _count(_number(event.details, "rows"), "entry", "entries")
    return _in_brackets(rows, faults)


def _reencrypted(event: AuditEvent) -> str:
    number = _text(event.details, "ring_number")
    rows = _count(_number(event.details, "rows"), "row")
    return _list(rows, f"encryption key {number}" if number else "")


def _restored(event: AuditEvent) -> str:
    first, last = _number(event.details, "missing_from"), _number(event.details, "missing_to")
    return f": entries {first} to {last} are lost" if first and last else ""


_FACTS: dict[str, Facts] = {
    "run.cancel_many": _batch,
    "run.trigger_many": _starts,
    "run.export": _rows,
    "stop.pull": _stop,
    "stop.lift": _pulled_by,
    "stop.expire": _pulled_by,
    "credential.add": _key,
    "credential.replace": _key,
    "credential.test": _key_test,
    "credential.expiring": _expiring,
    "token.create": _token,
    "token.revoke": _was_role,
    "member.add": _as_role,
    "member.change_role": _from_to,
    "member.remove": _was_role,
    "invitation.create": _as_role,
    "invitation.accept": _as_role,
    "invitation.revoke": _was_role,
    "team.change": _changes,
    "team.archive": _archive,
    "view.save": _view,
    "person.change": _changes,
    "person.disable": _sessions,
    "person.grant": _from_to,
    "person.reset": _reset,
    "profile.change": _profile,
    "auth.sign_in": _method,
    "auth.password_change": _sessions,
    "auth.mfa_add": _factor,
    "auth.mfa_remove": _factor,
    "auth.session_end": _sessions,
    "audit.export": _rows,
    "audit.verify": _verified,
    "encryption.reencrypt": _reencrypted,
    "system.restored": _restored,
}
