"""The loop of the Python programs: a step per line of standard input, what came of it per line of standard output."""

import json
import sys
from collections.abc import Callable
from typing import Any

Do = Callable[[dict[str, Any]], Any]


def serve(do: Do, *, show_error: Callable[[Exception], dict[str, Any]]) -> None:
    # What the client prints must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        step = json.loads(line)
        outcome = {"number": step["number"], **_outcome(do, step, show_error)}
        answers.write(json.dumps(outcome, default=str) + "\n")
        answers.flush()


def _outcome(do: Do, step: dict[str, Any], show_error: Callable[[Exception], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"result": do(step)}
    except Exception as error:  # noqa: BLE001 - the test compares it
        return {"error": {"kind": type(error).__name__, **show_error(error)}}


def api_error(error: Exception) -> dict[str, Any]:
    """What the SDK's exceptions hold: the HTTP status and the problem document, else their text."""
    status = getattr(error, "status", None)
    return {"text": str(error)} if status is None else {"status": status, "problem": _document(error.body)}


def _document(body: Any) -> Any:
    try:
        return json.loads(body)
    except (TypeError, ValueError):
        return body


def every_page(read: Callable[[str | None], dict[str, Any]], member: str) -> dict[str, Any]:
    """All objects of a list. `read` returns the page of a cursor."""
    found: list[Any] = []
    cursor, pages = None, 0
    while cursor is not None or pages == 0:
        page = read(cursor)
        found, pages = found + page[member], pages + 1
        cursor = page["pagination"].get("next_cursor")
    return {"pages": pages, member: found}
