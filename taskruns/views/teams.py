"""The pages about teams and the people in them. The pages of invitations are in `invitations.py`."""

import uuid
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from taskruns import jobs
from taskruns.access.gate import PanelRequest, actor_of, owned, requires, signed_in
from taskruns.audit import EventType
from taskruns.forms.fields import ConfirmForm, confirmed, posted
from taskruns.forms.teams import MemberForm, RoleForm, SettingsForm, TeamForm
from taskruns.models import Invitation, Membership, Team, TeamRole, User
from taskruns.pages import people
from taskruns.pages.help import role_words
from taskruns.pages.teams import InvitationRow, MemberRow, MembersPage, consequences_of_archiving, link_of
from taskruns.pages.tokens import stopping, tokens_above, tokens_by_maker
from taskruns.pages.values import Moment
from taskruns.permissions import Action
from taskruns.services import invitations, teams
from taskruns.services import members as members_service
from taskruns.services.invitations import Invited

from .invitations import invitation
from .user_errors import shown_as_message, shown_on_form

__all__ = [
    "add_member",
    "archive",
    "change_role",
    "home",
    "invitation",
    "members",
    "new",
    "remove_member",
    "revoke_invitation",
    "settings",
]


@signed_in
@require_safe
def home(request: PanelRequest) -> HttpResponse:
    team = members_service.home_of(request.user)
    return redirect("board", slug=team.slug) if team else redirect("teams")


@requires(Action.TEAMS_MANAGE, event=EventType.TEAM_CREATE, recent_auth=True, keeps=("name", "slug", "manager"))
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: PanelRequest) -> HttpResponse:
    """Create the team and, if named, its first manager: both or neither."""
    form = TeamForm(posted(request))
    if form.is_valid():
        wanted = form.cleaned_data | {"slug": form.cleaned_data["slug"] or None}
        with shown_on_form(form):
            team, invited = invitations.create_team(**wanted, by=actor_of(request))
            messages.success(request, f"Team {team.name} created.")
            return _invited(request, team, invited, TeamRole.MANAGER)
    return _form_page(request, "new", {"form": form})


@requires(Action.MEMBERS_MANAGE)
@require_safe
def members(request: PanelRequest, team: Team) -> HttpResponse:
    return _members_page(request, team)


@requires(Action.MEMBERS_MANAGE, event=EventType.MEMBER_ADD, recent_auth=True, keeps=("email", "role"))
@require_POST
def add_member(request: PanelRequest, team: Team) -> HttpResponse:
    return _invite(request, team, MemberForm(request.POST))


@requires(Action.MEMBERS_MANAGE, event=EventType.MEMBER_CHANGE_ROLE, recent_auth=True, keeps=("role", "confirmed"))
@require_POST
def change_role(request: PanelRequest, team: Team, user_id: uuid.UUID) -> HttpResponse:
    """If scripts would fail with it, only ask whether to, unless the form says `confirmed=1`."""
    person = _member(request, user_id)
    form = RoleForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose one of the roles.")
        return _members_page(request, team, status=422)
    role: TeamRole = form.cleaned_data["role"]
    stops = stopping(tokens_above(team, person, role))
    if stops and request.POST.get("confirmed") != "1":
        context = {"team": team.name, "slug": team.slug, "person": person, "role": role.value, "consequences": [stops]}
        return render(request, "taskruns/teams/role.html", context)
    with shown_as_message(request):
        if not members_service.change_role(team, person, role=role, by=actor_of(request)):
            return redirect("members", slug=team.slug)
        messages.success(request, f"{person.email} is now {role.value}.")
        return redirect(_after_own_change(request, person, team))
    return _members_page(request, team, status=422)


@requires(Action.MEMBERS_MANAGE, event=EventType.MEMBER_REMOVE, recent_auth=True)
@require_POST
def remove_member(request: PanelRequest, team: Team, user_id: uuid.UUID) -> HttpResponse:
    person = _member(request, user_id)
    with shown_as_message(request):
        members_service.remove(team, person, by=actor_of(request))
        messages.success(request, f"{person.email} removed from {team.name}.")
        return redirect(_after_own_change(request, person, team))
    return _members_page(request, team, status=422)


@requires(Action.MEMBERS_MANAGE, event=EventType.INVITATION_REVOKE, recent_auth=True)
@require_POST
def revoke_invitation(request: PanelRequest, team: Team, invitation_id: uuid.UUID) -> HttpResponse:
    row = owned(request, Invitation.objects.select_related("team"), invitation_id)
    if invitations.revoke_invitation(row, by=actor_of(request)):
        messages.success(request, f"Invitation of {row.email} revoked.")
    return redirect("members", slug=team.slug)


