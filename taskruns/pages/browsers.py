"""`Firefox on Windows` instead of the user agent that a browser sends. Pages show the whole user agent in the title.

Anyone can send any user agent, so this only helps people to recognise their own sessions.
"""

import re

# The first match wins: most browsers also name those that they resemble.
_BROWSERS = (
    ("Edge", r"\bEdg(e|A|iOS)?/"),
    ("Opera", r"\b(OPR|OPT|OPiOS|Opera)/"),
    ("Firefox", r"\b(Firefox|FxiOS)/"),
    ("Chrome", r"\b(HeadlessChrome|Chrome|CriOS)/"),
    ("Safari", r"\bVersion/[\d.]+ .*Safari/"),
)
_SYSTEMS = (
    ("iOS", r"\b(iPhone|iPad|iPod)\b"),
    ("Android", r"\bAndroid\b"),
    ("Windows", r"\bWindows\b"),
    ("macOS", r"\bMacintosh\b"),
    ("Linux", r"\bLinux\b"),
)


def browser_of(user_agent: str) -> str:
    """The browser and its system, as far as known; the user agent itself if its browser is unknown."""
    browser, system = (_first(known, user_agent) for known in (_BROWSERS, _SYSTEMS))
    return " on ".join(part for part in (browser, system) if part) if browser else user_agent


def _first(known: tuple[tuple[str, str], ...], user_agent: str) -> str:
    return next((name for name, pattern in known if re.search(pattern, user_agent)), "")
