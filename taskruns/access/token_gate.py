"""The gate of scripts: who may reach `/v2/`. Only a token in `Authorization: Bearer` counts, never a cookie.

Every refusal is a problem document with the same words, whatever is wrong: nobody learns whether a token, a team or a
run exists. What exactly was wrong is in the audit log.
"""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

import structlog
from django.http import HttpRequest
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor, EventType
from taskruns.permissions import Action
from taskruns.services.audit import Attempt, record_denial
from taskruns.services.tokens import rate
from taskruns.services.tokens.access import TokenAccess, TokenRefused
from taskruns.services.tokens.identify import identify
from taskruns.services.tokens.refusals import refusals
from taskruns.services.tokens.secret import is_well_formed

from .problems import ForProgram, problem

UNAUTHORIZED = (
    "The token is missing, wrong, expired or revoked, or does not work from here. "
    "Send a token of this panel as `Authorization: Bearer <token>`."
)
TOO_MANY = "This token has made too many requests. Try again in {seconds} s."
# As it may appear in a path, a query or a header where it does not belong.
_LIKE_A_TOKEN = re.compile(r"tr_[0-9A-Za-z]{20,}")
_TOKEN = re.compile(r"(?=(tr_[0-9A-Za-z]{36}))")
_BEARER = re.compile(r"bearer +(\S+) *", re.IGNORECASE | re.ASCII)
LONGEST_PATH = 300
TokenView = Callable[[HttpRequest, TokenAccess], ForProgram]


def by_token(view: TokenView) -> Callable[..., ForProgram]:
    """Let the view run only for a token that works now and has requests left."""

    # Needs no CSRF check: cookies do not count here, so another site has nothing to abuse.
    @csrf_exempt
    @wraps(view)
    @sensitive_variables("secret")
    def gate(request: HttpRequest, *_args: Any, **_kwargs: Any) -> ForProgram:
        secret = _secret(request)
        try:
            access = identify(secret, ip=_address(request), client=request.headers.get("User-Agent", ""))
        except TokenRefused as refused:
            refusals.note(refused, attempt_of(request), by=_anonymous(request))
            return problem(401, UNAUTHORIZED, headers={"WWW-Authenticate": "Bearer"})
        structlog.contextvars.bind_contextvars(token=str(access.token.pk))
        spent = rate.spend(access.token)
        if spent.is_allowed:
            response = view(request, access)
        else:
            response = problem(429, TOO_MANY.format(seconds=spent.seconds), retry_after=spent.seconds)
        for name, value in spent.headers.items():
            response.headers[name] = value
        return response

    gate.declared_access = "token"  # type: ignore[attr-defined]
    return gate


def refuse(request: HttpRequest, access: TokenAccess, action: Action, event: EventType) -> ForProgram:
    """For a token whose role lacks the right: record the denial."""
    record_denial(event, attempt_of(request), by=actor_of(request, access), team=access.team)
    return problem(403, f"The role of this token ({access.role.value}) does not allow this: it needs {action.value}.")


def actor_of(request: HttpRequest, access: TokenAccess) -> Actor:
    """The token, in the form of the audit log."""
    agent = request.headers.get("User-Agent", "")
    return access.actor(ip=_address(request), user_agent=agent, request_id=_request_id())


def attempt_of(request: HttpRequest) -> Attempt:
    return Attempt("gateway", without_token(request.path)[:LONGEST_PATH], request.method or "")


def without_token(text: str) -> str:
    """For logs: with nothing that looks like a token."""
    return _LIKE_A_TOKEN.sub("tr_[token]", text)


def has_token(text: str) -> bool:
    """Whether a whole token is in it. Its checksum tells it from a cursor that only looks like one."""
    return any(map(is_well_formed, _TOKEN.findall(text)))


@sensitive_variables()
def _secret(request: HttpRequest) -> str:
    """The token of the request, or an empty text, which is treated like any wrong token."""
    found = _BEARER.fullmatch(request.headers.get("Authorization", ""))
    return found[1] if found else ""


def _anonymous(request: HttpRequest) -> Actor:
    agent = request.headers.get("User-Agent", "")
    return Actor(type="anonymous", ip=_address(request), user_agent=agent, request_id=_request_id())


def _address(request: HttpRequest) -> str:
    return str(getattr(request, "client_ip", ""))


def _request_id() -> str:
    return str(structlog.contextvars.get_contextvars().get("request_id", ""))
