"""Search for a key, or any 8 characters of it, in everything that a deployment stores or sends."""

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from django.http import HttpResponse
from django.test import Client

from taskruns.models import PersonSession
from taskruns.models.session_store import SessionStore

LENGTH = 8


def pieces(key: str) -> set[str]:
    return {key[start : start + LENGTH] for start in range(len(key) - LENGTH + 1)}


def encoded(key: str) -> set[str]:
    """The key in base64 at each of the three offsets, without the ends that depend on neighbouring bytes."""
    return {base64.b64encode(b"\0" * offset + key.encode()).decode()[4:-4] for offset in range(3)}


def found(key: str, places: Iterable[str]) -> list[str]:
    """An excerpt around each piece of the key that the places contain."""
    wanted = pieces(key) | encoded(key)
    return [excerpt(place, piece) for place in places for piece in wanted if piece in place]


def excerpt(place: str, piece: str) -> str:
    at = place.index(piece)
    return place[max(0, at - 80) : at + 80]


class Witness(Client):
    """A test client that keeps every response, including headers and cookies."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, raise_request_exception=False, **kwargs)
        self.seen: list[str] = []

    def request(self, **request: Any) -> HttpResponse:
        answer = super().request(**request)
        self.seen += [answer.content.decode(errors="replace"), str(answer.headers), str(answer.cookies)]
        return answer


def database_dump() -> str:
    """Every column of every table, and the decrypted sessions."""
    rows: list[object] = [SessionStore().decode(row.session_data) for row in PersonSession.objects.all()]
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            rows += [table, *cursor.fetchall()]
    return "\n".join(map(str, rows))


def queue_dump() -> str:
    path = Path(settings.HUEY["filename"])
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    return "\n".join(file.read_bytes().decode("latin-1") for file in files)
