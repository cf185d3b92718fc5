"""Reading one deployment's environment: every value is checked here, before anything starts.

A missing or malformed value raises `ImproperlyConfigured` with one sentence that names the variable and never
shows its value. Each variable may also come as `NAME_FILE`, the path of a file that holds it.
"""

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from environs import EnvNotSetError, FileAwareEnv, ValidationError, validate

from taskruns.arize.endpoints import check_extra

BASE_DIR = Path(__file__).resolve().parent.parent
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
SHORTEST_SECRET = 32


class Variables(FileAwareEnv):
    """An empty value counts as unset, so that env files may list all names; blanks around a value do not count."""

    def _get_value(self, env_key: str, default: Any) -> Any:
        try:
            value = super()._get_value(env_key, default)
        except (OSError, ValueError):
            refuse(f"{env_key}{self.file_suffix}", "names a file that cannot be read.")
        text = value.strip() if isinstance(value, str) else value
        return default if text == "" else text


variables = Variables()


def refuse(name: str, rule: str) -> NoReturn:
    """Raises ImproperlyConfigured with `NAME rule`, and without the parser's own error, which may quote the value."""
    message = f"{name} {rule}"
    raise ImproperlyConfigured(message) from None


@contextmanager
def checked(name: str, rule: str) -> Iterator[None]:
    """Whatever is wrong with the variable in here is refused by this rule, like "must be a whole number."."""
    try:
        yield
    except EnvNotSetError:
        refuse(name, "is not set. `python manage.py new_secrets > .env` makes all three secrets.")
    except (ValueError, OSError, ValidationError):
        refuse(name, rule)


def load_env_file() -> None:
    """Read `.env` of the checkout, or the file that ENV_FILE names (empty: none). The process's own values win."""
    named = os.environ.get("ENV_FILE")
    path = BASE_DIR / ".env" if named is None else Path(named)
    if named == "":
        return
    if path.is_file():
        variables.read_env(path, recurse=False)
    elif named is not None:
        message = "ENV_FILE names a file that does not exist."
        raise ImproperlyConfigured(message)


def text(name: str, default: str) -> str:
    return variables.str(name, default)


def parts(name: str) -> list[str]:
    """What stands between the commas; nothing for an unset variable."""
    found: list[str] = variables.list(name, [], subcast=str.strip)
    return [part for part in found if part]


def integer(name: str, default: int, *, at_least: int = 0, at_most: int = 1_000_000) -> int:
    with checked(name, f"must be a whole number from {at_least} to {at_most}."):
        return variables.int(name, default, validate=validate.Range(at_least, at_most))


def boolean(name: str, *, default: bool) -> bool:
    with checked(name, "must be on or off."):
        return variables.bool(name, default)


# Secrets


def secret_key() -> str:
    with checked("SECRET_KEY", f"is too short: it must have at least {SHORTEST_SECRET} random characters."):
        return variables.str("SECRET_KEY", validate=[validate.Length(min=SHORTEST_SECRET), _check_randomness])


def _check_randomness(key: str) -> None:
    if len(set(key)) < 5:
        raise ValueError


def encryption_keys() -> dict[int, str]:
    """Ring number -> Fernet key, newest first, from `2:<key>,1:<key>`."""
    rule = "must be numbered Fernet keys, newest first, like `2:<key>,1:<key>`, and no number may come twice."
    with checked("ENCRYPTION_KEYS", rule):
        keys: list[tuple[int, str]] = variables.list("ENCRYPTION_KEYS", subcast=_ring_key)
        if len(dict(keys)) < len(keys):
            raise ValueError
        return dict(keys)


def _ring_key(part: str) -> tuple[int, str]:
    number, _, key = part.strip().partition(":")
    if not (number.isascii() and number.isdigit()):
        raise ValueError
    Fernet(key)
    return int(number), key


def signing_key() -> bytes:
    """The raw 32 bytes of the Ed25519 key that signs the audit log's anchors."""
    with checked("AUDIT_SIGNING_KEY", "must be 32 random bytes in base64."):
        return _raw_key(variables.str("AUDIT_SIGNING_KEY"))


def public_keys() -> tuple[bytes, ...]:
    """The raw public halves of signing keys that were used before."""
    rule = "must be Ed25519 public keys, 32 bytes each in base64, with commas between them."
    with checked("AUDIT_PUBLIC_KEYS", rule):
        return tuple(_raw_key(part) for part in parts("AUDIT_PUBLIC_KEYS"))


def _raw_key(encoded: str) -> bytes:
    raw = base64.b64decode(encoded, validate=True)
    if len(raw) != 32:
        raise ValueError
    return raw


