"""Tables that people open in a spreadsheet."""

import csv
from collections.abc import Iterable

# A spreadsheet takes such a beginning for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _Echo:
    """A file that hands back what is written to it, so that the csv module can stream."""

    def write(self, text: str) -> str:
        return text


def defused(text: str) -> str:
    """One cell: nothing that came from a person or from Arize becomes a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_line(cells: Iterable[str]) -> str:
    return str(csv.writer(_Echo()).writerow(cells))
