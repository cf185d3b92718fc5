"""The page of a team's saved views, and the default views."""

import uuid
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.contrib import messages
from django.http import HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from taskruns.access.gate import PanelRequest, View, actor_of, members_change, owned, refused, requires
from taskruns.audit import EventType
from taskruns.forms.fields import posted, show_error
from taskruns.forms.saved_views import DefaultViewForm, NewViewForm, SavedViewForm
from taskruns.models import SavedView, Team, User
from taskruns.pages.saved_views import board_url, choices_of, views_page, visible
from taskruns.permissions import Access, Action
from taskruns.services import saved_views
from taskruns.services.saved_views import NameTaken
from taskruns.services.user_errors import UserError

from .user_errors import shown_as_message, shown_on_form

Right = Callable[[SavedView, User, Access], bool]


def _one(right: Right, event: EventType) -> Callable[[View], View]:
    """Pass the saved view of the id, if the person has this right to it. Checked before the HTTP method."""

    def decorate(view: View) -> View:
        @wraps(view)
        def gate(request: PanelRequest, team: Team, view_id: uuid.UUID) -> HttpResponseBase:
            found = owned(request, visible(team, request.user), view_id)
            if not right(found, request.user, request.access):
                raise refused(request, event)
            return view(request, team, found)

        return gate

    return decorate


@requires(Action.RUNS_VIEW, event=EventType.VIEW_SAVE)
@members_change(EventType.VIEW_SAVE)
@require_http_methods(["GET", "HEAD", "POST"])
def listing(request: PanelRequest, team: Team) -> HttpResponse:
    """GET lists; POST saves the filter of a board."""
    if request.method != "POST":
        return _page(request, team, {})
    form, refusal = NewViewForm(posted(request)), None
    if form.is_valid():
        _may_share(request, form)
        with shown_on_form(form) as shown:
            view = saved_views.save_view(team, **form.cleaned_data, by=actor_of(request))
            messages.success(request, f"View “{view.name}” saved.")
            return redirect(board_url(team.slug, view.query))
        refusal = shown.error
    return _unsaved(request, team, form, refusal)


@requires(Action.RUNS_VIEW, event=EventType.VIEW_SAVE)
@_one(saved_views.may_change, EventType.VIEW_SAVE)
@require_POST
def change(request: PanelRequest, team: Team, view: SavedView) -> HttpResponse:
    form = SavedViewForm(posted(request))
    if form.is_valid():
        _may_share(request, form)
        with shown_on_form(form):
            if saved_views.change_view(view, **form.cleaned_data, by=actor_of(request)):
                messages.success(request, f"View “{form.cleaned_data['name']}” changed.")
            return redirect("saved-views", slug=team.slug)
    return _page(request, team, {"form": form, "changing": view.name, "changing_id": view.pk}, status=422)


@requires(Action.RUNS_VIEW, event=EventType.VIEW_DELETE)
@_one(saved_views.may_delete, EventType.VIEW_DELETE)
@require_POST
def delete(request: PanelRequest, team: Team, view: SavedView) -> HttpResponse:
    with shown_as_message(request):
        saved_views.delete_view(view, by=actor_of(request))
        messages.success(request, f"View “{view.name}” deleted.")
        return redirect("saved-views", slug=team.slug)
    return _page(request, team, {}, status=422)


@requires(Action.RUNS_VIEW, event=EventType.VIEW_SAVE)
@_one(lambda _view, _person, access: saved_views.may_save(access), EventType.VIEW_SAVE)
@require_POST
def default(request: PanelRequest, team: Team, view: SavedView) -> HttpResponse:
    """Set the default view: one's own, or (`whose` = team) that of everyone without a default of their own."""
    form = DefaultViewForm(posted(request))
    if not form.is_valid():
        messages.error(request, "Choose whether this is your own default or the team's.")
        return _page(request, team, {}, status=422)
    for_team, on = form.cleaned_data["whose"] == "team", not form.cleaned_data["off"]
    if for_team and not saved_views.may_share(request.access):
        raise refused(request, EventType.VIEW_SAVE, action=Action.VIEWS_SHARE)
    set_default = saved_views.set_team_default if for_team else saved_views.set_own_default
    with shown_as_message(request):
        if set_default(view, on=on, by=actor_of(request)):
            whose = "The team's" if for_team else "Your"
            messages.success(request, f"{whose} board {'opens' if on else 'no longer opens'} with “{view.name}”.")
        return redirect("saved-views", slug=team.slug)
    return _page(request, team, {}, status=422)


def _may_share(request: PanelRequest, form: SavedViewForm) -> None:
    if form.cleaned_data["shared"] and not saved_views.may_share(request.access):
        raise refused(request, EventType.VIEW_SAVE, action=Action.VIEWS_SHARE)


def _unsaved(request: PanelRequest, team: Team, form: NewViewForm, refusal: UserError | None) -> HttpResponse:
    """The form again, with the input. One's own view of the same name may be replaced."""
    context: dict[str, Any] = {"form": form, "choices": choices_of(str(form["query"].value() or "").removeprefix("?"))}
    if "query" in form.errors:
        show_error(form, "This filter is damaged or too long to be saved.")
    del form.fields["replace"]  # a button of its own asks for it
    if isinstance(refusal, NameTaken):
        context["taken"] = refusal.known.name
    return _page(request, team, context, status=422)


def _page(request: PanelRequest, team: Team, context: dict[str, Any], *, status: int = 200) -> HttpResponse:
    page = views_page(team, request.user, request.access)
    form = context.get("form")
    if form is not None and not page.may_share:
        del form.fields["shared"]
    return render(request, "taskruns/saved_views/list.html", {"page": page} | context, status=status)
