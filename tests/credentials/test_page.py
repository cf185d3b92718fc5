"""The pages of a team's keys, which never show a key."""

import re
import uuid
from datetime import date, timedelta

import pytest
import time_machine
from django.db import transaction
from django.urls import reverse
from django.utils import timezone
from django.views.debug import SafeExceptionReporterFilter

from taskruns.arize.errors import NOT_SENT, ArizeError
from taskruns.audit import Actor, EventType, record
from taskruns.models import AuditEvent, Credential
from taskruns.pages.credentials import endpoint_label
from taskruns.services import credentials
from tests.factories import CANARY, make_credential
from tests.stored import events
from tests.wire import ENDPOINT

SHELL = Actor(type="command", label="tests")
OTHER_KEY = "ak-other-9WmQ2sVb7TzX4cNd1Fg"
FORM = {"name": "Europe", "endpoint": ENDPOINT, "key": CANARY, "expires_on": ""}


def add(team, **change):
    wanted = {"name": "Europe", "endpoint": ENDPOINT, "key": CANARY, "expires_on": None, "by": SHELL} | change
    return credentials.add(team, **wanted)


def add_lists(arize, *, spaces=2, tasks=40, more=False):
    pagination = {"has_more": more, "next_cursor": "c2"} if more else {"has_more": False}
    named = [{"id": f"s{i}", "name": f"Space {i}"} for i in range(spaces)]
    arize.get(f"{ENDPOINT}/v2/spaces", json={"spaces": named, "pagination": {"has_more": False}})
    listed = [{"id": f"t{i}"} for i in range(tasks)]
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": listed, "pagination": pagination})


def rejects(arize, status=401, **body):
    arize.get(f"{ENDPOINT}/v2/spaces", status=status, json={"status": status, "title": "No"} | body)


REJECTED = (
    "Arize rejected this API key (401). Nothing was saved. Check that you copied the whole key, that it has not "
    f"expired, and that Arize issued it in this region: {endpoint_label(ENDPOINT)}."
)


def pieces(key):
    return {key[i : i + 8] for i in range(len(key) - 7)}


# --- Pages


def test_a_manager_adds_a_key_and_sees_what_it_reads(arize, team, mona, client_of):
    add_lists(arize)
    response = client_of(mona).post("/teams/ops-north/credentials/new/", FORM, follow=True)
    kept = Credential.objects.get()
    texts = [str(message) for message in response.context["messages"]]
    assert response.redirect_chain == [("/teams/ops-north/credentials/", 302)]
    assert texts[0].startswith("Europe: The key works.")
    assert [row.name for row in response.context["rows"]] == ["Europe"]
    assert (kept.decrypt_secret(), kept.created_by) == (CANARY, mona)
    assert events() == [("credential.test", "requested"), ("credential.test", "ok"), ("credential.add", "done")]
    assert response.context["rows"][0].state == "working"
    assert f"…{CANARY[-4:]}" in response.content.decode()
    assert not any(piece in response.content.decode() for piece in pieces(CANARY))


def test_a_key_that_does_not_work_stays_in_the_form_without_its_text(arize, team, mona, client_of):
    rejects(arize)
    client = client_of(mona)
    response = client.post("/teams/ops-north/credentials/new/", FORM | {"expires_on": "2031-01-02"})
    page = response.content.decode()
    assert response.status_code == 422
    (sentence,) = response.context["form"].errors["key"]
    assert sentence == REJECTED
    for kept in ('value="Europe"', 'value="2031-01-02"', f'<option value="{ENDPOINT}" selected>'):
        assert kept in page
    assert not any(piece in page for piece in pieces(CANARY))
    assert ">Save anyway</button>" in page
    assert "Save anyway" not in client.get("/teams/ops-north/credentials/new/").content.decode()
    assert not Credential.objects.exists()
    assert events() == [("credential.test", "requested"), ("credential.test", "failed")]
    row = AuditEvent.objects.latest("pk")
    assert (row.target_type, row.target_label, row.endpoint) == ("credential", "Europe", ENDPOINT)


def test_a_key_that_could_not_be_tried_says_why(arize, team, mona, client_of):
    rejects(arize, status=500)
    response = client_of(mona).post("/teams/ops-north/credentials/new/", FORM)
    (sentence,) = response.context["form"].errors["key"]
    assert sentence.startswith("Arize is returning errors (500).")
    assert sentence.endswith("Nothing was saved.")


