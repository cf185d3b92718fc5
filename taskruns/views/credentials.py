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
from taskruns.access import unfinished
from taskruns.access.gate import PanelRequest, actor_of, owned, requires
from taskruns.audit import Actor, EventType
from taskruns.forms.credentials import CredentialForm, ReplaceForm
from taskruns.forms.fields import posted, show_error
from taskruns.models import Credential, Team
from taskruns.pages.credentials import credential_row, credential_rows, first_contacts, not_saved, result_message
from taskruns.permissions import Action
from taskruns.services import credentials
from taskruns.services.credentials import TestResult
from taskruns.services.credentials.key_tests import Seen
from taskruns.services.remote_acts import ArizeIsSlow, OutcomeNotWritten

from .user_errors import shown_on_form

log = structlog.get_logger(__name__)
NEW_KEPT = ("name", "endpoint", "expires_on")  # never the key


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
@requires(Action.CREDENTIALS_MANAGE, event=EventType.CREDENTIAL_ADD, recent_auth=True, keeps=NEW_KEPT)
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: PanelRequest, team: Team) -> HttpResponse:
    """Test, then save. `anyway` saves first: a key that Arize rejects is then kept and shown as failing."""
    form = CredentialForm(posted(request), initial=_region_of(team) | unfinished.typed(request))
    by, is_tested = actor_of(request), False
    if form.is_valid():
        wanted = form.cleaned_data
        with shown_on_form(form):
            candidate = credentials.draft(team, **wanted)
            if "anyway" in request.POST:
                return _saved(request, team, credentials.add(team, **wanted, by=by))
            is_tested = True
            seen = _seen(form, candidate, by)
            if seen is not None:
                known = wanted | {"expires_on": seen.ends or wanted["expires_on"]}
                credential = credentials.add(team, **known, by=by, is_tested=True)
                return _works(request, team, credential, seen)
    context = {"form": form, "team": team.name, "slug": team.slug, "may_save_anyway": is_tested}
    return _form_page(request, "new", context)


@sensitive_post_parameters("key")
@requires(Action.CREDENTIALS_MANAGE, event=EventType.CREDENTIAL_REPLACE, recent_auth=True, keeps=("expires_on",))
@require_http_methods(["GET", "HEAD", "POST"])
def replace(request: PanelRequest, team: Team, credential_id: uuid.UUID) -> HttpResponse:
    """Test, then replace: a key that does not work leaves the old one in use. `anyway` replaces first."""
    credential = _key(request, credential_id)
    form = ReplaceForm(posted(request), initial={"expires_on": credential.expires_on} | unfinished.typed(request))
    by, is_tested = actor_of(request), False
    if form.is_valid():
        wanted = form.cleaned_data
        with shown_on_form(form):
            candidate = credentials.replacement(credential, **wanted)
            if "anyway" in request.POST:
                credentials.replace(credential, **wanted, by=by)
                return _saved(request, team, credential)
            is_tested = True
            seen = _seen(form, candidate, by)
            if seen is not None:
                known = wanted | {"expires_on": seen.ends or wanted["expires_on"]}
                if not credentials.replace(credential, **known, by=by, is_tested=True):
                    messages.info(request, f"{credential.name} already has this key. Nothing was replaced.")
                return _works(request, team, credential, seen)
    row = credential_row(credential, slug=team.slug, now=timezone.now())
    context = {"form": form, "row": row, "team": team.name, "slug": team.slug, "may_save_anyway": is_tested}
    return _form_page(request, "replace", context)


def _region_of(team: Team) -> dict[str, str]:
    """A team's keys are mostly of one region: that of the newest is the default."""
    newest = Credential.objects.live().filter(team=team).order_by("-created_at").first()
    return {"endpoint": newest.endpoint} if newest else {}


def _seen(form: CredentialForm | ReplaceForm, candidate: Credential, by: Actor) -> Seen | None:
    """What Arize shows the key. None if it does not work: the form then says why. Raises UserError."""
    result = credentials.try_out(candidate, by=by)
    if result.seen is None:
        show_error(form, not_saved(result, candidate.endpoint), field="key")
    return result.seen


def _works(request: PanelRequest, team: Team, credential: Credential, seen: Seen) -> HttpResponse:
    message = result_message(credential, TestResult(seen))
    messages.add_message(request, DEFAULT_LEVELS[message.tone.upper()], message.text)
    jobs.wake(credential.pk)
    return redirect("credentials", slug=team.slug)


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
    except ArizeIsSlow as busy:
        text = f"{credential.name} was saved, but not tested. {busy.sentence}"
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
