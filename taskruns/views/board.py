"""The board of one team and of all of a person's teams, the fragment that polls, the chart, and the export."""

from collections.abc import Iterator, Sequence
from typing import Any

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase, HttpResponseNotModified
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_safe

from taskruns.access.gate import PanelRequest, access_to, actor_of, requires, signed_in
from taskruns.audit import EventType
from taskruns.forms import BadFilter, BoardFilter, refuse_unknown
from taskruns.forms.query import LOCAL, local_time
from taskruns.models import Team
from taskruns.pages import board as board_service
from taskruns.pages.board import export
from taskruns.pages.board.chart import chart_etag, runs_per_hour
from taskruns.pages.board.chips import board_with
from taskruns.pages.board.page import Board, BoardAges
from taskruns.pages.overview import overview
from taskruns.pages.saved_views import VisibleViews, all_teams_bar, board_url, view_bar, visible_views
from taskruns.pages.teams import TeamCard, cookie_of_dismissal, first_steps
from taskruns.pages.values import Moment
from taskruns.permissions import Action, TeamAccess
from taskruns.services import members
from taskruns.services.mirror import has_attention
from taskruns.services.runs.export import export as export_runs
from taskruns.services.saved_views import why_broken

from .downloads import download
from .errors import error_page, message_only
from .fragments import Context, fragment, pay_attention, tagged, vary_on_htmx
from .frame import stop_banner


@requires(Action.RUNS_VIEW)
@require_safe
def board(request: PanelRequest, team: Team) -> HttpResponse:
    views = visible_views(team, request.user)
    elsewhere = _redirect_to_default_view(request, views)
    if elsewhere is not None:
        return elsewhere
    response = _page(request, [TeamAccess(team, request.access)], views)
    members.remember(request.user, team)
    return response


@requires(Action.RUNS_VIEW)
@require_safe
def table(request: PanelRequest, team: Team) -> HttpResponse:
    """The fragment that polls. If nothing changed: 304, with the ages of the rows in headers."""
    return _fragment(request, [TeamAccess(team, request.access)])


@signed_in
@require_safe
def all_boards(request: PanelRequest) -> HttpResponse:
    """One board for all teams of the person. Runs can be cancelled as on each team's own board."""
    return _page(request, _accesses(request), None)


@signed_in
@require_safe
def all_tables(request: PanelRequest) -> HttpResponse:
    return _fragment(request, _accesses(request))


@requires(Action.RUNS_VIEW)
@require_safe
@fragment("board/chart")
def chart(request: PanelRequest, team: Team) -> Context | HttpResponse:
    return _chart(request, [team])


@signed_in
@require_safe
@fragment("board/chart")
def all_charts(request: PanelRequest) -> Context | HttpResponse:
    return _chart(request, [it.team for it in _accesses(request)])


def _chart(request: PanelRequest, teams: Sequence[Team]) -> Context | HttpResponse:
    """The page, or one of two fragments: the chart of the page, and the strip above the board.

    Only fragments have an ETag: a browser would confuse the page and the fragment of one URL.
    """
    try:
        wanted = BoardFilter.parse(request.GET).unsorted()
    except BadFilter as error:
        return message_only(400, str(error)) if request.htmx else _unusable(request, error)
    of_all = request.team is None
    if not request.htmx:
        return {"chart": runs_per_hour(*teams, wanted=wanted, of_all=of_all)}
    etag = chart_etag(*teams, wanted=wanted)
    if etag in request.headers.get("If-None-Match", ""):
        return tagged(HttpResponseNotModified(), etag)
    drawn = runs_per_hour(*teams, wanted=wanted, of_all=of_all)
    name = "_hours" if request.htmx.target == "board-hours" else "_chart"
    return tagged(render(request, f"taskruns/board/{name}.html", {"chart": drawn}), drawn.etag)


@requires(Action.RUNS_VIEW)
@require_safe
def export_page(request: PanelRequest, team: Team) -> HttpResponse:
    try:
        wanted = _wanted(request)
    except BadFilter as error:
        return _unusable(request, error)
    return render(request, "taskruns/board/export.html", {"page": export.export_page(team, wanted)})


@requires(Action.RUNS_VIEW, event=EventType.RUN_EXPORT, acts_on="GET")
@require_GET
def export_csv(request: PanelRequest, team: Team) -> HttpResponseBase:
    try:
        wanted = _wanted(request)
    except BadFilter as error:
        return _unusable(request, error)

    def start() -> tuple[str, Iterator[str]]:
        chosen = export_runs(team, wanted, by=actor_of(request))
        return f"runs-{team.slug}-{chosen.began:%Y%m%dT%H%M%SZ}.csv", export.csv_parts(chosen)

    return download(request, Action.RUNS_VIEW, start, content_type="text/csv; charset=utf-8")


def _accesses(request: PanelRequest) -> list[TeamAccess]:
    teams = members.own_seen_by(request.user)
    return [TeamAccess(team, access_to(request.user, team)) for team in teams]


