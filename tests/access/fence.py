"""The security headers that every response must have."""

from django.http import HttpResponse

FIXED = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
ONLY_OWN = {"script-src", "style-src", "img-src", "font-src", "connect-src", "form-action"}


NOTHING = ("default-src", "frame-ancestors", "base-uri")


def policy(answer: HttpResponse) -> dict[str, list[str]]:
    parts = (part.split() for part in answer.get("Content-Security-Policy", "").split(";") if part.strip())
    return {name: sources for name, *sources in parts}


def missing_from(answer: HttpResponse) -> list[str]:
    """The headers that are missing or differ, as they are."""
    csp = policy(answer)
    wanted = {name: ["'none'"] for name in NOTHING} | {name: ["'self'"] for name in ONLY_OWN}
    found = [f"{name}: {csp.get(name)}" for name, sources in wanted.items() if csp.get(name) != sources]
    found += [f"{header}: {answer.get(header)}" for header, value in FIXED.items() if answer.get(header) != value]
    text = answer.get("Content-Security-Policy", "")
    return found + [f"{part} in {text}" for part in ("unsafe", "*") if part in text]


def assert_fenced(answer: HttpResponse) -> None:
    missing = missing_from(answer)
    assert missing == [], missing
