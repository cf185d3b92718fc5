"""The one view of `/v2/`: finds the operation, and passes it on or lets the panel act."""

import json
from contextlib import nullcontext, suppress
from email.errors import MessageError
from email.header import decode_header, make_header
from urllib.parse import quote, unquote

import structlog
from django.db import DatabaseError
from django.http import HttpRequest, RawPostDataException, UnreadablePostError

from taskruns import jobs
from taskruns.access.problems import ForProgram, problem
from taskruns.access.token_gate import actor_of, by_token, has_token, refuse
from taskruns.arize.errors import ArizeError
from taskruns.audit import EventType, clean_line
from taskruns.forms.trigger_body import BodyRefused, read_body
from taskruns.models import LONGEST_REASON, Credential, Outcome
from taskruns.permissions import Action
from taskruns.services.credentials.client import CannotConnect
from taskruns.services.gateway import acts, reads
from taskruns.services.gateway.keys import NeedsKey, key_of
from taskruns.services.gateway.reads import Forwarded, NoRoom
from taskruns.services.remote_acts import OutcomeNotWritten, after_sending
from taskruns.services.tokens.access import TokenAccess

from . import answers
from .operations import Kind, Malformed, NotOffered, Operation, operation_of

log = structlog.get_logger(__name__)
NOT_OFFERED = "not offered by this gateway"
NEEDS_KEY = "this token needs a credential"


class TokenElsewhere(Exception):
    """A token where it does not belong: it could reach Arize or a log."""


_PROBLEMS: dict[type[Exception], tuple[int, str]] = {
    Malformed: (400, "An ID in the path cannot come from Arize. Nothing was sent."),
    TokenElsewhere: (400, "A token belongs only in the Authorization header. Nothing was sent. Replace this token."),
    NotOffered: (403, NOT_OFFERED),
    NeedsKey: (409, NEEDS_KEY),
}
NOT_WRITTEN = "The panel could not write to its database. Nothing was sent to Arize. Try again."
OUTCOME_NOT_WRITTEN = (
    "The request was sent to Arize, but its outcome could not be recorded. Read the run before you try again."
)
REASON = "X-Taskruns-Reason"
# Everything in printable ASCII but `#`, which would end the query.
_AS_SENT = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")
_EVENTS = {
    Kind.CANCEL: (Action.RUNS_CANCEL, EventType.RUN_CANCEL),
    Kind.TRIGGER: (Action.RUNS_TRIGGER, EventType.RUN_TRIGGER),
    Kind.READ: (Action.RUNS_VIEW, EventType.ACCESS_DENIED),
}


@by_token
def gateway(request: HttpRequest, access: TokenAccess) -> ForProgram:
    try:
        return _offered(request, access)
    except NoRoom as refused:
        return answers.no_room(refused)
    except CannotConnect as error:
        return problem(502, error.sentence)
    except ArizeError as error:
        return answers.no_answer(error)
    except tuple(_PROBLEMS) as error:
        return problem(*_PROBLEMS[type(error)])


def _offered(request: HttpRequest, access: TokenAccess) -> ForProgram:
    _refuse_token(request.path, unquote(request.META.get("QUERY_STRING", "")))
    operation = operation_of(request)
    action, event = _EVENTS[operation.kind]
    if not access.may(action):
        return refuse(request, access, action, event)
    return _answer(request, access, operation, key_of(access.token))


def _answer(request: HttpRequest, access: TokenAccess, operation: Operation, key: Credential) -> ForProgram:
    if operation.kind is Kind.READ:
        return answers.passed_on(reads.read(key, operation.path, _query(request)).answer)
    try:
        if operation.kind is Kind.CANCEL:
            return _cancel(request, access, key, operation.id)
        return _trigger(request, access, key, operation.id)
    except OutcomeNotWritten as error:
        log.exception("outcome_not_written", act=error.event.value)
        return problem(504, OUTCOME_NOT_WRITTEN)
    except DatabaseError:
        log.exception("database_refused")
        return problem(503, NOT_WRITTEN)


def _cancel(request: HttpRequest, access: TokenAccess, key: Credential, run_id: str) -> ForProgram:
    reason = _reason(request)
    _refuse_token(reason)
    found = acts.cancel(key, run_id, by=actor_of(request, access), reason=reason)
    if isinstance(found, Forwarded):
        return answers.passed_on(found.answer)
    result, run = found
    if result.is_queued:
        jobs.wake_cancels()
    may_be_sent = result.outcome is not Outcome.NOT_NEEDED
    with after_sending(EventType.RUN_CANCEL) if may_be_sent else nullcontext():
        return answers.cancelled(acts.end_of(result, run))


def _trigger(request: HttpRequest, access: TokenAccess, key: Credential, task_id: str) -> ForProgram:
    if "Transfer-Encoding" in request.headers:
        # Django reads no body without a length. An empty one would start a run with other values than meant.
        return problem(400, "Send the body with a Content-Length. Nothing was sent.")
    try:
        raw = request.body
    except (UnreadablePostError, RawPostDataException):
        return problem(400, "The body could not be read. Nothing was sent.")
    if len(raw) != int(request.META.get("CONTENT_LENGTH") or 0):
        # The client went away. What arrived may be valid JSON, or nothing at all, and so mean another run.
        return problem(400, "The body is shorter than its Content-Length. Nothing was sent.")
    _refuse_token(raw.decode("latin-1"))
    task = acts.find_task(key, task_id)
    if isinstance(task, Forwarded):
        return answers.passed_on(task.answer)
    try:
        wanted = read_body(raw, task)
    except BodyRefused as error:
        return problem(400, f"{error} Nothing was sent.")
    _refuse_token(json.dumps(wanted.as_json()))  # JSON may have escaped it, or be in UTF-16
    return answers.started(acts.trigger(key, task, wanted=wanted, by=actor_of(request, access)))


def _refuse_token(*texts: str) -> None:
    if any(map(has_token, texts)):
        raise TokenElsewhere


def _query(request: HttpRequest) -> str:
    """As it was sent. Only what no query may contain is encoded."""
    sent = str(request.META.get("QUERY_STRING", ""))
    return quote(sent.encode("latin-1", "replace"), safe=_AS_SENT)


def _reason(request: HttpRequest) -> str:
    """One line. Headers arrive as Latin-1, but most programs send UTF-8, and some encode it as in mails."""
    sent = request.headers.get(REASON, "")
    try:
        text = sent.encode("latin-1").decode()
    except UnicodeError:
        text = sent
    if "=?" in text:
        with suppress(MessageError, LookupError, ValueError):  # it is shown as it was sent
            text = str(make_header(decode_header(text)))
    return clean_line(text, LONGEST_REASON)
