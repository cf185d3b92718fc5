"""How a run ends, in which counts, and after how long."""

import random
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_active(self) -> bool:
        return self in {Status.PENDING, Status.RUNNING}


@dataclass(frozen=True, slots=True)
class Counts:
    """Items (spans, traces, sessions or examples) so far."""

    successes: int = 0
    errors: int = 0
    skipped: int = 0

    def at(self, share: float) -> "Counts":
        """What is reached of these final counts when `share` (0 to 1) of the time has passed."""
        return Counts(int(self.successes * share), int(self.errors * share), int(self.skipped * share))


@dataclass(frozen=True, slots=True)
class Outcome:
    ending: Status
    running_ms: int
    counts: Counts
    failure_reason: str | None = None


_FAILURES = (
    "The model provider rejected the request: rate limit exceeded for gpt-4o-mini (HTTP 429), 5 attempts.",
    "Evaluator output could not be parsed: expected one of 'relevant', 'irrelevant'.",
    "The model integration answered 503 Service Unavailable; the run stopped after 25 consecutive errors.",
    "Query for matching spans timed out after 120 seconds.",
)
# (reason, least and most seconds): Arize cancels by itself, at 0/0/0, and gives these reasons.
_OWN_CANCELS = (
    ("All matching data already has labels. Trigger with override_evaluations to evaluate it again.", 1, 3),
    ("The integration credentials are invalid or have expired.", 1, 2),
    ("The code evaluator could not be imported: wrong import or signature.", 2, 4),
    ("No data found in the selected time range.", 1, 3),
    ("The model 'gpt-4-0314' is not available with this integration.", 150, 200),
)


def draw_outcome(chance: random.Random, *, continuous: bool) -> Outcome:
    """Of 100 runs about 60 complete, 16 complete with errors, 12 fail, 12 are cancelled by Arize itself."""
    lot = chance.random()
    if lot < 0.12:
        return _cancelled_by_arize(chance)
    if lot < 0.24:
        return _failed(chance)
    return completed(chance, with_errors=lot < 0.40, longest_s=120 if continuous else 480)


def completed(chance: random.Random, *, with_errors: bool, longest_s: int = 480) -> Outcome:
    running_ms = chance.randint(60_000, longest_s * 1000)
    items = running_ms * chance.randint(4, 30) // 1000
    errors = max(1, int(items * chance.uniform(0.005, 0.2))) if with_errors else 0
    skipped = int(items * chance.choice((0, 0, 0.02, 0.05)))
    return Outcome(Status.COMPLETED, running_ms, Counts(items - errors - skipped, errors, skipped))


def _failed(chance: random.Random) -> Outcome:
    running_ms = chance.randint(20_000, 300_000)
    items = running_ms * chance.randint(2, 20) // 1000
    errors = items // chance.randint(2, 9)
    return Outcome(Status.FAILED, running_ms, Counts(items - errors, errors, 0), chance.choice(_FAILURES))


def _cancelled_by_arize(chance: random.Random) -> Outcome:
    reason, least_s, most_s = chance.choice(_OWN_CANCELS)
    return Outcome(Status.CANCELLED, chance.randint(least_s * 1000, most_s * 1000), Counts(), reason)
