"""The way out of messages: a mail, or a request to a webhook over `outbound`.

A webhook's body is signed by the Standard Webhooks scheme. Its id is that of the delivery, so that a receiver
recognises a repetition.
"""

import json
import socket
import threading
from contextlib import suppress
from email.utils import parseaddr
from smtplib import SMTPServerDisconnected
from ssl import SSLError
from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from standardwebhooks import Webhook

from taskruns.encryption import DecryptionFailed
from taskruns.models import Delivery, SiteRole, Team, User
from taskruns.outbound import Egress, Failure, NotAnswered, Session, Timeouts
from taskruns.permissions import Action, access_of

from .addresses import Destination, destination_of, is_allowed, may_be_private
from .sending import Attempt, Mail, Post, Trouble

LONGEST = 10.0  # seconds of a whole attempt
TIMEOUTS = Timeouts(connect=4.0, read=LONGEST, whole=LONGEST)
# The mail server may have taken the mail before the connection was lost. An answer of it is of another class.
_NO_ANSWER = (TimeoutError, ConnectionResetError, BrokenPipeError, SSLError, SMTPServerDisconnected)


@sensitive_variables()
def deliver(delivery: Delivery, message: Post | Mail) -> Attempt:
    if delivery.channel is None:
        return _mail_person(delivery, message)
    try:
        to = destination_of(delivery.channel)
    except DecryptionFailed:
        return Attempt(Trouble.NOT_DECRYPTABLE)
    if isinstance(message, Mail):
        return _mail(delivery, message, [address for address in to.to if _may_read(address, delivery.team)])
    return _post(delivery, message, to)


def _mail_person(delivery: Delivery, message: Post | Mail) -> Attempt:
    person = delivery.person
    if person is None or not isinstance(message, Mail):
        return Attempt(Trouble.NOBODY)
    return _mail(delivery, message, [person.email] if _may_still_read(person, delivery.team) else [])


def _may_still_read(person: User, team: Team | None) -> bool:
    access = access_of(person, team)
    return access.site_role is SiteRole.ADMIN if team is None else access.may(Action.RUNS_VIEW)


def _may_read(address: str, team: Team | None) -> bool:
    """An address of someone with an account gets the team's mail only while they may see its runs. Others are of people
    and lists outside the panel, and the manager who entered them answers for them.
    """
    person = User.objects.filter(email__iexact=address).first()
    return person is None or access_of(person, team).may(Action.RUNS_VIEW)


def _mail(delivery: Delivery, message: Mail, to: list[str]) -> Attempt:
    """One mail to all. Its id is the same in each attempt, so that mail programs may show a repetition once."""
    if not settings.MAILS:
        return Attempt(Trouble.NO_MAIL)
    if not to:
        return Attempt(Trouble.NOBODY)
    domain = parseaddr(settings.DEFAULT_FROM_EMAIL)[1].rpartition("@")[2] or settings.SITE.host
    headers = {"Message-ID": f"<{delivery.pk}@{domain}>", "Auto-Submitted": "auto-generated"}
    mail = EmailMessage(message.subject, message.body, bcc=to, headers=headers | {"To": "undisclosed-recipients:;"})
    try:
        _send(mail)
    except (OSError, ValueError) as error:  # those of smtplib are of the first kind
        return Attempt(Trouble.MAIL, may_have_arrived=isinstance(error, _NO_ANSWER))
    return Attempt()


def _send(mail: EmailMessage) -> None:
    """The library has a time-out for each step only, and a mail to many has many steps."""
    mail.connection = get_connection()
    deadline = threading.Timer(LONGEST, _cut, [mail.connection])
    deadline.daemon = True
    deadline.start()
    try:
        mail.send()
    finally:
        deadline.cancel()


def _cut(backend: Any) -> None:
    """Whoever waits for the mail server gets an error. Does nothing while there is no connection yet."""
    found = getattr(getattr(backend, "connection", None), "sock", None)
    if found is not None:
        with suppress(OSError):  # it was closed just now
            found.shutdown(socket.SHUT_RDWR)


@sensitive_variables()
def _post(delivery: Delivery, message: Post, to: Destination) -> Attempt:
    if not is_allowed(to.url):
        return Attempt(Trouble.NOT_ALLOWED)
    headers = {"Content-Type": "application/json"} | _signature(delivery, message, to)
    egress = Egress(TIMEOUTS, public_only=not may_be_private(to.url), network=settings.NETWORK)
    with Session(egress) as session:
        answer = session.ask("POST", to.url, longest=None, data=_routed(message, to), headers=headers)
    if isinstance(answer, NotAnswered):
        return Attempt(answer.why.name.lower(), may_have_arrived=answer.why is Failure.NO_ANSWER)
    if answer.is_success:
        return Attempt(status=answer.status)
    return Attempt(Trouble.STATUS, answer.status, retry_after=answer.retry_after)


@sensitive_variables()
def _routed(message: Post, to: Destination) -> bytes:
    """With the key that PagerDuty wants in the body, and that no page may see."""
    if not to.routing:
        return message.body
    return json.dumps(json.loads(message.body) | {"routing_key": to.routing}, ensure_ascii=False).encode()


@sensitive_variables()
def _signature(delivery: Delivery, message: Post, to: Destination) -> dict[str, str]:
    """By the receiver's clock, a signature is valid for five minutes, so each attempt has its own."""
    if not to.signing:
        return {}
    now, message_id = timezone.now(), f"msg_{delivery.pk.hex}"
    signature = Webhook(to.signing).sign(message_id, now, message.body.decode())
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }
