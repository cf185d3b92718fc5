"""The panel's URLs, and those of a plain Django admin for its runs."""

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.urls import path

from config.urls import urlpatterns as panel
from taskruns.models import Run


class Everybody(admin.AdminSite):
    def has_permission(self, request: Any) -> bool:
        return True


class PlainRuns(admin.ModelAdmin):  # type: ignore[type-arg]
    """The board's columns and order, 50 per page, with task and credential joined."""

    list_display = (
        *("status", "task", "kind", "space", "key", "arize_id", "run_started_at", "created_at", "duration"),
        *("num_successes", "num_errors", "num_skipped", "failure_reason"),
    )
    list_per_page = 50
    list_select_related = ("task__credential",)
    ordering = ("-rank", "-sorted_at", "-id")
    search_fields = ("task__name", "arize_id", "experiment_id")

    def kind(self, run: Run) -> str:
        return run.task.type

    def space(self, run: Run) -> str:
        return run.task.space_name

    def key(self, run: Run) -> str:
        return run.task.credential.name if run.task.credential else ""

    def duration(self, run: Run) -> timedelta | None:
        return run.run_finished_at - run.run_started_at if run.run_finished_at and run.run_started_at else None

    def has_view_permission(self, request: Any, obj: Any = None) -> bool:
        return True

    def has_module_permission(self, request: Any) -> bool:
        return False

    has_add_permission = has_change_permission = has_delete_permission = lambda *_: False

    def lookup_allowed(self, *_: Any) -> bool:
        return True


site = Everybody(name="admin")
site.register(Run, PlainRuns)
urlpatterns = [path("plain/", site.urls), *panel]
