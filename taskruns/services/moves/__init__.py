"""Moving the panel to another kind of database: `copying` copies the rows, `actions` connects to the target and checks
it before and afterwards.
"""

from .actions import NAMES, CannotMove, analyze, connect, finished_at, move, problem

__all__ = ["NAMES", "CannotMove", "analyze", "connect", "finished_at", "move", "problem"]
