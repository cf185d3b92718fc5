"""Creates, renames and archives teams, and provides the lock for every change within a team."""

import re

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.text import slugify

from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.models import ArizeHook, Channel, Credential, Delivery, Invitation, Task, Team, Token
from taskruns.models.channels import UNSENT
from taskruns.services.user_errors import UserError

LONGEST_NAME = 100
LONGEST_SLUG = 50
# `site` names the audit chain of the whole site; `new` is a page.
RESERVED_SLUGS = frozenset({"site", "new"})
_SLUG = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")


class TeamExists(UserError):
    """The requested team already exists."""

    def __init__(self, team: Team) -> None:
        self.team = team
        super().__init__(f"The team {team.name} ({team.slug}) already exists. Choose another name.", field="name")


def create_team(name: str, *, slug: str | None = None, by: Actor) -> Team:
    """Create a team without members or keys. Without `slug`, one is made from the name.

    Raises UserError, and TeamExists if the team exists (same slug and name, or same name and no slug given).
    """
    name = _clean_name(name)
    with transaction.atomic():
        team = _insert(name, _free_slug(name) if slug is None else _checked_slug(slug, name))
        details = {"slug": team.slug}
        record(EventType.TEAM_CREATE, "done", by=by, target=target_of(team), details=details)
    return team


def rename(team: Team, *, name: str, by: Actor) -> bool:
    """Rename the team. The slug stays, because bookmarks and scripts use it. False if unchanged. Raises UserError."""
    name = _clean_name(name)
    with transaction.atomic():
        before = lock_team(team)
        if before.name == name:
            return False
        Team.objects.filter(pk=team.pk).update(name=name)
        Team.bump(team.pk)
        team.name = name
        details = {"changed": ["name"], "before": before.name, "after": name}
        record(EventType.TEAM_CHANGE, "done", by=by, team=team, target=target_of(team), details=details)
    return True


def archive(team: Team, *, reason: str = "", by: Actor) -> bool:
    """Archive a team for good. Its keys are deleted, so the mirror stops; its audit log stays. False if unchanged."""
    with transaction.atomic():
        # Keys before the team, as everywhere, including the rounds of the mirror.
        keys = list(_live_keys(team).select_for_update(no_key=True))
        now = timezone.now()
        if not Team.objects.filter(pk=team.pk, archived_at=None).update(archived_at=now):
            return False
        _live_keys(team).update(revoked_at=now, ciphertext="", claimed_until=None)
        Task.objects.filter(team=team).update(credential=None)
        Channel.objects.filter(team=team, removed_at=None).update(removed_at=now, ciphertext="", hint="")
        ArizeHook.objects.filter(team=team, removed_at=None).update(removed_at=now, ciphertext="")
        Delivery.objects.filter(team=team, state__in=UNSENT).delete()
        revoked = open_invitations(team).update(revoked_at=now)
        tokens = list(Token.objects.filter(team=team, revoked_at=None, expired_at=None).order_by("pk"))
        Token.objects.filter(pk__in=[token.pk for token in tokens]).update(revoked_at=now)
        Team.bump(team.pk)
        for key in keys:
            record(EventType.CREDENTIAL_REVOKE, "done", by=by, team=team, credential=key, reason=reason)
        for token in tokens:
            _record_revoked(token, team, reason=reason, by=by)
        details = {"keys_revoked": len(keys), "invitations_revoked": revoked}
        target = target_of(team)
        record(EventType.TEAM_ARCHIVE, "done", by=by, team=team, target=target, reason=reason, details=details)
    return True


def lock_team(team: Team) -> Team:
    """Lock the team's row until the transaction ends. Raises UserError if the team is archived.

    no_key: rows that only refer to the team (runs, tasks) do not wait for this lock.
    """
    locked = Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    if locked.archived_at is not None:
        raise UserError("This team is archived. It can no longer be changed.")
    return locked


def open_invitations(team: Team) -> "QuerySet[Invitation]":
    """The invitations whose links still work."""
    now = timezone.now()
    return Invitation.objects.filter(team=team, accepted_at=None, revoked_at=None, expires_at__gt=now)


def target_of(team: Team) -> Target:
    return Target("team", str(team.pk), team.name)


def _record_revoked(token: Token, team: Team, *, reason: str, by: Actor) -> None:
    target, details = Target("token", str(token.pk), token.name), {"role": token.role, "why": "team archived"}
    record(EventType.TOKEN_REVOKE, "done", by=by, team=team, target=target, reason=reason, details=details)


def _live_keys(team: Team) -> "QuerySet[Credential]":
    return Credential.objects.filter(team=team, revoked_at=None).order_by("pk")


def _clean_name(name: str) -> str:
    cleaned = clean_line(name, LONGEST_NAME + 1)
    if not cleaned:
        raise UserError("Enter a name for the team.", field="name")
    if len(cleaned) > LONGEST_NAME:
        raise UserError(f"The name is too long. The limit is {LONGEST_NAME} characters.", field="name")
    return cleaned


def _checked_slug(slug: str, name: str) -> str:
    if not _SLUG.fullmatch(slug) or len(slug) > LONGEST_SLUG:
        raise UserError(
            f"Use lower-case letters, digits and hyphens for the slug, at most {LONGEST_SLUG} characters.",
            field="slug",
        )
    if slug in RESERVED_SLUGS:
        raise UserError(f"The slug {slug} is reserved. Choose another one.", field="slug")
    taken = Team.objects.filter(slug=slug).first()
    if taken is not None and taken.archived_at is None and taken.name == name:
        raise TeamExists(taken)
    if taken is not None:
        raise UserError(f"The slug {slug} belongs to another team. Choose another one.", field="slug")
    return slug


def _free_slug(name: str) -> str:
    same = Team.objects.active().filter(name=name).first()
    if same is not None:
        raise TeamExists(same)
    stem = slugify(name)[: LONGEST_SLUG - 5].strip("-_") or "team"
    taken = set(Team.objects.filter(slug__startswith=stem).values_list("slug", flat=True)) | RESERVED_SLUGS
    numbered = (f"{stem}-{number}" for number in range(2, len(taken) + 3))
    return next(slug for slug in (stem, *numbered) if slug not in taken)


def _insert(name: str, slug: str) -> Team:
    try:
        with transaction.atomic():
            return Team.objects.create(name=name, slug=slug)
    except IntegrityError:
        raise UserError(f"Another team has just taken the slug {slug}. Try again.", field="slug") from None
