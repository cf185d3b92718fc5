"""Reads the JSON objects that the controls take; whatever is unknown or nonsense is a 400 with a sentence."""

from collections.abc import Collection
from dataclasses import dataclass

from taskruns.sandbox.problems import Problem


@dataclass(frozen=True, slots=True)
class Fields:
    document: dict[str, object]

    def text(self, name: str) -> str | None:
        value = self.document.get(name)
        if value is None or isinstance(value, str):
            return value
        raise Problem(400, f"{name} must be a text.")

    def whole(self, name: str, *, least: int, most: int) -> int | None:
        value = self.document.get(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and least <= value <= most):
            return value
        raise Problem(400, f"{name} must be a whole number from {least} to {most}.")

    def number(self, name: str, *, least: float, most: float) -> float | None:
        """Also refuses NaN, which Python's JSON lets through and which is neither small nor large."""
        value = self.document.get(name)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise Problem(400, f"{name} must be a number from {least} to {most}.")

    def choice(self, name: str, choices: Collection[str]) -> str | None:
        value = self.text(name)
        if value is None or value in choices:
            return value
        raise Problem(400, f"{name} must be one of {', '.join(choices)}.")

    def texts(self, name: str) -> dict[str, str]:
        """An object of texts; numbers become texts, because `Retry-After` is mostly written as one."""
        value = self.document.get(name, {})
        if not isinstance(value, dict) or not all(isinstance(one, str | int) for one in value.values()):
            raise Problem(400, f"{name} must be an object of texts.")
        return {key: str(one) for key, one in value.items()}


def read_fields(document: object, *, known: Collection[str]) -> Fields:
    """Raises Problem 400 for anything but an object of known members."""
    if not isinstance(document, dict):
        raise Problem(400, "The body must be a JSON object.")
    unknown = sorted(document.keys() - set(known))
    if unknown:
        raise Problem(400, f"Unknown member {unknown[0]!r}; known are {', '.join(known)}.")
    return Fields(document)
