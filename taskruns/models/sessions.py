"""Sessions of signed-in people. Before that, the data of a sign-in are in the visitor's cookie (`session_store.py`)."""

import hashlib

from django.db import models

from .people import User

LONGEST_USER_AGENT = 200


def digest_of(key: str) -> str:
    """The digest of a session's key, which the database stores. The key itself is only in the person's cookie."""
    return hashlib.sha256(key.encode()).hexdigest()


class PersonSession(models.Model):
    """`session_key` is a digest and `session_data` is encrypted: nobody can sign in with a copy of the table.

    The other columns repeat some of the data, so that sessions can be listed and ended without decryption.
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
