"""What the database holds."""

from typing import Any

from taskruns.models import AuditEvent


def events(**wanted: Any) -> list[tuple[str, str]]:
    """Event and outcome of each audit row, oldest first."""
    rows = AuditEvent.objects.filter(**wanted).order_by("id")
    return [(row.event, row.outcome) for row in rows]
