"""The pages about all people: site admins manage them, auditors read them."""

import uuid

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from taskruns.access.gate import PanelRequest, actor_of, requires
from taskruns.audit import EventType
from taskruns.forms.fields import ConfirmForm, confirmed
from taskruns.forms.people import PeopleFilterForm, PersonForm, SiteRoleForm
from taskruns.models import SiteRole, User
from taskruns.pages import people
from taskruns.permissions import Action
from taskruns.services.people import accounts, sessions
from taskruns.views.errors import error_page
from taskruns.views.user_errors import shown_as_message, shown_on_form

INVALID_SEARCH = "This search cannot be used. Enter a part of a name or email, at most 254 characters."


@requires(Action.PEOPLE_VIEW)
@require_safe
def listing(request: PanelRequest) -> HttpResponse:
    form = PeopleFilterForm(request.GET)
    if not form.is_valid():
        return error_page(request, 400, "Invalid search", INVALID_SEARCH)
    text, after = form.cleaned_data["q"], form.cleaned_data["after"]
    found = people.search(text, after=after)
    further = urlencode({"q": text, "after": found.next_after}) if found.next_after else ""
    context = {"rows": people.person_rows(found), "q": text, "further": further, "is_first": not after}
    return render(request, "taskruns/people/list.html", context)


@requires(Action.PEOPLE_VIEW)
@require_safe
def person(request: PanelRequest, person_id: uuid.UUID) -> HttpResponse:
    return _page(request, _person(person_id))


@requires(Action.PEOPLE_MANAGE, event=EventType.PERSON_CHANGE, recent_auth=True, keeps=("name", "email"))
@require_POST
def change(request: PanelRequest, person_id: uuid.UUID) -> HttpResponse:
    """The name and the address."""
    found = _person(person_id)
    form = PersonForm(request.POST)
    if form.is_valid():
        with shown_on_form(form):
            if accounts.change_person(found, **form.cleaned_data, by=actor_of(request)):
                messages.success(request, f"Name and email saved: {found.name or 'no name'}, {found.email}.")
            return redirect("person", person_id=found.pk)
    return _page(request, _person(person_id), form=form, status=422)


@requires(Action.PEOPLE_MANAGE, event=EventType.PERSON_GRANT, recent_auth=True, keeps=("role",))
@require_POST
def change_role(request: PanelRequest, person_id: uuid.UUID) -> HttpResponse:
    found = _person(person_id)
    form = SiteRoleForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose one of the roles.")
        return _page(request, found, status=422)
    role: SiteRole = form.cleaned_data["role"]
    with shown_as_message(request):
        if accounts.grant_site_role(found, role=role, by=actor_of(request)):
            messages.success(request, f"Site role of {found.email} changed to {role.label}.")
        return redirect("person", person_id=found.pk)
    return _page(request, found, status=422)


@requires(Action.PEOPLE_MANAGE, event=EventType.PERSON_DISABLE, recent_auth=True, keeps=ConfirmForm.KEPT)
@require_http_methods(["GET", "HEAD", "POST"])
def disable(request: PanelRequest, person_id: uuid.UUID) -> HttpResponse:
    """Disable the account if the form says `confirmed=1` and names it, otherwise only ask whether to."""
    found = _person(person_id)
    form = ConfirmForm(confirmed(request), expected=found.email, what="email of the account")
    if form.is_valid():
        with shown_on_form(form):
            if accounts.disable_person(found, reason=form.cleaned_data["reason"], by=actor_of(request)):
                messages.success(request, f"Account {found.email} disabled and signed out everywhere.")
            return redirect("person", person_id=found.pk)
    context = {"form": form, "row": people.person_row(found), "consequences": people.consequences_of_disabling(found)}
    return render(request, "taskruns/people/disable.html", context, status=422 if form.is_bound else 200)


@requires(Action.PEOPLE_MANAGE, event=EventType.PERSON_ENABLE, recent_auth=True)
@require_POST
def enable(request: PanelRequest, person_id: uuid.UUID) -> HttpResponse:
    found = _person(person_id)
    if accounts.enable_person(found, by=actor_of(request)):
        messages.success(request, f"Account {found.email} enabled.")
    return redirect("person", person_id=found.pk)


@requires(Action.PEOPLE_MANAGE, event=EventType.AUTH_SESSION_END, recent_auth=True)
@require_POST
def end_sessions(request: PanelRequest, person_id: uuid.UUID) -> HttpResponse:
    found = _person(person_id)
    ended = sessions.end_all(found, by=actor_of(request))
    messages.success(request, f"{ended} session{'' if ended == 1 else 's'} of {found.email} ended.")
    return redirect("person", person_id=found.pk)


def _person(person_id: uuid.UUID) -> User:
    found = User.objects.filter(pk=person_id).first()
    if found is None:
        raise Http404
    return found


def _page(request: PanelRequest, found: User, *, form: PersonForm | None = None, status: int = 200) -> HttpResponse:
    page = people.person_page(found, reader=request.user, access=request.access)
    form = form or PersonForm(initial={"name": found.name, "email": found.email})
    return render(request, "taskruns/people/person.html", {"page": page, "form": form}, status=status)
