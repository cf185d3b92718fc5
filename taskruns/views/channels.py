"""The pages of a team's channels. No response, message or form ever contains an address."""

import uuid
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from taskruns.access import unfinished
from taskruns.access.gate import PanelRequest, actor_of, owned, requires
from taskruns.audit import EventType
from taskruns.forms.channels import ChannelForm, HookSecretForm, MuteForm, NewChannelForm, RuleForm
from taskruns.forms.fields import posted
from taskruns.models import ArizeHook, Channel, Rule, Team
from taskruns.models.channels import SUGGESTED
from taskruns.pages.channels.page import (
    channel_page,
    channel_row,
    channel_rows,
    event_choices,
    hook_of,
    kind_choices,
    query_of_view,
    view_choices,
)
from taskruns.permissions import Action, TeamAccess
from taskruns.services import channels
from taskruns.services.channels import hooks
from taskruns.services.channels.actions import Wanted
from taskruns.templatetags.parts import plain

from .user_errors import shown_as_message, shown_on_form


@requires(Action.RUNS_VIEW)
@require_safe
def listing(request: PanelRequest, team: Team) -> HttpResponse:
    rows = channel_rows(TeamAccess(team, request.access))
    return render(request, "taskruns/channels/list.html", _context(request, team) | {"rows": rows})


@requires(Action.RUNS_VIEW)
@require_safe
def channel(request: PanelRequest, team: Team, channel_id: uuid.UUID) -> HttpResponse:
    """Its rules and its last messages. It polls while a message may change."""
    page = channel_page(_channel(request, channel_id), TeamAccess(team, request.access))
    return render(request, "taskruns/channels/channel.html", _context(request, team) | {"page": page, "row": page.row})


# Outside the gate, so that not even an error of the gate itself prints the posted address.
@sensitive_post_parameters("address")
@requires(Action.CHANNELS_MANAGE, event=EventType.CHANNEL_ADD, recent_auth=True, keeps=NewChannelForm.KEPT)
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: PanelRequest, team: Team) -> HttpResponse:
    """A signed webhook's secret is shown in the answer, once."""
    typed = _typed(request) or {"events": [event.value for event in SUGGESTED]}
    form = NewChannelForm(posted(request), initial=typed, kinds=kind_choices(), **_choices(request, team))
    if form.is_valid():
        with shown_on_form(form):
            data = form.cleaned_data
            added = channels.add(
                team,
                name=data["name"],
                kind=data["kind"],
                address=data["address"],
                wanted=_wanted(request, team, data),
                by=actor_of(request),
            )
            row = channel_row(added.channel, TeamAccess(team, request.access))
            if added.signing:
                context = _context(request, team) | {"row": row, "signing": added.signing}
                return render(request, "taskruns/channels/secret.html", context)
            messages.success(request, f"Channel “{added.channel.name}” added. Send a test message to try it.")
            return redirect(row.url)
    return _form_page(request, "new", _context(request, team) | {"form": form})


@sensitive_post_parameters("address")
@requires(Action.CHANNELS_MANAGE, event=EventType.CHANNEL_CHANGE, recent_auth=True, keeps=ChannelForm.KEPT)
@require_http_methods(["GET", "HEAD", "POST"])
def change(request: PanelRequest, team: Team, channel_id: uuid.UUID) -> HttpResponse:
    found = _channel(request, channel_id)
    initial = {"name": found.name, "is_on": found.is_on} | _typed(request)
    form = ChannelForm(posted(request), initial=initial)
    row = channel_row(found, TeamAccess(team, request.access))
    if form.is_valid():
        with shown_on_form(form):
            if channels.change(found, **form.cleaned_data, by=actor_of(request)):
                messages.success(request, f"Channel “{found.name}” changed.")
            return redirect(row.url)
    return _form_page(request, "change", _context(request, team) | {"form": form, "row": row})


