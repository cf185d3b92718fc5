"""People who want to know when a run ends. They get one mail; their right is checked again when it is sent."""

from django.conf import settings
from django.db.models import QuerySet

from taskruns.models import Run, RunNotice, User
from taskruns.services.user_errors import UserError


def ask(run: Run, person: User) -> None:
    """Note that the person waits for the end of the run. Raises UserError."""
    if not settings.MAILS:
        raise UserError("This panel sends no mail, so nobody would be told. Ask your administrator for EMAIL_URL.")
    if run.ended_at is not None:
        raise UserError("This run has already ended. Its page shows how.")
    RunNotice.objects.get_or_create(run=run, person=person)


def drop(run: Run, person: User) -> None:
    RunNotice.objects.filter(run=run, person=person).delete()


def ended_notices() -> QuerySet[RunNotice]:
    """Those whose run has ended."""
    return RunNotice.objects.filter(run__ended_at__isnull=False).select_related("run__task")
