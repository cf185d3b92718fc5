"""New secrets for a deployment, as lines of an env file.

Runs before Django starts, because the settings fail without secrets.
"""

import base64
import os
import secrets

from cryptography.fernet import Fernet


def fill_in() -> None:
    """For `collectstatic`, which needs none: an image is built without the secrets of a deployment.

    What a file or the environment names stays.
    """
    from config import environment

    environment.load_env_file()
    for line in lines().splitlines():
        name, _, value = line.partition("=")
        if not os.environ.get(name) and not os.environ.get(f"{name}_FILE"):
            os.environ[name] = value


def lines() -> str:
    return "\n".join(
        (
            f"SECRET_KEY={secrets.token_urlsafe(48)}",
            f"ENCRYPTION_KEYS=1:{Fernet.generate_key().decode()}",
            f"AUDIT_SIGNING_KEY={base64.b64encode(secrets.token_bytes(32)).decode()}",
        )
    )
