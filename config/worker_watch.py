"""A thread of each web process that notices a missing worker while a board is open. See `channels/site_events.py`."""

import threading
import time
from typing import Any

import structlog
from django.db import DatabaseError, close_old_connections

log = structlog.get_logger(__name__)
EVERY = 30.0  # seconds


def start(_worker: Any) -> None:
    """A hook of gunicorn: the process has loaded the panel and serves requests from now on."""
    threading.Thread(target=_watch, name="worker-watch", daemon=True).start()


def _watch() -> None:
    while True:
        time.sleep(EVERY)
        close_old_connections()
        look()
        close_old_connections()


def look() -> None:
    """Look once. While the database cannot be used, the pages and /readyz say so."""
    from taskruns import jobs  # imports models, which need the settings to be loaded

    try:
        jobs.look_after_worker()
    except DatabaseError:
        log.warning("worker_watch_failed", exc_info=True)
