#!/usr/bin/env python
"""Django's command line.

`new_secrets` runs before Django starts, because the settings fail without secrets.
"""

import os
import sys

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

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.stderr.write(f"Cannot start: {error}\n")
        # Exit code 1 of verify_audit means faults.
        sys.exit(2 if sys.argv[1:2] == ["verify_audit"] else 1)


if __name__ == "__main__":
    main()
