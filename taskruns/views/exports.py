"""Taking the runs of a board away: the page that says how many they are, and the file."""

from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_safe

from taskruns.access.gate import PanelRequest, actor_of, requires
from taskruns.audit import EventType
from taskruns.forms import BadFilter, BoardFilter
from taskruns.models import Team
from taskruns.pages.board import export as export_pages
from taskruns.permissions import Action
from taskruns.services.runs import export

from .errors import error_page


@requires(Action.RUNS_VIEW)
@require_safe
def page(request: PanelRequest, team: Team) -> HttpResponse:
    try:
        wanted = _wanted(request)
    except BadFilter as error:
        return _unusable(request, error)
    return render(request, "taskruns/board/export.html", {"page": export_pages.export_page(team, wanted)})


@requires(Action.RUNS_VIEW, event=EventType.RUN_EXPORT, acts_on="GET")
@require_GET
def csv(request: PanelRequest, team: Team) -> HttpResponseBase:
    try:
        wanted = _wanted(request)
    except BadFilter as error:
        return _unusable(request, error)
    chosen = export.export(team, wanted, by=actor_of(request))
    response = StreamingHttpResponse(export_pages.csv_parts(chosen), content_type="text/csv; charset=utf-8")
    name = f"runs-{team.slug}-{chosen.began:%Y%m%dT%H%M%SZ}.csv"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _wanted(request: PanelRequest) -> BoardFilter:
    """The board's filter, whatever page of it was looked at."""
    query = request.GET.copy()
    query.pop("cursor", None)
    return BoardFilter.parse(query)


def _unusable(request: PanelRequest, error: BadFilter) -> HttpResponse:
    return error_page(request, 400, "That filter cannot be used", str(error))
