"""Redirects to sign-in and similar pages, and from there back to a page of the panel, never to another site."""

from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import resolve_url
from django.urls import reverse
from django_htmx.middleware import HtmxDetails

# Word in the query string -> what the sign-in page says about the lost request of an expired session.
UNDONE = {
    "cancel": "You were signed out. Nothing was sent to Arize. Sign in, then click Cancel again.",
    "act": "You were signed out. Nothing was changed, and your input was not saved. Sign in, then try again.",
    "page": "You were signed out. Your last click may or may not have worked. Sign in and check before you repeat it.",
}


def is_read(request: HttpRequest) -> bool:
    return request.method in {"GET", "HEAD"}


def to_login(request: HttpRequest) -> HttpResponse:
    """Redirect a plain request. Make htmx leave the page, so that no sign-in form ends up in a table cell.

    The query string says what was not done. A message would not work: another request of the same page, which is
    redirected too, could consume it.
    """
    url = resolve_url(settings.LOGIN_URL)
    htmx: HtmxDetails | None = getattr(request, "htmx", None)
    undone = _undone(request, is_page=bool(htmx))
    if htmx:
        response = HttpResponse(status=401)
        response["HX-Redirect"] = with_next(url, page_of(htmx), **undone)
        return response
    target = request.get_full_path() if is_read(request) else referring_page(request)
    return HttpResponseRedirect(with_next(url, target, **undone))


def with_next(url: str, target: str, **more: str) -> str:
    """`url` with `more` in its query, and with `target` as `next` if it is a page of the panel."""
    path = urlsplit(target)
    local = target.startswith("/") and not target.startswith(("//", "/\\")) and not path.netloc
    query = ({"next": target} if local else {}) | more
    return f"{url}?{urlencode(query)}" if query else url


def page_of(htmx: HtmxDetails) -> str:
    """The page that sent the htmx request, as reported by the browser. Empty unless it is on this host."""
    try:
        return htmx.current_url_abs_path or ""
    except ValueError:
        return ""


def referring_page(request: HttpRequest) -> str:
    """The page whose form was sent, from the Referer header. Empty unless it is on this host."""
    try:
        parts = urlsplit(request.headers.get("Referer", ""))
    except ValueError:
        return ""
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return path if parts.netloc == request.get_host() else ""


def board_before(request: HttpRequest, slug: str) -> str:
    """The team's board with the filters that the person came from; otherwise the board without filters."""
    board = reverse("board", args=[slug])
    came_from = referring_page(request)
    return came_from if came_from == board or came_from.startswith(f"{board}?") else board


def team_page_before(request: HttpRequest, slug: str) -> str:
    """The page with the Cancel button that the person came from: of the team's runs or tasks, or all teams' runs.

    Empty if it is unknown, for example after a mistake in a form of this very address.
    """
    came_from = referring_page(request)
    path = came_from.partition("?")[0]
    is_known = path == reverse("teams") or path.startswith((reverse("board", args=[slug]), f"/teams/{slug}/tasks/"))
    return came_from if is_known and path != request.path else ""


def _undone(request: HttpRequest, *, is_page: bool) -> dict[str, str]:
    if is_read(request):
        return {"undone": "page"} if is_page else {}
    name = request.resolver_match.url_name if request.resolver_match else ""
    return {"undone": "cancel" if name == "run-cancel" else "act"}
