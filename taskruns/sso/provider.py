import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

# Weakest first: with several groups, the strongest role counts.
ROLES = ("viewer", "operator", "manager")


@dataclass(frozen=True, slots=True)
class GroupRole:
    """Members of this group at the provider get this role in the team with this slug."""

    group: str
    team: str
    role: str


@dataclass(frozen=True, slots=True)
class Provider:
    """The one identity provider of a deployment.

    `sends_auth_time`: its tokens say when the person signed in, as OpenID Connect requires. Otherwise the panel cannot
    check that the provider asked the person to sign in again.
    """

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    groups_claim: str = "groups"
    group_roles: tuple[GroupRole, ...] = ()
    scopes: tuple[str, ...] = ("openid", "profile", "email")
    sends_auth_time: bool = True
    sign_in_origins: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Derived from the issuer: under another issuer, the same subject is a different person."""
        return f"oidc-{hashlib.sha256(self.issuer.encode()).hexdigest()[:16]}"

    @property
    def origins(self) -> tuple[str, ...]:
        """Where browsers may be sent to sign in: the issuer's origin, and those that the deployment lists."""
        parts = urlsplit(self.issuer)
        return (f"{parts.scheme}://{parts.netloc}", *self.sign_in_origins)

    @property
    def name(self) -> str:
        return urlsplit(self.issuer).hostname or ""

    @property
    def discovery_url(self) -> str:
        return self.issuer.rstrip("/") + "/.well-known/openid-configuration"

    def accepts(self, url: object) -> bool:
        """Whether an endpoint from the provider uses https, or http if the issuer itself does."""
        parts = urlsplit(url) if isinstance(url, str) else None
        return parts is not None and bool(parts.hostname) and parts.scheme in {"https", urlsplit(self.issuer).scheme}

    @property
    def teams(self) -> frozenset[str]:
        """Slugs of the teams in which groups assign roles."""
        return frozenset(given.team for given in self.group_roles)

    def roles_for(self, groups: Iterable[str]) -> dict[str, str]:
        """Team slug -> the strongest role that these groups assign."""
        theirs = set(groups)
        found: dict[str, str] = {}
        for given in sorted(self.group_roles, key=lambda given: ROLES.index(given.role)):
            if given.group in theirs:
                found[given.team] = given.role
        return found
