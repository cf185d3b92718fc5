"""The browser between the panel and the identity provider."""

from typing import Any
from urllib.parse import urlsplit

import requests
from django.http import HttpResponse
from django.test import Client


class Idp:
    """The provider's process, and the browser between it and the panel."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def configure(self, **twists: Any) -> None:
        assert requests.post(f"{self.url}/control", json=twists, timeout=5).ok

    def asked(self) -> dict[str, str]:
        """The parameters of the last authorization request."""
        found: dict[str, str] = requests.get(f"{self.url}/asked", timeout=5).json()[-1]
        return found

    def send_back(self, away: HttpResponse) -> str:
        """Where the provider redirects the browser that the panel sent there with `away`."""
        assert away.status_code == 302, away.content
        assert away["Location"].startswith(f"{self.url}/authorize?")
        back = urlsplit(requests.get(away["Location"], allow_redirects=False, timeout=5).headers["Location"])
        assert (back.scheme, back.netloc, back.path) == ("http", "localhost:8000", "/accounts/sso/callback/")
        return f"{back.path}?{back.query}"

    def sign_in(self, client: Client, path: str = "/accounts/sso/", **data: str) -> Any:
        return client.get(self.send_back(client.post(path, data)))
