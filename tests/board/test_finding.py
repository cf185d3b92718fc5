"""What the search text and the filters by person find, with the same result on every database."""

import base64
from datetime import timedelta
from importlib import import_module
from itertools import pairwise
from typing import Any

import pytest
from django.db import connection
from django.http import QueryDict
from django.test import Client
from django.utils import timezone

from taskruns.forms import BoardFilter
from taskruns.models import ArizeUser, Cancellation, Outcome, Run, RunSearch, Status, Task, Team, Trigger, User
from taskruns.models.run_search import FTS, make_search_index, searchable
from taskruns.services.batches.draft import draft_matching
from taskruns.services.runs import retention
from taskruns.services.runs.matching import matching
from taskruns.services.runs.observations import Reading, record_observation, record_readings
from tests.clients import ClientOf
from tests.factories import make_credential, make_run, make_task
from tests.runs.readings import at, reading
from tests.wire import ENDPOINT

MATCHING = import_module("taskruns.services.runs.matching")
ID = base64.b64encode(b"TaskRun:451288:aB3d").decode()
REASONS = [
    "Rate limit: 100% of_it used \\ at 429",
    "The model said \"no\" and 'never'",
    "Prüfung der Straße\nabgebrochen — naïve Ελληνικά",
    "Emoji 🙂🚀 and tabs\tand   spaces",
    "' OR 1=1 --; DROP TABLE taskruns_run",
    "percent %s %d {} %%",
    "NEAR(a b) AND OR NOT *",
    "ﬁnal İstanbul ΟΔΟΣ",
]


def found(team: Team, query: str) -> set[str]:
    wanted = BoardFilter.parse(QueryDict(query))
    return set(matching(team, wanted, now=timezone.now()).values_list("arize_id", flat=True))


def searched(team: Team, q: str) -> set[str]:
    query = QueryDict(mutable=True)
    query["q"] = q
    return found(team, query.urlencode())


@pytest.fixture
def odd(task: Task) -> list[Run]:
    return [
        make_run(task, arize_id=f"odd-{number}-{number * 7919:06}", status=Status.FAILED, failure_reason=reason)
        for number, reason in enumerate(REASONS)
    ]


def test_any_three_characters_of_any_text_are_found(odd: list[Run], task: Task) -> None:
    """Compared with a search in Python, for every piece of every reason and id."""
    Task.objects.update(name="", space_name="")
    texts = {run.arize_id: [searchable(run.arize_id), searchable(run.failure_reason or "")] for run in odd}
    for length in (3, 5, 11):
        for lines in texts.values():
            for line in lines:
                for start in range(0, len(line) - length + 1, 2):
                    q = line[start : start + length]
                    term = searchable(q)
                    expected = {id_ for id_, others in texts.items() if any(term in other for other in others)}
                    wanted = BoardFilter(q=q)
                    runs = matching(task.team, wanted, now=timezone.now())
                    if len(term) >= 3:
                        assert set(runs.values_list("arize_id", flat=True)) == expected, q


@pytest.mark.parametrize(
    ("q", "number"),
    [
        ("100% OF_IT", 0),
        ("\\ at", 0),
        ('"NO"', 1),
        ("'never'", 1),
        ("strasse abgebrochen", 2),
        ("NAIVE ελληνικα", 2),
        ("🙂🚀", None),
        ("Emoji 🙂🚀 and tabs and spaces", 3),
        ("' or 1=1 --", 4),
        ("%s %d {}", 5),
        ("near(a b) and or not *", 6),
        ("FINAL istanbul οδος", 7),
    ],
)
def test_odd_texts_are_found_as_typed(q: str, number: int | None, odd: list[Run], team: Team) -> None:
    assert searched(team, q) == (set() if number is None else {odd[number].arize_id})


@pytest.mark.parametrize("q", ["100%of", "of%it", "o__it", "at_429", "%", "odd-9", "NEAR(x"])
def test_wildcards_and_operators_mean_themselves(q: str, odd: list[Run], team: Team) -> None:
    assert searched(team, q) == set()


@pytest.mark.parametrize("q", ["451288", "TaskRun:4512", "taskrun:451288:ab3d", ID, ID[4:10], ID[-7:].upper(), ID[:6]])
def test_a_run_is_found_by_any_part_of_its_id_and_by_its_number(q: str, task: Task) -> None:
    make_run(task, arize_id=ID)
    make_run(task, arize_id=base64.b64encode(b"Other:999999:zzzz").decode())
    assert searched(task.team, q) == {ID}


