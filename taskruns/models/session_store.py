"""Where sessions are kept (`SESSION_ENGINE`).

A signed-in person's session is a row. Its key is random and only in the cookie; the row holds a digest of the key. A
stranger (a visitor who is not signed in) has no row: the cookie holds the session's data, encrypted, in place of a key.
So strangers cannot fill the database, and nobody can sign in with a copy of the database.
"""

import base64
import json
import time
import zlib
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.db import transaction
from django.db.models import CharField, DateTimeField
from django.utils import timezone
from django.utils.crypto import get_random_string, salted_hmac

from taskruns.allauth_compat import PASSKEY_STATE, SSO_STATES

from .people import User
from .prepared import Prepared, Slot
from .sessions import LONGEST_USER_AGENT, PersonSession, digest_of

KEY_LENGTH = 32
KEY_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
# The start of a cookie that holds a stranger's data. No random key contains a dot.
DATA_PREFIX = "a."
OF_ROW = "of_row"  # in a row's data: the digest of the key they belong to
STRANGER_LIFETIME = 10 * 60  # seconds that a stranger's data last, for example from the password to the second factor
# The challenge of a passkey, and the states of sign-ins at the single sign-on provider.
SHORTER_LIFETIMES = {PASSKEY_STATE: 5 * 60, SSO_STATES: 5 * 60}
LONGEST_COOKIE = 3_000  # characters; browsers drop a cookie of more than 4,096 with its name and attributes
LONGEST_UNPACKED = 20_000  # characters

Data = dict[str, Any]


class SessionStore(SessionBase):
    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self._has_new_key = False
        self._since: dict[str, tuple[str, float]] = {}  # name -> (value as JSON, when it got this value)

    # Encrypted, because Django's own methods only sign the data.
    def encode(self, session_dict: Data) -> str:
        return _encrypt("row", session_dict)

    def decode(self, session_data: bytes | str) -> Data:
        """Empty if it cannot be decrypted, for example after SECRET_KEY was replaced."""
        return _decrypt("row", str(session_data)) or {}

    def exists(self, session_key: str) -> bool:
        return PersonSession.objects.filter(session_key=digest_of(session_key)).exists()

    def create(self) -> None:
        """Take a new random key. The first `save` of a signed-in person writes the row."""
        self._get_session(no_load=True)  # type: ignore[attr-defined]
        self._session_key = get_random_string(KEY_LENGTH, KEY_CHARACTERS)
        self._has_new_key = self.modified = True

    def load(self) -> Data:
        data = self._load_cookie() if is_in_cookie(self.session_key) else self._load_row()
        if not data:
            self._session_key = None
        return data

    def save(self, must_create: bool = False) -> None:  # noqa: FBT001, FBT002 - Django's own signature
        """Raises UpdateError if the session was ended by another request."""
        data = self._get_session(no_load=must_create)  # type: ignore[attr-defined]
        if SESSION_KEY in data:
            self._save_row(data)
        else:
            self.delete()
            self._session_key = self._cookie_of(data)

    def delete(self, session_key: str | None = None) -> None:
        key = session_key or self.session_key
        if key and not is_in_cookie(key):
            PersonSession.objects.filter(session_key=digest_of(key)).delete()

    def is_empty(self) -> bool:
        """True also for a stranger's cookie without data, so that Django deletes it."""
        is_loaded = hasattr(self, "_session_cache")
        if is_loaded and is_in_cookie(self.session_key):
            return not self._session_cache
        return bool(super().is_empty())

    def get_expiry_age(self, **kwargs: Any) -> int:
        """Short until the last step of a sign-in. allauth sets the long one at the first step."""
        return int(super().get_expiry_age(**kwargs)) if SESSION_KEY in self else STRANGER_LIFETIME

    # --- The row of a person

    def _load_row(self) -> Data:
        """Empty if the data were copied from another row: whoever writes one cannot choose whose session it is."""
        key = digest_of(self.session_key or "")
        rows = _unexpired_row().rows(key=key, now=timezone.now())
        data = next(map(self.decode, rows), {})
        return data if data.pop(OF_ROW, None) == key else {}

    def _save_row(self, data: Data) -> None:
        if self.session_key is None or is_in_cookie(self.session_key):
            self.create()
        key = digest_of(self.session_key or "")
        columns = self._columns(data | {OF_ROW: key})
        if PersonSession.objects.filter(session_key=key).update(**columns):
            return
        if not self._has_new_key:
            raise UpdateError
        with transaction.atomic():
            # The lock orders this against disabling the account: either this session ends with the others, or no row is
            # written and the key is not valid.
            people = User.objects.select_for_update(no_key=True).filter(pk=data[SESSION_KEY], is_active=True)
            if list(people.values_list("pk")):
                PersonSession.objects.create(session_key=key, **columns)

    def _columns(self, data: Data) -> Data:
        began: float = data.get("began_at", time.time())
        return {
            "session_data": self.encode(data),
            "expire_date": self.get_expiry_date(),
            "user_id": data[SESSION_KEY],
            "began_at": datetime.fromtimestamp(began, UTC),
            "seen_at": datetime.fromtimestamp(data.get("seen_at", began), UTC),
            "ip": data.get("ip", ""),
            "user_agent": data.get("user_agent", "")[:LONGEST_USER_AGENT],
        }

    # --- The cookie of a stranger

    def _load_cookie(self) -> Data:
        kept = _decrypt("cookie", (self.session_key or "").removeprefix(DATA_PREFIX), max_age=STRANGER_LIFETIME) or {}
        self._since = {name: (json.dumps(value), since) for name, (value, since) in kept.items()}
        return _unexpired({name: value for name, (value, _) in kept.items()}, self._since)

    def _cookie_of(self, data: Data) -> str:
        """Drop the oldest data until the rest fits. Only the visitor's own requests can make it too long."""
        now = time.time()
        texts = {name: json.dumps(value) for name, value in data.items()}
        self._since = {name: (text, self._since_when(name, text, now)) for name, text in texts.items()}
        kept = _unexpired(data, self._since)
        while not (value := _cookie_value(_dated(kept, self._since))):
            _drop_oldest(kept, self._since)
        self._session_cache = kept
        return value

    def _since_when(self, name: str, text: str, now: float) -> float:
        before, since = self._since.get(name, ("", now))
        return since if text == before else now


