"""Pieces of a page that are drawn once a process: they depend on nothing but what they are given."""

from functools import lru_cache

from django import template
from django.conf import settings
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from taskruns.pages.board.parts import Choice
from taskruns.pages.board.rows import RunRow

register = template.Library()
ROWS = 4096  # of some 2 kB each
SELECTS = 256  # of at most 1,000 entries


@register.simple_tag
def run_row(row: RunRow) -> SafeString:
    """A row of the board. Of what an open board asks again nearly every row is as it was."""
    return _row(row) if settings.DEBUG else _known_row(_Versioned(row))


@register.simple_tag
def select(name: str, choices: tuple[Choice, ...], every: str) -> SafeString:
    """A filter's list, which has as many entries as the team has tasks. `every`: what the entry for no choice says."""
    return (_select if settings.DEBUG else _known_select)(name, choices, every)


@register.simple_tag
def icon_sprite() -> SafeString:
    return _sprite() if settings.DEBUG else _known_sprite()


class _Versioned:
    """Two rows of one version are the same row: that is what a version is."""

    __slots__ = ("row",)

    def __init__(self, row: RunRow) -> None:
        self.row = row

    def __hash__(self) -> int:
        return hash(self.row.version)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Versioned) and self.row.version == other.row.version


def _row(row: RunRow) -> SafeString:
    return render_to_string("taskruns/board/_row.html", {"row": row})


def _select(name: str, choices: tuple[Choice, ...], every: str) -> SafeString:
    return render_to_string("taskruns/board/_select.html", {"name": name, "choices": choices, "every": every})


def _sprite() -> SafeString:
    return render_to_string("taskruns/_icons.html")


@lru_cache(maxsize=ROWS)
def _known_row(versioned: _Versioned) -> SafeString:
    return _row(versioned.row)


_known_select = lru_cache(maxsize=SELECTS)(_select)
_known_sprite = lru_cache(maxsize=1)(_sprite)
