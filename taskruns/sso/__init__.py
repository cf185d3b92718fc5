"""The panel's own part of OpenID Connect: the provider's configuration, and the checks of its ID tokens.

Plain Python, no Django. django-allauth decides what is sent to the provider and when.
"""

from .groups import read_groups
from .provider import GroupRole, Provider
from .tokens import TokenRefused, read_id_token

__all__ = ["GroupRole", "Provider", "TokenRefused", "read_groups", "read_id_token"]
