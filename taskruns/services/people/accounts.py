"""Accounts of people: create, name and address, site role, password, disable, enable, profile.

Recorded in the site's chain.
"""

from datetime import timedelta
from typing import Any

from allauth.account.models import EmailAddress
from django.conf import settings
from django.contrib.auth.hashers import check_password, make_password
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.models import EmailStatus, SiteRole, Theme, User
from taskruns.models.people import LONGEST_NAME
from taskruns.services.user_errors import UserError

from . import factors, sessions

PASSWORD_WORKS_FOR = timedelta(hours=1)  # with SSO_ONLY, for a site admin whose sign-in a command has reset
NO_LONGER_ADMIN = "You are no longer a site admin. Nothing was changed."
TAKEN = "An account with this email address already exists."


class AccountChanged(UserError):
    """The account was disabled, or its address or password changed, since the request loaded it. Nothing was done."""

    def __init__(self) -> None:
        super().__init__("Your account was changed at the same time. Your password was not changed. Try again.")


def clean_email(email: str) -> str:
    """In lower case, because upper and lower case are the same address. Raises UserError."""
    address = email.strip().lower()
    try:
        validate_email(address)
    except ValidationError:
        raise UserError("This is not an email address.", field="email") from None
    if len(address) > 254:
        raise UserError("This email address is too long. The limit is 254 characters.", field="email")
    return address


def find_person(email: str) -> User | None:
    """The account with this address, even if disabled. Raises UserError if it is not an address."""
    return User.objects.filter(email=clean_email(email)).first()


def target_of(person: User) -> Target:
    return Target("person", str(person.pk), person.email)


@sensitive_variables("password")
def create_person(
    email: str,
    *,
    password: str | None,
    name: str = "",
    invited_by: str = "",
    by: Actor,
    details: dict[str, Any] | None = None,
) -> User:
    """Create an account that can sign in at once; without a password, only by single sign-on.

    `invited_by`: who entered the address, if it is not verified.
    Raises UserError if the address is taken or the password too weak.
    """
    person = new_person(email, password=password, name=name, invited_by=invited_by)
    insert_person(person, by=by, details=details)
    return person


@sensitive_variables("password")
def new_person(email: str, *, password: str | None, name: str = "", invited_by: str = "") -> User:
    """An account for `insert_person`. Hashing its password takes long, so no lock may be held. Raises UserError."""
    person = User(email=clean_email(email), name=clean_line(name, LONGEST_NAME))
    if invited_by:
        person.email_status, person.email_vouched_by = EmailStatus.INVITED, invited_by
    if password is not None:
        _check_new_password(password, person)
    person.set_password(password)
    return person


def insert_person(person: User, *, by: Actor, details: dict[str, Any] | None = None) -> None:
    """Raises UserError if the address is taken."""
    with transaction.atomic():
        _insert(person)
        record(EventType.PERSON_CREATE, "done", by=by, target=target_of(person), details=details)


def change_person(person: User, *, name: str, email: str, is_verified: bool = False, by: Actor) -> bool:
    """False if the person has this name and address already. `is_verified`: the provider has verified the new address.

    Raises UserError: no email address, or another account has it.
    """
    wanted = {"name": clean_line(name, LONGEST_NAME), "email": clean_email(email)}
    with transaction.atomic():
        before = _locked(person)
        changed = {field: value for field, value in wanted.items() if getattr(before, field) != value}
        if not changed:
            return False
        status = _status_of(by, is_verified=is_verified) if "email" in changed else {}
        _update(person, changed | status)
        details = {
            "changed": sorted(changed),
            "before": {field: getattr(before, field) for field in changed},
            "after": changed,
        }
        record(EventType.PERSON_CHANGE, "done", by=by, target=target_of(before), details=details)
    return True


def verify_email(person: User, *, by: Actor) -> bool:
    """Mark the address as verified. False if it already was, or if the account has another address now."""
    with transaction.atomic():
        rows = User.objects.filter(pk=person.pk, email=person.email).exclude(email_status=EmailStatus.VERIFIED)
        if not rows.update(email_status=EmailStatus.VERIFIED, email_vouched_by=""):
            return False
        details = {"changed": ["email status"], "why": "verified"}
        record(EventType.PERSON_CHANGE, "done", by=by, target=target_of(person), details=details)
    person.email_status, person.email_vouched_by = EmailStatus.VERIFIED, ""
    return True


def password_works(person: User) -> bool:
    """Whether the person may use a password: with SSO_ONLY, only a site admin whose sign-in a command has reset."""
    if not settings.SSO_ONLY:
        return True
    until = person.password_works_until
    return person.site_role == SiteRole.ADMIN and until is not None and until > timezone.now()


def grant_site_role(person: User, *, role: SiteRole, by: Actor) -> bool:
    """True if the person did not have this site role before. Raises UserError for one's own role, and if whoever acts
    is no longer a site admin.
    """
    _refuse_oneself(person, by, "your own role")
    with transaction.atomic():
        person = _locked_by_admin(person, by)
        if person.site_role == role:
            return False
        details = {"before": person.site_role, "after": role.value}
        User.objects.filter(pk=person.pk).update(site_role=role)
        record(EventType.PERSON_GRANT, "done", by=by, target=target_of(person), details=details)
    return True


