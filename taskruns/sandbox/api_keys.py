"""GET /v2/api-keys: the caller's own key, shortened as Arize shows it. Every second key has an end."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from taskruns.sandbox.catalogue import USERS
from taskruns.sandbox.clock import iso
from taskruns.sandbox.identifiers import identifier

SHOWN = 6  # characters at the beginning, and half as many at the end
ENDS_AFTER = timedelta(days=10)


class KeyList:
    """`keys` in the order in which they were given; the second, fourth ... expire ten days after the start."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._numbers = {key: number for number, key in enumerate(keys)}
        self._began = datetime.now(UTC)

    def own(self, key: str) -> dict[str, object]:
        number = self._numbers[key]
        return {
            "id": identifier(kind="ApiKey", number=number + 1),
            "name": f"Key {number + 1}",
            "redacted_key": f"{key[:SHOWN]}...{key[-SHOWN // 2 :]}",
            "key_type": "USER",
            "status": "ACTIVE",
            "created_at": iso(self._began - timedelta(days=80)),
            "expires_at": iso(self._began + ENDS_AFTER) if number % 2 else None,
            "last_used_at": iso(self._began),
            "created_by_user_id": USERS[-1].id,
        }
