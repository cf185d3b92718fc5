"""Links by which people set a new password. allauth makes and checks them."""

from dataclasses import dataclass
from datetime import timedelta

import structlog
from allauth.account.forms import default_token_generator
from allauth.account.utils import user_pk_to_url_str
from django.conf import settings

from taskruns.models import Limit, SignInCount, User

log = structlog.get_logger(__name__)
# To one person, no matter who requests them: all links work until the password changes.
MAILS = Limit("reset mails", 3, timedelta(hours=1))


@dataclass(frozen=True, slots=True)
class ResetLink:
    """`key` works once, until the password changes."""

    person: User
    uid: str
    key: str


def link_for(email: str) -> ResetLink | None:
    """None unless an active account has a password: people who use single sign-on must not get one this way. Also None
    after too many mails to the person.
    """
    person = User.objects.filter(email__iexact=email.strip(), is_active=True).first()
    if person is None:
        return None
    if settings.SSO_ONLY or not person.has_usable_password():
        log.info("password_reset_refused", person=str(person.pk), why="no password")
        return None
    if not SignInCount.objects.try_count(MAILS, str(person.pk)):
        log.warning("password_reset_refused", person=str(person.pk), why="too many mails")
        return None
    return ResetLink(person, user_pk_to_url_str(person), default_token_generator.make_token(person))
