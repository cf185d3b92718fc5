"""Fixtures of the board: vera's browser, on a team with a key."""

import pytest
from django.test import Client

from taskruns.models import Credential, User
from tests.clients import ClientOf


@pytest.fixture
def client(vera: User, credential: Credential, client_of: ClientOf) -> Client:
    return client_of(vera)
