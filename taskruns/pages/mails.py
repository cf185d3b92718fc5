"""What the panel writes to people by mail, in plain text."""

from django.conf import settings
from django.urls import reverse

from taskruns.models import Invitation, User
from taskruns.services.mails import Mail
from taskruns.services.people.password_reset import ResetLink

_RESET = """\
Someone asked for a new password for your account at {site}.

Open this link to set it. The link works once:

{link}

If it was not you, ignore this mail. Your password stays as it is.
"""
_INVITATION = """\
{who} invites you to the team {team} at {site}, as {role}.

Open this link to join. The link works once, until {until:%d %B %Y, %H:%M} UTC:

{link}

If you do not expect this, ignore this mail.
"""
_GUESSES = """\
Someone tried many wrong passwords for your account at {site}. They did not get in.

Browsers in which you have signed in before still work. In any other browser you may have to wait a few minutes. If your
password could be guessed, change it: {link}
"""


def password_reset(link: ResetLink) -> Mail:
    url = _url("account_reset_password_from_key", link.uid, link.key)
    return Mail(link.person.email, "Set a new password", _RESET.format(site=settings.SITE.netloc, link=url))


def invitation(invited: Invitation, token: str) -> Mail:
    body = _INVITATION.format(
        who=invited.created_by.email if invited.created_by else "A manager",
        team=invited.team.name,
        site=settings.SITE.netloc,
        role=invited.role,
        until=invited.expires_at,
        link=_url("invitation", token),
    )
    return Mail(invited.email, "Your invitation to Taskruns", body)


def guesses(person: User) -> Mail:
    body = _GUESSES.format(site=settings.SITE.netloc, link=_url("account_change_password"))
    return Mail(person.email, "Wrong sign-in attempts for your account", body)


def _url(name: str, *args: str) -> str:
    """Links use SITE_URL, whatever host a request named."""
    return str(settings.SITE_URL) + reverse(name, args=args)