@cache
def _unexpired_row() -> Prepared[str]:
    """Each request of a person needs it."""
    rows = PersonSession.objects.filter(
        session_key=Slot("key", CharField()), expire_date__gt=Slot("now", DateTimeField())
    )
    return Prepared(rows.values_list("session_data", flat=True))


def is_in_cookie(key: str | None) -> bool:
    return bool(key) and str(key).startswith(DATA_PREFIX)


def _cookie_value(dated: Data) -> str:
    """Empty if the data are too long for a cookie, or after decompression: repeated text compresses well."""
    if len(json.dumps(dated)) > LONGEST_UNPACKED:
        return ""
    value = DATA_PREFIX + _encrypt("cookie", dated)
    return value if len(value) <= LONGEST_COOKIE else ""


def _dated(data: Data, since: dict[str, tuple[str, float]]) -> Data:
    return {name: [value, since[name][1]] for name, value in data.items()}


def _unexpired(data: Data, since: dict[str, tuple[str, float]]) -> Data:
    """Without expired data: each value expires by its own age, whatever was saved since. A cookie never signs in."""
    now = time.time()
    kept = {
        name: value
        for name, value in data.items()
        if name != SESSION_KEY and now - since[name][1] <= SHORTER_LIFETIMES.get(name, STRANGER_LIFETIME)
    }
    if SSO_STATES in kept:
        states = kept[SSO_STATES].items()
        kept[SSO_STATES] = {state: made for state, made in states if now - made[1] <= SHORTER_LIFETIMES[SSO_STATES]}
        if not kept[SSO_STATES]:
            del kept[SSO_STATES]
    return kept


def _drop_oldest(data: Data, since: dict[str, tuple[str, float]]) -> None:
    """Drop the oldest of several single sign-on states first, then the oldest value."""
    states = data.get(SSO_STATES, {})
    if len(states) > 1:
        del states[min(states, key=lambda state: states[state][1])]
    else:
        del data[min(data, key=lambda name: since[name][1])]


def _fernet(purpose: str) -> Fernet:
    """Each purpose has its own key: the data of a row must not work as a cookie."""
    derived = salted_hmac(f"taskruns.session.{purpose}", "", algorithm="sha256", secret=settings.SECRET_KEY)
    return Fernet(base64.urlsafe_b64encode(derived.digest()))


def _encrypt(purpose: str, data: Data) -> str:
    """Omits the padding, because a cookie would have to quote it."""
    packed = zlib.compress(json.dumps(data, separators=(",", ":")).encode(), level=9)
    return _fernet(purpose).encrypt(packed).decode().rstrip("=")


def _decrypt(purpose: str, text: str, *, max_age: int | None = None) -> Data | None:
    """None if it was not encrypted here, or is older than `max_age` seconds."""
    padded = text + "=" * (-len(text) % 4)
    try:
        packed = _fernet(purpose).decrypt(padded.encode(), ttl=max_age)
        data: Data = json.loads(zlib.decompress(packed))
    except (InvalidToken, ValueError, zlib.error):
        return None
    return data
