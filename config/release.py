"""`make release VERSION=x.y.z`: set the version and date the changelog. Prints how to commit and tag; does neither.

The number stands in `taskruns/__init__.py` only.
"""

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from config.environment import BASE_DIR

_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_NUMBER = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
_HEADING = "## Unreleased\n"


class Refused(Exception):
    """The text says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0, or 1 with an error on stderr."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        version = given[0] if len(given) == 1 else ""
        sys.stdout.write(release(version, root=BASE_DIR, today=f"{datetime.now(tz=UTC):%Y-%m-%d}"))
    except Refused as refused:
        sys.stderr.write(f"{refused}\n")
        return 1
    return 0


def release(version: str, *, root: Path, today: str) -> str:
    """Change both files, or neither. Returns what to do next. Raises Refused."""
    number, changelog = root / "taskruns" / "__init__.py", root / "CHANGELOG.md"
    code, changes = number.read_text(encoding="utf-8"), changelog.read_text(encoding="utf-8")
    code = _with_version(code, version)
    changes = _with_heading(changes, version, today)
    number.write_text(code, encoding="utf-8")
    changelog.write_text(changes, encoding="utf-8")
    return (
        f"Set version {version} in {number.relative_to(root)} and {changelog.name}. Check both, then run:\n"
        f'git commit -am "Release {version}" && git tag -a v{version} -m "Taskruns {version}"\n'
    )


def _with_version(code: str, version: str) -> str:
    if not _VERSION.fullmatch(version):
        raise Refused("The version must be three numbers: make release VERSION=1.2.3")
    found = _NUMBER.search(code)
    if found is None:
        raise Refused("taskruns/__init__.py has no line with __version__. Restore it.")
    if _parts(version) <= _parts(found[1]) and found[1] != version:
        raise Refused(f"Version {version} is older than {found[1]}. Choose a higher one.")
    return _NUMBER.sub(f'__version__ = "{version}"', code)


def _with_heading(changes: str, version: str, today: str) -> str:
    if f"\n## {version}" in changes:
        raise Refused(f"CHANGELOG.md already has version {version}. Choose a higher one.")
    before, heading, rest = changes.partition(_HEADING)
    if not heading or not re.search(r"^- ", rest.partition("\n## ")[0], re.MULTILINE):
        raise Refused("CHANGELOG.md says nothing under Unreleased. Add what has changed.")
    return f"{before}{_HEADING}\n## {version} - {today}\n{rest}"


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


if __name__ == "__main__":
    sys.exit(main())
