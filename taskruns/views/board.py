"""The board of one team, the board of all of a person's teams, and the fragment of both that polls."""

from collections.abc import Sequence
from typing import Any

from django.http import HttpResponse, HttpResponseNotModified
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_safe

from taskruns.access.gate import PanelRequest, access_to, requires, signed_in
from taskruns.forms import BadFilter, BoardFilter
from taskruns.models import Team
from taskruns.pages import board as board_service
from taskruns.pages.board import Seat
from taskruns.pages.board.parts import Board
from taskruns.pages.first_steps import first_steps
from taskruns.pages.saved_views import Shelf, shelf, view_bar
from taskruns.pages.teams import TeamCard
from taskruns.pages.values import Moment
from taskruns.permissions import Action
from taskruns.services import members
from taskruns.services.mirror import has_attention

from .errors import error_page, message_only
from .fragments import fresh, tagged, watch
from .frame import stop_banner
from .saved_views import opening


@requires(Action.RUNS_VIEW)
@require_safe
def board(request: PanelRequest, team: Team) -> HttpResponse:
    views = shelf(team, request.user)
    elsewhere = opening(request, views)
    if elsewhere is not None:
        return elsewhere
    response = _page(request, [Seat(team, request.access)], views)
    members.remember(request.user, team)
    return response


@requires(Action.RUNS_VIEW)
@require_safe
def table(request: PanelRequest, team: Team) -> HttpResponse:
    """The fragment that polls. Nothing new: 304, with the time of the last reading in a header."""
    return _fragment(request, [Seat(team, request.access)])


@signed_in
@require_safe
def all_boards(request: PanelRequest) -> HttpResponse:
    """One board over all teams of the person; acts are those of each team's own board."""
    return _page(request, _seats(request), None)


@signed_in
@require_safe
def all_tables(request: PanelRequest) -> HttpResponse:
    return _fragment(request, _seats(request))


def _seats(request: PanelRequest) -> list[Seat]:
    teams = members.seen_by(request.user).filter(archived_at=None, memberships__user=request.user).order_by("name")
    return [Seat(team, access_to(request.user, team)) for team in teams]


def _page(request: PanelRequest, seats: Sequence[Seat], views: Shelf | None) -> HttpResponse:
    """A team's board has views; the board of all teams has none."""
    try:
        page = _board(request, seats)
    except BadFilter as error:
        return error_page(request, 400, "That filter cannot be used", str(error))
    # Open boards mark attention by their polls; a page does where nobody polls.
    watch(*(seat.team for seat in seats if not has_attention(seat.team)))
    bar = view_bar(views, request.access, BoardFilter.parse(request.GET).query()) if views else None
    context = {"board": page, "bar": bar} | _beside(request)
    return fresh(render(request, "taskruns/board/board.html", context))


def _beside(request: PanelRequest) -> dict[str, Any]:
    """On a team's board the emergency stop, for those who may pull it, and the first steps of a new team.

    On the board of all teams the teams to choose from; auditors and site admins may look into every one.
    """
    if request.team is not None:
        may_stop = request.access.may(Action.STOP_PULL)
        return {"may_stop": may_stop, "first": first_steps(request.team, request.access)}
    cards = tuple(
        TeamCard(it.team.name, it.team.slug, reverse("board", args=[it.team.slug]), it.role, it.active_runs)
        for it in members.teams_of(request.user)
    )
    return {"cards": cards, "may_create": request.access.may(Action.TEAMS_MANAGE)}


def _fragment(request: PanelRequest, seats: Sequence[Seat]) -> HttpResponse:
    try:
        wanted = BoardFilter.parse(request.GET)
        watch(*(seat.team for seat in seats))
        etag = board_service.etag(seats, wanted, zone=_zone())
        if etag in request.headers.get("If-None-Match", ""):
            return _as_of(tagged(HttpResponseNotModified(), etag), Moment.of(board_service.as_of(seats)))
        page = _board(request, seats)
    except BadFilter as error:
        return message_only(400, str(error))
    context = {"board": page} | _banner(request)
    response = tagged(render(request, "taskruns/board/_table.html", context), page.etag)
    return _as_of(response, page.as_of)


def _banner(request: PanelRequest) -> dict[str, Any]:
    """A stop that is pulled or lifted while the board is open stands above it at once."""
    if request.team is None:
        return {}
    return {"is_polled": True, "stop": stop_banner(request.team, request.user, request.access)}


def _board(request: PanelRequest, seats: Sequence[Seat]) -> Board:
    url, table_url = _urls(request.team)
    wanted = BoardFilter.parse(request.GET)
    return board_service.board(seats, wanted, of_all=request.team is None, url=url, table_url=table_url, zone=_zone())


def _urls(team: Team | None) -> tuple[str, str]:
    if team is None:
        return reverse("teams"), reverse("teams-table")
    return reverse("board", args=[team.slug]), reverse("board-table", args=[team.slug])


def _zone() -> str:
    return timezone.get_current_timezone_name()


def _as_of(response: HttpResponse, moment: Moment | None) -> HttpResponse:
    if moment is not None:
        response["X-As-Of"] = moment.iso
    return response
