"""What the board offers for cancelling many: ticks are the browser's, "all that match" is known here."""

from dataclasses import replace
from urllib.parse import parse_qsl

from django.urls import reverse

from taskruns.display.board import ManyBar
from taskruns.forms import BoardFilter, Sort
from taskruns.permissions import Action

from .rows import Seat


def offers_many(seat: Seat) -> bool:
    return seat.access.may(Action.RUNS_CANCEL_MANY)


def many_bar(seat: Seat, wanted: BoardFilter, *, matching: int) -> ManyBar | None:
    """`matching`: how many active runs pass the filter."""
    if not offers_many(seat):
        return None
    url = reverse("batches", args=[seat.team.slug])
    if not wanted.is_set:
        return ManyBar(url, 0, ())
    query = replace(wanted, sort=Sort.ACTIVE, descending=True, cursor=None).query()
    return ManyBar(url, matching, tuple(parse_qsl(query.removeprefix("?"))))
