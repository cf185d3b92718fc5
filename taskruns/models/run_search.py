"""The texts of runs that the board's search reads, with one index over every three characters in a row (a trigram).

A text holds the run's ids, also in clear, and its failure reason, all folded (`folded.py`), so that both databases
find the same runs. It holds no name of a task, a space or a person: those are few, so a search finds them first, and
renaming one must not rewrite thousands of texts.

- **SQLite**: an FTS5 table of trigrams over the texts, kept by triggers. It stores no positions, which would triple its
  size, so LIKE has the last word.
- **PostgreSQL**: a plain GIN index over an immutable SQL function that returns the trigrams as numbers; LIKE has the
  last word here too. Not `pg_trgm`: that extension needs CREATE on the database, or a list of the hosting service that
  allows it. The function and the index need only what the other tables need.

An index knows no teams: a term that is in each run of a large team would make the search of a small team slow. So each
text begins with a mark of its team, which is one more trigram to look up.

SQLite silently drops a table's triggers whenever Django rebuilds the table, so they are created again after every
migrate.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.db import connections, models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Expression, F, Func, Q

from taskruns.arize.ids import decoded

from .folded import fold
from .prepared import Slot
from .runs import Run
from .teams import Team

SHORTEST = 3  # characters; a shorter text has no trigram
LONGEST_REASON = 2_000  # characters of a failure reason that can be found
# Of a term, the first, the middle and the last trigram are looked up: each costs a list of all runs that have it, and
# LIKE checks the rest. Many ids begin alike, so the last one counts most.
_PRIVATE, _PRIVATE_SIZE = 0xF0000, 0xFFFE  # private characters, which no folded text begins with
FTS = "taskruns_run_fts"
_BITS = 21  # of a character


# A change of one of these changes the text.
SOURCES = frozenset({"arize_id", "experiment_id", "failure_reason"})


class RunSearchQuerySet(models.QuerySet["RunSearch"]):
    def write(self, runs: Iterable[Run]) -> None:
        """Write the texts of runs that are in the database, with the columns of SOURCES loaded. An unchanged text is
        not written to the index.
        """
        rows = [RunSearch(run_id=run.pk, team_id=run.team_id, text=text_of(run)) for run in runs]
        if rows:
            options: dict[str, Any] = {"update_conflicts": True, "unique_fields": ["run"], "update_fields": ["text"]}
            self.bulk_create(rows, batch_size=500, **options)

    def write_new(self, runs: Iterable[Run]) -> None:
        """Write the texts of new runs, except those that another worker was faster to insert."""
        new = {run.pk: run for run in runs}
        if new:
            self.write(new[pk] for pk in Run.objects.filter(pk__in=new).values_list("pk", flat=True))


class RunSearch(models.Model):
    """What can be found of a run. Written only when this changes, which is seldom."""

    id = models.BigAutoField(primary_key=True)
    run = models.OneToOneField(Run, models.CASCADE, related_name="search")
    team = models.ForeignKey(Team, models.CASCADE, related_name="+", db_index=False)
    text = models.TextField()

    objects = RunSearchQuerySet.as_manager()

    def __str__(self) -> str:
        return self.text


def text_of(run: Run) -> str:
    """The fields are on lines of their own, so that no match spans two of them."""
    ids = [text for text in (run.arize_id, run.experiment_id or "") if text]
    clear = [text for text in map(decoded, ids) if text]
    fields = (*ids, *clear, (run.failure_reason or "")[:LONGEST_REASON])
    return "\n".join([mark_of(run.team_id), *filter(None, map(searchable, fields))])


def searchable(text: str) -> str:
    """The text as it is stored and looked for: folded, and a line break is a space."""
    return " ".join(fold(text).split())


def mark_of(team_id: uuid.UUID) -> str:
    """Three characters for the team."""
    number, mark = team_id.int, ""
    for _ in range(3):
        number, digit = divmod(number, _PRIVATE_SIZE)
        mark += chr(_PRIVATE + digit)
    return mark


def holding(team: uuid.UUID | Slot, term: str | Slot) -> Q:
    """The rows of the team whose text contains the term, which must be searchable and not too short. The slots of a
    prepared query are called `team` and `term`.
    """
    if isinstance(team, Slot) or isinstance(term, Slot):
        return Q(team=team) & Q(_Indexed(_Pieces())) & Q(text__contains=term)
    return Q(team=team) & Q(_Indexed(_pieces(team, term))) & Q(text__contains=term)


class FirstHolding(Expression):
    """As `holding`, for the slots `team` and `term` of a prepared query: the runs of the first `most` rows, or with
    `is_number` how many there are.

    SQLite reads the index in a join, row by row: `IN` would first read all that the index has.
    """

    def __init__(self, most: int, *, is_number: bool = False) -> None:
        super().__init__(models.IntegerField() if is_number else models.UUIDField())
        self.most, self.is_number = most, is_number

    def as_sqlite(self, _compiler: Any, _connection: Any) -> Any:
        sql = (
            f"SELECT texts.run_id FROM {FTS} CROSS JOIN taskruns_runsearch texts ON texts.id = {FTS}.rowid"  # noqa: S608
            f" WHERE {FTS} MATCH %s AND texts.team_id = %s AND texts.text LIKE %s ESCAPE '\\' LIMIT {self.most:d}"
        )
        return self._asked(sql), [_Pieces(), Slot("team", models.UUIDField()), _Like()]

    def as_postgresql(self, compiler: Any, _connection: Any) -> Any:
        held = holding(Slot("team", models.UUIDField()), Slot("term", models.TextField()))
        rows = RunSearch.objects.filter(held).values("run")[: self.most]
        sql, parameters = rows.query.get_compiler(connection=compiler.connection).as_sql()
        if not self.is_number:
            return self._asked(sql), parameters
        # The index reads all that have the trigrams before the first row is checked. If a sample says that there are
        # ten times as many as are counted, they need not be.
        sample = (
            "SELECT COUNT(*) FROM taskruns_runsearch TABLESAMPLE SYSTEM (1) REPEATABLE (0)"
            " WHERE team_id = %s AND text LIKE %s"
        )
        enough = max(200, self.most // 10)
        counted = f"(CASE WHEN ({sample}) >= {enough:d} THEN {self.most:d} ELSE {self._asked(sql)} END)"
        return counted, [Slot("team", models.UUIDField()), _Like(), *parameters]

    def _asked(self, sql: str) -> str:
        return f"(SELECT COUNT(*) FROM ({sql}) held)" if self.is_number else f"({sql})"  # noqa: S608 - compiled


class _Like(Slot):
    """The slot `term` as a pattern."""

    def __init__(self) -> None:
        super().__init__("term", models.TextField())

    def fill(self, values: Mapping[str, Any], connection: Any) -> Any:
        return f"%{connection.ops.prep_for_like_query(values['term'])}%"


class _Pieces(Slot):
    """What the index looks up for the slots `team` and `term`."""

    def __init__(self) -> None:
        super().__init__("term", models.TextField())

    def fill(self, values: Mapping[str, Any], connection: Any) -> Any:
        return _looked_up(_pieces(values["team"], values["term"]), connection)


class _Indexed(Func):
    """Whether the index may have the term: all its trigrams, and the team's mark."""

    output_field = models.BooleanField()
    conditional = True

    def __init__(self, pieces: Sequence[str] | _Pieces) -> None:
        super().__init__(F("id"), F("text"))
        self.pieces = pieces

    def as_sqlite(self, compiler: Any, connection: Any, **extra_context: Any) -> Any:  # noqa: ARG002 # as Django calls it
        sql, parameters = compiler.compile(self.source_expressions[0])
        match = self._parameter(connection)
        return f"{sql} IN (SELECT rowid FROM {FTS} WHERE {FTS} MATCH %s)", [*parameters, match]  # noqa: S608 - our name

    def as_postgresql(self, compiler: Any, connection: Any, **_context: Any) -> Any:
        sql, parameters = compiler.compile(self.source_expressions[1])
        return f"taskruns_trigrams({sql}) @> %s::bigint[]", [*parameters, self._parameter(connection)]

    def _parameter(self, connection: Any) -> Any:
        return self.pieces if isinstance(self.pieces, _Pieces) else _looked_up(self.pieces, connection)


