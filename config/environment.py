"""Reading one deployment's environment: every value is checked here, before anything starts.

A missing or malformed value raises `ImproperlyConfigured` with one sentence that names the variable and never
shows its value. Each variable may also come as `NAME_FILE`, the path of a file that holds it.
"""

import base64
import binascii
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import dj_database_url
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from environs import EnvError, FileAwareEnv

from taskruns.arize.endpoints import EndpointRefused, check_extra

T = TypeVar("T")

BASE_DIR = Path(__file__).resolve().parent.parent
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
SHORTEST_SECRET = 32

_env = FileAwareEnv()


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


def load_env_file() -> None:
    """Read `.env` of the checkout, or the file that ENV_FILE names (empty: none). The process's own values win."""
    named = os.environ.get("ENV_FILE")
    path = BASE_DIR / ".env" if named is None else Path(named)
    if named == "":
        return
    if path.is_file():
        _env.read_env(path, recurse=False)
    elif named is not None:
        message = "ENV_FILE names a file that does not exist."
        raise ImproperlyConfigured(message)


def text(name: str, default: str | None = None) -> str:
    """The variable's text without blanks around it. Empty counts as unset, so that env files may list all names."""
    try:
        value = str(_env.str(name, "")).strip()
    except (EnvError, OSError, ValueError) as error:
        message = f"{name}_FILE names a file that cannot be read."
        raise ImproperlyConfigured(message) from error
    if value:
        return value
    if default is None:
        message = f"{name} is not set. `python manage.py new_secrets > .env` makes all three secrets."
        raise ImproperlyConfigured(message)
    return default


def integer(name: str, default: int, *, at_least: int = 0, at_most: int = 1_000_000) -> int:
    value = text(name, str(default))
    if not value.isascii() or not value.isdigit() or not at_least <= int(value) <= at_most:
        message = f"{name} must be a whole number from {at_least} to {at_most}."
        raise ImproperlyConfigured(message)
    return int(value)


def boolean(name: str, *, default: bool) -> bool:
    value = text(name, "on" if default else "off").lower()
    if value in {"on", "true", "yes", "1"}:
        return True
    if value in {"off", "false", "no", "0"}:
        return False
    message = f"{name} must be on or off."
    raise ImproperlyConfigured(message)


def secret_key() -> str:
    value = text("SECRET_KEY")
    if len(value) < SHORTEST_SECRET or len(set(value)) < 5:
        message = f"SECRET_KEY is too short: it must have at least {SHORTEST_SECRET} random characters."
        raise ImproperlyConfigured(message)
    return value


def encryption_keys() -> dict[int, str]:
    """Ring number -> Fernet key, newest first, from `2:<key>,1:<key>`."""
    ring: dict[int, str] = {}
    for part in text("ENCRYPTION_KEYS").split(","):
        number, _, key = part.strip().partition(":")
        if not (number.isascii() and number.isdigit()) or int(number) in ring or not _is_fernet(key):
            message = (
                "ENCRYPTION_KEYS must be numbered Fernet keys, newest first, like `2:<key>,1:<key>`, "
                "and no number may come twice."
            )
            raise ImproperlyConfigured(message)
        ring[int(number)] = key
    return ring


def _is_fernet(key: str) -> bool:
    try:
        Fernet(key)
    except (ValueError, binascii.Error):
        return False
    return True


def signing_key() -> bytes:
    """The raw 32 bytes of the Ed25519 key that signs the audit log's anchors."""
    raw = _raw_key(text("AUDIT_SIGNING_KEY"))
    if raw is None:
        message = "AUDIT_SIGNING_KEY must be 32 random bytes in base64."
        raise ImproperlyConfigured(message)
    return raw


def public_keys() -> tuple[bytes, ...]:
    """The raw public halves of signing keys that were used before."""
    parts = [part.strip() for part in text("AUDIT_PUBLIC_KEYS", "").split(",") if part.strip()]
    keys = [raw for raw in map(_raw_key, parts) if raw is not None]
    if len(keys) != len(parts):
        message = "AUDIT_PUBLIC_KEYS must be Ed25519 public keys, 32 bytes each in base64, with commas between them."
        raise ImproperlyConfigured(message)
    return tuple(keys)


def anchor_file() -> str:
    """Where the anchors of the audit log are appended to; empty: nowhere."""
    path = text("AUDIT_ANCHOR_FILE", "")
    if path:
        _check_file("AUDIT_ANCHOR_FILE", path)
    return path


def _raw_key(encoded: str) -> bytes | None:
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return None
    return raw if len(raw) == 32 else None


