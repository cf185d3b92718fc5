"""`manage.py doctor`: what is wrong with this deployment, and what to do about it.

It starts without the settings, because they may be what is wrong. No line shows a secret, so that its output can be
pasted into a ticket.
"""

import difflib
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from django.core.exceptions import ImproperlyConfigured

from taskruns.services.doctor.round import WITHIN, Check, Round

from . import environment, mail, sso

KNOWN = frozenset(
    (
        *("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY", "AUDIT_PUBLIC_KEYS", "AUDIT_ANCHOR_FILE"),
        *("SITE_URL", "DATA_DIR", "DATABASE_URL", "MIGRATE_DATABASE_URL", "QUEUE_URL", "STATIC_ROOT", "DEBUG"),
        *("ARIZE_ENDPOINTS", "ARIZE_CALLS_PER_MINUTE", "CANCELS_PER_SECOND", "WORKER_THREADS", "RUN_RETENTION_DAYS"),
        *("TOKEN_REQUESTS_PER_MINUTE",),
        *("REQUIRE_MFA", "SESSION_IDLE_HOURS", "SESSION_MAX_DAYS", "SSO_ONLY", "COOKIE_PREFIX"),
        *("OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET", "OIDC_GROUPS_CLAIM", "OIDC_GROUP_ROLES"),
        *("OIDC_SCOPES", "OIDC_WITHOUT_AUTH_TIME", "OIDC_SIGN_IN_ORIGINS"),
        *("EMAIL_URL", "NOTIFY_HOSTS", "TRUSTED_PROXIES", "BIND", "WEB_WORKERS", "KEEPALIVE"),
        *("EGRESS_PROXY", "NO_PROXY", "CA_BUNDLE", "LOG_LEVEL", "AUDIT_LOG_STREAM", "METRICS_TOKEN"),
        *("DISABLE_SERVER_SIDE_CURSORS", "ENV_FILE"),
        *("DEMO_ENDPOINT", "DEMO_KEY_NORTH", "DEMO_KEY_SOUTH"),
    )
)
OK, WRONG, COULD_NOT_RUN = 0, 1, 2  # exit codes
_BEGAN = time.monotonic()
ENDS_WITHIN, AT_LEAST = 9.0, 2.0  # seconds for the whole command, and for its checks
_USAGE = (
    "usage: manage.py doctor [--json]\n\nCheck this deployment. Exit 0: nothing failed, 1: some check, 2: cannot start."
)
_ASSIGNED = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=")
# Names in the environment that belong to others, however similar.
_FOREIGN = re.compile(r"(PG|SYSTEMD|XDG|LC_|SSH_|GIT_|PYTHON|DJANGO_SETTINGS|VIRTUAL_ENV)")
_FIX = "Correct it in the environment or the env file, then run doctor again."


def main(arguments: Sequence[str]) -> int:
    """Print the checks. Returns the exit code."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(f"{_USAGE}\n")
        return OK
    if set(arguments) - {"--json"}:
        sys.stderr.write("doctor takes no argument but --json. Add --help to see the usage.\n")
        return COULD_NOT_RUN
    logging.disable(logging.CRITICAL)
    can_start, checks = run()
    sys.stdout.write(_as_json(checks) if "--json" in arguments else _as_text(checks))
    sys.stdout.flush()
    if not can_start:
        return COULD_NOT_RUN
    return WRONG if any(check.state == "fail" for check in checks) else OK


def exit_at_once(code: int) -> NoReturn:
    """Without waiting for the threads of checks that hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run() -> tuple[bool, list[Check]]:
    """Whether the settings can be read, and what all checks found."""
    checks = [*_variables()]
    can_start = not any(check.state == "fail" for check in checks)
    return can_start, [*checks, *_misspelt(), *(_of_the_panel() if can_start else ())]


def _as_json(checks: list[Check]) -> str:
    return json.dumps({"checks": [asdict(check) for check in checks]}, indent=1) + "\n"


