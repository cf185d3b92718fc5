"""Text as a search compares it: without case, without accents, and in one of Unicode's several spellings.

There are two ways to get this text, with the same result on SQLite and PostgreSQL. A `FoldedField` stores it beside its
column, for searches that must be fast. `Folded` computes it in a query, for tables that cannot have another column. It
needs PostgreSQL's ICU collations and a UTF-8 database, which the usual packages provide.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.db.models import Q
from django.db.models.lookups import Contains

# The blocks of combining marks, not every mark: the vowel signs of Indic scripts are marks too, but tell words apart.
MARKS = "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
_MARKS = re.compile(f"[{MARKS}]")
_FINAL_SIGMA, _SIGMA = "\N{GREEK SMALL LETTER FINAL SIGMA}", "\N{GREEK SMALL LETTER SIGMA}"
_FINAL = str.maketrans(_FINAL_SIGMA, _SIGMA)
_SQLITE_FUNCTION = "taskruns_fold"
M = TypeVar("M", bound=models.Model)
if TYPE_CHECKING:
    TextField = models.TextField[str, str]
else:
    TextField = models.TextField


def fold(text: str) -> str:
    """`Prüfung`, `PRÜFUNG` and `Pru\u0308fung` are `prufung`; `Straße` is `strasse`. Marks alone become empty text.

    Upper case comes first, because PostgreSQL lacks `casefold()`: without this step, `ß` and `ss` would differ there.
    """
    if text.isascii():
        return text.lower()
    lower = unicodedata.normalize("NFKD", text).upper().lower().translate(_FINAL)
    return _MARKS.sub("", unicodedata.normalize("NFKD", lower))


class FoldedField(TextField):
    """The folded text of another column. `save()` and `bulk_create()` fill it; for `update()`, see FoldedQuerySet."""

    def __init__(self, *args: Any, of: str = "", **kwargs: Any) -> None:
        self.of = of
        options: dict[str, Any] = {"default": "", "editable": False, "blank": True} | kwargs
        super().__init__(*args, **options)

    def deconstruct(self) -> Any:
        """Migrations see a plain text column."""
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.TextField", args, kwargs

    def pre_save(self, model_instance: models.Model, add: bool) -> str:  # noqa: ARG002, FBT001 # as Django calls it
        folded = fold(getattr(model_instance, self.of))
        setattr(model_instance, self.attname, folded)
        return folded


class FoldedQuerySet(models.QuerySet[M]):
    """Keeps folded columns up to date in `update()`, which does not load the rows."""

    def update(self, **kwargs: Any) -> int:
        columns = (field for field in self.model._meta.concrete_fields if isinstance(field, FoldedField))
        folded = {field.name: fold(kwargs[field.of]) for field in columns if field.of in kwargs}
        return super().update(**folded | kwargs)


class Folded(models.Func):
    """The folded text of a column, in a query."""

    output_field = models.TextField()
    arity = 1
    # The same steps as in fold().
    template = (
        "regexp_replace(normalize(translate(lower(upper(normalize(%(expressions)s, NFKD) "
        f"COLLATE \"und-x-icu\")), '{_FINAL_SIGMA}', '{_SIGMA}'), NFKD), '[{MARKS}]', '', 'g')"
    )

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> Any:
        # Cast to bytes: a row changed by hand may hold invalid text, which must not fail the whole query.
        return self.as_sql(compiler, connection, template=f"{_SQLITE_FUNCTION}(CAST(%(expressions)s AS BLOB))", **extra)


def contains(column: str, text: str) -> Q:
    """Rows whose column contains the text, as a search compares it. A text that has only accents matches nothing."""
    folded = fold(text)
    return contains_folded(column, folded) if folded else Q(pk__in=[])


def contains_folded(column: str, folded: str | models.Value) -> Q:
    """As `contains`, for a text that is folded already and not empty."""
    return Q(Contains(Folded(column), folded))


def _fold_bytes(stored: bytes | None) -> str | None:
    return None if stored is None else fold(stored.decode("utf-8", "replace"))


def _add_function(connection: BaseDatabaseWrapper, **_: Any) -> None:
    if connection.vendor == "sqlite":
        create: Callable[..., None] = connection.connection.create_function
        create(_SQLITE_FUNCTION, 1, _fold_bytes, deterministic=True)


connection_created.connect(_add_function, dispatch_uid=_SQLITE_FUNCTION)
