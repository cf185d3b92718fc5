"""Display models of the pages of tokens: never the secret, only its last characters."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from taskruns.forms import AuditFilter, BoardFilter
from taskruns.models import Credential, Team, TeamRole, Token, User
from taskruns.permissions import Action, TeamAccess
from taskruns.services.tokens.access import (
    Refusal,
    lapse_of,
    lapses_soon,
    maker_problem,
    with_lapse,
    with_maker_role,
)
from taskruns.services.tokens.clock import THRESHOLDS

from .credentials import endpoint_label
from .values import Link, Message, Moment

ENDED_SHOWN = timedelta(days=30)
MOST_ENDED = 50
MANY = 3  # tokens that one sentence names
_STOPPED = {
    Refusal.NO_MAKER: "{maker} is no longer an active member of the team.",
    Refusal.MAKER_ROLE: "{maker} is now only a viewer of the team.",
}


@dataclass(frozen=True, slots=True)
class TokenRow:
    """`state`: working, stopped (its maker), refused (its API key), replaced, expired or revoked, with its sentence.

    `note`: what else is wrong.
    """

    id: str
    name: str
    hint: str
    role: str
    maker: str
    key: str
    region: str
    networks: tuple[str, ...]
    state: str
    state_text: str
    note: str
    created: Moment | None
    expires: Moment | None
    expires_text: str
    ended: Moment | None
    last_used: Moment | None
    last_ip: str
    last_client: str
    may_replace: bool
    replace_url: str
    revoke_url: str
    links: tuple[Link, ...]

    @property
    def is_over(self) -> bool:
        return self.state in {"revoked", "expired"}

    @property
    def is_broken(self) -> bool:
        """Whether its requests are refused, although it has not ended."""
        return self.state in {"stopped", "refused"}

    @property
    def tone(self) -> str:
        return "failing" if self.is_broken else self.state


@dataclass(frozen=True, slots=True)
class TokensPage:
    rows: tuple[TokenRow, ...]
    ended: tuple[TokenRow, ...]


def tokens_page(team: Team) -> TokensPage:
    now = timezone.now()
    keys = live_keys(team)
    tokens = with_lapse().filter(team=team).select_related("credential", "team").order_by("name", "-created_at")
    live = [token for token in tokens.filter(revoked_at=None, expired_at=None) if not token.has_ended(now)]
    over = Q(revoked_at__gt=now - ENDED_SHOWN) | Q(expires_at__gt=now - ENDED_SHOWN, expires_at__lte=now)
    ended = [token for token in tokens.filter(over).order_by("-expires_at") if token.has_ended(now)]
    return TokensPage(
        rows=tuple(token_row(token, keys, now) for token in live),
        ended=tuple(token_row(token, keys, now) for token in ended[:MOST_ENDED]),
    )


def token_row(token: Token, keys: Sequence[Credential], now: datetime) -> TokenRow:
    slug = token.team.slug
    state, text = _state(token, keys, now)
    is_over = state in {"revoked", "expired"}
    key = token.credential
    return TokenRow(
        id=str(token.pk),
        name=token.name,
        hint=f"…{token.hint}",
        role=token.role,
        maker=token.maker_label,
        key=key.name if key else "",
        region=endpoint_label(key.endpoint) if key else "",
        networks=tuple(token.networks),
        state=state,
        state_text=text,
        note="" if is_over else _note(token, now),
        created=Moment.of(token.created_at),
        expires=Moment.of(token.expires_at),
        expires_text="" if is_over else _expires_text(token.expires_at, now),
        ended=Moment.of(token.revoked_at or token.expires_at) if is_over else None,
        last_used=Moment.of(token.last_used_at),
        last_ip=token.last_used_ip,
        last_client=token.last_used_client,
        may_replace=not is_over and token.replaced_at is None,
        replace_url=reverse("token-replace", args=[slug, token.pk]),
        revoke_url=reverse("token-revoke", args=[slug, token.pk]),
        links=_links(token),
    )


def live_keys(team: Team) -> list[Credential]:
    return list(Credential.objects.live().filter(team=team).order_by("name", "pk"))


def key_choices(keys: Iterable[Credential]) -> list[tuple[str, str]]:
    return [(str(key.pk), f"{key.name}, {endpoint_label(key.endpoint)}") for key in keys]


def token_warnings(accesses: Iterable[TeamAccess]) -> tuple[Message, ...]:
    """For the board: tokens that stopped or expire soon. Without the number of days, because the board's ETag covers
    data, not the date. Makes a query only for teams that have such tokens.
    """
    return tuple(warning for access in accesses if access.team.has_token_trouble for warning in _warnings(access))


def tokens_by_maker(team: Team) -> dict[UUID, tuple[str, ...]]:
    """The names of the tokens that stop when their maker leaves the team."""
    names: dict[UUID, tuple[str, ...]] = {}
    for token in _working().filter(team=team):
        if token.maker_id is not None and maker_problem(token) is None:
            names[token.maker_id] = (*names.get(token.maker_id, ()), token.name)
    return names


def tokens_above(team: Team, person: User, role: TeamRole) -> tuple[str, ...]:
    """The names of the tokens that stop when the person has only this role."""
    names = []
    for token in _working().filter(team=team, maker=person):
        works = maker_problem(token) is None
        token.maker_role = role.value
        if works and maker_problem(token) is not None:
            names.append(token.name)
    return tuple(names)


def tokens_of(person: User) -> tuple[str, ...]:
    """The names of the tokens that stop with the person's account, in all teams."""
    return tuple(token.name for token in _working().filter(maker=person) if maker_problem(token) is None)


