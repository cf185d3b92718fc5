"""Display models of the pages of tokens: never the secret, only its last characters."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

from taskruns.forms import AuditFilter, BoardFilter
from taskruns.models import Credential, Team, Token, User
from taskruns.permissions import Action, TeamAccess
from taskruns.services.tokens.access import Refusal, maker_problem, with_maker_role
from taskruns.services.tokens.clock import THRESHOLDS

from .credentials import endpoint_label
from .values import Link, Message, Moment

ENDED_SHOWN = timedelta(days=30)
MOST_ENDED = 50
MANY = 3  # tokens that one sentence names
_STOPPED = {
    Refusal.NO_MAKER: "{maker} is no longer an active member of the team. Replace it, and it becomes yours.",
    Refusal.MAKER_ROLE: "{maker} is now only a viewer of the team. Replace it, and it becomes yours.",
}


@dataclass(frozen=True, slots=True)
class TokenRow:
    """`state`: working, stopped, replaced, expired or revoked, with its sentence. `notes`: what else may be wrong."""

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
    notes: tuple[str, ...]
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


@dataclass(frozen=True, slots=True)
class TokensPage:
    rows: tuple[TokenRow, ...]
    ended: tuple[TokenRow, ...]


def tokens_page(team: Team) -> TokensPage:
    now = timezone.now()
    keys = live_keys(team)
    tokens = with_maker_role().filter(team=team).select_related("credential", "team").order_by("name", "-created_at")
    live = [token for token in tokens.filter(revoked_at=None, expired_at=None) if not token.has_ended(now)]
    over = Q(revoked_at__gt=now - ENDED_SHOWN) | Q(expires_at__gt=now - ENDED_SHOWN, expires_at__lte=now)
    ended = [token for token in tokens.filter(over).order_by("-expires_at") if token.has_ended(now)]
    return TokensPage(
        rows=tuple(token_row(token, keys, now) for token in live),
        ended=tuple(token_row(token, keys, now) for token in ended[:MOST_ENDED]),
    )


def token_row(token: Token, keys: Sequence[Credential], now: datetime) -> TokenRow:
    slug = token.team.slug
    state, text = _state(token, now)
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
        notes=() if is_over else tuple(_notes(token, keys)),
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


def tokens_of(team: Team, person: User, *, role: str = "") -> tuple[str, ...]:
    """The names of the tokens that stop when the person leaves the team, or has only this `role` from then on."""
    tokens = with_maker_role().filter(team=team, maker=person, revoked_at=None, expired_at=None)
    found = []
    for token in tokens.filter(expires_at__gt=timezone.now()).order_by("name"):
        works = maker_problem(token) is None
        token.maker_role = role
        if works and maker_problem(token) is not None:
            found.append(token.name)
    return tuple(found)


def stopping(names: Sequence[str]) -> str:
    """The consequence of a change of members, as a sentence. Empty for none."""
    if not names:
        return ""
    named = ", ".join(f"“{name}”" for name in names[:MANY]) + (f" and {len(names) - MANY} more" if names[MANY:] else "")
    if len(names) == 1:
        return f"The token {named} stops working at once, and so does the script that uses it."
    return f"The tokens {named} stop working at once, and so do the scripts that use them."


def _warnings(access: TeamAccess) -> Iterator[Message]:
    now, team = timezone.now(), access.team
    tokens = with_maker_role().filter(team=team, revoked_at=None, expired_at=None, replaced_at=None)
    told = tokens.filter(Q(expiry_told__isnull=False) | Q(maker_told_at__isnull=False), expires_at__gt=now)
    may_mend = access.access.may(Action.TOKENS_MANAGE)
    link = Link("Open tokens", reverse("tokens", args=[team.slug])) if may_mend else None
    who = "" if may_mend else " A manager of the team can replace it."
    for token in told.select_related("team").order_by("name"):
        if (problem := maker_problem(token)) is not None:
            advice = _STOPPED[problem] if may_mend else _STOPPED[problem].split(". ")[0] + "."
            text = f"Token “{token.name}” does not work: {advice.format(maker=token.maker_label)}{who}"
            yield Message("error", text, link)
        elif token.expiry_told is not None:
            day = timezone.localtime(token.expires_at).date()
            text = f"Token “{token.name}” expires on {day}: replace it before its scripts fail.{who}"
            yield Message("warning", text, link)


def _state(token: Token, now: datetime) -> tuple[str, str]:
    if token.revoked_at is not None:
        return "revoked", ""
    if token.has_ended(now):
        return "expired", "It was replaced." if token.replaced_at else ""
    if (problem := maker_problem(token)) is not None:
        return "stopped", _STOPPED[problem].format(maker=token.maker_label)
    if token.replaced_at is not None:
        return "replaced", "Its replacement works already. This one still works until it expires."
    return "working", ""


def _notes(token: Token, keys: Sequence[Credential]) -> Iterator[str]:
    key = token.credential
    if key is not None and key.revoked_at is not None:
        yield f"Its API key “{key.name}” was revoked, so its requests are refused. Replace it and choose another key."
    elif key is not None and key.failing_since is not None:
        yield f"Arize rejects its API key “{key.name}”."
    elif key is None and not keys:
        yield "The team has no API key, so its requests are refused."
    elif key is None and len(keys) > 1:
        yield f"The team has {len(keys)} API keys, so its requests are refused. Replace it and choose one."


def _expires_text(ends: datetime, now: datetime) -> str:
    left = ends - now
    if left > timedelta(days=max(THRESHOLDS)):
        return ""
    if left < timedelta(hours=2):
        return f"expires in {max(1, int(left.total_seconds() // 60))} min"
    if left < timedelta(days=2):
        return f"expires in {int(left.total_seconds() // 3_600)} h"
    return f"expires in {left.days} days"


def _links(token: Token) -> tuple[Link, ...]:
    slug = token.team.slug
    return (
        Link("Cancelled runs", reverse("board", args=[slug]) + BoardFilter(cancelled_by=token.name).query()),
        Link("Audit", reverse("audit", args=[slug]) + AuditFilter(person=token.label).query()),
    )
