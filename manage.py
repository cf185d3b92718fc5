#!/usr/bin/env python
"""Django's command line.

`new_secrets`, `version` and `doctor` run before Django starts, because the settings fail without secrets.
"""

import os
import sys
from typing import NoReturn

from config import private_files

# Not for people who run a panel. Listed only with DEBUG, and in the demo.
HIDDEN = ("demo_setup", "fill_runs")


def main() -> None:
    private_files.only_for_us()
    from config import new_secrets

    if sys.argv[1:] == ["new_secrets"]:
        sys.stdout.write(new_secrets.lines() + "\n")
        return
    if sys.argv[1:2] == ["doctor"]:
        from config import doctor

        doctor.exit_at_once(doctor.main(sys.argv[2:]))
    if sys.argv[1:] in (["version"], ["--version"]):
        from taskruns import __version__

        sys.stdout.write(f"Taskruns {__version__}\n")
        return
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import ManagementUtility
    from django.db import OperationalError

    class Panel(ManagementUtility):
        def main_help_text(self, commands_only: bool = False) -> str:  # noqa: FBT001, FBT002 - Django's signature
            lines = super().main_help_text(commands_only=commands_only).splitlines()
            return "\n".join(line for line in lines if _are_listed() or line.strip() not in HIDDEN)

    try:
        if sys.argv[1:2] == ["collectstatic"]:
            new_secrets.fill_in()
        Panel(sys.argv).execute()
    except ImproperlyConfigured as error:
        _could_not_run(str(error))
    except OperationalError:
        if "--traceback" in sys.argv:
            raise
        _could_not_run("DATABASE_URL names a database that cannot be used. Check that it runs and accepts this user.")


def _are_listed() -> bool:
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured

    try:
        return bool(settings.DEBUG or os.environ.get("DEMO_ENDPOINT"))
    except ImproperlyConfigured:
        return False


def _could_not_run(sentence: str) -> NoReturn:
    """Exit 2, because 1 means that the command ran and found something wrong, such as faults in the log."""
    sys.stderr.write(f"Cannot start: {sentence}\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
