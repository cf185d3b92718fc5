"""Texts from Arize and from people, made safe to show: no character may hide, and no name may break a page."""

import re
from collections import Counter
from collections.abc import Iterable

LABEL = 100  # characters of a name where it cannot be clamped by the style sheet
ID_END = 8
# Control characters, and those that turn the direction of the text after them. Line breaks and tabs are text.
_HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Replace hidden characters by a symbol (`␀`) or their number."""
    return _HIDDEN.sub(_symbol, text)


def shortened(text: str, most: int = LABEL) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def told_apart(named: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Id -> label, from (id, name, space). Equal names get their space and the end of their id."""
    tasks = {id_: (shortened(name or id_), shortened(space)) for id_, name, space in named}
    shared = Counter(label for label, _ in tasks.values())
    ends = Counter((*task, id_[-ID_END:]) for id_, task in tasks.items())

    def label_of(id_: str, label: str, space: str) -> str:
        if shared[label] == 1:
            return label
        end = f"…{id_[-ID_END:]}" if ends[label, space, id_[-ID_END:]] == 1 else id_
        return " · ".join(part for part in (label, space, end) if part)

    return {id_: label_of(id_, *task) for id_, task in tasks.items()}


def _symbol(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else f"\\u{code:04x}"
