"""A migrated PostgreSQL database for tests to copy: a copy takes a tenth of a migration."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import forked_command
from tests.databases import locked
from tests.e2e.databases import create_database, drop_database, url_on_server


@contextmanager
def migrated_template(folder: Path, process: str) -> Iterator[str]:
    """Its name. The first process of the run that needs it makes it, the last drops it. Nobody stays connected."""
    users = folder / "template-users"
    name = f"taskruns_template_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    with locked(folder):
        users.mkdir(exist_ok=True)
        if not any(users.iterdir()):
            create_database(name)
            own = {"DATABASE_URL": url_on_server(name), "DJANGO_SETTINGS_MODULE": "config.settings"}
            migrate = ["manage.py", "migrate", "--verbosity", "0"]
            forked_command.run(migrate, env=os.environ | own, timeout=300).check_returncode()
        (users / process).touch()
    try:
        yield name
    finally:
        with locked(folder):
            (users / process).unlink()
            if not any(users.iterdir()):
                drop_database(name)
