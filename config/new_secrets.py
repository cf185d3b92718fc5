"""Fresh secrets for one deployment, as lines of an env file.

Runs before Django: settings refuse to start without them.
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
