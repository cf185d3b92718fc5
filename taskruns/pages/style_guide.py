"""The design tokens and components, for developers. Nothing here reads the database."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from taskruns.models import Run, Status, Task
from taskruns.pages.board.rows import RunRow, run_row

_SHEET = Path(__file__).parents[1] / "static" / "taskruns" / "tokens.css"
_GROUP = re.compile(r"/\* ([^*]+) \*/|--([\w-]+):\s*([^;]+);")
_NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Token:
    """One custom property; `value` as written in the style sheet."""

    name: str
    value: str

    @property
    def is_colour(self) -> bool:
        return self.value.startswith("light-dark(")


@dataclass(frozen=True, slots=True)
class TokenGroup:
    title: str
    tokens: tuple[Token, ...]


def token_groups() -> tuple[TokenGroup, ...]:
    """All tokens of the style sheet, grouped by the comment above them."""
    groups: list[tuple[str, list[Token]]] = []
    for title, name, value in _GROUP.findall(_SHEET.read_text(encoding="utf-8")):
        if title:
            groups.append((title, []))
        else:
            groups[-1][1].append(Token(name, value))
    return tuple(TokenGroup(title, tuple(tokens)) for title, tokens in groups if tokens)


def sample_rows() -> tuple[RunRow, ...]:
    """A row of the board for each status."""
    return tuple(
        run_row(_sample(status, number), last=None, may_cancel=True, slug="ops", creator="Nora Lindqvist")
        for number, status in enumerate(Status)
    )


def _sample(status: Status, number: int) -> Run:
    task = Task(arize_id=f"task-{number}", name=f"Relevance evaluation {number}", type="template_evaluation")
    run = Run(task=task, arize_id=f"run-{number}", status=status, raw_status=status.value.upper())
    run.created_at = run.run_started_at = _NOW - timedelta(minutes=7 * number)
    run.created_by_user_id = f"user-{number}"
    run.num_successes, run.num_errors, run.num_skipped = 812 * number, 31 * number, 5 * number
    if not run.is_active:
        run.run_finished_at = run.run_started_at + timedelta(minutes=5, seconds=21)
    if status in {Status.FAILED, Status.CANCELLED}:
        run.failure_reason = "The integration credentials are invalid or have expired."
    return run
