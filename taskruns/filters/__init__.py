"""What a query string may ask of a list, read once and typed. Unknown parameters are ignored, unknown values are a
`BadFilter` with a sentence.
"""

from .audit import AuditFilter
from .board import BoardFilter, Cursor, Sort
from .values import BadFilter

__all__ = ["AuditFilter", "BadFilter", "BoardFilter", "Cursor", "Sort"]