def _working() -> QuerySet[Token]:
    live = {"revoked_at": None, "expired_at": None, "expires_at__gt": timezone.now(), "team__archived_at": None}
    return with_maker_role().filter(**live, made_by_command=False).order_by("name", "pk")


def stopping(names: Sequence[str]) -> str:
    """The consequence of a change of members, as a sentence. Empty for none."""
    if not names:
        return ""
    named = ", ".join(f"“{name}”" for name in names[:MANY]) + (f" and {len(names) - MANY} more" if names[MANY:] else "")
    if len(names) == 1:
        return f"The token {named} stops working at once, and so does the script that uses it."
    return f"The tokens {named} stop working at once, and so do the scripts that use them."


def _warnings(access: TeamAccess) -> Iterator[Message]:
    """One line for all that stopped, and one for all that expire soon: the board's rows must stay in sight."""
    now, team = timezone.now(), access.team
    tokens = with_lapse().filter(team=team, revoked_at=None, expired_at=None, replaced_at=None)
    told = tokens.filter(Q(expiry_told__isnull=False) | Q(maker_told_at__isnull=False), expires_at__gt=now)
    found = list(told.select_related("team").order_by("expires_at", "name"))
    stopped = [token for token in found if maker_problem(token) is not None]
    lapsing = [token for token in found if lapses_soon(token, now) and token not in stopped]
    expiring = [token for token in found if token.expiry_told is not None and token not in stopped]
    may_mend = access.access.may(Action.TOKENS_MANAGE)
    link = Link("Open tokens", reverse("tokens", args=[team.slug])) if may_mend else None
    who = "" if may_mend else " A manager of the team can replace it."
    if stopped:
        yield Message("error", f"{_stopped_text(stopped)}{who}", link)
    if lapsing:
        yield Message("warning", f"{_lapsing_text(lapsing)}{who}", link)
    if expiring:
        yield Message("warning", f"{_expiring_text(expiring)}{who}", link)


def _stopped_text(tokens: Sequence[Token]) -> str:
    if len(tokens) > 1:
        return (
            f"{len(tokens)} tokens do not work, because their makers lost their role: {_named(tokens)}. Replace them."
        )
    (token,) = tokens
    problem = maker_problem(token) or Refusal.NO_MAKER
    return f"Token “{token.name}” does not work: {_STOPPED[problem].format(maker=token.maker_label)} Replace it."


def _lapsing_text(tokens: Sequence[Token]) -> str:
    first = min(tokens, key=lambda token: lapse_of(token) or token.expires_at)
    must = f"unless {first.maker_label} signs in by single sign-on before {_lapse_text(first)}."
    if len(tokens) > 1:
        return f"{len(tokens)} tokens stop, the first {must} They are {_named(tokens)}."
    return f"Token “{first.name}” stops {must}"


def _lapse_text(token: Token) -> str:
    lapse = Moment.of(lapse_of(token))
    return lapse.text if lapse else ""


def _expiring_text(tokens: Sequence[Token]) -> str:
    day = timezone.localtime(tokens[0].expires_at).date()
    if len(tokens) > 1:
        return f"{len(tokens)} tokens expire soon, the first on {day}: {_named(tokens)}. Replace them."
    return f"Token “{tokens[0].name}” expires on {day}: replace it before its scripts fail."


def _named(tokens: Sequence[Token]) -> str:
    more = f" and {len(tokens) - MANY} more" if tokens[MANY:] else ""
    return ", ".join(f"“{token.name}”" for token in tokens[:MANY]) + more


def _state(token: Token, keys: Sequence[Credential], now: datetime) -> tuple[str, str]:
    if token.revoked_at is not None:
        return "revoked", ""
    if token.has_ended(now):
        return "expired", "It was replaced." if token.replaced_at else ""
    if (problem := maker_problem(token)) is not None:
        return "stopped", f"{_STOPPED[problem].format(maker=token.maker_label)} Replace it, and it becomes yours."
    if trouble := _without_key(token, keys):
        return "refused", trouble
    if token.replaced_at is not None:
        return "replaced", "Its replacement works already. This one still works until it expires."
    return "working", ""


def _without_key(token: Token, keys: Sequence[Credential]) -> str:
    """Why its requests cannot go to Arize; empty if they can."""
    if token.credential is not None:
        is_gone = token.credential.revoked_at is not None
        return (
            f"Its API key “{token.credential.name}” was revoked. Replace it and choose another key." if is_gone else ""
        )
    if len(keys) > 1:
        return f"The team has {len(keys)} API keys. Replace it and choose one."
    return "" if keys else "The team has no API key. Add one."


def _note(token: Token, now: datetime) -> str:
    key = token.credential
    is_failing = key is not None and key.revoked_at is None and key.failing_since is not None
    if key is not None and is_failing:
        return f"Arize rejects its API key “{key.name}”."
    if lapses_soon(token, now) and maker_problem(token) is None:
        return f"Stops unless {token.maker_label} signs in by single sign-on before {_lapse_text(token)}."
    return ""


def _expires_text(ends: datetime, now: datetime) -> str:
    left = ends - now
    if left > timedelta(days=max(THRESHOLDS)):
        return ""
    if left < timedelta(hours=2):
        return f"expires in {max(1, int(left.total_seconds() // 60))} min"
    if left < timedelta(days=2):
        return f"expires in {round(left / timedelta(hours=1))} h"
    return f"expires in {round(left / timedelta(days=1))} days"


def _links(token: Token) -> tuple[Link, ...]:
    slug = token.team.slug
    return (
        Link("Cancelled runs", reverse("board", args=[slug]) + BoardFilter(cancelled_by=token.name).query()),
        Link("Audit", reverse("audit", args=[slug]) + AuditFilter(person=token.label).query()),
    )
