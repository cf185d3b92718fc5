"""The bar of saved views above the board, and the page that lists them."""

import re

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from taskruns.models import Run, SavedView, Team, User
from taskruns.pages.saved_views import view_bar, visible_views
from taskruns.permissions import access_of
from tests.clients import ClientOf
from tests.markup import without_bdi
from tests.saved_views.panel import BOARD, VIEWS, bar, make_view, post


def current(page: str) -> list[str]:
    page = without_bdi(page)
    nav = page[page.index('aria-label="Views"') : page.index("</nav>", page.index('aria-label="Views"'))]
    return re.findall(r'aria-current="page">\s*([^<]+?)\s*<', nav)


def test_the_bar_marks_the_view_that_is_shown(team: Team, run: Run, vera: User, client_of: ClientOf):
    make_view(team, vera)
    make_view(team, vera, "Running", "status=running")
    for query, name in {
        "all=1": "All runs",
        "status=": "All runs",
        "status=failed": "Failed ones",
        "status=running&nonsense=1&cursor=": "Running",
    }.items():
        assert current(client_of(vera).get(f"{BOARD}?{query}").content.decode()) == [name], query
    assert current(client_of(vera).get(f"{BOARD}?status=completed").content.decode()) == []


def test_the_bar_shows_own_views_first_and_the_default(team: Team, vera: User, oli: User):
    make_view(team, oli, "A shared", is_shared=True, is_team_default=True)
    make_view(team, oli, "Olis own")
    make_view(team, vera, "z mine")
    mine = make_view(team, vera, "My own", "status=running")
    assert [(tab.name, tab.is_shared, tab.is_default) for tab in bar(vera, team).tabs] == [
        ("My own", False, False),
        ("z mine", False, False),
        ("A shared", True, True),
    ]
    vera.memberships.update(default_view=mine)
    assert [tab.name for tab in bar(vera, team).tabs if tab.is_default] == ["My own"]


def test_the_bar_is_one_query_for_any_number_of_views(team: Team, vera: User):
    access = access_of(vera, team)
    for number in range(3):
        make_view(team, vera, f"View {number}", "status=failed")
        with CaptureQueriesContext(connection) as queries:
            assert len(view_bar(visible_views(team, vera), access, "status=failed").tabs) == number + 1
        assert len(queries) == 1


def test_views_of_another_team_are_not_in_the_bar(team: Team, other_team: Team, otto: User, vera: User):
    make_view(other_team, otto, "Of the south", is_shared=True)
    assert bar(vera, team).tabs == ()
    assert len(bar(otto, other_team).tabs) == 1


def test_the_form_of_the_bar_saves_what_is_shown(team: Team, vera: User, client_of: ClientOf):
    page = client_of(vera).get(f"{BOARD}?status=failed&q=%22%3E%3Cb%3E").content.decode()
    assert '<input type="hidden" name="query" value="status=failed&amp;q=%22%3E%3Cb%3E">' in page
    assert "Share it with the team" not in page


def test_only_people_who_may_share_see_the_option(team: Team, vera: User, oli: User, client_of: ClientOf):
    for who, offered in ((vera, False), (oli, True)):
        client = client_of(who)
        make_view(team, who)
        board = client.get(f"{BOARD}?status=completed")
        for page in (board, client.get(VIEWS), client.post(VIEWS, {"name": "", "query": ""})):
            assert ("Share it with the team" in page.content.decode()) is offered


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", "{{ 7|add:7 }}", '" onmouseover="x'])
def test_a_hostile_name_is_text(team: Team, oli: User, vera: User, client_of: ClientOf, hostile: str):
    make_view(team, oli, hostile, "q=x", is_shared=True)
    for path in (BOARD, VIEWS):
        page = client_of(vera).get(path).content.decode()
        assert hostile not in page or hostile.startswith("{{")
        assert "&lt;script&gt;" in page or "{{ 7" in page or "&quot; onmouseover" in page


def test_the_page_shows_the_owner_and_the_filter_of_a_view(team: Team, vera: User, oli: User, client_of: ClientOf):
    view = make_view(team, oli, "Nightly", "status=failed&status=cancelled&q=judge+model", is_shared=True)
    page = client_of(vera).get(VIEWS).content.decode()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without_bdi(page)))
    assert "shared by oli@example.com" in text
    assert "status failed, cancelled" in text
    assert "search judge model" in text
    assert f'href="{BOARD}?status=failed&amp;status=cancelled&amp;q=judge+model"' in page
    assert f"{VIEWS}{view.pk}/default/" in page
    assert f"{VIEWS}{view.pk}/delete/" not in page


def test_an_auditor_reads_the_page_and_sees_no_form(team: Team, oli: User, ada: User, client_of: ClientOf):
    make_view(team, oli, is_shared=True)
    page = client_of(ada).get(VIEWS).content.decode()
    assert "Failed ones" in page
    assert f'action="{VIEWS}' not in page


def test_the_empty_page_explains_how_to_begin(team: Team, vera: User, ada: User, client_of: ClientOf):
    assert "Save this view" in client_of(vera).get(VIEWS).content.decode()
    assert "No one in this team has shared a view yet." in client_of(ada).get(VIEWS).content.decode()


def test_after_each_action_the_page_says_what_was_done(team: Team, oli: User, client_of: ClientOf):
    client = client_of(oli)
    view = make_view(team, oli, is_shared=True)
    for fields, said in (
        ({"whose": "me"}, "Your board opens with “Failed ones”."),
        ({"whose": "me", "off": "1"}, "Your board no longer opens with “Failed ones”."),
        ({"whose": "team"}, "The team&#x27;s board opens with “Failed ones”."),
    ):
        post(client, view, "default/", **fields)
        assert said in client.get(VIEWS).content.decode()
    post(client, view, name="Renamed", shared="on")
    assert "View “Renamed” changed." in client.get(VIEWS).content.decode()
    post(client, view, "delete/")
    assert "View “Renamed” deleted." in client.get(VIEWS).content.decode()
    assert not SavedView.objects.exists()
