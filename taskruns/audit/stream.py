"""With AUDIT_LOG_STREAM, each row of the log is also a line of the process log, once it is committed."""

import structlog
from django.db import transaction

from .row_json import Row, row_as_json

log = structlog.get_logger(__name__)


def stream(row: Row) -> None:
    """Needs the transaction that writes the row. Nothing is logged if it is rolled back.

    `row` holds the columns in the form that is hashed, and the hash, so that a reader can verify the lines.
    """
    line = row_as_json(row) | {"hash": row.hash}
    # robust: the recorded change is committed, so a failure to log must not raise.
    transaction.on_commit(lambda: log.info("audit_event", row=line), robust=True)
