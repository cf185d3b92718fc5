"""Fixtures of starting runs: oli's browser."""

import pytest
from django.test import Client

from taskruns.models import User
from tests.clients import ClientOf


@pytest.fixture
def client(oli: User, client_of: ClientOf) -> Client:
    return client_of(oli)
