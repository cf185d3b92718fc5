"""OpenID Connect, as far as it is the panel's own business: who the provider is, and what makes its answer good.

Plain Python, no Django. What is sent to the provider and when is django-allauth's.
"""

from .provider import GroupRole, Provider
from .tokens import TokenRefused, read_id_token

__all__ = ["GroupRole", "Provider", "TokenRefused", "read_id_token"]
