"""Saved views: named filters, private or shared with the team, and defaults of the board."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils.http import urlencode

from taskruns.models import AuditEvent, Membership, SavedView, Team, TeamRole, User
from taskruns.services import saved_views
from taskruns.services.saved_views import MOST_VIEWS, NameTaken
from taskruns.services.user_errors import UserError
from tests.clients import ClientOf
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.factories import actor, member
from tests.markup import without_bdi
from tests.saved_views.panel import BOARD, VIEWS, bar, make_view, post
from tests.stored import events


def save(client: Client, name: str = "Failed ones", query: str = "status=failed", **fields: str) -> Any:
    return client.post(VIEWS, {"name": name, "query": query} | fields)


def last_event() -> AuditEvent:
    return AuditEvent.objects.latest("pk")


def names(person: User, team: Team) -> list[str]:
    return [tab.name for tab in bar(person, team).tabs]


# --- Saving


def test_a_viewer_saves_a_private_view_and_is_redirected_to_it(team: Team, vera: User, oli: User, client_of: ClientOf):
    answer = save(client_of(vera), "  Failed\r\nones ", "?status=running&status=failed&status=failed&nonsense=1")
    view = SavedView.objects.get()
    assert (view.name, view.query, view.owner, view.is_shared) == (
        "Failed ones",
        "status=failed&status=running",
        vera,
        False,
    )
    assert answer.headers["Location"] == f"{BOARD}?{view.query}"
    assert (names(vera, team), names(oli, team)) == (["Failed ones"], [])
    row = last_event()
    assert (row.event, row.outcome, row.actor_label) == ("view.save", "done", vera.email)
    assert (row.target_type, row.target_id, row.target_label) == ("view", str(view.pk), "Failed ones")
    assert row.details == {"query": view.query, "shared": False, "default": ""}


def test_the_position_on_a_page_is_not_saved(team: Team, vera: User, client_of: ClientOf):
    save(client_of(vera), query="status=failed&cursor=damaged")
    assert SavedView.objects.get().query == "status=failed"


def test_sharing_needs_the_right_to_share(team: Team, vera: User, oli: User, mona: User, client_of: ClientOf):
    assert save(client_of(vera), "Hers", shared="on").status_code == 403
    assert not SavedView.objects.exists()
    assert events(event="view.save") == [("view.save", "denied")]
    for who in (oli, mona):
        assert save(client_of(who), f"Of {who.email}", shared="on").status_code == 302
    assert names(vera, team) == ["Of mona@example.com", "Of oli@example.com"]


def test_non_members_see_shared_views_and_save_none(team: Team, oli: User, ada: User, adam: User, client_of: ClientOf):
    make_view(team, oli, "Shared", is_shared=True)
    make_view(team, oli, "Private")
    for who in (ada, adam):
        assert names(who, team) == ["Shared"]
        assert "Save this view" not in client_of(who).get(BOARD).content.decode()
        assert save(client_of(who)).status_code == 403
    assert SavedView.objects.count() == 2
    with pytest.raises(UserError, match="Only members"):
        saved_views.save_view(team, name="Mine", query="", shared=False, by=actor(ada, "auditor"))


def test_an_invalid_filter_is_not_saved_and_is_explained(team: Team, vera: User, client_of: ClientOf):
    answer = save(client_of(vera), query="status=sideways")
    assert answer.status_code == 422
    assert "This filter cannot be saved. There is no status “sideways”." in answer.content.decode()
    assert not SavedView.objects.exists()


def test_what_was_typed_is_kept_after_a_mistake(team: Team, oli: User, client_of: ClientOf):
    page = save(client_of(oli), "x" * 101, "q=a%3Cb%3E", shared="on").content.decode()
    assert 'value="q=a%3Cb%3E"' in page
    assert 'name="shared" id="id_shared" checked' in page
    assert "a&lt;b&gt;" in page
    assert "x" * 101 in page


def test_a_view_without_a_filter_is_all_runs(team: Team, vera: User, client_of: ClientOf):
    answer = save(client_of(vera), "Everything", "")
    assert answer.headers["Location"] == f"{BOARD}?all=1"
    assert client_of(vera).get(answer.headers["Location"]).status_code == 200


def test_the_number_of_saved_views_is_limited(team: Team, vera: User, oli: User, mona: User, client_of: ClientOf):
    SavedView.objects.bulk_create(SavedView(team=team, owner=vera, name=str(number)) for number in range(MOST_VIEWS))
    answer = save(client_of(vera))
    assert answer.status_code == 422
    assert f"You already have {MOST_VIEWS} views in this team" in answer.content.decode()
    assert save(client_of(vera), "7", replace="1").status_code == 302
    SavedView.objects.update(owner=mona, is_shared=True)
    assert "already shares 50 views" in save(client_of(oli), shared="on").content.decode()
    assert save(client_of(oli)).status_code == 302


# --- Names


def test_a_name_is_unique_for_its_owner_in_upper_and_lower_case(
    team: Team, other_team: Team, vera: User, oli: User, client_of: ClientOf
):
    make_view(team, vera, "Übersicht")
    answer = save(client_of(vera), "ÜBERSICHT")
    assert answer.status_code == 422
    assert "You already have a view “Übersicht” in this team." in answer.content.decode()
    assert save(client_of(oli), "ÜBERSICHT").status_code == 302
    Membership.objects.create(team=other_team, user=vera, role=TeamRole.VIEWER)
    assert client_of(vera).post("/teams/ops-south/views/", {"name": "Übersicht", "query": ""}).status_code == 302


def test_a_shared_name_is_unique_in_the_team(team: Team, oli: User, mona: User, client_of: ClientOf):
    make_view(team, oli, "Night shift", is_shared=True)
    answer = save(client_of(mona), "night SHIFT", shared="on")
    assert answer.status_code == 422
    assert "The team already shares a view “night SHIFT”." in answer.content.decode()
    assert save(client_of(mona), "night SHIFT").status_code == 302
    assert post(client_of(mona), SavedView.objects.get(owner=mona), name="night SHIFT", shared="on").status_code == 422


@pytest.mark.parametrize("shared", [False, True])
def test_the_database_refuses_a_duplicate_name_too(team: Team, oli: User, mona: User, *, shared: bool):
    make_view(team, oli, "Night", is_shared=shared)
    with pytest.raises(IntegrityError), transaction.atomic():
        make_view(team, mona if shared else oli, "night", is_shared=shared)


def test_overwriting_a_view_needs_its_own_button(team: Team, vera: User, client_of: ClientOf):
    view = make_view(team, vera)
    page = save(client_of(vera), "failed ones", "status=running").content.decode()
    assert "Replace the filter of “Failed ones”" in without_bdi(page)
    assert save(client_of(vera), "failed ones", "status=running", replace="1").status_code == 302
    view.refresh_from_db()
    assert (SavedView.objects.count(), view.query, view.name) == (1, "status=running", "failed ones")


# --- Changing and deleting


def test_owners_rename_and_share_their_own_views(team: Team, vera: User, oli: User, client_of: ClientOf):
    view = make_view(team, oli)
    assert post(client_of(oli), view, name="Lost ones", shared="on").status_code == 302
    view.refresh_from_db()
    assert (view.name, view.is_shared, view.query) == ("Lost ones", True, "status=failed")
    assert last_event().details == {"query": "status=failed", "shared": True, "default": ""}
    assert names(vera, team) == ["Lost ones"]
    post(client_of(oli), view, name="Lost ones", shared="on")
    assert events() == [("view.save", "done")], "saving the same values is not a change"


def test_sharing_a_view_later_needs_the_right_to_share_too(team: Team, vera: User, client_of: ClientOf):
    view = make_view(team, vera)
    assert post(client_of(vera), view, name="Hers").status_code == 302
    assert post(client_of(vera), view, name="Hers", shared="on").status_code == 403
    view.refresh_from_db()
    assert (view.name, view.is_shared) == ("Hers", False)


def test_a_person_who_may_not_share_leaves_shared_views_alone(team: Team, oli: User, client_of: ClientOf):
    view = make_view(team, oli, is_shared=True)
    Membership.objects.filter(user=oli).update(role=TeamRole.VIEWER)
    assert post(client_of(oli), view, name="Another").status_code == 403
    assert post(client_of(oli), view, "delete/").status_code == 403
    assert SavedView.objects.filter(name="Failed ones", is_shared=True).exists()


@pytest.mark.parametrize(
    ("who", "is_shared", "status"),
    [
        *(("vera", True, 403), ("vera", False, 404), ("oli2", True, 403), ("oli2", False, 404)),
        *(("mona", True, 302), ("mona", False, 404), ("oli", True, 302), ("oli", False, 302)),
        *(("ada", True, 403), ("otto", True, 404)),
    ],
)
def test_only_people_with_the_right_delete_a_view(
    team: Team, cast: dict[str, User], client_of: ClientOf, who: str, status: int, *, is_shared: bool
):
    people = cast | {"oli2": member(team, "oli2@example.com", TeamRole.OPERATOR)}
    view = make_view(team, people["oli"], is_shared=is_shared)
    assert post(client_of(people[who]), view, "delete/").status_code == status
    assert SavedView.objects.exists() is (status != 302)
    row = last_event()
    if status == 302:
        assert (row.event, row.outcome, row.target_label) == ("view.delete", "done", "Failed ones")
        assert row.details == {"query": "status=failed", "shared": is_shared, "default": ""}
    else:
        assert row.outcome == "denied"


def test_a_manager_changes_nothing_that_another_person_shares(team: Team, oli: User, mona: User, client_of: ClientOf):
    view = make_view(team, oli, is_shared=True)
    assert post(client_of(mona), view, name="Mine now", shared="on").status_code == 403
    page = client_of(mona).get(VIEWS).content.decode()
    assert f"{VIEWS}{view.pk}/delete/" in page
    assert "Change…" not in page
    assert "Change…" in client_of(oli).get(VIEWS).content.decode()


def test_a_concurrent_second_delete_says_so(team: Team, oli: User, mona: User):
    view = make_view(team, oli, is_shared=True)
    saved_views.delete_view(view, by=actor(mona, "manager"))
    with pytest.raises(UserError, match="has been deleted"):
        saved_views.delete_view(view, by=actor(oli))
    assert events() == [("view.delete", "done")]


def test_nothing_is_changed_without_an_audit_row(team: Team, oli: User, client_of: ClientOf):
    view = make_view(team, oli)
    refuse_inserts("taskruns_auditevent")
    for act in (
        lambda client: save(client, "Another"),
        lambda client: post(client, view, name="Renamed"),
        lambda client: post(client, view, "delete/"),
        lambda client: post(client, view, "default/"),
    ):
        with transaction.atomic():
            assert act(client_of(oli)).status_code == 503
            transaction.set_rollback(True)
    accept_inserts("taskruns_auditevent")
    assert [found.name for found in SavedView.objects.all()] == ["Failed ones"]
    assert not Membership.objects.exclude(default_view=None).exists()
    assert post(client_of(oli), view, name="Renamed").status_code == 302


def test_a_taken_name_raises_an_error_with_the_existing_view(team: Team, oli: User):
    view, other = make_view(team, oli), make_view(team, oli, "Other")
    with pytest.raises(NameTaken) as error:
        saved_views.change_view(other, name="FAILED ones", shared=False, by=actor(oli))
    assert error.value.known == view


# --- Defaults


def test_without_a_query_the_board_opens_with_ones_own_default(team: Team, vera: User, oli: User, client_of: ClientOf):
    view = make_view(team, vera)
    client = client_of(vera)
    assert client.get(BOARD).status_code == 200
    assert post(client, view, "default/").status_code == 302
    assert last_event().details == {"query": "status=failed", "shared": False, "default": "own"}
    answer = client.get(BOARD)
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{BOARD}?status=failed")
    assert client.get(answer.headers["Location"]).status_code == 200
    assert client_of(oli).get(BOARD).status_code == 200
    for explicit in ("status=", "all=1", "task=", "q=x", "cursor=", "="):
        assert client.get(f"{BOARD}?{explicit}").status_code == 200, explicit
    assert client.get(f"{BOARD}table/").status_code == 200


def test_the_teams_default_is_for_people_without_their_own(
    team: Team, vera: User, oli: User, ada: User, client_of: ClientOf
):
    shared = make_view(team, oli, "Running", "status=running", is_shared=True)
    own = make_view(team, vera)
    assert post(client_of(vera), shared, "default/", whose="team").status_code == 403
    assert post(client_of(oli), shared, "default/", whose="team").status_code == 302
    assert last_event().details["default"] == "team"
    for who in (vera, oli, ada):
        assert client_of(who).get(BOARD).headers["Location"] == f"{BOARD}?status=running"
    post(client_of(vera), own, "default/")
    assert client_of(vera).get(BOARD).headers["Location"] == f"{BOARD}?status=failed"
    post(client_of(vera), own, "default/", off="1")
    assert client_of(vera).get(BOARD).headers["Location"] == f"{BOARD}?status=running"
    assert post(client_of(oli), shared, "default/", whose="team", off="1").status_code == 302
    assert client_of(vera).get(BOARD).status_code == 200


def test_a_team_has_one_default_and_it_is_shared(team: Team, oli: User, client_of: ClientOf):
    first, second = (
        make_view(team, oli, "A", is_shared=True),
        make_view(team, oli, "B", "status=running", is_shared=True),
    )
    private = make_view(team, oli, "C")
    for view in (first, second):
        post(client_of(oli), view, "default/", whose="team")
    assert SavedView.objects.get(is_team_default=True) == second
    answer = post(client_of(oli), private, "default/", whose="team")
    assert answer.status_code == 422
    assert "Only a shared view can be the team&#x27;s default." in answer.content.decode()
    post(client_of(oli), second, name="B")
    assert not SavedView.objects.filter(is_team_default=True).exists()


def test_all_runs_can_be_a_personal_default_instead_of_the_teams(
    team: Team, vera: User, oli: User, client_of: ClientOf
):
    make_view(team, oli, is_shared=True, is_team_default=True)
    everything = make_view(team, vera, "Everything", "")
    post(client_of(vera), everything, "default/")
    answer = client_of(vera).get(BOARD)
    assert answer.headers["Location"] == f"{BOARD}?all=1"
    assert client_of(vera).get(answer.headers["Location"]).status_code == 200


def test_an_unshared_or_deleted_view_is_no_default(team: Team, vera: User, oli: User, client_of: ClientOf):
    view = make_view(team, oli, is_shared=True)
    for who in (vera, oli):
        post(client_of(who), view, "default/")
        assert client_of(who).get(BOARD).status_code == 302
    post(client_of(oli), view, name="Failed ones")
    assert client_of(vera).get(BOARD).status_code == 200
    assert client_of(oli).get(BOARD).status_code == 302
    post(client_of(oli), view, "delete/")
    assert client_of(oli).get(BOARD).status_code == 200
    assert last_event().details["default"] == "own"


@pytest.mark.parametrize("query", ["status=sideways", urlencode({"q": "x" * 300}), "cursor=x&status=none"])
def test_an_invalid_default_is_explained_and_all_runs_are_shown(
    team: Team, vera: User, client_of: ClientOf, query: str
):
    view = make_view(team, vera, "Old <b>", query)
    post(client_of(vera), view, "default/")
    answer = client_of(vera).get(BOARD)
    assert answer.status_code == 200
    text = answer.content.decode()
    assert "The filter of your default view “Old &lt;b&gt;” no longer works." in text
    assert "All runs are shown." in text
    assert "It no longer works." in client_of(vera).get(VIEWS).content.decode()


def test_a_member_who_returns_starts_without_a_default(team: Team, vera: User, client_of: ClientOf):
    view = make_view(team, vera)
    post(client_of(vera), view, "default/")
    Membership.objects.filter(user=vera).delete()
    assert client_of(vera).get(BOARD).status_code == 404
    Membership.objects.create(team=team, user=vera, role=TeamRole.VIEWER)
    assert (client_of(vera).get(BOARD).status_code, names(vera, team)) == (200, ["Failed ones"])
