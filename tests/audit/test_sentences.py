"""The sentence of a row says what changed, from what to what, and how much, as far as the details tell."""

from typing import Any

import pytest

from taskruns.audit import CATALOGUE
from taskruns.audit.events import allowed_details
from taskruns.models import AuditEvent
from taskruns.pages.audit.sentences import sentence


def said(event: str, outcome: str = "done", *, target: str = "vera", method: str = "", **details: Any) -> str:
    row = AuditEvent(
        event=event,
        outcome=outcome,
        actor_type="user",
        actor_label="mona",
        auth_method=method,
        target_label=target,
        details=details,
    )
    return sentence(row)


@pytest.mark.parametrize(
    ("expected", "event", "details"),
    [
        (
            "mona changed the role of vera from viewer to operator",
            "member.change_role",
            {"before": "viewer", "after": "operator"},
        ),
        ("mona changed the role of vera", "member.change_role", {}),
        ("mona added vera to the team as viewer", "member.add", {"role": "viewer"}),
        (
            "mona created the token vera as viewer: until 2027-03-01, with the API key EU, only from 2 networks",
            "token.create",
            {
                "role": "viewer",
                "expires_at": "2027-03-01T10:20:14+00:00",
                "credential": "EU",
                "networks": ["192.0.2.0/24", "2001:db8::/32"],
            },
        ),
        ("mona created the token vera: in place of an older one", "token.create", {"replaces": "5f0c4a34"}),
        ("mona created the token vera", "token.create", {"networks": "odd"}),
        ("mona revoked the token vera (was viewer)", "token.revoke", {"role": "viewer"}),
        ("mona removed vera from the team (was viewer)", "member.remove", {"role": "viewer"}),
        ("mona invited vera as viewer", "invitation.create", {"role": "viewer"}),
        ("mona accepted the invitation as viewer", "invitation.accept", {"role": "viewer"}),
        (
            "mona changed the site role of vera from none to auditor",
            "person.grant",
            {"before": "", "after": "auditor"},
        ),
        (
            "mona changed the team vera: name from Ops North to Night",
            "team.change",
            {"changed": ["name"], "before": "Ops North", "after": "Night"},
        ),
        (
            "mona changed the name or email of vera: email from a@x to b@x, name from none to Vera",
            "person.change",
            {
                "changed": ["email", "name"],
                "before": {"email": "a@x", "name": ""},
                "after": {"email": "b@x", "name": "Vera"},
            },
        ),
        (
            "mona changed their profile: time zone to Asia/Tokyo, keyboard shortcuts to off",
            "profile.change",
            {"changed": ["time_zone", "shortcuts"], "after": {"time_zone": "Asia/Tokyo", "shortcuts": False}},
        ),
        ("mona changed their profile: single sign-on connected", "profile.change", {"single_sign_on": "connected"}),
        (
            "mona archived the team vera: 2 API keys destroyed, 1 invitation revoked",
            "team.archive",
            {"keys_revoked": 2, "invitations_revoked": 1},
        ),
        ("mona archived the team vera", "team.archive", {"keys_revoked": 0, "invitations_revoked": 0}),
        (
            "mona restored this log from a backup: entries 22 to 23 are lost",
            "system.restored",
            {"missing_from": 22, "missing_to": 23},
        ),
        ("mona restored this log from a backup", "system.restored", {"missing_from": None, "missing_to": None}),
        ("mona disabled the account vera: 3 sessions ended", "person.disable", {"sessions_ended": 3}),
        (
            "mona reset the sign-in of vera: 1 session ended, 2 second factors removed",
            "person.reset",
            {"sessions_ended": 1, "factors_dropped": 2},
        ),
        ("mona added a second factor: passkey “Laptop”", "auth.mfa_add", {"factor": "passkey", "name": "Laptop"}),
        (
            "mona added the API key vera: ends in 1234, expires on 2027-01-01",
            "credential.add",
            {"last4": "1234", "expires_on": "2027-01-01"},
        ),
        (
            "The API key vera expires soon: on 2027-01-01",
            "credential.expiring",
            {"expires_on": "2027-01-01", "days_left": 7},
        ),
        (
            "mona pulled the emergency stop: 14 active runs, until 2026-12-01 20:15 UTC",
            "stop.pull",
            {"active_runs": 14, "expires_at": "2026-12-01T20:15:00+00:00"},
        ),
        ("mona lifted the emergency stop that oli had pulled", "stop.lift", {"pulled_by": "oli"}),
        (
            "mona exported the list of runs: as CSV, 1,200 rows, filtered",
            "run.export",
            {"format": "csv", "query": "status=failed", "rows": 1200},
        ),
        ("mona exported the audit log: as JSON Lines", "audit.export", {"format": "jsonl", "filtered": False}),
        (
            "mona saved the view vera: shared with the team, default: own",
            "view.save",
            {"shared": True, "default": "own", "query": "x"},
        ),
    ],
)
def test_the_sentence_holds_the_facts(expected: str, event: str, details: dict[str, Any]):
    assert said(event, **details) == expected


@pytest.mark.parametrize(
    ("expected", "event", "outcome", "details"),
    [
        ("mona started a bulk cancel of 47 runs", "run.cancel_many", "requested", {"runs": 47}),
        (
            "The bulk cancel finished: 40 confirmed, 7 still running",
            "run.cancel_many",
            "finished",
            {"runs": 47, "counts": {"confirmed": 40, "still_running": 7}},
        ),
        (
            "mona tested the API key vera: it works (2 spaces, 24 tasks)",
            "credential.test",
            "ok",
            {"spaces": 2, "tasks": 24},
        ),
        (
            "mona verified the audit log: faults found (164 entries, 1 fault)",
            "audit.verify",
            "failed",
            {"rows": 164, "faults": 1},
        ),
    ],
)
def test_a_result_holds_its_counts(expected: str, event: str, outcome: str, details: dict[str, Any]):
    assert said(event, outcome, **details) == expected


def test_a_sign_in_says_how():
    assert said("auth.sign_in", method="password+totp") == "mona signed in with password and authenticator app"
    assert said("auth.sign_in", method="passkey", again=True) == "mona confirmed their identity with passkey"
    assert said("auth.sign_in", "failed", method="password") == "Failed sign-in: vera"


def test_a_refused_attempt_claims_no_change():
    words = said("member.change_role", "denied", path="/teams/x/", before="viewer", after="manager")
    assert words == "mona was refused member.change_role: /teams/x/"


ODD = [None, True, -1, 2**63, "", "{who}", ["name", 1, {}], {"name": [], "": None}]


@pytest.mark.parametrize("value", ODD)
def test_details_edited_by_hand_break_no_sentence(value: object):
    for event, outcomes in CATALOGUE.items():
        for outcome in outcomes:
            names = allowed_details(event, outcome)
            assert said(event.value, outcome, **dict.fromkeys(names, value))
            assert all(said(event.value, outcome, **{name: value}) for name in names)
            assert said(event.value, outcome, changed=["name"], before=value, after=value)
