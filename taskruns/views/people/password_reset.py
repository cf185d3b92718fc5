"""Password reset by email, only where the panel can send mail.

A reset ends every session of the person, signs nobody in and keeps second factors.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from allauth.account import views as account
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponseBase

from taskruns.access.gate import View, anyone


def _where_mail_is_sent(view: Callable[..., HttpResponseBase]) -> View:
    @wraps(view)
    def found(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not settings.MAILS:
            raise Http404
        return view(request, *args, **kwargs)

    return anyone(found)


ask = _where_mail_is_sent(account.password_reset)
sent = _where_mail_is_sent(account.password_reset_done)
reset = _where_mail_is_sent(account.password_reset_from_key)
over = _where_mail_is_sent(account.password_reset_from_key_done)
