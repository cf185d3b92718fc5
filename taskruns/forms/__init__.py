"""Forms and query strings, one file per subject. Forms only parse; services decide.

Unknown parameters of a query string are ignored, except where `refuse_unknown` is called. Unknown values raise
`BadFilter` with a sentence.
"""

from .audit import AuditFilter
from .board import BoardFilter, Cursor, Flag, Sort, refuse_unknown
from .query import BadFilter

__all__ = ["AuditFilter", "BadFilter", "BoardFilter", "Cursor", "Flag", "Sort", "refuse_unknown"]
