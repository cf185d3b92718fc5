"""The identity provider's process, which a file's tests share, and an account that is connected to it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from allauth.socialaccount.models import SocialAccount

from taskruns.models import User
from taskruns.sso import GroupRole, Provider
from tests.paths import ROOT
from tests.processes import free_ports

from .browser import Idp
from .identity_provider import CLIENT_ID, CLIENT_SECRET


@pytest.fixture(scope="module")
def process() -> Iterator[Idp]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.sso.identity_provider", str(port)]
    with subprocess.Popen(command, cwd=ROOT) as running:
        idp = Idp(port)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                idp.configure()
                break
            except (requests.ConnectionError, requests.Timeout):
                assert running.poll() is None
        yield idp
        running.terminate()


@pytest.fixture
def idp(process: Idp, settings: Any) -> Idp:
    process.configure()
    settings.OIDC = Provider(
        issuer=process.url,
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        groups_claim="groups",
        group_roles=(
            GroupRole("ops", "ops-north", "operator"),
            GroupRole("leads", "ops-north", "manager"),
            GroupRole("ops", "ops-nowhere", "viewer"),
        ),
    )
    return process


@pytest.fixture
def linked(vera: User, idp: Idp, settings: Any) -> User:
    SocialAccount.objects.create(user=vera, provider=settings.OIDC.id, uid="subject-1")
    return vera