def site() -> Site:
    """SITE_URL, taken apart. Plain http is for loopback only: cookies and keys would travel in clear."""
    url = _site_url()
    parts = urlsplit(url)
    host = parts.hostname or ""
    name = f"[{host}]" if ":" in host else host
    loopback = name in LOOPBACK_NAMES
    secure = parts.scheme == "https"
    if not secure and not loopback:
        message = "SITE_URL must be https: plain http is accepted for localhost only."
        raise ImproperlyConfigured(message)
    port = parts.port or (443 if secure else 80)
    return Site(url=url, secure=secure, host=name, port=port, loopback=loopback)


def _site_url() -> str:
    """As browsers write an origin, so that it equals what they send. A host like `*` would let every host in."""
    try:
        return check_extra(text("SITE_URL", "http://localhost:8000"))
    except EndpointRefused:
        message = "SITE_URL must look like https://taskruns.example.com, without a path."
        raise ImproperlyConfigured(message) from None


def _split_url(name: str, url: str) -> tuple[Any, int | None]:
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError:
        message = f"{name} is not a URL."
        raise ImproperlyConfigured(message) from None


def data_dir() -> Path:
    path = Path(text("DATA_DIR", str(BASE_DIR / "var"))).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        message = "DATA_DIR names a directory that cannot be made."
        raise ImproperlyConfigured(message) from None
    return path


def database(default: Path) -> dict[str, Any]:
    """Django's settings of DATABASE_URL: SQLite (durable, one writer at a time) or PostgreSQL.

    SQLite without IMMEDIATE fails under two writers with "database is locked"; without `synchronous=FULL` a power
    cut could lose a committed audit row.
    """
    url = text("DATABASE_URL", f"sqlite:///{default}")
    parsed = _parsed("DATABASE_URL", lambda: dict(dj_database_url.parse(url, conn_max_age=None)))
    engine = str(parsed["ENGINE"])
    if engine.endswith("postgresql") and parsed["NAME"]:
        return parsed | {"CONN_HEALTH_CHECKS": True}
    if not engine.endswith("sqlite3"):
        message = "DATABASE_URL must be sqlite:///<file> or postgres://<user>@<host>/<database>."
        raise ImproperlyConfigured(message)
    _check_file("DATABASE_URL", str(parsed["NAME"]))
    pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
    return parsed | {"OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 30, "init_command": pragmas}}


def queue(default: Path) -> dict[str, Any]:
    """Huey's settings of QUEUE_URL: a file beside the data, Redis or PostgreSQL."""
    url = text("QUEUE_URL", f"sqlite:///{default}")
    parts, _ = _split_url("QUEUE_URL", url)
    backends: dict[str, Callable[[], dict[str, Any]]] = {
        "sqlite": lambda: {
            "huey_class": "huey.SqliteHuey",
            "filename": unquote(parts.path[1:]),
            "fsync": True,
        },
        "redis": lambda: {"huey_class": "huey.RedisHuey", "connection": {"url": url}},
        "rediss": lambda: {"huey_class": "huey.RedisHuey", "connection": {"url": url}},
        "postgres": lambda: {"huey_class": "huey.PostgresHuey", "dsn": url},
        "postgresql": lambda: {"huey_class": "huey.PostgresHuey", "dsn": url},
    }
    if parts.scheme not in backends:
        message = "QUEUE_URL must be sqlite:///<file>, redis://<host> or postgres://<user>@<host>/<database>."
        raise ImproperlyConfigured(message)
    settings = backends[parts.scheme]()
    if "filename" in settings:
        _check_file("QUEUE_URL", settings["filename"])
    return settings


def _check_file(name: str, path: str) -> None:
    """SQLite makes the file, but not its directory; without a name it would keep all in the memory of one process."""
    if path in {"", ":memory:"} or not Path(path).parent.is_dir():
        message = f"{name} must name a file in a directory that exists."
        raise ImproperlyConfigured(message)


def arize_endpoints() -> tuple[str, ...]:
    """Base URLs allowed beside Arize's own hosts, normalised."""
    urls = [part.strip() for part in text("ARIZE_ENDPOINTS", "").split(",") if part.strip()]
    try:
        return tuple(check_extra(url) for url in urls)
    except EndpointRefused as error:
        message = f"ARIZE_ENDPOINTS: {error}"
        raise ImproperlyConfigured(message) from None


def _parsed(name: str, parse: Callable[[], T]) -> T:
    try:
        return parse()
    except Exception:  # noqa: BLE001 - the parser's own errors quote the URL, which holds a password
        message = f"{name} cannot be read: see the README's environment table for its form."
        raise ImproperlyConfigured(message) from None
