"""The last runs of a task as a strip of marks: shape and colour show the outcome, height the duration.

There is one path per outcome, so that a strip of 30 runs has few elements, and one transparent link per run on top.
SVG coordinates: a mark is 10 wide, the strip is 60 high, marks stand on y = 50.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.urls import reverse

from taskruns.models import Run, Status, Task

from .values import Moment, in_words, span_of, status_mark, usual_of

LAST = 30
MARK, GROUND, TALLEST, SHORTEST = 10, 50, 38, 3
PIXELS = 16  # a mark's width on a wide screen


@dataclass(frozen=True, slots=True)
class Mark:
    url: str
    x: int
    title: str


@dataclass(frozen=True, slots=True)
class StripKey:
    """One outcome that occurs: its name in the style sheet, its word, a single shape, and all its marks."""

    kind: str
    word: str
    count: int
    shape: str
    path: str


@dataclass(frozen=True, slots=True)
class Strip:
    """`title`: `Last 30 runs`. `usual`, `longest`: as text. `here`: an arrow at the run whose page this is."""

    url: str
    title: str
    keys: tuple[StripKey, ...]
    marks: tuple[Mark, ...]
    usual: str
    usual_path: str
    longest: str
    here: str
    width: int
    pixels: int

    @property
    def summary(self) -> str:
        """`Last 30 runs: 26 completed, 3 failed, 1 cancelled; usually 5 min`."""
        counts = ", ".join(f"{key.count} {key.word}" for key in self.keys)
        return "; ".join(part for part in (f"{self.title}: {counts}" if counts else self.title, self.usual) if part)


_WORDS = {
    "completed": "completed",
    "errors": "completed with errors",
    "failed": "failed",
    "cancelled": "cancelled",
    "active": "active",
    "other": "unknown or gone",
}
_KINDS = {
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELLED: "cancelled",
    Status.PENDING: "active",
    Status.RUNNING: "active",
}


def strip_of(task: Task, runs: Sequence[Run], *, slug: str, here: Run | None = None) -> Strip:
    """`runs` in any order. Shows the newest, oldest first."""
    shown = sorted(runs, key=lambda run: (run.sorted_at, run.pk), reverse=True)[:LAST][::-1]
    spans = [span_of(run) for run in shown]
    longest = max([span for span in spans if span is not None], default=None)
    scale = longest or timedelta(seconds=1)
    heights = [_height(span, scale) for span in spans]
    at_usual = GROUND - _height(timedelta(seconds=task.usual_seconds), scale) if task.usual_seconds else 0
    return Strip(
        url=reverse("task-strip", args=[slug, task.pk]),
        title=_title(len(shown)),
        keys=_keys(shown, heights),
        marks=tuple(
            Mark(reverse("run", args=[slug, run.pk]), number * MARK, _describe(run, span))
            for number, (run, span) in enumerate(zip(shown, spans, strict=True))
        ),
        usual=usual_of(task),
        usual_path=f"M0 {at_usual:.1f}h{len(shown) * MARK}" if at_usual > GROUND - TALLEST - 1 else "",
        longest=in_words(longest) if longest else "",
        here="".join(f"M{n * MARK + 5} 52l4 7h-8z" for n, run in enumerate(shown) if here and run.pk == here.pk),
        width=len(shown) * MARK,
        pixels=len(shown) * PIXELS,
    )


def _title(count: int) -> str:
    return {0: "No runs yet", 1: "One run so far"}.get(count, f"Last {count} runs")


def kind_of(run: Run) -> str:
    kind = _KINDS.get(Status(run.status), "other")
    return "errors" if kind == "completed" and run.num_errors else kind


def _keys(shown: Sequence[Run], heights: Sequence[float]) -> tuple[StripKey, ...]:
    places: dict[str, list[tuple[int, float]]] = {kind: [] for kind in _WORDS}
    for number, run in enumerate(shown):
        places[kind_of(run)].append((number * MARK, heights[number]))
    return tuple(
        StripKey(kind, _WORDS[kind], len(at), _shape(kind, 0, 8), "".join(_shape(kind, x, height) for x, height in at))
        for kind, at in places.items()
        if at
    )


def _height(span: timedelta | None, longest: timedelta) -> float:
    return SHORTEST if span is None else max(float(SHORTEST), TALLEST * (span / longest))


def _shape(kind: str, x: int, height: float) -> str:
    """A bar, with a shape on top that shows the outcome without colour. The style sheet leaves `cancelled` hollow."""
    bar = f"M{x + 2} {GROUND}v-{height:.1f}h6v{height:.1f}z"
    top = f"{GROUND - height - 2:.1f}"
    return {
        "completed": bar,
        "errors": f"{bar}M{x + 5} {GROUND - height - 9:.1f}l4 7h-8z",
        "failed": f"{bar}M{x + 2} {top}l6 -6m-6 0l6 6",
        "cancelled": bar,
        "active": f"M{x + 2} {GROUND}v-10l7 5z",
        "other": f"M{x + 5} {GROUND}l-4 -5 4 -5 4 5z",
    }[kind]


def _describe(run: Run, span: timedelta | None) -> str:
    mark, begun = status_mark(run), Moment.of(run.run_started_at or run.created_at)
    parts = (f"{mark.word} {mark.note}".strip(), in_words(span) if span else "", begun.text if begun else "")
    return ", ".join(part for part in parts if part)