@sensitive_variables("password")
def reset_sign_in(person: User, *, password: str, drop_factors: bool = False, by: Actor) -> bool:
    """Set the password, remove the second factors if `drop_factors`, and end every session of the person.

    With SSO_ONLY the new password of a site admin works for an hour. False if nothing changed.
    A disabled account stays disabled. Raises UserError if the password is too weak.
    """
    _check_new_password(password, person)
    with transaction.atomic():
        person = _locked(person)
        dropped = factors.drop(person) if drop_factors else 0
        lets_in = settings.SSO_ONLY and person.site_role == SiteRole.ADMIN and not password_works(person)
        # Not person.check_password(), which may save a newer hash of the same password.
        if check_password(password, person.password) and not dropped and not lets_in:
            return False
        person.set_password(password)
        details: dict[str, Any] = {"factors_dropped": dropped} if drop_factors else {}
        if lets_in:
            person.password_works_until = timezone.now() + PASSWORD_WORKS_FOR
            details["works_until"] = person.password_works_until.isoformat()
        person.save(update_fields=["password", "password_works_until"])
        details["sessions_ended"] = sessions.delete(person)
        record(EventType.PERSON_RESET, "done", by=by, target=target_of(person), details=details)
    return True


@sensitive_variables("password")
def set_own_password(person: User, *, password: str) -> None:
    """Store only the password: `person` was loaded before a site admin may have changed the account. The caller's
    transaction records it. Raises AccountChanged.
    """
    hashed = make_password(password)
    with transaction.atomic():
        # The address too: a link that was mailed to the old one must not set the password.
        row = _locked(person)
        if not row.is_active or (row.password, row.email) != (person.password, person.email):
            raise AccountChanged
        User.objects.filter(pk=person.pk).update(password=hashed)
    person.refresh_from_db()


def disable_person(person: User, *, reason: str = "", by: Actor) -> bool:
    """Prevent sign-in and end every session; memberships remain. False if already disabled.

    Raises UserError for one's own account, and if whoever acts is no longer a site admin.
    """
    _refuse_oneself(person, by, "your own account")
    with transaction.atomic():
        person = _locked_by_admin(person, by)
        if not person.is_active:
            return False
        User.objects.filter(pk=person.pk).update(is_active=False)
        details = {"sessions_ended": sessions.delete(person)}
        record(EventType.PERSON_DISABLE, "done", by=by, target=target_of(person), reason=reason, details=details)
    return True


def enable_person(person: User, *, by: Actor) -> bool:
    """Allow sign-in again, with the same password and factors. False if the account was not disabled."""
    with transaction.atomic():
        person = _locked(person)
        if person.is_active:
            return False
        User.objects.filter(pk=person.pk).update(is_active=True)
        record(EventType.PERSON_ENABLE, "done", by=by, target=target_of(person))
    return True


def change_profile(person: User, *, name: str, time_zone: str, theme: Theme, shortcuts: bool, by: Actor) -> bool:
    """False if nothing changed. The form has checked the values."""
    name = clean_line(name, LONGEST_NAME)
    wanted = {"name": name, "time_zone": time_zone, "theme": theme.value, "shortcuts": shortcuts}
    with transaction.atomic():
        before = _locked(person)
        changed = [field for field, value in wanted.items() if getattr(before, field) != value]
        if not changed:
            return False
        User.objects.filter(pk=person.pk).update(**wanted)
        details = {
            "changed": changed,
            "before": {field: getattr(before, field) for field in changed},
            "after": {field: wanted[field] for field in changed},
        }
        record(EventType.PROFILE_CHANGE, "done", by=by, target=target_of(person), details=details)
    return True


def password_changed(person: User, *, session_key: str, by: Actor) -> None:
    """Record a change that the person made in the session `session_key`, and end their other sessions."""
    with transaction.atomic():
        details = {"sessions_ended": sessions.delete(person, keep=session_key)}
        record(EventType.AUTH_PASSWORD_CHANGE, "done", by=by, target=target_of(person), details=details)


def _insert(person: User) -> None:
    try:
        with transaction.atomic():
            person.save(force_insert=True)
    except IntegrityError:
        raise UserError(TAKEN, field="email") from None


def _update(person: User, values: dict[str, Any]) -> None:
    try:
        with transaction.atomic():
            User.objects.filter(pk=person.pk).update(**values)
    except IntegrityError:
        raise UserError(TAKEN, field="email") from None
    # allauth may have noted the old address as theirs.
    EmailAddress.objects.filter(user=person).delete()
    for field, value in values.items():
        setattr(person, field, value)


def _status_of(by: Actor, *, is_verified: bool) -> dict[str, str]:
    if is_verified:
        return {"email_status": EmailStatus.VERIFIED, "email_vouched_by": ""}
    vouched_by = by.person.email if by.person is not None else by.label
    return {"email_status": EmailStatus.CHANGED, "email_vouched_by": vouched_by}


def _refuse_oneself(person: User, by: Actor, what: str) -> None:
    """Site admins could lock out themselves, and with the last one everyone."""
    if by.person is not None and by.person.pk == person.pk:
        raise UserError(f"Another site admin has to change {what}.")


def _locked(person: User) -> User:
    # no_key: rows that only refer to the person (memberships, cancellations) do not wait for this lock.
    return User.objects.select_for_update(no_key=True).get(pk=person.pk)


def _locked_by_admin(person: User, by: Actor) -> User:
    """Lock the person and all active site admins: two who demote each other at the same time would leave none. Nobody
    changes their own account this way, so whoever acts remains. Commands may act without any site admin.
    """
    if by.person is None:
        return _locked(person)
    is_admin = Q(site_role=SiteRole.ADMIN, is_active=True)
    rows = User.objects.select_for_update(no_key=True).filter(is_admin | Q(pk=person.pk)).order_by("pk")
    locked = {row.pk: row for row in rows}
    if by.person.pk not in locked:
        raise UserError(NO_LONGER_ADMIN)
    return locked[person.pk]


@sensitive_variables("password")
def _check_new_password(password: str, person: User) -> None:
    try:
        validate_password(password, person)
    except ValidationError as error:
        raise UserError(" ".join(error.messages), field="password1") from None
