"""Sessions of signed-in people. Strangers have none: what a sign-in needs on its way is kept in their own cookie."""

import hashlib

from django.db import models

from .people import User

LONGEST_USER_AGENT = 200


def digest_of(key: str) -> str:
    """What the database stores of a session's key. The key itself is only in the person's cookie."""
    return hashlib.sha256(key.encode()).hexdigest()


class PersonSession(models.Model):
    """`session_key` is a digest and `session_data` is encrypted: a copy of the table opens nothing.

    The other columns repeat parts of the data, so that sessions are listed and ended without decrypting any.
    """

    session_key = models.CharField(max_length=64, unique=True)
    session_data = models.TextField()
    expire_date = models.DateTimeField(db_index=True)
    user = models.ForeignKey(User, models.CASCADE, related_name="+")
    began_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    ip = models.CharField(max_length=39, blank=True)
    user_agent = models.CharField(max_length=LONGEST_USER_AGENT, blank=True)

    def __str__(self) -> str:
        return f"session {self.session_key[:16]}"
