"""Every view says who may reach it; one that does not must not let the server start."""

from collections.abc import Callable, Iterable

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpResponseBase
from django.urls import URLPattern, URLResolver

from taskruns.permissions import Action

View = Callable[..., HttpResponseBase]


def declared(view: View, access: Action | str) -> View:
    view.declared_access = access  # type: ignore[attr-defined]
    return view


def check_declared(patterns: Iterable[URLPattern | URLResolver]) -> None:
    """Refuse to start with a view that nobody thought about."""
    for pattern in patterns:
        if isinstance(pattern, URLResolver):
            check_declared(pattern.url_patterns)
        elif not hasattr(pattern.callback, "declared_access"):
            message = f"The view of {pattern.pattern} declares no access."
            raise ImproperlyConfigured(message)
