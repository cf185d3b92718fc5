"""Teams: making, renaming and archiving them, and the lock under which anything in a team changes."""

import re

from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.text import slugify

from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.models import Credential, Invitation, Task, Team
from taskruns.services.user_errors import UserError

LONGEST_NAME = 100
LONGEST_SLUG = 50
# `site` is the audit chain of no team; `new` is a page.
RESERVED_SLUGS = frozenset({"site", "new"})
_SLUG = re.compile(r"[a-z0-9]+(?:[-_][a-z0-9]+)*")


class TeamExists(UserError):
    """The very team that was asked for is there already."""

    def __init__(self, team: Team) -> None:
        self.team = team
        super().__init__(f"There already is a team {team.name} ({team.slug}).", field="name")


def create_team(name: str, *, slug: str | None = None, by: Actor) -> Team:
    """A team without members or keys. Without `slug` one is made of the name.

    Raises TeamExists when that team is there already (same slug and name, or same name and no slug asked for), and
    UserError.
    """
    name = _clean_name(name)
    with transaction.atomic():
        team = _insert(name, _free_slug(name) if slug is None else _checked_slug(slug, name))
        details = {"slug": team.slug}
        record(EventType.TEAM_CREATE, "done", by=by, target=target_of(team), details=details)
    return team


def rename(team: Team, *, name: str, by: Actor) -> bool:
    """False if it was the name already. The slug stays: bookmarks and scripts hold it. Raises UserError."""
    name = _clean_name(name)
    with transaction.atomic():
        before = lock_team(team)
        if before.name == name:
            return False
        Team.objects.filter(pk=team.pk).update(name=name)
        team.name = name
        details = {"changed": ["name"], "before": before.name, "after": name}
        record(EventType.TEAM_CHANGE, "done", by=by, team=team, target=target_of(team), details=details)
    return True


def archive(team: Team, *, by: Actor) -> bool:
    """End a team for good: its keys are destroyed, so reading stops; its log stays. False if it was so already."""
    with transaction.atomic():
        # Keys before the team, as everywhere: a round of reading locks them in this order too.
        keys = list(_live_keys(team).select_for_update(no_key=True))
        now = timezone.now()
        if not Team.objects.filter(pk=team.pk, archived_at=None).update(archived_at=now):
            return False
        _live_keys(team).update(revoked_at=now, ciphertext="", claimed_until=None)
        Task.objects.filter(team=team).update(credential=None)
        withdrawn = open_invitations(team).update(revoked_at=now)
        Team.bump(team.pk)
        for key in keys:
            record(EventType.CREDENTIAL_REVOKE, "done", by=by, team=team, credential=key)
        details = {"keys_revoked": len(keys), "invitations_revoked": withdrawn}
        record(EventType.TEAM_ARCHIVE, "done", by=by, team=team, target=target_of(team), details=details)
    return True


def lock_team(team: Team) -> Team:
    """The team's row, locked until the transaction ends. Raises UserError if it is archived.

    no_key: rows that only point at the team (runs, tasks) need not wait for it.
    """
    locked = Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    if locked.archived_at is not None:
        raise UserError("This team is archived. It can no longer be changed.")
    return locked


def open_invitations(team: Team) -> "QuerySet[Invitation]":
    """Links that still work."""
    now = timezone.now()
    return Invitation.objects.filter(team=team, accepted_at=None, revoked_at=None, expires_at__gt=now)


def target_of(team: Team) -> Target:
    return Target("team", str(team.pk), team.name)


def _live_keys(team: Team) -> "QuerySet[Credential]":
    return Credential.objects.filter(team=team, revoked_at=None).order_by("pk")


def _clean_name(name: str) -> str:
    cleaned = clean_line(name, LONGEST_NAME + 1)
    if not cleaned:
        raise UserError("Give the team a name.", field="name")
    if len(cleaned) > LONGEST_NAME:
        raise UserError(f"A team's name has at most {LONGEST_NAME} characters.", field="name")
    return cleaned


def _checked_slug(slug: str, name: str) -> str:
    if not _SLUG.fullmatch(slug) or len(slug) > LONGEST_SLUG:
        raise UserError(
            f"A slug is made of small letters, digits and hyphens, at most {LONGEST_SLUG} characters.", field="slug"
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
        raise UserError(f"The slug {slug} was taken just now. Please try again.", field="slug") from None
