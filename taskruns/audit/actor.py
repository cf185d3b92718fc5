"""Who acts. Passed from the view or command down to `record()`, so that services never see a request."""

import getpass
import os
import uuid
from dataclasses import dataclass
from typing import Self

from taskruns.models import Token, User


@dataclass(frozen=True, slots=True)
class Actor:
    """`role` is the current role. `session_ref` is a SHA-256 prefix of the session key, never the key itself."""

    type: str  # user, token, job, command, anonymous
    id: str = ""
    label: str = ""
    role: str = ""
    auth_method: str = ""
    session_ref: str = ""
    ip: str = ""
    user_agent: str = ""
    request_id: str = ""
    person: User | None = None
    token: Token | None = None

    @classmethod
    def job(cls, name: str) -> Self:
        """The clock, or work that continues after a request."""
        return cls(type="job", label=name)

    @classmethod
    def absent(cls, person: User | None, *, actor_id: str, label: str, role: str) -> Self:
        """A person whose work outlives their request: no session, no IP address."""
        return cls(type="user", id=actor_id, label=label, role=role, request_id=str(uuid.uuid4()), person=person)

    @classmethod
    def command(cls) -> Self:
        """A person at a shell on the host, identified by the system account."""
        return cls(type="command", label=_system_account(), request_id=str(uuid.uuid4()))


def _system_account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
