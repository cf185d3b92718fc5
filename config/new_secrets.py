"""New secrets for a deployment, as lines of an env file.

Runs before Django starts, because the settings fail without secrets.
"""

import base64
import secrets

from cryptography.fernet import Fernet


def lines() -> str:
    return "\n".join(
        (
            f"SECRET_KEY={secrets.token_urlsafe(48)}",
            f"ENCRYPTION_KEYS=1:{Fernet.generate_key().decode()}",
            f"AUDIT_SIGNING_KEY={base64.b64encode(secrets.token_bytes(32)).decode()}",
        )
    )
