"""Limits how many refused attempts of a signed-in person or of a token get a row each. The others are only counted,
because the rows of the log can never be deleted.
"""

from contextlib import suppress
from datetime import timedelta
from functools import partial

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.audit.record import chain_of, team_of
from taskruns.models import PersonTally, Team, Token, User
from taskruns.services.remote_acts import sum_of_all

MINUTE = timedelta(minutes=1)
ROWS_A_MINUTE = 20  # of one person or token in one chain
# Prefix of the id of a token that does not work. Its script may keep trying for months.
REFUSED = "refused:"
REFUSALS_A_MINUTE = 1


def gets_row(by: Actor, team: Team | None, *, times: int = 1) -> bool:
    """Count the attempt. True if it gets a row. Runs in the transaction of that row.

    `times`: of a token, how many attempts share the row.
    """
    minute = timezone.now().replace(second=0, microsecond=0)
    tally = {"actor_id": by.id, "chain": chain_of(team.pk if team else None), "minute": minute}
    rows, most = PersonTally.objects.filter(**tally), _most(by.id)
    counted = _count(rows, most, times)
    if counted is not None:
        return counted
    try:
        with transaction.atomic():
            PersonTally.objects.create(**tally, attempts=times)
    except IntegrityError:
        return _count(rows, most, times) is True  # another request has just created it
    return True


def _count(rows: QuerySet[PersonTally], most: int, times: int) -> bool | None:
    """Whether the attempts are within the limit. None if there is no tally yet."""
    if rows.filter(attempts__lt=most).update(attempts=F("attempts") + times):
        return True
    # Ask again: another request may have created the row since the first update.
    return False if rows.filter(attempts__gte=most).update(attempts=F("attempts") + times) else None


def record_counted() -> int:
    """Record how many attempts of past minutes got no row. Returns how many rows were written."""
    past = PersonTally.objects.filter(minute__lt=timezone.now() - MINUTE)
    return sum_of_all(partial(_record, tally) for tally in past.order_by("pk"))


@transaction.atomic
def _record(tally: PersonTally) -> int:
    # Delete first: if two workers get here at once, only one finds the row.
    deleted, _ = PersonTally.objects.filter(pk=tally.pk).delete()
    left_out = tally.attempts - _most(tally.actor_id)
    if not deleted or left_out <= 0:
        return 0
    event = EventType.TOKEN_REFUSED if tally.actor_id.startswith(REFUSED) else EventType.ACCESS_DENIED
    details = {"left_out": left_out, "minute": tally.minute.strftime("%Y-%m-%dT%H:%MZ")}
    record(event, "denied", by=_whose(tally), team=team_of(tally.chain), details=details)
    return 1


def _most(actor_id: str) -> int:
    return REFUSALS_A_MINUTE if actor_id.startswith(REFUSED) else ROWS_A_MINUTE


def _whose(tally: PersonTally) -> Actor:
    pk = tally.actor_id.removeprefix(REFUSED)
    with suppress(ValidationError):  # an id that the panel cannot have written
        if token := Token.objects.filter(pk=pk).first():
            return Actor(type="token", id=pk, label=token.label, role=token.role)
        if person := User.objects.filter(pk=pk).first():
            return Actor(type="user", id=pk, label=person.label)
    return Actor(type="anonymous", id=pk)