def _as_text(checks: list[Check]) -> str:
    lines = [f"{check.state:4}  {check.name}: {check.says}{f' {check.do}' if check.do else ''}" for check in checks]
    bad, odd = (sum(check.state == state for check in checks) for state in ("fail", "warn"))
    return "\n".join([*lines, f"{len(checks)} checks: {bad} failed, {odd} warnings"]) + "\n"


# Before the settings


def _variables() -> Iterator[Check]:
    """Each variable on its own, so that one mistake does not hide the next."""
    wrong = [check for name, read in _READERS if (check := _tried(name, read)) is not None]
    yield from wrong
    if wrong:
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    failed = _tried("settings", _set_up)
    yield failed or Check("variables", "ok", "All can be read, and the three secrets are set.")


def _tried(name: str, read: Callable[[], object]) -> Check | None:
    """The messages of the environment never show a value."""
    try:
        read()
    except ImproperlyConfigured as error:
        return Check(name, "fail", str(error), _FIX)
    except Exception as error:  # noqa: BLE001 - it must speak whatever is wrong
        return Check(name, "fail", f"It cannot be read ({type(error).__name__}).", _FIX)
    return None


def _set_up() -> None:
    import django

    django.setup()


_READERS: tuple[tuple[str, Callable[[], object]], ...] = (
    ("env file", environment.load_env_file),
    ("SECRET_KEY", environment.secret_key),
    ("ENCRYPTION_KEYS", environment.encryption_keys),
    ("AUDIT_SIGNING_KEY", environment.signing_key),
    ("AUDIT_PUBLIC_KEYS", environment.public_keys),
    ("AUDIT_ANCHOR_FILE", environment.anchor_file),
    ("SITE_URL", lambda: environment.debug(environment.site())),
    ("DATA_DIR", environment.data_dir),
    ("DATABASE_URL", lambda: environment.database(environment.data_dir() / "taskruns.sqlite3")),
    ("QUEUE_URL", lambda: environment.queue(environment.data_dir() / "queue.sqlite3")),
    ("ARIZE_ENDPOINTS", environment.arize_endpoints),
    ("OIDC_ISSUER", lambda: sso.only(sso.provider())),
    ("EMAIL_URL", lambda: mail.of_environment("localhost")),
)


def _misspelt() -> Iterator[Check]:
    """Names like those of the panel. In the env file, any name that it does not know."""
    known = KNOWN | {f"{name}_FILE" for name in KNOWN}
    in_file = set(_names_in_env_file())
    for name in sorted((in_file | set(os.environ)) - known):
        near = difflib.get_close_matches(name.upper(), sorted(known), n=1, cutoff=0.82)
        if near and not _FOREIGN.match(name):
            do = f"Did you mean {near[0]}?"
            yield Check("variables", "warn", f"{name} is not a variable of the panel, which ignores it.", do)
        elif name in in_file:
            do = "Remove it, unless another program reads it."
            yield Check("variables", "warn", f"{name} in the env file is not a variable of the panel.", do)


def _names_in_env_file() -> Iterator[str]:
    named = os.environ.get("ENV_FILE")
    if named == "":
        return
    try:
        text = (environment.BASE_DIR / ".env" if named is None else Path(named)).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    for line in text.splitlines():
        if found := _ASSIGNED.match(line):
            yield found[1]


# With the settings


def _time_left() -> float:
    """Seconds for the checks. On a busy host, the start of Python and Django has taken a good part of the ten."""
    return min(WITHIN, max(AT_LEAST, ENDS_WITHIN - (time.monotonic() - _BEGAN)))


def _of_the_panel() -> list[Check]:
    from django.conf import settings

    from taskruns.services.doctor import database, files, reach

    configured = settings.DATABASES["default"]
    if configured["ENGINE"].endswith("postgresql"):
        configured["OPTIONS"]["connect_timeout"] = database.CONNECTS_WITHIN
    round_ = Round(_time_left())
    do = "Check that the database runs, and that nothing between it and this host drops connections."
    round_.start("database", database.checks, do=do)
    round_.start("files", files.checks, do="Is DATA_DIR on a network drive that hangs?")
    reach.start(round_)
    return round_.found()
