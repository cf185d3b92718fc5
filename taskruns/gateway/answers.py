"""The outcome of a cancel and of a start, in Arize's terms: its own body, or a problem that official clients know."""

import json
from typing import Any

from taskruns.access.problems import ForProgram, problem
from taskruns.arize.client import RawAnswer
from taskruns.arize.errors import ArizeError, BadRequest, NoAnswer, RateLimited
from taskruns.models import CANCEL_FACTS, Outcome, Status, TriggerOutcome
from taskruns.models.outcomes import Effect
from taskruns.pages.outcomes import CANCEL_WORDS
from taskruns.pages.triggers import sentence_of
from taskruns.services.gateway.acts import CancelEnd, as_read
from taskruns.services.gateway.reads import NoRoom
from taskruns.services.triggers import TriggerResult

SHARE_USED_UP = "Scripts have used up their share of this API key's calls. Nothing was sent. Try again in {seconds} s."
NO_PLACE = "Too many requests of scripts are waiting for Arize. Nothing was sent. Try again in {seconds} s."
BEING_SENT = (
    "The cancel was recorded and is being sent, but its outcome is not known yet. Read the run to see whether it ended."
)
CANCEL_UNKNOWN = (
    "The cancel was sent, but its outcome is unknown. Read the run to see whether it ended. You can cancel again."
)
START_UNKNOWN = (
    "The start was sent, but it is unknown whether a run began. Check the task's runs before you start another one."
)
USUAL_WAIT = 30  # seconds, if Arize names none
NO_RUN = "The task run does not exist or is not readable with this token's API key."
# For a cancel that came too late: the status that official clients look for in the problem.
_ENDED_AS = {
    Outcome.FINISHED_FIRST: Status.COMPLETED,
    Outcome.FAILED_FIRST: Status.FAILED,
    Outcome.ALREADY_CANCELLED: Status.CANCELLED,
}


def passed_on(answer: RawAnswer) -> ForProgram:
    """Arize's answer as it came."""
    wait = {"Retry-After": answer.retry_after} if answer.retry_after else {}
    kind = answer.content_type or "application/json"
    return ForProgram(answer.body, status=answer.status, content_type=kind, headers=wait)


def no_room(refused: NoRoom) -> ForProgram:
    text = SHARE_USED_UP if refused.is_share else NO_PLACE
    wait = refused.retry_after
    return problem(429 if refused.is_share else 503, text.format(seconds=wait), retry_after=wait)


def no_answer(error: ArizeError) -> ForProgram:
    """Nothing usable came from Arize for a GET."""
    statuses = {RateLimited: 429, BadRequest: 400, NoAnswer: 504}
    return problem(statuses.get(type(error), 502), error.sentence, retry_after=error.retry_after)


def cancelled(end: CancelEnd) -> ForProgram:
    if end.is_accepted or end.outcome in {Outcome.CONFIRMED, Outcome.STILL_RUNNING}:
        return _json(end.seen.raw if end.seen is not None else as_read(end.run), status=200)
    if end.outcome is Outcome.REFUSED:
        return _refused(end.error, end.http_status, end.explanation or CANCEL_WORDS[end.outcome].sentence)
    if end.outcome is Outcome.NOT_SENT:
        return problem(502, end.explanation or CANCEL_WORDS[end.outcome].sentence)
    if end.outcome is Outcome.UNKNOWN:
        return problem(504, CANCEL_UNKNOWN)
    if CANCEL_FACTS[end.outcome].effect is Effect.OPEN:
        return problem(504, BEING_SENT)
    return _ended(end)


def started(result: TriggerResult) -> ForProgram:
    match result.outcome:
        case TriggerOutcome.DONE if result.seen is not None:
            return _json(result.seen.raw, status=201)
        case TriggerOutcome.REFUSED:
            return _refused(result.error, None, sentence_of(result))
        case TriggerOutcome.NOT_SENT:
            return problem(502, sentence_of(result))
        case TriggerOutcome.HELD:
            return problem(409, sentence_of(result))
    return problem(504, START_UNKNOWN)


def _ended(end: CancelEnd) -> ForProgram:
    run = end.run
    if end.outcome is Outcome.NOT_NEEDED and run.status == Status.GONE:
        return problem(404, NO_RUN)
    if end.outcome is Outcome.NOT_NEEDED and run.status == Status.UNKNOWN:
        return problem(409, "The panel does not know this run's status, so nothing was sent.")
    known = run.raw_status if run.status == Status.UNKNOWN and run.raw_status else run.status
    status = _ENDED_AS.get(end.outcome, known)
    return problem(400, f"cannot cancel a run with status '{str(status).lower()}'")


def _refused(error: ArizeError | None, status: int | None, sentence: str) -> ForProgram:
    """Arize's status, and its own title and detail if it gave any."""
    status = error.status if error is not None and error.status is not None else status
    wait = error.retry_after if error is not None else None
    if status == 429 and wait is None:
        wait = USUAL_WAIT
    if status is None or not 400 <= status <= 499:
        return problem(502, sentence)
    detail = error.detail if error is not None and error.detail else sentence
    return problem(status, detail, title=error.title if error is not None else "", retry_after=wait)


def _json(document: dict[str, Any], *, status: int) -> ForProgram:
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return ForProgram(body, status=status, content_type="application/json")
