"""The checklist of a new team."""

from dataclasses import dataclass

from .words import Link


@dataclass(frozen=True, slots=True)
class Step:
    link: Link
    is_done: bool


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """In the order in which they are taken."""

    steps: tuple[Step, ...]

    @property
    def next(self) -> Step | None:
        return next((step for step in self.steps if not step.is_done), None)

    @property
    def done(self) -> int:
        return sum(step.is_done for step in self.steps)
