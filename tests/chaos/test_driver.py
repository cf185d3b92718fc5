"""What the driver does with the panel's processes, without any."""

from types import SimpleNamespace
from typing import Any, cast

from tests.chaos.driver import Driver
from tests.chaos.plan import Event, Kind


class Processes:
    urls = ("http://localhost:1",)

    def __init__(self) -> None:
        self.running = {"worker-1"}

    def kill(self, name: str) -> bool:
        was_running = name in self.running
        self.running.discard(name)
        return was_running

    def start(self, name: str) -> None:
        assert name not in self.running, "a second one would be forgotten"
        self.running.add(name)

    def restart_ended(self) -> list[str]:
        return []


def test_a_process_that_is_killed_while_it_is_down_is_started_once():
    panel = Processes()
    driver = Driver(*cast("tuple[Any, Any, Any, Any, Any]", (None, panel, SimpleNamespace(world=None), None, None)))
    for _ in range(2):
        driver._act(Event(0, Kind.KILL_WORKER, "worker-1", 0.0, 0.5))
    driver._wait_until(0)
    assert panel.running == {"worker-1"}
    assert len(driver.seen.spans) == 1