def test_a_run_is_found_by_its_experiment(task: Task) -> None:
    make_run(task, arize_id="mine", experiment_id=base64.b64encode(b"Experiment:777001:q").decode())
    make_run(task, arize_id="other")
    for q in ("777001", "RXhwZXJpbWVudDo3NzcwMDE6", "experiment:777"):
        assert searched(task.team, q) == {"mine"}


ADDRESS = "https://app.arize.com/organizations/QWNjOjE6YQ/spaces/U3BhY2U6MTphYg%3D%3D"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (f"{ADDRESS}/tasks/T25saW5lVGFzazo0NTpxUndY/runs/{ID}", {ID}),
        (f"{ADDRESS}/tasks/T25saW5lVGFzazo0NTpxUndY/runs/{ID.replace('=', '%3D')}?tab=x#top", {ID}),
        (f"{ADDRESS}/tasks?selectedRunId={ID.rstrip('=')}", {ID}),
        (f"{ADDRESS}/tasks/T25saW5lVGFzazo0NTpxUndY", {ID, "other"}),
        (ADDRESS, {ID, "other"}),
        ("https://app.arize.com/organizations/QWNjOjE6YQ", set()),
        ("https://example.com/", set()),
    ],
)
def test_an_address_of_arize_finds_what_it_names(address: str, expected: set[str], task: Task) -> None:
    Task.objects.update(space_id="U3BhY2U6MTphYg==")
    make_run(task, arize_id=ID)
    make_run(task, arize_id="other")
    assert searched(task.team, address) == expected


def test_a_long_address_is_no_search_that_is_too_long(client: Client, run: Run) -> None:
    assert client.get("/teams/ops-north/runs/", {"q": f"{ADDRESS}/{'x' * 300}"}).status_code == 200
    assert client.get("/teams/ops-north/runs/", {"q": "x" * 201}).status_code == 400


def test_under_three_characters_only_task_names_are_searched(task: Task) -> None:
    Task.objects.update(name="AB test", space_name="xy space")
    run = make_run(task, arize_id="xy-run", failure_reason="xy")
    assert searched(task.team, "ab") == {run.arize_id}
    assert searched(task.team, "xy") == set()
    assert searched(task.team, "XY S") == {run.arize_id}


def test_spaces_are_found_by_any_spelling(task: Task) -> None:
    make_run(task, arize_id="r")
    Task.objects.update(space_name="Größe")
    assert searched(task.team, "GROSSE") == {"r"}


def test_a_search_finds_nothing_of_another_team(task: Task, other_team: Team) -> None:
    theirs = make_task(other_team, make_credential(other_team))
    make_run(theirs, arize_id=ID, failure_reason="the same reason")
    make_run(task, arize_id="mine", failure_reason="the same reason")
    assert searched(task.team, "same reason") == {"mine"}
    assert searched(task.team, ID) == set()
    assert searched(task.team, f"https://app.arize.com/runs/{ID}") == set()


# --- The texts follow what Arize says


def test_a_reading_updates_what_is_found(task: Task) -> None:
    run = make_run(task, arize_id=ID, observed_at=at(0))
    record_observation(run, reading(run, "FAILED", failure_reason="first words"), at(1))
    assert (searched(task.team, "first w"), searched(task.team, "second")) == ({ID}, set())
    changed = [Reading(task, [reading(run, "FAILED", failure_reason="second words")], at(2))]
    record_readings(changed)
    assert (searched(task.team, "first w"), searched(task.team, "second")) == (set(), {ID})


def test_a_new_run_is_found_at_once(task: Task) -> None:
    seen = [reading(Run(task=task, arize_id=id_), "RUNNING", id=id_) for id_ in ("new-1", "new-2")]
    record_readings([Reading(task, seen, at(1))])
    assert searched(task.team, "new-") == {"new-1", "new-2"}
    assert RunSearch.objects.count() == 2


def test_an_unchanged_text_is_not_written(task: Task, django_assert_max_num_queries: Any) -> None:
    run = make_run(task, observed_at=at(0))
    text = RunSearch.objects.get()
    RunSearch.objects.update(text=f"{text.text} marked")
    record_observation(run, reading(run, "COMPLETED", num_successes=99), at(1))
    assert RunSearch.objects.get().text.endswith("marked")