@requires(Action.CHANNELS_MANAGE, event=EventType.CHANNEL_TEST, recent_auth=True)
@require_POST
def test(request: PanelRequest, team: Team, channel_id: uuid.UUID) -> HttpResponse:
    found = _channel(request, channel_id)
    with shown_as_message(request):
        channels.send_test(found, by=actor_of(request))
        messages.success(request, "Test message queued. Its result appears below in a few seconds.")
    return redirect("channel", slug=team.slug, channel_id=found.pk)


@requires(Action.CHANNELS_MUTE, event=EventType.CHANNEL_MUTE)
@require_POST
def mute(request: PanelRequest, team: Team, channel_id: uuid.UUID) -> HttpResponse:
    """For one or eight hours, until a time, or (`off`) not any more."""
    found, form = _channel(request, channel_id), MuteForm(posted(request))
    with shown_as_message(request):
        if "off" in request.POST:
            if channels.unmute(found, by=actor_of(request)):
                messages.success(request, f"Channel “{found.name}” sends messages again.")
        elif form.is_valid() and (until := _until(form)) is not None:
            channels.mute(found, until=until, by=actor_of(request))
            messages.success(request, f"Channel “{found.name}” muted.")
        else:
            messages.error(request, "Choose for how long, or a date and a time. Nothing was muted.")
    return redirect("channel", slug=team.slug, channel_id=found.pk)


@requires(Action.CHANNELS_MANAGE, event=EventType.CHANNEL_REMOVE, recent_auth=True)
@require_http_methods(["GET", "HEAD", "POST"])
def remove(request: PanelRequest, team: Team, channel_id: uuid.UUID) -> HttpResponse:
    """GET asks for confirmation; POST removes."""
    found = _channel(request, channel_id)
    if request.method == "POST":
        channels.remove(found, by=actor_of(request))
        messages.success(request, f"Channel “{found.name}” removed, and its address destroyed.")
        return redirect("channels", slug=team.slug)
    row = channel_row(found, TeamAccess(team, request.access))
    return render(request, "taskruns/channels/remove.html", _context(request, team) | {"row": row})


@requires(Action.CHANNELS_MANAGE, event=EventType.CHANNEL_CHANGE, recent_auth=True, keeps=RuleForm.KEPT)
@require_http_methods(["GET", "HEAD", "POST"])
def new_rule(request: PanelRequest, team: Team, channel_id: uuid.UUID) -> HttpResponse:
    return _rule_page(request, team, _channel(request, channel_id), None)


@requires(Action.CHANNELS_MANAGE, event=EventType.CHANNEL_CHANGE, recent_auth=True, keeps=RuleForm.KEPT)
@require_http_methods(["GET", "HEAD", "POST"])
def rule(request: PanelRequest, team: Team, channel_id: uuid.UUID, rule_id: uuid.UUID) -> HttpResponse:
    found = _channel(request, channel_id)
    return _rule_page(request, team, found, _rule(found, rule_id))


@requires(Action.CHANNELS_MANAGE, event=EventType.CHANNEL_CHANGE, recent_auth=True)
@require_POST
def remove_rule(request: PanelRequest, team: Team, channel_id: uuid.UUID, rule_id: uuid.UUID) -> HttpResponse:
    found = _channel(request, channel_id)
    with shown_as_message(request):
        channels.remove_rule(_rule(found, rule_id), by=actor_of(request))
        messages.success(request, "Rule removed.")
    return redirect("channel", slug=team.slug, channel_id=found.pk)


@requires(Action.CHANNELS_MANAGE, event=EventType.CHANNEL_ADD, recent_auth=True)
@require_http_methods(["GET", "HEAD", "POST"])
def arize_hook(request: PanelRequest, team: Team) -> HttpResponse:
    """POST creates the address and shows it once."""
    context = _context(request, team)
    if request.method == "POST":
        with shown_as_message(request):
            token = hooks.make_address(team, by=actor_of(request))
            context |= {"address": f"{settings.SITE_URL}{reverse('hook', args=[token])}"}
    return render(request, "taskruns/channels/arize.html", context | {"hook": hook_of(team)})


