"""A board's query string in its one spelling, and what is wrong with one."""

from django.core.exceptions import TooManyFieldsSent
from django.http import QueryDict

from taskruns.forms import BadFilter, BoardFilter
from taskruns.models import SavedView

# Characters, encoded: an address has to fit into a request line of 8,190 bytes with some room to spare.
LONGEST_QUERY = 6_000


class SavedViewsError(Exception):
    """A mistake that a person can mend: `sentence` says it, `field` is the form field it belongs to, if any."""

    def __init__(self, sentence: str, *, field: str = "") -> None:
        self.sentence, self.field = sentence, field
        super().__init__(sentence)


def canonical(query: str) -> str:
    """The one spelling of a board's query string: no `?`, no cursor, nothing that the board would ignore.

    Raises SavedViewsError.
    """
    asked, why_not = read(query)
    if why_not:
        raise SavedViewsError(f"This filter cannot be saved. {why_not}")
    if len(asked) > LONGEST_QUERY:
        raise SavedViewsError("This filter is too long to be saved. Take something out of it first.")
    return asked


def why_broken(view: SavedView) -> str:
    """Why the filter of the view cannot be used any more, in a sentence; empty if it can."""
    return read(view.query)[1]


def read(query: str) -> tuple[str, str]:
    """The query string in its one spelling, or why it cannot be used."""
    try:
        given = QueryDict(query.removeprefix("?"), mutable=True)
        given.pop("cursor", None)
        return BoardFilter.parse(given).query().removeprefix("?"), ""
    except BadFilter as error:
        return "", str(error)
    except TooManyFieldsSent:
        return "", "It has too many parts."
