import smtplib
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.management.base import CommandError, CommandParser

from ._base import COULD_NOT_RUN, PanelCommand


class Command(PanelCommand):
    misuse_exit = COULD_NOT_RUN
    needs_whole_database = False
    help = "Send a test mail with EMAIL_URL. Exit 1 if the mail server does not take it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("address")

    def handle(self, *_args: Any, address: str, **_options: Any) -> None:
        if not settings.MAILS:
            raise CommandError("EMAIL_URL is not set, so this panel sends no mail.", returncode=COULD_NOT_RUN)
        text = f"This is a test mail of the Taskruns panel at {settings.SITE_URL}. It reached you, so mail works.\n"
        try:
            EmailMessage("Test mail of Taskruns", text, to=[address]).send()
        except (OSError, ValueError) as error:
            raise CommandError(f"The mail was not sent: {_why(error)}") from None
        self.say(f"The mail server took a test mail for {address}, from {settings.DEFAULT_FROM_EMAIL}.")


def _why(error: Exception) -> str:
    """Without the server's own text, which may quote what was sent to it."""
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return "the mail server refused the user name or password in EMAIL_URL. Correct them."
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return "the mail server refused the address. Check it."
    if isinstance(error, smtplib.SMTPResponseException):
        return f"the mail server answered with code {error.smtp_code}. Its log says more."
    if isinstance(error, ValueError):
        return "the address is not valid. Check it."
    return f"the mail server could not be used ({type(error).__name__}). Check EMAIL_URL, the network and TLS."
