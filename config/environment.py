"""Reading and checking the environment variables of a deployment, before anything starts.

A missing or malformed value raises `ImproperlyConfigured`. The message names the variable and never shows its value.
Each variable may also be given as `NAME_FILE`, the path of a file with the value.
"""

import base64
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from environs import EnvNotSetError, FileAwareEnv, ValidationError, validate

from taskruns.arize.endpoints import check_extra

BASE_DIR = Path(__file__).resolve().parent.parent
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MIN_SECRET_LENGTH = 32
DEFAULT_PORT = 8_000


class Variables(FileAwareEnv):
    """Treats an empty value as unset, so that env files may list all names. Strips surrounding whitespace."""

    def _get_value(self, env_key: str, default: Any) -> Any:
        try:
            value = super()._get_value(env_key, default)
        except (OSError, ValueError):
            refuse(f"{env_key}{self.file_suffix}", "names a file that cannot be read. Check its permissions.")
        text = value.strip() if isinstance(value, str) else value
        return default if text == "" else text


variables = Variables()


def refuse(name: str, rule: str) -> NoReturn:
    """Raises ImproperlyConfigured with `NAME rule`. Hides the parser's error, which may quote the value."""
    message = f"{name} {rule}"
    raise ImproperlyConfigured(message) from None


@contextmanager
def checked(name: str, rule: str) -> Iterator[None]:
    """Turn every error in the block into a refusal with this rule, for example "must be a whole number."."""
    try:
        yield
    except EnvNotSetError:
        refuse(name, "is not set. `python manage.py new_secrets > .env` creates all three secrets.")
    except (ValueError, OSError, ValidationError):
        refuse(name, rule)


def load_env_file() -> None:
    """Read the file named by ENV_FILE, by default `.env` (empty: no file). Variables already set take precedence."""
    named = os.environ.get("ENV_FILE")
    path = BASE_DIR / ".env" if named is None else Path(named)
    if named == "":
        return
    name = "ENV_FILE (.env)" if named is None else "ENV_FILE"
    with checked(name, "names a file that cannot be read. Check its permissions, and that it is UTF-8 text."):
        if path.is_file():
            path.read_text(encoding="utf-8")
            variables.read_env(path, recurse=False)
            _drop_byte_order_mark()
            return
        if named is None and not path.exists():
            return
    refuse(name, "names a file that does not exist. Check the path.")


def _drop_byte_order_mark() -> None:
    """Some editors write one at the start of a file. It would be part of the first name."""
    for name in [name for name in os.environ if name.startswith("\ufeff")]:
        os.environ.setdefault(name.removeprefix("\ufeff"), os.environ.pop(name))


def text(name: str, default: str) -> str:
    return variables.str(name, default)


def parts(name: str) -> list[str]:
    """The comma-separated parts; an empty list if the variable is unset."""
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
    with checked("SECRET_KEY", f"is too weak: it must have at least {MIN_SECRET_LENGTH} random characters."):
        return variables.str("SECRET_KEY", validate=[validate.Length(min=MIN_SECRET_LENGTH), _check_randomness])


def _check_randomness(key: str) -> None:
    if len(set(key)) < 5:
        raise ValueError


def encryption_keys() -> dict[int, str]:
    """Ring number -> Fernet key, newest first, from `2:<key>,1:<key>`."""
    rule = "must be numbered Fernet keys, newest first, like `2:<key>,1:<key>`, each number once."
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
    """The raw public keys of former signing keys."""
    rule = "must be Ed25519 public keys, 32 bytes each in base64, separated by commas."
    with checked("AUDIT_PUBLIC_KEYS", rule):
        return tuple(_raw_key(part) for part in parts("AUDIT_PUBLIC_KEYS"))


def _raw_key(encoded: str) -> bytes:
    raw = base64.b64decode(encoded, validate=True)
    if len(raw) != 32:
        raise ValueError
    return raw


# Storage


def data_dir() -> Path:
    with checked("DATA_DIR", "names a directory that cannot be created. Check the path and its permissions."):
        path = variables.path("DATA_DIR", BASE_DIR / "var").absolute()
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        _close_to_others(path)
    return path


def _close_to_others(directory: Path) -> None:
    """Other accounts must not enter the directory: files of an older version in it may be readable by all."""
    status = directory.stat()
    if not status.st_mode & 0o077:
        return
    if status.st_uid != os.geteuid():
        rule = (
            "names a directory that other accounts can enter, and it belongs to another account. "
            "Choose another directory, or let its owner run: chmod 700."
        )
        refuse("DATA_DIR", rule)
    directory.chmod(0o700)


def anchor_file() -> str:
    """The file to which anchors of the audit log are appended; empty: none."""
    path = text("AUDIT_ANCHOR_FILE", "")
    return _file("AUDIT_ANCHOR_FILE", path) if path else ""


