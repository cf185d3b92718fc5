"""Notes on a run: who may leave one, what is kept, and what a mistake says."""

from typing import Any

import pytest
from django.test import Client

from taskruns.models import AuditEvent, Run, RunNote, User
from tests.clients import ClientOf
from tests.factories import make_run
from tests.markup import without_bdi


def url(run: Run) -> str:
    return f"/teams/{run.team.slug}/runs/{run.pk}/"


def leave(client: Client, run: Run, text: str, **headers: str) -> Any:
    return client.post(f"{url(run)}note/", {"note": text}, headers=headers)


def page(client: Client, run: Run) -> str:
    return str(client.get(url(run)).content.decode())


def test_a_note_is_kept_recorded_and_shown(run: Run, oli: User, vera: User, client_of: ClientOf) -> None:
    answer = leave(client_of(oli), run, " wrong\nmodel ")
    assert (answer.status_code, answer["Location"]) == (302, url(run))
    note, row = RunNote.objects.get(), AuditEvent.objects.get()
    assert (note.run, note.person, note.person_label, note.text) == (run, oli, "oli@example.com", "wrong model")
    assert (row.event, row.outcome, row.reason, row.details) == ("run.note", "done", "wrong model", {})
    assert (row.actor_label, row.target_id, row.run_id) == ("oli@example.com", str(run.pk), run.arize_id)
    html = without_bdi(page(client_of(vera), run))
    head, timeline = html.split('id="run-history"')
    assert "“wrong model”" in head
    assert "Note by oli@example.com" in head
    assert "oli@example.com left a note on the run of task Answer relevance evaluation" in timeline
    assert "“wrong model”" in timeline


def test_several_notes_are_kept_and_the_newest_is_shown_in_short(
    run: Run, oli: User, mona: User, client_of: ClientOf
) -> None:
    User.objects.filter(pk=mona.pk).update(name="Mona Meyer")
    leave(client_of(oli), run, "first")
    leave(client_of(mona), run, "second")
    head, timeline = without_bdi(page(client_of(oli), run)).split('id="run-history"')
    assert "“second”" in head
    assert "“first”" not in head
    assert "Note by Mona Meyer" in head
    assert "All 2 notes" in head
    assert timeline.index("“first”") < timeline.index("“second”")


EMPTY, LONG = "The note is empty.", "The note is longer than 512 characters."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("", EMPTY), (" \n\t ", EMPTY), ("\0\u202e", EMPTY), ("x" * 513, LONG), ("<b>" * 400, LONG)],
)
def test_a_mistake_gets_a_sentence_and_keeps_what_was_typed(
    text: str, sentence: str, run: Run, oli: User, client_of: ClientOf
) -> None:
    answer = leave(client_of(oli), run, text)
    html = answer.content.decode()
    assert answer.status_code == 422
    assert sentence in html
    assert "Nothing was saved." in html
    assert 'aria-describedby="run-note-help run-note-error"' in html
    assert text.strip() in html or text.replace("<", "&lt;").replace(">", "&gt;") in html
    assert "data-poll" not in html, "a poll would drop what was typed"
    assert not RunNote.objects.exists()
    assert not AuditEvent.objects.exists()
    assert leave(client_of(oli), run, "x" * 512).status_code == 302, "the control"


def test_a_request_without_a_note_is_an_empty_note(run: Run, oli: User, client_of: ClientOf) -> None:
    assert EMPTY in client_of(oli).post(f"{url(run)}note/").content.decode()


def test_a_viewer_sees_notes_but_leaves_none(run: Run, oli: User, vera: User, client_of: ClientOf) -> None:
    viewer = client_of(vera)
    assert "/note/" in page(client_of(oli), run)
    assert "/note/" not in page(viewer, run)
    assert leave(viewer, run, "mine").status_code == 403
    row = AuditEvent.objects.get()
    assert (row.event, row.outcome, row.reason, "mine" in str(row.details)) == ("run.note", "denied", "", False)
    assert not RunNote.objects.exists()


def test_an_outsider_cannot_tell_a_run_from_none(run: Run, otto: User, client_of: ClientOf) -> None:
    client, missing = client_of(otto), Run(pk=run.task_id, team=run.team)
    assert [leave(client, it, "x").status_code for it in (run, missing)] == [404, 404]
    assert client.post(f"/teams/ops-south/runs/{run.pk}/note/", {"note": "x"}).status_code == 404
    assert not RunNote.objects.exists()


def test_a_hostile_note_is_shown_as_text(run: Run, oli: User, client_of: ClientOf) -> None:
    client = client_of(oli)
    leave(client, run, '"><script>alert(1)</script>')
    assert "<script>alert" not in page(client, run)
    assert "&lt;script&gt;" in page(client, run)


def test_notes_of_another_run_are_not_shown(run: Run, oli: User, client_of: ClientOf) -> None:
    client = client_of(oli)
    leave(client, run, "wrong model")
    assert "wrong model" not in page(client, make_run(run.task))
