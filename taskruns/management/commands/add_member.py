from typing import Any

from django.core.management.base import CommandParser

from taskruns.audit import Actor
from taskruns.models import Membership, Team, TeamRole, User
from taskruns.services import members

from ._base import PanelCommand, person_or_new, team_called


class Command(PanelCommand):
    help = "Add a person to a team with a role, or change the role of a member."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", help="the team's slug")
        parser.add_argument("email")
        parser.add_argument("--role", required=True, choices=TeamRole.values)
        parser.add_argument("--create", action="store_true", help="create the account if there is none")
        parser.add_argument(
            "--password-stdin", action="store_true", help="read the new account's password from stdin, line 1"
        )

    def handle(
        self, *_args: Any, team: str, email: str, role: str, create: bool, password_stdin: bool, **_options: Any
    ) -> None:
        by, found = Actor.command(), team_called(team)
        person, is_new = person_or_new(email, create=create, password_stdin=password_stdin, by=by)
        if is_new:  # say so first: the account stays even if adding the role fails
            self.say(f"Account {person.email} created.")
        changed = _give_role(found, person, TeamRole(role), by=by)
        self.say(f"{person.email} is {'now' if changed else 'already'} {role} of {found.slug}.")


def _give_role(team: Team, person: User, role: TeamRole, *, by: Actor) -> bool:
    if Membership.objects.filter(team=team, user=person).exists():
        return members.change_role(team, person, role=role, by=by)
    return members.add(team, person, role=role, by=by)
