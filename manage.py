#!/usr/bin/env python
"""Django's command line.

`new_secrets` runs before Django starts, because the settings fail without secrets.
"""

import os
import sys
from typing import NoReturn

from config import private_files


def main() -> None:
    private_files.only_for_us()
    if sys.argv[1:] == ["new_secrets"]:
        from config import new_secrets

        sys.stdout.write(new_secrets.lines() + "\n")
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import OperationalError

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        _could_not_run(str(error))
    except OperationalError:
        if "--traceback" in sys.argv:
            raise
        _could_not_run("DATABASE_URL names a database that cannot be used. Check that it runs and accepts this user.")


def _could_not_run(sentence: str) -> NoReturn:
    """Exit 2, because 1 means that the command ran and found something wrong, such as faults in the log."""
    sys.stderr.write(f"Cannot start: {sentence}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