def _page(request: PanelRequest, accesses: Sequence[TeamAccess], views: VisibleViews | None) -> HttpResponse:
    """A team's board has saved views; the board of all teams has none."""
    try:
        in_utc = _in_utc(request)
        if in_utc is not None:
            return redirect(board_with(in_utc, _urls(request.team)[0]))
        page = _board(request, accesses)
    except BadFilter as error:
        return error_page(request, 400, "Invalid filter", str(error))
    # The polls of open boards renew attention. If there was none, this page starts it.
    pay_attention(*(it.team for it in accesses if not has_attention(it.team)))
    wanted = BoardFilter.parse(request.GET)
    bar = view_bar(views, request.access, wanted.query()) if views else all_teams_bar(accesses, wanted.query())
    teams = [it.team for it in accesses]
    chart = runs_per_hour(*teams, wanted=wanted, of_all=request.team is None) if teams else None
    context = {"board": page, "bar": bar, "chart": chart} | _beside(request)
    return vary_on_htmx(render(request, "taskruns/board/board.html", context))


def _beside(request: PanelRequest) -> dict[str, Any]:
    """On a team's board: the emergency stop, for people who may pull it, and the first steps of a new team.

    On the board of all teams: the teams to choose from, which for auditors and site admins are all teams.
    """
    if request.team is not None:
        may_stop = request.access.may(Action.STOP_PULL)
        first = (
            None if cookie_of_dismissal(request.team) in request.COOKIES else first_steps(request.team, request.access)
        )
        return {"may_stop": may_stop, "first": first}
    teams = members.teams_of(request.user)
    cards = tuple(
        TeamCard(it.team.name, it.team.slug, reverse("board", args=[it.team.slug]), it.role, it.active_runs)
        for it in teams
    )
    sees_all = request.access.may(Action.SITE_LOG)
    of_all = {"overview": overview(teams)} if sees_all and teams else {}
    return {"cards": cards, "may_create": request.access.may(Action.TEAMS_MANAGE)} | of_all


def _fragment(request: PanelRequest, accesses: Sequence[TeamAccess]) -> HttpResponse:
    try:
        wanted = BoardFilter.parse(request.GET)
        pay_attention(*(it.team for it in accesses))
        ages = board_service.read_ages(accesses)
        tag = board_service.etag(accesses, wanted, ages, zone=_zone())
        if etag := board_service.known_etag(request.headers.get("If-None-Match", ""), tag):
            as_of = Moment.of(board_service.as_of(accesses))
            return _dated(tagged(HttpResponseNotModified(), etag), as_of, ages)
        page = _board(request, accesses)
    except BadFilter as error:
        return message_only(400, str(error))
    context = {"board": page} | _banner(request)
    response = tagged(render(request, "taskruns/board/_table.html", context), page.etag)
    return _dated(response, page.as_of, page.ages)


def _banner(request: PanelRequest) -> dict[str, Any]:
    """An open board shows at its next poll that a stop was pulled or lifted."""
    if request.team is None:
        return {}
    return {"is_polled": True, "stop": stop_banner(request.team, request.user, request.access)}


def _board(request: PanelRequest, accesses: Sequence[TeamAccess]) -> Board:
    url, table_url = _urls(request.team)
    wanted = BoardFilter.parse(request.GET)
    return board_service.board(
        accesses, wanted, of_all=request.team is None, url=url, table_url=table_url, zone=_zone()
    )


def _urls(team: Team | None) -> tuple[str, str]:
    if team is None:
        return reverse("teams"), reverse("teams-table")
    return reverse("board", args=[team.slug]), reverse("board-table", args=[team.slug])


def _zone() -> str:
    return timezone.get_current_timezone_name()


def _dated(response: HttpResponse, as_of: Moment | None, ages: BoardAges) -> HttpResponse:
    """An unchanged table still gets newer: a 304 says how old it is now."""
    named = {"X-As-Of": as_of, "X-Statuses-At": ages.statuses, "X-Searched-At": ages.searched}
    for name, moment in named.items():
        if moment is not None:
            response[name] = moment.iso
    return response


def _in_utc(request: PanelRequest) -> BoardFilter | None:
    """The filter of a form, whose times are in the person's zone; None if the address is not a form's."""
    local = [name for name in request.GET if name.endswith(LOCAL)]
    if not local:
        return None
    query = request.GET.copy()
    for name in local:
        query[name.removesuffix(LOCAL)] = local_time(query, name)
    return BoardFilter.parse(query)


def _wanted(request: PanelRequest) -> BoardFilter:
    """The board's filter, without the cursor of its page."""
    query = request.GET.copy()
    query.pop("cursor", None)
    refuse_unknown(query, besides=["all"])
    return BoardFilter.parse(query)


def _unusable(request: PanelRequest, error: BadFilter) -> HttpResponse:
    return error_page(request, 400, "Invalid filter", str(error))


def _redirect_to_default_view(request: PanelRequest, visible: VisibleViews) -> HttpResponse | None:
    """A board without a query redirects to the default view, which always has a query. None: show all runs here."""
    view = visible.opens_with
    if view is None or request.META.get("QUERY_STRING"):
        return None
    broken = why_broken(view)
    if not broken:
        return redirect(board_url(visible.team.slug, view.query))
    text = f"The filter of your default view “{view.name}” no longer works. {broken} All runs are shown."
    messages.warning(request, text)
    return None
