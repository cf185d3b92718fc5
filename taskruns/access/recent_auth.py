"""How and when a session proved its person's identity, and whether that is enough and recent enough.

allauth keeps one record for each step of a sign-in or confirmation. We add two timestamps: when the session began, and
when its person was last active.
"""

import time
from typing import Any

from allauth.account.authentication import AUTHENTICATION_METHODS_SESSION_KEY, get_authentication_records
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.http import HttpRequest

from taskruns.allauth_compat import record_authentication
from taskruns.audit import clean_line
from taskruns.models import Team, User
from taskruns.models.sessions import LONGEST_USER_AGENT
from taskruns.models.stamps import SKEW
from taskruns.permissions import must_have_second_factor
from taskruns.services.people import factors

RECENT_FOR = 10 * 60  # seconds
# The last-active timestamp is written at most this often, not on every request.
SEEN_EVERY = 60  # seconds
_BEGAN, _SEEN = "began_at", "seen_at"
# The audit log's names for allauth's methods.
_METHODS = {"socialaccount": "oidc", "webauthn": "passkey", "recovery_codes": "recovery-code"}


def begin(request: HttpRequest) -> None:
    """Start the session now. Store its address and browser, so that the person recognises it in their list."""
    request.session[_BEGAN] = request.session[_SEEN] = int(time.time())
    request.session["ip"] = getattr(request, "client_ip", "")
    request.session["user_agent"] = clean_line(request.headers.get("User-Agent", ""), LONGEST_USER_AGENT)


def note_activity(request: HttpRequest) -> None:
    """Update the last-active timestamp. Polls (here every htmx GET) do not keep a session alive."""
    is_poll = request.method == "GET" and request.headers.get("HX-Request") == "true"
    now = int(time.time())
    if not is_poll and now - request.session.get(_SEEN, 0) >= SEEN_EVERY:
        request.session[_SEEN] = now
        request.session.setdefault(_BEGAN, now)


def limit_reached(session: SessionBase) -> str:
    """Why a signed-in session has expired: `idle`, `age`, or empty."""
    if SESSION_KEY not in session:
        return ""
    now = time.time()
    if now - session.get(_BEGAN, now) > settings.SESSION_MAX_DAYS * 86_400:
        return "age"
    return "idle" if now - session.get(_SEEN, now) > settings.SESSION_IDLE_HOURS * 3_600 else ""


def auth_method(request: HttpRequest, person: User) -> str:
    """How the session was signed in, each method once and in order: `password+totp`."""
    named = [str(record.get("type") or record.get("method", "")) for record in _records(request, person)]
    return "+".join(dict.fromkeys(_METHODS.get(name, name) for name in named))


def has_shown_second_factor(request: HttpRequest, person: User) -> bool:
    """Whether this session used a second factor: one of the panel's own, or one that the provider reports (`amr`)."""
    return any(record.get("method") == "mfa" or record.get("second_factor") for record in _records(request, person))


def lacks_second_factor(request: HttpRequest, person: User, team: Team | None = None) -> bool:
    """Whether the role requires a second factor, but this session used none. `team`: see `must_have_second_factor`."""
    if not settings.REQUIRE_MFA or has_shown_second_factor(request, person):
        return False
    return must_have_second_factor(person, team)


def must_keep_second_factor(person: User) -> bool:
    return bool(settings.REQUIRE_MFA) and must_have_second_factor(person)


def is_recent(request: HttpRequest, person: User) -> bool:
    """Signed in or confirmed within the last ten minutes, with a second factor if the person has one."""
    records = _records(request, person)
    if factors.has_second(person):
        times = [record["at"] for record in records if record.get("method") == "mfa"]
    else:
        times = [_time_of(record) for record in records] or [request.session.get(_BEGAN, 0)]
    # Not one in the future, which a clock that was ahead has left.
    return any(-SKEW.total_seconds() <= time.time() - at <= RECENT_FOR for at in times)


def note_factor(request: HttpRequest, person: User, kind: str) -> None:
    """Record a second factor that was used outside of a sign-in."""
    record_authentication(request, person, "mfa", type=kind)


def forget_factors(request: HttpRequest) -> None:
    """Drop the records of second factors, because the last one was removed."""
    records = request.session.get(AUTHENTICATION_METHODS_SESSION_KEY, [])
    kept = [record for record in records if record.get("method") != "mfa"]
    request.session[AUTHENTICATION_METHODS_SESSION_KEY] = kept


def note_sso(request: HttpRequest, *, auth_time: float, second_factor: bool) -> None:
    """Add the provider's statements to the sign-in that was just recorded."""
    records = request.session.get(AUTHENTICATION_METHODS_SESSION_KEY, [])
    if records and records[-1].get("method") == "socialaccount":
        records[-1] |= {"auth_time": auth_time, "second_factor": second_factor}
        request.session[AUTHENTICATION_METHODS_SESSION_KEY] = records


def _time_of(record: dict[str, Any]) -> float:
    """For single sign-on use the provider's `auth_time`: it may not have asked for a password in days."""
    is_from_elsewhere = record.get("method") == "socialaccount"
    return float(record.get("auth_time", 0) if is_from_elsewhere else record["at"])


def _records(request: HttpRequest, person: User) -> list[dict[str, Any]]:
    return list(get_authentication_records(request, person))
