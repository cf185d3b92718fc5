from typing import Any
from uuid import UUID

from django.core.management.base import CommandParser

from taskruns.models import Membership, SiteRole, User

from ._base import PanelCommand, team_called


class Command(PanelCommand):
    help = "List people: email, name, site role, roles in teams, and whether the account is disabled."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", nargs="?", help="the team's slug; all people by default")

    def handle(self, *_args: Any, team: str | None, **_options: Any) -> None:
        people = User.objects.order_by("email")
        if team is not None:
            people = people.filter(memberships__team=team_called(team))
        roles: dict[UUID, list[str]] = {}
        for membership in Membership.objects.select_related("team").order_by("team__slug"):
            roles.setdefault(membership.user_id, []).append(f"{membership.team.slug}:{membership.role}")
        rows = [
            (
                person.email,
                person.name,
                SiteRole(person.site_role).label if person.site_role else "",
                ", ".join(roles.get(person.pk, [])),
                "active" if person.is_active else "disabled",
            )
            for person in people
        ]
        self.table(("email", "name", "site role", "teams", "state"), rows)
