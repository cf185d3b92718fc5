"""Searches ignore case, accents and the spelling of accents, with the same result on every database."""

import unicodedata

import pytest
from django.db.models import Value
from django.db.models.functions import Cast
from django.http import QueryDict
from django.test import Client
from django.utils import timezone

from taskruns.forms import BoardFilter
from taskruns.models import Run, Task, Team, User
from taskruns.models.folded import Folded, TextField, fold
from taskruns.services.runs.matching import matching
from tests.clients import ClientOf
from tests.factories import make_run
from tests.wire import ENDPOINT

COMPOSED, DECOMPOSED = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
ALIKE = [
    ("Prüfung", "PRÜFUNG"),
    ("Prüfung", "prufung"),
    (f"Caf{COMPOSED}", f"CAF{DECOMPOSED}"),
    (f"caf{DECOMPOSED}", f"Caf{COMPOSED}"),
    ("Straße", "STRASSE"),
    ("ΟΔΟΣ", "οδος"),
    ("οδος", "Οδός"),
    ("İstanbul", "istanbul"),
    ("ﬁnal run", "FINAL"),
    ("\N{FULLWIDTH LATIN CAPITAL LETTER F}ull", "full"),
    ("Ёлка", "ёлка"),
    ("Łódź", "łodz"),
    ("100% of_it", "100% OF_IT"),
]


def found(team: Team, q: str) -> list[Run]:
    query = QueryDict(mutable=True)
    query["q"] = q
    return list(matching(team, BoardFilter.parse(query), now=timezone.now()))


@pytest.mark.parametrize(("name", "q"), ALIKE)
def test_a_task_is_found_by_any_spelling_of_its_name(name: str, q: str, task: Task) -> None:
    Task.objects.update(name=f"before {name} after")
    run = make_run(task)
    assert found(task.team, q) == [run]
    assert found(task.team, f"{q} afterwards") == []


@pytest.mark.parametrize("q", ["\u0301", "\u0301\u0308", "%", "_", "\\"])
def test_marks_and_wildcards_alone_find_nothing(q: str, run: Run) -> None:
    assert found(run.task.team, q) == []


def test_the_folded_name_follows_every_way_to_write_the_name(team: Team) -> None:
    mine = {"team": team, "endpoint": ENDPOINT}
    created = Task.objects.create(**mine, arize_id="1", name="ÉTÉ 1")
    Task.objects.bulk_create([Task(**mine, arize_id="2", name="ÉTÉ 2")])
    assert sorted(Task.objects.values_list("search_name", flat=True)) == ["ete 1", "ete 2"]
    created.name = "Hiver"
    created.save()
    assert Task.objects.get(arize_id="1").search_name == "hiver"
    Task.objects.filter(arize_id="2").update(name="Île")
    assert Task.objects.get(arize_id="2").search_name == "ile"
    Task.objects.update(space_name="Île")
    assert Task.objects.get(arize_id="1").search_name == "hiver"


@pytest.mark.django_db
def test_the_database_folds_text_as_the_panel_does(team: Team) -> None:
    """Every letter of the alphabets with case, and their marks."""
    blocks = [*range(0x20, 0x530), *range(0x10A0, 0x1100), *range(0x1E00, 0x2000), *range(0x2C60, 0x2C80)]
    letters = [chr(code) for code in (*blocks, *range(0xFB00, 0xFB07), *range(0xFF21, 0xFF5B))]
    known = [letter for letter in letters if unicodedata.category(letter) != "Cn"]
    assert len(known) > 1_500
    for start in range(0, len(known), 100):
        text = " ".join(f"a{letter}" for letter in known[start : start + 100])
        folded = Team.objects.annotate(folded=Folded(Cast(Value(text), TextField()))).get().folded
        assert folded == fold(text)


def test_people_are_found_by_any_spelling_of_their_name(adam: User, vera: User, client_of: ClientOf) -> None:
    User.objects.filter(pk=vera.pk).update(name=f"V{DECOMPOSED}ra Müller")
    client: Client = client_of(adam)
    assert vera.email in client.get("/people/", {"q": f"V{COMPOSED}RA MÜLLER"}).content.decode()
    assert vera.email in client.get("/people/", {"q": "MULLER"}).content.decode()
    assert vera.email not in client.get("/people/", {"q": "\u0301"}).content.decode()