def test_a_rejected_key_is_stored_anyway_and_shown_as_failing(arize, team, mona, client_of):
    rejects(arize)
    response = client_of(mona).post("/teams/ops-north/credentials/new/", FORM | {"anyway": "1"}, follow=True)
    assert events()[0] == ("credential.add", "done")
    row = response.context["rows"][0]
    assert (row.state, "401" in row.state_text) == ("failing", True)
    assert [message.level_tag for message in response.context["messages"]] == ["error"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"key": ""}, "key"),
        ({"key": "two words of it"}, "key"),
        ({"key": "x" * 5000}, "key"),
        ({"key": "nul\0nulnul"}, "key"),
        ({"name": ""}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"endpoint": "http://169.254.169.254"}, "endpoint"),
        ({"endpoint": ""}, "endpoint"),
        ({"endpoint": "x" * 400}, "endpoint"),
        ({"expires_on": "soon"}, "expires_on"),
        ({"expires_on": "2001-01-01"}, "expires_on"),
    ],
)
def test_an_invalid_form_keeps_what_was_typed_but_never_the_key(team, mona, client_of, change, field):
    response = client_of(mona).post("/teams/ops-north/credentials/new/", FORM | change)
    page = response.content.decode()
    assert response.status_code == 422
    assert list(response.context["form"].errors) == [field]
    assert field == "name" or 'value="Europe"' in page
    assert not any(piece in page for piece in pieces(CANARY))
    assert "two words" not in page
    assert not Credential.objects.exists()
    assert events() == []


def test_the_date_that_arize_tells_the_key_is_saved_with_it(arize, team, mona, client_of, monkeypatch):
    add_lists(arize)
    monkeypatch.setattr("taskruns.services.credentials.key_tests.read_expiry", lambda *_: date(2031, 5, 6))
    client_of(mona).post("/teams/ops-north/credentials/new/", FORM)
    assert Credential.objects.get().expires_on == date(2031, 5, 6)
    assert AuditEvent.objects.get(event="credential.add").details["expires_on"] == "2031-05-06"


def test_a_new_key_starts_with_the_region_of_the_newest_one(team, credential, mona, client_of):
    chosen = f'<option value="{ENDPOINT}" selected>'
    assert chosen in client_of(mona).get("/teams/ops-north/credentials/new/").content.decode()
    Credential.objects.update(endpoint="https://api.eu-west-1a.arize.com")
    assert chosen not in client_of(mona).get("/teams/ops-north/credentials/new/").content.decode()


def test_the_same_key_twice_is_refused_by_name(arize, team, credential, mona, client_of):
    response = client_of(mona).post("/teams/ops-north/credentials/new/", FORM)
    page = response.content.decode()
    assert response.status_code == 422
    (sentence,) = response.context["form"].errors["key"]
    assert sentence == "The team already has this key as “Production”. Nothing was saved. Enter another key."
    assert not any(piece in page for piece in pieces(CANARY))
    assert events() == []
    assert not arize.calls


def test_the_same_key_of_another_team_or_a_revoked_one_is_no_double(arize, team, other_team, mona, client_of):
    add_lists(arize)
    make_credential(other_team)
    make_credential(team, name="Old", revoked_at=timezone.now())
    assert client_of(mona).post("/teams/ops-north/credentials/new/", FORM).status_code == 302


def test_a_replacement_that_another_key_has_already_is_refused(arize, team, credential, mona, client_of):
    other = make_credential(team, name="Second", key=OTHER_KEY)
    url = reverse("credential-replace", args=[team.slug, other.pk])
    response = client_of(mona).post(url, {"key": CANARY})
    assert "already has this key as “Production”" in response.content.decode()
    other.refresh_from_db()
    assert other.decrypt_secret() == OTHER_KEY


def test_replacing_a_key_by_itself_is_said(arize, team, credential, mona, client_of):
    add_lists(arize)
    url = reverse("credential-replace", args=[team.slug, credential.pk])
    response = client_of(mona).post(url, {"key": CANARY}, follow=True)
    texts = [str(message) for message in response.context["messages"]]
    assert texts[0] == "Production already has this key. Nothing was replaced."
    assert texts[1].startswith("Production: The key works.")


def test_a_replacement_that_does_not_work_leaves_the_old_key_in_use(arize, team, credential, mona, client_of):
    rejects(arize)
    client, url = client_of(mona), reverse("credential-replace", args=[team.slug, credential.pk])
    response = client.post(url, {"key": OTHER_KEY, "expires_on": "2031-01-02"})
    page = response.content.decode()
    assert response.status_code == 422
    assert 'value="2031-01-02"' in page
    assert response.context["form"].errors["key"] == [REJECTED]
    assert ">Replace anyway</button>" in page
    assert not any(piece in page for piece in pieces(OTHER_KEY))
    kept = Credential.objects.get()
    assert (kept.decrypt_secret(), kept.failing_since) == (CANARY, None)
    assert client.post(url, {"key": OTHER_KEY, "anyway": "1"}).status_code == 302
    kept = Credential.objects.get()
    assert (kept.decrypt_secret(), kept.failing_since is not None) == (OTHER_KEY, True)


