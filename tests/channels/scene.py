"""A channel as a manager adds it."""

from typing import Any

from taskruns.audit import Actor
from taskruns.models import Channel, Team
from taskruns.services import channels
from taskruns.services.channels.actions import Wanted

BY = Actor(type="user", id="1", label="mona@example.com", role="manager")
EVENTS = ("run.failed", "run.cancelled", "run.completed_with_errors", "stop.pull", "credential.failing")
HOOK = "https://alerts.example.com/hook/very-secret"


def add_channel(team: Team, address: str, *, kind: str = "webhook", name: str = "On call", **wanted: Any) -> Channel:
    asked = Wanted(wanted.pop("events", EVENTS), **wanted)
    return channels.add(team, name=name, kind=kind, address=address, wanted=asked, by=BY).channel
