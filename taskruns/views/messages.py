"""Where a message waits for the next page: in a cookie that, like the others, no other host can plant over https."""

from typing import Any

from django.conf import settings
from django.contrib.messages.storage.cookie import CookieStorage
from django.contrib.messages.storage.fallback import FallbackStorage
from django.contrib.messages.storage.session import SessionStorage


class HostCookie(CookieStorage):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cookie_name = "__Host-messages" if settings.SITE.secure else "messages"


class Storage(FallbackStorage):
    storage_classes = (HostCookie, SessionStorage)