_ENCODED = "Percent-encode special characters such as # and ?."


def database(default: Path) -> dict[str, Any]:
    """Django's settings for DATABASE_URL: SQLite or PostgreSQL. `default`: the SQLite file if it is unset."""
    if not text("DATABASE_URL", ""):
        return _sqlite("DATABASE_URL", str(default))  # not as a URL, in which some characters of a path mean something
    with checked("DATABASE_URL", f"must be sqlite:///<file> or postgres://<user>@<host>/<database>. {_ENCODED}"):
        parsed = _database_at("DATABASE_URL")
        if parsed["ENGINE"] == _POSTGRESQL:
            return parsed
    return _sqlite("DATABASE_URL", str(parsed["NAME"]))


def owner_database() -> dict[str, Any] | None:
    """Django's settings for MIGRATE_DATABASE_URL: the same database, as the owner of its tables. None if unset."""
    if not text("MIGRATE_DATABASE_URL", ""):
        return None
    rule = f"must be postgres://<owner>@<host>/<database>, with the database of DATABASE_URL. {_ENCODED}"
    with checked("MIGRATE_DATABASE_URL", rule):
        parsed = _database_at("MIGRATE_DATABASE_URL")
        if parsed["ENGINE"] != _POSTGRESQL:
            raise ValueError
    return parsed


# Without these, a database host that vanishes would hold every thread for many minutes. Those in the URL count instead.
_TIME_LIMITS = {
    "connect_timeout": 5,  # seconds
    "tcp_user_timeout": 10_000,  # milliseconds until sent data must be acknowledged
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}
_POSTGRESQL, _SQLITE = "django.db.backends.postgresql", "django.db.backends.sqlite3"


def _database_at(name: str) -> dict[str, Any]:
    """Raises ValueError if it is neither PostgreSQL nor SQLite.

    Without server-side cursors, because they outlive a transaction. A pooler that gives each transaction another
    connection would mix up those of several processes.
    """
    url = text(name, "")
    parsed: dict[str, Any] = variables.dj_db_url(name, conn_max_age=None)
    if parsed["ENGINE"] == _POSTGRESQL and parsed["NAME"]:
        options = {"OPTIONS": _TIME_LIMITS | parsed.get("OPTIONS", {})}
        return parsed | options | {"CONN_HEALTH_CHECKS": True, "DISABLE_SERVER_SIDE_CURSORS": True}
    if parsed["ENGINE"] != _SQLITE or "#" in url or "?" in url:
        raise ValueError
    return parsed


def _sqlite(name: str, path: str) -> dict[str, Any]:
    """Durable, one writer at a time.

    Without IMMEDIATE, two writers fail with "database is locked"; without `synchronous=FULL` a power cut could lose a
    committed audit row.
    """
    pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
    options = {"transaction_mode": "IMMEDIATE", "timeout": 30, "init_command": pragmas}
    return {"ENGINE": _SQLITE, "NAME": _file(name, path), "CONN_MAX_AGE": None, "OPTIONS": options}


def queue(default: Path) -> dict[str, Any]:
    """Huey's settings for QUEUE_URL: an SQLite file, Redis or PostgreSQL."""
    url = text("QUEUE_URL", "")
    if not url:
        return _sqlite_queue(str(default))
    rule = f"must be sqlite:///<file>, redis://<host> or postgres://<user>@<host>/<database>. {_ENCODED}"
    with checked("QUEUE_URL", rule):
        split = urlsplit(url)
        scheme, _ = split.scheme, split.port  # reading the port checks it
        if scheme == "sqlite" and "#" not in url and "?" not in url:
            return _sqlite_queue(unquote(split.path[1:]))
        if scheme in {"redis", "rediss"}:
            return {"huey_class": "huey.RedisHuey", "connection": {"url": _with_timeouts(url)}}
        if scheme in {"postgres", "postgresql"}:
            # A prepared statement belongs to one connection of the database, which a pooler exchanges.
            given = dict(parse_qsl(split.query))
            limits = {name: value for name, value in _TIME_LIMITS.items() if name not in given}
            connection = {"prepare_threshold": None} | limits
            return {"huey_class": "huey.PostgresHuey", "dsn": url, "connection": connection}
        raise ValueError


def _sqlite_queue(path: str) -> dict[str, Any]:
    return {"huey_class": "huey.SqliteHuey", "filename": _file("QUEUE_URL", path), "fsync": True}


def _with_timeouts(url: str) -> str:
    """Without time limits, a Redis that no longer answers would hold web threads and workers. Those given stay."""
    given = dict(parse_qsl(urlsplit(url).query))
    limits = {"socket_connect_timeout": "3", "socket_timeout": "10"}  # seconds
    missing = urlencode({name: seconds for name, seconds in limits.items() if name not in given})
    return f"{url}{'&' if '?' in url else '?'}{missing}" if missing else url


