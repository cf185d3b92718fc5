"""If the log refuses one event or one of two chains, an action happens completely or not at all."""

from typing import Any

import pytest
from django.db import transaction

from taskruns.models import AuditEvent, Credential, Membership, Team, User
from tests.actions import ACTIONS, NEW_KEY
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.stage import Stage
from tests.stored import dump, events

LOG = "taskruns_auditevent"
NOTHING = "Nothing was changed and nothing was sent"


def refuse(which: str) -> None:
    """Refuse inserts of rows for which the condition on NEW is true."""
    refuse_inserts(LOG, unless=f"NOT ({which})")


def do(stage: Stage, name: str) -> Any:
    with transaction.atomic():
        return ACTIONS[name].do(stage)


@pytest.mark.parametrize("chain", ["site", "team:%"])
def test_an_invitation_is_accepted_in_both_chains_or_not_at_all(stage: Stage, chain: str):
    before = dump(without=lambda table: table == "taskruns_personsession")
    refuse(f"NEW.chain LIKE '{chain}'")
    answer = do(stage, "accept an invitation")
    assert (answer.status_code, NOTHING in answer.content.decode()) == (503, True)
    assert dump(without=lambda table: table == "taskruns_personsession") == before
    accept_inserts(LOG)
    assert do(stage, "accept an invitation").status_code == 302
    assert Membership.objects.filter(user__email="stranger@example.com").exists()


def test_joining_without_sign_in_says_so(stage: Stage):
    refuse("NEW.event = 'auth.sign_in'")
    answer = do(stage, "accept an invitation")
    assert (answer.status_code, answer["Location"]) == (302, "/accounts/login/")
    assert Membership.objects.filter(user__email="stranger@example.com").exists()
    assert "_auth_user_id" not in answer.client.session
    assert "Account created, but you could not be signed in." in answer.client.get("/accounts/login/").content.decode()


@pytest.mark.parametrize("manager", ["mona@example.com", "new@example.com"])
@pytest.mark.parametrize("chain", ["site", "team:%"])
def test_a_team_is_created_with_its_manager_or_not_at_all(stage: Stage, chain: str, manager: str):
    before = dump()
    fields = {"name": "Ops West", "slug": "", "manager": manager}
    refuse(f"NEW.chain LIKE '{chain}'")
    client = stage.client("adam")
    before = dump()
    with transaction.atomic():
        answer = client.post("/teams/new/", fields)
    assert (answer.status_code, NOTHING in answer.content.decode()) == (503, True)
    assert dump() == before
    accept_inserts(LOG)
    assert client.post("/teams/new/", fields).status_code in {200, 302}
    team = Team.objects.get(name="Ops West")
    assert Membership.objects.filter(team=team).exists() or team.invitations.exists()


def test_an_invalid_manager_creates_no_team(stage: Stage):
    User.objects.filter(email="vera@example.com").update(is_active=False)
    answer = stage.client("adam").post("/teams/new/", {"name": "Ops West", "slug": "", "manager": "vera@example.com"})
    assert answer.status_code == 422
    assert "This account is disabled" in answer.content.decode()
    assert not Team.objects.filter(name="Ops West").exists()


TEST_URL = "/teams/ops-north/credentials/{}/test/"


@pytest.mark.parametrize("name", ["add a key", "replace a key"])
def test_without_the_row_of_its_test_no_key_is_saved_or_sent(stage: Stage, name: str):
    client = stage.client("mona")
    before = dump()
    refuse("NEW.event = 'credential.test'")
    assert ACTIONS[name].do(stage, client).status_code == 503
    assert dump() == before
    assert not stage.arize.calls


@pytest.mark.parametrize(("name", "wanted"), [("add a key", "Second"), ("replace a key", "Production")])
def test_a_key_saved_anyway_but_not_tested_says_so(stage: Stage, name: str, wanted: str):
    refuse("NEW.event = 'credential.test'")
    action, client = ACTIONS[name], stage.client("mona")
    answer = action.do(stage, client, action.filled(stage, client) | {"anyway": "1"})
    assert answer.status_code == 302
    text = answer.client.get(answer["Location"]).content.decode()
    assert f"{wanted} was saved, but its test could not be recorded" in text
    assert Credential.objects.get(name=wanted).decrypt_secret() == NEW_KEY
    assert not stage.arize.calls, "the row is written before Arize is called"


def test_an_unrecorded_key_test_sends_nothing_to_arize(stage: Stage):
    refuse("NEW.event = 'credential.test'")
    client = stage.client("mona")
    before = dump()
    answer = client.post(TEST_URL.format(stage.credential.pk))
    assert (answer.status_code, NOTHING in answer.content.decode()) == (503, True)
    assert not stage.arize.calls
    assert dump() == before


def test_a_log_failing_during_a_key_test_is_reported(stage: Stage):
    refuse("NEW.event = 'credential.test' AND NEW.outcome <> 'requested'")
    client = stage.client("mona")
    before = dump()["taskruns_credential"]
    answer = client.post(TEST_URL.format(stage.credential.pk))
    assert answer.status_code == 503
    assert "The API key was tested at Arize, but the result could not be recorded" in answer.content.decode()
    assert NOTHING not in answer.content.decode()
    assert stage.arize.calls
    assert dump()["taskruns_credential"] == before
    assert events(event="credential.test") == [("credential.test", "requested")]


def test_the_two_rows_of_a_test_are_one_operation_without_a_gap(stage: Stage):
    ACTIONS["test a key"].do(stage)
    requested, end = AuditEvent.objects.filter(event="credential.test").order_by("seq")
    assert (requested.outcome, end.outcome, end.seq) == ("requested", "ok", requested.seq + 1)
    assert requested.operation_id == end.operation_id is not None
    seqs = list(AuditEvent.objects.filter(chain=f"team:{stage.team.pk}").order_by("seq").values_list("seq", flat=True))
    assert seqs == list(range(1, len(seqs) + 1))


def test_the_arize_request_id_is_in_the_row_of_a_success(stage: Stage):
    for call in stage.arize.registered():
        call.headers = {"x-request-id": "req-of-arize"}
    for name in ("test a key", "cancel a run", "start a run"):
        assert ACTIONS[name].do(stage).status_code in {200, 302}
    for event, status in (("credential.test", 200), ("run.cancel", 200), ("run.trigger", 201)):
        details = AuditEvent.objects.filter(event=event).latest("pk").details
        assert (details["http_status"], details["arize_request_id"]) == (status, "req-of-arize")
        assert details["milliseconds"] >= 0


def test_adding_a_member_revokes_the_invitation_in_the_row(stage: Stage):
    User.objects.create(email="stranger@example.com")
    stage.client("mona").post("/teams/ops-north/members/add/", {"email": "stranger@example.com", "role": "viewer"})
    row = AuditEvent.objects.get(event="member.add")
    assert row.details == {"role": "viewer", "invitations_revoked": 1}
    stage.invitation.refresh_from_db()
    assert stage.invitation.revoked_at is not None
