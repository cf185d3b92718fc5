"""Attempts with tokens that do not work are recorded. Frequent ones are counted."""

from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from taskruns.audit import Actor, EventType
from taskruns.models import AnonymousTally, AuditEvent, PersonTally, Team, User
from taskruns.pages.audit.sentences import sentence
from taskruns.services import audit
from taskruns.services.audit import Attempt, tallies
from taskruns.services.tokens.access import Refusal, TokenRefused, actor_of
from taskruns.services.tokens.refusals import record_refusal
from tests.database_refusals import refuse_inserts
from tests.factories import make_token

pytestmark = pytest.mark.django_db
AN_ATTEMPT = Attempt("gateway-tasks", "/v2/tasks", "GET")
SENDER = Actor(type="anonymous", ip="192.0.2.7", user_agent="ax/0.39", request_id="r-1")


def test_a_known_token_is_recorded_in_its_team(team: Team, mona: User):
    token, secret = make_token(team, maker=mona)
    record_refusal(TokenRefused(Refusal.REVOKED, token), AN_ATTEMPT, by=SENDER)
    row = AuditEvent.objects.get()
    assert (row.event, row.outcome, row.team_id) == ("token.refused", "denied", team.pk)
    assert (row.actor_type, row.actor_id, row.actor_label) == ("token", str(token.pk), token.label)
    assert (row.ip, row.user_agent, row.request_id) == ("192.0.2.7", "ax/0.39", "r-1")
    assert row.details == {"page": "gateway-tasks", "path": "/v2/tasks", "method": "GET", "why": "revoked"}
    assert sentence(row) == "Airflow (made by mona@example.com) used a token that does not work: revoked"
    assert secret not in str(vars(row))


def test_an_unknown_token_is_an_anonymous_attempt_at_the_site():
    record_refusal(TokenRefused(Refusal.UNKNOWN), AN_ATTEMPT, by=SENDER)
    row = AuditEvent.objects.get()
    assert (row.event, row.chain, row.actor_type, row.ip) == ("token.refused", "site", "anonymous", "192.0.2.7")
    assert row.details["why"] == "unknown"


def test_a_forgotten_script_adds_one_row_a_minute(team: Team):
    token, _ = make_token(team)
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _attempt in range(5):
            record_refusal(TokenRefused(Refusal.EXPIRED, token), AN_ATTEMPT, by=SENDER)
        assert AuditEvent.objects.count() == 1
        clock.shift(timedelta(minutes=3))
        assert audit.record_counted() == 1
    counted = AuditEvent.objects.order_by("-seq")[0]
    assert (counted.event, counted.actor_type, counted.actor_label) == ("token.refused", "token", token.label)
    assert counted.details["left_out"] == 4
    assert sentence(counted) == f"4 more refused attempts of {token.label} in the same minute"
    assert not PersonTally.objects.exists()


def test_unknown_tokens_of_one_address_are_counted():
    for _attempt in range(5):
        record_refusal(TokenRefused(Refusal.UNKNOWN), AN_ATTEMPT, by=SENDER)
    assert AuditEvent.objects.count() == 1
    assert AnonymousTally.objects.get().left_out == 4


def test_denials_of_a_working_token_are_counted_like_those_of_people(team: Team):
    token, _ = make_token(team)
    record_refusal(TokenRefused(Refusal.NETWORK, token), AN_ATTEMPT, by=SENDER)
    with time_machine.travel(timezone.now(), tick=False) as clock:
        for _attempt in range(tallies.ROWS_A_MINUTE + 2):
            audit.record_denial(EventType.RUN_CANCEL, AN_ATTEMPT, by=actor_of(token), team=team)
        assert AuditEvent.objects.filter(event="run.cancel").count() == tallies.ROWS_A_MINUTE
        clock.shift(timedelta(minutes=3))
        audit.record_counted()
    counted = AuditEvent.objects.get(event="access.denied")
    assert (counted.actor_type, counted.actor_label, counted.details["left_out"]) == ("token", token.label, 2)


def test_it_stays_refused_if_the_log_cannot_be_written(team: Team, caplog: pytest.LogCaptureFixture):
    token, _ = make_token(team)
    refuse_inserts("taskruns_auditevent")
    record_refusal(TokenRefused(Refusal.REVOKED, token), AN_ATTEMPT, by=SENDER)
    assert "refusal_not_recorded" in caplog.text
    assert not AuditEvent.objects.exists()
