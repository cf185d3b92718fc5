"""The pages of a team's tokens. Only the answer that makes one contains its secret, once."""

import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_http_methods, require_safe

from taskruns.access import unfinished
from taskruns.access.gate import PanelRequest, actor_of, owned, requires
from taskruns.audit import EventType
from taskruns.forms.fields import posted
from taskruns.forms.tokens import ReplaceTokenForm, TokenForm
from taskruns.models import Credential, Team, Token
from taskruns.pages.tokens import TokenRow, key_choices, live_keys, token_row, tokens_page
from taskruns.permissions import Action
from taskruns.services.tokens import actions
from taskruns.services.tokens.access import with_lapse
from taskruns.services.tokens.actions import Made, Wanted
from taskruns.templatetags.parts import plain

from .user_errors import shown_on_form


@requires(Action.TOKENS_MANAGE)
@require_safe
def listing(request: PanelRequest, team: Team) -> HttpResponse:
    return render(request, "taskruns/tokens/list.html", _context(team) | {"page": tokens_page(team)})


@requires(Action.TOKENS_MANAGE, event=EventType.TOKEN_CREATE, recent_auth=True, keeps=TokenForm.KEPT)
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: PanelRequest, team: Team) -> HttpResponse:
    """The secret is shown in the answer, once."""
    form = TokenForm(posted(request), initial=unfinished.typed(request), keys=_keys(team))
    if form.is_valid():
        with shown_on_form(form):
            data = form.cleaned_data
            wanted = Wanted(data["name"], data["role"], data["days"], _key(team, data["credential"]), data["networks"])
            return _secret_page(request, team, actions.make(team, wanted, by=actor_of(request)))
    return _form_page(request, "new", _context(team) | {"form": form})


@requires(Action.TOKENS_MANAGE, event=EventType.TOKEN_CREATE, recent_auth=True, keeps=ReplaceTokenForm.KEPT)
@require_http_methods(["GET", "HEAD", "POST"])
def replace(request: PanelRequest, team: Team, token_id: uuid.UUID) -> HttpResponse:
    """The new secret is shown in the answer, once."""
    found = _token(request, token_id)
    if found.replaced_at is not None:
        raise Http404
    initial = {"credential": str(found.credential_id or "")} | unfinished.typed(request)
    form = ReplaceTokenForm(posted(request), initial=initial, keys=_keys(team))
    row = token_row(found, live_keys(team), timezone.now())
    if form.is_valid():
        with shown_on_form(form):
            data = form.cleaned_data
            made = actions.replace(
                found,
                days=data["days"],
                overlap=timedelta(hours=data["hours"]),
                credential=_key(team, data["credential"]),
                by=actor_of(request),
            )
            return _secret_page(request, team, made, old=found)
    return _form_page(request, "replace", _context(team) | {"form": form, "row": row})


@requires(Action.TOKENS_MANAGE, event=EventType.TOKEN_REVOKE)
@require_http_methods(["GET", "HEAD", "POST"])
def revoke(request: PanelRequest, team: Team, token_id: uuid.UUID) -> HttpResponse:
    """GET asks for confirmation; POST revokes. Without a recent sign-in: a leaked token cannot wait."""
    found = _token(request, token_id)
    if request.method == "POST":
        actions.revoke(found, by=actor_of(request))
        messages.success(request, f"Token “{found.name}” (ends in …{found.hint}) revoked. It no longer works.")
        return redirect("tokens", slug=team.slug)
    row = token_row(found, live_keys(team), timezone.now())
    return render(request, "taskruns/tokens/revoke.html", _context(team) | {"row": row})


@sensitive_variables("made")
def _secret_page(request: PanelRequest, team: Team, made: Made, *, old: Token | None = None) -> HttpResponse:
    keys = live_keys(team)
    shown: dict[str, Any] = {"row": _row(made.token, keys), "secret": made.secret, "site": settings.SITE_URL}
    if old is not None:
        shown["old"] = _row(old, keys)
    return render(request, "taskruns/tokens/secret.html", _context(team) | shown)


def _row(token: Token, keys: list[Credential]) -> TokenRow:
    known = with_lapse().select_related("team", "credential").get(pk=token.pk)
    return token_row(known, keys, timezone.now())


def _token(request: PanelRequest, token_id: uuid.UUID) -> Token:
    """One that has not ended. An ended one gives a 404 too, but is not recorded as an attempt on another team."""
    found = owned(request, with_lapse().select_related("team", "credential"), token_id)
    if found.has_ended(timezone.now()):
        raise Http404
    return found


def _key(team: Team, pk: str) -> Credential | None:
    """One of the form's choices. The service checks that it is not revoked."""
    return Credential.objects.filter(team=team, pk=pk).first() if pk else None


def _keys(team: Team) -> list[tuple[str, str]]:
    return [(pk, plain(name)) for pk, name in key_choices(live_keys(team))]


def _context(team: Team) -> dict[str, Any]:
    return {"team": team.name, "slug": team.slug}


def _form_page(request: PanelRequest, page: str, context: dict[str, Any]) -> HttpResponse:
    status = 422 if request.method == "POST" else 200
    return render(request, f"taskruns/tokens/{page}.html", context, status=status)
