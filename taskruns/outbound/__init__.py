"""The only way out of the panel by HTTP: to Arize, and to the provider of single sign-on. Plain Python, no Django.

`session.py` sends a request and says what came of it, `connection.py` keeps the deadline and knows whether anything was
sent, `fence.py` tells public addresses from private ones.
"""

from .session import Answer, Bearer, Egress, Failure, NotAnswered, Session, Timeouts

__all__ = ["Answer", "Bearer", "Egress", "Failure", "NotAnswered", "Session", "Timeouts"]