def _pieces(team_id: uuid.UUID, term: str) -> Sequence[str]:
    pieces = pieces_of(term)
    return list(dict.fromkeys([mark_of(team_id), pieces[-1], pieces[len(pieces) // 2], pieces[0]]))


def _looked_up(pieces: Sequence[str], connection: BaseDatabaseWrapper) -> Any:
    """The trigrams as the index has them: a query of FTS5, or numbers."""
    if connection.vendor == "postgresql":
        return [_number_of(piece) for piece in pieces]
    return " AND ".join('"{}"'.format(piece.replace('"', '""')) for piece in pieces)


def pieces_of(term: str) -> list[str]:
    return list(dict.fromkeys(term[at : at + SHORTEST] for at in range(len(term) - SHORTEST + 1)))


def _number_of(piece: str) -> int:
    first, second, third = map(ord, piece)
    return first << 2 * _BITS | second << _BITS | third


_SQLITE_TABLE = (
    f"CREATE VIRTUAL TABLE {FTS} USING fts5"
    "(text, content='taskruns_runsearch', content_rowid='id', tokenize='trigram case_sensitive 1', detail=none)"
)
_FORGET = f"INSERT INTO {FTS}({FTS}, rowid, text) VALUES ('delete', OLD.id, OLD.text);"  # noqa: S608 - our names
_ADD = f"INSERT INTO {FTS}(rowid, text) VALUES (NEW.id, NEW.text);"  # noqa: S608 - our names
# The index must be given the old text: without it, it would go on finding it.
_SQLITE_TRIGGERS = {
    "taskruns_run_fts_insert": f"AFTER INSERT ON taskruns_runsearch BEGIN {_ADD} END",
    "taskruns_run_fts_delete": f"AFTER DELETE ON taskruns_runsearch BEGIN {_FORGET} END",
    "taskruns_run_fts_update": "AFTER UPDATE OF id, text ON taskruns_runsearch"
    f" WHEN OLD.text IS NOT NEW.text OR OLD.id <> NEW.id BEGIN {_FORGET} {_ADD} END",
}
_POSTGRESQL_FUNCTION = f"""CREATE OR REPLACE FUNCTION taskruns_trigrams(text) RETURNS bigint[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
        SELECT array_agg(DISTINCT piece) FROM (
            SELECT (ascii(one)::bigint << {2 * _BITS})
                | (lead(ascii(one)::bigint) OVER (ORDER BY place) << {_BITS})
                | lead(ascii(one)::bigint, 2) OVER (ORDER BY place) AS piece
            FROM unnest(string_to_array($1, NULL)) WITH ORDINALITY AS letters(one, place)
        ) AS pieces WHERE piece IS NOT NULL
    $$"""  # noqa: S608 - our names
# A long list of entries that are not merged yet would be read by each search.
_POSTGRESQL_INDEX = """CREATE INDEX IF NOT EXISTS run_search_trigrams ON taskruns_runsearch
    USING gin (taskruns_trigrams(text)) WITH (gin_pending_list_limit = 512)"""


def make_search_index(connection: BaseDatabaseWrapper) -> None:
    """Create the index and what keeps it. Idempotent; a new one holds the texts that exist."""
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        is_postgresql = connection.vendor == "postgresql"
        for statement in (_POSTGRESQL_FUNCTION, _POSTGRESQL_INDEX) if is_postgresql else _missing_in_sqlite(cursor):
            cursor.execute(statement)


def drop_search_index(connection: BaseDatabaseWrapper) -> None:
    """Before very many texts are written at once: `make_search_index` then makes it from all texts."""
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("DROP INDEX IF EXISTS run_search_trigrams")
        else:
            for name in _SQLITE_TRIGGERS:
                cursor.execute(f"DROP TRIGGER IF EXISTS {name}")


def make_search_index_after_migrate(*, using: str, **_kwargs: Any) -> None:
    """Signal receiver of `post_migrate`."""
    if RunSearch._meta.db_table in connections[using].introspection.table_names():
        make_search_index(connections[using])


def _missing_in_sqlite(cursor: Any) -> Iterator[str]:
    """What is missing or of an earlier release. Without a trigger, changes have passed the index by: build it again."""
    names = (FTS, *_SQLITE_TRIGGERS)
    cursor.execute(f"SELECT name, sql FROM sqlite_master WHERE name IN ({', '.join(['%s'] * len(names))})", names)  # noqa: S608
    stored = dict(cursor.fetchall())
    wanted = {name: f"CREATE TRIGGER {name} {when}" for name, when in _SQLITE_TRIGGERS.items()}
    if stored == {FTS: _SQLITE_TABLE} | wanted:
        return
    if stored.get(FTS) != _SQLITE_TABLE:
        yield f"DROP TABLE IF EXISTS {FTS}"
        yield _SQLITE_TABLE
    for name, statement in wanted.items():
        yield f"DROP TRIGGER IF EXISTS {name}"
        yield statement
    yield f"INSERT INTO {FTS}({FTS}) VALUES ('rebuild')"  # noqa: S608 - our names
