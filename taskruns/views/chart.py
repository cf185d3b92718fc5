"""The chart of a team's runs per hour: a fragment for the board, a page for who opens it alone."""

from django.http import HttpResponse, HttpResponseNotModified
from django.shortcuts import render
from django.views.decorators.http import require_safe

from taskruns.access.gate import PanelRequest, requires
from taskruns.models import Team
from taskruns.pages.board import chart as chart_service
from taskruns.permissions import Action

from .fragments import fresh, tagged


@requires(Action.RUNS_VIEW)
@require_safe
def chart(request: PanelRequest, team: Team) -> HttpResponse:
    """Only the fragment has an ETag: a browser would mix the page and the fragment of one url up."""
    if not request.htmx:
        return fresh(render(request, "taskruns/board/chart.html", {"chart": chart_service.runs_per_hour(team)}))
    etag = chart_service.chart_etag(team)
    if etag in request.headers.get("If-None-Match", ""):
        return tagged(HttpResponseNotModified(), etag)
    drawn = chart_service.runs_per_hour(team)
    return tagged(render(request, "taskruns/board/_chart.html", {"chart": drawn}), drawn.etag)
