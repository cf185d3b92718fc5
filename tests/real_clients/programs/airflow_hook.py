"""Steps with the hook of Arize's Airflow provider. Its connection is in the environment, where Airflow looks first."""

import json
import os
from typing import Any

from airflow.providers.arize_ax.hooks.arize_ax import ArizeAxHook
from protocol import api_error, serve


def do(step: dict[str, Any]) -> Any:
    os.environ["AIRFLOW_CONN_PANEL"] = json.dumps(
        {
            "conn_type": "arize_ax",
            "password": step["key"],
            "host": f"{step['host']}:{step['port']}",
            "extra": {"api_scheme": "http"},
        }
    )
    return getattr(Steps(ArizeAxHook("panel")), step["do"])(**step["with"])


class Steps:
    def __init__(self, hook: ArizeAxHook) -> None:
        self.hook = hook

    # The hook returns no cursor of the next page, so its lists have one page.

    def spaces(self) -> Any:
        return self.hook.list_spaces(limit=100)

    def tasks(self, limit: int, **filters: Any) -> Any:
        return self.hook.list_tasks(limit=limit, **filters)

    def task(self, task: str) -> Any:
        return self.hook.get_task(task)

    def runs(self, task: str, limit: int) -> Any:
        return self.hook.list_task_runs(task, limit=limit)

    def run(self, run: str) -> Any:
        return self.hook.get_task_run(run)

    def cancel(self, run: str, *, strict: bool = False) -> Any:
        return self.hook.cancel_task_run(run, ignore_if_already_terminal=not strict)

    def trigger(self, task: str, **fields: Any) -> Any:
        return self.hook.trigger_task_run(task, **fields)


if __name__ == "__main__":
    serve(do, show_error=api_error)
