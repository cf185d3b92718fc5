"""The help page, and the page of roles and permissions."""

from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from taskruns.access.gate import PanelRequest, signed_in
from taskruns.pages.help import help_page
from taskruns.pages.people import rights_table
from taskruns.permissions import SITE_ROLES, TEAM_ROLES


@signed_in
@require_safe
def explain(request: PanelRequest) -> HttpResponse:
    return render(request, "taskruns/help.html", {"help": help_page()})


@signed_in
@require_safe
def rights(request: PanelRequest) -> HttpResponse:
    """The table of `taskruns.permissions`, for everyone who is signed in."""
    given = [(role.label.lower(), rights) for role, rights in (TEAM_ROLES | SITE_ROLES).items() if role.value]
    return render(request, "taskruns/people/rights.html", {"table": rights_table(given)})
