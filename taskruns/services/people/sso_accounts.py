"""The accounts of single sign-on that people are connected to. Issuer and subject name one; an email never does."""

from dataclasses import dataclass, replace

import structlog
from allauth.socialaccount.models import SocialAccount
from django.db import IntegrityError, transaction

from taskruns.audit import Actor, EventType, record
from taskruns.models import Membership, Team, TeamRole, User
from taskruns.services import members
from taskruns.services.user_errors import UserError
from taskruns.sso import Provider

from . import accounts

log = structlog.get_logger(__name__)

LONGEST_SUBJECT = 191
NO_ADDRESS = (
    "Single sign-on sent no verified email address, and the panel identifies people by email. Ask your administrator, "
    "or sign in with your password and connect single sign-on in your profile."
)
KNOWN_ADDRESS = (
    "An account with your email address exists, but single sign-on is not connected to it. "
    "The address alone is no proof of identity. Sign in with the password, then connect single sign-on in your profile."
)
SOMEBODY_ELSES = "This identity is already connected to another account of the panel. Disconnect it there first."
ONE_ALREADY = "Your account is already connected to another identity at this provider. Disconnect that one first."
ONLY_WAY_IN = (
    "Your account has no password, so you can sign in only with single sign-on. "
    "Ask your administrator for a password before you disconnect it."
)
STRANGE_SUBJECT = "Single sign-on sent an identity that is too long to store. Ask your administrator."


@dataclass(frozen=True, slots=True)
class SsoProfile:
    """What the provider says about a person. `groups` is None when it says nothing about groups."""

    provider: Provider
    subject: str
    email: str
    is_verified: bool
    name: str
    groups: frozenset[str] | None


def account_of(person: User, provider: Provider) -> SocialAccount | None:
    found: SocialAccount | None = SocialAccount.objects.filter(user=person, provider=provider.id).first()
    return found


def admit(profile: SsoProfile, *, by: Actor) -> SocialAccount:
    """An account for somebody whom the panel has never met: without password, role or team. Raises UserError."""
    if not profile.email or not profile.is_verified:
        raise UserError(NO_ADDRESS)
    try:
        known = accounts.find_person(profile.email)
    except UserError:
        raise UserError(NO_ADDRESS) from None
    if known is not None:
        raise UserError(KNOWN_ADDRESS)
    with transaction.atomic():
        details = {"single_sign_on": profile.provider.issuer, "subject": profile.subject}
        person = accounts.create_person(profile.email, password=None, name=profile.name, by=by, details=details)
        return _attach(person, profile)


def connect(person: User, profile: SsoProfile, *, by: Actor) -> None:
    """From now on this account of the provider signs in to the person's. Raises UserError."""
    if SocialAccount.objects.filter(provider=profile.provider.id, uid=profile.subject).exists():
        raise UserError(SOMEBODY_ELSES)
    if account_of(person, profile.provider) is not None:
        raise UserError(ONE_ALREADY)
    with transaction.atomic():
        _attach(person, profile)
        _record(person, profile.provider, profile.subject, "connected", by=by)


def disconnect(person: User, provider: Provider, *, by: Actor) -> bool:
    """False if it was not connected. Raises UserError: it is the only way in."""
    if not person.has_usable_password():
        raise UserError(ONLY_WAY_IN)
    account = account_of(person, provider)
    if account is None:
        return False
    with transaction.atomic():
        subject = account.uid
        account.delete()
        _record(person, provider, subject, "disconnected", by=by)
    return True


def follow_groups(person: User, profile: SsoProfile, *, by: Actor) -> None:
    """Give, change and take the roles that OIDC_GROUP_ROLES ties to groups. What people gave by hand stays.

    Without any word about groups nothing changes: a provider that is set up wrongly must not empty the teams.
    """
    if profile.groups is None:
        return
    clerk = replace(Actor.job("single sign-on"), ip=by.ip, request_id=by.request_id)
    wanted = profile.provider.roles_for(profile.groups)
    for slug in sorted(profile.provider.teams):
        team = Team.objects.active().filter(slug=slug).first()
        if team is None:
            log.warning("group_role_of_no_team", team=slug)
            continue
        try:
            _follow(team, person, wanted.get(slug), by=clerk)
        except UserError as refused:
            log.warning("group_role_not_followed", team=slug, reason=refused.sentence)


def _follow(team: Team, person: User, role: str | None, *, by: Actor) -> None:
    known = Membership.objects.filter(team=team, user=person).first()
    if known is None and role:
        members.add(team, person, role=TeamRole(role), by=by, by_groups=True)
    elif known is not None and known.by_groups and role:
        members.change_role(team, person, role=TeamRole(role), by=by, by_groups=True)
    elif known is not None and known.by_groups:
        members.remove(team, person, by=by)


def _attach(person: User, profile: SsoProfile) -> SocialAccount:
    if len(profile.subject) > LONGEST_SUBJECT:
        raise UserError(STRANGE_SUBJECT)
    try:
        with transaction.atomic():
            account: SocialAccount = SocialAccount.objects.create(
                user=person, provider=profile.provider.id, uid=profile.subject
            )
    except IntegrityError:
        raise UserError(SOMEBODY_ELSES) from None
    return account


def _record(person: User, provider: Provider, subject: str, change: str, *, by: Actor) -> None:
    details = {"changed": ["single sign-on"], "single_sign_on": change, "issuer": provider.issuer, "subject": subject}
    record(EventType.PROFILE_CHANGE, "done", by=by, target=accounts.target_of(person), details=details)
