"""Links between people and their SSO accounts. Issuer and subject identify an SSO account; the email never does."""

from dataclasses import dataclass, replace

import structlog
from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.models import EmailStatus, Membership, Team, TeamRole, User
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
UNVERIFIED_ADDRESS = (
    "An account with your email address already exists. Someone else invited it, and nobody has verified the address. "
    "Ask a site admin to change the address of that account. Then sign in again."
)
CONNECTED_ELSEWHERE = (
    "This single sign-on account is connected to another account of the panel. Disconnect it there first."
)
ONE_ALREADY = "Your account is already connected to another single sign-on account. Disconnect that one first."
ONLY_SIGN_IN = (
    "Your account has no password, so you can sign in only with single sign-on. "
    "Ask your administrator for a password before you disconnect it."
)
NOTHING_ELSE_ALLOWED = "Everyone here signs in with single sign-on, so it cannot be disconnected."
UNSTORABLE_SUBJECT = "Single sign-on sent a user ID that cannot be stored. Ask your administrator."


@dataclass(frozen=True, slots=True)
class SsoProfile:
    """What the provider says about a person. `groups` is None if it says nothing about groups."""

    provider: Provider
    subject: str
    email: str
    is_verified: bool
    name: str
    groups: frozenset[str] | None


def checked_subject(subject: str) -> str:
    """The subject itself. Raises UserError if the database cannot store it."""
    if len(subject) > LONGEST_SUBJECT or "\0" in subject:
        raise UserError(UNSTORABLE_SUBJECT)
    return subject


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
        raise UserError(KNOWN_ADDRESS if known.email_status == EmailStatus.VERIFIED else UNVERIFIED_ADDRESS)
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
    """False if not connected. Raises UserError if the person could no longer sign in."""
    if settings.SSO_ONLY:
        raise UserError(NOTHING_ELSE_ALLOWED)
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


def follow(person: User, profile: SsoProfile, *, by: Actor) -> bool:
    """Take over name, address and groups from the provider, where the person has just signed in.

    False if another account has the new address: the person then keeps the old one.
    """
    with transaction.atomic():
        User.objects.filter(pk=person.pk).update(sso_signed_in_at=timezone.now())
        is_followed = _follow_profile(person, profile, by=_job(by))
        follow_groups(person, profile, by=by)
    return is_followed


def follow_groups(person: User, profile: SsoProfile, *, by: Actor) -> None:
    """Give, change and remove the roles that OIDC_GROUP_ROLES maps to groups. Roles that people gave are kept.

    If the provider sends no groups, the person loses these roles: someone who left all groups must not keep them.
    """
    if not profile.provider.teams:
        return
    if profile.groups is None:
        log.warning("groups_missing", claim=profile.provider.groups_claim, person=str(person.pk))
    job = _job(by)
    wanted = profile.provider.roles_for(profile.groups or ())
    for slug in sorted(profile.provider.teams):
        team = Team.objects.active().filter(slug=slug).first()
        if team is None:
            log.warning("group_role_of_no_team", team=slug)
            continue
        try:
            _apply_role(team, person, wanted.get(slug), by=job)
        except UserError as refused:
            log.warning("group_role_not_followed", team=slug, reason=refused.sentence)


def _job(by: Actor) -> Actor:
    return replace(Actor.job("single sign-on"), ip=by.ip, request_id=by.request_id)


def _follow_profile(person: User, profile: SsoProfile, *, by: Actor) -> bool:
    """People with a password keep their address, because they sign in with it."""
    email = profile.email.strip().lower() if profile.is_verified else ""
    if email and email == person.email:
        accounts.verify_email(person, by=by)
    if person.has_usable_password() and not settings.SSO_ONLY:
        return True
    name = profile.name or person.name
    try:
        accounts.change_person(person, name=name, email=email or person.email, is_verified=True, by=by)
    except UserError as refused:
        log.warning("email_of_provider_not_followed", person=str(person.pk), reason=refused.sentence)
        accounts.change_person(person, name=name, email=person.email, by=by)
        return refused.sentence != accounts.TAKEN
    return True


def _apply_role(team: Team, person: User, role: str | None, *, by: Actor) -> None:
    known = Membership.objects.filter(team=team, user=person).first()
    if known is None and role:
        members.add(team, person, role=TeamRole(role), by=by, by_groups=True)
    elif known is not None and known.by_groups and role:
        members.change_role(team, person, role=TeamRole(role), by=by, by_groups=True)
    elif known is not None and known.by_groups:
        members.remove(team, person, by=by)


def _link(person: User, profile: SsoProfile) -> SocialAccount:
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