def test_a_deleted_run_is_not_found_any_more(task: Task, settings: Any) -> None:
    long_ago = timezone.now() - timedelta(days=settings.RUN_RETENTION_DAYS + 1)
    make_run(task, arize_id=ID, status=Status.FAILED, created_at=long_ago, run_finished_at=long_ago)
    retention.forget_old_runs()
    assert not RunSearch.objects.exists()
    assert searched(task.team, ID[4:12]) == set()
    assert _index_is_whole()


def _index_is_whole() -> bool:
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {FTS}({FTS}, rank) VALUES ('integrity-check', 1)")  # raises if it is not
    return True


def test_the_index_is_built_again_when_its_triggers_were_lost(task: Task) -> None:
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER taskruns_run_fts_insert")
        make_run(task, arize_id=ID)
        assert searched(task.team, ID[4:12]) == set()
    make_search_index(connection)
    make_run(task, arize_id=f"{ID}2")
    assert len(searched(task.team, ID[4:12])) == (2 if connection.vendor == "sqlite" else 1)
    assert _index_is_whole()


# --- People


@pytest.fixture
def ana(team: Team) -> ArizeUser:
    return ArizeUser.objects.create(
        team=team,
        endpoint=ENDPOINT,
        arize_id="VXNlcjoxOg==",
        name="Ana-Lucía Ruiz",
        email="ana@example.com",
        known=True,
    )


@pytest.mark.parametrize(
    ("text", "is_hers"),
    [
        *(("ana-lucia ruiz", True), ("Ruiz", True), ("ANA@example.com", True), ("VXNlcjoxOg==", True)),
        *(("rui", False), ("ana", False), ("ana@example.co", False), ("vxnlcjoxog==", False), ("ruiz other", False)),
    ],
)
def test_a_person_who_started_runs_is_named_exactly(text: str, is_hers: Any, ana: ArizeUser, task: Task) -> None:
    make_run(task, arize_id="hers", created_by_user_id=ana.arize_id)
    make_run(task, arize_id="other", created_by_user_id="VXNlcjoyOg==")
    query = QueryDict(mutable=True)
    query["started_by"] = text
    assert found(task.team, query.urlencode()) == ({"hers"} if is_hers else set())


def test_a_search_finds_a_person_by_part_of_the_name(ana: ArizeUser, task: Task) -> None:
    Task.objects.update(name="Toxicity check")
    make_run(task, arize_id="hers", created_by_user_id=ana.arize_id)
    for q, expected in (("LUCIA", {"hers"}), ("na@exa", {"hers"}), ("lu", set())):
        assert searched(task.team, q) == expected


def test_runs_started_in_the_panel_are_found_by_their_person(oli: User, task: Task) -> None:
    run = make_run(task, arize_id="his", created_by_user_id="the owner of the key")
    Trigger.objects.create(
        id=run.pk, task=task, person=oli, person_label=oli.email, parameters={}, outcome="done", run=run
    )
    make_run(task, arize_id="other")
    assert found(task.team, f"started_by={oli.email}") == {"his"}
    assert found(task.team, "started_by=nobody@example.com") == set()
    assert searched(task.team, oli.email[:5]) == {"his"}


def cancel(run: Run, by: User, outcome: str, minute: int) -> None:
    when = timezone.now() + timedelta(minutes=minute)
    Cancellation.objects.create(
        run=run, person=by, person_label=by.email, outcome=outcome, requested_at=when, closed_at=when
    )


# (the outcomes of oli's and of mona's cancel of a cancelled run, whose it counts as)
CREDITS = [
    (Outcome.CONFIRMED, Outcome.REFUSED, {"oli"}),
    (Outcome.UNKNOWN, Outcome.CONFIRMED, {"mona"}),
    (Outcome.CONFIRMED, Outcome.CONFIRMED, {"oli", "mona"}),
    (Outcome.UNKNOWN, Outcome.UNKNOWN, {"mona"}),
    (Outcome.STILL_RUNNING, Outcome.UNKNOWN, {"oli"}),
    (Outcome.REFUSED, Outcome.ALREADY_CANCELLED, set()),
]


@pytest.mark.parametrize(("first", "second", "credited"), CREDITS)
def test_a_cancelled_run_is_found_by_who_cancelled_it(
    first: str, second: str, credited: set[str], oli: User, mona: User, task: Task
) -> None:
    run = make_run(task, status=Status.CANCELLED)
    cancel(run, oli, first, 0)
    cancel(run, mona, second, 1)
    for person, name in ((oli, "oli"), (mona, "mona")):
        assert bool(found(task.team, f"cancelled_by={person.email}")) == (name in credited), name
        assert bool(searched(task.team, person.email)) == (name in credited), name


