from typing import Any


def read_groups(claim: Any) -> frozenset[str] | None:
    """The names in a claim about groups; None if it says nothing that can be read as groups.

    Providers send a list, one name as text, numbers as IDs, or lists in lists. Anything else is skipped.
    """
    if isinstance(claim, str | int | list) and not isinstance(claim, bool):
        return frozenset(_names(claim, depth=3))
    return None


def _names(claim: Any, *, depth: int) -> list[str]:
    if isinstance(claim, list) and depth:
        return [name for item in claim for name in _names(item, depth=depth - 1)]
    if isinstance(claim, bool) or not isinstance(claim, str | int):
        return []
    name = str(claim).strip() if isinstance(claim, str) or abs(claim) < 10**30 else ""
    return [name] if name else []
