"""Which API key a token's calls use."""

from functools import cache

from django.db.models import UUIDField

from taskruns.models import Credential, Token
from taskruns.models.prepared import Prepared, Slot


class NeedsKey(Exception):
    """The token names no key, and its team has none or several. Or its key was revoked."""


def key_of(token: Token) -> Credential:
    """The token's own key, or else the team's only live one. Raises NeedsKey."""
    if token.credential_id is not None:
        rows = _own().rows(team=token.team_id, pk=token.credential_id)
    else:
        rows = _of_team().rows(team=token.team_id, most=2)
    if len(rows) != 1:
        raise NeedsKey
    return rows[0]


@cache
def _of_team() -> Prepared[Credential]:
    return Prepared(Credential.objects.live().filter(team=Slot("team", UUIDField())))


@cache
def _own() -> Prepared[Credential]:
    own = Credential.objects.live().filter(team=Slot("team", UUIDField()), pk=Slot("pk", UUIDField()))
    return Prepared(own)
