"""The pages of a team's API keys. No response, message or form ever contains a key."""

import uuid

import structlog
from django.contrib import messages
from django.contrib.messages.constants import DEFAULT_LEVELS
from django.db import DatabaseError
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from taskruns import jobs
from taskruns.access.gate import PanelRequest, actor_of, owned, requires
from taskruns.audit import EventType
from taskruns.forms.credentials import CredentialForm, ReplaceForm
from taskruns.forms.fields import posted
from taskruns.models import Credential, Team
from taskruns.pages.credentials import credential_row, credential_rows, first_contacts, result_message
from taskruns.permissions import Action
from taskruns.services import credentials
from taskruns.services.remote_acts import OutcomeNotWritten

from .user_errors import shown_on_form

log = structlog.get_logger(__name__)


@requires(Action.CREDENTIALS_VIEW)
@require_safe
def listing(request: PanelRequest, team: Team) -> HttpResponse:
    keys = list(Credential.objects.live().filter(team=team).order_by("name", "pk"))
    context = {
        "first_contacts": first_contacts(keys),
        "rows": credential_rows(keys, slug=team.slug, now=timezone.now()),
        "may_manage": request.access.may(Action.CREDENTIALS_MANAGE),
        "team": team.name,
        "slug": team.slug,
    }
    return render(request, "taskruns/credentials/list.html", context)


# Outside the gate, so that not even an error of the gate itself prints the posted key.
@sensitive_post_parameters("key")
@requires(Action.CREDENTIALS_MANAGE, event=EventType.CREDENTIAL_ADD, recent_auth=True)
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: PanelRequest, team: Team) -> HttpResponse:
    """Save, then test. A key that Arize rejects is kept and shown as failing."""
    form = CredentialForm(posted(request))
    if form.is_valid():
        with shown_on_form(form):
            credential = credentials.add(team, **form.cleaned_data, by=actor_of(request))
            return _saved(request, team, credential)
    return _form_page(request, "new", {"form": form, "team": team.name, "slug": team.slug})


@sensitive_post_parameters("key")
@requires(Action.CREDENTIALS_MANAGE, event=EventType.CREDENTIAL_REPLACE, recent_auth=True)
@require_http_methods(["GET", "HEAD", "POST"])
def replace(request: PanelRequest, team: Team, credential_id: uuid.UUID) -> HttpResponse:
    credential = _key(request, credential_id)
    form = ReplaceForm(posted(request), initial={"expires_on": credential.expires_on})
    if form.is_valid():
        with shown_on_form(form):
            credentials.replace(credential, **form.cleaned_data, by=actor_of(request))
            return _saved(request, team, credential)
    row = credential_row(credential, slug=team.slug, now=timezone.now())
    return _form_page(request, "replace", {"form": form, "row": row, "team": team.name, "slug": team.slug})


@requires(Action.CREDENTIALS_MANAGE, event=EventType.CREDENTIAL_TEST, recent_auth=True)
@require_POST
def test(request: PanelRequest, team: Team, credential_id: uuid.UUID) -> HttpResponse:
    return _tested(request, team, _key(request, credential_id))


@requires(Action.CREDENTIALS_MANAGE, event=EventType.CREDENTIAL_REVOKE, recent_auth=True)
@require_http_methods(["GET", "HEAD", "POST"])
def revoke(request: PanelRequest, team: Team, credential_id: uuid.UUID) -> HttpResponse:
    """GET asks for confirmation; POST revokes."""
    credential = _key(request, credential_id)
    if request.method == "POST":
        credentials.revoke(credential, by=actor_of(request))
        text = f"API key {credential.name} revoked and its secret destroyed here. Revoke it in Arize too."
        messages.success(request, text)
        return redirect("credentials", slug=team.slug)
    row = credential_row(credential, slug=team.slug, now=timezone.now())
    return render(request, "taskruns/credentials/revoke.html", {"row": row, "team": team.name, "slug": team.slug})


def _key(request: PanelRequest, credential_id: uuid.UUID) -> Credential:
    """A live key of the team. A revoked one gives a 404 too, but is not recorded as an attempt on another team."""
    credential = owned(request, Credential.objects.select_related("team"), credential_id)
    if credential.revoked_at is not None:
        raise Http404
    return credential


def _saved(request: PanelRequest, team: Team, credential: Credential) -> HttpResponse:
    """The key and its audit row are stored. The test is a separate action, whose audit row may fail."""
    try:
        return _tested(request, team, credential)
    except (DatabaseError, OutcomeNotWritten):
        log.exception("key_saved_but_not_tested", credential=str(credential.pk))
    text = f"{credential.name} was saved, but its test could not be recorded. Click Test to see whether it works."
    messages.warning(request, text)
    jobs.wake(credential.pk)
    return redirect("credentials", slug=team.slug)


def _tested(request: PanelRequest, team: Team, credential: Credential) -> HttpResponse:
    """Test the key, show the result, and let the worker read with it."""
    message = result_message(credential, credentials.test(credential, by=actor_of(request)))
    messages.add_message(request, DEFAULT_LEVELS[message.tone.upper()], message.text)
    jobs.wake(credential.pk)
    return redirect("credentials", slug=team.slug)


def _form_page(request: PanelRequest, page: str, context: dict[str, object]) -> HttpResponse:
    status = 422 if request.method == "POST" else 200
    return render(request, f"taskruns/credentials/{page}.html", context, status=status)