@requires(Action.TEAM_SETTINGS, event=EventType.TEAM_CHANGE, recent_auth=True, keeps=("name",))
@require_http_methods(["GET", "HEAD", "POST"])
def settings(request: PanelRequest, team: Team) -> HttpResponse:
    form = SettingsForm(posted(request), initial={"name": team.name})
    if form.is_valid():
        with shown_on_form(form):
            if teams.rename(team, name=form.cleaned_data["name"], by=actor_of(request)):
                messages.success(request, f"Team renamed to {team.name}.")
            return redirect("team-settings", slug=team.slug)
    rights = {"may_rename": True, "may_archive": request.access.may(Action.TEAMS_MANAGE)}
    return _form_page(request, "settings", {"form": form, "team": team.name, "slug": team.slug} | rights)


@requires(Action.TEAMS_MANAGE, event=EventType.TEAM_ARCHIVE, recent_auth=True, keeps=ConfirmForm.KEPT)
@require_http_methods(["GET", "HEAD", "POST"])
def archive(request: PanelRequest, team: Team) -> HttpResponse:
    """Archive the team if the form says `confirmed=1` and names it, otherwise only ask whether to."""
    form = ConfirmForm(confirmed(request), expected=team.name, what="name of the team")
    if form.is_valid():
        teams.archive(team, reason=form.cleaned_data["reason"], by=actor_of(request))
        messages.success(request, f"Team {team.name} archived and its API keys destroyed.")
        return redirect("teams")
    consequences = consequences_of_archiving(team)
    context = {"form": form, "team": team.name, "slug": team.slug, "consequences": consequences}
    return render(request, "taskruns/teams/archive.html", context, status=422 if form.is_bound else 200)


def _invite(request: PanelRequest, team: Team, form: MemberForm) -> HttpResponse:
    if not form.is_valid():
        return _members_page(request, team, form=form, status=422)
    with shown_on_form(form):
        invited = invitations.invite(team, **form.cleaned_data, by=actor_of(request))
        return _invited(request, team, invited, form.cleaned_data["role"])
    return _members_page(request, team, form=form, status=422)


def _invited(request: PanelRequest, team: Team, invited: Invited | None, role: TeamRole) -> HttpResponse:
    """For a person with an account, redirect to the page. For anyone else, mail the link or show it, only once."""
    if invited is not None and invited.token:
        return _members_page(request, team, invited=invited)
    if invited is not None and invited.is_mailed:
        jobs.wake_invitations()
        messages.success(request, f"An invitation is being mailed to {invited.email}.")
    elif invited is not None:
        messages.success(request, f"{invited.email} added as {role.value}.")
    return redirect("members", slug=team.slug)


def _member(request: PanelRequest, user_id: uuid.UUID) -> User:
    """A member of the team. A member of another team gives the same 404 as an unknown person, but is recorded."""
    theirs = Membership.objects.filter(user_id=user_id)
    row = theirs.filter(team=request.team).first() or theirs.first()
    if row is None:
        raise Http404
    pk: Any = row.pk
    return owned(request, Membership.objects.select_related("user"), pk).user


def _after_own_change(request: PanelRequest, person: User, team: Team) -> str:
    """The next page. People who removed their own right go to a page that they may still see."""
    is_barred = person.pk == request.user.pk and not request.user.site_role
    return reverse("teams") if is_barred else reverse("members", args=[team.slug])


def _members_page(
    request: PanelRequest,
    team: Team,
    *,
    form: MemberForm | None = None,
    invited: Invited | None = None,
    status: int = 200,
) -> HttpResponse:
    request.team = team
    page = MembersPage(
        team=team.name,
        slug=team.slug,
        members=_member_rows(team, request.user),
        invitations=_invitation_rows(team),
        roles=tuple((role.value, role.value) for role in TeamRole),
        link=link_of(invited) if invited else "",
        link_email=invited.email if invited else "",
    )
    context = {
        "page": page,
        "form": form or MemberForm(),
        "may_archive": request.access.may(Action.TEAMS_MANAGE),
        "explained": role_words(TeamRole),
    }
    return render(request, "taskruns/teams/members.html", context, status=status)


def _member_rows(team: Team, reader: User) -> tuple[MemberRow, ...]:
    rows = Membership.objects.filter(team=team).select_related("user").order_by("user__email")
    tokens = tokens_by_maker(team)
    return tuple(
        MemberRow(
            id=str(row.user_id),
            email=row.user.email,
            name=row.user.name,
            role=row.role,
            notes=tuple(note for note in (people.unverified(row.user), _pause_of(row)) if note),
            since=Moment.of(row.created_at),
            is_self=row.user_id == reader.pk,
            stops=stopping(tokens.get(row.user_id, ())),
        )
        for row in rows
    )


def _pause_of(row: Membership) -> str:
    shown = people.role_of(row, row.user)
    return shown if shown != row.role else ""


def _invitation_rows(team: Team) -> tuple[InvitationRow, ...]:
    rows = teams.open_invitations(team).order_by("email")
    return tuple(
        InvitationRow(
            str(row.pk), row.email, row.role, Moment.of(row.expires_at), row.by_mail, Moment.of(row.mailed_at)
        )
        for row in rows
    )


def _form_page(request: PanelRequest, page: str, context: dict[str, Any]) -> HttpResponse:
    status = 422 if request.method == "POST" else 200
    return render(request, f"taskruns/teams/{page}.html", context, status=status)
