"""Invitations to a team for people without an account: a signed link that works once, for seven days.

Neither the link nor the token is stored.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core import signing
from django.core.cache import cache
from django.db import transaction
from django.db.models import Q
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import Invitation, Limit, Membership, SignInCount, Team, TeamRole, User
from taskruns.permissions import Action, access_of

from . import members, teams
from .people import accounts
from .user_errors import UserError

VALID_FOR = timedelta(days=7)
CLAIM = timedelta(minutes=5)  # of the worker that mails one
# By one person: a script must not be able to make the panel send mail without limit.
INVITED = Limit("invitations", 100, timedelta(days=1))
_SALT = "taskruns.invitation"


class InvitationInvalid(UserError):
    """The link is forged, expired, used or revoked, the team is archived, or the inviter may no longer invite.

    The sentence is the same in all cases, so that guessing reveals nothing.
    """

    def __init__(self) -> None:
        super().__init__("This invitation is no longer valid. Ask the person who sent it for a new one.")


@dataclass(frozen=True, slots=True)
class Invited:
    """`token` is part of the link and shown only once. Empty if the link goes by mail, or if the person had an account
    and was added at once.
    """

    email: str
    token: str = ""
    is_mailed: bool = False


def create_team(name: str, *, slug: str | None, manager: str, by: Actor) -> tuple[Team, Invited | None]:
    """Create a team and, if an address is given, add or invite its first manager, in one transaction.

    Raises UserError; a problem with the address has the field `manager`.
    """
    with transaction.atomic():
        team = teams.create_team(name, slug=slug, by=by)
        if not manager:
            return team, None
        try:
            return team, invite(team, email=manager, role=TeamRole.MANAGER, by=by)
        except UserError as error:
            raise UserError(error.sentence, field="manager") from None


def invite(team: Team, *, email: str, role: TeamRole, by: Actor) -> Invited:
    """Add a person who has an account, or create a link for one who has none. An older open link stops working.

    If the panel sends mail, only the mail holds the link: an inviter who saw it could join in the other's name.
    Raises UserError if they are already a member or disabled, the team is archived, or the email address is invalid.
    """
    email = accounts.clean_email(email)
    person = accounts.find_person(email)
    if person is None:
        invitation = _create_invitation(team, email=email, role=role, by=by)
        return Invited(email, is_mailed=True) if invitation.by_mail else Invited(email, _token_of(invitation))
    if Membership.objects.filter(team=team, user=person).exists():
        raise UserError(f"{email} is already a member of this team.", field="email")
    members.add(team, person, role=role, by=by)
    return Invited(email)


def _create_invitation(team: Team, *, email: str, role: TeamRole, by: Actor) -> Invitation:
    now = timezone.now()
    with transaction.atomic():
        if by.person is not None and not SignInCount.objects.try_count(INVITED, str(by.person.pk)):
            sentence = f"You invited {INVITED.attempts} people within a day, which is the limit. Try again tomorrow."
            raise UserError(sentence, field="email")
        team = teams.lock_team(team)
        replaced = teams.open_invitations(team).filter(email=email).update(revoked_at=now)
        invitation = Invitation.objects.create(
            team=team,
            email=email,
            role=role,
            created_by=by.person,
            created_at=now,
            expires_at=now + VALID_FOR,
            by_mail=settings.MAILS,
        )
        details = {"role": role.value, "replaces": replaced, "expires_at": invitation.expires_at.isoformat()}
        _record(EventType.INVITATION_CREATE, invitation, by=by, details=details)
    return invitation


def to_mail() -> Iterator[tuple[Invitation, str]]:
    """Claim the open invitations that were not mailed yet, with their tokens. The claim lets one worker mail each, and
    expires if that worker dies.
    """
    due = Invitation.objects.filter(
        by_mail=True, mailed_at=None, accepted_at=None, revoked_at=None, expires_at__gt=timezone.now()
    )
    for invitation in due.filter(team__archived_at=None).select_related("team", "created_by"):
        if not cache.add(_claim(invitation), True, timeout=CLAIM.total_seconds()):
            continue
        if Invitation.objects.filter(pk=invitation.pk, mailed_at=None).exists():
            yield invitation, _token_of(invitation)


def note_mailed(invitation: Invitation, *, is_sent: bool) -> None:
    """If the mail server refused it, it is due again."""
    if is_sent:
        Invitation.objects.filter(pk=invitation.pk).update(mailed_at=timezone.now())
    cache.delete(_claim(invitation))


def _claim(invitation: Invitation) -> str:
    return f"taskruns.invitation.mailing:{invitation.pk}"


def revoke_invitation(invitation: Invitation, *, by: Actor) -> bool:
    """False if it was already used, revoked or expired."""
    with transaction.atomic():
        teams.lock_team(invitation.team)
        rows = teams.open_invitations(invitation.team).filter(pk=invitation.pk)
        if not rows.update(revoked_at=timezone.now()):
            return False
        _record(EventType.INVITATION_REVOKE, invitation, by=by, details={"role": invitation.role})
    return True


def open_invitation(token: str) -> Invitation:
    """The invitation of a link's token. Raises InvitationInvalid."""
    try:
        pk = signing.loads(token, salt=_SALT, max_age=VALID_FOR)
    except signing.BadSignature:
        raise InvitationInvalid from None
    invitation = Invitation.objects.select_related("team", "created_by").filter(pk=pk).first()
    if invitation is None or not invitation.is_open or invitation.team.archived_at is not None:
        raise InvitationInvalid
    _check_inviter(invitation)
    return invitation


