"""API keys: which spaces each of them sees, and how Arize lists them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from .catalogue import SPACES, USERS, Space, identifier
from .messages import iso

SHOWN = 6  # characters at the beginning, and half as many at the end
EXPIRE_AFTER = timedelta(days=10)


class UnreadableKeys(ValueError):
    """The text of a key cannot be read. The message never holds the key."""


def read_keys(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Key -> names or ids of spaces, from `KEY` or `KEY=SPACE,SPACE`. A key contains no `=`. Raises UnreadableKeys."""
    keys: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, limited, limits = text.strip().partition("=")
        if not key or key in keys or (limited and not limits) or not key.isascii() or " " in key:
            raise UnreadableKeys("Give each key once, as KEY or KEY=SPACE,SPACE, in ASCII without blanks.")
        keys[key] = tuple(part.strip() for part in limits.split(",")) if limits else ()
    return keys


class Keys:
    """The keys in the given order. Every second key expires ten days after the start."""

    def __init__(self, limits: Mapping[str, Sequence[str]]) -> None:
        """`limits`: key -> names or ids of spaces; empty means all. Raises UnreadableKeys."""
        self._spaces = {key: _spaces(names) for key, names in limits.items()}
        self._numbers = {key: number for number, key in enumerate(limits, 1)}
        self._started = datetime.now(UTC)

    def spaces(self, key: str | None) -> tuple[Space, ...] | None:
        """The spaces that the key sees, in the world's order. None if the key is missing or unknown."""
        return None if key is None else self._spaces.get(key)

    def listed(self, key: str) -> dict[str, object]:
        """The key as `GET /v2/api-keys` shows it: shortened."""
        number = self._numbers[key]
        return {
            "id": identifier(kind="ApiKey", number=number),
            "name": f"Key {number}",
            "redacted_key": f"{key[:SHOWN]}...{key[-SHOWN // 2 :]}",
            "key_type": "USER",
            "status": "ACTIVE",
            "created_at": iso(self._started - timedelta(days=80)),
            "expires_at": None if number % 2 else iso(self._started + EXPIRE_AFTER),
            "last_used_at": iso(self._started),
            "created_by_user_id": USERS[-1].id,
        }


def _spaces(limits: Sequence[str]) -> tuple[Space, ...]:
    names = {name for space in SPACES for name in (space.name, space.id)}
    if not set(limits) <= names:
        known = ", ".join(space.name for space in SPACES)
        raise UnreadableKeys(f"A key names a space that does not exist. The spaces are {known}.")
    return tuple(space for space in SPACES if not limits or {space.name, space.id} & set(limits))
