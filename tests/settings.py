"""The real settings with the environment of a test deployment. This machine's .env file is ignored."""

import os
import tempfile
from pathlib import Path

_scratch = Path(os.environ.get("TASKRUNS_TEST_DIR") or tempfile.mkdtemp(prefix="taskruns-tests-"))
(_scratch / "static").mkdir(parents=True, exist_ok=True)
os.environ.update(
    {
        "ENV_FILE": "",
        "SECRET_KEY": "test-secret-key-that-is-long-enough-0123456789",
        "ENCRYPTION_KEYS": (
            "2:bmV3LXJpbmcta2V5LW9mLXRoZS10ZXN0cy0wMTIzNDU=,1:b2xkLXJpbmcta2V5LW9mLXRoZS10ZXN0cy0wMTIzNDU="
        ),
        "AUDIT_SIGNING_KEY": "YXVkaXQtc2lnbmluZy1rZXktb2YtdGhlLXRlc3RzLTE=",
        "SITE_URL": "http://localhost:8000",
        "DATA_DIR": str(_scratch),
        "QUEUE_URL": f"sqlite:///{_scratch}/queue.sqlite3",
        "ARIZE_ENDPOINTS": "http://arize.test:9999",
        # Most tests need no second factor; people/test_second_factor.py turns it on.
        "REQUIRE_MFA": "off",
    }
)
os.environ.setdefault("DATABASE_URL", f"sqlite:///{_scratch}/taskruns.sqlite3")
for _name in (
    *("DEBUG", "TRUSTED_PROXIES", "ARIZE_CALLS_PER_MINUTE", "CANCELS_PER_SECOND", "RUN_RETENTION_DAYS"),
    *("TOKEN_REQUESTS_PER_MINUTE", "WORKER_THREADS", "EGRESS_PROXY", "NO_PROXY", "CA_BUNDLE"),
    *("OIDC_ISSUER", "EMAIL_URL", "SSO_ONLY"),
):
    os.environ.pop(_name, None)

from config.settings import *  # noqa: E402, F403
from config.settings import DATABASES, STORAGES  # noqa: E402

# A file, because threads get "table is locked" with an in-memory database.
if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    DATABASES["default"]["TEST"] = {"NAME": str(_scratch / "test.sqlite3")}
# A fast hasher: most tests create people, and a real hash is slow.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
# The fake runs have fixed dates and must not become too old for the mirror.
RUN_RETENTION_DAYS = 36_500
STORAGES = STORAGES | {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