def _check_inviter(invitation: Invitation) -> None:
    """People who left must not come back with a link that they created before. Raises InvitationInvalid."""
    person = invitation.created_by
    if person is None:  # a command, or a person who was deleted
        return
    if not access_of(person, invitation.team).may(Action.MEMBERS_MANAGE):
        raise InvitationInvalid


@sensitive_variables("password")
def accept_with_new_account(invitation: Invitation, *, name: str, password: str, by: Actor) -> User:
    """Create the account and the membership in one transaction over two audit chains, the site's first as everywhere.
    The team is locked before the invitation, as everywhere.

    `by` is the anonymous visitor. Raises InvitationInvalid; UserError if the password is weak or the account exists.
    """
    invited_by = "" if invitation.by_mail else _inviter(invitation)
    person = accounts.new_person(invitation.email, password=password, name=name, invited_by=invited_by)
    with transaction.atomic():
        try:
            accounts.insert_person(person, by=by, details={"invitation": str(invitation.pk)})
        except UserError:
            # By a parallel accept of the same link, perhaps.
            if not teams.open_invitations(invitation.team).filter(pk=invitation.pk).exists():
                raise InvitationInvalid from None
            raise
        as_person = replace(by, type="user", id=str(person.pk), label=person.label, person=person)
        accept_invitation(invitation, person=person, by=as_person)
    return person


def accept_invitation(invitation: Invitation, *, person: User, by: Actor) -> None:
    """Accept the invitation and make `person` a member. Someone who is already a member keeps their role.

    A link that went by mail verifies the address.
    Only the first of two concurrent accepts succeeds. Raises InvitationInvalid, also if someone else was invited.
    """
    try:
        with transaction.atomic():
            if invitation.by_mail and person.email == invitation.email:
                accounts.verify_email(person, by=by)
            team = teams.lock_team(invitation.team)
            _check_inviter(invitation)
            _mark_accepted(invitation, person)
            member, _ = Membership.objects.get_or_create(team=team, user=person, defaults={"role": invitation.role})
            _record(EventType.INVITATION_ACCEPT, invitation, by=by, details={"role": member.role})
    except UserError:
        raise InvitationInvalid from None


def _mark_accepted(invitation: Invitation, person: User) -> None:
    theirs = Q(pk=invitation.pk, email=person.email)
    rows = teams.open_invitations(invitation.team).filter(theirs)
    if not rows.update(accepted_at=timezone.now()):
        raise InvitationInvalid


def _inviter(invitation: Invitation) -> str:
    return invitation.created_by.email if invitation.created_by else "a manager"


def _token_of(invitation: Invitation) -> str:
    return signing.dumps(str(invitation.pk), salt=_SALT)


def _record(event: EventType, invitation: Invitation, *, by: Actor, details: dict[str, Any]) -> None:
    target = Target("invitation", str(invitation.pk), invitation.email)
    record(event, "done", by=by, team=invitation.team, target=target, details=details)
