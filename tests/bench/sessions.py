"""Disabling a person, changing a password and a cancel, among many sessions of other people and without them.

BENCH_SESSIONS: number of other people's live sessions, by default a million.
"""

import os
from collections.abc import Callable, Iterator

from django.conf import settings
from django.db import connection
from django.test import Client
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import PersonSession, Run, User
from taskruns.services.people import accounts
from tests.bench.cancels import panel, sandbox
from tests.bench.table import Figure, median_ms

MANY = int(os.environ.get("BENCH_SESSIONS", "1000000"))
TIMES = 25
EACH = 3  # sessions of each person
SLOWER = "<= 1.3 x"
PASSWORD = "correct horse battery staple"
BY = Actor.command()
NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < %s) "
    "SELECT printf('%%064d', n), %s, %s, %s, %s, %s, '', '' FROM numbers",
    "postgresql": "SELECT lpad(n::text, 64, '0'), %s, %s, %s, %s, %s, '', '' FROM generate_series(1, %s) n",
}


def measure() -> list[Figure]:
    with sandbox() as url:
        settings.ARIZE_ENDPOINTS = (url,)
        client, slug = panel(url, slug="sessions")
        runs = Run.objects.filter(team__slug=slug, rank=1).order_by("sorted_at")
        paths = iter([f"/teams/{slug}/runs/{run.pk}/cancel/" for run in runs[: 3 * TIMES]])
        without = _phase(client, paths, "alone")
        _fill(MANY)
        among = _phase(client, paths, "among")
        what = f"among {MANY:,} sessions of others (p50)"
        reference = "the same without any"
        return [Figure(f"{act} {what}", among[act], "ms", without[act], reference, SLOWER) for act in without]


def _phase(client: Client, paths: Iterator[str], name: str) -> dict[str, float]:
    people = [_person(f"{name}-{number}@example.com") for number in range(2 * TIMES)]
    to_disable, to_change = people[:TIMES], [_signed_in(person) for person in people[TIMES:]]

    def change(number: int) -> None:
        new = f"another battery staple {number}"
        fields = {"oldpassword": PASSWORD, "password1": new, "password2": new}
        answer = to_change[number].post("/accounts/password/change/", fields)
        assert answer.status_code == 302, answer.content

    def cancel(_number: int) -> None:
        answer = client.post(next(paths), {"confirmed": "1"}, headers={"HX-Request": "true"})
        assert answer.status_code == 200, answer.content

    acts: dict[str, Callable[[int], object]] = {
        "disable a person": lambda number: accounts.disable_person(to_disable[number], by=BY),
        "password change": change,
        "one cancel": cancel,
    }
    found = {act: median_ms(do, range(TIMES)) for act, do in acts.items()}
    left = PersonSession.objects.filter(user__in=people).count()
    assert left == TIMES, "each changed their password in one session, and the others ended"
    return found


def _person(email: str) -> User:
    person = User(email=email)
    person.set_password(PASSWORD)
    person.save()
    for _ in range(EACH - 1):
        _signed_in(person)
    return person


def _signed_in(person: User) -> Client:
    client = Client()
    client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
    return client


def _fill(rows: int) -> None:
    other = User.objects.create(email="other@example.com")
    now = timezone.now()
    field = PersonSession._meta.get_field("user")
    values = ["x" * 400, now + timezone.timedelta(days=7), field.get_db_prep_value(other.pk, connection), now, now]
    columns = "session_key, session_data, expire_date, user_id, began_at, seen_at, ip, user_agent"
    numbered = [rows, *values] if connection.vendor == "sqlite" else [*values, rows]
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO taskruns_personsession ({columns}) {NUMBERS[connection.vendor]}", numbered)
