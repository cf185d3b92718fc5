"""Which key sees which spaces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taskruns.sandbox.catalogue import SPACES, Space


class UnreadableKeys(ValueError):
    """The text of a key cannot be read. The message never holds the key."""


@dataclass(frozen=True, slots=True)
class Access:
    """Key -> the spaces it sees, in the world's order."""

    keys: Mapping[str, tuple[Space, ...]]

    def spaces(self, key: str | None) -> tuple[Space, ...] | None:
        """None for a key that is missing or unknown; an empty tuple for one that sees nothing."""
        return None if key is None else self.keys.get(key)


def build_access(keys: Mapping[str, Sequence[str]]) -> Access:
    """From key -> names or ids of spaces, none meaning all of them. Raises UnreadableKeys."""
    return Access({key: _spaces(limits) for key, limits in keys.items()})


def _spaces(limits: Sequence[str]) -> tuple[Space, ...]:
    names = {name for space in SPACES for name in (space.name, space.id)}
    if not set(limits) <= names:
        known = ", ".join(space.name for space in SPACES)
        raise UnreadableKeys(f"A key is limited to a space that does not exist; there are {known}.")
    return tuple(space for space in SPACES if not limits or {space.name, space.id} & set(limits))


def read_keys(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Reads `KEY` and `KEY=SPACE,SPACE`; so a key holds no `=`. Raises UnreadableKeys."""
    keys: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, limited, limits = text.strip().partition("=")
        if not key or key in keys or (limited and not limits) or not key.isascii() or " " in key:
            raise UnreadableKeys("Each key is given once as KEY or KEY=SPACE,SPACE, in plain letters and digits.")
        keys[key] = tuple(part.strip() for part in limits.split(",")) if limits else ()
    return keys
