"""CSV that is safe to open in a spreadsheet."""

import csv
import io
import unicodedata
from collections.abc import Iterable

# A spreadsheet treats a cell that starts like this as a formula. Some also skip spaces and invisible characters before
# it, or accept the full-width form.
_FORMULA = ("=", "+", "-", "@")
# Begins a CSV file. Without it, Excel on Windows garbles every letter that is not ASCII.
BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
_CONTROL = ("\t", "\r", "\n")


class _Echo:
    """A file whose `write` returns the text, so that the csv module can stream."""

    def write(self, text: str) -> str:
        return text


def defused(text: str) -> str:
    """The text of one cell, prefixed if it would be a formula: it may come from a person or from Arize."""
    if not text or (text[0].isalnum() and text[0].isascii()):
        return text
    is_formula = text.startswith(_CONTROL) or _first_visible(text) in _FORMULA
    return f"'{text}" if is_formula else text


def _first_visible(text: str) -> str:
    """The first visible character (no separator, control or format character), in its normal width."""
    first = next((each for each in text if unicodedata.category(each)[0] not in "ZC"), "")
    return unicodedata.normalize("NFKC", first)


def csv_lines(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def csv_line(cells: Iterable[str]) -> str:
    return str(csv.writer(_Echo()).writerow(cells))