@pytest.mark.parametrize("few", [2_000, 0])
def test_a_cancel_that_did_not_end_the_run_does_not_count(
    few: int, oli: User, task: Task, other_team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same if the cancels are too many to be known by the ids of their runs."""
    monkeypatch.setattr(MATCHING, "FEW_RUNS", few)
    cancel(make_run(task, status=Status.FAILED), oli, Outcome.UNKNOWN, 0)
    cancel(make_run(make_task(other_team, make_credential(other_team)), status=Status.CANCELLED), oli, "confirmed", 0)
    assert found(task.team, f"cancelled_by={oli.email}") == set()
    confirmed = make_run(task, status=Status.RUNNING)
    cancel(confirmed, oli, Outcome.CONFIRMED, 0)
    assert found(task.team, f"cancelled_by={oli.email}") == {confirmed.arize_id}, "Arize confirmed it"


def test_a_cancel_of_an_account_that_is_gone_is_found_by_its_label(task: Task, oli: User) -> None:
    run = make_run(task, status=Status.CANCELLED)
    cancel(run, oli, Outcome.CONFIRMED, 0)
    Cancellation.objects.update(person=None, person_label="gone@example.com")
    assert found(task.team, "cancelled_by=gone@example.com") == {run.arize_id}


# --- Batches and exports


@pytest.fixture
def cancels(client_of: ClientOf, oli: User) -> Client:
    return client_of(oli)


def test_a_batch_of_a_filter_holds_its_active_runs_only(task: Task, oli: User) -> None:
    make_run(task, arize_id="hit", failure_reason="out of memory", with_errors=True)
    make_run(task, arize_id="ended", status=Status.FAILED, failure_reason="out of memory", with_errors=True)
    make_run(task, arize_id="other", with_errors=False)
    make_run(task, arize_id="clean", failure_reason="of memory, without errors", with_errors=False)
    for query in (
        *("q=out+of+memory", "flag=with_errors", "flag=with_errors&flag=attention", "q=of+memory&flag=with_errors"),
        *("q=of+memory&flag=with_errors&flag=attention&status=running", "q=relevance&flag=with_errors"),
    ):
        batch = draft_matching(task.team, BoardFilter.parse(QueryDict(query)))
        assert batch is not None
        assert [item.run.arize_id for item in batch.items.select_related("run")] == ["hit"], query


def test_a_mistyped_filter_cancels_and_exports_nothing(cancels: Client, credential: Any, run: Run) -> None:
    url = "/teams/ops-north/batches/"
    answer = cancels.post(url, {"match": "all", "statuses": "running"})
    assert answer.status_code == 400
    assert "There is no filter “statuses”" in answer.content.decode()
    assert cancels.post(url, {"match": "all", "status": "running"}).status_code == 302
    for page in ("export.csv", "export/"):
        answer = cancels.get(f"/teams/ops-north/runs/{page}?flags=attention")
        assert answer.status_code == 400
        assert "There is no filter “flags”" in answer.content.decode()
        assert cancels.get(f"/teams/ops-north/runs/{page}?flag=attention&all=1").status_code == 200
    assert cancels.get("/teams/ops-north/runs/?flags=attention").status_code == 200


def test_an_export_honours_the_new_filters(cancels: Client, credential: Any, task: Task) -> None:
    for number, reason in enumerate(("out of memory", "out of luck", None)):
        make_run(task, arize_id=f"export-{number}", status=Status.FAILED, failure_reason=reason, attention=6 - number)
    for query, expected in (("q=out+of", {0, 1}), ("not_task=x&q=luck", {1}), ("flag=attention", {0, 1, 2})):
        parts = cancels.get(f"/teams/ops-north/runs/export.csv?{query}").streaming_content
        text = b"".join(parts).decode()
        assert {number for number in range(3) if f"export-{number}" in text} == expected, query


def test_long_terms_and_texts_are_searched_to_their_ends(task: Task) -> None:
    words = " ".join(f"word{number}" for number in range(400))
    make_run(task, arize_id="long", failure_reason=words)
    RunSearch.objects.write(Run.objects.all())
    for before, after in pairwise(range(0, 160, 20)):
        assert searched(task.team, words[before : after + 20]) == {"long"}
    assert searched(task.team, words[:150] + "x") == set()
