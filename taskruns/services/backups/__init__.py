"""Backups of the whole panel, and what it takes to restore one honestly.

`snapshot` copies the database at one moment, `contents` describes what is in the copy, `archive` is the file,
`loading` puts a copy into an empty database, and `actions` makes a backup, records in each chain of the audit log what
a restore lost, and adopts a restored panel.
"""

from .actions import (
    Acknowledged,
    acknowledge,
    adopt,
    create,
    known_anchors,
    older_backups,
    problem_of_target,
    refuse_newer,
)
from .archive import Archive, BadBackup
from .loading import LoadFailed, has_tables, loaded
from .snapshot import CannotDump

__all__ = [
    "Acknowledged",
    "Archive",
    "BadBackup",
    "CannotDump",
    "LoadFailed",
    "acknowledge",
    "adopt",
    "create",
    "has_tables",
    "known_anchors",
    "loaded",
    "older_backups",
    "problem_of_target",
    "refuse_newer",
]
