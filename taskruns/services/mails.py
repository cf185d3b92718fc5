"""Sends mail, if EMAIL_URL is set. Only the worker calls it, so a slow mail server delays no page."""

from dataclasses import dataclass

import structlog
from django.core.mail import EmailMessage

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Mail:
    to: str
    subject: str
    body: str


def send(mail: Mail) -> bool:
    """False if it could not be sent."""
    try:
        EmailMessage(mail.subject, mail.body, to=[mail.to]).send()
    except (OSError, ValueError) as error:
        log.warning("mail_not_sent", error=type(error).__name__)
        return False
    return True
