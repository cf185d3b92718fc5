"""The security headers that every response must have."""

from django.http import HttpResponse

FIXED = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
ONLY_OWN = {"script-src", "style-src", "img-src", "font-src", "connect-src", "form-action"}


def policy(answer: HttpResponse) -> dict[str, list[str]]:
    parts = (part.split() for part in answer["Content-Security-Policy"].split(";") if part.strip())
    return {name: sources for name, *sources in parts}


def assert_fenced(answer: HttpResponse) -> None:
    csp = policy(answer)
    assert csp["default-src"] == csp["frame-ancestors"] == csp["base-uri"] == ["'none'"]
    assert {name: csp[name] for name in ONLY_OWN} == {name: ["'self'"] for name in ONLY_OWN}
    assert "unsafe" not in answer["Content-Security-Policy"]
    assert "*" not in answer["Content-Security-Policy"]
    assert {header: answer.get(header) for header in FIXED} == FIXED
