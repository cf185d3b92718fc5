"""All outbound HTTP of the panel: to Arize, the single sign-on provider and channels. Plain Python, no Django.

`session.py` sends a request and returns the answer or the failure, `connection.py` enforces the deadline and records
whether anything was sent, `fence.py` distinguishes public from private addresses, `network.py` says which requests go
through the deployment's proxy.
"""

from .connection import tls_context
from .fence import is_private_by_name
from .network import Network, Proxy
from .session import LONGEST_ITEM, LONGEST_PAGE, Answer, Bearer, Egress, Failure, NotAnswered, Session, Timeouts

__all__ = [
    "LONGEST_ITEM",
    "LONGEST_PAGE",
    "Answer",
    "Bearer",
    "Egress",
    "Failure",
    "Network",
    "NotAnswered",
    "Proxy",
    "Session",
    "Timeouts",
    "is_private_by_name",
    "tls_context",
]