def test_a_test_before_saving_that_crashed_is_ended(team, mona):
    candidate = credentials.draft(team, name="Europe", endpoint=ENDPOINT, key=CANARY, expires_on=None)
    with transaction.atomic(), time_machine.travel(timezone.now() - timedelta(hours=1)):
        record(
            EventType.CREDENTIAL_TEST, "requested", by=SHELL, team=team, credential=candidate, operation_id=uuid.uuid4()
        )
    assert [credentials.sweep(), credentials.sweep()] == [1, 0]
    row = AuditEvent.objects.latest("pk")
    assert (row.outcome, row.target_label, row.details) == ("failed", "Europe", {"why": "interrupted"})


def test_errors_name_the_field_by_its_label(team, mona, client_of):
    response = client_of(mona).post("/teams/ops-north/credentials/new/", FORM | {"endpoint": "https://evil.example"})
    assert response.context["form"]["endpoint"].label == "Region"
    texts = [*response.context["form"].errors["endpoint"], *NOT_SENT.values()]
    classes = [ArizeError]
    for kind in classes:
        classes += kind.__subclasses__()
        texts += [text for name, text in vars(kind).items() if isinstance(text, str) and not name.startswith("__")]
    assert sum("region" in text for text in texts) >= 7, "the control"
    assert not [text for text in texts if re.search(r"\bendpoint", text)]


def test_a_manager_replaces_a_key(arize, team, credential, mona, client_of):
    add_lists(arize)
    url = reverse("credential-replace", args=[team.slug, credential.pk])
    client = client_of(mona)
    assert not any(piece in client.get(url).content.decode() for piece in pieces(CANARY))
    assert client.post(url, {"key": OTHER_KEY})["Location"] == "/teams/ops-north/credentials/"
    assert Credential.objects.get().decrypt_secret() == OTHER_KEY
    refused = client.post(url, {"key": "no key"})
    assert (refused.status_code, Credential.objects.get().decrypt_secret()) == (422, OTHER_KEY)


def test_a_manager_tests_a_key(arize, team, credential, mona, client_of):
    add_lists(arize, spaces=0, tasks=0)
    url = reverse("credential-test", args=[team.slug, credential.pk])
    response = client_of(mona).post(url, follow=True)
    assert [message.level_tag for message in response.context["messages"]] == ["warning"]


def test_revoking_a_key_needs_a_confirmation(team, credential, mona, client_of):
    client, url = client_of(mona), reverse("credential-revoke", args=[team.slug, credential.pk])
    assert client.get(url).status_code == 200
    assert Credential.objects.live().exists()
    assert client.post(url)["Location"] == "/teams/ops-north/credentials/"
    assert not Credential.objects.live().exists()
    assert client.post(url).status_code == 404
    assert events() == [("credential.revoke", "done")]


@pytest.mark.parametrize("page", ["replace", "test", "revoke"])
def test_a_key_of_another_team_is_a_404(team, other_team, mona, client_of, page):
    foreign = make_credential(other_team)
    own = make_credential(team)
    client = client_of(mona)
    foreign_answer = client.post(reverse(f"credential-{page}", args=[team.slug, foreign.pk]), {"key": OTHER_KEY})
    missing = client.post(reverse(f"credential-{page}", args=[team.slug, team.pk]), {"key": OTHER_KEY})
    assert (foreign_answer.status_code, missing.status_code) == (404, 404)
    nonce = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|csrfmiddlewaretoken\S+ value=\S+|X-CSRFToken\S+|data-now=\S+")
    assert nonce.sub("", foreign_answer.content.decode()) == nonce.sub("", missing.content.decode())
    assert events() == [("access.denied", "denied")]
    foreign.refresh_from_db()
    assert foreign.decrypt_secret() == CANARY
    if page != "test":
        assert client.get(reverse(f"credential-{page}", args=[team.slug, own.pk])).status_code == 200


def test_an_auditor_sees_the_keys_but_no_buttons(team, credential, ada, client_of):
    response = client_of(ada).get("/teams/ops-north/credentials/")
    assert (response.status_code, response.context["may_manage"]) == (200, False)
    assert "/test/" not in response.content.decode()


def test_the_posted_key_is_marked_as_sensitive_even_before_the_gate(team, rf):
    from taskruns.views import credentials as views

    request = rf.post("/", FORM)
    request.user = type("Anonymous", (), {"is_authenticated": False})()
    views.new(request, slug="ops-north")
    hidden = SafeExceptionReporterFilter().get_post_parameters(request)
    assert (hidden["key"], hidden["name"]) == ("********************", "Europe")
