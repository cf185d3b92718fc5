"""Saved views: filters of the board with a name, private or shared with the team, and the one a board opens with."""

from .keeping import NameTaken, change_view, delete_view, save_view, set_own_default, set_team_default
from .pages import Shelf, shelf, view_bar, views_page, visible
from .rights import may_change, may_delete, may_save, may_share
from .spelling import SavedViewsError, why_broken

__all__ = [
    "NameTaken",
    "SavedViewsError",
    "Shelf",
    "change_view",
    "delete_view",
    "may_change",
    "may_delete",
    "may_save",
    "may_share",
    "save_view",
    "set_own_default",
    "set_team_default",
    "shelf",
    "view_bar",
    "views_page",
    "visible",
    "why_broken",
]
