"""`make bench`: a table of measurements, each with a reference value of the same run. No value here is a test.

`python -m tests.bench audit` measures one part. Runs on the database in DATABASE_URL, by default SQLite in a temporary
directory. Uses durable transactions, the sandbox as a separate process, and requests through all middleware.
"""

import logging
import os
import sys
import tempfile
from pathlib import Path

SCRATCH = Path(tempfile.mkdtemp(prefix="taskruns-bench-"))
os.environ["TASKRUNS_TEST_DIR"] = str(SCRATCH)
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.bench.settings"

import django  # noqa: E402
from django.template import Template  # noqa: E402
from django.test.runner import DiscoverRunner  # noqa: E402
from django.test.utils import _TestState, setup_test_environment  # noqa: E402

django.setup()

from django.db import connection  # noqa: E402

from config.processes import Signals  # noqa: E402
from tests.bench import (  # noqa: E402
    answers,
    appends,
    audit,
    batches,
    board,
    cancels,
    channels,
    exports,
    gateway,
    lanes,
    operations,
    pace,
    sessions,
)
from tests.bench.table import Figure, show  # noqa: E402


def main() -> None:
    Signals()  # so that a terminated run stops its processes too
    setup_test_environment()
    # The test client copies every template context, which a server does not.
    Template._render = _TestState.saved_data.template_render  # type: ignore[method-assign]
    _log_to(SCRATCH / "log")
    runner = DiscoverRunner(verbosity=0, interactive=False)
    databases = runner.setup_databases()
    try:
        figures: list[Figure] = []
        parts = (answers, appends, cancels, batches, board, exports, audit, pace, sessions, lanes, channels, operations)
        parts = (*parts, gateway)
        for part in parts:
            if sys.argv[1:] and part.__name__.rsplit(".", 1)[-1] not in sys.argv[1:]:
                continue
            sys.stderr.write(f"measuring {part.__name__.rsplit('.', 1)[-1]} ...\n")
            figures += part.measure()
        show(figures, title=f"{connection.vendor}, {os.cpu_count()} processors, Python {sys.version.split()[0]}")
    finally:
        runner.teardown_databases(databases)


def _log_to(path: Path) -> None:
    """Log lines are written as usual, but not to the terminal between the results."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(path.open("a", encoding="utf-8"))


if __name__ == "__main__":
    main()