# Where things are kept


def data_dir() -> Path:
    with checked("DATA_DIR", "names a directory that cannot be made."):
        path = variables.path("DATA_DIR", BASE_DIR / "var").absolute()
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def anchor_file() -> str:
    """Where the anchors of the audit log are appended to; empty: nowhere."""
    path = text("AUDIT_ANCHOR_FILE", "")
    return _file("AUDIT_ANCHOR_FILE", path) if path else ""


def database(default: Path) -> dict[str, Any]:
    """Django's settings of DATABASE_URL: SQLite (durable, one writer at a time) or PostgreSQL.

    SQLite without IMMEDIATE fails under two writers with "database is locked"; without `synchronous=FULL` a power
    cut could lose a committed audit row.
    """
    with checked("DATABASE_URL", "must be sqlite:///<file> or postgres://<user>@<host>/<database>."):
        parsed: dict[str, Any] = variables.dj_db_url("DATABASE_URL", f"sqlite:///{default}", conn_max_age=None)
        if parsed["ENGINE"] == "django.db.backends.postgresql" and parsed["NAME"]:
            return parsed | {"CONN_HEALTH_CHECKS": True}
        if parsed["ENGINE"] != "django.db.backends.sqlite3":
            raise ValueError
    _file("DATABASE_URL", str(parsed["NAME"]))
    pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
    return parsed | {"OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 30, "init_command": pragmas}}


def queue(default: Path) -> dict[str, Any]:
    """Huey's settings of QUEUE_URL: a file beside the data, Redis or PostgreSQL."""
    url = text("QUEUE_URL", f"sqlite:///{default}")
    with checked("QUEUE_URL", "must be sqlite:///<file>, redis://<host> or postgres://<user>@<host>/<database>."):
        split = urlsplit(url)
        scheme, _ = split.scheme, split.port  # reading the port checks it
        if scheme == "sqlite":
            filename = _file("QUEUE_URL", unquote(split.path[1:]))
            return {"huey_class": "huey.SqliteHuey", "filename": filename, "fsync": True}
        if scheme in {"redis", "rediss"}:
            return {"huey_class": "huey.RedisHuey", "connection": {"url": url}}
        if scheme in {"postgres", "postgresql"}:
            return {"huey_class": "huey.PostgresHuey", "dsn": url}
        raise ValueError


def _file(name: str, path: str) -> str:
    """SQLite makes the file, but not its directory; without a name it would keep all in the memory of one process."""
    if path in {"", ":memory:"} or not Path(path).parent.is_dir():
        refuse(name, "must name a file in a directory that exists.")
    return path


# Addresses


@dataclass(frozen=True)
class Site:
    """Where people reach the panel: everything that depends on it is derived from here."""

    url: str
    secure: bool
    host: str
    port: int
    loopback: bool

    @property
    def netloc(self) -> str:
        """Host and port as the url has them."""
        return self.url.partition("://")[2]

    @property
    def allowed_hosts(self) -> list[str]:
        return list(LOOPBACK_NAMES) if self.loopback else [self.host]

    @property
    def trusted_origins(self) -> list[str]:
        if not self.loopback:
            return [self.url]
        scheme = "https" if self.secure else "http"
        return [f"{scheme}://{name}:{self.port}" for name in LOOPBACK_NAMES]


def site() -> Site:
    """SITE_URL, taken apart, and spelled as browsers write an origin: it must equal what they send.

    A host like `*` would let every host in. Plain http is for loopback only: cookies and keys would travel in clear.
    """
    with checked("SITE_URL", "must look like https://taskruns.example.com, without a path."):
        url = check_extra(text("SITE_URL", "http://localhost:8000"))
    split = urlsplit(url)
    host = split.hostname or ""
    name = f"[{host}]" if ":" in host else host
    secure, loopback = split.scheme == "https", name in LOOPBACK_NAMES
    if not secure and not loopback:
        refuse("SITE_URL", "must be https: plain http is accepted for localhost only.")
    return Site(url=url, secure=secure, host=name, port=split.port or (443 if secure else 80), loopback=loopback)


def arize_endpoints() -> tuple[str, ...]:
    """Base URLs allowed beside Arize's own hosts, normalised."""
    rule = (
        "must be http:// or https://, a host name and perhaps a port, with commas between several, "
        "for example https://arize-app.example.com."
    )
    with checked("ARIZE_ENDPOINTS", rule):
        return tuple(check_extra(url) for url in parts("ARIZE_ENDPOINTS"))
