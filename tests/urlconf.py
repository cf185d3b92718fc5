"""The urls of the panel, from its url configuration."""

from collections.abc import Iterator
from typing import Any

from django.urls import URLResolver, get_resolver


def views() -> Iterator[tuple[Any, str]]:
    """Each view with its url name."""
    patterns = list(get_resolver().url_patterns)
    while patterns:
        pattern = patterns.pop()
        if isinstance(pattern, URLResolver):
            patterns += pattern.url_patterns
        else:
            yield pattern.callback, str(pattern.name)


def url_names() -> list[str]:
    return sorted(name for _, name in views())


def wanted(name: str) -> tuple[str, ...]:
    """The arguments that a url takes."""
    ((_, parts),) = get_resolver().reverse_dict.getlist(name)[0][0]
    return tuple(parts)