@sensitive_post_parameters("secret")
@requires(Action.CHANNELS_MANAGE, event=EventType.CHANNEL_CHANGE, recent_auth=True, keeps=HookSecretForm.KEPT)
@require_http_methods(["GET", "HEAD", "POST"])
def arize_hook_secret(request: PanelRequest, team: Team) -> HttpResponse:
    form = HookSecretForm(posted(request), initial=_typed(request))
    found = _hook(team)
    if form.is_valid():
        with shown_on_form(form):
            hooks.set_secret(found, **form.cleaned_data, by=actor_of(request))
            messages.success(request, "Secret stored. The panel now takes Arize's webhook.")
            return redirect("arize-hook", slug=team.slug)
    return _form_page(request, "arize_secret", _context(request, team) | {"form": form})


@requires(Action.CHANNELS_MANAGE, event=EventType.CHANNEL_REMOVE, recent_auth=True)
@require_POST
def remove_arize_hook(request: PanelRequest, team: Team) -> HttpResponse:
    if hooks.remove(_hook(team), by=actor_of(request)):
        messages.success(request, "Address removed. Delete the webhook in Arize too.")
    return redirect("arize-hook", slug=team.slug)


def _hook(team: Team) -> ArizeHook:
    found = hooks.find_live(team)
    if found is None:
        raise Http404
    return found


def _rule_page(request: PanelRequest, team: Team, found: Channel, known: Rule | None) -> HttpResponse:
    names = ("events", "query", *RuleForm.NUMBERS)
    initial = {name: getattr(known, name) for name in names} if known else {}
    form = RuleForm(posted(request), initial=initial | _typed(request), **_choices(request, team))
    row = channel_row(found, TeamAccess(team, request.access))
    if form.is_valid():
        with shown_on_form(form):
            channels.save_rule(found, _wanted(request, team, form.cleaned_data), rule=known, by=actor_of(request))
            messages.success(request, "Rule saved. It applies to what happens from now on.")
            return redirect(row.url)
    context = {"form": form, "row": row, "is_new": known is None}
    return _form_page(request, "rule", _context(request, team) | context)


def _wanted(request: PanelRequest, team: Team, data: dict[str, Any]) -> Wanted:
    query = query_of_view(team, request.user, data["view"]) or data["query"]
    return Wanted(tuple(data["events"]), query, **{name: data[name] for name in RuleForm.NUMBERS})


def _choices(request: PanelRequest, team: Team) -> dict[str, Any]:
    views = [(pk, plain(name)) for pk, name in view_choices(team, request.user)]
    return {"events": event_choices(), "views": views}


def _typed(request: PanelRequest) -> dict[str, Any]:
    """What was typed before a confirmation of identity. Of the ticked events, all."""
    act = unfinished.waiting(request) if request.method == "GET" else None
    ticked = [value for name, value in act.fields if name == "events"] if act else []
    typed: dict[str, Any] = dict(unfinished.typed(request))
    return typed | ({"events": ticked} if "events" in typed else {})


def _until(form: MuteForm) -> Any:
    hours = form.cleaned_data["hours"]
    return timezone.now() + timedelta(hours=hours) if hours else form.moment


def _channel(request: PanelRequest, channel_id: uuid.UUID) -> Channel:
    """A live channel of the team. A removed one gives a 404 too, but is not recorded as an attempt on another team."""
    found = owned(request, Channel.objects.select_related("team"), channel_id)
    if found.removed_at is not None:
        raise Http404
    return found


def _rule(found: Channel, rule_id: uuid.UUID) -> Rule:
    rule = Rule.objects.select_related("channel__team").filter(channel=found, pk=rule_id).first()
    if rule is None:
        raise Http404
    return rule


def _context(request: PanelRequest, team: Team) -> dict[str, Any]:
    return {
        "team": team.name,
        "slug": team.slug,
        "may_manage": request.access.may(Action.CHANNELS_MANAGE),
        "may_mute": request.access.may(Action.CHANNELS_MUTE),
    }


def _form_page(request: PanelRequest, page: str, context: dict[str, Any]) -> HttpResponse:
    status = 422 if request.method == "POST" else 200
    return render(request, f"taskruns/channels/{page}.html", context, status=status)
