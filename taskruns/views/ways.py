"""Where somebody is led who cannot stay: with the way back, and never out of the panel."""

from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import resolve_url
from django_htmx.middleware import HtmxDetails


def to_login(request: HttpRequest) -> HttpResponse:
    """A plain request is redirected; htmx is told to leave the page, never handed a login form for a table cell."""
    url = resolve_url(settings.LOGIN_URL)
    htmx: HtmxDetails | None = getattr(request, "htmx", None)
    if htmx:
        response = HttpResponse(status=401)
        response["HX-Redirect"] = with_next(url, page_of(htmx))
        return response
    return HttpResponseRedirect(with_next(url, request.get_full_path() if request.method == "GET" else ""))


def with_next(url: str, target: str) -> str:
    path = urlsplit(target)
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and not path.netloc
    return f"{url}?{urlencode({'next': target})}" if local else url


def page_of(htmx: HtmxDetails) -> str:
    """The panel's page that asked by htmx, as the browser says; what is no URL of this host is none."""
    try:
        return htmx.current_url_abs_path or ""
    except ValueError:
        return ""


def referring_page(request: HttpRequest) -> str:
    """The page whose form was sent: the way back to it, if the browser tells it and it is ours."""
    parts = urlsplit(request.headers.get("Referer", ""))
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return path if parts.netloc == request.get_host() else ""
