"""Links between people and their SSO accounts. Issuer and subject identify an SSO account; the email never does."""

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
    "Single sign-on did not provide a verified email address, which the panel needs to identify you. "
    "Ask the administrator of your single sign-on, or sign in with a password and connect it in your profile."
)
KNOWN_ADDRESS = (
    "An account with your email address already exists, but single sign-on is not connected to it. An email address "
    "alone does not prove who you are. Sign in with its password and connect single sign-on in your profile."
)
CONNECTED_ELSEWHERE = "This identity is connected to another account of the panel. Disconnect it there first."
ONE_ALREADY = "Your account is connected to another identity at this provider. Disconnect that one first."
ONLY_SIGN_IN = (
    "Your account has no password, so you can sign in only with single sign-on. "
    "Ask your administrator for a password before you disconnect it."
)
SUBJECT_TOO_LONG = "Single sign-on sent an identity that is too long to store. Ask your administrator."


@dataclass(frozen=True, slots=True)
class SsoProfile:
    """What the provider says about a person. `groups` is None if it says nothing about groups."""

    provider: Provider
    subject: str
    email: str
    is_verified: bool
    name: str
    groups: frozenset[str] | None


def account_of(person: User, provider: Provider) -> SocialAccount | None:
    found: SocialAccount | None = SocialAccount.objects.filter(user=person, provider=provider.id).first()
    return found


def create_sso_person(profile: SsoProfile, *, by: Actor) -> SocialAccount:
    """Create an account without password, role or team at the first sign-in by SSO. Raises UserError."""
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
        return _link(person, profile)


def connect(person: User, profile: SsoProfile, *, by: Actor) -> None:
    """Let this SSO account sign in to the person's account. Raises UserError."""
    if SocialAccount.objects.filter(provider=profile.provider.id, uid=profile.subject).exists():
        raise UserError(CONNECTED_ELSEWHERE)
    if account_of(person, profile.provider) is not None:
        raise UserError(ONE_ALREADY)
    with transaction.atomic():
        _link(person, profile)
        _record(person, profile.provider, profile.subject, "connected", by=by)


def disconnect(person: User, provider: Provider, *, by: Actor) -> bool:
    """False if not connected. Raises UserError if the person has no password and could no longer sign in."""
    if not person.has_usable_password():
        raise UserError(ONLY_SIGN_IN)
    account = account_of(person, provider)
    if account is None:
        return False
    with transaction.atomic():
        subject = account.uid
        account.delete()
        _record(person, provider, subject, "disconnected", by=by)
    return True


def follow_groups(person: User, profile: SsoProfile, *, by: Actor) -> None:
    """Give, change and remove the roles that OIDC_GROUP_ROLES maps to groups. Roles that people gave are kept.

    If the provider says nothing about groups, nothing changes: a wrong configuration must not empty the teams.
    """
    if profile.groups is None:
        return
    job = replace(Actor.job("single sign-on"), ip=by.ip, request_id=by.request_id)
    wanted = profile.provider.roles_for(profile.groups)
    for slug in sorted(profile.provider.teams):
        team = Team.objects.active().filter(slug=slug).first()
        if team is None:
            log.warning("group_role_of_no_team", team=slug)
            continue
        try:
            _apply_role(team, person, wanted.get(slug), by=job)
        except UserError as refused:
            log.warning("group_role_not_followed", team=slug, reason=refused.sentence)


def _apply_role(team: Team, person: User, role: str | None, *, by: Actor) -> None:
    known = Membership.objects.filter(team=team, user=person).first()
    if known is None and role:
        members.add(team, person, role=TeamRole(role), by=by, by_groups=True)
    elif known is not None and known.by_groups and role:
        members.change_role(team, person, role=TeamRole(role), by=by, by_groups=True)
    elif known is not None and known.by_groups:
        members.remove(team, person, by=by)


def _link(person: User, profile: SsoProfile) -> SocialAccount:
    if len(profile.subject) > LONGEST_SUBJECT:
        raise UserError(SUBJECT_TOO_LONG)
    try:
        with transaction.atomic():
            account: SocialAccount = SocialAccount.objects.create(
                user=person, provider=profile.provider.id, uid=profile.subject
            )
    except IntegrityError:
        raise UserError(CONNECTED_ELSEWHERE) from None
    return account


def _record(person: User, provider: Provider, subject: str, change: str, *, by: Actor) -> None:
    details = {"changed": ["single sign-on"], "single_sign_on": change, "issuer": provider.issuer, "subject": subject}
    record(EventType.PROFILE_CHANGE, "done", by=by, target=accounts.target_of(person), details=details)
