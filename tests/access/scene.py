"""The scene of tests that look at every url or form: made once for all tests of a file."""

from dataclasses import dataclass

from taskruns.models import Run, SiteRole, Team, TeamRole, User
from tests.factories import make_credential, make_run, make_task, member, person


@dataclass(frozen=True)
class Scene:
    """Ops North with a key, a task and a run. `people`: the cast, and an anonymous visitor as None."""

    team: Team
    run: Run
    people: dict[str, User | None]


def set_scene() -> Scene:
    team = Team.objects.create(slug="ops-north", name="Ops North")
    other_team = Team.objects.create(slug="ops-south", name="Ops South")
    people = {
        "anonymous": None,
        "vera": member(team, "vera@example.com", TeamRole.VIEWER),
        "oli": member(team, "oli@example.com", TeamRole.OPERATOR),
        "mona": member(team, "mona@example.com", TeamRole.MANAGER),
        "otto": member(other_team, "otto@example.com", TeamRole.MANAGER),
        "ada": person("ada@example.com", site_role=SiteRole.AUDITOR),
        "adam": person("adam@example.com", site_role=SiteRole.ADMIN),
    }
    return Scene(team, make_run(make_task(team, make_credential(team))), people)
