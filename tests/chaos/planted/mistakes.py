"""Mistakes, applied when the process starts: each breaks a promise about cancels."""

from importlib import import_module
from typing import Any

from django.apps import AppConfig


class Mistakes(AppConfig):
    name = "tests.chaos.planted"
    label = "chaos_planted"

    def ready(self) -> None:
        actions: Any = import_module("taskruns.services.cancellations.actions")
        _send_before_the_row(actions)
        _call_every_loss_confirmed(actions)


def _send_before_the_row(actions: Any) -> None:
    """Send the cancel, then open it and send it once more."""
    cancel = actions.cancel

    def hasty(run: Any, **how: Any) -> Any:
        run.task.credential  # noqa: B018 - loaded before, as `ask_arize` expects
        actions.ask_arize(run)
        return cancel(run, **how)

    views: Any = import_module("taskruns.views.runs")
    views.cancel_run = hasty


def _call_every_loss_confirmed(actions: Any) -> None:
    """Take every answer for a confirmation."""
    from dataclasses import replace

    from taskruns.models import Outcome

    ask = actions.ask_arize
    actions.ask_arize = lambda run: replace(ask(run), outcome=Outcome.CONFIRMED)
