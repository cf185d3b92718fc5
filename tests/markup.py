"""Reading pages in tests."""

import re


def without_bdi(html: str) -> str:
    """The page without the elements that isolate texts which are not the panel's own."""
    return re.sub(r'</?bdi(?: dir="ltr")?>', "", html)
