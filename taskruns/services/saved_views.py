"""Saved views: named board filters, private or shared with the team. One of them can be the default of a board.

Every change first locks the team's row, so that names stay unique (ignoring case) and there is at most one default.
"""

from django.core.exceptions import TooManyFieldsSent
from django.db import transaction
from django.http import QueryDict
from django.utils import timezone

from taskruns.audit import Actor, EventType, Target, clean_line, record
from taskruns.forms import BadFilter, BoardFilter
from taskruns.models import Membership, SavedView, Team, User
from taskruns.permissions import Access, Action
from taskruns.services.teams import lock_team
from taskruns.services.user_errors import UserError

LONGEST_NAME = 100
# Encoded characters. The URL must fit into a request line of 8,190 bytes.
LONGEST_QUERY = 6_000
MOST_VIEWS = 50  # per person and team, and shared per team; the bar cannot show more


class NameTaken(UserError):
    """The person already has a view with this name (`known`). The caller may offer to replace it."""

    def __init__(self, known: SavedView) -> None:
        self.known = known
        super().__init__(f"You already have a view “{known.name}” in this team. Choose another name.", field="name")


def may_save(access: Access) -> bool:
    return access.team_role is not None


def may_share(access: Access) -> bool:
    return may_save(access) and access.may(Action.VIEWS_SHARE)


def may_change(view: SavedView, person: User, access: Access) -> bool:
    return may_save(access) and view.owner_id == person.pk and (not view.is_shared or may_share(access))


def may_delete(view: SavedView, person: User, access: Access) -> bool:
    is_manager = may_save(access) and access.may(Action.TEAM_SETTINGS)
    return may_change(view, person, access) or (view.is_shared and is_manager)


def save_view(team: Team, *, name: str, query: str, shared: bool, replace: bool = False, by: Actor) -> SavedView:
    """Save a filter as a view. `replace`: overwrite the person's view with this name. Raises NameTaken, UserError."""
    name, query = _clean_name(name), canonical(query)
    with transaction.atomic():
        team = lock_team(team)
        owner = _member(team, by)
        known = _own(team, owner, name)
        if known is not None and not replace:
            raise NameTaken(known)
        view = known or SavedView(team=team, owner=owner)
        _refuse_too_many(view, shared=shared)
        _write(view, name=name, query=query, shared=shared)
        _record(EventType.VIEW_SAVE, view, by=by)
    return view


def change_view(view: SavedView, *, name: str, shared: bool, by: Actor) -> bool:
    """Rename, share or unshare a view. False if unchanged. Raises NameTaken, UserError."""
    name = _clean_name(name)
    with transaction.atomic():
        view = _locked(view)
        if (view.name, view.is_shared) == (name, shared):
            return False
        known = _own(view.team, view.owner, name)
        if known is not None and known.pk != view.pk:
            raise NameTaken(known)
        _refuse_too_many(view, shared=shared)
        _write(view, name=name, query=view.query, shared=shared)
        _record(EventType.VIEW_SAVE, view, by=by)
    return True


def delete_view(view: SavedView, *, by: Actor) -> None:
    """Delete a view. If it was someone's default, their board opens with the team's default, or with all runs."""
    with transaction.atomic():
        view = _locked(view)
        target, details = _as_recorded(view, by)
        view.delete()
        record(EventType.VIEW_DELETE, "done", by=by, team=view.team, target=target, details=details)


def set_own_default(view: SavedView, *, on: bool, by: Actor) -> bool:
    """Make the view the person's own default, or (`on=False`) remove this default. False if unchanged."""
    with transaction.atomic():
        view = _locked(view)
        mine = Membership.objects.filter(team=view.team, user=_member(view.team, by))
        is_default = mine.filter(default_view=view).exists()
        if is_default == on:
            return False
        mine.update(default_view=view if on else None)
        _record(EventType.VIEW_SAVE, view, by=by)
    return True


def set_team_default(view: SavedView, *, on: bool, by: Actor) -> bool:
    """Make the view the team's default, for members without their own, or (`on=False`) remove this default.

    False if unchanged. Raises UserError if the view is not shared.
    """
    with transaction.atomic():
        view = _locked(view)
        if view.is_team_default == on:
            return False
        if not view.is_shared:
            raise UserError("Only a shared view can be the team's default. Share it first.")
        SavedView.objects.filter(team=view.team, is_team_default=True).update(is_team_default=False)
        SavedView.objects.filter(pk=view.pk).update(is_team_default=on)
        view.is_team_default = on
        _record(EventType.VIEW_SAVE, view, by=by)
    return True


