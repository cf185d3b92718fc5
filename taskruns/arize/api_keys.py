"""API keys as Arize lists them: shortened, with their end."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from taskruns.arize.errors import Unreadable
from taskruns.arize.values import read_text, read_timestamp

_GAP = re.compile(r"[.*\u2026\u2022]{2,}|[\u2026\u2022*]")
FEWEST_SHOWN = 6  # characters; fewer would fit too many keys


@dataclass(frozen=True, slots=True)
class WireApiKey:
    """Source: GET /v2/api-keys (beta). `redacted_key` looks like `ak-abc...xyz`; no `expires_at`: no end is known."""

    id: str
    redacted_key: str
    expires_at: datetime | None

    @classmethod
    def from_json(cls, data: object) -> Self:
        """Raises Unreadable if it is no object with an id."""
        raw = data if isinstance(data, dict) else {}
        id_ = read_text(raw.get("id"))
        if not id_:
            raise Unreadable
        redacted = read_text(raw.get("redacted_key")) or ""
        return cls(id=id_, redacted_key=redacted, expires_at=read_timestamp(raw.get("expires_at")))

    def shortens(self, key: str) -> bool:
        """Whether this is how the key looks with its middle left out. Two keys can look alike."""
        parts = _GAP.split(self.redacted_key.strip())
        if len(parts) != 2 or len(parts[0]) + len(parts[1]) < FEWEST_SHOWN:
            return False
        begin, end = parts
        return len(key) > len(begin) + len(end) and key.startswith(begin) and key.endswith(end) and bool(end)
