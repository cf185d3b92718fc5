"""Which API key a token's calls use."""

from taskruns.models import Credential, Token


class NeedsKey(Exception):
    """The token names no key, and its team has none or several. Or its key was revoked."""


def key_of(token: Token) -> Credential:
    """The token's own key, or else the team's only live one. Raises NeedsKey."""
    live = Credential.objects.live().filter(team=token.team_id)
    rows = list(live.filter(pk=token.credential_id) if token.credential_id else live[:2])
    if len(rows) != 1:
        raise NeedsKey
    return rows[0]
