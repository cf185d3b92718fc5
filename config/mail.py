"""EMAIL_URL: the mail server, if the panel sends mail."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from . import environment as env

_SMTP = {"smtp", "smtps", "submission", "submit"}


@dataclass(frozen=True, slots=True)
class Mail:
    """Django's EMAIL_* settings. The defaults send nothing."""

    backend: str = "django.core.mail.backends.dummy.EmailBackend"
    host: str = ""
    port: int = 0
    user: str = ""
    password: str = ""
    use_tls: bool = False
    use_ssl: bool = False
    sender: str = "taskruns@localhost"


def of_environment(host: str) -> Mail | None:
    """None without EMAIL_URL. The sender is taskruns@`host` unless the URL names one."""
    url = env.text("EMAIL_URL", "")
    if not url:
        return None
    with env.checked("EMAIL_URL", "must look like submission://user:password@mail.example.com:587."):
        split = urlsplit(url)
        if not (split.scheme == "console" or (split.scheme in _SMTP and split.hostname)):
            raise ValueError
        found = env.variables.dj_email_url("EMAIL_URL")
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
