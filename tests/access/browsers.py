"""One browser for each person, and requests that leave nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie

from django.db import transaction
from django.test import Client

from taskruns.models import User
from tests.clients import ClientOf


class Browsers:
    """One for each person, signed in before the first try, and in each try with the cookies of that moment: signing in
    for each of thousands of requests would take most of the time.
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
    """Each request of the table starts from the same state. Not atomic(): a cancel insists on the outermost one."""
    point = transaction.savepoint()
    yield
    transaction.savepoint_rollback(point)
