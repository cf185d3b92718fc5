import os
import secrets
from dataclasses import dataclass
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.models import Happening, Membership, SiteRole, Team, TeamRole, User
from taskruns.models.channels import SUGGESTED
from taskruns.services import channels, credentials, members, teams
from taskruns.services.channels.addresses import may_be_private
from taskruns.services.people import accounts
from taskruns.services.runs import retention
from taskruns.services.teams import TeamExists

from ._base import PanelCommand

TEAMS = {"ops-north": ("Ops North", "DEMO_KEY_NORTH"), "ops-south": ("Ops South", "DEMO_KEY_SOUTH")}
KEY_NAME = "Demo"
TEAM_WITH_CHANNEL, CHANNEL_NAME = "ops-north", "Demo chat"


@dataclass(frozen=True, slots=True)
class DemoPerson:
    """A person of the demo with a role in one team or on the whole site."""

    name: str
    team: str = ""
    role: TeamRole = TeamRole.VIEWER
    site_role: SiteRole = SiteRole.NONE

    @property
    def email(self) -> str:
        return f"{self.name.lower()}@demo.example"

    @property
    def role_and_team(self) -> tuple[str, str]:
        return (self.site_role.label.lower(), "all teams") if self.site_role else (self.role.value, self.team)


PEOPLE = (
    DemoPerson("Vera", "ops-north", TeamRole.VIEWER),
    DemoPerson("Oli", "ops-north", TeamRole.OPERATOR),
    DemoPerson("Mona", "ops-north", TeamRole.MANAGER),
    DemoPerson("Otto", "ops-south", TeamRole.MANAGER),
    DemoPerson("Ada", site_role=SiteRole.AUDITOR),
    DemoPerson("Adam", site_role=SiteRole.ADMIN),
)


class Command(PanelCommand):
    help = "Set up the demo: two teams, a person for each role, and an API key per team from the environment."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reset", action="store_true", help="set a new password for the people and print it")
        parser.add_argument("--new-world", action="store_true", help="delete the runs of the previous sandbox")

    @sensitive_variables("keys", "password", "passwords")
    def handle(self, *_args: Any, reset: bool, new_world: bool, **_options: Any) -> None:
        keys = {slug: _from_environment(variable) for slug, (_, variable) in TEAMS.items()}
        endpoint = _from_environment("DEMO_ENDPOINT")
        by = Actor.command()
        made = {slug: _team(slug, by=by) for slug in TEAMS}
        password = secrets.token_urlsafe(12)
        passwords = [_set_up(person, made, password=password, reset=reset, by=by) for person in PEOPLE]
        for slug, team in made.items():
            _store_key(team, key=keys[slug], endpoint=endpoint, by=by)
            if new_world:
                retention.empty_mirror(team)
        _add_channel(made[TEAM_WITH_CHANNEL], address=f"{endpoint}/sandbox/inbox", by=by)
        self._print(passwords)

    @sensitive_variables("passwords", "rows")
    def _print(self, passwords: list[str]) -> None:
        rows = [
            (person.email, password or "unchanged", *person.role_and_team)
            for person, password in zip(PEOPLE, passwords, strict=True)
        ]
        self.table(("sign in as", "password", "role", "team"), rows)
        if not all(passwords):
            self.say("A password is shown only when it is set. To set a new one: manage.py demo_setup --reset")


def _from_environment(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise CommandError(
            f"{name} is not set. The demo needs DEMO_ENDPOINT, DEMO_KEY_NORTH and DEMO_KEY_SOUTH: run `make demo`."
        )
    return value


def _team(slug: str, *, by: Actor) -> Team:
    try:
        return teams.create_team(TEAMS[slug][0], slug=slug, by=by)
    except TeamExists as known:
        return known.team


@sensitive_variables("password")
def _set_up(demo: DemoPerson, made: dict[str, Team], *, password: str, reset: bool, by: Actor) -> str:
    """Create the account with its role. Returns the password if it was set now, else "": only its hash is stored."""
    person = accounts.find_person(demo.email)
    is_new = person is None
    if person is None:
        person = accounts.create_person(demo.email, password=password, name=demo.name, by=by)
    elif reset:
        accounts.reset_sign_in(person, password=password, by=by)
    _give_role(demo, person, made, by=by)
    return password if is_new or reset else ""


def _give_role(demo: DemoPerson, person: User, made: dict[str, Team], *, by: Actor) -> None:
    """Leaves the role of an existing member unchanged: someone may have changed it by hand."""
    if demo.site_role:
        accounts.grant_site_role(person, role=demo.site_role, by=by)
    elif not Membership.objects.filter(team=made[demo.team], user=person).exists():
        members.add(made[demo.team], person, role=demo.role, by=by)


def _add_channel(team: Team, *, address: str, by: Actor) -> None:
    """Add a channel that posts to the sandbox's inbox page, if NOTIFY_HOSTS allows it."""
    if not may_be_private(address):
        return
    known = channels.find_live(team, CHANNEL_NAME)
    if known is None:
        events = (*SUGGESTED, Happening.RUN_CANCELLED, Happening.RUN_CANCEL_MANY)
        wanted = channels.Wanted(tuple(map(str, events)), quiet_minutes=1)
        channels.add(team, name=CHANNEL_NAME, kind="slack", address=address, wanted=wanted, by=by)
    else:
        channels.change(known, name=known.name, is_on=known.is_on, address=address, by=by)


@sensitive_variables("key")
def _store_key(team: Team, *, key: str, endpoint: str, by: Actor) -> None:
    known = credentials.find_live(team, KEY_NAME)
    if known is None:
        credentials.add(team, name=KEY_NAME, endpoint=endpoint, key=key, expires_on=None, by=by)
    elif not credentials.is_same_key(known, key=key, endpoint=endpoint):
        credentials.replace(known, key=key, endpoint=endpoint, expires_on=None, by=by)
