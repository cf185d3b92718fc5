"""Make, replace and revoke tokens. The secret is returned once and stored nowhere.

Rows are locked in the same order everywhere: the team, its tokens, its audit chain.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.models import Credential, Team, Token, TokenRole, User
from taskruns.models.tokens import LONGEST_LABEL, LONGEST_LIFE
from taskruns.permissions import Action, access_of
from taskruns.services.teams import lock_team
from taskruns.services.user_errors import UserError

from .networks import checked_networks
from .secret import HINT, digest_of, new_secret

LONGEST_NAME = 100
LONGEST_DAYS = LONGEST_LIFE.days
USUAL_DAYS = 90
MOST_TOKENS = 100  # of a team
LONGEST_OVERLAP = timedelta(days=30)
# Who made a token stands behind its name in the audit log. An address alone is the name of a person there.
_LIKE_A_LABEL = re.compile(r"made\s+by|^\S+@\S+$", re.IGNORECASE)
_SECRET = re.compile(r"tr_[0-9A-Za-z]{30,}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A token as a person asks for it. `credential`: None for any key of the team. `networks`: as typed."""

    name: str
    role: TokenRole
    days: int = USUAL_DAYS
    credential: Credential | None = None
    networks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Made:
    """`secret`: to be shown once."""

    token: Token
    secret: str = field(repr=False)


def make(team: Team, wanted: Wanted, *, by: Actor, owner: User | None = None) -> Made:
    """Make a token of the person who acts, or of its `owner`. A command's token without an owner has no maker.

    Raises UserError.
    """
    name, ends = _clean_name(wanted.name), _end(wanted.days)
    networks = checked_networks(wanted.networks)
    maker = owner or by.person
    with transaction.atomic():
        team = lock_team(team)
        _expire_namesake(team, name)
        _refuse_taken(team, name)
        _check_maker(team, maker, wanted.role)
        if Token.objects.live(timezone.now()).filter(team=team).count() >= MOST_TOKENS:
            raise UserError(f"The team already has {MOST_TOKENS} tokens. First revoke one that is no longer used.")
        made = _insert(
            Token(
                team=team,
                name=name,
                role=wanted.role,
                credential=_checked_key(team, wanted.credential),
                networks=networks,
                maker=maker,
                expires_at=ends,
                **_made_by(maker, by),
            )
        )
        record(
            EventType.TOKEN_CREATE, "done", by=by, team=team, target=target_of(made.token), details=_details(made.token)
        )
    return made


def replace(token: Token, *, days: int, overlap: timedelta, credential: Credential | None, by: Actor) -> Made:
    """A new secret with the same name, role and networks, of the person who acts. The old one works for the overlap, at
    most until its own end. Raises UserError.
    """
    ends = _end(days)
    if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
        raise UserError(f"The old token can work for at most {LONGEST_OVERLAP.days} more days.", field="overlap")
    with transaction.atomic():
        team = lock_team(token.team)
        old = _locked(token)
        if old.replaced_at is not None:
            raise UserError("This token has already been replaced. Replace the new one instead.")
        _check_maker(team, by.person, TokenRole(old.role))
        now = timezone.now()
        until = min(old.expires_at, now + overlap)
        Token.objects.filter(pk=old.pk).update(replaced_at=now, expires_at=until)
        made = _insert(
            Token(
                team=team,
                name=old.name,
                role=old.role,
                credential=_checked_key(team, credential),
                networks=old.networks,
                maker=by.person,
                expires_at=ends,
                replaces=old,
                **_made_by(by.person, by),
            )
        )
        Team.bump(team.pk)
        details = _details(made.token) | {"replaces": str(old.pk), "overlap_until": until.isoformat()}
        record(EventType.TOKEN_CREATE, "done", by=by, team=team, target=target_of(made.token), details=details)
    return made


def revoke(token: Token, *, by: Actor) -> bool:
    """The token stops working at once. False if it had already ended."""
    with transaction.atomic():
        Team.bump(token.team_id)  # also the lock
        if not Token.objects.unended().filter(pk=token.pk).update(revoked_at=timezone.now()):
            return False
        details = {"role": token.role}
        record(EventType.TOKEN_REVOKE, "done", by=by, team=token.team, target=target_of(token), details=details)
    return True


def target_of(token: Token) -> Target:
    return Target("token", str(token.pk), token.name)


