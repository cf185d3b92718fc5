from collections.abc import Iterator

import pytest

from taskruns.models import Credential, Run, Team, Token, TokenRole
from taskruns.services.credentials import client
from taskruns.services.gateway import passing, places
from tests.factories import make_token
from tests.gateway.scripts import Script


@pytest.fixture(autouse=True)
def _as_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is remembered of another test's answers, places and connections."""
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
