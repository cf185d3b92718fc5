from typing import Any

from django.db.models import Count, Q

from taskruns.models import Team

from ._base import PanelCommand


class Command(PanelCommand):
    help = "List all teams: slug, name, members, API keys, and whether the team is archived."

    def handle(self, *_args: Any, **_options: Any) -> None:
        live = Count("credentials", filter=Q(credentials__revoked_at=None), distinct=True)
        teams = Team.objects.annotate(members=Count("memberships", distinct=True), live=live).order_by("slug")
        rows = [
            (slug, name, str(members), str(keys), "archived" if archived_at else "active")
            for slug, name, members, keys, archived_at in teams.values_list(
                "slug", "name", "members", "live", "archived_at"
            )
        ]
        self.table(("team", "name", "members", "API keys", "state"), rows)
