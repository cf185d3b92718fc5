"""Run work in several threads that start at the same time."""

import threading
from collections.abc import Callable
from typing import Any

from django.db import connection


class NoPlace:
    """A semaphore without a free place. Whoever would wait for one fails, instead of waiting forever."""

    def acquire(self, blocking: bool = True) -> bool:  # noqa: FBT001, FBT002 - the library's signature
        assert not blocking, "it waits for a place"
        return False


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Return the results in order. Each thread has its own database connection; the first error is raised here."""
    gate = threading.Barrier(count)
    results: list[Any] = [None] * count
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            gate.wait(timeout=10)
            results[number] = work(number)
        except BaseException as error:  # noqa: BLE001 - raised again in the test's thread
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=90)
    assert not any(thread.is_alive() for thread in threads), "the threads block each other"
    if errors:
        raise errors[0]
    return results