def record_expired(token: Token, *, by: Actor) -> None:
    """In the transaction that has set `expired_at`."""
    details: dict[str, Any] = {"role": token.role, "expires_at": token.expires_at.isoformat()}
    details |= {"replaced": True} if token.replaced_at else {}
    record(EventType.TOKEN_EXPIRE, "done", by=by, team=token.team, target=target_of(token), details=details)


def _insert(token: Token) -> Made:
    secret = new_secret()
    token.digest, token.hint = digest_of(secret), secret[-HINT:]
    token.save(force_insert=True)
    return Made(token, secret)


def _made_by(maker: User | None, by: Actor) -> dict[str, Any]:
    """Without a maker, the system account of the command is named."""
    label = maker.label if maker else f"{by.type}, {by.label}"
    return {"maker_label": label[:LONGEST_LABEL], "made_by_command": maker is None and by.type == "command"}


def _locked(token: Token) -> Token:
    row = (
        Token.objects.unended()
        .select_for_update(of=("self",), no_key=True)
        .select_related("team")
        .filter(pk=token.pk)
        .first()
    )
    if row is None:
        raise UserError("This token has ended. Create a new one.")
    return row


def _expire_namesake(team: Team, name: str) -> None:
    """An expired token keeps its name only until the clock has recorded its end, at most a minute."""
    now = timezone.now()
    for token in Token.objects.unended().filter(team=team, expires_at__lte=now, replaced_at=None):
        if token.name.casefold() == name.casefold():
            Token.objects.filter(pk=token.pk).update(expired_at=now)
            record_expired(token, by=Actor.job("clock"))


def _refuse_taken(team: Team, name: str) -> None:
    if find_live(team, name) is not None:
        raise UserError(
            f"The team already has a token named {name}. Replace or revoke it, or choose another name.", field="name"
        )


def find_live(team: Team, name: str) -> Token | None:
    """The team's token with this name, ignoring case, that is neither ended nor replaced."""
    wanted = clean_line(name, LONGEST_NAME).casefold()
    tokens = Token.objects.unended().filter(team=team, replaced_at=None)
    return next((token for token in tokens if token.name.casefold() == wanted), None)


def _check_maker(team: Team, maker: User | None, role: TokenRole) -> None:
    """A token whose maker has a lower role would never work."""
    if maker is None:
        return
    needed = Action.RUNS_CANCEL if role is TokenRole.OPERATOR else Action.RUNS_VIEW
    access = access_of(maker, team)
    if access.team_role is None or not access.may(needed):
        raise UserError(
            f"{maker.email} needs at least the role {role.value} in this team to own this token.", field="role"
        )


def _checked_key(team: Team, credential: Credential | None) -> Credential | None:
    if credential is None:
        return None
    live = Credential.objects.live().filter(team=team, pk=credential.pk).first()
    if live is None:
        raise UserError("This API key was revoked. Choose another one.", field="credential")
    return live


def _clean_name(name: str) -> str:
    """Without invisible characters: two tokens of a team must not look the same."""
    cleaned = clean_line("".join(it for it in name if unicodedata.category(it) != "Cf"), LONGEST_NAME + 1)
    if not cleaned:
        raise UserError("Enter a name for the token.", field="name")
    if len(cleaned) > LONGEST_NAME:
        raise UserError(f"The name is too long. The limit is {LONGEST_NAME} characters.", field="name")
    if _SECRET.search(cleaned):
        raise UserError("This looks like a token itself. Choose a name that says who uses it.", field="name")
    if _LIKE_A_LABEL.search(unicodedata.normalize("NFKC", cleaned)):
        raise UserError(
            "In the audit log, this would look like another person or token. Choose a name that says which script uses "
            "the token, without “made by”.",
            field="name",
        )
    return cleaned


def _end(days: int) -> datetime:
    if not 1 <= days <= LONGEST_DAYS:
        raise UserError(f"A token works for 1 to {LONGEST_DAYS} days.", field="days")
    return timezone.now() + timedelta(days=days)


def _details(token: Token) -> dict[str, Any]:
    found: dict[str, Any] = {"role": token.role, "expires_at": token.expires_at.isoformat()}
    if token.networks:
        found["networks"] = token.networks
    if token.credential is not None:
        found["credential"] = token.credential.name
    return found
