"""Calls the command `verify_audit` in this process."""

import io

from django.core.management import call_command


def verify(*arguments: str) -> tuple[int, list[str]]:
    out = io.StringIO()
    try:
        call_command("verify_audit", *arguments, stdout=out)
    except SystemExit as end:
        return int(str(end.code)), out.getvalue().splitlines()
    return 0, out.getvalue().splitlines()
