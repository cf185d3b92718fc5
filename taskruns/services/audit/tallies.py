"""Limits how many refused attempts of a signed-in person get a row each. The others are only counted, because the rows
of the log can never be deleted.
"""

from datetime import timedelta

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.audit.record import chain_of, team_of
from taskruns.models import PersonTally, Team, User

MINUTE = timedelta(minutes=1)
ROWS_A_MINUTE = 20  # of one person in one chain


def has_room(by: Actor, team: Team | None) -> bool:
    """Count the attempt. True if it gets a row. Runs in the transaction of that row."""
    minute = timezone.now().replace(second=0, microsecond=0)
    tally = {"actor_id": by.id, "chain": chain_of(team.pk if team else None), "minute": minute}
    rows = PersonTally.objects.filter(**tally)
    if rows.filter(attempts__lt=ROWS_A_MINUTE).update(attempts=F("attempts") + 1):
        return True
    # Check the count again: another request may have created the row since the first update.
    if rows.filter(attempts__gte=ROWS_A_MINUTE).update(attempts=F("attempts") + 1):
        return False
    try:
        with transaction.atomic():
            PersonTally.objects.create(**tally)
    except IntegrityError:
        return has_room(by, team)
    return True


def record_counted() -> int:
    """Record how many attempts of past minutes got no row. Returns how many rows were written."""
    past = PersonTally.objects.filter(minute__lt=timezone.now() - MINUTE)
    return sum(_record(tally) for tally in past.order_by("pk"))


@transaction.atomic
def _record(tally: PersonTally) -> int:
    # Delete first: if two workers get here at once, only one finds the row.
    deleted, _ = PersonTally.objects.filter(pk=tally.pk).delete()
    left_out = tally.attempts - ROWS_A_MINUTE
    if not deleted or left_out <= 0:
        return 0
    person = User.objects.filter(pk=tally.actor_id).first()
    by = Actor(type="user", id=tally.actor_id, label=person.label if person else "")
    details = {"left_out": left_out, "minute": tally.minute.strftime("%Y-%m-%dT%H:%MZ")}
    record(EventType.ACCESS_DENIED, "denied", by=by, team=team_of(tally.chain), details=details)
    return 1
