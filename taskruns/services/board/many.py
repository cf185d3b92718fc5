"""What the board offers for cancelling many: ticks are the browser's, "all that match" is counted here."""

from dataclasses import replace
from urllib.parse import parse_qsl

from django.urls import reverse
from django.utils import timezone

from taskruns.display.board import ManyBar
from taskruns.filters import BoardFilter, Sort
from taskruns.permissions import Action

from .matching import matching
from .rows import Seat


def many_bar(seat: Seat, wanted: BoardFilter) -> ManyBar | None:
    if not seat.access.may(Action.RUNS_CANCEL_MANY):
        return None
    url = reverse("batches", args=[seat.team.slug])
    if not wanted.is_set:
        return ManyBar(url, 0, ())
    number = matching(seat.team, wanted, now=timezone.now()).filter(rank=1).count()
    query = replace(wanted, sort=Sort.ACTIVE, descending=True, cursor=None).query()
    return ManyBar(url, number, tuple(parse_qsl(query.removeprefix("?"))))
