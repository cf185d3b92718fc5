"""Pages that poll: the choice of page or fragment, ETags, and attention (a board is open)."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import render
from django.utils.cache import patch_vary_headers
from django_htmx.middleware import HtmxDetails

from taskruns import jobs
from taskruns.models import Team
from taskruns.services.mirror import note_attention

Context = dict[str, Any]
R = TypeVar("R", bound=HttpResponseBase)


def pay_attention(*teams: Team) -> None:
    """Note that these teams' boards are open, and wake the keys that must now be read more often."""
    for credential_id in note_attention(teams):
        transaction.on_commit(lambda key=credential_id: jobs.wake(key))  # type: ignore[misc]


def fragment(name: str) -> Callable[[Callable[..., Context | HttpResponseBase]], Callable[..., HttpResponseBase]]:
    """For a view that returns the context of a page: htmx gets the page's fragment alone.

    `name` like `runs/run`: the page is `runs/run.html`, its fragment `runs/_run.html`. A response is sent as it is.
    Both have one URL, so every answer varies on htmx.
    """

    def decorate(view: Callable[..., Context | HttpResponseBase]) -> Callable[..., HttpResponseBase]:
        @wraps(view)
        def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            found = view(request, *args, **kwargs)
            return vary_on_htmx(found) if isinstance(found, HttpResponseBase) else render_fragment(request, name, found)

        return answer

    return decorate


def render_fragment(request: HttpRequest, name: str, context: Context, *, status: int = 200) -> HttpResponseBase:
    """The page or, for htmx, its fragment; `name` as for `@fragment`."""
    htmx: HtmxDetails | None = getattr(request, "htmx", None)
    folder, _, page = name.rpartition("/")
    template = f"taskruns/{folder}/{'_' if htmx else ''}{page}.html"
    return vary_on_htmx(render(request, template, context, status=status))


def vary_on_htmx(response: R) -> R:
    """A page and its fragment share a URL: no cache may mix them up."""
    patch_vary_headers(response, ["HX-Request"])
    return response


def tagged(response: HttpResponse, etag: str) -> HttpResponse:
    response["ETag"] = f'"{etag}"'
    return vary_on_htmx(response)