def canonical(query: str) -> str:
    """The board's query string in canonical form: no `?`, no cursor, no unknown parameters. Raises UserError."""
    wanted, why_not = read(query)
    if why_not:
        raise UserError(f"This filter cannot be saved. {why_not}")
    if len(wanted) > LONGEST_QUERY:
        raise UserError("This filter is too long to be saved. Remove a part of it first.")
    return wanted


def why_broken(view: SavedView) -> str:
    """Why the view's filter can no longer be used, in a sentence. Empty if it can."""
    return read(view.query)[1]


def read(query: str) -> tuple[str, str]:
    """(canonical query string, ""), or ("", the reason why it cannot be used)."""
    try:
        given = QueryDict(query.removeprefix("?"), mutable=True)
        given.pop("cursor", None)
        return BoardFilter.parse(given).query().removeprefix("?"), ""
    except BadFilter as error:
        return "", str(error)
    except TooManyFieldsSent:
        return "", "It has too many parameters."


def _clean_name(name: str) -> str:
    cleaned = clean_line(name, LONGEST_NAME + 1)
    if not cleaned:
        raise UserError("Enter a name for the view.", field="name")
    if len(cleaned) > LONGEST_NAME:
        raise UserError(f"The name is too long. The limit is {LONGEST_NAME} characters.", field="name")
    return cleaned


def _locked(view: SavedView) -> SavedView:
    """Lock the team and load the view again. Raises UserError if the view was deleted."""
    lock_team(view.team)
    found = SavedView.objects.select_related("team", "owner").filter(pk=view.pk).first()
    if found is None:
        raise UserError("This view has been deleted.")
    return found


def _member(team: Team, by: Actor) -> User:
    """The acting person. Raises UserError if they are not a member of the team now."""
    if by.person is None or not Membership.objects.in_force().filter(team=team, user=by.person).exists():
        raise UserError("Only members of the team can save views.")
    return by.person


def _own(team: Team, owner: User, name: str) -> SavedView | None:
    """The owner's view with this name, ignoring case. Compared here: SQLite ignores case only for ASCII letters."""
    own = SavedView.objects.filter(team=team, owner=owner)
    return next((view for view in own if view.name.casefold() == name.casefold()), None)


def _refuse_too_many(view: SavedView, *, shared: bool) -> None:
    others = SavedView.objects.filter(team=view.team).exclude(pk=view.pk)
    if others.filter(owner=view.owner).count() >= MOST_VIEWS:
        raise UserError(f"You already have {MOST_VIEWS} views in this team. Delete one first.")
    if shared and others.filter(is_shared=True).count() >= MOST_VIEWS:
        raise UserError(f"The team already shares {MOST_VIEWS} views. Delete a shared view first.", field="shared")


def _write(view: SavedView, *, name: str, query: str, shared: bool) -> None:
    if shared:
        _refuse_shared_name(view, name)
    else:
        # A private view cannot be the default of other members.
        Membership.objects.filter(default_view=view.pk).exclude(user=view.owner).update(default_view=None)
    view.name, view.query, view.is_shared = name, query, shared
    view.is_team_default = view.is_team_default and shared
    view.changed_at = timezone.now()
    view.save()


def _refuse_shared_name(view: SavedView, name: str) -> None:
    others = SavedView.objects.filter(team=view.team, is_shared=True).exclude(pk=view.pk)
    if any(other.name.casefold() == name.casefold() for other in others):
        sentence = f"The team already shares a view “{name}”. Choose another name, or keep this one to yourself."
        raise UserError(sentence, field="name")


def _record(event: EventType, view: SavedView, *, by: Actor) -> None:
    target, details = _as_recorded(view, by)
    record(event, "done", by=by, team=view.team, target=target, details=details)


def _as_recorded(view: SavedView, by: Actor) -> tuple[Target, dict[str, object]]:
    """The view as the audit log records it. `default`: "own" if it is the actor's default, "team" if the team's."""
    is_own = Membership.objects.filter(default_view=view.pk, user=by.person).exists()
    defaults = [word for word, is_default in (("own", is_own), ("team", view.is_team_default)) if is_default]
    details: dict[str, object] = {"query": view.query, "shared": view.is_shared, "default": ", ".join(defaults)}
    return Target("view", str(view.pk), view.name), details
