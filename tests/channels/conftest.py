from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.channels.receivers import MailBox, Receiver, mail_server, receiving


@pytest.fixture
def receiver(settings: Any) -> Iterator[Receiver]:
    with receiving() as started:
        settings.NOTIFY_HOSTS = (started.host,)
        yield started


@pytest.fixture
def receivers(settings: Any) -> Iterator[Callable[..., Receiver]]:
    """`receivers(answer)` starts another one."""
    with ExitStack() as started:

        def start(answer: Any = None, tls: Any = None) -> Receiver:
            one = started.enter_context(receiving(answer, tls))
            settings.NOTIFY_HOSTS = (*settings.NOTIFY_HOSTS, one.host)
            return one

        yield start


@pytest.fixture
def mail_box(settings: Any) -> Iterator[MailBox]:
    with mail_server() as (box, port):
        settings.MAILS, settings.EMAIL_BACKEND = True, "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_TIMEOUT = "127.0.0.1", port, 5
        settings.DEFAULT_FROM_EMAIL = "taskruns@panel.example.com"
        yield box
