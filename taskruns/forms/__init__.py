"""What people type, and what a query string may ask of a list: one file a subject. Forms read; services decide.
Unknown parameters of a query string are ignored, unknown values are a `BadFilter` with a sentence.
"""

from .audit import AuditFilter
from .board import BoardFilter, Cursor, Sort
from .query import BadFilter

__all__ = ["AuditFilter", "BadFilter", "BoardFilter", "Cursor", "Sort"]
