from collections.abc import Iterator

import pytest

from taskruns.access import token_gate
from taskruns.models import Credential, Run, Team, Token, TokenRole
from taskruns.services.background import run_quietly
from taskruns.services.credentials import client
from taskruns.services.gateway import passing, places
from taskruns.services.tokens.refusals import Refusals
from tests.factories import make_token
from tests.gateway.scripts import Script


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the background thread does is done before the answer, in the transaction of the test."""
    monkeypatch.setattr(passing.background, "submit", run_quietly)
    monkeypatch.setattr(passing.background, "start", lambda: None)
    monkeypatch.setattr(token_gate, "refusals", waiting := Refusals())
    monkeypatch.setattr(waiting.background, "start", waiting.write)
    monkeypatch.setattr(passing, "counts", passing._Counts())
    monkeypatch.setattr(passing, "_seen", passing._Seen())
    monkeypatch.setattr(places, "of_scripts", places.Places())
    yield
    for credential_id in list(client._kept):
        client.forget_kept(credential_id)


@pytest.fixture
def token(team: Team, credential: Credential) -> tuple[Token, str]:
    return make_token(team, role=TokenRole.OPERATOR)


@pytest.fixture
def script(token: tuple[Token, str], run: Run) -> Script:
    """An operator's script of Ops North, whose team has one key, one task and one running run."""
    return Script(token[1])
