"""Tables that people open in a spreadsheet."""

import csv
import unicodedata
from collections.abc import Iterable

# A spreadsheet takes such a beginning for a formula; some do so behind blanks and characters that nobody sees, and in
# full width.
_FORMULA = ("=", "+", "-", "@")
# Begins a CSV file. Without it, Excel on Windows garbles every letter that is not ASCII.
BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
_CONTROL = ("\t", "\r", "\n")


class _Echo:
    """A file that hands back what is written to it, so that the csv module can stream."""

    def write(self, text: str) -> str:
        return text


def defused(text: str) -> str:
    """One cell: nothing that came from a person or from Arize becomes a formula."""
    is_formula = text.startswith(_CONTROL) or _first_seen(text) in _FORMULA
    return f"'{text}" if is_formula else text


def _first_seen(text: str) -> str:
    """The first character that leaves a mark (no separator, control or format character), in plain width."""
    first = next((each for each in text if unicodedata.category(each)[0] not in "ZC"), "")
    return unicodedata.normalize("NFKC", first)


def csv_line(cells: Iterable[str]) -> str:
    return str(csv.writer(_Echo()).writerow(cells))
