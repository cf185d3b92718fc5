"""Where somebody is led who cannot stay: with the way back, and never out of the panel."""

from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import resolve_url
from django.urls import reverse
from django_htmx.middleware import HtmxDetails

# What the sign-in page says of that for which the session was no longer good, by the word in its address.
UNDONE = {
    "cancel": "You were signed out. Nothing was sent; press Cancel again after you sign in.",
    "act": "You were signed out. Nothing was done; do it again after you sign in. What you typed was not kept.",
    "page": "You were signed out. If you pressed a button just before, look at what it did before you press it again.",
}


def to_login(request: HttpRequest) -> HttpResponse:
    """A plain request is redirected; htmx is told to leave the page, never handed a login form for a table cell.

    What was not done is told there by the address, not by a message: whatever else of the page asks meanwhile, and
    is sent away too, must not use it up.
    """
    url = resolve_url(settings.LOGIN_URL)
    htmx: HtmxDetails | None = getattr(request, "htmx", None)
    undone = _undone(request, is_page=bool(htmx))
    if htmx:
        response = HttpResponse(status=401)
        response["HX-Redirect"] = with_next(url, page_of(htmx), **undone)
        return response
    is_read = request.method in {"GET", "HEAD"}
    return HttpResponseRedirect(
        with_next(url, request.get_full_path() if is_read else referring_page(request), **undone)
    )


def _undone(request: HttpRequest, *, is_page: bool) -> dict[str, str]:
    if request.method in {"GET", "HEAD"}:
        return {"undone": "page"} if is_page else {}
    name = request.resolver_match.url_name if request.resolver_match else ""
    return {"undone": "cancel" if name == "run-cancel" else "act"}


def with_next(url: str, target: str, **more: str) -> str:
    """`url` with the way back, if that is a page of the panel, and with `more` in its query."""
    path = urlsplit(target)
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and not path.netloc
    query = ({"next": target} if local else {}) | more
    return f"{url}?{urlencode(query)}" if query else url


def page_of(htmx: HtmxDetails) -> str:
    """The panel's page that asked by htmx, as the browser says; what is no URL of this host is none."""
    try:
        return htmx.current_url_abs_path or ""
    except ValueError:
        return ""


def board_before(request: HttpRequest, slug: str) -> str:
    """The board of the team that the person came from, with its filter; else the board as it opens."""
    board = reverse("board", args=[slug])
    came_from = referring_page(request)
    return came_from if came_from == board or came_from.startswith(f"{board}?") else board


def referring_page(request: HttpRequest) -> str:
    """The page whose form was sent: the way back to it, if the browser tells it and it is ours."""
    parts = urlsplit(request.headers.get("Referer", ""))
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return path if parts.netloc == request.get_host() else ""
