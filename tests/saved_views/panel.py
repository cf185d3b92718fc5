"""Saved views as a person creates, changes and sees them."""

from typing import Any

from django.test import Client

from taskruns.models import SavedView, Team, User
from taskruns.pages.saved_views import ViewBar, view_bar, visible_views
from taskruns.permissions import access_of

VIEWS, BOARD = "/teams/ops-north/views/", "/teams/ops-north/runs/"


def make_view(
    team: Team, owner: User, name: str = "Failed ones", query: str = "status=failed", **fields: Any
) -> SavedView:
    return SavedView.objects.create(team=team, owner=owner, name=name, query=query, **fields)


def post(client: Client, view: SavedView, what: str = "", **fields: str) -> Any:
    return client.post(f"{VIEWS}{view.pk}/{what}", fields)


def bar(person: User, team: Team, query: str = "") -> ViewBar:
    return view_bar(visible_views(team, person), access_of(person, team), query)
