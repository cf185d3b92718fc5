"""A team with one object of each kind that people act on, and an Arize that accepts every call."""

import json
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import responses
from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import generate_totp_secret
from django.test import Client
from django.utils import timezone
from fido2.utils import websafe_encode

from taskruns.audit import Actor
from taskruns.models import (
    ArizeHook,
    BatchKind,
    BatchSource,
    BatchState,
    CancelBatch,
    Channel,
    Credential,
    EmergencyStop,
    Invitation,
    ItemState,
    PersonSession,
    Run,
    SavedView,
    SiteRole,
    Status,
    Team,
    TeamRole,
    Token,
    User,
)
from taskruns.models.sessions import digest_of
from taskruns.pages.teams import link_of
from taskruns.services import batches as bulk
from taskruns.services import invitations
from taskruns.services.people import factors
from tests.clients import show_factor
from tests.factories import actor, make_channel, make_token, member, person
from tests.people.soft_passkey import SoftPasskey
from tests.wire import ENDPOINT, run_url, trigger_url, wire_run


@dataclass
class Stage:
    team: Team
    run: Run
    credential: Credential
    people: dict[str, User]
    invitation: Invitation
    token: str
    view: SavedView
    batches: dict[str, CancelBatch]  # by url name
    channel: Channel  # "Room"
    hook: ArizeHook
    script: Token  # "Airflow", mona's
    arize: responses.RequestsMock
    secret: str  # of tom's authenticator app
    passkey: SoftPasskey  # also tom's
    session: PersonSession  # a second session of vera

    def for_test(self, arize: responses.RequestsMock) -> "Stage":
        """The stage of a file for one of its tests, with objects and an Arize of its own."""
        accept_calls(arize, self.run)
        return deepcopy(self, {id(self.arize): arize})

    def ids_for(self, url: str) -> dict[str, object]:
        return self.ids | {"batch_id": self.batches.get(url, self.batches["batch-confirm"]).pk}

    @property
    def ids(self) -> dict[str, object]:
        return {
            "slug": self.team.slug,
            "run_id": self.run.pk,
            "task_id": self.run.task_id,
            "credential_id": self.credential.pk,
            "user_id": self.people["vera"].pk,
            "invitation_id": self.invitation.pk,
            "token": self.token,
            "view_id": self.view.pk,
            "channel_id": self.channel.pk,
            "rule_id": self.channel.rules.get().pk,
            "token_id": self.script.pk,
            "kind": "jsonl",
            "arize_id": self.run.arize_id,
            "session_id": self.session.pk,
            "factor_id": Authenticator.objects.get(type="totp").pk,
            "person_id": self.people["vera"].pk,
            "uidb36": "abc",
            "key": "def",
        }

    def client(self, who: str) -> Client:
        client = Client()
        if who:
            client.force_login(self.people[who], backend="allauth.account.auth_backends.AuthenticationBackend")
        if who == "tom":
            show_factor(client, self.people[who])
        return client

    @property
    def posts_to_arize(self) -> int:
        return sum(call.request.method == "POST" for call in self.arize.calls)


def set_stage(team: Team, run: Run, credential: Credential, arize: responses.RequestsMock) -> Stage:
    people = {
        "vera": member(team, "vera@example.com", TeamRole.VIEWER),
        "oli": member(team, "oli@example.com", TeamRole.OPERATOR),
        "mona": member(team, "mona@example.com", TeamRole.MANAGER),
        "ada": person("ada@example.com", site_role=SiteRole.AUDITOR),
        "adam": person("adam@example.com", site_role=SiteRole.ADMIN),
        # A viewer with second factors.
        "tom": member(team, "tom@example.com", TeamRole.VIEWER),
    }
    secret, passkey = add_factors(people["tom"])
    accept_calls(arize, run)
    by: Actor = actor(people["mona"], "manager")
    link = link_of(invitations.invite(team, email="stranger@example.com", role=TeamRole.VIEWER, by=by))
    return Stage(
        team=team,
        run=run,
        credential=credential,
        people=people,
        invitation=team.invitations.get(),
        token=link.rstrip("/").rsplit("/", 1)[1],
        view=SavedView.objects.create(
            team=team, owner=people["oli"], name="Failed ones", query="status=failed", is_shared=True
        ),
        batches=batches_of(team, run, actor(people["oli"])),
        channel=make_channel(team),
        hook=ArizeHook.objects.create(team=team, digest="0" * 64, created_by_label="mona@example.com"),
        script=make_token(team, maker=people["mona"])[0],
        arize=arize,
        secret=secret,
        passkey=passkey,
        session=another_session(people["vera"]),
    )


def accept_calls(arize: responses.RequestsMock, run: Run) -> None:
    nothing: dict[str, Any] = {"pagination": {"has_more": False}}
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    arize.post(trigger_url(run.task), json=wire_run(run, "PENDING", id="new-run"), status=201)
    arize.get(f"{ENDPOINT}/v2/spaces", json=nothing | {"spaces": []})
    arize.get(f"{ENDPOINT}/v2/tasks", json=nothing | {"tasks": []})


def add_factors(tom: User) -> tuple[str, SoftPasskey]:
    secret, passkey = generate_totp_secret(), SoftPasskey()
    asked = {"publicKey": {"challenge": "AAAA", "user": {"id": websafe_encode(user_pk_to_url_str(tom).encode())}}}
    credential = json.loads(passkey.create(json.dumps(asked)))
    by = Actor(type="command", label="tests")
    factors.add_totp(tom, secret=secret, by=by)
    factors.add_passkey(tom, name="Soft", credential=credential, by=by)
    return secret, passkey


def another_session(person: User) -> PersonSession:
    client = Client()
    client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
    return PersonSession.objects.get(session_key=digest_of(client.session.session_key or ""))


def batches_of(team: Team, run: Run, by: Actor) -> dict[str, CancelBatch]:
    """A draft to confirm, a working batch to abort, and one whose run was left out. None has an audit row."""

    def batch(**fields: Any) -> CancelBatch:
        draft = bulk.draft_of(team, run_ids=[run.pk], source=BatchSource.SELECTION)
        assert draft is not None
        CancelBatch.objects.filter(pk=draft.pk).update(**fields)
        return draft

    asked = {"person": by.person, "person_label": by.label, "asker": {"type": "user", "label": by.label}}
    draft = batch(state=BatchState.DRAFT)
    at_work = batch(state=BatchState.WORKING, **asked)
    aborted = batch(state=BatchState.ABORTED, finished_at=timezone.now(), **asked)
    aborted.items.update(state=ItemState.LEFT_OUT)
    return {"batch-confirm": draft, "batch-abort": at_work, "batch-retry": aborted}


def a_list_to_start_again(stage: Stage) -> None:
    """Instead of the draft of a bulk cancel. The run has failed."""
    CancelBatch.objects.filter(pk=stage.batches["batch-confirm"].pk).update(kind=BatchKind.TRIGGER)
    end = timezone.now()
    window = {"data_start_time": end - timezone.timedelta(hours=1), "data_end_time": end}
    Run.objects.filter(pk=stage.run.pk).update(status=Status.FAILED, rank=0, **window)


def a_stop(stage: Stage) -> None:
    oli = stage.people["oli"]
    EmergencyStop.objects.create(team=stage.team, person=oli, person_label=oli.email, reason="why")
