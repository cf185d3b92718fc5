"""Links from a run's page into Arize, only where the format of Arize's pages is known."""

import json
import re
from typing import Any

import pytest
import responses

from taskruns.models import Credential, Run, Task, Team, User
from taskruns.pages.runs import arize_links, run_links
from taskruns.services.mirror import refresh
from tests.clients import ClientOf
from tests.factories import make_credential, make_run
from tests.fake_arize import World

GLOBAL = "https://api.arize.com"


def a_task(team: Team, *, endpoint: str = GLOBAL, space_id: str = "SP=", **as_read: Any) -> Task:
    key = make_credential(team)
    Credential.objects.update(spaces=[{"id": space_id, "name": "prod", "organization_id": "O/1="}])
    key.refresh_from_db()
    return Task(
        team=team, endpoint=endpoint, arize_id="T1", credential=key, space_id=space_id, as_read=json.dumps(as_read)
    )


def links(task: Task, *, experiment_id: str | None = None, organization: str = "O/1=") -> dict[str, str]:
    run = Run(task=task, team=task.team, endpoint=task.endpoint, experiment_id=experiment_id)
    found = {link.text: link.url for link in arize_links(task, run, organization, task.endpoint)}
    if organization == "O/1=":
        assert {link.text: link.url for link in run_links(run)} == found
    return found


def test_project_dataset_and_experiment_links_encode_ids(team: Team) -> None:
    base = "https://app.arize.com/organizations/O%2F1%3D/spaces/SP%3D"
    task = a_task(team, project_id="P?1=", dataset_id="D#1")
    assert links(task) == {
        "project": f"{base}/projects/P%3F1%3D?selectedTab=llmTracing",
        "dataset": f"{base}/datasets/D%231?selectedTab=examples",
    }
    assert links(task, experiment_id="E&1") == links(task) | {
        "experiment": f"{base}/datasets/D%231/experiments/compare?queryFilterA=&experimentId=E%261"
    }


@pytest.mark.parametrize(
    ("endpoint", "app"),
    [
        ("https://api.arize.com", "https://app.arize.com/"),
        ("https://api.eu-west-1a.arize.com", "https://app.eu-west-1a.arize.com/"),
        ("https://api.us-east-1b.arize.com", "https://app.us-east-1b.arize.com/"),
    ],
)
def test_links_use_the_regions_own_pages(endpoint: str, app: str, team: Team) -> None:
    assert links(a_task(team, endpoint=endpoint, project_id="P"))["project"].startswith(app)


@pytest.mark.parametrize(
    "endpoint", ["https://arize-app.example.com", "http://arize.test:9999", "https://api.elsewhere.arize.com"]
)
def test_no_links_for_an_unknown_endpoint(endpoint: str, team: Team) -> None:
    assert links(a_task(team, endpoint=endpoint, project_id="P")) == {}


@pytest.mark.parametrize("missing", ["organization", "space", "project", "key"])
def test_no_links_when_an_id_is_missing(missing: str, team: Team) -> None:
    task = a_task(team, **{"project_id": "P"} if missing != "project" else {"project_id": None})
    if missing == "space":
        task.space_id = ""
    if missing == "key":
        task.credential = None
        assert run_links(Run(task=task, endpoint=task.endpoint)) == ()
        return
    assert links(task, organization="" if missing == "organization" else "O/1=") == {}


@pytest.mark.parametrize("odd", [".", "..", 7, ["P"], {"id": "P"}])
def test_id_that_is_not_a_path_segment_makes_no_link(odd: Any, team: Team) -> None:
    assert links(a_task(team, project_id=odd)) == {}


def test_old_credential_has_no_organization(team: Team) -> None:
    task = a_task(team, project_id="P")
    assert task.credential is not None
    task.credential.spaces = [{"id": "SP=", "name": "prod"}]
    assert run_links(Run(task=task, endpoint=task.endpoint)) == ()


@pytest.mark.parametrize("organization", ["O1", None])
def test_mirror_stores_the_organization_of_each_space(
    organization: str | None, team: Team, arize: responses.RequestsMock
) -> None:
    world = World().install(arize)
    world.task("T1", space="S1")
    space = {"id": "S1", "name": "prod"} | ({"organization_id": organization} if organization else {})
    body = json.dumps({"spaces": [space]})
    world.fault = lambda call: (200, {}, body) if call.startswith("/v2/spaces") else None
    refresh(make_credential(team).pk)
    spaces = Credential.objects.get().spaces
    assert spaces == [{"id": "S1", "name": "prod", "organization_id": organization or ""}]


def test_run_page_links_open_in_a_new_tab(team: Team, vera: User, client_of: ClientOf) -> None:
    task = a_task(team, project_id="P")
    task.save()
    url = f"/teams/{team.slug}/runs/{make_run(task).pk}/"
    page = client_of(vera).get(url).content.decode()
    (link,) = re.findall(r"<a [^>]*href=\"https://app\.arize\.com/[^>]*>[^<]*", page)
    assert 'target="_blank"' in link
    assert 'rel="noreferrer noopener"' in link
    assert link.endswith("Open in Arize: project")
    assert "Arize publishes no link to a run itself." in page
    Task.objects.update(as_read="{}")
    page = client_of(vera).get(url).content.decode()
    assert "Open in Arize" not in page
    assert "no link to a run" not in page
