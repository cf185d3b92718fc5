"""Who may what with saved views, beyond what a role alone tells.

Every member keeps views of their own; sharing one, and changing or deleting a shared one of one's own, takes the right
to share; a manager may delete any shared view. No team acts without membership, so auditors and site admins see what is
shared and keep nothing.
"""

from taskruns.models import SavedView, User
from taskruns.permissions import Access, Action


def may_save(access: Access) -> bool:
    return access.team_role is not None


def may_share(access: Access) -> bool:
    return may_save(access) and access.may(Action.VIEWS_SHARE)


def may_change(view: SavedView, person: User, access: Access) -> bool:
    return may_save(access) and view.owner_id == person.pk and (not view.is_shared or may_share(access))


def may_delete(view: SavedView, person: User, access: Access) -> bool:
    is_manager = may_save(access) and access.may(Action.TEAM_SETTINGS)
    return may_change(view, person, access) or (view.is_shared and is_manager)
