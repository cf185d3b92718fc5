"""What a token may do now: its own role, as long as its maker is still a member with at least that role."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from django.conf import settings
from django.db.models import OuterRef, QuerySet, Subquery, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import Membership, Team, TeamRole, Token, TokenRole
from taskruns.models.prepared import Slot
from taskruns.models.teams import confirmed_since
from taskruns.permissions import TOKEN_ROLES, Action

# Managers are told so long before the maker's role from groups ends.
LAPSES_WITHIN = timedelta(days=1)


class Refusal(StrEnum):
    """Why a token does not work."""

    MISTYPED = "mistyped"  # its form or checksum is wrong
    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"
    ARCHIVED = "team archived"
    NO_MAKER = "maker is no member"
    MAKER_ROLE = "maker has a lower role"
    NETWORK = "other network"


class TokenRefused(Exception):
    """`token`: if it is known which one it is."""

    def __init__(self, why: Refusal, token: Token | None = None) -> None:
        self.why, self.token = why, token
        super().__init__(why.value)


@dataclass(frozen=True, slots=True)
class TokenAccess:
    """A token that works now."""

    token: Token

    @property
    def team(self) -> Team:
        return self.token.team

    @property
    def role(self) -> TokenRole:
        return TokenRole(self.token.role)

    def may(self, action: Action) -> bool:
        return action in TOKEN_ROLES[self.role]

    def actor(self, *, ip: str = "", user_agent: str = "", request_id: str = "") -> Actor:
        return actor_of(self.token, ip=ip, user_agent=user_agent, request_id=request_id)


def actor_of(token: Token, *, ip: str = "", user_agent: str = "", request_id: str = "") -> Actor:
    return Actor(
        type="token",
        id=str(token.pk),
        label=token.label,
        role=token.role,
        auth_method="token",
        ip=ip,
        user_agent=user_agent,
        request_id=request_id,
        token=token,
    )


def access_now(token_id: uuid.UUID) -> TokenAccess:
    """For work that outlives its request. Raises TokenRefused."""
    token = with_maker_role().select_related("team").filter(pk=token_id).first()
    if token is None:
        raise TokenRefused(Refusal.UNKNOWN)
    return granted(token, timezone.now())


def granted(token: Token, now: datetime) -> TokenAccess:
    """Expects `maker_role` and the team. Raises TokenRefused."""
    if (why := problem(token, now)) is not None:
        raise TokenRefused(why, token)
    return TokenAccess(token)


def problem(token: Token, now: datetime) -> Refusal | None:
    """Why the token does not work now, wherever it comes from."""
    if token.revoked_at is not None:
        return Refusal.REVOKED
    if token.has_ended(now):
        return Refusal.EXPIRED
    if token.team.archived_at is not None:
        return Refusal.ARCHIVED
    return maker_problem(token)


def maker_problem(token: Token) -> Refusal | None:
    """Whether its maker lost what the token needs. A maker whose account is gone leaves no other trace than `None`."""
    if token.made_by_command:
        return None
    if not token.maker_role:
        return Refusal.NO_MAKER
    needs_more = token.role == TokenRole.OPERATOR and token.maker_role == TeamRole.VIEWER
    return Refusal.MAKER_ROLE if needs_more else None


def with_maker_role(since: "datetime | Slot | None" = None) -> "QuerySet[Token]":
    """Tokens with the current role of their maker in the team: "" for none, and for disabled accounts.

    `since`: `confirmed_since`, or its slot in a prepared query.
    """
    in_force = Membership.objects.in_force(confirmed_since() if since is None else since)
    theirs = in_force.filter(user=OuterRef("maker"), team=OuterRef("team"), user__is_active=True)
    role: dict[str, Any] = {"maker_role": Coalesce(Subquery(theirs.values("role")[:1]), Value(""))}
    return Token.objects.annotate(**role)


def with_lapse() -> "QuerySet[Token]":
    """As `with_maker_role`, with what `lapse_of` needs: the maker's last single sign-on, if groups gave their role."""
    by_groups = Membership.objects.filter(user=OuterRef("maker"), team=OuterRef("team"), by_groups=True)
    signed_in: dict[str, Any] = {"maker_signed_in_at": Subquery(by_groups.values("user__sso_signed_in_at")[:1])}
    return with_maker_role().annotate(**signed_in)


def lapse_of(token: Token) -> datetime | None:
    """When the token stops unless its maker signs in before. None if their role does not depend on it."""
    signed_in = token.maker_signed_in_at
    return signed_in + timedelta(days=settings.SESSION_MAX_DAYS) if signed_in is not None else None


def lapses_soon(token: Token, now: datetime) -> bool:
    """Within a day, or since then."""
    lapse = lapse_of(token)
    return lapse is not None and lapse <= now + LAPSES_WITHIN
