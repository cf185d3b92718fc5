"""The help page explains every status, outcome, role and shortcut of the other pages."""

import re

from django.test import Client

from taskruns.models import Happening, Outcome, SiteRole, Status, TeamRole
from taskruns.pages.audit.sentences import SENTENCES
from taskruns.pages.help import ROLES, STATUSES, help_page
from tests.factories import person
from tests.paths import ROOT

SCRIPT = ROOT / "taskruns" / "static" / "taskruns" / "app.js"


def page(client: Client) -> str:
    client.force_login(person("nora@example.com"))
    return client.get("/help/").content.decode()


def test_every_status_outcome_and_role_of_the_code_is_explained():
    assert set(STATUSES) == set(Status)
    assert set(ROLES) == set(TeamRole) | (set(SiteRole) - {SiteRole.NONE})
    explained = {outcome.code: outcome.text for outcome in help_page().outcomes}
    logged = set(SENTENCES["run.cancel"]) - {"requested", "denied"}
    assert set(explained) - {"stopping"} == logged
    assert {outcome.code for outcome in Outcome} == set(explained)
    assert all(explained.values())


def test_the_page_shows_each_explanation(client: Client, db: None):
    text = page(client)
    assert all(f"<code>{outcome.code}</code>" in text for outcome in Outcome)
    assert all(f"status-{status.value}" in text for status in Status)
    links = re.findall(r'href="#([a-z]+)"', text.split('aria-label="On this page"')[1].split("</nav>")[0])
    assert len(links) == 10
    assert all(f'id="{target}"' in text for target in links)


def test_every_event_of_channels_is_explained(client: Client, db: None):
    text = page(client)
    assert all(f"<code>{event}</code>" in text for event in Happening.values)


def test_every_shortcut_key_is_listed(client: Client, db: None):
    keys = SCRIPT.read_text().split("const KEYS = {")[1].split("};")[0]
    acting = set(re.findall(r'^\s*"?([^\s":]+)"?: \(\) =>', keys, re.MULTILINE))
    assert acting == set(
        re.findall(r"<kbd>([^<]+)</kbd>", page(client).split('<dl class="shortcuts">')[1].split("</dl>")[0])
    )


def test_the_shortcut_list_opens_unless_switched_off(client: Client, db: None):
    nora = person("nora@example.com")
    client.force_login(nora)
    assert 'id="shortcuts"' in client.get("/help/").content.decode()
    type(nora).objects.filter(pk=nora.pk).update(shortcuts=False)
    text = client.get("/help/").content.decode()
    assert 'id="shortcuts"' not in text
    assert 'data-shortcuts="off"' in text
    assert "They are off for you." in text