def _file(name: str, path: str) -> str:
    """Check the path: SQLite does not create directories, and an empty name would mean a database in memory."""
    if path in {"", ":memory:"} or not Path(path).parent.is_dir():
        refuse(name, "must name a file in a directory that exists.")
    return path


# Addresses


@dataclass(frozen=True)
class Site:
    """The public address of the panel, from which hosts, origins and cookie flags are derived."""

    url: str
    secure: bool
    host: str
    port: int
    loopback: bool

    @property
    def netloc(self) -> str:
        """Host and port as in the URL."""
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
    """Parse SITE_URL and normalise it like browsers do, because it must equal the Origin header.

    A host like `*` is refused, because it would allow every host. Plain http is allowed on loopback only, because
    cookies and keys would travel unencrypted.
    """
    with checked("SITE_URL", "must look like https://taskruns.example.com, without a path."):
        url = check_extra(text("SITE_URL", f"http://localhost:{DEFAULT_PORT}"))
    split = urlsplit(url)
    host = split.hostname or ""
    name = f"[{host}]" if ":" in host else host
    secure, loopback = split.scheme == "https", name in LOOPBACK_NAMES
    if not secure and not loopback:
        refuse("SITE_URL", "must be https. Plain http is accepted for localhost only.")
    return Site(url=url, secure=secure, host=name, port=split.port or (443 if secure else 80), loopback=loopback)


@dataclass(frozen=True)
class Cookies:
    """Their names."""

    session: str
    csrf: str
    device: str
    messages: str


def cookies(public: Site) -> Cookies:
    """A browser sends a host's cookies to all its ports, so panels on one host need different names.

    The prefix is COOKIE_PREFIX, or on loopback the port unless it is the default one. The CSRF cookie gets only
    COOKIE_PREFIX (and __Host- over https): programs that sign in look for its usual name. Two panels that share it
    lose a form, not a session.
    """
    given = text("COOKIE_PREFIX", "")
    with checked(
        "COOKIE_PREFIX",
        "must be at most 40 letters, digits, hyphens and underscores, and start with a letter or digit.",
    ):
        if given and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", given):
            raise ValueError
    port = str(public.port) if public.loopback and public.port != DEFAULT_PORT else ""
    host = "__Host-" if public.secure else ""

    def prefixed(own: str) -> str:
        return f"{host}{own}-" if own else host

    prefix = prefixed(given or port)
    return Cookies(f"{prefix}sessionid", f"{prefixed(given)}csrftoken", f"{prefix}device", f"{prefix}messages")


def notify_hosts() -> tuple[str, ...]:
    """Hosts of channels that may be private, or speak plain http: `host`, or `host:port` for this port only."""
    rule = "must be host names, each with an optional port, separated by commas, for example alerts.example.com:8080."
    with checked("NOTIFY_HOSTS", rule):
        return tuple(_host_of(part.lower()) for part in parts("NOTIFY_HOSTS"))


def _host_of(part: str) -> str:
    check_extra(f"https://{part}")  # it ignores a slash at the end
    return part.removesuffix("/")


def log_level() -> str:
    with checked("LOG_LEVEL", "must be DEBUG, INFO, WARNING or ERROR."):
        level = text("LOG_LEVEL", "INFO").upper()
        if level not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
            raise ValueError
    return level


def metrics_token() -> str:
    """The bearer token for /metrics; empty: there is no such page."""
    token = text("METRICS_TOKEN", "")
    with checked("METRICS_TOKEN", "is too weak: it must have 20 to 200 random ASCII characters, without blanks."):
        if token and (not re.fullmatch(r"[!-~]{20,200}", token) or len(set(token)) < 5):
            raise ValueError
    return token


def static_root(default: Path) -> Path:
    """Where `collectstatic` puts the static files. Not checked: it may be read-only for the panel."""
    given = text("STATIC_ROOT", "")
    return Path(given).absolute() if given else default


def debug(public: Site) -> bool:
    """Error pages with DEBUG show how the panel works to anyone who finds an error."""
    is_on = boolean("DEBUG", default=False)
    if is_on and public.secure:
        refuse("DEBUG", "must be off when SITE_URL is https. Remove it, or use http://localhost for development.")
    return is_on


def arize_endpoints() -> tuple[str, ...]:
    """Base URLs allowed in addition to Arize's own hosts, normalised."""
    rule = (
        "must be http:// or https://, a host name and optionally a port, separated by commas, "
        "for example https://arize-app.example.com."
    )
    with checked("ARIZE_ENDPOINTS", rule):
        return tuple(check_extra(url) for url in parts("ARIZE_ENDPOINTS"))
