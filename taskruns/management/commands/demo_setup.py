import os
import secrets
from dataclasses import dataclass
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.models import Membership, SiteRole, Team, TeamRole, User
from taskruns.services import credentials, members, teams
from taskruns.services.people import accounts
from taskruns.services.runs import retention
from taskruns.services.teams import TeamExists

from ._base import PanelCommand

TEAMS = {"ops-north": ("Ops North", "DEMO_KEY_NORTH"), "ops-south": ("Ops South", "DEMO_KEY_SOUTH")}
KEY_NAME = "Demo"


@dataclass(frozen=True, slots=True)
class Part:
    """One of the cast: a role in one team, or one on the whole site."""

    name: str
    team: str = ""
    role: TeamRole = TeamRole.VIEWER
    site_role: SiteRole = SiteRole.NONE

    @property
    def email(self) -> str:
        return f"{self.name.lower()}@demo.example"

    @property
    def words(self) -> tuple[str, str]:
        return (self.site_role.label.lower(), "all teams") if self.site_role else (self.role.value, self.team)


CAST = (
    Part("Vera", "ops-north", TeamRole.VIEWER),
    Part("Oli", "ops-north", TeamRole.OPERATOR),
    Part("Mona", "ops-north", TeamRole.MANAGER),
    Part("Otto", "ops-south", TeamRole.MANAGER),
    Part("Ada", site_role=SiteRole.AUDITOR),
    Part("Adam", site_role=SiteRole.ADMIN),
)


class Command(PanelCommand):
    help = "Fill the demo: two teams, a person for each role, and a key for each team from the environment."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reset", action="store_true", help="give the people a new password and print it")
        parser.add_argument("--new-world", action="store_true", help="forget the runs of a sandbox that is no more")

    @sensitive_variables("keys", "password", "passwords")
    def handle(self, *_args: Any, reset: bool, new_world: bool, **_options: Any) -> None:
        keys = {slug: _from_environment(variable) for slug, (_, variable) in TEAMS.items()}
        endpoint = _from_environment("DEMO_ENDPOINT")
        by = Actor.command()
        made = {slug: _team(slug, by=by) for slug in TEAMS}
        password = secrets.token_urlsafe(12)
        passwords = [_play(part, made, password=password, reset=reset, by=by) for part in CAST]
        for slug, team in made.items():
            _keep_key(team, key=keys[slug], endpoint=endpoint, by=by)
            if new_world:
                retention.forget_world(team)
        self._print(passwords)

    @sensitive_variables("passwords", "rows")
    def _print(self, passwords: list[str]) -> None:
        rows = [
            (part.email, password or "already there", *part.words)
            for part, password in zip(CAST, passwords, strict=True)
        ]
        table = [("sign in as", "password", "role", "team"), *rows]
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        for row in table:
            self.said("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if not all(passwords):
            self.said("A password is shown once, when it is made. `manage.py demo_setup --reset` makes a new one.")


def _from_environment(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise CommandError(f"{name} is not set: the demo needs DEMO_ENDPOINT, DEMO_KEY_NORTH and DEMO_KEY_SOUTH.")
    return value


def _team(slug: str, *, by: Actor) -> Team:
    try:
        return teams.create_team(TEAMS[slug][0], slug=slug, by=by)
    except TeamExists as known:
        return known.team


@sensitive_variables("password")
def _play(part: Part, made: dict[str, Team], *, password: str, reset: bool, by: Actor) -> str:
    """The person with their role. Returns the password if they have it now, else nothing: only a hash is stored."""
    person = accounts.find_person(part.email)
    is_new = person is None
    if person is None:
        person = accounts.create_person(part.email, password=password, name=part.name, by=by)
    elif reset:
        accounts.reset_sign_in(person, password=password, by=by)
    _give_role(part, person, made, by=by)
    return password if is_new or reset else ""


def _give_role(part: Part, person: User, made: dict[str, Team], *, by: Actor) -> None:
    """What somebody changed by hand since stays as it is."""
    if part.site_role:
        accounts.grant_site_role(person, role=part.site_role, by=by)
    elif not Membership.objects.filter(team=made[part.team], user=person).exists():
        members.add(made[part.team], person, role=part.role, by=by)


@sensitive_variables("key")
def _keep_key(team: Team, *, key: str, endpoint: str, by: Actor) -> None:
    known = credentials.find_live(team, KEY_NAME)
    if known is None:
        credentials.add(team, name=KEY_NAME, endpoint=endpoint, key=key, expires_on=None, by=by)
    elif not credentials.holds(known, key=key, endpoint=endpoint):
        credentials.replace(known, key=key, endpoint=endpoint, expires_on=None, by=by)
