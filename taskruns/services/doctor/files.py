"""Checks of files on this host: static files, free space, and who may read what."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from django.conf import settings
from django.utils import timezone

from .round import Check, Round

FULL, NEARLY_FULL = 8 * 2**20, 2**30  # bytes
_OTHERS = 0o077


def checks(_round: Round) -> Iterator[Check]:
    yield _static()
    yield _disk()
    yield from _authorities()
    yield from _permissions()


def _static() -> Check:
    root = Path(settings.STATIC_ROOT)
    if settings.DEBUG or (root / "staticfiles.json").is_file():
        return Check("static files", "ok", "They are collected.")
    return Check(
        "static files",
        "fail",
        "They are not collected, so every page is an error.",
        "Run manage.py collectstatic --no-input, and restart web.",
    )


def _disk() -> Check:
    free = shutil.disk_usage(settings.DATA_DIR).free
    says = f"{free // 2**20:,} MB are free where DATA_DIR is."
    if free < FULL:
        return Check("disk", "fail", says, "Free some space now: nothing can be written.")
    return Check("disk", "warn", says, "Free some space.") if free < NEARLY_FULL else Check("disk", "ok", says)


def _authorities() -> Iterator[Check]:
    """That the file has certificates was checked when the settings were read."""
    if not (path := settings.NETWORK.ca_bundle):
        return
    now = timezone.now()
    found = x509.load_pem_x509_certificates(Path(path).read_bytes())
    invalid = sum(not it.not_valid_before_utc <= now <= it.not_valid_after_utc for it in found)
    if invalid:
        do = "Replace them: what they issued is not trusted."
        yield Check("CA bundle", "fail", f"{invalid} of {len(found)} certificates in CA_BUNDLE are not valid now.", do)
    else:
        yield Check("CA bundle", "ok", f"All {len(found)} certificates in CA_BUNDLE are valid now.")


def _permissions() -> Iterator[Check]:
    """Files of an older release may still be readable by all."""
    exposed = [name for name, path in _private() if path.exists() and path.stat().st_mode & _OTHERS]
    if exposed:
        names = ", ".join(exposed)
        yield Check("permissions", "fail", f"Other accounts may read or change: {names}.", "Run chmod go= on each.")
    else:
        yield Check("permissions", "ok", "Other accounts can enter neither DATA_DIR nor the files with secrets.")


def _private() -> Iterator[tuple[str, Path]]:
    yield "DATA_DIR", Path(settings.DATA_DIR)
    yield "the env file", Path(os.environ.get("ENV_FILE") or settings.BASE_DIR / ".env")
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        yield "the database file", Path(str(database["NAME"]))
    for name in ("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY"):
        if path := os.environ.get(f"{name}_FILE"):
            yield f"{name}_FILE", Path(path)
