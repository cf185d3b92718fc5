"""EMAIL_URL: how mail is sent, if any is."""

from dataclasses import dataclass
from urllib.parse import urlsplit

import dj_email_url
from django.core.exceptions import ImproperlyConfigured

from . import environment as env

_SMTP = {"smtp", "smtps", "submission", "submit"}


@dataclass(frozen=True, slots=True)
class Mail:
    """Django's EMAIL_* settings. Without EMAIL_URL: nothing leaves."""

    backend: str = "django.core.mail.backends.dummy.EmailBackend"
    host: str = ""
    port: int = 0
    user: str = ""
    password: str = ""
    use_tls: bool = False
    use_ssl: bool = False
    sender: str = "taskruns@localhost"


def of_environment(host: str) -> Mail | None:
    """None without EMAIL_URL. `host` is in the sender's address, unless the URL names one."""
    url = env.text("EMAIL_URL", "")
    if not url:
        return None
    try:
        parts = urlsplit(url)
        is_known = parts.scheme == "console" or (parts.scheme in _SMTP and bool(parts.hostname))
        found = dict(dj_email_url.parse(url)) if is_known else {}
    except ValueError:
        found = {}
    if not found:
        message = "EMAIL_URL must look like submission://user:password@mail.example.com:587."
        raise ImproperlyConfigured(message)
    return Mail(
        backend=found["EMAIL_BACKEND"],
        host=found["EMAIL_HOST"] or "",
        port=found["EMAIL_PORT"] or 0,
        user=found["EMAIL_HOST_USER"] or "",
        password=found["EMAIL_HOST_PASSWORD"] or "",
        use_tls=found["EMAIL_USE_TLS"],
        use_ssl=found["EMAIL_USE_SSL"],
        sender=found.get("DEFAULT_FROM_EMAIL") or f"taskruns@{host}",
    )
