"""Show a service's error: at its form field, or as a message above the page."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from django import forms
from django.contrib import messages
from django.http import HttpRequest

from taskruns.forms.fields import show_error
from taskruns.services.user_errors import UserError


class Shown(AbstractContextManager["Shown"]):
    """Wraps a service call and the response to its success. A UserError ends the block and is shown.

    Afterwards, `error` holds it; None after a success.
    """

    def __init__(self, show: Callable[[UserError], None], *, unless: tuple[type[UserError], ...] = ()) -> None:
        self.error: UserError | None = None
        self._show = show
        self._unless = unless

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, UserError) or isinstance(error, self._unless):
            return False
        self.error = error
        self._show(error)
        return True


def shown_on_form(form: forms.Form, *, unless: tuple[type[UserError], ...] = ()) -> Shown:
    """`unless`: errors that are not about the form; they are raised to the caller."""
    return Shown(lambda error: show_error(form, error.sentence, field=error.field), unless=unless)


def shown_as_message(request: HttpRequest) -> Shown:
    return Shown(lambda error: messages.error(request, error.sentence))
