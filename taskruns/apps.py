from django.apps import AppConfig
from django.db.models.signals import post_migrate


class TaskrunsConfig(AppConfig):
    name = "taskruns"
    verbose_name = "Taskruns"

    def ready(self) -> None:
        from taskruns import jobs  # noqa: F401 - registers the jobs with Huey's consumer
        from taskruns.audit.append_only import make_append_only_after_migrate
        from taskruns.models.failed_cursors import close_failed_cursors
        from taskruns.models.run_search import make_search_index_after_migrate
        from taskruns.services import key_ring
        from taskruns.services.people import throttles
        from taskruns.services.query_statistics import refresh_statistics
        from taskruns.views.people import sign_in

        close_failed_cursors()
        sign_in.connect_signals()
        throttles.count_in_database()
        post_migrate.connect(make_append_only_after_migrate, sender=self)
        post_migrate.connect(make_search_index_after_migrate, sender=self)
        post_migrate.connect(refresh_statistics, sender=self)
        post_migrate.connect(key_ring.create_missing_checks, sender=self)
