"""Steps with Arize's Python SDK."""

from typing import Any

from arize import ArizeClient
from protocol import api_error, every_page, serve


def do(step: dict[str, Any]) -> Any:
    client = ArizeClient(api_key=step["key"], api_host=step["host"], api_port=step["port"], api_scheme="http")
    return getattr(Steps(client), step["do"])(**step["with"])


class Steps:
    def __init__(self, client: ArizeClient) -> None:
        self.client = client

    def spaces(self) -> Any:
        return every_page(lambda cursor: plain(self.client.spaces.list(limit=1, cursor=cursor)), "spaces")

    def tasks(self, limit: int, **filters: Any) -> Any:
        return every_page(lambda cursor: plain(self.client.tasks.list(limit=limit, cursor=cursor, **filters)), "tasks")

    def task(self, task: str, space: str | None = None) -> Any:
        return plain(self.client.tasks.get(task=task, space=space))

    def runs(self, task: str, limit: int, status: str | None = None) -> Any:
        return every_page(
            lambda cursor: plain(self.client.tasks.list_runs(task=task, limit=limit, cursor=cursor, status=status)),
            "task_runs",
        )

    def run(self, run: str) -> Any:
        return plain(self.client.tasks.get_run(run_id=run))

    def wait(self, run: str, timeout: float) -> Any:
        return plain(self.client.tasks.wait_for_run(run_id=run, poll_interval=0.2, timeout=timeout))

    def cancel(self, run: str) -> Any:
        return plain(self.client.tasks.cancel_run(run_id=run))

    def trigger(self, task: str, **fields: Any) -> Any:
        return plain(self.client.tasks.trigger_run(task=task, **fields))


def plain(model: Any) -> Any:
    return model.model_dump(mode="json")


if __name__ == "__main__":
    serve(do, show_error=api_error)
