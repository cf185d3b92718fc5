"""One browser for each person, and a block whose changes are rolled back."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie

from django.db import transaction
from django.test import Client

from taskruns.models import User
from tests.clients import ClientOf


class Browsers:
    """One signed-in browser for each person, with the original cookies on each access.

    Signing in for each of thousands of requests would take most of the time.
    """

    def __init__(self, people: dict[str, User | None], client_of: ClientOf) -> None:
        self._clients = {who: client_of(person) for who, person in people.items()}
        self._cookies = {who: client.cookies.output(header="", sep=";") for who, client in self._clients.items()}

    def __getitem__(self, who: str) -> Client:
        client = self._clients[who]
        client.cookies = SimpleCookie(self._cookies[who])
        return client


@contextmanager
def undone() -> Iterator[None]:
    """Roll back everything in the block. Not atomic(): a cancel requires an outermost transaction."""
    point = transaction.savepoint()
    yield
    transaction.savepoint_rollback(point)
